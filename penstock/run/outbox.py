"""The outbox: what the tracker of a project is owed, written with what it is about in one step, and told in order, each once.

Records. `untold`, key NAME of the model: one entry that is owed. `told`, key NAME: the number of the last entry that was told. So a
process may be killed at any moment: what is owed is told by the next run, and what was told in full is not owed any more. A tracker
that fails is a note; nothing else fails with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from math import isfinite
from pathlib import Path
from typing import Any

from penstock.ground.clock import from_iso, iso
from penstock.ground.digest import digest
from penstock.ground.errors import Busy, PenstockError, TrackerUnreachable
from penstock.ports.state import Record, State
from penstock.ports.tracker import CurvePoint, LiveTold, Tracker, VersionTold
from penstock.run.claims import claimed
from penstock.run.runtime import Event, Runtime

Entries = list[tuple[str, str, Mapping[str, Any]]]


def version_owed(runtime: Runtime, entry: Mapping[str, Any]) -> Entries:
    """What to record with a registered version so that the tracker is told; nothing without a tracker."""
    if runtime.open_tracker is None:
        return []
    return [("untold", str(entry["model"]), {"what": "version", "version": entry["version"]})]


def live_owed(runtime: Runtime, promotion: Mapping[str, Any]) -> Entries:
    """What to record with a promotion so that the tracker is told; nothing without a tracker."""
    if runtime.open_tracker is None:
        return []
    parts = {name: promotion[name] for name in ("version", "at", "how", "by", "reason", "replaced")}
    return [("untold", str(promotion["model"]), {"what": "live", **parts})]


def owed(state: State, model: str) -> list[Record]:
    """Entries of a model that were not told, oldest first. Cost: two indexed queries, as long as few are owed."""
    told = state.history("told", model, limit=1)
    last = int(told[0].body["seq"]) if told else 0
    limit = 50
    while True:
        found = state.history("untold", model, limit=limit)
        if len(found) < limit or found[-1].seq <= last:
            return [record for record in reversed(found) if record.seq > last]
        limit *= 4


def tell_owed(runtime: Runtime) -> None:
    """Tells the tracker all that it is owed. What cannot be told stays owed, with all that comes after it of the same model.

    Called:  at the end of a run, and after a release. Does nothing without a tracker, or while another process tells.
    Raises:  nothing that has to do with the tracker: it is told as a note.
    """
    if runtime.open_tracker is None:
        return
    told = runtime.state.heads("told")
    behind = [m for m, head in runtime.state.heads("untold").items() if m not in told or told[m].body["seq"] < head.seq]
    if not behind:
        return
    try:
        with claimed(runtime, "tracker", runtime.ids.new()):
            _tell(runtime, runtime.open_tracker(), sorted(behind))
    except Busy:
        return
    except PenstockError as error:
        _noted(runtime, behind[0], error)


def _tell(runtime: Runtime, tracker: Tracker, models: Sequence[str]) -> None:
    for model in models:
        try:
            for record in owed(runtime.state, model):
                _tell_one(runtime, tracker, model, record.body)
                runtime.state.append("told", model, {"seq": record.seq}, at=runtime.clock.now())
        except TrackerUnreachable as error:
            _noted(runtime, model, error)
            return
        except PenstockError as error:
            _noted(runtime, model, error)


def _noted(runtime: Runtime, model: str, error: PenstockError) -> None:
    waiting = len(owed(runtime.state, model))
    runtime.tell(Event("note", model, f"the tracker was not told ({waiting} waiting, tried again by the next run): {error}"))


def _tell_one(runtime: Runtime, tracker: Tracker, model: str, body: Mapping[str, Any]) -> None:
    found = runtime.state.history("model", f"{model}@{body['version']}", limit=1)
    if not found:
        return
    version = version_told(runtime.project, runtime.folder, found[0].body)
    tracker.tell(version)
    if body["what"] == "live":
        parts = {name: str(body[name]) for name in ("how", "by", "reason", "replaced")}
        tracker.live(LiveTold(version.project, model, version.version, version.token, from_iso(str(body["at"])), **parts))


def version_told(project: str, folder: Path, entry: Mapping[str, Any]) -> VersionTold:
    """A version of the registry as a tracker is told of it. `folder` is the project's own (`.penstock`)."""
    ended = from_iso(str(entry["at"]))
    files = _files(folder / str(entry["folder"]), entry)
    identity = [project, entry["model"], entry["version"], entry.get("run", ""), entry["at"]]
    return VersionTold(
        project=project, model=str(entry["model"]), version=str(entry["version"]), token=digest(identity), run=str(entry.get("run", "")),
        started=ended - timedelta(seconds=float(entry.get("seconds", 0))), ended=ended, refused=bool(entry["refused"]),
        params=dict(entry.get("params", {})), metrics=_metrics(entry), curve=_curve(entry), tags=_tags(entry, bool(files)), files=files,
        summary=_summary(entry),
    )  # fmt: skip


def _files(folder: Path, entry: Mapping[str, Any]) -> dict[str, Path]:
    """The artefact's files, none if one of them is not there any more."""
    names = [*(str(f["name"]) for f in entry.get("manifest", {}).get("files", [])), "manifest.json"]
    found = {name: folder / name for name in names}
    return found if all(path.is_file() for path in found.values()) else {}


def _metrics(entry: Mapping[str, Any]) -> dict[str, float]:
    values: dict[str, Any] = dict(entry.get("metrics", {}))
    for name, (low, high) in entry.get("evaluation", {}).get("overall", {}).get("intervals", {}).items():
        values |= {f"{name}.low": low, f"{name}.high": high}
    cost = entry.get("cost", {})
    values |= {name: entry.get(name) for name in ("train_rows", "test_rows", "fit_seconds")}
    values |= {name: cost.get(name) for name in ("cpu_seconds", "peak_memory_bytes")}
    return {name: float(value) for name, value in values.items() if _is_number(value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _curve(entry: Mapping[str, Any]) -> list[CurvePoint]:
    points = []
    for point in entry.get("curve", []):
        values = {str(name): float(value) for name, value in point["values"].items() if _is_number(value)}
        points.append(CurvePoint(str(point["phase"]), int(point["step"]), values))
    return points


def _tags(entry: Mapping[str, Any], kept: bool) -> dict[str, str]:
    libraries = entry.get("environment", {}).get("libraries", {})
    return {
        "kind": str(entry.get("kind_of_model", "")), "format": str(entry.get("manifest", {}).get("format", "")),
        "definition": str(entry.get("definition", "")), "function": str(entry.get("function", "")), "seed": str(entry.get("spec", {}).get("seed", "")),
        "source": str(entry.get("manifest", {}).get("source", "")), "files": "here" if kept else "gone before the tracker was told",
        "gates": "; ".join(f"{'passed' if g['passed'] else 'failed'}: {g['name']}" for g in entry.get("gates", [])),
        "features": ", ".join(map(str, entry.get("features", []))), "environment": ", ".join(f"{n} {v}" for n, v in libraries.items()),
        **{f"input.{name}": str(version) for name, version in entry.get("inputs", {}).items()},
    }  # fmt: skip


def _summary(entry: Mapping[str, Any]) -> str:
    verdict = "refused by its gates" if entry["refused"] else "passed its gates"
    lines = [f"{entry['model']} {entry['version']}: {verdict}; registered {iso(from_iso(str(entry['at'])))}."]
    lines += [str(g.get("reason") or g["name"]) for g in entry.get("gates", []) if not g["passed"]]
    return "\n".join([*lines, *map(str, entry.get("notes", []))])
