"""The source suite over a real PostgreSQL, its types, and what it says when it cannot be read."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pytest

from penstock.adapters.source.postgresql import PostgresqlDatabase
from penstock.ground.clock import SystemClock
from penstock.ground.errors import SourceError, SourceUnreachable
from penstock.ground.ids import SystemIds
from penstock.ports.adapters import Context
from penstock.spec.schema import schema_of
from penstock.testing.suites.source import *  # noqa: F403
from penstock.testing.suites.source import rows
from tests.services.postgres import Postgres

pytestmark = pytest.mark.service


class PostgresPlace:
    """The server's database with an empty schema."""

    def __init__(self, server: Postgres) -> None:
        self.server = server
        self.opened: list[PostgresqlDatabase] = []

    def execute(self, sql: str) -> None:
        self.server.run("SET client_min_messages = warning;" + sql)

    def open(self) -> PostgresqlDatabase:
        return self.open_as(self.server.url, self.server.password)

    def open_as(self, url: str, password: str | None) -> PostgresqlDatabase:
        clock = SystemClock()
        context = Context(Path("/nowhere"), clock, SystemIds(clock), secret=str)
        self.opened.append(PostgresqlDatabase.open(url, context, password=password))
        return self.opened[-1]


@pytest.fixture
def place(postgres: Postgres) -> Iterator[PostgresPlace]:
    made = PostgresPlace(postgres)
    made.execute("DROP SCHEMA IF EXISTS other CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    yield made
    for database in made.opened:
        database.close()


@pytest.mark.parametrize(
    ("declared", "written", "kind", "read"),
    [
        ("smallint", "-5", "int", -5),
        ("integer", "5", "int", 5),
        ("bigint", "-9223372036854775808", "long", -(2**63)),
        ("oid", "4294967295", "long", 4294967295),
        ("real", "0.1", "float", pytest.approx(0.1)),
        ("double precision", "0.1", "double", 0.1),
        ("double precision", "'infinity'", "double", float("inf")),
        ("boolean", "true", "boolean", True),
        ("bytea", "'\\x00ff'", "binary", b"\x00\xff"),
        ("numeric(10,2)", "1.1", "decimal(10,2)", Decimal("1.10")),
        ("numeric(38,0)", "12345678901234567890123456789012345678", "decimal(38,0)", Decimal("12345678901234567890123456789012345678")),
        ("numeric", "1234567890.00000000000000000000000000000000000001", "string", "1234567890.00000000000000000000000000000000000001"),
        ("numeric", "'NaN'", "string", "NaN"),
        ("numeric(5,-2)", "12345", "string", "12300"),
        ("numeric(50,2)", "1", "string", "1.00"),
        ("date", "'2026-01-31'", "date", date(2026, 1, 31)),
        ("date", "'infinity'", "date", date(9999, 12, 31)),
        ("date", "'-infinity'", "date", date(1, 1, 1)),
        ("time", "'12:34:56.789'", "time", time(12, 34, 56, 789000)),
        ("timestamp", "'2026-01-31 12:00:00.000001'", "timestamp", datetime.fromisoformat("2026-01-31 12:00:00.000001")),
        ("timestamp", "'infinity'", "timestamp", datetime.fromisoformat("9999-12-31 23:59:59.999999")),
        ("timestamptz", "'2026-01-31 12:00:00+02'", "timestamptz", datetime(2026, 1, 31, 10, tzinfo=UTC)),
        ("timestamptz", "'-infinity'", "timestamptz", datetime(1, 1, 1, tzinfo=UTC)),
        ("uuid", "'00000000-0000-0000-0000-0000000000AB'", "uuid", "00000000-0000-0000-0000-0000000000ab"),
        ("text", "'ü'", "string", "ü"),
        ("char(5)", "'ab'", "string", "ab"),
        ("mood", "'ok'", "string", "ok"),
        ("positive", "7", "int", 7),
        ("money_amount", "1.5", "decimal(12,2)", Decimal("1.50")),
        ("json", """'{"b": 1,  "a": [1]}'""", "string", '{"b": 1,  "a": [1]}'),
        ("jsonb", """'{"b": 1,  "a": [1]}'""", "string", '{"a": [1], "b": 1}'),
        ("inet", "'10.0.0.1/8'", "string", "10.0.0.1/8"),
        ("interval", "'1 month 2 days'", "string", "1 mon 2 days"),
        ("timetz", "'12:00+02'", "string", "12:00:00+02"),
        ("int4range", "'[1,5)'", "string", "[1,5)"),
        ("pair", "'(1,x)'", "string", "(1,x)"),
        ("integer[]", "'{1,NULL,3}'", "list<int>", [1, None, 3]),
        ("integer[]", "'{}'", "list<int>", []),
        ("text[]", """'{a,"b,c",NULL}'""", "list<string>", ["a", "b,c", None]),
        ("numeric(10,2)[]", "'{1.1}'", "list<string>", ["1.10"]),
        ("date[]", "'{2026-01-31}'", "list<string>", ["2026-01-31"]),
        ("mood[]", "'{ok,sad}'", "list<string>", ["ok", "sad"]),
    ],
)
def test_a_type_comes_out_as_documented(place: PostgresPlace, declared: str, written: str, kind: str, read: Any) -> None:
    place.execute(
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN positive AS integer CHECK (value > 0);"
        "CREATE DOMAIN money_amount AS numeric(12,2); CREATE TYPE pair AS (a integer, b text);"
        f"CREATE TABLE t (n integer, x {declared}); INSERT INTO t VALUES (1, {written}), (2, NULL)"
    )
    database = place.open()
    columns = database.describe("t")
    assert str(columns.field("x").type) == kind
    assert database.describe("(SELECT * FROM t)") == columns
    assert [row["x"] for row in rows(database, "t", columns)] == [read, None]


def test_tables_of_other_schemas_carry_its_name(place: PostgresPlace) -> None:
    place.execute(
        'CREATE SCHEMA other; CREATE TABLE other.planes (id integer PRIMARY KEY); CREATE TABLE other."dotted.name" (x integer);'
        "CREATE TABLE mine (x integer); CREATE MATERIALIZED VIEW kept AS SELECT 1 AS x;"
        "CREATE TABLE parts (x integer) PARTITION BY RANGE (x); CREATE TABLE part1 PARTITION OF parts FOR VALUES FROM (0) TO (9)"
    )
    database = place.open()
    assert database.tables() == ["kept", "mine", "other.dotted.name", "other.planes", "parts"]
    assert database.key("other.planes") == ("id",)
    assert database.describe("other.dotted.name") == schema_of(x="int")
    assert database.describe("public.mine") == schema_of(x="int")


def test_a_cursor_over_text_goes_by_bytes_not_by_the_tables_collation(place: PostgresPlace) -> None:
    place.execute("""CREATE TABLE t (x text COLLATE "en-x-icu")""" if _has_icu(place) else "CREATE TABLE t (x text)")
    place.execute("INSERT INTO t VALUES ('B'), ('a'), ('b')")
    assert rows(place.open(), "t", schema_of(x="string"), above=("x", "a")) == [{"x": "a"}, {"x": "b"}]


def _has_icu(place: PostgresPlace) -> bool:
    return bool(place.server.run("SELECT 1 FROM pg_collation WHERE collname = 'en-x-icu'").strip())


def test_a_cursor_over_instants_and_exact_numbers(place: PostgresPlace) -> None:
    place.execute(
        "CREATE TABLE t (at timestamptz, amount numeric(10,2), day date);"
        "INSERT INTO t VALUES ('2026-01-01 00:00+00', 1.10, '2026-01-01'), ('2026-01-01 01:00+00', 1.20, '2026-01-02')"
    )
    database, columns = place.open(), schema_of(at="timestamptz", amount="decimal(10,2)", day="date")
    for above in (("at", "2025-12-31 20:00:00-05"), ("amount", "1.2"), ("day", "2026-01-02"), ("at", datetime(2026, 1, 1, 1, tzinfo=UTC))):
        assert [str(row["amount"]) for row in rows(database, "t", columns, above=above)] == ["1.20"]


@pytest.mark.parametrize(
    ("declared", "written", "read_as"),
    [("numeric(5,2)", "'NaN'", "decimal(5,2)"), ("integer[]", "'{{1,2},{3,4}}'", "list<int>"), ("text", "'x'", "timestamp")],
)
def test_what_cannot_be_represented_fails_the_read_and_can_be_had_as_text(
    place: PostgresPlace, declared: str, written: str, read_as: str
) -> None:
    place.execute(f"CREATE TABLE t (x {declared}); INSERT INTO t VALUES ({written})")
    database = place.open()
    with pytest.raises(SourceError) as told:
        rows(database, "t", schema_of(x=read_as))
    assert "string" in told.value.hint
    assert rows(database, "t", schema_of(x="string")) == [{"x": written.strip("'")}]


def test_nothing_can_be_written(place: PostgresPlace) -> None:
    place.execute(
        "CREATE TABLE t (x integer); CREATE FUNCTION sly() RETURNS integer LANGUAGE sql AS 'INSERT INTO t VALUES (1) RETURNING x'"
    )
    with pytest.raises(SourceError, match="read-only"):
        rows(place.open(), "(SELECT sly() AS x)", schema_of(x="int"))
    assert place.server.run("SELECT count(*) FROM t").strip() == "0"


def test_transactions_are_read_only_and_repeatable(place: PostgresPlace) -> None:
    query = "(SELECT current_setting('transaction_isolation') AS a, current_setting('transaction_read_only') AS b, current_setting('TimeZone') AS c)"
    assert rows(place.open(), query, schema_of(a="string", b="string", c="string")) == [{"a": "repeatable read", "b": "on", "c": "UTC"}]


def test_a_wrong_password_is_refused_and_never_shown(place: PostgresPlace) -> None:
    for password in ("wr0ng/secret", None):
        with pytest.raises(SourceError) as told:
            place.open_as(place.server.url, password)
        assert not told.value.retry
        assert "ps.secret" in told.value.hint
        assert "wr0ng" not in str(told.value)
    in_url = place.server.url.replace("penstock@", f"penstock:{quote('wr0ng/secret', safe='')}@")
    with pytest.raises(SourceError) as told:
        place.open_as(in_url, None)
    assert "wr0ng" not in str(told.value) + told.value.place
    assert place.open_as(in_url, place.server.password).tables() == []


def test_other_refusals_are_told_apart_from_silence(place: PostgresPlace) -> None:
    with pytest.raises(SourceError, match="nodb") as refused:
        place.open_as(replace(place.server, database="nodb").url, place.server.password)
    assert not refused.value.retry
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        silent = replace(place.server, port=closed.getsockname()[1]).url
        with pytest.raises(SourceUnreachable) as told:
            place.open_as(silent, place.server.password)
    assert told.value.retry
    assert place.server.password not in str(told.value)


def test_a_denied_table_is_told(place: PostgresPlace) -> None:
    place.execute("DROP ROLE IF EXISTS guest; CREATE ROLE guest LOGIN PASSWORD 'guest'; CREATE TABLE t (x integer)")
    place.execute("GRANT USAGE ON SCHEMA public TO guest")
    database = place.open_as(replace(place.server, user="guest").url, "guest")
    with pytest.raises(SourceError, match="denies") as told:
        database.describe("t")
    assert "GRANT SELECT" in told.value.hint
    place.execute("DROP OWNED BY guest; DROP ROLE guest")


END_OTHERS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = 'penstock'"


def test_a_broken_connection_can_be_tried_again(place: PostgresPlace) -> None:
    place.execute("CREATE TABLE t (x integer)")
    database = place.open()
    place.server.run(END_OTHERS)
    with pytest.raises(SourceUnreachable) as told:
        database.describe("t")
    assert told.value.retry


def test_a_connection_that_breaks_amid_the_rows_gives_no_short_table(place: PostgresPlace) -> None:
    place.execute("CREATE TABLE t AS SELECT i AS x, repeat('x', 100) AS s FROM generate_series(1, 1000000) i")
    database = place.open()
    reader = database.read("t", columns=schema_of(x="int", s="string"))
    assert reader.read_next_batch().num_rows > 0
    place.server.run(END_OTHERS)
    with pytest.raises(SourceUnreachable, match="nothing was taken"):
        reader.read_all()
    database.close()


def test_a_million_rows_are_streamed(place: PostgresPlace) -> None:
    place.execute(
        "CREATE TABLE t AS SELECT i::bigint AS id, 'name' || i AS name, i * 0.5 AS x, (i / 100.0)::numeric(12,2) AS amount,"
        " timestamptz '2026-01-01' + i * interval '1 second' AS at FROM generate_series(1, 1000000) i"
    )
    database = place.open()
    columns = schema_of(id="long", name="string", x="double", amount="decimal(12,2)", at="timestamptz")
    clock = SystemClock()
    started, count, batches, total = clock.tick(), 0, 0, Decimal(0)
    with database.read("t", columns=columns) as reader:
        for batch in reader:
            count, batches = count + batch.num_rows, batches + 1
            total += pa.compute.sum(batch.column("amount")).as_py()
    print(f"1,000,000 rows x 5 columns in {clock.tick() - started:.2f} s, {batches} batches")
    assert (count, total) == (1_000_000, Decimal("5000005000.00"))
    assert batches > 1
