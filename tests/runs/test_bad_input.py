"""Bad input at the level of a project: a clear error or a rejected row, the old version readable, the next run heals."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from penstock.ground import failpoints
from penstock.ground.errors import CycleError, DefinitionError, PenstockError, ProjectNotLoaded, UnknownName

RAW = 'raw = ps.files("data/*.csv"{more})\n'
COPY = "\n@ps.table(key='id')\ndef copy(raw):\n    return ps.sql('SELECT id, amount FROM raw')\n"
GOOD = "id,amount\n1,10\n2,20\n"


def rejected(shop: Any, asset: str) -> list[dict[str, Any]]:
    return shop.rows(f'SELECT stage, "check", reason, original, file, position FROM {asset}__rejected ORDER BY file, position')


# -- rows -------------------------------------------------------------------------------------------------------------
def test_a_line_that_cannot_be_read_is_kept_with_its_place(shop: Any) -> None:
    shop.write("data/a.csv", "id,amount\n1,10\n2,twenty\n3\n4,40\n")
    shop.pipeline('raw = ps.files("data/*.csv", columns={"id": "long", "amount": "long"})\n')
    report = shop.run()
    body = report.results[0].body
    assert (body["rows_in"], body["rows"], body["rejected"]) == (4, 2, 2)
    found = rejected(shop, "raw")
    assert [(r["file"], r["position"], r["original"]) for r in found] == [("data/a.csv", 3, "2,twenty"), ("data/a.csv", 4, "3")]
    assert "amount" in found[0]["reason"]


def test_rows_that_fail_a_check_land_after_the_check_is_mended(shop: Any) -> None:
    shop.write("data/a.csv", "id,amount\n1,10\n2,2000\n3,-5\n")
    shop.pipeline(RAW.format(more="") + COPY.replace("key='id'", "key='id', checks=[ps.between('amount', 0, 100)]"))
    report = shop.run()
    assert report.ok
    assert {r["original"] for r in rejected(shop, "copy")} == {'{"id":"2","amount":"2000"}', '{"id":"3","amount":"-5"}'}
    shop.pipeline(RAW.format(more="") + COPY.replace("key='id'", "key='id', checks=[ps.between('amount', 0, 5000)]"))
    with shop.open() as project:
        done = project.replay("copy")
    assert (done.tried, done.landed, dict(done.still_rejected)) == (2, 1, {"between(amount, 0, 5000)": 1})
    assert shop.rows("SELECT id FROM copy ORDER BY id") == [{"id": 1}, {"id": 2}]
    assert [r["original"] for r in rejected(shop, "copy")] == ['{"id":"3","amount":"-5"}']
    with shop.open() as project:
        again = project.replay("copy")
    assert (again.tried, again.landed) == (1, 0)
    assert shop.run().nothing


def test_lines_that_could_not_be_read_can_be_replayed(shop: Any) -> None:
    shop.write("data/a.csv", "id,amount\n1,10\n2,20\n3,x\n")
    shop.pipeline('raw = ps.files("data/*.csv", columns={"id": "long", "amount": "long"})\n')
    shop.made()
    with shop.open() as project:
        done = project.replay("raw")
    assert (done.tried, done.landed) == (1, 0)
    assert sum(done.still_rejected.values()) == 1
    assert shop.rows("SELECT count(*) AS n FROM raw") == [{"n": 2}]


def test_a_blocking_check_leaves_readers_on_the_old_version(shop: Any) -> None:
    shop.write("data/a.csv", GOOD)
    shop.pipeline(RAW.format(more="") + COPY.replace("key='id'", "key='id', checks=[ps.rows(high=3)]"))
    shop.made()
    shop.write("data/b.csv", "id,amount\n3,30\n4,40\n")
    error = shop.failed("copy")
    assert error["code"] == "E3001"
    assert shop.rows("SELECT count(*) AS n FROM copy") == [{"n": 2}]
    shop.write("data/b.csv", "id,amount\n3,30\n")
    shop.made()
    assert shop.rows("SELECT count(*) AS n FROM copy") == [{"n": 3}]


def test_a_warning_only_tells(shop: Any) -> None:
    shop.write("data/a.csv", GOOD)
    shop.pipeline(RAW.format(more="") + COPY.replace("key='id'", "checks=[ps.between('amount', 0, 15).warns()]"))
    report = shop.run()
    assert report.ok
    assert [c["passed"] for c in report.results[1].body["checks"]] == [False]
    assert shop.rows("SELECT count(*) AS n FROM copy") == [{"n": 2}]


def test_a_join_that_fans_out_is_caught_by_the_key(shop: Any) -> None:
    shop.write("data/a.csv", GOOD)
    shop.write("more/b.csv", "id,x\n1,a\n1,b\n")
    shop.pipeline(
        RAW.format(more="")
        + 'more = ps.files("more/*.csv")\n\n@ps.table(key="id")\ndef joined(raw, more):\n    return ps.sql("SELECT r.id, m.x FROM raw r LEFT JOIN more m USING (id)")\n'
    )
    error = shop.failed("joined")
    assert error["code"] == "E3003"
    assert "fans out" in error["hint"]


def test_duplicate_keys_can_be_rejected_instead(shop: Any) -> None:
    shop.write("data/a.csv", "id,amount\n1,10\n1,11\n2,20\n")
    shop.pipeline(RAW.format(more="") + COPY.replace("key='id'", "key='id', checks=[ps.unique('id')]"))
    shop.made()
    assert shop.rows("SELECT id, amount FROM copy ORDER BY id") == [{"id": 1, "amount": 10}, {"id": 2, "amount": 20}]
    assert len(rejected(shop, "copy")) == 1


def test_nan_and_infinity(shop: Any) -> None:
    shop.write("data/a.csv", "id,amount\n1,1.5\n2,NaN\n3,inf\n4,-inf\n")
    shop.pipeline(
        'raw = ps.files("data/*.csv", columns={"id": "long", "amount": "double"})\n'
        + COPY.replace("key='id'", "checks=[ps.finite('amount')]")
    )
    shop.made()
    assert shop.rows("SELECT id FROM copy") == [{"id": 1}]
    assert len(rejected(shop, "copy")) == 3


# -- drift ------------------------------------------------------------------------------------------------------------
def test_a_new_column_widens_the_source(shop: Any) -> None:
    shop.write("data/a.csv", GOOD)
    shop.pipeline(RAW.format(more=""))
    shop.made()
    shop.write("data/b.csv", "amount,id,note\n30,3,hello\n")
    shop.made()
    assert shop.rows("SELECT id, amount, note FROM raw ORDER BY id")[1:] == [
        {"id": 2, "amount": 20, "note": None},
        {"id": 3, "amount": 30, "note": "hello"},
    ]


def test_a_frozen_source_refuses_another_shape_and_loads_nothing(shop: Any) -> None:
    shop.write("data/a.csv", GOOD)
    shop.pipeline(RAW.format(more=', drift="freeze"'))
    shop.made()
    shop.write("data/b.csv", "id,amount,note\n3,30,hello\n")
    error = shop.failed("raw")
    assert error["code"] == "E2003"
    assert "data/b.csv" in error["place"]
    assert shop.rows("SELECT count(*) AS n FROM raw") == [{"n": 2}]
    shop.write("data/b.csv", "id,amount\n3,30\n")
    shop.made()
    assert shop.rows("SELECT count(*) AS n FROM raw") == [{"n": 3}]


def test_a_quarantined_file_is_left_out_and_shown(shop: Any) -> None:
    shop.write("data/a.csv", GOOD)
    shop.pipeline(RAW.format(more=', drift="quarantine"'))
    shop.made()
    shop.write("data/b.csv", "id,amount,note\n3,30,hello\n")
    shop.write("data/c.csv", "id,amount\n4,40\n")
    report = shop.run()
    assert report.ok
    assert report.results[0].body["quarantined"] == ["data/b.csv"]
    assert shop.rows("SELECT id FROM raw ORDER BY id") == [{"id": i} for i in (1, 2, 4)]
    assert shop.run().nothing


def test_a_missing_column_gives_nulls_when_widening(shop: Any) -> None:
    shop.write("data/a.csv", GOOD)
    shop.pipeline(RAW.format(more=""))
    shop.made()
    shop.write("data/b.csv", "id\n3\n")
    shop.made()
    assert shop.rows("SELECT amount FROM raw WHERE id = 3") == [{"amount": None}]


def test_an_empty_file_has_no_rows(shop: Any) -> None:
    shop.write("data/a.csv", GOOD)
    shop.write("data/empty.csv", "")
    shop.write("data/header.csv", "id,amount\n")
    shop.pipeline(RAW.format(more=""))
    shop.made()
    assert shop.rows("SELECT count(*) AS n FROM raw") == [{"n": 2}]


def test_gzip_and_plain_together(shop: Any) -> None:
    shop.write("data/a.csv", GOOD)
    shop.write("data/b.csv.gz", gzip.compress(b"id,amount\n3,30\n"))
    shop.pipeline('raw = ps.files("data/*")\n')
    shop.made()
    assert shop.rows("SELECT sum(amount) AS s FROM raw") == [{"s": 60}]


# -- definitions ------------------------------------------------------------------------------------------------------
def test_no_file_matches(shop: Any) -> None:
    shop.write("data/a.csv", GOOD)
    shop.pipeline('nothing = ps.files("nothing/*.csv")\nraw = ps.files("data/*.csv")\n')
    with pytest.raises(PenstockError, match="E2001"):
        shop.plan()
    report = shop.run()
    assert {r.asset: r.status for r in report.results} == {"nothing": "failed", "raw": "made"}
    assert report.results[0].error["code"] == "E2001"


def test_a_state_without_records_doubles_nothing(shop: Any) -> None:
    shop.write("data/a.csv", GOOD)
    shop.pipeline(RAW.format(more=""))
    shop.made()
    shop.write("penstock.toml", '[project]\nlevel = "other"\n[level.other]\nstate = "sqlite:///other.db"\n')
    shop.made()
    assert shop.rows("SELECT count(*) AS n FROM raw") == [{"n": 2}]


def test_a_circle_is_named(shop: Any) -> None:
    shop.pipeline(
        "@ps.table\ndef a(b):\n    return ps.sql('SELECT * FROM b')\n\n@ps.table\ndef b(a):\n    return ps.sql('SELECT * FROM a')\n"
    )
    with pytest.raises(CycleError, match=r"a -> b -> a|b -> a -> b"):
        shop.run()


def test_an_unknown_input_is_named(shop: Any) -> None:
    shop.pipeline('raw = ps.files("x.csv")\n\n@ps.table\ndef a(rwa):\n    return ps.sql("SELECT 1")\n')
    with pytest.raises(UnknownName, match="did you mean `raw`"):
        shop.run()


def test_a_module_that_fails_names_its_line(shop: Any) -> None:
    shop.pipeline("x = 1\ny = undefined_name\n")
    with pytest.raises(ProjectNotLoaded, match=r"pipeline\.py:4"):
        shop.run()


def test_unknown_columns_and_tables_in_a_query(shop: Any) -> None:
    shop.write("data/a.csv", GOOD)
    shop.pipeline(RAW.format(more="") + COPY.replace("SELECT id, amount", "SELECT id, amuont"))
    error = shop.failed("copy")
    assert (error["code"], error["place"]) == ("E1006", "copy")
    assert "amount" in error["hint"] + error["got"] + error["message"]


def test_a_key_that_is_no_column(shop: Any) -> None:
    shop.write("data/a.csv", GOOD)
    shop.pipeline(RAW.format(more="") + COPY.replace("key='id'", "key='idd'"))
    assert shop.failed("copy")["code"] == "E1001"


def test_a_function_that_raises_is_the_users_own(shop: Any) -> None:
    shop.write("data/a.csv", GOOD)
    shop.pipeline(
        RAW.format(more="")
        + '\n@ps.table\ndef broken(raw: "pyarrow.Table"):\n    return raw.column("nope")\n\n@ps.table\ndef after(broken):\n    return ps.sql("SELECT * FROM broken")\n'
    )
    report = shop.run()
    by_name = {r.asset: r for r in report.results}
    assert by_name["raw"].status == "made"
    assert by_name["after"].status == "skipped"
    error = by_name["broken"].error
    assert error is not None
    assert (error["code"], error["fault"]) == ("E5001", "user")
    assert "pipeline.py:7" in error["got"]


def test_a_stream_that_breaks_in_the_middle_publishes_nothing(shop: Any) -> None:
    shop.write("data/a.csv", GOOD)
    text = """
