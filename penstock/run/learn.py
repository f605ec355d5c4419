"""Training a model: its rows point in time, split, fitted in a process of its own, measured, gated, signed, registered."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.ground.clock import iso
from penstock.ground.failpoints import reach
from penstock.ground.paths import inside, private_folder, sync_folder
from penstock.run import environment
from penstock.run import sets as sets_of
from penstock.run.build import bind_inputs
from penstock.run.fit import Fit, fitted, labels_of
from penstock.run.judge import RowsJudged, Verdict, judge, judge_rows, loaded
from penstock.run.matrices import Exchange, exchange
from penstock.run.outbox import live_owed, version_owed
from penstock.run.point_in_time import Rows, coverage, given_from, given_record, model_rows
from penstock.run.registry import PASSING, entry, live_parts, newest, promotion
from penstock.run.registry import held_back as held_back_by
from penstock.run.runtime import Job, Outcome, Runtime
from penstock.run.sets import Division, Sets
from penstock.spec.models import ByGroup, ByRatio, ByTime, Model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from penstock.craft.learning.measured import Measured

#: Rows on which a stored model is compared with the trained one.
PARITY_ROWS = 500
#: Of this many folds of the training rows one is held back to calibrate on.
CALIBRATION_FOLDS = 5


@dataclass(frozen=True)
class Prepared:
    """Rows, division and matrices of a model, ready to be fitted on; `covered` tells how many rows met each feature asset."""

    model: Model
    division: Division
    sets: Sets
    arrays: Exchange
    covered: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Candidate:
    """A fitted and stored model, not yet registered.

    Attributes:
        folder: where its artefact is; `manifest` describes and signs it.
        cross: metrics of the training rows out of fold, None without cross-validation.
        told: what else the fitting told: `fit_seconds`, the learning curve, the cost of its process.
    """

    version: str
    folder: Path
    manifest: Mapping[str, Any]
    cross: Measured | None
    told: Mapping[str, Any]


def train(job: Job) -> Outcome:
    """Makes a version of a model. One whose gates fail is registered as refused and not used; that is recorded, not raised."""
    from penstock.craft.learning import artefact

    model = job.node.asset
    assert isinstance(model, Model)
    version = f"v{newest(job.runtime.state, job.name) + 1}"
    if not model.source:
        job.runtime.compute.warm()
    rows, division = looked_at(job, model)
    keys = job.runtime.keys
    with exchange(job.runtime.folder, f"{job.name}-{version}", sets_of.size_bytes(division, len(rows.columns))) as arrays:
        sets = sets_of.read(job, model, rows, division, arrays.make)
        step, covered = coverage(job.session, rows, model.over)
        job.steps.append(step)
        ready = Prepared(model, division, sets, arrays, tuple(covered))
        for note in ready.sets.notes:
            job.tell("note", note)
        draft = _draft(job.runtime, job.name, version)
        seen: list[RowsJudged] = []

        def look() -> None:
            seen.append(judge_rows(job, model, sets))

        made = _imported(job, ready, draft, version, look) if model.source else _fitted(job, ready, draft, version, look)
        reach("model.trained")
        scorer = loaded(draft, artefact.manifest_from(made.manifest), keys, f"{job.name}@{version}")
        verdict = judge(job, model, sets, scorer, seen[0])
        folder = _settled(job.runtime, draft, job.name, version)
        reach("model.stored")
        for result in verdict.gates:
            job.tell("gate", result.reason, **result.as_record())
        return _registered(job, ready, replace(made, folder=folder), verdict)


def looked_at(job: Job, model: Model) -> tuple[Rows, Division]:
    """Binds the inputs, names the joined rows, and tells where the split falls."""
    scans = bind_inputs(job, job.node.inputs)
    rows = model_rows(job.session, job.graph, model, scans, model.over)
    for column in (
        model.label,
        model.weight,
        model.group,
        *model.slices,
        *((model.split.column,) if isinstance(model.split, ByGroup) else ()),
    ):
        if column is not None:
            rows.schema.field(column, of=model.over)
    return rows, sets_of.divided(job.session, model, rows, job.name)


# -- fitting --------------------------------------------------------------------------------------------------------
def order_for(job: Job, ready: Prepared, params: Mapping[str, Any], *, folds: int, store: Path | None = None, name: str = "") -> Fit:
    """What the fitting process is told. `store` is the folder for the artefact, `name` as what it is signed."""
    model, sets = ready.model, ready.sets
    given = {k: v for k, v in params.items() if k != "seed"}
    return Fit(
        job.name,
        str(job.runtime.root),
        job.runtime.code.modules,
        job.runtime.code.digest(model.function) if model.function else "",
        sets.encoder.as_record(),
        str(ready.arrays.folder),
        given,
        int(params.get("seed", model.seed)),
        model.kind,
        sets.target.classes,
        model.calibrate,
        model.format,
        folds,
        isinstance(model.split, ByTime),
        str(store) if store else "",
        name,
        str(job.runtime.keys.folder) if name else "",
        iso(job.runtime.clock.now()),
        job.runtime.cores,
    )


def folds_for(job: Job, ready: Prepared, folds: int) -> NDArray[np.int8]:
    """The fold of each training row; whole groups, or in order of time, as the split says."""
    from penstock.craft.learning import splits

    model, train = ready.model, ready.sets.train
    asset = job.graph.node(str(model.over)).asset
    key, time = tuple(getattr(asset, "key", ())), getattr(asset, "time", None)
    return splits.folds(
        model.split, folds, kind=model.kind, y=train.y, key=train.kept.select(list(key)) if key else None,
        time=train.kept.column(time) if time else None,
        group=train.kept.column(model.split.column) if isinstance(model.split, ByGroup) else None,
        queries=train.group if model.kind == "ranking" else None,
    )  # fmt: skip


def held_back(job: Job, ready: Prepared) -> NDArray[np.int64]:
    """Numbers of the training rows to calibrate on: the last fold, the newest rows where the split is by time."""
    import numpy as np

    return np.flatnonzero(folds_for(job, ready, CALIBRATION_FOLDS) == CALIBRATION_FOLDS - 1)


def _fitted(job: Job, ready: Prepared, draft: Path, version: str, meanwhile: Callable[[], None]) -> Candidate:
    model, sets, arrays = ready.model, ready.sets, ready.arrays
    arrays.put("sample", sets.test.X[:PARITY_ROWS])
    if model.folds:
        arrays.put("fold", folds_for(job, ready, model.folds))
    if model.calibrate:
        arrays.put("held", held_back(job, ready))
    order = order_for(job, ready, job.declared.params, folds=model.folds, store=draft, name=f"{job.name}@{version}")
    result, curve, ended = fitted(job.runtime, order, model, run=job.run, meanwhile=meanwhile)
    cross = out_of_fold(ready) if model.folds else None
    told = {"fit_seconds": result["fit_seconds"], "curve": curve, "cost": asdict(ended.cost), "function": order.digest}
    return Candidate(version, draft, result["manifest"], cross, told)


def out_of_fold(ready: Prepared) -> Measured:
    """Metrics of the training rows by models that did not see them."""
    import numpy as np

    from penstock.craft.learning.metrics import measure
    from penstock.craft.learning.outcomes import Outcomes

    sets = ready.sets
    scores = ready.arrays.get("oof")
    rows = np.flatnonzero(np.isfinite(scores if scores.ndim == 1 else scores[:, 0]))
    train = sets.train
    weight, group = (None if a is None else a[rows] for a in (train.weight, train.group))
    return measure(Outcomes(sets.target.kind, train.y[rows], scores[rows], sets.target.classes, weight, group))


def _imported(job: Job, ready: Prepared, draft: Path, version: str, meanwhile: Callable[[], None]) -> Candidate:
    """A finished model, taken in as an artefact of ours."""
    from penstock.craft.learning import artefact

    model, sets = ready.model, ready.sets
    meanwhile()
    with job.runtime.fetch_model(model.source) as path:
        manifest = artefact.import_file(
            path, sets.encoder, draft, sample=sets.test.X[:PARITY_ROWS], kind=model.kind,
            classes=labels_of(model.kind, sets.target.classes), keys=job.runtime.keys, name=f"{job.name}@{version}",
            created=iso(job.runtime.clock.now()), source=model.source, place=job.name,
        )  # fmt: skip
    return Candidate(version, draft, manifest.as_record(), None, {})


# -- folders --------------------------------------------------------------------------------------------------------
def _draft(runtime: Runtime, name: str, version: str) -> Path:
    """An empty folder that no reader looks into."""
    draft = inside(runtime.folder / "models", f"{name}/.{version}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    return private_folder(draft)


def _settled(runtime: Runtime, draft: Path, name: str, version: str) -> Path:
    """The draft under the version's own name. A folder of that name was left by a run that died before it registered, and goes."""
    folder = inside(runtime.folder / "models", f"{name}/{version}")
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    sync_folder(folder.parent)
    return folder


