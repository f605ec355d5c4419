"""Tables end to end: what is made, what is fresh, what is made again, in each way of writing."""

from __future__ import annotations

from typing import Any

import pytest

ORDERS = "id,customer,amount,ts\n1,ada,10,2026-01-05\n2,bob,20,2026-01-20\n3,ada,30,2026-02-03\n"
SIMPLE = """
raw = ps.files("data/*.csv")

@ps.table(key="id")
def orders(raw):
    return ps.sql("SELECT id, customer, amount, ts FROM raw WHERE amount > 10")

@ps.table
def totals(orders):
    return ps.sql("SELECT customer, sum(amount) AS total FROM orders GROUP BY customer")
"""


def test_raw_files_to_totals(shop: Any) -> None:
    shop.write("data/a.csv", ORDERS)
    shop.pipeline(SIMPLE)
    assert shop.made() == {"raw": "made", "orders": "made", "totals": "made"}
    assert shop.rows("SELECT customer, total FROM totals ORDER BY 1") == [
        {"customer": "ada", "total": 30},
        {"customer": "bob", "total": 20},
    ]


def test_a_second_run_does_nothing(shop: Any) -> None:
    shop.write("data/a.csv", ORDERS)
    shop.pipeline(SIMPLE)
    shop.made()
    report = shop.run()
    assert report.nothing
    assert {a.status for a in shop.plan().values()} == {"fresh"}


def test_the_ledger_balances_and_tells_the_filter(shop: Any) -> None:
    shop.write("data/a.csv", ORDERS)
    shop.pipeline(SIMPLE)
    results = {r.asset: r.body for r in shop.run().results}
    land, compute = results["raw"]["ledger"][0], results["orders"]["ledger"][0]
    assert (land["rows_in"], land["rows_out"], land["balanced"]) == (3, 3, True)
    assert (compute["rows_in"], compute["rows_out"], sum(compute["filtered"].values())) == (3, 2, 1)
    assert compute["balanced"]
    assert not results["totals"]["ledger"][0]["keeps"]


def test_only_what_changed_is_made_again(shop: Any) -> None:
    shop.write("data/a.csv", ORDERS)
    shop.pipeline(SIMPLE)
    shop.made()
    shop.pipeline(SIMPLE.replace("sum(amount)", "max(amount)"))
    plan = shop.plan()
    assert {n: a.status for n, a in plan.items()} == {"raw": "fresh", "orders": "fresh", "totals": "stale"}
    assert [r.code for r in plan["totals"].reasons] == ["code"]
    assert shop.made() == {"raw": "fresh", "orders": "fresh", "totals": "made"}
    shop.pipeline(SIMPLE.replace("sum(amount)", "MAX(amount)").replace("SELECT customer", "select   customer"))
    assert shop.run().nothing


def test_a_new_file_is_read_alone_and_flows_down(shop: Any) -> None:
    shop.write("data/a.csv", ORDERS)
    shop.pipeline(SIMPLE)
    shop.made()
    shop.write("data/b.csv", "id,customer,amount,ts\n4,eve,40,2026-02-04\n")
    plan = shop.plan()
    assert plan["raw"].mode == "part"
    assert plan["raw"].files.new == ("data/b.csv",)
    assert plan["orders"].status == "waiting"
    report = shop.run()
    landed = next(r for r in report.results if r.asset == "raw")
    assert landed.body["rows_in"] == 1
    assert [r["customer"] for r in shop.rows("SELECT DISTINCT customer FROM totals ORDER BY 1")] == ["ada", "bob", "eve"]


def test_a_changed_file_takes_the_place_of_its_old_rows(shop: Any) -> None:
    shop.write("data/a.csv", ORDERS)
    shop.write("data/b.csv", "id,customer,amount,ts\n4,eve,40,2026-02-04\n")
    shop.pipeline(SIMPLE)
    shop.made()
    shop.write("data/b.csv", "id,customer,amount,ts\n4,eve,41,2026-02-04\n5,eve,50,2026-02-05\n")
    assert shop.plan()["raw"].files.changed == ("data/b.csv",)
    shop.made()
    assert shop.rows("SELECT id, amount FROM raw ORDER BY id") == [
        {"id": i, "amount": a} for i, a in [(1, 10), (2, 20), (3, 30), (4, 41), (5, 50)]
    ]


