"""A database as a source: full, by query, by cursor; nothing is read twice, nothing is missed."""

from __future__ import annotations

import sqlite3
from typing import Any

FULL = 'fleet = ps.database("sqlite:///ops.db", table="planes")\n'
CURSOR = 'fleet = ps.database("sqlite:///ops.db", table="planes", cursor="changed")\n'


def execute(shop: Any, *statements: str) -> None:
    connection = sqlite3.connect(shop.folder / "ops.db")
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def make(shop: Any) -> None:
    execute(
        shop,
        "CREATE TABLE planes (tail TEXT PRIMARY KEY, seats INTEGER, changed INTEGER)",
        "INSERT INTO planes VALUES ('a', 10, 1), ('b', 20, 2), ('c', 30, 2)",
    )


def rows(shop: Any) -> list[tuple[Any, ...]]:
    return [tuple(r.values()) for r in shop.rows("SELECT tail, seats FROM fleet ORDER BY 1, 2")]


def test_a_full_read_makes_a_version_only_if_something_changed(shop: Any) -> None:
    make(shop)
    shop.pipeline(FULL)
    assert shop.made() == {"fleet": "made"}
    assert shop.plan()["fleet"].status == "look"
    assert shop.made() == {"fleet": "unchanged"}
    execute(shop, "UPDATE planes SET seats = 11 WHERE tail = 'a'")
    assert shop.made() == {"fleet": "made"}
    assert rows(shop) == [("a", 11), ("b", 20), ("c", 30)]


def test_a_query(shop: Any) -> None:
    make(shop)
    shop.pipeline('fleet = ps.database("sqlite:///ops.db", query="SELECT tail, seats FROM planes WHERE seats > 15")\n')
    shop.made()
    assert rows(shop) == [("b", 20), ("c", 30)]


def test_a_cursor_reads_on_and_takes_ties_once(shop: Any) -> None:
    make(shop)
    shop.pipeline(CURSOR)
    shop.made()
    execute(shop, "INSERT INTO planes VALUES ('d', 40, 2), ('e', 50, 3)")
    report = shop.run()
    step = report.results[0].body["ledger"][0]
    assert (step["rows_in"], step["rows_out"], step["duplicate"], step["balanced"]) == (4, 2, 2, True)
    assert rows(shop) == [("a", 10), ("b", 20), ("c", 30), ("d", 40), ("e", 50)]
    assert shop.made() == {"fleet": "unchanged"}


def test_equal_rows_at_the_cursor_are_all_kept(shop: Any) -> None:
    execute(shop, "CREATE TABLE planes (tail TEXT, seats INTEGER, changed INTEGER)", "INSERT INTO planes VALUES ('a', 1, 1), ('a', 1, 1)")
    shop.pipeline(CURSOR)
    shop.made()
    execute(shop, "INSERT INTO planes VALUES ('a', 1, 1)")
    shop.made()
    assert rows(shop) == [("a", 1)] * 3


def test_row_checks_apply_to_a_database(shop: Any) -> None:
    make(shop)
    shop.pipeline(FULL.replace('"planes")', '"planes", checks=[ps.between("seats", 0, 25)])'))
    report = shop.run()
    assert report.results[0].body["rejected"] == 1
    assert shop.made() == {"fleet": "unchanged"}


def test_a_new_column_widens_and_a_frozen_source_refuses(shop: Any) -> None:
    make(shop)
    shop.pipeline(FULL)
    shop.made()
    execute(shop, "ALTER TABLE planes ADD COLUMN maker TEXT", "UPDATE planes SET maker = 'x'")
    shop.made()
    assert shop.rows("SELECT DISTINCT maker FROM fleet") == [{"maker": "x"}]
    shop.pipeline(FULL.replace('"planes")', '"planes", drift="freeze")'))
    shop.made()
    execute(shop, "ALTER TABLE planes ADD COLUMN more TEXT")
    assert shop.failed("fleet")["code"] == "E2003"


def test_a_missing_table_names_what_is_near(shop: Any) -> None:
    make(shop)
    shop.pipeline(FULL.replace('"planes"', '"plane"'))
    error = shop.failed("fleet")
    assert error["code"] == "E2001"
    assert "planes" in error["hint"]
