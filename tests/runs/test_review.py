"""Runs under adverse circumstances: what came in parts is what one computation of everything gives, and nothing is lost."""

from __future__ import annotations

import sqlite3
import threading
from typing import Any

import pytest

from penstock.ground import failpoints
from penstock.ground.errors import SettingsError

HEADER = "id,amount,ts\n"


def ids(shop: Any, table: str, column: str = "id") -> list[Any]:
    return [r[column] for r in shop.rows(f'SELECT "{column}" FROM {table} ORDER BY 1')]


def aside(shop: Any, asset: str) -> list[str]:
    return [r["original"] for r in shop.rows(f"SELECT original FROM {asset}__rejected ORDER BY 1")]


LOG = """
raw = ps.files("data/*.csv")

@ps.table(write=ps.append(), checks=[ps.between("amount", 0, 100)])
def log(raw):
    return ps.sql("SELECT id, amount FROM raw")
"""


def test_rejected_rows_stay_after_a_batch_without_any(shop: Any) -> None:
    shop.pipeline(LOG)
    for name, rows in (("a", "1,999,2026-01-01\n"), ("b", "2,5,2026-01-02\n"), ("c", "3,5,2026-01-03\n"), ("d", "4,888,2026-01-03\n")):
        shop.write(f"data/{name}.csv", HEADER + rows)
        shop.made()
    assert len(aside(shop, "log")) == 2


def test_rejected_rows_of_a_merge_that_changes_nothing_are_kept(shop: Any) -> None:
    shop.pipeline("""
raw = ps.files("data/*.csv")

@ps.table(key="id", time="ts", write=ps.merge(), checks=[ps.between("amount", 0, 100)])
def newest(raw):
    return ps.sql("SELECT id, amount, ts FROM raw")
""")
    shop.write("data/a.csv", HEADER + "1,5,2026-01-01\n")
    shop.made()
    shop.write("data/b.csv", HEADER + "2,999,2026-01-01\n")
    shop.made()
    assert len(aside(shop, "newest")) == 1


def test_a_changed_file_takes_its_rejected_rows_along(shop: Any) -> None:
    shop.pipeline('raw = ps.files("data/*.csv", columns={"id": "long", "amount": "long"}, checks=[ps.between("amount", 0, 100)])\n')
    shop.write("data/a.csv", "id,amount\n1,999\n2,x\n3,3\n")
    shop.write("data/b.csv", "id,amount\n4,4\n5,555\n")
    shop.made()
    assert len(aside(shop, "raw")) == 3
    shop.write("data/a.csv", "id,amount\n1,99\n2,y\n3,3\n6,6\n")
    shop.made()
    assert [o for o in aside(shop, "raw") if "999" in o or "2,x" in o] == []
    assert len(aside(shop, "raw")) == 2
    assert ids(shop, "raw") == [1, 3, 4, 6]


def test_slices_made_again_take_their_rejected_rows_along(shop: Any) -> None:
    shop.pipeline("""
raw = ps.files("data/*.csv")

@ps.table(time="day", write=ps.slices("day", of="raw", on="ts"), checks=[ps.between("n", 2, 100)])
def daily(raw):
    return ps.sql("SELECT date_trunc('day', ts) AS day, count(*) AS n FROM raw GROUP BY 1")
""")
    shop.write("data/a.csv", HEADER + "1,5,2026-01-01T10:00:00\n2,5,2026-01-02T10:00:00\n")
    shop.made()
    assert len(aside(shop, "daily")) == 2
    shop.write("data/b.csv", HEADER + "3,5,2026-01-01T11:00:00\n")
    shop.made()
    assert len(shop.rows("SELECT * FROM daily")) == 1
    assert len(aside(shop, "daily")) == 1


@pytest.mark.parametrize("write", ["write=ps.append(), ", ""])
def test_unique_also_looks_at_rows_that_were_there(shop: Any, write: str) -> None:
    shop.pipeline(f"""
raw = ps.files("data/*.csv")

@ps.table({write}checks=[ps.unique("id")])
def log(raw):
    return ps.sql("SELECT id, amount FROM raw")
""")
    shop.write("data/a.csv", HEADER + "1,5,2026-01-01\n")
    shop.made()
    shop.write("data/b.csv", HEADER + "1,6,2026-01-02\n2,7,2026-01-01\n")
    shop.made()
    assert ids(shop, "log") == [1, 2]
    assert len(aside(shop, "log")) == 1