def test_a_touched_file_with_the_same_content_is_fresh(shop: Any) -> None:
    import os

    path = shop.write("data/a.csv", ORDERS)
    shop.pipeline(SIMPLE)
    shop.made()
    os.utime(path, ns=(1, 1))
    assert shop.run().nothing
    with shop.open() as project:
        body = project.state.heads("listing")["raw/data/a.csv"].body
    assert body["changed_ns"] == 1, "what was looked at once need not be looked at again"


@pytest.mark.parametrize(("gone", "left"), [("keep", 4), ("drop", 3)])
def test_rows_of_a_vanished_file(shop: Any, gone: str, left: int) -> None:
    shop.write("data/a.csv", ORDERS)
    extra = shop.write("data/b.csv", "id,customer,amount,ts\n4,eve,40,2026-02-04\n")
    shop.pipeline(SIMPLE.replace('"data/*.csv"', f'"data/*.csv", gone="{gone}"'))
    shop.made()
    extra.unlink()
    assert shop.plan()["raw"].files.gone == ("data/b.csv",)
    shop.made()
    assert shop.rows("SELECT count(*) AS n FROM raw") == [{"n": left}]


def test_parameters_make_it_stale(shop: Any) -> None:
    shop.write("data/a.csv", ORDERS)
    shop.pipeline("""
raw = ps.files("data/*.csv")

@ps.table
def big(raw, *, above: int = 15):
    return ps.sql("SELECT id FROM raw WHERE amount > $above", above=above)
""")
    shop.made()
    assert shop.rows("SELECT count(*) AS n FROM big") == [{"n": 2}]
    shop.made(params={"big": {"above": 25}})
    assert shop.rows("SELECT count(*) AS n FROM big") == [{"n": 1}]


@pytest.mark.parametrize(
    ("annotation", "body"),
    [
        ("polars.LazyFrame", 'return raw.group_by("customer").agg(n=__import__("polars").len())'),
        ("polars.DataFrame", 'return raw.group_by("customer").len("n")'),
        ("pyarrow.Table", 'return raw.group_by("customer").aggregate([([], "count_all")]).rename_columns(["customer", "n"])'),
        ("pandas.DataFrame", 'return raw.groupby("customer").size().rename("n").reset_index()'),
        ("duckdb.DuckDBPyRelation", 'return raw.aggregate("customer, count(*) AS n", "customer").to_arrow_table()'),
    ],
)
def test_python_tables_in_each_form(shop: Any, annotation: str, body: str) -> None:
    shop.write("data/a.csv", ORDERS)
    shop.pipeline(f'raw = ps.files("data/*.csv")\n\n@ps.table\ndef counts(raw: "{annotation}"):\n    {body}\n')
    shop.made()
    assert shop.rows("SELECT customer, n FROM counts ORDER BY 1") == [{"customer": "ada", "n": 2}, {"customer": "bob", "n": 1}]


def test_hidden_columns_stay_hidden(shop: Any) -> None:
    shop.write("data/a.csv", ORDERS)
    shop.pipeline('raw = ps.files("data/*.csv")\n\n@ps.table\ndef copy(raw):\n    return ps.sql("SELECT * FROM raw")\n')
    shop.made()
    assert list(shop.rows("SELECT * FROM copy LIMIT 1")[0]) == ["id", "customer", "amount", "ts"]
    assert list(shop.rows("SELECT * FROM raw LIMIT 1")[0]) == ["id", "customer", "amount", "ts"]


# -- ways to write ----------------------------------------------------------------------------------------------------
APPEND = """
raw = ps.files("data/*.csv")

@ps.table(write=ps.append())
def log(raw):
    return ps.sql("SELECT id, amount * 2 AS double FROM raw")
"""


def test_append_computes_new_rows_only(shop: Any) -> None:
    shop.write("data/a.csv", ORDERS)
    shop.pipeline(APPEND)
    shop.made()
    shop.write("data/b.csv", "id,customer,amount,ts\n4,eve,40,2026-02-04\n")
    report = shop.run()
    log = next(r for r in report.results if r.asset == "log")
    assert (log.body["mode"], log.body["ledger"][0]["rows_out"]) == ("part", 1)
    assert shop.rows("SELECT id, double FROM log ORDER BY id")[-1] == {"id": 4, "double": 80}
    assert shop.rows("SELECT count(*) AS n FROM log") == [{"n": 4}]


MERGE = """
raw = ps.files("data/*.csv")

@ps.table(key="id", time="ts", write=ps.merge())
def newest(raw):
    return ps.sql("SELECT id, customer, amount, ts FROM raw")
"""


