"""One GB of CSV into a table, against DuckDB's own COPY into Parquet with the same compression."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from bench.contests.flights import flights_csv
from bench.measure import CACHE, Measured, child, compare

BARE = """
import json, sys, time
import duckdb
began = time.perf_counter()
con = duckdb.connect()
con.execute("SET TimeZone='UTC'")
con.execute(f"COPY (FROM read_csv('{sys.argv[1]}', nullstr='NA')) TO '{sys.argv[2]}' (FORMAT parquet, COMPRESSION zstd)")
print(json.dumps({"work": time.perf_counter() - began, "rows": con.sql(f"SELECT count(*) FROM '{sys.argv[2]}'").fetchall()[0][0]}))
"""
OURS = """
import json, sys, time
import duckdb, pyarrow, penstock.adapters.lake.iceberg.commit, penstock.adapters.engine.duckdb.raw
from penstock.project.project import Project
began = time.perf_counter()
with Project.open(sys.argv[1]) as project:
    report = project.run()
    assert report.ok, report
    took = time.perf_counter() - began
    body = report.results[0].body
print(json.dumps({"work": took, "rows": body["rows"], "ledger": body["ledger"]}))
"""


def big_csv(quick: bool) -> Path:
    """The flights of 2013, repeated to about one GB."""
    path = CACHE / ("flights_100mb.csv" if quick else "flights_1gb.csv")
    if not path.exists():
        lines = flights_csv().read_bytes().split(b"\n", 1)
        with open(path.with_suffix(".draft"), "wb") as out:
            out.write(lines[0] + b"\n")
            for _ in range(3 if quick else 33):
                out.write(lines[1])
        path.with_suffix(".draft").rename(path)
    return path


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    source = big_csv(quick)
    with tempfile.TemporaryDirectory(dir=CACHE) as place:
        folder = Path(place)

        def ours() -> Measured:
            project = folder / "ours"
            shutil.rmtree(project, ignore_errors=True)
            project.mkdir()
            (project / "pipeline.py").write_text(f"import penstock as ps\n\nflights = ps.files({str(source)!r})\n")
            return child(OURS, project)

        def bare() -> Measured:
            return child(BARE, source, folder / "bare.parquet")

        return [compare("csv", ours, bare, runs=1 if quick else 3, goal=1.15, megabytes=round(source.stat().st_size / 1e6))]
