"""Features: per entity and time, by windowed aggregates or a function, readable as of any moment; and those of a request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from penstock.ground.errors import DefinitionError
from penstock.spec.sources import names
from penstock.spec.spans import seconds
from penstock.spec.tables import Replace, Table, Write, signature_of
from penstock.spec.tables import validated as valid_table

How = Literal["count", "sum", "mean", "min", "max", "last", "distinct", "quantile", "expression"]


@dataclass(frozen=True)
class Aggregate:
    """An aggregate over a column's known values; `count()` without a column counts rows.

    Attributes:
        at: the share below a `quantile`, from 0 to 1.
        sql: an `expression` of SQL aggregates over the columns of the table.
    """

    how: How
    column: str | None = None
    at: float | None = None
    sql: str = ""

    @property
    def text(self) -> str:
        """As it would be declared, for people: `quantile(delay, 0.9)`."""
        given = [self.column] if self.column else []
        given += [f"{self.at:g}"] if self.at is not None else []
        return f"{self.how}({', '.join(given) or self.sql})"


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


def last(column: str) -> Aggregate:
    """The newest value of a column by event time; null if it has no value.

    Of several with the same event time the one known last counts, then the greatest.
    """
    return Aggregate("last", column)


def distinct(column: str) -> Aggregate:
    """How many different values a column has, exactly; 0 if it has none."""
    return Aggregate("distinct", column)


def quantile(column: str, at: float) -> Aggregate:
    """The value below which a share of a column's values lies, exactly: `ps.quantile("delay", 0.9)`; 0.5 is the median.

    Between two values it is interpolated: definition 7 of Hyndman and Fan, the default of numpy. Null if there is no value.
    Raises: DefinitionError(E1001).
    """
    if not 0 <= at <= 1:
        raise DefinitionError("not a share", place=f"ps.quantile({column!r}, ...)", expected="a number from 0 to 1", got=at)
    return Aggregate("quantile", column, float(at))


def expression(sql: str) -> Aggregate:
    """SQL aggregates and what is computed of them, over the rows of a window: `ps.expression("sum(won) / nullif(sum(played), 0)")`."""
    return Aggregate("expression", sql=sql)


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
    """A table keyed by entity and time: windowed aggregates over another table's rows, or what a function makes.

    Windowed: for each entity and each time t at which the table has a row of it, and each window w, the aggregate over the rows
    with event time in [t - lag - w, t - lag] that were known by t. Output columns: the entity, `time`, and `{feature}_{window}`.

    By a function: its columns but the entity, the time and the column of known times are the features. Entity and time, with
    the known time if there is a column of it, are the key.

    Attributes:
        over: the table of windowed features (its name once the project is loaded); "" for a function.
        known: when a row became known: a fixed lag after its event, or a column.
        where: an SQL condition for the rows that count, e.g. `arr_delay IS NOT NULL`.
        ttl: how old a feature row may be when it is joined; None means any age.
        table: how a function makes the rows; None for windowed features.
        name: that of the function, or of the variable once the project is loaded.
    """

    over: Any
    entity: tuple[str, ...]
    time: str
    windows: tuple[str, ...] = ()
    aggregates: tuple[tuple[str, Aggregate], ...] = ()
    known: After | KnownAt = After("0s")
    where: str | None = None
    ttl: str | None = None
    doc: str = ""
    table: Table | None = None
    name: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of windowed features, in order."""
        return tuple(f"{name}_{window}" for window in self.windows for name, _ in self.aggregates)

    @property
    def params(self) -> tuple[tuple[str, Any], ...]:
        """The function's parameters."""
        return self.table.params if self.table is not None else ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the plain function, as if it had never been decorated."""
        if self.table is None:
            raise DefinitionError("windowed features have no function", place=str(self.over))
        return self.table(*args, **kwargs)


def features(
    over: Any = None,
    *,
    entity: str | list[str],
    time: str,
    windows: list[str] | None = None,
    known: After | str = After("0s"),
    where: str | None = None,
    ttl: str | None = None,
    write: Write | None = None,
    doc: str = "",
    **aggregates: Aggregate,
) -> Any:
    """Windowed features: `ps.features(departures, entity="carrier", time="scheduled_at", windows=["1d"], flights=ps.count())`.

    Without a table it decorates a function, as `@ps.table` does, whose rows are features: `@ps.features(entity="user", time="at")`.

    Raises: DefinitionError(E1001).
    """
    moment = KnownAt(known) if isinstance(known, str) else known
    if ttl is not None:
        seconds(ttl)
    if over is None:
        if windows or where or aggregates:
            raise DefinitionError(
                "features by a function have no windows, condition or aggregates",
                place="ps.features",
                got=", ".join([*(["windows"] if windows else []), *(["where"] if where else []), *aggregates]),
                hint="give the table first: ps.features(table, windows=[...], n=ps.count())",
            )
        return lambda fn: _by_function(fn, names(entity), time, moment, ttl, write or Replace(), doc)
    if write is not None:
        raise DefinitionError("windowed features write what their table's changes touch", place="ps.features(write=...)")
    if not windows or not aggregates:
        raise DefinitionError("features need at least one window and one aggregate", place="ps.features")
    for window in windows:
        seconds(window)
    for name, value in aggregates.items():
        if not isinstance(value, Aggregate):
            raise DefinitionError(
                "not an aggregate", place=f"ps.features({name}=...)", expected="ps.count(), ps.mean(column), ...", got=repr(value)[:40]
            )
    return Features(over, names(entity), time, tuple(windows), tuple(aggregates.items()), moment, where, ttl, doc)


def _by_function(
    fn: Callable[..., Any], entity: tuple[str, ...], time: str, known: After | KnownAt, ttl: str | None, write: Write, doc: str
) -> Features:
    inputs, forms, params = signature_of(fn)
    text = doc or (fn.__doc__ or "").strip()
    key = (*entity, time, *([known.column] if isinstance(known, KnownAt) else []))
    made = Table(fn.__name__, fn, None, inputs, forms, params, key=key, time=time, write=write, doc=text)
    return Features("", entity, time, known=known, ttl=ttl, doc=text, table=valid_table(made), name=fn.__name__)


@dataclass(frozen=True)
class OnDemand:
    """Features computed from a row itself when it is joined: name and SQL expression, in order.

    An expression sees the columns of the model's table (the fields of a request) and the columns of the feature assets joined
    to the row, as `{asset}_{column}`. It gives the same for the same row in training, in batch and online.
    """

    expressions: tuple[tuple[str, str], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.expressions)


def on_demand(**expressions: str) -> OnDemand:
    """Features of the row itself: `ps.on_demand(weekend="dayofweek(sent_at) IN (0, 6)")`; see `OnDemand`.

    Raises: DefinitionError(E1001).
    """
    if not expressions:
        raise DefinitionError("no expression is given", place="ps.on_demand", expected='name="SQL expression"')
    for name, text in expressions.items():
        if not isinstance(text, str) or not text.strip():
            raise DefinitionError("not an SQL expression", place=f"ps.on_demand({name}=...)", expected="a text", got=repr(text)[:40])
    return OnDemand(tuple(expressions.items()))