def test_unique_in_a_source_looks_at_earlier_files(shop: Any) -> None:
    shop.pipeline('raw = ps.files("data/*.csv", checks=[ps.unique("id")])\n')
    shop.write("data/a.csv", HEADER + "1,5,2026-01-01\n")
    shop.made()
    shop.write("data/b.csv", HEADER + "1,6,2026-01-02\n2,7,2026-01-01\n")
    shop.made()
    assert ids(shop, "raw") == [1, 2]


def test_replay_lands_no_duplicate(shop: Any) -> None:
    shop.pipeline("""
raw = ps.files("data/*.csv")

@ps.table(checks=[ps.unique("id")])
def log(raw):
    return ps.sql("SELECT id, amount FROM raw")
""")
    shop.write("data/a.csv", HEADER + "1,5,2026-01-01\n1,6,2026-01-01\n")
    shop.made()
    with shop.open() as project:
        done = project.replay("log")
    assert (done.tried, done.landed) == (1, 0)
    assert ids(shop, "log") == [1]


def test_where_by_an_alias(shop: Any) -> None:
    shop.pipeline("""
raw = ps.files("data/*.csv")

@ps.table
def twice(raw):
    return ps.sql("SELECT id, amount * 2 AS double FROM raw WHERE double > 10")
""")
    shop.write("data/a.csv", HEADER + "1,5,2026-01-01\n2,6,2026-01-01\n")
    shop.made()
    assert ids(shop, "twice") == [2]


def test_parameters_whose_names_begin_alike(shop: Any) -> None:
    shop.pipeline("""
raw = ps.files("data/*.csv")

@ps.table
def part_of(raw, *, a: int = 5, ab: int = 5):
    return ps.sql("SELECT id, $a AS a FROM raw WHERE amount > $ab", a=a, ab=ab)
""")
    shop.write("data/a.csv", HEADER + "1,5,2026-01-01\n2,6,2026-01-01\n")
    shop.made()
    assert ids(shop, "part_of") == [2]


@pytest.mark.parametrize("default", ["(1, 2)", "__import__('datetime').date(2026, 1, 1)", "1.5", "None", "'x'"])
def test_parameters_of_any_kind_stay_fresh(shop: Any, default: str) -> None:
    shop.pipeline(f"""
raw = ps.files("data/*.csv")

@ps.table
def part_of(raw: "pyarrow.Table", *, which={default}):
    return raw
""")
    shop.write("data/a.csv", HEADER + "1,5,2026-01-01\n")
    shop.made()
    assert shop.run().nothing


def test_a_lazy_frame_that_fails_is_the_users_error(shop: Any) -> None:
    shop.pipeline("""
import polars as pl
raw = ps.files("data/*.csv")

@ps.table
def part_of(raw: pl.LazyFrame):
    return raw.select(pl.col("nope"))
""")
    shop.write("data/a.csv", HEADER + "1,5,2026-01-01\n")
    assert shop.failed("part_of")["code"] == "E5001"


def test_lazy_frames_have_columns_with_underscores(shop: Any) -> None:
    shop.pipeline("""
import polars as pl
raw = ps.files("data/*.csv")

@ps.table
def part_of(raw: pl.LazyFrame):
    return raw
""")
    shop.write("data/a.csv", "id,_note\n1,x\n")
    shop.made()
    assert shop.rows("SELECT * FROM part_of") == [{"id": 1, "_note": "x"}]


def test_all_files_quarantined_at_first(shop: Any) -> None:
    shop.pipeline('raw = ps.files("data/*.csv", columns={"id": "long"}, drift="quarantine")\n')
    shop.write("data/a.csv", "nope\n1\n")
    report = shop.run()
    assert report.results[0].status in ("made", "failed")


def test_a_file_that_comes_back_after_a_full_reload(shop: Any) -> None:
    shop.pipeline('raw = ps.files("data/*.csv")\n')
    shop.write("data/a.csv", "id\n1\n")
    path = shop.write("data/b.csv", "id\n2\n")
    shop.made()
    aside_path = path.rename(shop.folder / "b.csv")
    shop.pipeline('raw = ps.files("data/*.csv", nulls=["-"])\n')
    shop.made()
    assert ids(shop, "raw") == [1, 2]
    aside_path.rename(path)
    shop.made()
    assert ids(shop, "raw") == [1, 2]


