"""The whole flights loop, x1, x10 and x30 replicated, against a hand-written DuckDB + scikit-learn script in one process.

The bare script does the loop alone: no checks, no ledger, no rejected rows, no gates, no versions, no lineage. The feature
windows and the model are the same. The split is not quite: ours is midnight UTC of 1 December, the bare script's the local month, which
moves 144 rows, and one row is rejected by a check; rows are also ordered differently on ties. So the AUCs differ (0.722 and 0.719), and at
x10 and x30 ours also learns from earlier Decembers (about 8 % more rows).
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from bench.contests.flights import FOLDER, flights_csv
from bench.measure import CACHE, ROOT, Measured, child, compare

REPEAT = """
import duckdb, json, shutil, sys
src, out, k = sys.argv[1], sys.argv[2], int(sys.argv[3])
con = duckdb.connect()
con.execute("SET TimeZone='UTC'")
for name in ("flights", "weather"):
    con.execute(f'''COPY (SELECT * EXCLUDE (i) REPLACE ("year"::INT - i AS "year", strftime(time_hour::TIMESTAMP - to_years(i::INT), '%Y-%m-%dT%H:%M:%SZ') AS time_hour)
      FROM read_csv('{src}/{name}.csv', all_varchar=true), range({k}) r(i)) TO '{out}/{name}.csv' (HEADER, DELIMITER ',')''')
for name in ("planes", "airlines", "airports"):
    shutil.copy(f"{src}/{name}.csv", f"{out}/{name}.csv")
print(json.dumps({"work": 0}))
"""
OURS = """
import json, sys, time
began = time.perf_counter()
from penstock.project.project import Project
with Project.open(sys.argv[1]) as project:
    report = project.run()
    failed = [r.error for r in report.results if r.error]
    assert report.ok, failed or report
    bodies = {r.asset: r.body for r in report.results}
    model, scores = bodies["late_departure"], bodies["late_risk"]
took = time.perf_counter() - began
steps = {r.asset: r.seconds for r in report.results}
print(json.dumps({"work": took, "auc": round(model["metrics"]["roc_auc"], 4), "train_rows": model["train_rows"], "scores": scores["rows"], "steps": steps}))
"""


def data(k: int) -> Path:
    """The five files, flights and weather repeated over k - 1 earlier years."""
    flights_csv()
    if k == 1:
        return FOLDER
    folder = CACHE / f"flights_x{k}"
    if not folder.exists():
        draft = folder.with_suffix(".draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        child(REPEAT, FOLDER, draft, k)
        draft.rename(folder)
    return folder


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    lines = []
    bare_code = (ROOT / "bench" / "bare" / "flights_loop.py").read_text()
    for k, runs in ((1, 3), (10, 1), (30, 1)) if not quick else ((1, 1),):
        source = data(k)
        with tempfile.TemporaryDirectory(dir=CACHE) as place:
            folder = Path(place)

            def ours(folder: Path = folder, source: Path = source) -> Measured:
                project = folder / "ours"
                shutil.rmtree(project, ignore_errors=True)
                project.mkdir()
                shutil.copy(ROOT / "bench" / "projects" / "flights" / "pipeline.py", project)
                (project / "data").symlink_to(source)
                return child(OURS, project, env={"PENSTOCK_MEMORY_LIMIT": "1GB"})

            def bare(folder: Path = folder, source: Path = source) -> Measured:
                return child(bare_code, source, folder / "bare")

            lines.append(compare(f"loop_x{k}", ours, bare, runs=runs, goal=1.25, warm=k == 1))
    return lines
