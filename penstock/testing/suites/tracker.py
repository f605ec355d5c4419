"""What every tracker must do.

Use: `from penstock.testing.suites.tracker import *` in a test module that has a fixture `place`: an empty tracker, with functions to open
it as Penstock does and to look into it as its own users do. A place that is shared by tests gives other names to each: `project`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import pytest

from penstock.ground.errors import ArtefactRefused, SettingsError, TrackerError
from penstock.ports.tracker import CurvePoint, LiveTold, Tracker, VersionTold, parted
from penstock.testing.clock import START
from penstock.testing.trackers import Seen


class Place(Protocol):
    """A tracker under test.

    Attributes:
        project: a name that no other test uses.
    """

    project: str

    def open(self) -> Tracker: ...

    def seen(self, model: str) -> Sequence[Seen]:
        """Versions of a model of the project, in the order they were told."""
        ...

    def live_now(self, model: str) -> str:
        """The version that is marked as live, "" for none."""
        ...

    def leave(self, name: str, files: dict[str, bytes], alias: str) -> str:
        """Registers a finished model of these files, as somebody else would; returns a reference by its number."""
        ...


def version(place: Place, folder: Path, number: int = 1, **parts: object) -> VersionTold:
    """A version with something in each part."""
    files = {}
    for name, content in (("model.txt", b"tree\n" * number), ("manifest.json", b"{}"), ("empty", b"")):
        files[name] = folder / f"{number}-{name}"
        files[name].write_bytes(content)
    began = START + timedelta(hours=number)
    made = VersionTold(
        project=place.project, model="delay", version=f"v{number}", token=f"{place.project}{number}", run=f"run{number}", started=began,
        ended=began + timedelta(minutes=1), params={"depth": number, "how": "it's “best”; --", "nothing": None, "list": [1, 2.5]},
        metrics={"roc_auc": 0.75 + number / 100, "roc_auc.low": 0.7, "train_rows": 1e6},
        curve=[CurvePoint(phase, step, {"loss": 1 / (1 + step)}) for phase in ("fit", "fold 1 of 2") for step in range(3)],
        tags={"kind": "binary", "input.flights": "8123", "gates": "passed: roc_auc >= 0.7", "empty": ""}, files=files,
        summary=f"delay v{number}: passed.\nTwo lines.",
    )  # fmt: skip
    return replace(made, **parts)  # type: ignore[arg-type]


def live(told: VersionTold, *, how: str = "rule", minutes: int = 5, replaced: str = "") -> LiveTold:
    return LiveTold(
        told.project, told.model, told.version, told.token, told.ended + timedelta(minutes=minutes), how, "ada", "looked at it", replaced
    )


def test_a_version_is_seen_with_all_that_belongs_to_it(place: Place, tmp_path: Path) -> None:
    tracker, told = place.open(), version(place, tmp_path)
    tracker.tell(told)
    (seen,) = place.seen("delay")
    assert (seen.version, seen.refused) == ("v1", False)
    assert seen.params["depth"] == "1"
    assert seen.params["how"] == "it's “best”; --"
    assert seen.metrics == told.metrics
    assert {k: v for k, v in seen.tags.items() if k in told.tags} == {k: v for k, v in told.tags.items() if v or k in seen.tags}
    if tracker.capabilities.curves:
        assert sorted(seen.curve, key=lambda p: (p.phase, p.step)) == list(told.curve)
    if tracker.capabilities.files:
        assert seen.files == {name: path.read_bytes() for name, path in told.files.items()}
    tracker.close()


def test_a_version_told_twice_stands_there_once(place: Place, tmp_path: Path) -> None:
    told = version(place, tmp_path)
    for _ in range(2):
        tracker = place.open()
        tracker.tell(told)
        tracker.tell(told)
        tracker.close()
    assert [s.version for s in place.seen("delay")] == ["v1"]


def test_telling_that_broke_off_is_completed(place: Place, tmp_path: Path) -> None:
    """The files of a version are gone for a moment, in the middle of telling; then it is told again."""
    tracker, told = place.open(), version(place, tmp_path)
    if not tracker.capabilities.files:
        pytest.skip("this tracker keeps no files")

    class Broken(dict[str, Path]):
        def items(self) -> object:  # type: ignore[override]
            yield "model.txt", told.files["model.txt"]
            raise InterruptedError

    with pytest.raises(InterruptedError):
        tracker.tell(replace(told, files=Broken(told.files)))
    tracker.tell(told)
    (seen,) = place.seen("delay")
    assert set(seen.files) == set(told.files)
    assert sorted(seen.curve, key=lambda p: (p.phase, p.step)) == list(told.curve) or not tracker.capabilities.curves


def test_versions_and_projects_are_told_apart(place: Place, tmp_path: Path) -> None:
    tracker = place.open()
    first, second = version(place, tmp_path), version(place, tmp_path, 2, refused=True)
    for told in (first, second, replace(first, token=first.token + "x", params={})):
        tracker.tell(told)
    tracker.tell(replace(first, project=place.project + "-other", token=first.token + "y"))
    seen = place.seen("delay")
    assert [(s.version, s.refused) for s in seen] == [("v1", False), ("v2", True), ("v1", False)]
    assert seen[0].params["depth"] == "1"
    assert "depth" not in seen[2].params


def test_one_version_is_live(place: Place, tmp_path: Path) -> None:
    tracker = place.open()
    first, second = version(place, tmp_path), version(place, tmp_path, 2)
    tracker.tell(first)
    assert place.live_now("delay") == ""
    tracker.live(live(first))
    assert place.live_now("delay") == "v1"
    tracker.tell(second)
    assert place.live_now("delay") == "v1"
    tracker.live(live(second, replaced="v1"))
    tracker.live(live(second, replaced="v1"))
    assert place.live_now("delay") == "v2"
    tracker.live(live(first, how="rollback", minutes=500, replaced="v2"))
    assert place.live_now("delay") == "v1"


def test_what_was_never_told_cannot_become_live(place: Place, tmp_path: Path) -> None:
    tracker, told = place.open(), version(place, tmp_path)
    with pytest.raises(TrackerError):
        tracker.live(live(told))
    assert place.live_now("delay") == ""


def test_names_of_any_kind_and_long_texts_are_told(place: Place, tmp_path: Path) -> None:
    tracker = place.open()
    odd = version(
        place, tmp_path, params={"a b/ä'`;\"": "x" * 20_000, "..": 1, "p" * 400: 2}, tags={"t'ö/..": "y" * 20_000}, metrics={"m@3 %": 1.5},
        curve=[CurvePoint("fit", step, {"a=b": 0.5}) for step in range(2_500)],
    )  # fmt: skip
    tracker.tell(odd)
    (seen,) = place.seen("delay")
    assert len(seen.params) == 3
    assert list(seen.metrics.values()) == [1.5]
    assert any(v.startswith("yyy") for v in seen.tags.values())


# -- models that come in --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["model.onnx", "model.ubj", "model.skops"])
def test_a_finished_model_is_fetched_by_alias_and_by_number(place: Place, tmp_path: Path, name: str) -> None:
    tracker = place.open()
    if not tracker.capabilities.models:
        pytest.skip("this tracker hands out no models")
    content = bytes(range(256)) * 5_000
    number = place.leave("late", {name: content}, "champion")
    for n, reference in enumerate((number, f"{number.partition('/')[0]}@champion")):
        folder = tmp_path / str(n)
        folder.mkdir()
        path = tracker.fetch(reference, folder)
        assert path.suffix == Path(name).suffix
        assert path.read_bytes() == content
        assert list(folder.iterdir()) == [path]


def test_a_pickle_is_not_fetched(place: Place, tmp_path: Path) -> None:
    tracker = place.open()
    if not tracker.capabilities.models:
        pytest.skip("this tracker hands out no models")
    number = place.leave("late", {"model.pkl": b"cos\nsystem\n(S'true'\ntR."}, "champion")
    with pytest.raises(ArtefactRefused):
        tracker.fetch(number, tmp_path)


@pytest.mark.parametrize("reference", ["nothing/1", "nothing@champion", "../x@champion", "a' or 1=1@b"])
def test_an_unknown_model_is_an_error(place: Place, tmp_path: Path, reference: str) -> None:
    tracker = place.open()
    if not tracker.capabilities.models:
        pytest.skip("this tracker hands out no models")
    with pytest.raises(TrackerError):
        tracker.fetch(f"{place.project}{reference}", tmp_path)


# -- addresses ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("url", "tracker", "reference"),
    [
        ("x+http://h:1/late@live", "x+http://h:1", "late@live"),
        ("x+http://h/late/3", "x+http://h", "late/3"),
        ("x+https://h/pre/fix/a%20b@live", "x+https://h/pre/fix", "a b@live"),
        ("x://h/pre/shop.late/12", "x://h/pre", "shop.late/12"),
    ],
)
def test_an_address_is_parted(url: str, tracker: str, reference: str) -> None:
    assert parted(url) == (tracker, reference)


@pytest.mark.parametrize(
    "url", ["x://h", "x://h/late", "x://h/3", "x://h/late@", "x://h/late@a?b=1", "late@live", "x://ada:" + "pw@h/late"]
)
def test_an_address_without_a_model_is_refused(url: str) -> None:
    with pytest.raises(SettingsError) as told:
        parted(url)
    assert "pw" not in told.value.text()