def test_two_projects_in_one_process(workshop_at: Any, tmp_path: Any) -> None:
    shops = [workshop_at(tmp_path / name) for name in "ab"]
    for shop, name in zip(shops, "ab", strict=True):
        shop.folder.mkdir()
        shop.write("names.py", f"NAME = {name!r}\n")
        shop.pipeline(f"from names import NAME\n\n@ps.table\ndef {name}():\n    return ps.sql(f\"SELECT '{{NAME}}' AS n\")\n")
    for shop, name in [*zip(shops, "ab", strict=True)] * 2:
        with shop.open() as project:
            assert list(project.graph.nodes) == [name]
            project.run(force=True)
            assert project.query(f"SELECT n FROM {name}").rows() == [{"n": name}]


@pytest.mark.parametrize("folder", ["it's", 'a "quoted" place', "with [brackets] *", "spa ce", "per%20cent", "ümlaut"])
def test_projects_in_odd_places(workshop_at: Any, tmp_path: Any, folder: str) -> None:
    shop = workshop_at(tmp_path / folder)
    shop.folder.mkdir()
    shop.pipeline(LOG)
    shop.write("data/a.csv", HEADER + "1,999,2026-01-01\n2,2,2026-01-01\n")
    shop.made()
    shop.write("data/b.csv", HEADER + "3,999,2026-01-01\n4,2,2026-01-01\n")
    shop.made()
    assert ids(shop, "log") == [2, 4]
    assert (shop.folder / ".penstock/lake").is_dir()


@pytest.mark.parametrize("folder", ["q?uestion", "a#b"])
def test_places_that_other_engines_cannot_open_are_refused(workshop_at: Any, tmp_path: Any, folder: str) -> None:
    shop = workshop_at(tmp_path / folder)
    shop.folder.mkdir()
    shop.pipeline(LOG)
    shop.write("data/a.csv", HEADER + "1,9,2026-01-01\n")
    with pytest.raises(SettingsError, match="cannot open a lake under such a path"):
        shop.run()


def test_rows_of_a_vanished_file_stay_with_their_columns_and_rejects(shop: Any) -> None:
    text = 'raw = ps.files("data/*.csv", checks=[ps.between("id", 0, {high})])\n'
    shop.pipeline(text.format(high=10))
    shop.write("data/a.csv", "id\n1\n50\n")
    path = shop.write("data/b.csv", "id,note\n2,x\n99,y\n")
    shop.made()
    path.unlink()
    shop.pipeline(text.format(high=60))
    shop.made()
    assert shop.rows("SELECT id, note FROM raw ORDER BY id") == [{"id": 1, "note": None}, {"id": 2, "note": "x"}, {"id": 50, "note": None}]
    assert [r["file"] for r in shop.rows("SELECT file FROM raw__rejected")] == ["data/b.csv"]
    assert shop.run().nothing


def test_a_vanished_file_that_is_dropped_comes_back(shop: Any) -> None:
    shop.pipeline('raw = ps.files("data/*.csv", gone="drop")\n')
    shop.write("data/a.csv", "id\n1\n")
    path = shop.write("data/b.csv", "id\n2\n")
    shop.made()
    away = path.rename(shop.folder / "b.csv")
    shop.made()
    assert ids(shop, "raw") == [1]
    assert shop.run().nothing
    away.rename(path)
    shop.made()
    assert ids(shop, "raw") == [1, 2]


# -- several runs, and runs that died ---------------------------------------------------------------------------------
def test_a_run_that_planned_before_another_finished_lands_nothing_twice(shop: Any) -> None:
    shop.pipeline(LOG)
    shop.write("data/a.csv", HEADER + "1,1,2026-01-01\n")
    shop.made()
    shop.write("data/b.csv", HEADER + "2,2,2026-01-01\n")
    waiting = [shop.made]
    project = shop.open()
    project.listener = lambda event: waiting.pop()() if event.kind == "started" and waiting else None  # before it has its claim
    assert [r.status for r in project.run().results] == ["fresh", "fresh"]
    assert not waiting
    assert ids(shop, "raw") == [1, 2]
    assert ids(shop, "log") == [1, 2]
    assert shop.run().nothing


