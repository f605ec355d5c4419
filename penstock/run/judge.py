"""Judging a candidate: what it scores on the test rows, where it is weak, what leaks, and how it does beside what is live."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.ground.paths import inside
from penstock.run.build import HIDDEN
from penstock.run.leaks import leaks
from penstock.run.registry import entry
from penstock.run.runtime import Job, Runtime
from penstock.run.sets import Sets
from penstock.spec.models import Model

if TYPE_CHECKING:
    import pyarrow as pa

    from penstock.craft.learning.artefact import Manifest
    from penstock.craft.learning.gates import GateResult, Judged
    from penstock.craft.learning.leakage import Finding
    from penstock.craft.learning.outcomes import Outcomes
    from penstock.craft.learning.scoring import Scorer
    from penstock.craft.learning.signing import Keys

#: Rows that are shown of those by which a gate failed.
SHOWN = 5


@dataclass(frozen=True)
class Verdict:
    """What was found, and each gate's result."""

    judged: Judged
    outcomes: Outcomes
    gates: tuple[GateResult, ...]
    findings: tuple[Finding, ...]
    shown: Mapping[str, list[dict[str, Any]]]

    @property
    def refused(self) -> bool:
        return not all(g.passed for g in self.gates)


def outcomes_of(scorer: Scorer, sets: Sets) -> Outcomes:
    """Scores of the test rows beside their labels."""
    from penstock.craft.learning.outcomes import Outcomes

    test = sets.test
    return Outcomes(sets.target.kind, test.y, scorer.scores(test.X), sets.target.classes, test.weight, test.group)


@dataclass(frozen=True)
class RowsJudged:
    """What can be told of the rows before there is a model: figures, and leaks if a gate asks (None if nobody looked)."""

    figures: Mapping[str, Any]
    findings: tuple[Finding, ...] | None


def judge_rows(job: Job, model: Model, sets: Sets) -> RowsJudged:
    """Looks at the rows of both sets for drift, rare classes, and what must not be known. Called: while the model is fitted."""
    from penstock.craft.learning import figures

    names = list(sets.encoder.names)
    assert sets.train.raw is not None and sets.test.raw is not None
    found = figures.of(
        model.kind, len(sets.train), len(sets.test), sets.train.y, sets.train.raw.select(names), sets.test.raw.select(names),
        sets.target.classes,
    )  # fmt: skip
    return RowsJudged(found, _leaks(job, model, sets))


def judge(job: Job, model: Model, sets: Sets, scorer: Scorer, rows: RowsJudged) -> Verdict:
    """Measures a candidate on the test rows and holds its gates against what was found. A failed gate is a result, not an error."""
    from penstock.craft.learning import gates, slices
    from penstock.craft.learning.gates import Judged

    outcomes, test = outcomes_of(scorer, sets), sets.test
    by = test.kept.select(list(model.slices))
    assert test.raw is not None and test.sampled is not None and sets.train.raw is not None
    weak = slices.weak(outcomes.take(test.sampled), test.raw.select(list(sets.encoder.names)), rows=test.sampled)
    judged = Judged(outcomes, slices.evaluate(outcomes, by), rows.figures, weak, rows.findings, by)
    results = gates.evaluate(model.gates, judged, _production(job, model, sets))
    return Verdict(judged, outcomes, results, rows.findings or (), {r.name: shown(r, sets, outcomes) for r in results if not r.passed})


def _leaks(job: Job, model: Model, sets: Sets) -> tuple[Finding, ...] | None:
    """What tells the label and may not, by lineage and by the rows themselves; looked for if a gate asks."""
    from penstock.craft.learning import leakage
    from penstock.craft.learning.leakage import Sample

    asked = [g for g in model.gates if g.op == "no_leakage"]
    if not asked:
        return None
    allow = tuple(c for g in asked for c in g.allow)
    key, time = _kept(job, model)
    train, test = (Sample(part.raw, time or None) for part in (sets.train, sets.test))
    by_rows = leakage.detect(
        train, test, kind=model.kind, label=model.label, columns=sets.encoder.names, group=model.group, key=key, times=sets.times,
        allow=allow, seed=model.seed,
    )  # fmt: skip
    by_lineage = leaks(job.graph, model, _upstream_columns(job), name=job.name, allow=allow)
    named = {c for f in by_lineage for c in f.columns}
    return (*by_lineage, *(f for f in by_rows if not named.issuperset(f.columns)))