def test_merge_keeps_the_newest_of_each_key(shop: Any) -> None:
    shop.write("data/a.csv", ORDERS)
    shop.pipeline(MERGE)
    shop.made()
    shop.write("data/b.csv", "id,customer,amount,ts\n2,bob,99,2026-03-01\n3,ada,1,2025-01-01\n7,eve,7,2026-03-02\n1,ada,10,2026-01-05\n")
    report = shop.run()
    step = next(s for r in report.results if r.asset == "newest" for s in r.body["ledger"] if s["name"] == "merge")
    assert (step["rows_in"], step["rows_out"], step["duplicate"]) == (4, 2, 2)
    assert step["note"] == {"inserted": 1, "updated": 1}
    assert [(r["id"], r["amount"]) for r in shop.rows("SELECT id, amount FROM newest ORDER BY id")] == [(1, 10), (2, 99), (3, 30), (7, 7)]


SLICES = """
raw = ps.files("data/*.csv")

@ps.table(time="month", write=ps.slices("month", of="raw", on="ts"))
def monthly(raw):
    return ps.sql("SELECT date_trunc('month', ts) AS month, sum(amount) AS total, count(*) AS n FROM raw GROUP BY 1")
"""


def test_slices_compute_only_what_late_rows_touch(shop: Any) -> None:
    shop.write("data/a.csv", ORDERS)
    shop.pipeline(SLICES)
    shop.made()
    shop.write("data/late.csv", "id,customer,amount,ts\n9,bob,5,2026-01-31\n")
    report = shop.run()
    steps = next(r.body["ledger"] for r in report.results if r.asset == "monthly")
    assert steps[0]["rows_out"] == 1
    rows = shop.rows("SELECT CAST(month AS DATE) AS month, total, n FROM monthly ORDER BY 1")
    assert [(str(r["month"]), r["total"], r["n"]) for r in rows] == [("2026-01-01", 35, 3), ("2026-02-01", 30, 1)]


def test_a_renamed_column_keeps_its_values(shop: Any) -> None:
    shop.write("data/a.csv", ORDERS)
    shop.pipeline(APPEND)
    shop.made()
    shop.pipeline(APPEND.replace("write=ps.append()", 'write=ps.append(), renamed={"twice": "double"}').replace("AS double", "AS twice"))
    shop.made()
    assert shop.rows("SELECT sum(twice) AS s FROM log") == [{"s": 120}]


def test_an_older_version_stays_readable(shop: Any) -> None:
    from datetime import UTC, datetime

    shop.write("data/a.csv", ORDERS)
    shop.pipeline(SIMPLE)
    shop.made()
    between = datetime.now(UTC)
    shop.write("data/b.csv", "id,customer,amount,ts\n4,eve,40,2026-02-04\n")
    shop.made()
    assert shop.rows("SELECT count(*) AS n FROM raw", as_of=between) == [{"n": 3}]
    assert shop.rows("SELECT count(*) AS n FROM raw") == [{"n": 4}]


def test_exports_are_written_after_publishing(shop: Any) -> None:
    shop.write("data/a.csv", ORDERS)
    shop.pipeline(SIMPLE.replace("@ps.table\n", '@ps.table(export=["out/totals.csv", "out/totals.parquet", "out/totals.json"])\n'))
    shop.made()
    assert sorted(shop.folder.joinpath("out/totals.csv").read_text().splitlines()[1:]) == ['"ada",30', '"bob",20']
    assert {p.name for p in (shop.folder / "out").iterdir()} == {"totals.csv", "totals.parquet", "totals.json"}


def test_a_join_as_of_an_instant_and_a_time_without_zone_is_refused(shop: Any) -> None:
    shop.write("a.csv", "k,at\n1,2026-01-01T10:00:00\n")
    shop.pipeline(
        'raw = ps.files("a.csv", columns={"k": "long", "at": "timestamp"})\n\n@ps.table()\ndef zoned(raw):\n'
        "    return ps.sql('SELECT k, \"at\" AT TIME ZONE \\'UTC\\' AS at FROM raw')\n\n@ps.table()\ndef made(raw, zoned):\n"
        "    return ps.sql('SELECT * FROM raw').asof(zoned, by='k', on='at', take=[])\n"
    )
    error = shop.failed("made")
    assert error["code"] == "E1001"
    assert error["place"] == "made.asof(zoned)"
    assert "which zone" in error["hint"]
