"""Small appends: the time of one landing (one file of 1,000 rows) at the beginning and after 1,000 of them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from bench.measure import child, emit

OURS = """
import json, sys, time
from pathlib import Path
from penstock.project.project import Project
folder, count = Path(sys.argv[1]), int(sys.argv[2])
(folder / "data").mkdir()
(folder / "pipeline.py").write_text('import penstock as ps\\n\\nraw = ps.files("data/*.csv")\\n')
text = "id,value\\n" + "".join(f"{i},{i * 2}\\n" for i in range(1000))
took = []
for n in range(count):
    (folder / "data" / f"{n:05d}.csv").write_text(text)
    with Project.open(folder) as project:
        began = time.perf_counter()
        report = project.run()
        took.append(time.perf_counter() - began)
        assert report.ok and report.results[0].body["rows_in"] == 1000
    if n % 100 == 99:
        with Project.open(folder) as project:
            project.upkeep()
with Project.open(folder) as project:
    rows = project.query("SELECT count(*) AS n FROM raw").rows()[0]["n"]
assert rows == count * 1000, rows
def median(part): return sorted(part)[len(part) // 2]
tenth = max(10, count // 10)
print(json.dumps({"work": sum(took), "first_ms": median(took[:tenth]) * 1000, "last_ms": median(took[-tenth:]) * 1000}))
"""


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    count = 60 if quick else 1000
    with tempfile.TemporaryDirectory() as place:
        run = child(OURS, Path(place), count)
    first, last = run.said["first_ms"], run.said["last_ms"]
    line = {
        "contest": "appends",
        "commits": count,
        "first_ms": round(first, 1),
        "last_ms": round(last, 1),
        "growth": round(last / first, 2),
        "goal": "flat",
    }
    emit(line)
    return [line]
