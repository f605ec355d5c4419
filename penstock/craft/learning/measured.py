"""What was measured of a model: plain records that the state keeps as JSON, and which way each metric is better.

Nothing heavy is imported here, so that gates can be judged and shown without a learning library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Metrics for which more is better; for the others less is.
MORE_IS_BETTER = frozenset({"roc_auc", "average_precision", "accuracy"})
#: A slice value with fewer labelled rows is listed, but neither compared nor held to a gate.
LEAST_ROWS = 50


@dataclass(frozen=True)
class Measured:
    """Metrics of one set of rows.

    Attributes:
        rows: labelled rows.
        positives: rows whose label is true.
        values: metric -> value, None where it has none.
        reasons: metric -> why it has no value.
    """

    rows: int
    positives: int
    values: Mapping[str, float | None] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def enough(self) -> bool:
        """Whether these rows say something: at least 50, of both classes."""
        return self.rows >= LEAST_ROWS and 0 < self.positives < self.rows


@dataclass(frozen=True)
class Slice:
    """Metrics of the rows that have one value of a column; None is the value of rows without one."""

    column: str
    value: str | None
    measured: Measured

    @property
    def label(self) -> str:
        return "null" if self.value is None else self.value


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a test set, overall and by slices; the slices of a column are ordered by falling number of rows."""

    overall: Measured
    slices: tuple[Slice, ...] = ()

    def of(self, column: str) -> tuple[Slice, ...]:
        return tuple(s for s in self.slices if s.column == column)

    def ranked(self, column: str, metric: str) -> tuple[Slice, ...]:
        """Slices of a column from worst to best by a metric; those without enough rows or without a value are left out."""
        sign = 1.0 if metric in MORE_IS_BETTER else -1.0
        kept = [(value, s) for s in self.of(column) if s.measured.enough and (value := s.measured.values.get(metric)) is not None]
        return tuple(s for _, s in sorted(kept, key=lambda pair: (sign * pair[0], pair[1].label)))

    def as_record(self) -> dict[str, Any]:
        """JSON-ready; `from_record` reads it."""
        slices = [{"column": s.column, "value": s.value, **_record(s.measured)} for s in self.slices]
        return {"overall": _record(self.overall), "slices": slices}


def from_record(record: Mapping[str, Any]) -> Evaluation:
    """What `Evaluation.as_record` gave; keys it does not know are ignored."""
    slices = tuple(Slice(s["column"], s["value"], _measured(s)) for s in record["slices"])
    return Evaluation(_measured(record["overall"]), slices)


def _record(measured: Measured) -> dict[str, Any]:
    return {"rows": measured.rows, "positives": measured.positives, "values": dict(measured.values), "reasons": dict(measured.reasons)}


def _measured(record: Mapping[str, Any]) -> Measured:
    return Measured(record["rows"], record["positives"], dict(record["values"]), dict(record["reasons"]))
