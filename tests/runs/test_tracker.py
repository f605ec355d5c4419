"""A project with a tracker: what it is told, what it is owed while it does not answer, and that nothing else depends on it."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from penstock.cli.command import command
from penstock.ground.errors import SettingsError, TrackerError
from penstock.ports.queue import NewJob, Offers
from penstock.ports.tracker import Tracker, VersionTold
from penstock.project.project import Project
from penstock.run.outbox import live_owed, owed, tell_owed, version_owed, version_told
from penstock.run.worker import work
from penstock.testing.clock import START
from penstock.testing.trackers import FaultyTracker, MemoryTracker
from tests.runs.test_models import BINARY, TREE, declare, result, write

SETTINGS = """
[project]
level = "told"

[level.told]
tracker = "mlflow+http://127.0.0.1:{port}"
"""
GATED = BINARY + ', gates=[ps.metric("roc_auc") >= 0.6]'


@pytest.fixture
def told(shop: Any) -> Any:
    """The shop with a tracker that is not there: nobody listens on its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        shop.write("penstock.toml", SETTINGS.format(port=probe.getsockname()[1]))
    return shop


def opened(shop: Any, tracker: Tracker) -> Project:
    project: Project = shop.open()
    project.tracker = tracker
    return project


def notes(shop: Any) -> list[str]:
    return [e.text for e in shop.events if e.kind == "note" and "tracker" in e.text]


def test_a_version_and_what_is_live_are_told(told: Any) -> None:
    write(told)
    declare(told, GATED, "train.report(1, loss=0.5)\n    " + TREE)
    tracker = MemoryTracker()
    with opened(told, tracker) as project:
        report = project.run()
        assert report.ok
        folder = project.settings.folder / "models/model/v1"
    (seen,) = tracker.seen("shop", "model")
    assert (seen.version, seen.refused, seen.params) == ("v1", False, {"depth": "2"})
    assert seen.metrics["roc_auc.low"] <= seen.metrics["roc_auc"] <= seen.metrics["roc_auc.high"]
    assert seen.metrics["train_rows"] + seen.metrics["test_rows"] == 600
    assert [(p.phase, p.step, p.values) for p in seen.curve] == [("fit", 1, {"loss": 0.5})]
    assert seen.tags["gates"].startswith("passed: roc_auc >= 0.6")
    assert seen.tags["input.rows"] == result(report, "rows").body["version"]
    assert seen.tags["definition"]
    assert seen.files == {f.name: f.read_bytes() for f in folder.iterdir()}
    assert [(p.version, p.how, p.replaced) for p in tracker.lived] == [("v1", "rule", "")]
    assert next(iter(tracker.told.values())).run == report.run
    assert notes(told) == []


def test_refused_versions_releases_and_rollbacks_are_told(told: Any) -> None:
    write(told)
    declare(told, GATED)
    tracker = MemoryTracker()
    with opened(told, tracker) as project:
        project.run("model")
    declare(told, BINARY + ', gates=[ps.metric("roc_auc") >= 0.999]', TREE.replace("depth,", "1,"))
    with opened(told, tracker) as project:
        assert result(project.run("model")).status == "refused"
        assert [(s.version, s.refused) for s in tracker.seen("shop", "model")] == [("v1", False), ("v2", True)]
        project.release("model", version="v2", by="ada", reason="we need it", despite_gates=True)
        project.release("model", version="v2", by="ada", reason="again", despite_gates=True)
        project.rollback("model", by="bob", reason="complaints")
    assert [(p.version, p.how, p.by, p.reason) for p in tracker.lived] == [
        ("v1", "rule", "passes its gates", "its gates passed"), ("v2", "release", "ada", "we need it"), ("v1", "rollback", "bob", "complaints"),
    ]  # fmt: skip
    assert len(tracker.told) == 2


def test_training_goes_on_without_its_tracker_which_is_told_later_once(told: Any) -> None:
    write(told)
    declare(told, GATED)
    told.made()
    (note,) = notes(told)
    assert "2 waiting" in note
    assert "E6005" in note
    assert told.rows("SELECT count(*) AS n FROM scores") == [{"n": 600}]
    tracker = MemoryTracker()
    with opened(told, tracker) as project:
        assert project.run().nothing
        assert [s.version for s in tracker.seen("shop", "model")] == ["v1"]
        assert tracker.live_now("shop", "model") == "v1"
        assert owed(project.state, "model") == []
    again = MemoryTracker()
    with opened(told, again) as project:
        project.run()
    assert not again.told
    assert not again.lived


def test_a_release_by_command_goes_on_without_its_tracker_and_says_so(told: Any) -> None:
    write(told, 300)
    declare(told, BINARY + ', release="manual"')
    told.made("model")
    done = CliRunner().invoke(command, ["release", "-C", str(told.folder), "model", "--to", "production", "--by", "ada"])
    assert done.exit_code == 0
    assert "v1 is live" in done.stdout
    assert "tracker was not told (2 waiting" in done.stderr


def test_a_worker_tells_what_it_trained(told: Any) -> None:
    """A job that another process put in, such as a schedule."""
    write(told, 300)
    declare(told)
    tracker = MemoryTracker()
    with opened(told, tracker) as project:
        assert project.run("rows").ok
        queue, now = project.state.queue, project.clock.now()
        payload = {"asset": "model", "params": {}, "force": False, "look": False}
        queue.enqueue([NewJob("asset:model", "make", payload)], now=now)
        lease = queue.claim("worker", Offers(memory_bytes=2**40, cores=8.0), now=now, lease_s=60)
        assert lease is not None
        assert work(lease, project.runtime, project.works()).status == "done"
    assert tracker.live_now("shop", "model") == "v1"


