"""Merging by key into a table of 1 M rows: 20,000 rows, and 1 M rows."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from bench.measure import child, emit

OURS = """
import json, sys, time
from pathlib import Path
import duckdb
from penstock.project.project import Project
folder, base, batch = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
(folder / "data").mkdir()
(folder / "pipeline.py").write_text('''import penstock as ps

raw = ps.files("data/*.parquet")

@ps.table(key="id", time="ts", write=ps.merge())
def newest(raw):
    return ps.sql("SELECT id, value, ts FROM raw")
''')
con = duckdb.connect()
con.execute(f"COPY (SELECT i AS id, i * 1.5 AS value, TIMESTAMP '2026-01-01' AS ts FROM range({base}) r(i)) TO '{folder}/data/a.parquet'")
with Project.open(folder) as project:
    assert project.run().ok
con.execute(f"COPY (SELECT (i * 37) % {base} AS id, i * 2.5 AS value, TIMESTAMP '2026-02-01' AS ts FROM range({batch}) r(i)) TO '{folder}/data/b.parquet'")
with Project.open(folder) as project:
    project.run("raw")
    began = time.perf_counter()
    report = project.run("newest")
    took = time.perf_counter() - began
    assert report.ok
    rows = project.query("SELECT count(*) AS n, count(DISTINCT id) AS k FROM newest").rows()[0]
assert rows == {"n": base, "k": base}, rows
print(json.dumps({"work": took}))
"""


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    base = 100_000 if quick else 1_000_000
    lines = []
    for batch, goal in ((base // 50, 1.0), (base, 10.0)):
        with tempfile.TemporaryDirectory() as place:
            took = sorted(child(OURS, Path(tempfile.mkdtemp(dir=place)), base, batch).work for _ in range(1 if quick else 3))
        line = {"contest": "merge", "rows": base, "batch": batch, "seconds": round(took[len(took) // 2], 3), "goal_s": goal}
        emit(line)
        lines.append(line)
    return lines
