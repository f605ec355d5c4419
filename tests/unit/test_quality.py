"""Checks as SQL: what each kind lets through, what is refused, and what the queries give."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import duckdb
import pytest

from penstock.craft.quality.checks import Audit, audit_query, failing_query, passing_query, verdict
from penstock.ground.errors import DefinitionError
from penstock.spec.checks import (
    Check,
    Scalar,
    between,
    finite,
    fresh,
    holds,
    matches,
    not_null,
    null_share,
    one_of,
    rows,
    satisfies,
    unique,
)
from penstock.spec.schema import Schema, schema_of

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SQL = {"int": "INTEGER", "long": "BIGINT", "float": "REAL", "double": "DOUBLE", "string": "VARCHAR"}


def connect() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'America/New_York'")
    return connection


def table(schema: Schema, *values: Any) -> duckdb.DuckDBPyConnection:
    """A DuckDB with a table `t` of these rows, at places ("a", 0), ("a", 1), ..."""
    connection = connect()
    columns = ", ".join(f'"{f.name}" {SQL.get(f.type.name, str(f.type))}' for f in schema)
    connection.execute(f"CREATE TABLE t ({columns}, _path VARCHAR, _pos BIGINT)")
    for i, row in enumerate(values):
        row = row if isinstance(row, tuple) else (row,)
        connection.execute(f"INSERT INTO t VALUES ({', '.join('?' * (len(row) + 2))})", [*row, "a", i])
    return connection


def audit(connection: duckdb.DuckDBPyConnection, checks: Sequence[Check], schema: Schema, key: tuple[str, ...] = ()) -> Audit:
    row = connection.execute(audit_query("t", checks, schema, key, now=NOW)).fetchall()
    assert len(row) == 1
    return verdict(row[0], checks, schema, key, now=NOW)


def failures(kind: str, check: Check, *values: Any) -> list[int]:
    """Positions of the values that fail a row check on a column `x` of the given type; the audit must count the same."""
    schema = schema_of(x=kind)
    connection = table(schema, *values)
    found = [row[0] for row in connection.execute(f"SELECT _pos FROM ({failing_query('t', [check], schema)}) ORDER BY 1").fetchall()]
    result = audit(connection, [check], schema)
    assert (result.rejected_rows, result.results[0].failures) == (len(found), len(found))
    return found


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("kind", "check", "values", "failing"),
    [
        ("string", not_null("x"), ["a", None, ""], [1]),
        ("int", between("x", 1, 3), [0, 1, 3, 4, None], [0, 3]),
        ("int", between("x", 1.5, 2.5), [1, 2, 3], [0, 2]),
        ("int", between("x", None, 3), [-(2**31), 4], [1]),
        ("long", between("x", 10**30, None), [2**63 - 1], [0]),
        ("long", between("x", -INF, INF), [1, 2], []),
        ("long", between("x", INF, None), [1, 2], [0, 1]),
        ("long", between("x", 9007199254740993, None), [9007199254740992, 9007199254740993], [0]),
        ("double", between("x", 0, None), [-0.0, -1e-300, NAN, INF, None], [1, 2]),
        ("double", between("x", None, None), [NAN, 1.0], [0]),
        ("double", between("x", None, 1e300), [1e300, INF, -INF], [1]),
        ("float", between("x", 0.1, 0.2), [0.1, 0.2, 0.09], [2]),
        ("decimal(10,2)", between("x", 0.1, 0.305), ["0.10", "0.30", "0.31", "0.09"], [2, 3]),
        ("decimal(10,2)", between("x", "1.10", None), ["1.09", "1.10"], [0]),
        ("string", between("x", "a", "b"), ["a", "b", "ba", "B", None], [2, 3]),
        ("date", between("x", "2026-01-01", None), ["2025-12-31", "2026-01-01"], [0]),
        ("time", between("x", "08:00", "09:00"), ["07:59:59", "08:00:00", "09:00:00.000001"], [0, 2]),
        ("timestamp", between("x", "2026-01-01", "2026-01-01T12:00"), ["2026-01-01 00:00:00", "2026-01-01 12:00:01"], [1]),
        ("timestamptz", between("x", "2026-01-01", None), ["2026-01-01 00:00:00+00", "2026-01-01 00:30:00+01"], [1]),
        ("timestamptz", between("x", "2026-01-01T00:00+02:00", None), ["2025-12-31 22:00:00+00", "2025-12-31 21:59:59+00"], [1]),
        ("string", one_of("x", "a", "b"), ["a", "c", None, "A"], [1, 3]),
        ("int", one_of("x", 1, 2.0, 2.5, 10**40, None), [1, 2, 3], [2]),
        ("int", one_of("x"), [1, None], [0]),
        ("double", one_of("x", 0.1, 2), [0.1, 2.0, NAN], [2]),
        ("float", one_of("x", 0.1), [0.1, 0.2], [1]),
        ("boolean", one_of("x", True), [True, False, None], [1]),
        ("date", one_of("x", "2026-01-01"), ["2026-01-01", "2026-01-02"], [1]),
        ("uuid", one_of("x", "00000000000000000000000000000001"), ["00000000-0000-0000-0000-000000000001"], []),
        ("string", matches("x", "[A-Z]{2}"), ["AB", "ABC", "ab", None, ""], [1, 2, 4]),
        ("string", matches("x", "a|ab"), ["a", "ab", "abc"], [2]),
        ("string", matches("x", "it's"), ["it's", "its"], [1]),
        ("double", finite("x"), [1.0, NAN, INF, -INF, None], [1, 2, 3]),
        ("int", finite("x"), [1, None], []),
        ("int", satisfies("x % 2 = 0"), [1, 2, None], [0]),
        ("int", satisfies("x > 1 OR x IS NULL"), [1, 2, None], [0]),
        ("boolean", satisfies("x"), [True, False, None], [1]),
        ("int", unique("x"), [1, 2, 1, None, None, 1], [2, 5]),
        ("double", unique("x"), [0.0, -0.0, NAN, NAN, 1.0], [1, 3]),
    ],
)
def test_a_row_check_fails_these_rows(kind: str, check: Check, values: list[Any], failing: list[int]) -> None:
    assert failures(kind, check, *values) == failing


def test_checks_of_several_columns_name_the_column_in_the_reason() -> None:
    schema = schema_of(a="int", b="int")
    connection = table(schema, (1, None), (None, 2), (None, None), (1, 2))
    found = connection.execute(f"SELECT _check, _reason FROM ({failing_query('t', [not_null('a', 'b')], schema)})").fetchall()
    assert found == [("not_null(a, b)", "b is null"), ("not_null(a, b)", "a is null"), ("not_null(a, b)", "a is null; b is null")]


def test_reasons_tell_the_rule_and_never_the_value() -> None:
    schema = schema_of(iban="string", amount="double")
    checks = [matches("iban", "DE[0-9]+"), between("amount", 0, 10), one_of("iban", "DE1", "DE2").named("known iban")]
    connection = table(schema, ("FR7630006", 99887766.0))
    row = connection.execute(failing_query("t", checks, schema)).fetchall()[0]
    assert row[0] == "matches(iban, DE[0-9]+), between(amount, 0, 10), known iban"
    assert row[1] == "iban does not match DE[0-9]+; amount is not between 0 and 10; iban is none of DE1, DE2"
    assert row[2:] == ("a", 0, "FR7630006", 99887766.0)


def test_only_rejecting_checks_part_rows() -> None:
    schema = schema_of(a="int", b="int")
    checks = [not_null("a"), not_null("b").warns(), between("b", 0, 5).blocks()]
    connection = table(schema, (1, 1), (None, 1), (1, None), (1, 9), (None, 9))
    assert connection.execute(passing_query("t", checks, schema)).fetchall() == [(1, 1), (1, None), (1, 9)]
    result = audit(connection, checks, schema)
    assert (result.rows, result.rejected_rows, result.final) == (5, 2, True)
    assert [(r.check.kind, r.failures) for r in result.results] == [("not_null", 2), ("not_null", 1), ("between", 1)]
    assert [r.check for r in result.blocking] == [checks[2]]
    assert [r.check for r in result.warnings] == [checks[1]]


def test_without_rejecting_checks_everything_stays() -> None:
    schema = schema_of(a="int")
    connection = table(schema, 1, None)
    assert connection.execute(passing_query("t", [not_null("a").warns()], schema)).fetchall() == [(1,), (None,)]
    assert connection.execute(failing_query("t", [], schema)).fetchall() == []
    assert audit(connection, [], schema) == Audit(2, 0, ())


def test_of_rows_with_one_key_the_first_good_one_stays() -> None:
    schema = schema_of(id="int", amount="double")
    checks = [between("amount", 0, 10), unique("id")]
    connection = table(schema, (1, -5.0), (1, 1.0), (1, 2.0), (2, 3.0), (2, 99.0))
    assert connection.execute(passing_query("t", checks, schema)).fetchall() == [(1, 1.0), (2, 3.0)]
    found = connection.execute(f"SELECT _pos, _check, _reason FROM ({failing_query('t', checks, schema)}) ORDER BY 1").fetchall()
    assert [row[0] for row in found] == [0, 2, 4]
    assert found[1][1:] == ("unique(id)", "an earlier row has the same id")
    result = audit(connection, checks, schema, key=("id", "amount"))
    assert (result.rejected_rows, result.final) == (3, False)
    assert [r.failures for r in result.results] == [2, 1, 0]


def test_the_first_row_is_told_by_file_and_position() -> None:
    schema = schema_of(id="int", v="string")
    connection = connect()
    connection.execute("CREATE TABLE t AS FROM (VALUES (1, 'b0', 'b', 0), (1, 'a7', 'a', 7), (1, 'a3', 'a', 3)) v(id, v, _path, _pos)")
    assert connection.execute(passing_query("t", [unique("id")], schema)).fetchall() == [(1, "a3")]


def test_order_is_kept_in_a_large_table_with_repeated_rows() -> None:
    schema = schema_of(id="long", v="string")
    connection = connect()
    connection.execute("CREATE TABLE t AS SELECT i // 2 AS id, 'v' || i AS v, 'a' AS _path, i AS _pos FROM range(600000) r(i)")
    kept = connection.execute(passing_query("t", [unique("id"), not_null("v")], schema)).fetchall()
    assert [row[0] for row in kept] == list(range(300_000))
    assert all(v == f"v{2 * i}" for i, v in kept)


def test_several_rejecting_uniques_count_each_row_once() -> None:
    schema = schema_of(a="int", b="int")
    checks = [unique("a"), unique("b"), not_null("a")]
    connection = table(schema, (1, 1), (1, 1), (1, 2), (2, 1), (None, 3), (3, 3))
    result = audit(connection, checks, schema)
    assert result.rejected_rows == 4
    assert connection.execute(passing_query("t", checks, schema)).fetchall() == [(1, 1), (3, 3)]


def test_the_key_is_judged_on_what_stays() -> None:
    schema = schema_of(a="int", b="string", ok="boolean")
    values = [(1, "x", True), (1, "x", True), (1, "y", True), (2, None, True), (None, None, True), (1, "y", False)]
    result = audit(table(schema, *values), [satisfies("ok")], schema, key=("a", "b"))
    key = result.results[-1]
    assert (key.check.kind, key.check.columns, key.outcome, key.passed, key.failures) == ("key", ("a", "b"), "block", False, 3)
    assert key.text == "key(a, b): 1 repeat it and 2 have a null in it (rows)"
    assert audit(table(schema, *values[1:3]), [], schema, key=("a", "b")).results[-1].passed
    cleared = audit(table(schema, *values[:3]), [unique("a", "b")], schema, key=("a", "b"))
    assert cleared.results[-1].passed
    assert cleared.rejected_rows == 1


@pytest.mark.parametrize(
    ("check", "values", "passed", "measured"),
    [
        (rows(2, 3), [1, 2], True, 2),
        (rows(3), [1, 2], False, 2),
        (rows(None, 1), [1, 2], False, 2),
        (null_share("x", 0.5), [1, None], True, 0.5),
        (null_share("x", 0.4), [1, None], False, 0.5),
        (null_share("x", 0), [], True, 0.0),
        (holds("sum(x) > 2"), [1, 2], True, True),
        (holds("sum(x) > 3"), [1, 2], False, False),
        (holds("sum(x) > 0"), [], False, None),
        (holds("count(*) FILTER (WHERE x > 1) = 1 AND max(x) < 3"), [1, 2], True, True),
    ],
)
def test_a_table_check_measures(check: Check, values: list[Any], passed: bool, measured: Any) -> None:
    schema = schema_of(x="int")
    result = audit(table(schema, *values), [check], schema).results[0]
    assert (result.passed, result.measured, result.failures) == (passed, measured, int(not passed))
    assert json.loads(json.dumps(result.record()))["measured"] == measured


def test_table_checks_see_only_rows_that_stay() -> None:
    schema = schema_of(x="int", y="int")
    checks = [not_null("y"), rows(3), null_share("x", 0.0), holds("max(x) < 5"), holds("count(*) = 2")]
    connection = table(schema, (1, 1), (2, 1), (None, None), (9, None))
    assert [r.passed for r in audit(connection, checks, schema).results] == [False, False, True, True, True]


@pytest.mark.parametrize(
    ("kind", "values", "passed", "age_s"),
    [
        ("timestamp", ["2026-01-01 00:00:00", "2020-01-01 00:00:00"], True, 86400),
        ("timestamp", ["2025-12-31 23:59:59"], False, 86401),
        ("timestamptz", ["2025-12-31 20:00:00-05"], True, 82800),
        ("date", ["2026-01-01"], True, 86400),
        ("timestamp", ["2027-01-01 00:00:00"], True, -364 * 86400),
        ("timestamp", [None], False, None),
        ("timestamp", [], False, None),
    ],
)
def test_freshness_counts_from_the_moment_of_the_run(kind: str, values: list[Any], passed: bool, age_s: int | None) -> None:
    schema = schema_of(at=kind)
    result = audit(table(schema, *values), [fresh("at", "1d")], schema).results[0]
    assert (result.passed, result.measured) == (passed, age_s)


@pytest.mark.parametrize(
    "condition",
    [
        "",
        "   ",
        "a",
        "a + 1",
        "count(*) > 1",
        "sum(a) > 0",
        "row_number() OVER () > 1",
        "a > 0; DROP TABLE t",
        "SELECT 1",
        "a IN (SELECT 1)",
        "EXISTS (SELECT 1)",
        "(SELECT true)",
        "a > 0 -- always",
        "/* a */ a > 0",
        "a > 0) OR (1 = 1",
        "DROP TABLE t",
        "*",
        "COLUMNS(*) > 0",
        "a = ?",
        "a = $1",
        "b > 0",
        "t.a > 0",
        "a AS b",
        "'x'",
        "1",
        "length(s)",
        "a >",
        "'open",
    ],
)
def test_a_condition_of_a_row_that_is_none_is_refused(condition: str) -> None:
    schema = schema_of(a="int", s="string")
    with pytest.raises(DefinitionError):
        audit_query("t", [satisfies(condition)], schema, now=NOW)


@pytest.mark.parametrize("condition", ["a > 0", "count(*)", "sum(a)", "(SELECT max(a) FROM t) > 1", "sum(b) > 1", "count(*) > 1 -- x"])
def test_a_condition_of_the_table_that_is_none_is_refused(condition: str) -> None:
    with pytest.raises(DefinitionError):
        audit_query("t", [holds(condition)], schema_of(a="int"), now=NOW)


@pytest.mark.parametrize(
    "check",
    [
        not_null("aa"),
        not_null(),
        unique("aa"),
        null_share("aa", 0.1),
        fresh("aa", "1d"),
        fresh("a", "1d"),
        fresh("at", "1 month"),
        null_share("a", 2),
        between("flag", 0, 1),
        between("a", "x", None),
        between("a", NAN, None),
        between("at", 1, 2),
        between("at", "2026-01-01T00:00Z", None),
        between("s", 1, None),
        one_of("s", 1),
        one_of("a", "x"),
        one_of("a", True),
        one_of("flag", 1),
        one_of("tags", "x"),
        matches("a", "x"),
        matches("s", "("),
        matches("s", "(?=x)"),
        finite("s"),
        Check("odd", ("a",)),
    ],
    ids=lambda check: check.name,
)
def test_a_check_that_cannot_be_compiled_is_refused(check: Check) -> None:
    schema = schema_of(a="int", s="string", at="timestamp", flag="boolean", tags="list<string>")
    with pytest.raises(DefinitionError) as told:
        audit_query("t", [check], schema, now=NOW)
    assert told.value.place


def test_an_unknown_column_brings_the_nearest_names() -> None:
    with pytest.raises(DefinitionError, match="did you mean `dep_delay`"):
        audit_query("t", [not_null("dep_dely")], schema_of(dep_delay="int"), now=NOW)
    with pytest.raises(DefinitionError, match="did you mean `dep_delay`"):
        audit_query("t", [satisfies("dep_dely > 0")], schema_of(dep_delay="int"), now=NOW)


@pytest.mark.parametrize("name", ['a"b', "a'b", "x) OR (1=1", '"; DROP TABLE t; --', "_check0", "_stays", "select", "ä ö", "_path2", "a.b"])
def test_any_column_name_is_only_a_name(name: str) -> None:
    schema = schema_of(**{name: "string"})
    connection = connect()
    column = '"' + name.replace('"', '""') + '"'
    connection.execute(f"CREATE TABLE t ({column} VARCHAR, _path VARCHAR, _pos BIGINT)")
    connection.execute("INSERT INTO t VALUES ('x', 'a', 0), (NULL, 'a', 1), ('x', 'a', 2), ('é''\"', 'a', 3)")
    checks = [not_null(name), unique(name), one_of(name, "x", "it's; --"), matches(name, "x|é.*"), between(name, "a'", "z")]
    assert connection.execute(passing_query("t", checks, schema)).fetchall() == [("x",)]
    assert [row[-2] for row in connection.execute(f"SELECT * FROM ({failing_query('t', checks, schema)}) ORDER BY _pos").fetchall()] == [
        1,
        2,
        3,
    ]
    result = audit(connection, checks, schema, key=(name,))
    assert (result.rejected_rows, [r.failures for r in result.results]) == (3, [1, 1, 1, 0, 1, 0])


def test_labels_with_quotes_are_kept() -> None:
    schema = schema_of(a="int")
    connection = table(schema, None)
    check = not_null("a").named("it's; DROP TABLE t")
    assert connection.execute(failing_query("t", [check], schema)).fetchall()[0][0] == "it's; DROP TABLE t"


VALUES: list[Scalar] = ["'", '"', "\\", "'; DROP TABLE t; --", "\n", "ü"]


@pytest.mark.parametrize("value", VALUES)
def test_any_text_is_only_a_value(value: str) -> None:
    assert failures("string", one_of("x", value), value, value + "x") == [1]
    assert failures("string", between("x", value, value), value, value + "x") == [1]
