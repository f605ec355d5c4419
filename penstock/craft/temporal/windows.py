"""Windowed features as one DuckDB query: running totals and look-backs, exact at every moment.

A row counts at time t for a window w from the moment it is known (and has happened) until w after its event (lag included).
So a windowed count or sum is the running total of what has entered minus the running total of what has left, which costs one
pass and two look-backs per window, whatever the window's length. Integers, booleans and decimals are totalled as they are.
Doubles are totalled as whole numbers on a grid 2**-192 below the column's greatest value: differences of totals lose nothing,
and neither the order of rows nor the number of threads changes a bit. The other aggregates need frames: the engine's own, over
trees of partial results, which cost O(n log n) whatever the window's length; with a column of known times a join of each time
with the rows of its window.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from penstock.craft.temporal.expressions import framed, of_window
from penstock.ground.errors import DefinitionError
from penstock.ground.names import quote
from penstock.spec.features import Aggregate, Features, KnownAt
from penstock.spec.schema import Field, Schema
from penstock.spec.spans import span

_SUMMABLE = ("boolean", "int", "long", "float", "double", "decimal")
_FLOATS = ("float", "double")
_NUMBERS = ("int", "long", "float", "double", "decimal")
_TOTALLED = ("count", "sum", "mean", "min", "max")
_MOMENTS = ("timestamp", "timestamptz", "date")
_DIGIT = 96  # binary digits per half of a double on the grid; leaves room for 2**30 rows in a HUGEINT
_ONE = f"{2**_DIGIT}::HUGEINT"


@dataclass(frozen=True)
class _Column:
    """A column that is aggregated, and the number under which the query knows it."""

    number: int
    field: Field
    hows: frozenset[str]

    @property
    def summed(self) -> bool:
        return bool(self.hows & {"sum", "mean"})

    @property
    def gridded(self) -> bool:
        return self.summed and self.field.type.name in _FLOATS

    @property
    def total(self) -> str:
        """The type in which values are totalled: sums of 2**32 values of the column fit, or the engine refuses."""
        kind = self.field.type
        if kind.name == "decimal":
            return f"DECIMAL(38, {kind.scale})"
        return "BIGINT" if kind.name in ("boolean", "int") else "HUGEINT"


def feature_query(spec: Features, relation: str, schema: Schema, *, only: Collection[str] | None = None) -> str:
    """The query of a feature asset over a named relation: one row per entity and distinct time at which the relation has a row.

    Shapes:  relation (n rows) -> at most n rows; columns: entity, time (both as in the relation), then `spec.columns`.
             `only` some of these columns, computed as all of them would be.
    Order:   not defined.  Cost: O(n log n) time and O(n) memory for count, sum and mean; the others by frames three to ten
             times that, out of core by entity, and with `known=` a column O(rows in windows) time.
    Window:  with a lag the rows with event time in [t - lag - w, t - lag]; with a column of known times those with event time in
             [t - w, t] and known time <= t. Both ends are closed. `where` limits the rows that count, not the times.
    Nulls:   a null value does not count; a row without entity or time is left out; a row without known time is never known.
             count and distinct are 0 for no rows; sum, mean, min, max, last and quantile of no values are null; an expression
             is what it is over no rows.
    Types:   count and distinct long; sum long (boolean, int, long), decimal(38, s) or double; mean and quantile double; min, max
             and last as the column. An expression has the engine's types, and adds doubles in no particular order.
             A sum beyond its type is an error of the engine, never a wrong number.
    Doubles: within two units in the last place of the exact sum, plus 1e-57 of the column's greatest value per row. NaN and
             infinities count as IEEE 754 adds them, only in the windows that hold them; `max` takes NaN as greatest.
    Raises:  DefinitionError(E1001) for unknown columns, a sum of what has no sum, a time that is no time.
    Source:  own; tests/properties/test_windows.py compares with the definition.
    """
    spec, wanted = _wanted(spec, only)
    columns = _columns(spec, schema)
    head = [_base(spec, relation, columns), *_grid(columns)]
    rest = _by_column(spec, columns) if isinstance(spec.known, KnownAt) else _by_lag(spec, columns)
    names = [*(f"w.e{i} AS {quote(name)}" for i, name in enumerate(spec.entity)), f"w.t AS {quote(spec.time)}"]
    frames = _Frames(spec, relation, schema)
    values = [
        f"{frames.value(number, window) if aggregate.how not in _TOTALLED else _value(aggregate, columns, window)} AS {quote(column)}"
        for window, text in enumerate(spec.windows)
        for number, (name, aggregate) in enumerate(spec.aggregates)
        if (column := f"{name}_{text}") in wanted
    ]
    select = f"\nSELECT {', '.join([*names, *values])}\nFROM windowed w{_scales(columns)}{frames.joins()}"
    return "WITH " + ",\n".join([*head, *rest, *frames.tables()]) + select


def _wanted(spec: Features, only: Collection[str] | None) -> tuple[Features, set[str]]:
    """The features with just the windows and aggregates that some columns need, and those columns."""
    wanted = set(spec.columns if only is None else only)
    windows = tuple(w for w in spec.windows if any(f"{n}_{w}" in wanted for n, _ in spec.aggregates))
    aggregates = tuple((n, a) for n, a in spec.aggregates if any(f"{n}_{w}" in wanted for w in spec.windows))
    return replace(spec, windows=windows, aggregates=aggregates), wanted


# -- what is asked for ----------------------------------------------------------------------------------------------
def _columns(spec: Features, schema: Schema) -> dict[str | None, _Column]:
    """The aggregated columns by name; None stands for `count()`."""
    if not spec.entity:
        raise DefinitionError("features need an entity", place=str(spec.over))
    for name in spec.entity:
        schema.field(name, of=str(spec.over))
    for name in (spec.time, *([spec.known.column] if isinstance(spec.known, KnownAt) else [])):
        _require(schema.field(name, of=str(spec.over)), _MOMENTS, spec, "a time")
    hows: dict[str | None, set[str]] = {}
    for name, aggregate in spec.aggregates:
        if aggregate.how in _TOTALLED:
            hows.setdefault(aggregate.column, set()).add(aggregate.how)
        else:
            _require_framed(name, aggregate, spec, schema)
    found: dict[str | None, _Column] = {}
    for number, (column, asked) in enumerate(hows.items()):
        field = schema.field(column, of=str(spec.over)) if column is not None else schema.field(spec.time)
        if asked & {"sum", "mean"}:
            _require(field, _SUMMABLE, spec, "a number or boolean")
        if column is not None and field.type.fields:
            raise DefinitionError("a nested column has no aggregates", place=f"{spec.over}[{column}]", got=field.type)
        found[column] = _Column(number, field, frozenset(asked))
    return found


def _require(field: Field, kinds: tuple[str, ...], spec: Features, what: str) -> None:
    if field.type.name not in kinds:
        raise DefinitionError(f"not {what}", place=f"{spec.over}[{field.name}]", expected=", ".join(kinds), got=field.type)


def _require_framed(name: str, aggregate: Aggregate, spec: Features, schema: Schema) -> None:
    if aggregate.how == "expression":
        of_window(aggregate.sql, schema.names, place=f"{spec.over}.{name}")
        return
    field = schema.field(aggregate.column or "", of=str(spec.over))
    if aggregate.how == "quantile":
        _require(field, _NUMBERS, spec, "a number")
    if field.type.fields:
        raise DefinitionError("a nested column has no aggregates", place=f"{spec.over}[{field.name}]", got=field.type)


def _micros(text: str) -> int:
    return round(span(text).total_seconds() * 1_000_000)


# -- rows -----------------------------------------------------------------------------------------------------------
def _base(spec: Features, relation: str, columns: dict[str | None, _Column]) -> str:
    """Rows with entity, time, and the values that count; times in microseconds since the epoch are called u (event) and k (known)."""
    condition = f"coalesce(({spec.where}\n), false)" if spec.where else "true"
    named = {f"e{i}": name for i, name in enumerate(spec.entity)} | {"t": spec.time}
    if isinstance(spec.known, KnownAt):
        named["k"] = spec.known.column
        condition = f"{condition} AND r.{quote(spec.known.column)} IS NOT NULL"
    values = {c.number: name for name, c in columns.items() if name is not None}
    taken = [f"r.{quote(name)} AS {alias}" for alias, name in (named | {f"c{n}": name for n, name in values.items()}).items()]
    present = " AND ".join(f"r.{quote(name)} IS NOT NULL" for name in (*spec.entity, spec.time))
    inner = f"SELECT {', '.join(taken)}, {condition} AS counts FROM {quote(relation)} r WHERE {present}"
    known = ["epoch_us(k) AS k"] if isinstance(spec.known, KnownAt) else []
    counted = [f"CASE WHEN counts THEN c{n} END AS v{n}" for n in values]
    return f"base AS (SELECT {', '.join([_entity(spec), 't, epoch_us(t) AS u, counts', *known, *counted])}\nFROM ({inner}))"


def _grid(columns: dict[str | None, _Column]) -> list[str]:
    """One row with, per double column, the power of two that puts its greatest value near 2**96."""
    scales = [
        f"pow(2.0, {_DIGIT} - coalesce(greatest(ceil(log2(nullif(max(abs(v{n}::DOUBLE)) FILTER (isfinite(v{n})), 0))), -900), 0)) AS s{n}"
        for n in (c.number for c in columns.values() if c.gridded)
    ]
    return [f"scales AS MATERIALIZED (SELECT {', '.join(scales)} FROM base)"] if scales else []


# -- totals ---------------------------------------------------------------------------------------------------------
def _parts(columns: dict[str | None, _Column]) -> dict[str, tuple[str, str]]:
    """What is totalled: name -> (aggregate over rows, type of its total)."""
    parts: dict[str, tuple[str, str]] = {}
    for name, column in columns.items():
        n = column.number
        if name is None:
            parts[f"n{n}"] = ("count(*) FILTER (counts)", "BIGINT")
        elif column.hows & {"count", "sum", "mean"}:
            parts[f"n{n}"] = (f"count(v{n})", "BIGINT")
        if column.gridded:
            x = f"CASE WHEN isfinite(v{n}) THEN v{n} * s{n} END"
            parts[f"h{n}"] = (f"sum(trunc({x})::HUGEINT)", "HUGEINT")
            parts[f"l{n}"] = (f"sum((({x} - trunc({x})) * {2.0**_DIGIT!r}::DOUBLE)::HUGEINT)", "HUGEINT")
            parts[f"p{n}"] = (f"count(*) FILTER (v{n} >= 'inf'::DOUBLE)", "BIGINT")  # NaN sorts above inf
            parts[f"m{n}"] = (f"count(*) FILTER (v{n} <= '-inf'::DOUBLE OR isnan(v{n}))", "BIGINT")
        elif column.summed:
            value = f"v{n}::INT" if column.field.type.name == "boolean" else f"v{n}"
            parts[f"h{n}"] = (f"sum({value})", column.total)
    return parts


def _totals(name: str, moment: str, spec: Features, columns: dict[str | None, _Column], *, only: str = "true", frames: bool = False) -> str:
    """Running totals per entity, ordered by a moment `u` of the rows; with `frames` also the extremes of each window."""
    parts, entity = _parts(columns), _entity(spec)
    sums = [f"coalesce({aggregate}, 0)::{kind} AS {part}" for part, (aggregate, kind) in parts.items()]
    extremes = [f"{how}(v{n}) AS {how}{n}" for how, n in _extremes(columns)] if frames else []
    grouped = f"SELECT {', '.join([entity, moment, *sums, *extremes])} FROM base{_scales(columns)} WHERE {only} GROUP BY ALL"
    run = f"PARTITION BY {entity} ORDER BY u"
    running = [f"(sum({part}) OVER ({run} ROWS UNBOUNDED PRECEDING))::{kind} AS {part}" for part, (_, kind) in parts.items()]
    framed = [
        f"{how}({how}{n}) OVER ({run} RANGE BETWEEN {lag + width} PRECEDING AND {lag} PRECEDING) AS {how}{n}_{i}"
        for i, (lag, width) in enumerate(_windows(spec))
        for how, n in _extremes(columns)
        if frames
    ]
    times = "t, u" if frames else "u"
    return f"{name} AS MATERIALIZED (SELECT {', '.join([entity, times, *running, *framed])}\nFROM ({grouped}))"


def _by_lag(spec: Features, columns: dict[str | None, _Column]) -> list[str]:
    """All rows enter after the same lag: one table of totals serves every window."""
    windows = _windows(spec)
    lag = windows[0][0]
    joins = [f"ASOF LEFT JOIN totals a ON {_same(spec, 'a')} AND p.u - {lag} >= a.u"]
    joins += [
        f"ASOF LEFT JOIN totals b{i} ON {_same(spec, f'b{i}')} AND p.u - {lag + width} > b{i}.u" for i, (_, width) in enumerate(windows)
    ]
    between = [_between(part, kind, "a", f"b{i}", i) for i in range(len(windows)) for part, (_, kind) in _parts(columns).items()]
    framed = [f"p.{how}{n}_{i}" for i in range(len(windows)) for how, n in _extremes(columns)]
    select = ", ".join([*(f"p.e{i}" for i in range(len(spec.entity))), "p.t", *between, *framed])
    return [
        _totals("totals", "t, epoch_us(t) AS u", spec, columns, frames=True),
        f"windowed AS (SELECT {select}\nFROM totals p\n" + "\n".join(joins) + ")",
    ]


def _by_column(spec: Features, columns: dict[str | None, _Column]) -> list[str]:
    """Each row enters when it is known and has happened; it counts in a window only if that is before it leaves the window."""
    tables, joins, selected = [f"spine AS MATERIALIZED (SELECT DISTINCT {_entity(spec)}, t, u FROM base)"], [], []
    parts = _parts(columns)
    for i, (_, width) in enumerate(_windows(spec) if parts else ()):
        only = f"counts AND greatest(u, k) <= u + {width}"
        tables.append(_totals(f"entered{i}", "greatest(u, k) AS u", spec, columns, only=only))
        tables.append(_totals(f"left{i}", f"u + {width} AS u", spec, columns, only=only))
        joins.append(f"ASOF LEFT JOIN entered{i} a{i} ON {_same(spec, f'a{i}')} AND p.u >= a{i}.u")
        joins.append(f"ASOF LEFT JOIN left{i} b{i} ON {_same(spec, f'b{i}')} AND p.u > b{i}.u")
        selected += [_between(part, kind, f"a{i}", f"b{i}", i) for part, (_, kind) in parts.items()]
    if _extremes(columns):
        tables.append(_joined_extremes(spec, columns))
        joins.append(f"LEFT JOIN extremes x ON {_same(spec, 'x')} AND p.u = x.u")
        selected += [f"x.{how}{n}_{i}" for i in range(len(spec.windows)) for how, n in _extremes(columns)]
    select = ", ".join([*(f"p.e{i}" for i in range(len(spec.entity))), "p.t", *selected])
    return [*tables, f"windowed AS (SELECT {select}\nFROM spine p\n" + "\n".join(joins) + ")"]


def _joined_extremes(spec: Features, columns: dict[str | None, _Column]) -> str:
    """The extremes per time, by joining each time with all rows of its widest window."""
    widths = [width for _, width in _windows(spec)]
    extremes = [
        f"{how}(r.v{n}) FILTER (r.u + {width} >= p.u) AS {how}{n}_{i}" for i, width in enumerate(widths) for how, n in _extremes(columns)
    ]
    keys = ", ".join([*(f"p.e{i}" for i in range(len(spec.entity))), "p.u"])
    on = f"{_same(spec, 'r')} AND r.counts AND greatest(r.u, r.k) <= p.u AND r.u + {max(widths)} >= p.u"
    return f"extremes AS (SELECT {keys}, {', '.join(extremes)}\nFROM spine p JOIN base r ON {on} GROUP BY {keys})"


def _windows(spec: Features) -> list[tuple[int, int]]:
    """(lag, width) of each window in microseconds."""
    lag = 0 if isinstance(spec.known, KnownAt) else _micros(spec.known.lag)
    return [(lag, _micros(text)) for text in spec.windows]


def _extremes(columns: dict[str | None, _Column]) -> list[tuple[str, int]]:
    return [(how, c.number) for c in columns.values() for how in ("min", "max") if how in c.hows]


def _entity(spec: Features) -> str:
    return ", ".join(f"e{i}" for i in range(len(spec.entity)))


def _same(spec: Features, other: str) -> str:
    return " AND ".join(f"p.e{i} = {other}.e{i}" for i in range(len(spec.entity)))


def _scales(columns: dict[str | None, _Column]) -> str:
    return ", scales" if any(c.gridded for c in columns.values()) else ""


def _between(part: str, kind: str, entered: str, left: str, window: int) -> str:
    return f"coalesce({entered}.{part}, 0::{kind}) - coalesce({left}.{part}, 0::{kind}) AS {part}_{window}"


# -- frames ---------------------------------------------------------------------------------------------------------
class _Frames:
    """The aggregates that no difference of totals gives, as tables of their own beside `windowed`; none if there are none.

    A user's expression reads the relation's columns by their own names, so nothing else that it sees may be called so.
    """

    def __init__(self, spec: Features, relation: str, schema: Schema) -> None:
        self._spec, self._relation = spec, relation
        self._asked = {i: a for i, (_, a) in enumerate(spec.aggregates) if a.how not in _TOTALLED}
        self._by_column = isinstance(spec.known, KnownAt)
        self._own = "_"
        while any(name.lower().startswith(self._own) for name in schema.names):
            self._own += "_"
        self._counts = f"coalesce(({spec.where}\n), false)" if spec.where else ""
        self._keys = [f"{self._own}e{i}" for i in range(len(spec.entity))]

    def tables(self) -> list[str]:
        if not self._asked:
            return []
        return self._joined() if self._by_column else [self._framed()]

    def joins(self) -> str:
        if not self._asked:
            return ""
        tables = [f"x{window}" for window in range(len(self._spec.windows))] if self._by_column else ["framed"]
        same = [" AND ".join(f"w.e{i} = {x}.{key}" for i, key in enumerate(self._keys)) for x in tables]
        joins = [f"\nLEFT JOIN {x} ON {on} AND w.t = {x}.{self._own}t" for x, on in zip(tables, same, strict=True)]
        return "".join(joins) + ("\nCROSS JOIN nothing" if self._by_column else "")

    def value(self, number: int, window: int) -> str:
        if not self._by_column:
            return f"framed.{self._own}g{number}_{window}"
        name = f"{self._own}g{number}"
        return f"CASE WHEN x{window}.{self._own}t IS NULL THEN nothing.{name} ELSE x{window}.{name} END"

    def _aggregate(self, asked: Aggregate) -> str:
        """As an SQL expression over rows of the relation."""
        spec, column = self._spec, f"r.{quote(asked.column)}" if asked.column is not None else ""
        if asked.how == "distinct":
            return f"count(DISTINCT {column})"
        if asked.how == "quantile":
            return f"quantile_cont({column}::DOUBLE, {asked.at!r})"
        if asked.how == "last":
            known = [f"r.{quote(spec.known.column)}"] if isinstance(spec.known, KnownAt) else []
            return f"arg_max({column}, row({', '.join([f'r.{quote(spec.time)}', *known, column])}))"
        return f"({asked.sql})"

    def _framed(self) -> str:
        """Frames over all rows; rows of the same time have the same frame, one of them tells."""
        spec, own = self._spec, self._own
        entity = [f"r.{quote(name)}" for name in spec.entity]
        values, names = [], []
        for window in range(len(spec.windows)):
            for number, asked in self._asked.items():
                names.append(f"{own}g{number}_{window}")
                values.append(f"{framed(self._aggregate(asked), f'{own}f{window}', self._counts or None)} AS {names[-1]}")
        order = f"PARTITION BY {', '.join(entity)} ORDER BY epoch_us(r.{quote(spec.time)})"
        frames = [
            f"{own}f{i} AS ({order} RANGE BETWEEN {lag + width} PRECEDING AND {lag} PRECEDING)"
            for i, (lag, width) in enumerate(_windows(spec))
        ]
        heads = [*(f"{e} AS {key}" for e, key in zip(entity, self._keys, strict=True)), f"r.{quote(spec.time)} AS {own}t"]
        present = " AND ".join(f"r.{quote(name)} IS NOT NULL" for name in (*spec.entity, spec.time))
        rows = f"SELECT {', '.join([*heads, *values])} FROM {quote(self._relation)} r WHERE {present} WINDOW {', '.join(frames)}"
        keys = ", ".join([*self._keys, f"{own}t"])
        return f"framed AS MATERIALIZED (SELECT {keys}, {', '.join(f'first({n}) AS {n}' for n in names)}\nFROM ({rows}) GROUP BY {keys})"

    def _joined(self) -> list[str]:
        """Each time with the rows of its window that were known by then; and what the aggregates are over no rows."""
        spec, own = self._spec, self._own
        assert isinstance(spec.known, KnownAt)
        values = ", ".join(f"{self._aggregate(asked)} AS {own}g{number}" for number, asked in self._asked.items())
        keys = [*self._keys, f"{own}t", f"{own}u"]
        times = f"SELECT {', '.join([*(f'e{i} AS {key}' for i, key in enumerate(self._keys)), f't AS {own}t', f'u AS {own}u'])} FROM spine"
        at, known = f"epoch_us(r.{quote(spec.time)})", f"epoch_us(r.{quote(spec.known.column)})"
        same = [f"r.{quote(name)} = p.{key}" for name, key in zip(spec.entity, self._keys, strict=True)]
        same += [f"{at} <= p.{own}u", f"{known} <= p.{own}u", *([self._counts] if self._counts else [])]
        tables = [
            f"x{i} AS (SELECT {', '.join(f'p.{key}' for key in keys)}, {values}\nFROM ({times}) p JOIN {quote(self._relation)} r "
            f"ON {' AND '.join([*same, f'{at} + {width} >= p.{own}u'])} GROUP BY {', '.join(f'p.{key}' for key in keys)})"
            for i, (_, width) in enumerate(_windows(spec))
        ]
        return [*tables, f"nothing AS (SELECT {values} FROM {quote(self._relation)} r WHERE false)"]


# -- values ---------------------------------------------------------------------------------------------------------
def _value(aggregate: Aggregate, columns: dict[str | None, _Column], window: int) -> str:
    """One feature of one window, from the differences of totals."""
    column = columns[aggregate.column]
    n = column.number
    rows = f"w.n{n}_{window}"
    if aggregate.how == "count":
        return rows
    if aggregate.how in ("min", "max"):
        return f"w.{aggregate.how}{n}_{window}"
    total = _off_grid(n, window) if column.gridded else f"w.h{n}_{window}"
    if aggregate.how == "mean":
        return f"{total}::DOUBLE / nullif({rows}, 0)"
    kind = f"DECIMAL(38, {column.field.type.scale})" if column.field.type.name == "decimal" else "BIGINT"
    return f"CASE WHEN {rows} > 0 THEN {total if column.gridded else f'{total}::{kind}'} END"


def _off_grid(n: int, window: int) -> str:
    """The double nearest to a sum on the grid (up to two roundings), or what IEEE 754 gives for NaN and infinities."""
    low, plus, minus = f"w.l{n}_{window}", f"w.p{n}_{window}", f"w.m{n}_{window}"
    high, rest = f"(w.h{n}_{window} + {low} // {_ONE})", f"({low} % {_ONE})"
    # small sums are put together before they are rounded: the halves may have different signs and cancel
    finite = (
        f"CASE WHEN abs({high}) < 1048576 THEN ({high} * {_ONE} + {rest})::DOUBLE / {2.0**_DIGIT!r}::DOUBLE "
        f"ELSE {high}::DOUBLE + {rest}::DOUBLE / {2.0**_DIGIT!r}::DOUBLE END / scales.s{n}"
    )
    return (
        f"(CASE WHEN {plus} > 0 AND {minus} > 0 THEN 'nan'::DOUBLE WHEN {plus} > 0 THEN 'inf'::DOUBLE "
        f"WHEN {minus} > 0 THEN '-inf'::DOUBLE ELSE {finite} END)"
    )