@ps.table
def streamed(raw: "pyarrow.RecordBatchReader"):
    import pyarrow as pa

    def batches():
        yield from raw
        raise OSError("the disk of the user's own code broke")

    return pa.RecordBatchReader.from_batches(raw.schema, batches())
"""
    shop.pipeline(RAW.format(more="") + text)
    error = shop.failed("streamed")
    assert error["fault"] in ("user", "backend")
    with shop.open() as project:
        assert project.runtime.lake.snapshot("streamed") is None


def test_names_with_sql_in_them(shop: Any) -> None:
    shop.write("data/it's; DROP TABLE x --.csv", 'id,"we""ird; SELECT 1",amount\n1,a,10\n2,b,20\n')
    shop.pipeline(RAW.format(more="") + COPY)
    shop.made()
    assert list(shop.rows("SELECT * FROM raw ORDER BY id")[0].values()) == [1, "a", 10]


# -- machines ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("point", ["source.written", "run.written", "lake.commit.before", "state.append.before"])
def test_a_full_disk_leaves_the_old_version_and_heals(shop: Any, point: str) -> None:
    shop.write("data/a.csv", GOOD)
    shop.pipeline(RAW.format(more="") + COPY)
    shop.made()
    shop.write("data/b.csv", "id,amount\n3,30\n")
    with failpoints.armed(point, failpoints.full):
        report = None
        try:
            report = shop.run()
        except OSError:
            assert point == "state.append.before"
    assert report is None or not report.ok
    assert shop.rows("SELECT count(*) AS n FROM copy") == [{"n": 2}]
    shop.made()
    assert shop.rows("SELECT count(*) AS n FROM copy") == [{"n": 3}]
    assert shop.rows("SELECT count(*) AS n FROM raw") == [{"n": 3}]


def test_a_file_that_changes_while_it_is_read_is_not_taken(shop: Any) -> None:
    path: Path = shop.write("data/a.csv", GOOD)
    shop.pipeline(RAW.format(more=""))

    def change() -> None:
        path.write_text("id,amount\n9,90\n")

    with failpoints.armed("source.files_listed", change):
        report = shop.run()
    if not report.ok:
        assert report.results[0].error["code"] == "E2002"
    shop.made()
    assert shop.rows("SELECT id, amount FROM raw") == [{"id": 9, "amount": 90}]


def test_two_tables_of_one_name_are_refused(shop: Any) -> None:
    shop.pipeline('raw = ps.files("a.csv")\nother = [ps.table(lambda: None)]\n')
    with pytest.raises((DefinitionError, PenstockError)):
        shop.run()
