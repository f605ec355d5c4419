"""Gates: conditions on what was measured, judged purely."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from penstock.craft.learning.measured import LEAST_ROWS, Evaluation, Measured, WeakSlice, goodness
from penstock.ground.names import literal, quote
from penstock.spec.models import FIGURES, Gate

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from penstock.craft.learning.outcomes import Outcomes
    from penstock.craft.learning.paired import Comparison

#: What a difference of two numbers near 1 may be off by; a value that equals its bound passes.
_ROUNDING = 1e-12


class Leak(Protocol):
    """A way by which a model could know what it should not: what leak detectors find."""

    @property
    def kind(self) -> str: ...
    @property
    def columns(self) -> Sequence[str]: ...
    @property
    def reason(self) -> str: ...
    @property
    def rows(self) -> Sequence[tuple[str, int]]: ...


@dataclass(frozen=True, eq=False)
class Judged:
    """What gates judge of one model.

    Attributes:
        outcomes: the test rows themselves, for comparisons on the same rows; None if only what was measured is known.
        evaluation: what was measured of the test set.
        figures: name -> figure of the rows, `spec.models.FIGURES`.
        weak: weak slices that were found, for gates on `*`.
        leaks: what leak detectors found; None if nobody looked.
        by: slice columns of these rows.
    """

    outcomes: Outcomes | None
    evaluation: Evaluation
    figures: Mapping[str, Any] = field(default_factory=dict)
    weak: tuple[WeakSlice, ...] = ()
    leaks: Sequence[Leak] | None = None
    by: pa.Table | None = None


@dataclass(frozen=True)
class GateResult:
    """How one gate was judged.

    Attributes:
        name: the gate as its user reads it.
        value: the metric, that of the worst slice value for a gate on slices; None if it has none.
        bound: what `value` was held against.
        margin: by how much the gate passes, negative if it fails, or if noise explains why production looks better; None without
            value or bound.
        slice: the worst slice value, as text; for `*` with its column, or the condition of a weak slice.
        column: the column of that value, empty for `*`; for leaks the columns of the first.
        reason: one sentence; why it fails, or why it passes without a comparison or in spite of its margin.
        too_small: slice values that were left out for having too few labelled rows, or one class only.
        comparison: for `not_below` the difference to production with its interval, p-value and test.
        rows: an SQL condition for the test rows that a failed gate is about; empty if they are all of them.
        sample: numbers of the test rows that say most about a failure, the worst first.
    """

    name: str
    passed: bool
    value: float | None = None
    bound: float | None = None
    margin: float | None = None
    slice: str | None = None
    reason: str = ""
    too_small: tuple[str, ...] = ()
    comparison: Comparison | None = None
    rows: str = ""
    sample: tuple[int, ...] = ()
    column: str = ""

    def as_record(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "name": self.name,
            "passed": self.passed,
            "value": self.value,
            "bound": self.bound,
            "margin": self.margin,
            "slice": self.slice,
            "column": self.column,
            "reason": self.reason,
            "too_small": list(self.too_small),
            "comparison": self.comparison.as_record() if self.comparison else None,
            "rows": self.rows,
            "sample": list(self.sample),
        }


@dataclass(frozen=True, eq=False)
class _Part:
    """Some test rows that a gate is held on: all of them, a slice value, or a weak slice."""

    label: str
    where: str
    measured: Measured
    production: Measured | None
    rows: NDArray[np.int64] | None = None

    @property
    def named(self) -> bool:
        return bool(self.label)


def evaluate(gates: Sequence[Gate], candidate: Judged, production: Judged | None = None) -> tuple[GateResult, ...]:
    """Each gate's result, in order. A gate that cannot be computed fails and says why.

    `>=` and `<=` hold a value as it was measured against a bound. `not_below` holds it against production: it fails if the
    candidate is worse by more than `by`, whichever way the metric is better, and noise does not explain it: if the upper end of
    the one-sided 95 % interval of the difference is below `-by`. Both are compared on the same rows, paired, if both have
    outcomes; else by the intervals that were measured, and without these by the values alone. While nothing is in production
    it passes and says so.

    A gate on slices holds for every value with at least 50 labelled rows, of both classes for a binary model; against production
    only for values that production was measured on too, with the level divided by their number (Bonferroni). `*` are the values
    of all declared columns and the weak slices that were found.
    """
    return tuple(_evaluated(gate, candidate, production) for gate in gates)


def _evaluated(gate: Gate, candidate: Judged, production: Judged | None) -> GateResult:
    if gate.op == "no_leakage":
        return _no_leakage(gate, candidate.leaks)
    if gate.metric in FIGURES:
        return _figure(gate, candidate.figures)
    if gate.op == "not_below":
        if gate.bound != "production":
            return GateResult(gate.name, False, reason=f"there is nothing called {gate.bound}; a gate compares with production")
        if production is None:
            return GateResult(gate.name, True, reason="nothing is in production yet")
    result = _on_slices(gate, candidate, production) if gate.slice else _overall(gate, candidate, production)
    return result if result.passed or result.sample else _with_sample(result, candidate, None)


def _overall(gate: Gate, candidate: Judged, production: Judged | None) -> GateResult:
    part = _Part("", "", candidate.evaluation.overall, production.evaluation.overall if production else None)
    return _judged(gate, part, candidate, production, 1)


def _on_slices(gate: Gate, candidate: Judged, production: Judged | None) -> GateResult:
    """The result of the slice value that passes by least."""
    parts = list(_parts(gate, candidate, production))
    large = [p for p in parts if p.measured.enough]
    too_small = tuple(p.label for p in parts if not p.measured.enough)
    if gate.op == "not_below":
        large = [p for p in large if p.production is not None and p.production.enough]
    if not large:
        if gate.slice == "*":
            return GateResult(gate.name, True, reason="there is no slice with enough rows", too_small=too_small)
        reason = f"no value of {gate.slice} has {LEAST_ROWS} labelled rows of both classes"
        return GateResult(gate.name, False, reason=reason, too_small=too_small)
    judged = [(p, _judged(gate, p, candidate, production, len(large))) for p in large]
    return _worst(gate, judged, too_small)


def _parts(gate: Gate, candidate: Judged, production: Judged | None) -> Iterator[_Part]:
    """The slice values a gate is about, and for `*` also the weak slices, which production is measured on here."""
    found = candidate.evaluation.slices if gate.slice == "*" else candidate.evaluation.of(gate.slice or "")
    others = {(s.column, s.value): s.measured for s in production.evaluation.slices} if production else {}
    for s in found:
        label = f"{s.column} {s.label}" if gate.slice == "*" else s.label
        yield _Part(
            label, _condition(s.column, s.value), s.measured, others.get((s.column, s.value)), _rows(candidate.by, s.column, s.value)
        )
    for weak in candidate.weak if gate.slice == "*" else ():
        theirs = None
        if production and production.outcomes is not None and weak.at is not None:
            from penstock.craft.learning.metrics import measure

            theirs = measure(production.outcomes.take(weak.at))
        yield _Part(weak.condition, weak.condition, weak.measured, theirs, weak.at)


def _rows(by: pa.Table | None, column: str, value: str | None) -> NDArray[np.int64] | None:
    if by is None or column not in by.column_names:
        return None
    from penstock.craft.learning.slices import groups

    return next((rows for text, rows in groups(by.column(column)) if text == value), None)


def _condition(column: str, value: str | None) -> str:
    return f"{quote(column)} IS NULL" if value is None else f"CAST({quote(column)} AS VARCHAR) = {literal(value)}"


def _worst(gate: Gate, judged: list[tuple[_Part, GateResult]], too_small: tuple[str, ...]) -> GateResult:
    at, result = min(judged, key=lambda pair: (pair[1].passed, float("-inf") if pair[1].margin is None else pair[1].margin))
    failed = sum(not r.passed for _, r in judged)
    where = at.label if gate.slice == "*" else f"{gate.slice} {at.label}"
    reason = f"{where}: {result.reason}" + (f"; {failed} of {len(judged)} values fail" if failed > 1 else "") if failed else ""
    return replace(result, slice=at.label, column="" if gate.slice == "*" else gate.slice or "", reason=reason, too_small=too_small)


def _judged(gate: Gate, part: _Part, candidate: Judged, production: Judged | None, held: int) -> GateResult:
    """One part's result; `held` is on how many parts the gate is held."""
    value = part.measured.values.get(gate.metric)
    if value is None:
        reason = part.measured.reasons.get(gate.metric, "it was not measured")
        return GateResult(gate.name, False, reason=f"{gate.metric} has no value: {reason}", rows=part.where)
    if gate.op == "not_below":
        assert production is not None
        return _beside_production(gate, part, value, candidate, production, held)
    bound, sign = float(gate.bound), 1.0 if gate.op == ">=" else -1.0
    margin = sign * (value - bound)
    if margin >= -_ROUNDING:
        return GateResult(gate.name, True, value, bound, margin)
    reason = f"{value:.6g} is {'below' if sign > 0 else 'above'} {bound:.6g} by {-margin:.2g}"
    return _with_sample(
        GateResult(gate.name, False, value, bound, margin, reason=reason, rows=part.where), candidate, part.rows, part.named
    )