# -- registering ----------------------------------------------------------------------------------------------------
def spec_record(model: Model, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a declaration that decide a version, as JSON: what a rebuild needs."""
    split = {"by": type(model.split).__name__, **asdict(model.split)}
    plain = {
        n: getattr(model, n) for n in ("label", "kind", "weight", "group", "folds", "calibrate", "format", "memory", "timeout", "source")
    }
    return {**plain, "split": split, "slices": list(model.slices), "seed": int(params.get("seed", model.seed)), "over": str(model.over)}


def declared_as(model: Model, version: Mapping[str, Any]) -> Model:
    """The model as it was declared when a registered version was trained; gates and limits are today's."""
    spec = version["spec"]
    split = {"ByTime": ByTime, "ByGroup": ByGroup, "ByRatio": ByRatio}[spec["split"]["by"]]
    parts = {k: v for k, v in spec["split"].items() if k != "by"}
    plain = {n: spec[n] for n in ("label", "kind", "weight", "group", "folds", "calibrate", "format", "source", "seed")}
    return replace(
        model, over=spec["over"], features=given_from(version["given"]), split=split(**parts), slices=tuple(spec["slices"]), **plain
    )


def _registered(job: Job, ready: Prepared, made: Candidate, verdict: Verdict) -> Outcome:
    """Appends the version to the registry; if it passed and nobody else decides, it becomes live, by one signed record.

    Of a refused version, or one that waits for a person, the asset's record keeps that it was tried: what is live stays described.
    """
    model, sets, now = ready.model, ready.sets, job.runtime.clock.now()
    told = _entry(job, ready, made, verdict)
    tried = {
        "kind": "model", "token": job.token, "mode": "full", "reasons": [r.text for r in job.action.reasons],
        "definition": job.declared.definition, "contract": job.declared.contract, "params": job.declared.recorded_params,
        "inputs": told["inputs"], "ledger": [s.record() for s in job.steps], "refused": verdict.refused, "candidate": made.version,
        "run": job.run, "at": iso(now), "seconds": job.seconds,
    }  # fmt: skip
    live = str(job.base.get("version") or "")
    entries: list[tuple[str, str, Mapping[str, Any]]] = [("model", f"{job.name}@{made.version}", told), *version_owed(job.runtime, told)]
    back = held_back_by(job.runtime.state, job.name)
    promoted = not verdict.refused and model.release == "auto" and back is None
    if promoted:
        before = entry(job.runtime.state, job.name, live) if live else None
        by = promotion(job.runtime.keys, told, live=before, how="rule", by=PASSING, reason="its gates passed", now=now)
        entries += [("promotion", job.name, by.record()), *live_owed(job.runtime, by.record())]
    whole = {**told, **tried, "rows": len(sets.train), "rows_in": job.steps[0].rows_in, "rejected": 0}
    shown = {**whole, "version": made.version if promoted else live}
    if promoted:
        kept: Mapping[str, Any] = {**job.base, **tried, **live_parts(told), "rows_in": whole["rows_in"], "rejected": 0, "kind": "model"}
        kept = {**whole, **kept, "version": made.version}
    elif live:
        kept = {**job.base, **tried, "refused_gates": told["gates"] if verdict.refused else []}
    else:
        kept = {**whole, "version": ""}
    entries.append(("asset", job.name, kept))
    job.runtime.state.append_all(entries, at=now, claim=job.claim)
    reach("model.registered")
    if not verdict.refused and not promoted:
        why = f", since {back.by} rolled back to {back.version}" if back else ""
        job.tell("note", f"{made.version} passed its gates and waits{why}: `penstock release {job.name} --to production`")
    return Outcome(str(shown["version"]), shown)


def _entry(job: Job, ready: Prepared, made: Candidate, verdict: Verdict) -> dict[str, Any]:
    """A version as the registry keeps it."""
    from penstock.craft.learning import calibration, curves

    model, sets, judged = ready.model, ready.sets, verdict.judged
    measured = judged.evaluation
    cross = measured_record(made.cross) if made.cross is not None else None
    return {
        "model": job.name,
        "version": made.version,
        "refused": verdict.refused,
        "folder": str(made.folder.relative_to(job.runtime.folder)),
        "manifest": made.manifest,
        "kind_of_model": model.kind,
        "classes": list(sets.target.classes),
        "train_rows": len(sets.train),
        "test_rows": len(sets.test),
        "boundary": sets.boundary,
        "metrics": dict(measured.overall.values),
        "evaluation": measured.as_record(),
        "slices": [{"column": s.column, "value": s.label, "rows": s.measured.rows, **s.measured.values} for s in measured.slices],
        "weak": [w.as_record() for w in judged.weak],
        "figures": dict(judged.figures),
        "leaks": [f.as_record() for f in verdict.findings],
        "cross": cross,
        "calibration": calibration.reliability_of(verdict.outcomes),
        "curves": curves.of(verdict.outcomes),
        "gates": [{**r.as_record(), "rows": verdict.shown.get(g.name, [])} for g, r in zip(model.gates, verdict.gates, strict=True)],
        "features": list(sets.encoder.names),
        "given": given_record(model),
        "coverage": list(ready.covered),
        "spec": spec_record(model, job.declared.params),
        "params": job.declared.recorded_params,
        "definition": job.declared.definition,
        "inputs": {name: job.versions[name] for name in job.node.inputs},
        "code": job.runtime.code.keep(),
        "environment": environment.record(job.runtime.cores),
        "notes": list(sets.notes),
        "seconds": job.seconds,
        "at": iso(job.runtime.clock.now()),
        "run": job.run,
        **made.told,
    }


def measured_record(measured: Measured) -> dict[str, Any]:
    """Metrics of one set of rows as JSON."""
    from penstock.craft.learning.measured import Evaluation

    found: dict[str, Any] = Evaluation(measured).as_record()["overall"]
    return found