def test_runs_at_the_same_time_lose_and_double_nothing(shop: Any) -> None:
    shop.pipeline(LOG)
    for i in range(3):
        shop.write(f"data/{i}.csv", HEADER + f"{i},1,2026-01-01\n")
        projects = [shop.open() for _ in range(3)]
        threads = [threading.Thread(target=project.run) for project in projects]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for project in projects:
            project.close()
    shop.made()
    assert ids(shop, "raw") == [0, 1, 2]
    assert ids(shop, "log") == [0, 1, 2]
    assert shop.run().nothing


def test_exports_of_an_interrupted_run_are_written_and_nothing_doubled(shop: Any) -> None:
    shop.pipeline(LOG.replace("write=ps.append()", 'write=ps.append(), export="out/log.csv"'))
    shop.write("data/a.csv", HEADER + "1,1,2026-01-01\n")
    with failpoints.armed("run.published", at=2), pytest.raises(failpoints.FailpointError):
        shop.run()
    shop.write("data/b.csv", HEADER + "2,2,2026-01-01\n")
    shop.made()
    assert ids(shop, "log") == [1, 2]
    assert (shop.folder / "out/log.csv").read_text().splitlines()[1:] == ["1,1", "2,2"]
    assert shop.run().nothing


# -- databases --------------------------------------------------------------------------------------------------------
def statement(shop: Any, *texts: str) -> None:
    with sqlite3.connect(shop.folder / "shop.db") as database:
        for text in texts:
            database.execute(text)
    database.close()


TAKEN = """
raw = ps.database("sqlite:///shop.db", table="orders", cursor="id"{more})

@ps.table
def copy(raw):
    return ps.sql("SELECT * FROM raw")
"""


def test_rejected_rows_of_a_cursor_are_not_rejected_again(shop: Any) -> None:
    statement(shop, "CREATE TABLE orders (id INTEGER, amount INTEGER)", "INSERT INTO orders VALUES (1, 5), (2, 999), (3, 888), (3, 7)")
    shop.pipeline(TAKEN.format(more=', checks=[ps.between("amount", 0, 100)]'))
    shop.made()
    shop.made()
    statement(shop, "INSERT INTO orders VALUES (3, 777), (4, 4)")
    shop.made()
    shop.made()
    assert ids(shop, "copy") == [1, 3, 4]
    assert len(aside(shop, "raw")) == 3


def test_a_new_column_does_not_land_the_last_rows_again(shop: Any) -> None:
    statement(shop, "CREATE TABLE orders (id INTEGER, amount INTEGER)", "INSERT INTO orders VALUES (1, 5), (2, 6), (2, 6)")
    shop.pipeline(TAKEN.format(more=""))
    shop.made()
    statement(shop, "ALTER TABLE orders ADD COLUMN note TEXT DEFAULT 'x'", "INSERT INTO orders VALUES (2, 6, 'y'), (3, 7, 'z')")
    shop.made()
    assert ids(shop, "raw") == [1, 2, 2, 2, 3]
    assert {r["note"] for r in shop.rows("SELECT note FROM raw WHERE id = 3")} == {"z"}


def test_a_cursor_over_an_empty_table_and_nulls(shop: Any) -> None:
    statement(shop, "CREATE TABLE orders (id INTEGER, amount INTEGER)")
    shop.pipeline(TAKEN.format(more=""))
    shop.made()
    shop.made()
    statement(shop, "INSERT INTO orders VALUES (NULL, 5)")
    shop.made()
    shop.made()
    assert len(shop.rows("SELECT * FROM raw")) == 1
    statement(shop, "INSERT INTO orders VALUES (1, 5)")
    shop.made()
    shop.made()
    assert len(shop.rows("SELECT * FROM raw")) == 2


def test_a_cursor_added_later(shop: Any) -> None:
    statement(shop, "CREATE TABLE orders (id INTEGER, amount INTEGER)", "INSERT INTO orders VALUES (1, 5), (2, 6)")
    shop.pipeline(TAKEN.format(more="").replace(', cursor="id"', ""))
    shop.made()
    shop.pipeline(TAKEN.format(more=""))
    shop.made()
    statement(shop, "INSERT INTO orders VALUES (3, 5)")
    shop.made()
    assert ids(shop, "raw") == [1, 2, 3]