def _beside_production(gate: Gate, part: _Part, value: float, candidate: Judged, production: Judged, held: int) -> GateResult:
    theirs = part.production.values.get(gate.metric) if part.production else None
    if theirs is None:
        return GateResult(gate.name, False, value, reason=f"{gate.metric} of production has no value", rows=part.where)
    difference = goodness(gate.metric, value) - goodness(gate.metric, theirs)
    bound = theirs + (-gate.by if goodness(gate.metric, 1.0) > 0 else gate.by)
    margin = difference + gate.by
    compared = _compared(gate, part, candidate, production)
    if compared is None:
        passed, told = margin >= -_ROUNDING, ""
    else:
        compared = replace(compared, p=min(1.0, compared.p * held))
        passed = margin >= -_ROUNDING or not compared.worse
        told = f" ({compared.test}, p = {compared.p:.2g}, difference {compared.low:.2g} to {compared.high:.2g})"
    if margin >= -_ROUNDING:
        return GateResult(gate.name, True, value, bound, margin, comparison=compared)
    if passed:
        reason = f"worse than production by {-difference:.2g}, which noise explains{told}"
        return GateResult(gate.name, True, value, bound, margin, reason=reason, comparison=compared)
    word = "below" if goodness(gate.metric, 1.0) > 0 else "above"
    reason = f"{value:.6g} is {word} {bound:.6g} by {-margin:.2g}{told}"
    result = GateResult(gate.name, False, value, bound, margin, reason=reason, comparison=compared, rows=part.where)
    return _with_sample(result, candidate, part.rows, part.named, production)


