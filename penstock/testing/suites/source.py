"""What every source database must do.

Use: `from penstock.testing.suites.source import *` in a test module that has a fixture `place`: an empty database with two functions,
`execute` to run statements as its owner, and `open` to open it as Penstock does.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Protocol

import pyarrow as pa
import pytest

from penstock.ground.errors import SchemaDrift, SourceError
from penstock.ports.source import Database
from penstock.spec.schema import Schema, schema_of


class Place(Protocol):
    """A database under test. `execute` takes statements parted by semicolons."""

    def execute(self, sql: str) -> None: ...
    def open(self) -> Database: ...


PLANES = [
    {"id": 1, "name": "Ä'lpha; --", "weight": 1.5, "built": datetime.fromisoformat("2001-02-03 04:05:06"), "note": None},
    {"id": 2, "name": "", "weight": -2.0, "built": datetime.fromisoformat("2013-01-01 00:00:00"), "note": 'quo"te'},
    {"id": 3, "name": "日本 🛩", "weight": None, "built": None, "note": "%_\\"},
    {"id": 4, "name": "b", "weight": 1e300, "built": datetime.fromisoformat("2013-01-01 00:00:00"), "note": "line\nbreak"},
]
COLUMNS = schema_of(id="long", name="string", weight="double", built="timestamp", note="string")
SETUP = """
CREATE TABLE planes (id BIGINT PRIMARY KEY, name VARCHAR(40), weight DOUBLE PRECISION, built TIMESTAMP, note TEXT);
INSERT INTO planes VALUES (1, 'Ä''lpha; --', 1.5, '2001-02-03 04:05:06', NULL), (2, '', -2.0, '2013-01-01 00:00:00', 'quo"te'),
  (3, '日本 🛩', NULL, NULL, '%_\\'), (4, 'b', 1e300, '2013-01-01 00:00:00', 'line\nbreak');
