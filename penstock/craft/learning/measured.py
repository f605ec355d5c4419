"""What was measured of a model: plain records that the state keeps as JSON, and which way each metric is better.

Nothing heavy is imported here, so that gates can be judged and shown without a learning library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from penstock.spec.models import Kind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Metrics for which more is better; for the others less is, and `bias` is best at 0.
MORE_IS_BETTER = frozenset(
    {
        "roc_auc", "average_precision", "accuracy", "balanced_accuracy", "f1_macro", "r2", "ndcg", "ndcg_10", "mean_average_precision",
        "mean_reciprocal_rank",
    }
)  # fmt: skip
#: A slice value with fewer labelled rows is listed, but neither compared nor held to a gate.
LEAST_ROWS = 50


def goodness(metric: str, value: float) -> float:
    """A number that is greater the better a metric's value is: the value, its negative, or the negative distance from 0 for `bias`."""
    if metric in MORE_IS_BETTER:
        return value
    return -abs(value) if metric == "bias" else -value


@dataclass(frozen=True)
class Measured:
    """Metrics of one set of rows.

    Attributes:
        rows: labelled rows.
        positives: rows whose label is true, for a binary model.
        values: metric -> value, None where it has none.
        reasons: metric -> why it has no value.
        intervals: metric -> the ends of its 95 % interval, for those that have one.
        kind: the kind of model.
    """

    rows: int
    positives: int
    values: Mapping[str, float | None] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    kind: Kind = "binary"

    @property
    def enough(self) -> bool:
        """Whether these rows say something: at least 50, and of both classes for a binary model."""
        return self.rows >= LEAST_ROWS and (self.kind != "binary" or 0 < self.positives < self.rows)


@dataclass(frozen=True)
class Slice:
    """Metrics of the rows that have one value of a column; None is the value of rows without one."""

    column: str
    value: str | None
    measured: Measured

    @property
    def label(self) -> str:
        return "null" if self.value is None else self.value


@dataclass(frozen=True, eq=False)
class WeakSlice:
    """Rows on which a model is worse than elsewhere, found without being asked for, and not by chance.

    Attributes:
        condition: an SQL condition over the columns, true for its rows alone.
        columns: the columns it is about.
        measured: metrics of all its rows.
        loss, elsewhere: the mean loss of its rows and of all others, on the half of the rows that it was not found on.
        effect: their difference in standard deviations of the loss (Cohen's d), on that half.
        p: the chance of such a difference if there were none, corrected for all slices that were tested.
        at: numbers of its rows; not kept in the record.
    """

    condition: str
    columns: tuple[str, ...]
    measured: Measured
    loss: float
    elsewhere: float
    effect: float
    p: float
    at: NDArray[np.int64] | None = None

    def as_record(self) -> dict[str, Any]:
        """JSON-ready; `weak_from_record` reads it."""
        return {
            "condition": self.condition,
            "columns": list(self.columns),
            **_record(self.measured),
            "loss": self.loss,
            "elsewhere": self.elsewhere,
            "effect": self.effect,
            "p": self.p,
        }


def weak_from_record(record: Mapping[str, Any]) -> WeakSlice:
    """What `WeakSlice.as_record` gave, without the numbers of its rows."""
    numbers = (float(record[name]) for name in ("loss", "elsewhere", "effect", "p"))
    return WeakSlice(record["condition"], tuple(record["columns"]), _measured(record), *numbers)


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a test set, overall and by slices; the slices of a column are ordered by falling number of rows."""

    overall: Measured
    slices: tuple[Slice, ...] = ()

    def of(self, column: str) -> tuple[Slice, ...]:
        return tuple(s for s in self.slices if s.column == column)

    def ranked(self, column: str, metric: str) -> tuple[Slice, ...]:
        """Slices of a column from worst to best by a metric; those without enough rows or without a value are left out."""
        kept = [(value, s) for s in self.of(column) if s.measured.enough and (value := s.measured.values.get(metric)) is not None]
        return tuple(s for _, s in sorted(kept, key=lambda pair: (goodness(metric, pair[0]), pair[1].label)))

    def as_record(self) -> dict[str, Any]:
        """JSON-ready; `from_record` reads it."""
        slices = [{"column": s.column, "value": s.value, **_record(s.measured)} for s in self.slices]
        return {"overall": _record(self.overall), "slices": slices}


def from_record(record: Mapping[str, Any]) -> Evaluation:
    """What `Evaluation.as_record` gave; keys it does not know are ignored."""
    slices = tuple(Slice(s["column"], s["value"], _measured(s)) for s in record["slices"])
    return Evaluation(_measured(record["overall"]), slices)


def _record(measured: Measured) -> dict[str, Any]:
    return {
        "kind": measured.kind,
        "rows": measured.rows,
        "positives": measured.positives,
        "values": dict(measured.values),
        "reasons": dict(measured.reasons),
        "intervals": {metric: list(ends) for metric, ends in measured.intervals.items()},
    }


def _measured(record: Mapping[str, Any]) -> Measured:
    """Records of before there were other kinds and intervals have neither."""
    intervals = {metric: (float(low), float(high)) for metric, (low, high) in record.get("intervals", {}).items()}
    return Measured(
        record["rows"], record["positives"], dict(record["values"]), dict(record["reasons"]), intervals, record.get("kind", "binary")
    )
