"""Training a model: its rows point in time, split by time, fitted, measured, gated, stored as data, registered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.ground.clock import iso
from penstock.ground.errors import DefinitionError
from penstock.ground.failpoints import reach
from penstock.ground.names import quote
from penstock.ground.paths import inside
from penstock.run.build import bind_inputs
from penstock.run.ledger import Step, require_balance
from penstock.run.point_in_time import Rows, coverage, given_from, given_record, model_rows
from penstock.run.runtime import Job, Outcome, Runtime
from penstock.spec.models import ByTime, Model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from penstock.craft.learning.encoding import Encoder
    from penstock.craft.learning.gates import Judged
    from penstock.craft.learning.measured import Evaluation
    from penstock.craft.learning.scoring import Scorer
    from penstock.craft.learning.training import Filled

#: Rows on which a stored model is compared with the trained one.
PARITY_ROWS = 500


def train(job: Job) -> Outcome:
    """Makes a version of a model. One whose gates fail is registered as refused and not used; that is recorded, not raised."""
    from penstock.craft.learning import artefact, gates, slices, training
    from penstock.craft.learning.outcomes import Outcomes

    model = job.node.asset
    assert isinstance(model, Model) and model.function is not None
    scans = bind_inputs(job, job.node.inputs)
    rows = model_rows(job.session, job.graph, model, scans, model.over)
    rows.schema.field(model.label, of=model.over)
    sets = _sets(job, model, rows)
    step, covered = coverage(job.session, rows, model.over)
    job.steps += [step] if covered else []
    require_balance(job.name, job.steps)
    given = training.TrainingSet(
        sets.train.X, sets.train.y, sets.encoder.names, sets.encoder.categorical, int(job.declared.params.get("seed", model.seed))
    )
    params = {k: v for k, v in job.declared.params.items() if k != "seed"}
    fitted = training.train(model.function, given, params, place=job.name)
    reach("model.trained")
    version = f"v{len(job.runtime.state.heads('model', prefix=f'{job.name}@')) + 1}"
    folder = inside(job.runtime.folder / "models", f"{job.name}/{version}")
    manifest = artefact.store(fitted, sets.encoder, folder, sample=sets.test.X[:PARITY_ROWS], place=job.name)
    reach("model.stored")
    scorer = artefact.load(folder, manifest, place=job.name)
    scores = scorer.scores(sets.test.X)
    outcomes = Outcomes("binary", sets.test.y, scores)
    measured = slices.evaluate(outcomes, sets.test.kept)
    candidate = gates.Judged(outcomes, measured, by=sets.test.kept)
    results = gates.evaluate(model.gates, candidate, _production(job, model, sets))
    for result in results:
        job.tell("gate", result.reason, **result.as_record())
    return _registered(job, model, version, folder, manifest.as_record(), sets, scores, measured, [r.as_record() for r in results], covered)


@dataclass(frozen=True)
class _Sets:
    """`test_query` reads the test rows again, for a model with another encoder."""

    encoder: Encoder
    train: Filled
    test: Filled
    boundary: str
    test_query: str


def _sets(job: Job, model: Model, rows: Rows) -> _Sets:
    """Encoded training and test sets, read in one ordered pass: by time, then key, so that the same rows give the same model."""
    from penstock.craft.learning import encoding, splits, training

    session, label, time = job.session, quote(model.label), quote(rows.time)
    over = quote(model.over)
    total, labelled, newest = session.rows(f"SELECT count(*), count({label}), max({time}) FILTER (WHERE {label} IS NOT NULL) FROM {over}")[
        0
    ]
    if not labelled or newest is None:
        raise DefinitionError("no row has a label", place=f"{model.over}[{model.label}]", got=f"{total} rows")
    assert isinstance(model.split, ByTime)
    first = splits.boundary(model.split, newest)
    before = f"{time} < CAST('{first.isoformat()}' AS {'TIMESTAMPTZ' if first.tzinfo else 'TIMESTAMP'})"
    dated, train_rows = session.rows(f"SELECT count({time}), count(*) FILTER (WHERE {before}) FROM {over} WHERE {label} IS NOT NULL")[0]
    job.steps.append(_split_step(int(total), int(labelled), int(dated)))
    require_balance(job.name, job.steps)
    texts = {
        column: [
            str(v)
            for (v,) in session.rows(
                f"SELECT DISTINCT {quote(column)} FROM {over} WHERE {before} AND {label} IS NOT NULL AND {quote(column)} IS NOT NULL"
            )
        ]
        for column in encoding.text_columns(rows.schema, rows.columns)
    }
    encoder = encoding.learn(rows.schema, rows.columns, texts)
    wanted = ", ".join(quote(c) for c in dict.fromkeys((*rows.columns, model.label, *model.slices)))
    order = ", ".join(quote(c) for c in (rows.time, *rows.key))
    found = f"SELECT {wanted} FROM {quote(rows.relation)} WHERE {label} IS NOT NULL AND {time} IS NOT NULL"
    train_set = training.fill(session.read(f"{found} AND {before} ORDER BY {order}"), int(train_rows), encoder, label=model.label)
    test_query = f"{found} AND NOT ({before}) ORDER BY {order}"
    test_set = training.fill(session.read(test_query), int(dated) - int(train_rows), encoder, label=model.label, keep=model.slices)
    return _Sets(encoder, train_set, test_set, first.isoformat(), test_query)


def registered(runtime: Runtime, model: str, version: str) -> Scorer:
    """A registered version, loaded and verified. Raises: ArtefactRefused(E6002)."""
    from penstock.craft.learning.artefact import load, manifest_from

    entry = runtime.state.heads("model", prefix=f"{model}@{version}")[f"{model}@{version}"].body
    return load(inside(runtime.folder, str(entry["folder"])), manifest_from(entry["manifest"]), place=f"{model}@{version}")


def _production(job: Job, model: Model, sets: _Sets) -> Judged | None:
    """The newest passing version measured on the same test rows, if a gate asks for it and there is one.

    A version that needs columns the candidate does without is held by what was measured when it was made.
    """
    from penstock.craft.learning import slices, training
    from penstock.craft.learning.gates import Judged
    from penstock.craft.learning.measured import from_record
    from penstock.craft.learning.outcomes import Outcomes

    version = str(job.base.get("version") or "")
    if not version or all(gate.op != "not_below" for gate in model.gates):
        return None
    scorer = registered(job.runtime, job.name, version)
    if not set(scorer.encoder.names) <= set(sets.encoder.names):
        job.tell("note", f"{version} needs columns that are no longer features; compared with what was measured on its own test rows")
        return Judged(None, from_record(job.base["evaluation"])) if job.base.get("evaluation") else None
    test = training.fill(job.session.read(sets.test_query), len(sets.test.y), scorer.encoder, label=model.label, keep=model.slices)
    outcomes = Outcomes("binary", test.y, scorer.scores(test.X))
    return Judged(outcomes, slices.evaluate(outcomes, test.kept), by=test.kept)


def _split_step(total: int, labelled: int, dated: int) -> Step:
    filtered = {"no label": total - labelled} if total > labelled else {}
    if labelled > dated:
        filtered["no time"] = labelled - dated
    return Step("split", total, dated, filtered=filtered)


def _registered(
    job: Job,
    model: Model,
    version: str,
    folder: Path,
    manifest: Mapping[str, Any],
    sets: _Sets,
    scores: NDArray[np.float64],
    measured: Evaluation,
    gates: Sequence[Mapping[str, Any]],
    covered: Sequence[Mapping[str, Any]],
) -> Outcome:
    """Appends the version to the registry; if it passed it becomes the asset's newest version.

    Of a refused version the asset's record keeps only that it was tried and why it was refused: what is live stays described.
    """
    from penstock.craft.learning.calibration import reliability

    refused = not all(g["passed"] for g in gates)
    now = job.runtime.clock.now()
    entry: dict[str, Any] = {
        "model": job.name,
        "version": version,
        "refused": refused,
        "folder": str(folder.relative_to(job.runtime.folder)),
        "manifest": manifest,
        "train_rows": len(sets.train.y),
        "test_rows": len(sets.test.y),
        "boundary": sets.boundary,
        "metrics": dict(measured.overall.values),
        "evaluation": measured.as_record(),
        "slices": [{"column": s.column, "value": s.label, "rows": s.measured.rows, **s.measured.values} for s in measured.slices],
        "calibration": reliability(sets.test.y, scores).as_record(),
        "gates": list(gates),
        "features": list(sets.encoder.names),
        "given": given_record(model),
        "coverage": covered,
        "inputs": {name: job.versions[name] for name in job.node.inputs},
        "seconds": job.seconds,
        "at": iso(now),
        "run": job.run,
    }
    tried = {
        "kind": "model",
        "token": job.token,
        "mode": "full",
        "reasons": [r.text for r in job.action.reasons],
        "definition": job.declared.definition,
        "contract": job.declared.contract,
        "params": job.declared.recorded_params,
        "inputs": entry["inputs"],
        "ledger": [s.record() for s in job.steps],
        "refused": refused,
        "candidate": version,
        "run": job.run,
        "at": entry["at"],
    }
    told = {**entry, **tried, "rows": len(sets.train.y), "rows_in": job.steps[0].rows_in, "rejected": 0}
    live = str(job.base.get("version") or "")
    body = {**told, "version": live} if refused else told
    kept = {**job.base, **tried, "refused_gates": list(gates)} if refused and live else body
    job.runtime.state.append_all([("model", f"{job.name}@{version}", entry), ("asset", job.name, kept)], at=now, claim=job.claim)
    reach("model.registered")
    return Outcome(str(body["version"]), body)


def as_trained(runtime: Runtime, model: Model, name: str, version: str) -> Model:
    """The model's record with the features that a registered version was trained with."""
    entry = runtime.state.heads("model", prefix=f"{name}@{version}")[f"{name}@{version}"].body
    return replace(model, features=given_from(entry["given"]))