def test_without_a_tracker_nothing_is_owed(shop: Any) -> None:
    write(shop, 200)
    declare(shop)
    shop.made("model")
    with shop.open() as project:
        assert not project.state.heads("untold")
        assert not project.state.heads("told")
        with pytest.raises(SettingsError):
            _ = project.tracker


def test_a_model_from_nowhere_is_an_error_of_its_own(shop: Any) -> None:
    write(shop, 200)
    source = 'ps.import_model("URL", over=rows, label="good", features=["size", "noise"], split=ps.by_time(test="4d"))'
    for url, code in (
        ("mlflow+http://127.0.0.1:9/late@live", "E6005"),
        ("mlflow+http://127.0.0.1:9/late", "E7001"),
        ("x://h/late@live", "E7001"),
    ):
        declare(shop, model="model = " + source.replace("URL", url) + "\n")
        assert result(shop.run("model")).error["code"] == code


# -- the outbox, without training -----------------------------------------------------------------------------------
def register(project: Project, model: str, number: int, **parts: Any) -> None:
    """A version and its promotion, recorded as training does."""
    entry: Mapping[str, Any] = {
        "model": model, "version": f"v{number}", "refused": False, "folder": f"models/{model}/v{number}", "manifest": {}, "params": {"n": number},
        "metrics": {"r2": 0.5, "bad": float("nan"), "none": None}, "at": (START + timedelta(hours=number)).isoformat(), "run": f"r{number}", **parts,
    }  # fmt: skip
    promotion = {"model": model, "version": f"v{number}", "at": entry["at"], "how": "rule", "by": "rule", "reason": "", "replaced": ""}
    stored = {**entry, "metrics": {"r2": 0.5}}
    entries = [("model", f"{model}@v{number}", stored), *version_owed(project.runtime, entry), *live_owed(project.runtime, promotion)]
    project.state.append_all(entries, at=project.clock.now())


class Choosy(MemoryTracker):
    """Refuses the versions of one model."""

    refuses = "bad"

    def tell(self, version: VersionTold) -> None:
        if version.model == self.refuses:
            raise TrackerError("not this one", place=version.model)
        super().tell(version)


@pytest.mark.parametrize("seed", range(6))
def test_with_answers_lost_each_is_told_in_order_and_once(told: Any, seed: int) -> None:
    declare(told)
    tracker = MemoryTracker()
    faulty = FaultyTracker(tracker, seed=seed, share=0.6)
    with opened(told, faulty) as project:
        for number in range(1, 6):
            register(project, "one", number)
            register(project, "two", number)
            tell_owed(project.runtime)
        for _ in range(200):
            tell_owed(project.runtime)
        assert owed(project.state, "one") == owed(project.state, "two") == []
    wanted = [f"v{n}" for n in range(1, 6)]
    assert faulty.faults > 0
    for model in ("one", "two"):
        assert [s.version for s in tracker.seen("shop", model)] == wanted
        assert [p.version for p in tracker.lived if p.model == model] == wanted


def test_a_model_that_is_refused_holds_up_no_other(told: Any) -> None:
    declare(told)
    tracker = Choosy()
    with opened(told, tracker) as project:
        for number in (1, 2):
            register(project, "bad", number)
            register(project, "good", number)
        tell_owed(project.runtime)
        assert [s.version for s in tracker.seen("shop", "good")] == ["v1", "v2"]
        assert len(owed(project.state, "bad")) == 4
        tracker.refuses = ""
        tell_owed(project.runtime)
        assert [s.version for s in tracker.seen("shop", "bad")] == ["v1", "v2"]
    assert ["not this one" in n for n in notes(told)] == [True]


def test_many_are_owed(told: Any) -> None:
    declare(told)
    tracker = MemoryTracker()
    with opened(told, tracker) as project:
        for number in range(1, 121):
            register(project, "one", number)
        assert len(owed(project.state, "one")) == 240
        tell_owed(project.runtime)
        assert [s.version for s in tracker.seen("shop", "one")] == [f"v{n}" for n in range(1, 121)]


def test_while_another_process_tells_nobody_else_does(told: Any) -> None:
    declare(told)
    tracker = MemoryTracker()
    with opened(told, tracker) as project:
        register(project, "one", 1)
        claim = project.state.claim("tracker", "elsewhere/1/1", now=project.clock.now(), lease_s=60)
        tell_owed(project.runtime)
        assert not tracker.told
        project.state.release(claim)
        tell_owed(project.runtime)
        assert len(tracker.told) == 1


def test_the_same_registration_has_one_token(tmp_path: Path) -> None:
    entry = {"model": "m", "version": "v1", "refused": False, "folder": "f", "at": START.isoformat(), "run": "r1"}
    tokens = {version_told(p, tmp_path, {**entry, **more}).token for p in ("a", "b") for more in ({}, {"run": "r2"}, {"version": "v2"})}
    assert len(tokens) == 6
    assert version_told("a", tmp_path, entry) == version_told("a", tmp_path, dict(entry))
