"""The source suite over the embedded database, and what SQLite's loose types come out as."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from penstock.adapters.source.sqlite import SqliteDatabase
from penstock.ground.clock import SystemClock
from penstock.ground.errors import PenstockError, SettingsError, SourceError
from penstock.ground.ids import SystemIds
from penstock.ports.adapters import Context
from penstock.spec.schema import schema_of
from penstock.testing.suites.source import *  # noqa: F403
from penstock.testing.suites.source import rows


class SqlitePlace:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.execute("CREATE TABLE gone (x); DROP TABLE gone")

    def execute(self, sql: str) -> None:
        connection = sqlite3.connect(self.path)
        connection.executescript("PRAGMA journal_mode = WAL;" + sql)
        connection.close()

    def fill(self, create: str, values: list[Any]) -> None:
        """A table `t` with one column `x` of these values."""
        connection = sqlite3.connect(self.path)
        connection.execute(create)
        connection.executemany("INSERT INTO t (x) VALUES (?)", [(v,) for v in values])
        connection.commit()
        connection.close()

    def open(self) -> SqliteDatabase:
        return SqliteDatabase(self.path)


@pytest.fixture
def place(tmp_path: Path) -> SqlitePlace:
    return SqlitePlace(tmp_path / "ops #1?.db")


@pytest.mark.parametrize(
    ("declared", "values", "kind", "read"),
    [
        ("INTEGER", [1, None, -(2**63)], "long", [1, None, -(2**63)]),
        ("INTEGER", [], "long", []),
        ("INTEGER", [1, "n/a"], "string", ["1", "n/a"]),
        ("INTEGER", [1, 2.5], "double", [1.0, 2.5]),
        ("INTEGER", [2**53 + 1, 0.5], "string", ["9007199254740993", "0.5"]),
        ("REAL", [1.0, None], "double", [1.0, None]),
        ("TEXT", ["1", "x"], "string", ["1", "x"]),
        ("TEXT", ["x", b"\x00\xff"], "string", ["x", "X'00ff'"]),
        ("BLOB", [b"\x00\xff", None], "binary", [b"\x00\xff", None]),
        ("", [1, 2], "long", [1, 2]),
        ("", [], "string", []),
        ("BOOLEAN", [1, 0, None], "boolean", [True, False, None]),
        ("BOOLEAN", [1, 2], "long", [1, 2]),
        ("DATE", ["2026-01-31", None], "date", [date(2026, 1, 31), None]),
        ("DATE", ["2026-01-31", "2026-02-31"], "string", ["2026-01-31", "2026-02-31"]),
        ("DATE", ["0000-01-01"], "string", ["0000-01-01"]),
        ("DATE", ["2026-01-31 00:00"], "string", ["2026-01-31 00:00"]),
        ("DATETIME", ["2026-02-31 00:00:00"], "string", ["2026-02-31 00:00:00"]),
        ("DECIMAL(15,2)", [0.07, 1234567890123.45, 0.1 + 0.2], "double", [0.07, 1234567890123.45, 0.1 + 0.2]),
        ("DECIMAL(15,2)", [0.07, 1234567890123.45], "decimal(15,2)", [Decimal("0.07"), Decimal("1234567890123.45")]),
        ("DATE", ["2026-01-31", ""], "string", ["2026-01-31", ""]),
        ("DATETIME", ["2026-01-31 12:00:00.5", "2026-01-31T12:00"], "timestamp", [datetime.fromisoformat("2026-01-31 12:00:00.500000"), datetime.fromisoformat("2026-01-31 12:00:00")]),
        ("TIMESTAMP", ["2026-01-31T12:00Z", "2026-01-31 12:00+02:00"], "timestamptz", [datetime(2026, 1, 31, 12, tzinfo=UTC), datetime(2026, 1, 31, 10, tzinfo=UTC)]),
        ("TIMESTAMP", ["2026-01-31T12:00Z", "2026-01-31 12:00"], "string", ["2026-01-31T12:00Z", "2026-01-31 12:00"]),
        ("TIMESTAMP", [1767225600], "long", [1767225600]),
        ("DECIMAL(10, 2)", [1.1, 2, "3.30"], "decimal(10,2)", [Decimal("1.10"), Decimal("2.00"), Decimal("3.30")]),
        ("DECIMAL(10,2)", [1.125], "double", [1.125]),
        ("DECIMAL(4,2)", [100], "long", [100]),
        ("NUMERIC(5)", [99999], "decimal(5,0)", [Decimal(99999)]),
    ],
)  # fmt: skip
def test_a_column_gets_a_type_that_all_its_values_fit(
    place: SqlitePlace, declared: str, values: list[Any], kind: str, read: list[Any]
) -> None:
    place.fill(f"CREATE TABLE t (n INTEGER PRIMARY KEY, x {declared})", values)
    database = place.open()
    assert str(database.describe("t").field("x").type) == kind
    found = rows(database, "t", schema_of(n="long", x=kind))
    assert [row["x"] for row in found] == read
    database.close()


def test_bytes_that_are_no_utf8_are_shown(place: SqlitePlace) -> None:
    place.execute("CREATE TABLE t (x TEXT); INSERT INTO t VALUES (CAST(x'61ff' AS TEXT))")
    assert rows(place.open(), "t", schema_of(x="string")) == [{"x": "a\\xff"}]


@pytest.mark.parametrize(
    ("declared", "values"),
    [("long", ["x"]), ("long", [1.5]), ("int", [2**31]), ("double", ["x"]), ("double", [2**53 + 1]), ("decimal(4,2)", [1.125]), ("date", ["31.1.26"]),
     ("timestamp", ["2026-01-01T00:00Z"]), ("boolean", [2]), ("timestamp", [5])],
)  # fmt: skip
def test_a_misfit_names_column_value_and_way_out(place: SqlitePlace, declared: str, values: list[Any]) -> None:
    place.fill("CREATE TABLE t (x)", values)
    with pytest.raises(SourceError) as told:
        rows(place.open(), "t", schema_of(x=declared))
    assert told.value.place.endswith("t[x]")
    assert told.value.expected == declared
    assert '"x": "string"' in told.value.hint


def test_a_cursor_over_text_with_numbers_in_it_loses_nothing(place: SqlitePlace) -> None:
    place.fill("CREATE TABLE t (x TEXT)", [9, 10, 100])
    found = rows(place.open(), "t", schema_of(x="long"), above=("x", "10"))
    assert [row["x"] for row in found] == [10, 100]


def test_nothing_is_ever_written(place: SqlitePlace) -> None:
    place.fill("CREATE TABLE t (x)", [1])
    before = place.path.read_bytes()
    database = place.open()
    rows(database, "t", schema_of(x="long"))
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        database._connection.execute("DELETE FROM t")
    database.close()
    assert place.path.read_bytes() == before


def context(folder: Path) -> Context:
    clock = SystemClock()
    return Context(folder / ".penstock", clock, SystemIds(clock), secret=str)


def test_urls_count_from_the_project_or_are_absolute(place: SqlitePlace, tmp_path: Path) -> None:
    place.fill("CREATE TABLE t (x)", [1])
    for url in (f"sqlite:///{place.path.name}", f"sqlite:///{place.path}"):
        assert SqliteDatabase.open(url, context(tmp_path)).tables() == ["t"]


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda folder: SqliteDatabase.open("sqlite:///none.db", context(folder)), SourceError),
        (lambda folder: SqliteDatabase.open("sqlite:///none.db", context(folder), password="x"), SettingsError),
        (lambda folder: (folder / "no.db").write_text("not a database " * 99) and SqliteDatabase(folder / "no.db").tables(), SourceError),
    ],
)
def test_what_is_no_sqlite_file_is_told(tmp_path: Path, make: Callable[[Path], object], error: type[PenstockError]) -> None:
    with pytest.raises(error) as told:
        make(tmp_path)
    assert told.value.hint
    assert not (tmp_path / "none.db").exists()