CREATE VIEW heavy AS SELECT id, weight FROM planes WHERE weight > 1;
CREATE TABLE legs (flight BIGINT, leg BIGINT, miles BIGINT, PRIMARY KEY (leg, flight));
CREATE TABLE "odd ""name""; --" ("a ""b""; DROP TABLE planes; --" BIGINT, "select" VARCHAR(9));
INSERT INTO "odd ""name""; --" VALUES (7, 'x');
"""


@pytest.fixture
def database(place: Place) -> Iterator[Database]:
    place.execute(SETUP)
    opened = place.open()
    yield opened
    opened.close()


def rows(database: Database, relation: str, columns: Schema, **more: Any) -> list[dict[str, Any]]:
    """All rows of a read, in order of the first column."""
    with database.read(relation, columns=columns, **more) as reader:
        assert reader.schema.names == list(columns.names)
        found: list[dict[str, Any]] = reader.read_all().to_pylist()
    return sorted(found, key=lambda row: row[columns.names[0]])


def test_tables_and_views_are_listed(database: Database) -> None:
    assert sorted(database.tables()) == ["heavy", "legs", 'odd "name"; --', "planes"]


def test_columns_are_described(database: Database) -> None:
    assert database.describe("planes") == COLUMNS
    assert database.describe("heavy") == schema_of(id="long", weight="double")
    assert database.describe("legs") == schema_of(flight="long", leg="long", miles="long")


def test_a_query_is_described_and_read(database: Database) -> None:
    query = "(SELECT name, id + 1 AS next FROM planes WHERE id < 3 -- the first two\n)"
    assert database.describe(query).names == ("name", "next")
    assert rows(database, query, schema_of(next="long", name="string")) == [{"next": 2, "name": "Ä'lpha; --"}, {"next": 3, "name": ""}]


def test_all_rows_are_read_as_they_are(database: Database) -> None:
    assert rows(database, "planes", COLUMNS) == PLANES


def test_columns_come_in_the_order_asked_for(database: Database) -> None:
    assert rows(database, "planes", schema_of(id="long", note="string", name="string"))[1] == {"id": 2, "note": 'quo"te', "name": ""}


def test_an_empty_table_gives_no_rows(database: Database) -> None:
    with database.read("legs", columns=schema_of(miles="long")) as reader:
        table = reader.read_all()
    assert table.num_rows == 0
    assert table.schema == pa.schema([("miles", pa.int64())])


def test_declared_text_takes_everything(database: Database) -> None:
    found = rows(database, "planes", schema_of(id="string", weight="string", built="string"))
    assert found[0] == {"id": "1", "weight": "1.5", "built": "2001-02-03 04:05:06"}
    assert found[2] == {"id": "3", "weight": None, "built": None}


def test_a_value_that_does_not_fit_fails_the_read(database: Database) -> None:
    with pytest.raises(SourceError) as told:
        rows(database, "planes", schema_of(name="long"))
    assert "string" in told.value.hint


@pytest.mark.parametrize(
    ("column", "value", "ids"),
    [
        ("id", "2", [2, 3, 4]),
        ("id", 4, [4]),
        ("id", "5", []),
        ("weight", "1.5", [1, 4]),
        ("built", "2013-01-01 00:00:00", [2, 4]),
        ("built", "2001-02-03 04:05:06.000001", [2, 4]),
        ("name", "b", [1, 3, 4]),
        ("name", "' OR 1=1; DROP TABLE planes; --", [1, 3, 4]),
    ],
)
def test_rows_at_or_above_a_value_are_read(database: Database, column: str, value: Any, ids: list[int]) -> None:
    found = rows(database, "planes", COLUMNS, above=(column, value))
    assert found == [row for row in PLANES if row["id"] in ids]
    assert "planes" in database.tables()


def test_names_are_only_names(database: Database) -> None:
    table, column = 'odd "name"; --', 'a "b"; DROP TABLE planes; --'
    columns = schema_of(**{column: "long", "select": "string"})
    assert database.describe(table) == columns
    assert rows(database, table, columns, above=(column, "7")) == [{column: 7, "select": "x"}]
    assert "planes" in database.tables()


def test_the_primary_key_is_told(database: Database) -> None:
    if not database.capabilities.primary_keys:
        return
    assert database.key("planes") == ("id",)
    assert database.key("legs") == ("leg", "flight")
    assert database.key("heavy") == ()


def test_an_unknown_table_brings_the_nearest_names(database: Database) -> None:
    for call in (database.describe, database.key, lambda name: database.read(name, columns=COLUMNS)):
        with pytest.raises(SourceError, match="did you mean `planes`"):
            call("plane")


def test_a_missing_column_is_drift(database: Database) -> None:
    with pytest.raises(SchemaDrift, match="did you mean `weight`"):
        database.read("planes", columns=schema_of(wight="double"))


def test_a_query_that_cannot_run_is_told(database: Database) -> None:
    for query in ("(SELECT nothing FROM planes)", "(SELECT 1; SELECT 2)", "(DELETE FROM planes)", "(SELECT"):
        with pytest.raises(SourceError):
            database.describe(query)
    assert len(rows(database, "planes", COLUMNS)) == 4


def test_a_read_sees_one_moment(place: Place, database: Database) -> None:
    if not database.capabilities.consistent_reads:
        return
    with database.read("planes", columns=schema_of(id="long")) as reader:
        place.execute("INSERT INTO planes (id) VALUES (99)")
        assert sorted(reader.read_all().column("id").to_pylist()) in ([1, 2, 3, 4], [1, 2, 3, 4, 99])
    assert [row["id"] for row in rows(database, "planes", schema_of(id="long"))] == [1, 2, 3, 4, 99]


def test_a_large_table_comes_in_batches(place: Place, database: Database) -> None:
    numbers = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 119999)"
    place.execute(f"INSERT INTO legs (flight, leg, miles) {numbers} SELECT i, i % 7, i * 3 FROM n")
    with database.read("legs", columns=schema_of(flight="long", miles="long")) as reader:
        sizes, total = [], 0
        for batch in reader:
            sizes.append(batch.num_rows)
            total += sum(batch.column("miles").to_pylist())
    assert sum(sizes) == 120_000
    assert total == 3 * sum(range(120_000))


def test_a_read_can_be_left_unfinished(database: Database) -> None:
    database.read("planes", columns=COLUMNS)
    assert len(rows(database, "planes", COLUMNS)) == 4
    database.read("planes", columns=COLUMNS).read_next_batch()
    database.close()
    database.close()


def test_batches_may_be_pulled_from_another_thread(database: Database) -> None:
    reader = database.read("planes", columns=COLUMNS)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(reader.read_all).result().num_rows == 4
