"""Windowed features equal their definition, computed slowly in Python with exact fractions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import product
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.craft.temporal.expressions import AGGREGATES as AGGREGATE_NAMES
from penstock.craft.temporal.windows import feature_query
from penstock.ground.errors import DefinitionError
from penstock.ground.names import quote
from penstock.spec.features import (
    Features,
    KnownAt,
    after,
    count,
    distinct,
    expression,
    features,
    last,
    max_,
    mean,
    min_,
    quantile,
    sum_,
)
from penstock.spec.schema import Field, Schema, Type, schema_of
from penstock.spec.spans import span

SCHEMA = schema_of(
    kind="string", place="int", at="timestamp", told="timestamp", n="long", flag="boolean", x="double", money="decimal(12,2)", word="string"
)
ARROW = pa.schema(
    [
        ("kind", pa.string()),
        ("place", pa.int32()),
        ("at", pa.timestamp("us")),
        ("told", pa.timestamp("us")),
        ("n", pa.int64()),
        ("flag", pa.bool_()),
        ("x", pa.float64()),
        ("money", pa.decimal128(12, 2)),
        ("word", pa.string()),
    ]
)
AGGREGATES = {
    "rows": count(),
    "present": count("n"),
    "n_sum": sum_("n"),
    "n_mean": mean("n"),
    "share": mean("flag"),
    "flags": sum_("flag"),
    "x_sum": sum_("x"),
    "x_mean": mean("x"),
    "x_min": min_("x"),
    "money_sum": sum_("money"),
    "n_max": max_("n"),
    "word_min": min_("word"),
    "word_last": last("word"),
    "n_last": last("n"),
    "words": distinct("word"),
    "n_kinds": distinct("n"),
    "n_high": quantile("n", 0.9),
    "money_median": quantile("money", 0.5),
    "ratio": expression("count(*) FILTER (WHERE flag) * 2 / nullif(count(n), 0)"),
    "spread": expression("coalesce(max(n) - min(n), -1)"),
    "both": expression("sum(money) + sum(n % 7)"),
}
EPOCH = datetime.fromisoformat("1970-01-01")
Row = dict[str, Any]


@pytest.fixture(scope="module")
def duck() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        yield con


def moment(minutes: int) -> datetime:
    return EPOCH + timedelta(minutes=minutes)


def some(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


times = st.integers(-40, 40).map(moment)  # on both sides of 1970, with many ties
doubles = st.floats(allow_nan=False, allow_infinity=False, width=32) | st.sampled_from([0.1, 0.2, -0.3, 1e16, -1e16, 1e-12])
rows_of = st.lists(
    st.fixed_dictionaries(
        {
            "kind": some(st.sampled_from("ab")),
            "place": st.integers(0, 1),
            "at": st.none() | times | times | times | times | times,
            "told": some(times),
            "n": some(st.integers(-(2**57), 2**57) | st.integers(-3, 3)),
            "flag": some(st.booleans()),
            "x": some(doubles),
            "money": some(st.decimals(-(10**9), 10**9, places=2)),
            "word": some(st.sampled_from(["p", "Q", "é", ""])),
        }
    ),
    max_size=40,
)


def by_definition(spec: Features, rows: list[Row]) -> dict[tuple[Any, ...], list[Any]]:
    """Feature values per (entity..., time), straight from the definition."""
    spine = {
        (*(r[e] for e in spec.entity), r[spec.time])
        for r in rows
        if r[spec.time] is not None and all(r[e] is not None for e in spec.entity)
    }
    return {key: [one(spec, rows, key, w, a) for w in spec.windows for _, a in spec.aggregates] for key in spine}


def one(spec: Features, rows: list[Row], key: tuple[Any, ...], window: str, aggregate: Any) -> Any:
    t = key[-1]
    lag = timedelta() if isinstance(spec.known, KnownAt) else span(spec.known.lag)
    chosen = []
    for row in rows:
        if tuple(row[e] for e in spec.entity) != key[:-1] or row[spec.time] is None:
            continue
        if isinstance(spec.known, KnownAt) and (row[spec.known.column] is None or row[spec.known.column] > t):
            continue
        if spec.where and row["flag"] is not True:
            continue
        if t - lag - span(window) <= row[spec.time] <= t - lag:
            chosen.append(row)
    if aggregate.how == "expression":
        return expressed(aggregate.sql, chosen)
    if aggregate.column is None:
        return len(chosen)
    values = [row[aggregate.column] for row in chosen if row[aggregate.column] is not None]
    if aggregate.how == "count":
        return len(values)
    if aggregate.how == "distinct":
        return len(set(values))
    if not values:
        return None
    if aggregate.how == "quantile":
        return interpolated(sorted(map(Fraction, values)), aggregate.at)
    if aggregate.how == "last":
        known = spec.known.column if isinstance(spec.known, KnownAt) else "at"
        return max((r["at"], r[known], r[aggregate.column]) for r in chosen if r[aggregate.column] is not None)[-1]
    if aggregate.how in ("min", "max"):
        return (min if aggregate.how == "min" else max)(values)
    total = sum(Fraction(v) for v in values)
    return total / len(values) if aggregate.how == "mean" else total


def interpolated(values: list[Fraction], at: float) -> tuple[Fraction, Fraction]:
    """The value at a share of the sorted values, and how far off doubles may be: their own rounding of rank and difference."""
    place = Fraction(at * (len(values) - 1))
    low, high = values[int(place)], values[min(int(place) + 1, len(values) - 1)]
    return low + (high - low) * (place - int(place)), max(abs(low), abs(high)) * Fraction(1, 2**50)


def expressed(sql: str, rows: list[Row]) -> Any:
    n = [r["n"] for r in rows if r["n"] is not None]
    if "FILTER" in sql:
        return Fraction(2 * sum(r["flag"] is True for r in rows), len(n)) if n else None
    if "coalesce" in sql:
        return max(n) - min(n) if n else -1
    money = [Fraction(r["money"]) for r in rows if r["money"] is not None]
    return (
        sum(money) + sum(int(math.fmod(v, 7)) if abs(v) < 2**50 else (abs(v) % 7) * (1 if v > 0 else -1) for v in n)
        if money and n
        else None
    )


def same(got: Any, expected: Any, column: str) -> bool:
    if isinstance(expected, tuple):
        return got is not None and abs(Fraction(got) - expected[0]) <= expected[1]
    if column.startswith(("x_s", "ratio")) or "mean" in column or "share" in column:
        if got is None or expected is None:
            return got is expected
        return abs(Fraction(got) - expected) <= abs(expected) * Fraction(1, 2**51) + Fraction(1, 10**17)
    return bool(got == expected) and (got is None) == (expected is None)


def computed(duck: duckdb.DuckDBPyConnection, spec: Features, rows: list[Row], schema: Schema = SCHEMA) -> dict[tuple[Any, ...], list[Any]]:
    with duck.cursor() as con:
        con.register("some rows", pa.Table.from_pylist(rows, schema=ARROW))
        result = con.sql(feature_query(spec, "some rows", schema))
        names, found = result.columns, result.fetchall()
    assert names == [*spec.entity, spec.time, *spec.columns]
    keys = len(spec.entity) + 1
    assert len({row[:keys] for row in found}) == len(found)
    return {row[:keys]: list(row[keys:]) for row in found}


@pytest.mark.parametrize(("known", "where"), [*product([after("0s"), after("7m"), "told"], [None, "flag -- only these"])])
@settings(max_examples=10, deadline=None)
@given(rows=rows_of, entity=st.sampled_from([["kind"], ["kind", "place"], ["place"]]))
def test_features_equal_their_definition(
    duck: duckdb.DuckDBPyConnection, known: Any, where: str | None, rows: list[Row], entity: list[str]
) -> None:
    spec = features("t", entity=entity, time="at", windows=["3m", "20m", "1h"], known=known, where=where, **AGGREGATES)
    expected = by_definition(spec, rows)
    got = computed(duck, spec, rows)
    assert got.keys() == expected.keys()
    for key, values in got.items():
        wrong = [
            (key, name, value, want)
            for name, value, want in zip(spec.columns, values, expected[key], strict=True)
            if not same(value, want, name)
        ]
        assert not wrong


def row(minutes: int, **values: Any) -> Row:
    return {
        "kind": "a",
        "place": 0,
        "at": moment(minutes),
        "told": None,
        "n": None,
        "flag": None,
        "x": None,
        "money": None,
        "word": None,
    } | values


def test_a_double_that_leaves_the_window_leaves_nothing_behind(duck: duckdb.DuckDBPyConnection) -> None:
    spec = features("t", entity="kind", time="at", windows=["5m"], total=sum_("x"), middle=mean("x"))
    rows = [row(0, x=1e22), row(10, x=0.1), row(12, x=0.2), row(30), row(31, x=1.0), row(32, x=-1.0)]
    got = [computed(duck, spec, rows)["a", moment(m)] for m in (0, 10, 12, 30, 32)]
    assert got == [[1e22, 1e22], [0.1, 0.1], [math.fsum([0.1, 0.2]), math.fsum([0.1, 0.2]) / 2], [None, None], [0.0, 0.0]]
    assert math.copysign(1, got[4][0]) == 1


def test_nan_and_infinity_count_only_where_they_stand(duck: duckdb.DuckDBPyConnection) -> None:
    spec = features("t", entity="kind", time="at", windows=["5m"], total=sum_("x"))
    rows = [row(0, x=math.nan), row(10, x=1.5), row(20, x=math.inf), row(21, x=-math.inf), row(26, x=2.0), row(40, x=2.5)]
    got = computed(duck, spec, rows)
    assert math.isnan(got["a", moment(0)][0])
    assert [got["a", moment(m)][0] for m in (10, 20, 40)] == [1.5, math.inf, 2.5]
    assert math.isnan(got["a", moment(21)][0])
    assert got["a", moment(26)][0] == -math.inf


@pytest.mark.parametrize("unit", [2.0**-1000, 1e-40, 1.0, 1e40, 1e300])
def test_doubles_of_any_size_are_summed(duck: duckdb.DuckDBPyConnection, unit: float) -> None:
    spec = features("t", entity="kind", time="at", windows=["1h"], total=sum_("x"))
    values = [0.1 * unit, 0.7 * unit, -0.3 * unit, 3e-9 * unit]
    got = computed(duck, spec, [row(m, x=x) for m, x in enumerate(values)])
    assert got["a", moment(3)][0] == pytest.approx(math.fsum(values), rel=4e-16, abs=0)


def test_the_order_of_rows_and_the_threads_change_no_bit(duck: duckdb.DuckDBPyConnection) -> None:
    spec = features("t", entity="kind", time="at", windows=["10m", "1d"], total=sum_("x"), middle=mean("x"))
    rows = [row(i * 7919 % 2000, kind="ab"[i % 2], x=math.sin(i) * 10.0 ** (i % 9)) for i in range(4000)]
    first = computed(duck, spec, rows)
    duck.execute("SET threads = 1")
    try:
        assert computed(duck, spec, rows[::-1]) == first
    finally:
        duck.execute("RESET threads")


def test_a_sum_beyond_long_is_an_error_not_a_wrong_number(duck: duckdb.DuckDBPyConnection) -> None:
    spec = features("t", entity="kind", time="at", windows=["5m"], total=sum_("n"))
    with pytest.raises(duckdb.ConversionException):
        computed(duck, spec, [row(0, n=2**62), row(1, n=2**62)])


def test_instants_with_zone_and_dates_are_times(duck: duckdb.DuckDBPyConnection) -> None:
    for kind in ("timestamptz", "date"):
        duck.execute(f"CREATE OR REPLACE TEMP TABLE days AS SELECT 1 AS e, ('2013-03-0' || i)::{kind} AS at FROM range(8, 10) r(i)")
        spec = features("days", entity="e", time="at", windows=["1d"], rows=count())
        found = duck.sql(feature_query(spec, "days", schema_of(e="int", at=kind))).to_arrow_table()
        assert sorted(found["rows_1d"].to_pylist()) == [1, 2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"entity": "kin"}, "did you mean `kind`"),
        ({"time": "n"}, "not a time"),
        ({"known": "word"}, "not a time"),
        ({"total": sum_("word")}, "not a number"),
        ({"total": mean("y")}, "no such column"),
    ],
)
def test_what_cannot_be_computed_is_refused(change: dict[str, Any], words: str) -> None:
    spec = features("t", **({"entity": "kind", "time": "at", "windows": ["1d"], "total": sum_("x")} | change))
    with pytest.raises(DefinitionError, match=words):
        feature_query(spec, "t", SCHEMA)


def test_columns_may_be_called_as_the_query_calls_its_own(duck: duckdb.DuckDBPyConnection) -> None:
    names = ("e0", "t", "u", "k", "counts", "c0", "v0", "n0", "scales", "order")
    rows = ", ".join(f"{i} AS {quote(name)}" for i, name in enumerate(names) if name != "t")
    duck.execute(f"CREATE OR REPLACE TEMP TABLE base AS SELECT {rows}, make_timestamp(i * 60000000) AS t FROM range(3) r(i)")
    schema = Schema(tuple(Field(name, Type("timestamp" if name == "t" else "int")) for name in names))
    spec = features(
        "base", entity=["order", "u"], time="t", windows=["5m"], where="counts = 4 AND c0 = 5 AND t > '1970-01-01'", s=sum_("v0")
    )
    assert sorted(duck.sql(feature_query(spec, "base", schema))["s_5m"].fetchall(), key=str) == [(12,), (6,), (None,)]


def test_the_engines_aggregates_are_all_known(duck: duckdb.DuckDBPyConnection) -> None:
    found = duck.sql("SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type = 'aggregate'").fetchall()
    assert {name for (name,) in found} == AGGREGATE_NAMES


def test_a_median_of_equal_tails_and_the_ends_of_a_share(duck: duckdb.DuckDBPyConnection) -> None:
    spec = features("t", entity="kind", time="at", windows=["1h"], low=quantile("n", 0), high=quantile("n", 1), mid=quantile("n", 0.25))
    assert computed(duck, spec, [row(m, n=n) for m, n in enumerate([10, 20, 30, 50])])["a", moment(3)] == [10.0, 50.0, 17.5]


def test_the_last_value_is_that_of_the_newest_row_that_has_one(duck: duckdb.DuckDBPyConnection) -> None:
    rows = [row(0, word="p", told=moment(9)), row(0, word="Q", told=moment(1)), row(3, told=moment(3)), row(12, told=moment(12))]
    by_known = features("t", entity="kind", time="at", windows=["1h"], known="told", word=last("word"))
    assert [computed(duck, by_known, rows)["a", moment(m)] for m in (3, 12)] == [["Q"], ["p"]]
    at_once = features("t", entity="kind", time="at", windows=["1h"], word=last("word"))
    assert [computed(duck, at_once, rows)["a", moment(m)] for m in (3, 12)] == [["p"], ["p"]]


def test_an_expression_of_no_rows_is_what_sql_makes_of_it(duck: duckdb.DuckDBPyConnection) -> None:
    for known in (after("5m"), "told"):
        spec = features(
            "t", entity="kind", time="at", windows=["1m"], known=known, n=expression("count(*) + 10"), s=expression("coalesce(sum(n), 7)")
        )
        assert computed(duck, spec, [row(0, n=1, told=moment(5))])["a", moment(0)] == [10, 7]


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("n + 1", "needs an aggregate"),
        ("sum(n) + n", "outside of an aggregate"),
        ("sum(monye)", "did you mean `money`"),
        ("sum(n) OVER ()", "only columns"),
        ("sum((SELECT 1))", "only columns"),
        ("sum(n) FROM t", "cannot be read"),
        ("count(*) FILTER (WHERE at > now())", "another value each time"),
        ("max(at) - current_date", "another value each time"),
        ("sum(n) -- all", "comments"),
        ("sum(n", "cannot be read"),
        ("sum(n); sum(x)", "not one SQL expression"),
    ],
)
def test_what_is_no_expression_over_a_window_is_refused(sql: str, words: str) -> None:
    spec = features("t", entity="kind", time="at", windows=["1d"], odd=expression(sql))
    with pytest.raises(DefinitionError, match=words):
        feature_query(spec, "t", SCHEMA)


def test_some_columns_are_computed_as_all_of_them_would_be(duck: duckdb.DuckDBPyConnection) -> None:
    spec = features("t", entity="kind", time="at", windows=["3m", "1h"], **AGGREGATES)
    rows = [row(i % 37, n=i, x=i / 7, word="pQ"[i % 2], flag=i % 3 == 0, money=Decimal(i)) for i in range(60)]
    only = ["n_high_3m", "x_sum_1h", "words_1h"]
    with duck.cursor() as con:
        con.register("t", pa.Table.from_pylist(rows, schema=ARROW))
        few = con.sql(feature_query(spec, "t", SCHEMA, only=only))
        assert set(few.columns) == {"kind", "at", *only}
        whole = con.sql(feature_query(spec, "t", SCHEMA)).project(", ".join(map(quote, few.columns)))
        assert sorted(few.fetchall()) == sorted(whole.fetchall())


def test_money_is_exact(duck: duckdb.DuckDBPyConnection) -> None:
    spec = features("t", entity="kind", time="at", windows=["5m"], total=sum_("money"))
    got = computed(duck, spec, [row(0, money=Decimal("0.10")), row(1, money=Decimal("0.20"))])
    assert got["a", moment(1)] == [Decimal("0.30")]