def _compared(gate: Gate, part: _Part, candidate: Judged, production: Judged) -> Comparison | None:
    from penstock.craft.learning.paired import beside, compare

    mine, theirs = candidate.outcomes, production.outcomes
    if mine is not None and theirs is not None and (part.rows is not None or not part.named):
        if part.rows is not None:
            mine, theirs = mine.take(part.rows), theirs.take(part.rows)
        return compare(gate.metric, mine, theirs, by=gate.by)
    assert part.production is not None
    return beside(gate.metric, part.measured, part.production, by=gate.by)


def _with_sample(
    result: GateResult, candidate: Judged, rows: NDArray[np.int64] | None, named: bool = False, production: Judged | None = None
) -> GateResult:
    """The same with the rows that say most: those of greatest loss, or of greatest loss against production."""
    if candidate.outcomes is None or candidate.outcomes.strange or (named and rows is None):
        return result
    from penstock.craft.learning.paired import losses_apart, worst

    mine = candidate.outcomes if rows is None else candidate.outcomes.take(rows)
    if production is not None and production.outcomes is not None:
        theirs = production.outcomes if rows is None else production.outcomes.take(rows)
        found = losses_apart(mine, theirs)
    else:
        found = worst(mine)
    return replace(result, sample=found if rows is None else tuple(int(rows[i]) for i in found))


def _figure(gate: Gate, figures: Mapping[str, Any]) -> GateResult:
    value = figures.get(gate.metric)
    if value is None:
        return GateResult(gate.name, False, reason=f"{gate.metric} has no value: these rows do not define it")
    if gate.op == "not_below":
        return GateResult(gate.name, False, value, reason=f"{gate.metric} is a figure of the rows, which production has no part in")
    bound, sign = float(gate.bound), 1.0 if gate.op == ">=" else -1.0
    margin = sign * (value - bound)
    passed = margin >= -_ROUNDING
    reason = "" if passed else f"{value:.6g} is {'below' if sign > 0 else 'above'} {bound:.6g} by {-margin:.2g}"
    return GateResult(gate.name, passed, value, bound, margin, reason=reason)


def _no_leakage(gate: Gate, leaks: Sequence[Leak] | None) -> GateResult:
    """Fails for each finding whose columns are not all allowed; findings about rows have no columns and cannot be allowed."""
    if leaks is None:
        return GateResult(gate.name, False, reason="nobody looked for leaks")
    told = [leak for leak in leaks if not leak.columns or not set(leak.columns) <= set(gate.allow)]
    if not told:
        return GateResult(gate.name, True, 0.0, 0.0, 0.0)
    more = f"; and {len(told) - 1} more" if len(told) > 1 else ""
    shown = dict.fromkeys(number for leak in told for side, number in leak.rows if side == "test")
    where = ", ".join(told[0].columns)
    reason = f"{where + ': ' if where else ''}{told[0].reason}{more}"
    return GateResult(gate.name, False, float(len(told)), 0.0, -float(len(told)), reason=reason, column=where, sample=tuple(shown))