def test_a_check_added_to_a_database_that_did_not_change(shop: Any) -> None:
    statement(shop, "CREATE TABLE orders (id INTEGER, amount INTEGER)", "INSERT INTO orders VALUES (1, 5), (2, 999)")
    text = TAKEN.replace(', cursor="id"', "")
    shop.pipeline(text.format(more=""))
    shop.made()
    shop.pipeline(text.format(more=', checks=[ps.between("amount", 0, 100)]'))
    shop.made()
    assert ids(shop, "copy") == [1]
    assert shop.made() == {"raw": "unchanged", "copy": "fresh"}
    statement(shop, "UPDATE orders SET amount = 998 WHERE id = 2")
    assert shop.made()["raw"] == "made"
    assert aside(shop, "raw") == ['{"id":"2","amount":"998"}']


def test_table_checks_see_the_whole_table_of_a_cursor(shop: Any) -> None:
    statement(shop, "CREATE TABLE orders (id INTEGER, amount INTEGER)", "INSERT INTO orders VALUES (1, 5), (2, 6)")
    shop.pipeline(TAKEN.format(more=', checks=[ps.rows(low=2), ps.unique("id").blocks()]'))
    shop.made()
    statement(shop, "INSERT INTO orders VALUES (3, 5)")
    shop.made()
    assert ids(shop, "raw") == [1, 2, 3]
    statement(shop, "INSERT INTO orders VALUES (3, 6)")
    assert shop.failed("raw")["code"] == "E3001"
    assert ids(shop, "raw") == [1, 2, 3]


# -- replay -----------------------------------------------------------------------------------------------------------
def replayed(shop: Any, asset: str) -> Any:
    with shop.open() as project:
        return project.replay(asset)


def test_lines_are_replayed_under_their_own_files_header(shop: Any) -> None:
    shop.pipeline('raw = ps.files("data/*.csv")\n')
    shop.write("data/a.csv", 'id,amount,"no""te, x"\n1,10,a\n')
    shop.write("data/b.csv", "amount,id\n20,2\n30,3,oops\nx,4\n")
    shop.made()
    before = shop.rows("SELECT file, position, original FROM raw__rejected ORDER BY position")
    count = len(before)
    assert count >= 1
    assert replayed(shop, "raw").landed == 0
    assert shop.rows("SELECT file, position, original FROM raw__rejected ORDER BY position") == before
    assert 3 not in ids(shop, "raw")


def test_lines_land_once_types_have_widened(shop: Any) -> None:
    shop.pipeline('raw = ps.files("data/**/*.csv")\n')
    shop.write("data/day=1/a.csv", "id,amount\n1,1\n2,2\n")
    shop.made()
    shop.write("data/day=2/b.csv", "amount,id\n5,3\nx,4\n,\n7,x\n")
    shop.made()
    assert replayed(shop, "raw").tried == len(aside(shop, "raw"))


def test_replay_into_partitions_and_odd_names(shop: Any) -> None:
    text = """
raw = ps.files("data/*.csv")

@ps.table(time="ts", partition=ps.day("ts"), checks=[ps.between('we"ird.na\\\\me', 0, {high})])
def log(raw):
    return ps.sql('SELECT id, amount AS "we""ird.na\\\\me", ts FROM raw')
"""
    shop.pipeline(text.format(high=10))
    shop.write("data/a.csv", HEADER + "1,5,2026-01-01\n2,50,2026-01-02\n3,500,2026-01-03\n")
    shop.made()
    shop.pipeline(text.format(high=100))
    assert replayed(shop, "log").landed == 1
    assert ids(shop, "log") == [1, 2]
    with shop.open() as project:
        scan = project.runtime.lake.scan("log")
        assert {len(f.partition) for f in scan.files} == {1}
    assert shop.run().nothing


MERGED = """
raw = ps.files("data/*.csv")

@ps.table(key="id", time="ts", write=ps.merge(), checks=[ps.between("amount", 0, {high})])
def newest(raw):
    return ps.sql("SELECT id, amount, ts FROM raw")
"""


