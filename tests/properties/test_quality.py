"""Random tables and checks: the audit counts what a slow evaluation in Python counts, and failing and passing rows make up the table."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.craft.quality.checks import Audit, audit_query, failing_query, passing_query, verdict
from penstock.spec.checks import Check, between, finite, holds, matches, not_null, null_share, one_of, rows, satisfies, unique
from penstock.spec.schema import Field, Schema, primitive, schema_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SCHEMA = schema_of(n="long", x="double", s="string", k="long")
ARROW = pa.schema(
    [("n", pa.int64()), ("x", pa.float64()), ("s", pa.string()), ("k", pa.int64()), ("_path", pa.string()), ("_pos", pa.int64())]
)
Row = dict[str, Any]
connection = duckdb.connect()

few = st.integers(-3, 3)
floats = st.sampled_from([0.0, -0.0, 1.5, -2.0, math.inf, -math.inf, math.nan, 1e300])
texts = st.sampled_from(["", "a", "ab", "B", "é", "a'b", 'a"b', "%"])
row_of = st.fixed_dictionaries(
    {"n": st.none() | few, "x": st.none() | floats, "s": st.none() | texts, "k": st.none() | few, "_path": st.sampled_from(["a", "b"])}
)
bounds = st.none() | few | st.sampled_from([0.5, -1.5, math.inf, -math.inf])
plain = st.one_of(
    st.lists(st.sampled_from(["n", "x", "s", "k"]), min_size=1, max_size=3, unique=True).map(lambda c: not_null(*c)),
    st.builds(between, st.sampled_from(["n", "x"]), bounds, bounds),
    st.builds(between, st.just("s"), st.none() | texts, st.none() | texts),
    st.lists(few, max_size=3).map(lambda v: one_of("n", *v)),
    st.lists(texts, max_size=3).map(lambda v: one_of("s", *v)),
    st.lists(st.sampled_from([0.0, 1.5, math.inf]), max_size=2).map(lambda v: one_of("x", *v)),
    st.sampled_from(["a.*", "[a-z]", "a|ab", ""]).map(lambda p: matches("s", p)),
    st.just(finite("x")),
    st.just(satisfies("n > k")),
)
uniques = st.lists(st.sampled_from(["n", "x", "s", "k"]), min_size=1, max_size=2, unique=True).map(lambda c: unique(*c))
outcomes: st.SearchStrategy[Callable[[Check], Check]] = st.sampled_from([Check.rejects, Check.blocks, Check.warns])
checks_of = st.lists(st.builds(lambda c, how: how(c), plain | uniques, outcomes), max_size=5)


def fails(check: Check, row: Row) -> bool:
    """A row check but `unique`, read from its documentation."""
    values = [row[c] for c in check.columns]
    if check.kind == "not_null":
        return any(v is None for v in values)
    if check.kind == "satisfies":
        return row["n"] is not None and row["k"] is not None and not row["n"] > row["k"]
    value = values[0]
    if value is None:
        return False
    if check.kind == "between":
        low, high = check.args
        nan = isinstance(value, float) and math.isnan(value)
        return nan or (low is not None and value < low) or (high is not None and value > high)
    if check.kind == "one_of":
        return value not in check.args
    if check.kind == "matches":
        return re.fullmatch(str(check.args[0]), value) is None
    return not math.isfinite(value)


def same(value: Any) -> Any:
    return "NaN" if isinstance(value, float) and math.isnan(value) else value


def repeats(columns: tuple[str, ...], rows: list[Row]) -> list[Row]:
    """Rows whose values an earlier row has; rows with a null have no equal."""
    seen: set[Any] = set()
    found = []
    for row in sorted(rows, key=lambda r: (r["_path"], r["_pos"])):
        key = tuple(same(row[c]) for c in columns)
        if None not in key:
            found += [row] if key in seen else []
            seen.add(key)
    return found


def place(row: Row) -> tuple[str, int]:
    return (row["_path"], row["_pos"])


@settings(max_examples=150, deadline=None)
@given(st.lists(row_of, max_size=12), checks_of, st.sampled_from([(), ("n",), ("n", "s"), ("x", "k")]))
def test_sql_agrees_with_python(table: list[Row], checks: list[Check], key: tuple[str, ...]) -> None:
    table = [{**row, "_pos": (i * 7) % 13} for i, row in enumerate(table)]
    rejecting = [c for c in checks if c.outcome == "reject"]
    bad = [r for r in table if any(fails(c, r) for c in rejecting if c.kind != "unique")]
    good = [r for r in table if r not in bad]
    twice = {i: repeats(c.columns, good) for i, c in enumerate(checks) if c.kind == "unique"}
    rejected = {place(r) for r in bad} | {place(r) for i, found in twice.items() if checks[i] in rejecting for r in found}

    connection.register("t", pa.Table.from_pylist(table, ARROW))
    failing = connection.execute(f"SELECT _path, _pos, _check FROM ({failing_query('t', checks, SCHEMA)})").fetchall()
    passing = connection.execute(passing_query("t", checks, SCHEMA)).fetchall()
    audit = audited("t", checks, key)

    assert {row[:2] for row in failing} == rejected
    assert len(failing) == len(rejected)
    stay = [r for r in table if place(r) not in rejected]
    assert sorted(map(repr, passing)) == sorted(repr(tuple(r[c] for c in SCHEMA.names)) for r in stay)
    for path, pos, names in failing:
        row = next(r for r in table if place(r) == (path, pos))
        told = [c.name for i, c in enumerate(checks) if c in rejecting and (row in twice[i] if i in twice else fails(c, row))]
        assert names == ", ".join(told)

    assert (audit.rows, audit.rejected_rows) == (len(table), len(rejected))
    for i, (check, result) in enumerate(zip(checks, audit.results, strict=False)):
        seen = table if check in rejecting else good
        assert result.failures == (len(twice[i]) if i in twice else sum(fails(check, r) for r in seen))
        assert result.passed == (result.failures == 0)
    if key:
        nulls = sum(any(r[c] is None for c in key) for r in good)
        settled = any(c.kind == "unique" and set(c.columns) <= set(key) for c in rejecting)
        assert audit.results[-1].failures == nulls + (0 if settled else len(repeats(key, good)))
    connection.execute(f"CREATE OR REPLACE TEMP VIEW kept AS SELECT *, 'a' AS _path, 0 AS _pos FROM ({passing_query('t', checks, SCHEMA)})")
    again = audited("kept", checks, key)
    assert again.rejected_rows == 0
    if audit.final:
        assert [r.failures for r in again.results if r.outcome != "reject"] == [r.failures for r in audit.results if r.outcome != "reject"]


def audited(relation: str, checks: list[Check], key: tuple[str, ...] = ()) -> Audit:
    measured = connection.execute(audit_query(relation, checks, SCHEMA, key, now=NOW)).fetchall()
    assert len(measured) == 1
    return verdict(measured[0], checks, SCHEMA, key, now=NOW)


names_of = st.text(min_size=1, max_size=12, alphabet=st.characters(codec="utf-8", exclude_characters="\0")) | st.sampled_from(
    ['"', '""', "'", '" OR 1=1 --', '"; DROP TABLE t; --', "x) FROM t --", "select", "\\", "/*", "*/", "$$", "_check0", "_stays"]
)


@settings(max_examples=100, deadline=None)
@given(names_of, texts | st.text(max_size=8, alphabet=st.characters(codec="utf-8", exclude_characters="\0")))
def test_names_and_values_never_change_the_statement(name: str, value: str) -> None:
    """The parsed tree is that of a harmless name and value, but for these two."""

    def trees(column: str, text: str) -> list[str]:
        schema = Schema((Field(column, primitive("string")),))
        checks = [not_null(column), one_of(column, text), unique(column), null_share(column, 0.5), between(column, text, None)]
        made = [
            audit_query("t", checks, schema, (column,), now=NOW),
            failing_query("t", checks, schema),
            passing_query("t", checks, schema),
        ]
        return [_shape(sqlglot.parse(sql, read="duckdb")) for sql in made]

    marked = name.lower().startswith(("_check", "_stays"))
    assert trees(name, value) == trees("_checkx" if marked else "plain", "plain")


def _shape(statements: list[Any]) -> str:
    assert len(statements) == 1
    return " ".join(type(node).__name__ for node in statements[0].walk())


@settings(max_examples=40, deadline=None)
@given(st.lists(row_of, max_size=8), st.integers(0, 5), st.integers(-2, 8))
def test_table_checks_agree_with_python(table: list[Row], low: int, bound: int) -> None:
    table = [{**row, "_pos": i} for i, row in enumerate(table)]
    checks = [not_null("k"), rows(low), null_share("n", 0.3), holds(f"sum(n) > {bound}")]
    connection.register("t", pa.Table.from_pylist(table, ARROW))
    audit = audited("t", checks)
    stay = [r for r in table if r["k"] is not None]
    numbers = [r["n"] for r in stay if r["n"] is not None]
    share = 1 - len(numbers) / len(stay) if stay else 0.0
    assert [r.passed for r in audit.results[1:]] == [len(stay) >= low, share <= 0.3, bool(numbers) and sum(numbers) > bound]
