"""Three feature assets joined to a million rows as they were known, against bare DuckDB ASOF over the same files.

Ours is the join of a model's rows as training does it: tables of the lake, ages, every row kept. Few keys have long histories.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from bench.measure import CACHE, Measured, child, compare

MAKE = """
import duckdb, json, sys
from pathlib import Path
out, rows, users = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
out.mkdir(parents=True, exist_ok=True)
con = duckdb.connect()
con.execute("SET TimeZone='UTC'")
def at(seed, days): return f"TIMESTAMPTZ '2026-01-01 00:00:00+00' + to_microseconds((hash(i, '{seed}') % {days * 86_400_000_000})::BIGINT)"
for k in (1, 2, 3):
    con.execute(f'''COPY (SELECT * FROM (SELECT (hash(i, 'u{k}') % {users})::BIGINT AS user_id, {at(f"t{k}", 60)} AS event_timestamp,
        (hash(i, 'a') % 1000) / 10.0 AS f{k}_a, (hash(i, 'b') % 1000) / 10.0 AS f{k}_b, (hash(i, 'c') % 1000) / 10.0 AS f{k}_c
        FROM range({rows}) r(i)) QUALIFY row_number() OVER (PARTITION BY user_id, event_timestamp) = 1) TO '{out}/view{k}.parquet' ''')
con.execute(f'''COPY (SELECT i AS row_id, (hash(i, 'us') % {users})::BIGINT AS user_id, {at("spine", 30)} + INTERVAL 30 DAY AS event_timestamp,
    i % 2 = 0 AS label FROM range({rows}) r(i)) TO '{out}/spine.parquet' ''')
print(json.dumps({"work": 0}))
"""
BARE = """
import json, sys, time
import duckdb, pyarrow.compute as pc
where = sys.argv[1]
con = duckdb.connect()
con.execute("SET TimeZone='UTC'")
began, cpu = time.perf_counter(), time.process_time()
columns = ", ".join(f"CASE WHEN v{k}.event_timestamp >= s.event_timestamp - INTERVAL 7 DAY THEN f{k}_{c} END AS f{k}_{c}" for k in (1, 2, 3) for c in "abc")
joins = " ".join(f"ASOF LEFT JOIN '{where}/view{k}.parquet' v{k} ON s.user_id = v{k}.user_id AND s.event_timestamp >= v{k}.event_timestamp" for k in (1, 2, 3))
table = con.sql(f"SELECT s.row_id, s.user_id, s.event_timestamp, {columns} FROM '{where}/spine.parquet' s {joins}").to_arrow_table()
work, cpu = time.perf_counter() - began, time.process_time() - cpu
sums = {c: [table.num_rows - table[c].null_count, round(pc.sum(table[c]).as_py(), 1)] for c in ("f1_a", "f2_b", "f3_c")}
print(json.dumps({"work": work, "cpu": round(cpu, 2), "rows": table.num_rows, "sums": sums}))
"""
PIPELINE = """
import penstock as ps

spine_files = ps.files("{where}/spine.parquet")
view1 = ps.files("{where}/view1.parquet")
view2 = ps.files("{where}/view2.parquet")
view3 = ps.files("{where}/view3.parquet")


@ps.table(time="event_timestamp")
def spine(spine_files):
    return ps.sql("SELECT * FROM spine_files")


@ps.features(entity="user_id", time="event_timestamp", ttl="7d")
def one(view1):
    return ps.sql("SELECT * FROM view1")


@ps.features(entity="user_id", time="event_timestamp", ttl="7d")
def two(view2):
    return ps.sql("SELECT * FROM view2")


@ps.features(entity="user_id", time="event_timestamp", ttl="7d")
def three(view3):
    return ps.sql("SELECT * FROM view3")


@ps.model(over=spine, label="label", features=[one, two, three], split=ps.by_time(test="7d"))
def unused(train):
    return None
"""
BUILD = """
import json, sys
from penstock.project.project import Project
with Project.open(sys.argv[1]) as project:
    report = project.run("one", "two", "three", "spine")
    assert report.ok, [r.error for r in report.results if r.error]
print(json.dumps({"work": 0}))
"""
OURS = """
import json, sys, time
import duckdb, pyarrow.compute as pc, penstock.adapters.lake.iceberg.commit, penstock.adapters.engine.duckdb
from penstock.project.project import Project
from penstock.run.point_in_time import model_rows
from penstock.run.runtime import snapshot_for
with Project.open(sys.argv[1]) as project:
    graph, runtime = project.graph, project.runtime
    runtime.lake.tables()
    began, cpu = time.perf_counter(), time.process_time()
    heads = runtime.state.heads("asset")
    session = runtime.engine.session()
    scans = {n: runtime.lake.scan(n, version=snapshot_for(runtime, n, str(heads[n].body["version"]))) for n in graph.node("unused").inputs}
    for name, scan in scans.items():
        session.bind(name, scan)
    rows = model_rows(session, graph, graph.node("unused").asset, scans, "spine")
    columns = ", ".join(("row_id", "user_id", "event_timestamp", *rows.columns))
    table = session.read(f"SELECT {columns} FROM {rows.relation}").read_all()
    work, cpu = time.perf_counter() - began, time.process_time() - cpu
    session.close()
names = {"f1_a": "one_f1_a", "f2_b": "two_f2_b", "f3_c": "three_f3_c"}
sums = {c: [table.num_rows - table[n].null_count, round(pc.sum(table[n]).as_py(), 1)] for c, n in names.items()}
print(json.dumps({"work": work, "cpu": round(cpu, 2), "rows": table.num_rows, "sums": sums}))
"""
#: Users: many with about ten rows a view, few with tens of thousands.
KEYS = {"many": 100_000, "few": 16}


def data(rows: int, keys: str) -> Path:
    """The folder of spine and views, made once."""
    where = CACHE / f"pit_{rows}_{keys}"
    if not (where / "spine.parquet").exists():
        child(MAKE, where, rows, KEYS[keys])
    return where


def project(where: Path) -> Path:
    """A project over the folder, with its tables and features made."""
    folder = where / "project"
    text = PIPELINE.format(where=where)
    if not (folder / "pipeline.py").exists() or (folder / "pipeline.py").read_text() != text:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "pipeline.py").write_text(text)
        (folder / "penstock.toml").write_text("")
    child(BUILD, folder)
    return folder


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    rows = 100_000 if quick else 1_000_000
    lines = []
    for keys in KEYS:
        where = data(rows, keys)
        made = project(where)

        def ours(made: Path = made) -> Measured:
            return child(OURS, made)

        def bare(where: Path = where) -> Measured:
            return child(BARE, where)

        lines.append(compare("pit", ours, bare, runs=1 if quick else 3, goal=1.2, rows=rows, keys=KEYS[keys]))
        assert all(lines[-1]["said"][what] == lines[-1]["bare_said"][what] for what in ("rows", "sums"))
    return lines
