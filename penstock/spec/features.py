"""Features: windowed aggregates per entity and time, readable as of any moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from penstock.ground.errors import DefinitionError
from penstock.spec.sources import names
from penstock.spec.spans import seconds

How = Literal["count", "sum", "mean", "min", "max"]


@dataclass(frozen=True)
class Aggregate:
    """An aggregate over a column's known values; `count()` without a column counts rows."""

    how: How
    column: str | None = None


def count(column: str | None = None) -> Aggregate:
    """How many rows, or how many values of a column."""
    return Aggregate("count", column)


def sum_(column: str) -> Aggregate:
    """The sum of a column; null if it has no value."""
    return Aggregate("sum", column)


def mean(column: str) -> Aggregate:
    """The mean of a column; null if it has no value."""
    return Aggregate("mean", column)


def min_(column: str) -> Aggregate:
    """The least value of a column."""
    return Aggregate("min", column)


def max_(column: str) -> Aggregate:
    """The greatest value of a column."""
    return Aggregate("max", column)


@dataclass(frozen=True)
class After:
    """Known a fixed span after the event."""

    lag: str


@dataclass(frozen=True)
class KnownAt:
    """Known at the moment in a column."""

    column: str


def after(lag: str) -> After:
    """Known a fixed span after the event: `known=ps.after("6h")`.

    Raises: DefinitionError(E1001).
    """
    seconds(lag)
    return After(lag)


@dataclass(frozen=True)
class Features:
    """Windowed aggregates over a table's rows.

    For each entity and each time t at which the table has a row of it, and each window w: the aggregate over the rows with
    event time in [t - lag - w, t - lag] that were known by t. Output columns: the entity, `time`, and `{feature}_{window}`.

    Attributes:
        over: the table (its name once the project is loaded).
        known: when a row became known: a fixed lag after its event, or a column.
        where: an SQL condition for the rows that count, e.g. `arr_delay IS NOT NULL`.
        ttl: how old a feature row may be when it is joined; None means any age.
    """

    over: Any
    entity: tuple[str, ...]
    time: str
    windows: tuple[str, ...]
    aggregates: tuple[tuple[str, Aggregate], ...]
    known: After | KnownAt = After("0s")
    where: str | None = None
    ttl: str | None = None
    doc: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the feature columns, in order."""
        return tuple(f"{name}_{window}" for window in self.windows for name, _ in self.aggregates)


def features(
    over: Any,
    *,
    entity: str | list[str],
    time: str,
    windows: list[str],
    known: After | str = After("0s"),
    where: str | None = None,
    ttl: str | None = None,
    doc: str = "",
    **aggregates: Aggregate,
) -> Features:
    """Windowed features: `ps.features(departures, entity="carrier", time="scheduled_at", windows=["1d"], flights=ps.count())`.

    Raises: DefinitionError(E1001).
    """
    if not windows or not aggregates:
        raise DefinitionError("features need at least one window and one aggregate", place="ps.features")
    for window in windows:
        seconds(window)
    for name, value in aggregates.items():
        if not isinstance(value, Aggregate):
            raise DefinitionError(
                "not an aggregate", place=f"ps.features({name}=...)", expected="ps.count(), ps.mean(column), ...", got=repr(value)[:40]
            )
    moment = KnownAt(known) if isinstance(known, str) else known
    return Features(over, names(entity), time, tuple(windows), tuple(aggregates.items()), moment, where, ttl, doc)
