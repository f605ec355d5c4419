"""Gates: conditions on what was measured, judged purely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from penstock.craft.learning.measured import LEAST_ROWS, MORE_IS_BETTER, Evaluation, Measured, Slice
from penstock.spec.models import Gate

#: What a difference of two numbers near 1 may be off by; a value that equals its bound passes.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class GateResult:
    """How one gate was judged.

    Attributes:
        name: the gate as its user reads it.
        value: the metric, that of the worst slice value for a gate on slices; None if it has none.
        bound: what `value` was held against.
        margin: by how much the gate passes, negative if it fails; None without value or bound.
        slice: the worst slice value, as text.
        reason: one sentence; why it fails, or why it passes without a comparison.
        too_small: slice values that were left out for having too few labelled rows, or one class only.
    """

    name: str
    passed: bool
    value: float | None = None
    bound: float | None = None
    margin: float | None = None
    slice: str | None = None
    reason: str = ""
    too_small: tuple[str, ...] = ()

    def as_record(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "name": self.name,
            "passed": self.passed,
            "value": self.value,
            "bound": self.bound,
            "margin": self.margin,
            "slice": self.slice,
            "reason": self.reason,
            "too_small": list(self.too_small),
        }


def evaluate(gates: Sequence[Gate], measured: Evaluation, production: Evaluation | None = None) -> tuple[GateResult, ...]:
    """Each gate's result, in order. A gate that cannot be computed fails and says why.

    `not_below` holds against production, measured on the same rows: not worse by more than `by`, whichever way the metric
    is better. While nothing is in production it passes and says so. A gate on slices holds for every value with at least 50
    labelled rows of both classes; against production also only for values that production was measured on.
    """
    return tuple(_on_slices(g, measured, production) if g.slice else _overall(g, measured, production) for g in gates)


def _overall(gate: Gate, measured: Evaluation, production: Evaluation | None) -> GateResult:
    if result := _beside_production(gate, production):
        return result
    return _judged(gate, measured.overall, production.overall if production else None)


def _on_slices(gate: Gate, measured: Evaluation, production: Evaluation | None) -> GateResult:
    """The result of the slice value that passes by least."""
    if result := _beside_production(gate, production):
        return result
    column = gate.slice or ""
    others = {s.value: s.measured for s in production.of(column)} if production else {}
    large = [s for s in measured.of(column) if s.measured.enough]
    too_small = tuple(s.label for s in measured.of(column) if not s.measured.enough)
    if gate.op == "not_below":
        large = [s for s in large if s.value in others and others[s.value].enough]
    if not large:
        reason = f"no value of {column} has {LEAST_ROWS} labelled rows of both classes"
        return GateResult(gate.name, False, reason=reason, too_small=too_small)
    judged = [(s, _judged(gate, s.measured, others.get(s.value))) for s in large]
    return _worst(judged, too_small)


def _worst(judged: list[tuple[Slice, GateResult]], too_small: tuple[str, ...]) -> GateResult:
    at, result = min(judged, key=lambda pair: (pair[1].passed, float("-inf") if pair[1].margin is None else pair[1].margin))
    failed = sum(not r.passed for _, r in judged)
    reason = f"{at.column} {at.label}: {result.reason}" + (f"; {failed} of {len(judged)} values fail" if failed > 1 else "")
    return GateResult(result.name, result.passed, result.value, result.bound, result.margin, at.label, reason if failed else "", too_small)


def _beside_production(gate: Gate, production: Evaluation | None) -> GateResult | None:
    """The result of a comparison that has nothing to compare with."""
    if gate.op != "not_below":
        return None
    if gate.bound != "production":
        return GateResult(gate.name, False, reason=f"there is nothing called {gate.bound}; a gate compares with production")
    return None if production else GateResult(gate.name, True, reason="nothing is in production yet")


def _judged(gate: Gate, measured: Measured, production: Measured | None) -> GateResult:
    value = measured.values.get(gate.metric)
    if value is None:
        reason = measured.reasons.get(gate.metric, "it was not measured")
        return GateResult(gate.name, False, reason=f"{gate.metric} has no value: {reason}")
    bound, sign = _bound(gate, production)
    if bound is None:
        return GateResult(gate.name, False, value, reason=f"{gate.metric} of production has no value")
    margin = sign * (value - bound)
    passed = margin >= -_ROUNDING
    word = "below" if sign > 0 else "above"
    return GateResult(
        gate.name, passed, value, bound, margin, reason="" if passed else f"{value:.6g} is {word} {bound:.6g} by {-margin:.2g}"
    )


def _bound(gate: Gate, production: Measured | None) -> tuple[float | None, float]:
    """What the value is held against, and +1 where it must not be below, -1 where it must not be above."""
    if gate.op != "not_below":
        return float(gate.bound), 1.0 if gate.op == ">=" else -1.0
    sign = 1.0 if gate.metric in MORE_IS_BETTER else -1.0
    value = production.values.get(gate.metric) if production else None
    return (None if value is None else value - sign * gate.by), sign