def _upstream_columns(job: Job) -> dict[str, list[str]]:
    """The recorded columns of all assets that the model is made of, as queries see them."""
    heads = job.runtime.state.heads("asset")
    needed = [name for name in job.graph.upstream(job.name) if name in heads]
    return {name: [str(c) for c, _ in heads[name].body.get("columns", []) if c not in HIDDEN] for name in needed}


def _at(rows: Any) -> pa.Array:
    import pyarrow as pa

    return pa.array(rows)


def _kept(job: Job, model: Model) -> tuple[tuple[str, ...], str]:
    asset = job.graph.node(model.over).asset
    return tuple(getattr(asset, "key", ())), str(getattr(asset, "time", "") or "")


def _production(job: Job, model: Model, sets: Sets) -> Judged | None:
    """The live version measured on the same test rows, if a gate asks for it and there is one.

    A version that needs columns the candidate does without, or has other classes, is held by what was measured when it was made.
    """
    from penstock.craft.learning import slices, training
    from penstock.craft.learning.gates import Judged
    from penstock.craft.learning.measured import from_record
    from penstock.craft.learning.outcomes import Outcomes

    version = str(job.base.get("version") or "")
    if not version or all(gate.op != "not_below" for gate in model.gates):
        return None
    scorer = registered(job.runtime, job.name, version)
    if not set(scorer.encoder.names) <= set(sets.encoder.names) or (sets.target.classes and scorer.classes != sets.target.classes):
        job.tell("note", f"{version} has other columns or classes; compared with what was measured on its own test rows")
        told = entry(job.runtime.state, job.name, version)
        return Judged(None, from_record(told["evaluation"]))
    test = training.fill(job.session.read(sets.test_query), sets.test_rows, scorer.encoder, target=sets.target)
    keep = test.y >= 0 if sets.target.kind == "multiclass" else slice(None)
    by = sets.test.kept.select(list(model.slices))
    outcomes = Outcomes(
        sets.target.kind, test.y[keep], scorer.scores(test.X[keep]), sets.target.classes, _cut(test.weight, keep), _cut(test.group, keep)
    )  # fmt: skip
    return Judged(outcomes, slices.evaluate(outcomes, by), by=by)


def _cut(values: Any, keep: Any) -> Any:
    return None if values is None else values[keep]


def shown(result: GateResult, sets: Sets, outcomes: Outcomes) -> list[dict[str, Any]]:
    """The test rows that say most about a failed gate: key, time and slices, label and score."""
    rows = list(result.sample[:SHOWN])
    told = sets.test.kept.take(_at(rows)).to_pylist() if rows else []
    for row, at in zip(told, rows, strict=True):
        label, classes = outcomes.y[at].item(), sets.target.classes
        row |= {"label": classes[int(label)] if classes else label, "score": outcomes.p[at].tolist()}
    return [{k: v if isinstance(v, int | float | bool | str | list) or v is None else str(v) for k, v in row.items()} for row in told]


def registered(runtime: Runtime, model: str, version: str) -> Scorer:
    """A registered version, loaded; its files and its signature are verified. Raises: ArtefactRefused(E6002), SignatureRefused(E6003)."""
    from penstock.craft.learning.artefact import manifest_from

    told = entry(runtime.state, model, version)
    folder = inside(runtime.folder, str(told["folder"]))
    return loaded(folder, manifest_from(told["manifest"]), runtime.keys, f"{model}@{version}")


def loaded(folder: Path, manifest: Manifest, keys: Keys | None, name: str) -> Scorer:
    """A stored model with its calibrator, if it has one; verified as `registered` says if there are keys."""
    from penstock.craft.learning.artefact import load
    from penstock.craft.learning.calibration import from_record

    return load(folder, manifest, keys=keys, name=name, calibrator_from=from_record, place=name)