def test_replay_merges_into_a_merged_table(shop: Any) -> None:
    shop.pipeline(MERGED.format(high=10))
    shop.write("data/a.csv", HEADER + "1,5,2026-01-01\n1,50,2026-01-02\n2,60,2026-01-01\n2,5,2026-01-02\n3,500,2026-01-01\n")
    shop.made()
    shop.pipeline(MERGED.format(high=100))
    done = replayed(shop, "newest")
    assert (done.tried, done.landed, sum(done.still_rejected.values())) == (3, 1, 1)
    assert shop.rows("SELECT id, amount FROM newest ORDER BY id") == [{"id": 1, "amount": 50}, {"id": 2, "amount": 5}]
    assert shop.run().nothing


def test_a_stricter_contract_is_not_taken_as_kept(shop: Any) -> None:
    text = """
raw = ps.files("data/*.csv")

@ps.table(checks=[ps.between("amount", {low}, {high})])
def log(raw):
    return ps.sql("SELECT id, amount FROM raw")
"""
    shop.pipeline(text.format(low=0, high=10))
    shop.write("data/a.csv", HEADER + "1,1,2026-01-01\n2,50,2026-01-02\n")
    shop.made()
    shop.pipeline(text.format(low=3, high=100))
    assert replayed(shop, "log").landed == 1
    assert shop.made() == {"raw": "fresh", "log": "made"}
    assert ids(shop, "log") == [2]


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("point", ["lake.commit.before", "lake.commit.after", "state.append.before", "state.append.after"])
def test_an_interrupted_replay_lands_once(shop: Any, point: str, times: int) -> None:
    text = LOG.replace("0, 100", "0, {high}")
    shop.pipeline(text.format(high=10))
    shop.write("data/a.csv", HEADER + "1,5,2026-01-01\n2,50,2026-01-02\n3,500,2026-01-02\n")
    shop.made()
    shop.pipeline(text.format(high=100))
    try:
        with failpoints.armed(point, at=times):
            replayed(shop, "log")
    except failpoints.FailpointError:
        pass
    shop.pipeline(text.format(high=10))
    shop.write("data/b.csv", HEADER + "4,4,2026-01-01\n5,501,2026-01-02\n")
    shop.made("raw")
    shop.pipeline(text.format(high=100))
    replayed(shop, "log")
    shop.made()
    assert ids(shop, "log") == [1, 2, 4]
    assert len(aside(shop, "log")) == 2


# -- what is stale, and where rows come from --------------------------------------------------------------------------
def test_an_export_that_is_added_is_written(shop: Any) -> None:
    shop.pipeline(LOG)
    shop.write("data/a.csv", HEADER + "1,1,2026-01-01\n")
    shop.made()
    shop.pipeline(LOG.replace("write=ps.append()", 'write=ps.append(), export="out/log.csv"'))
    assert shop.made() == {"raw": "fresh", "log": "made"}
    assert (shop.folder / "out/log.csv").exists()


def test_rows_are_traced_with_the_parameters_they_were_made_with(shop: Any) -> None:
    shop.pipeline("""
raw = ps.files("data/*.csv")

@ps.table(key="id")
def big(raw, *, above: int = 15):
    return ps.sql("SELECT id, amount FROM raw WHERE amount > $above", above=above)
""")
    shop.write("data/a.csv", HEADER + "1,10,2026-01-01\n2,20,2026-01-01\n")
    shop.made(params={"big": {"above": 5}})
    with shop.open() as project:
        (source,) = project.trace("big", {"id": "1"}).inputs
    assert [dict(o) for o in source.origin] == [{"file": "data/a.csv", "row": 1}]


def test_functions_that_the_engine_alone_knows_as_aggregates(shop: Any) -> None:
    shop.pipeline("""
raw = ps.files("data/*.csv")

@ps.table
def one(raw):
    return ps.sql("SELECT mean(amount) AS m FROM raw")

@ps.table
def each(raw):
    return ps.sql("SELECT id, mean(amount) OVER () AS m FROM raw")
""")
    shop.write("data/a.csv", HEADER + "1,10,2026-01-01\n2,20,2026-01-01\n")
    steps = {r.asset: r.body["ledger"][0] for r in shop.run().results}
    assert not steps["one"]["keeps"]
    assert steps["each"]["keeps"]
