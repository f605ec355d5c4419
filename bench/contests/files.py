"""10,000 files listed and planned, with nothing new among them."""

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
for n in range(count):
    (folder / "data" / f"{n:05d}.csv").write_text(f"id,value\\n{n},1\\n")
with Project.open(folder) as project:
    began = time.perf_counter()
    report = project.run()
    landing = time.perf_counter() - began
    assert report.ok, report.results[0].error
# Files written just before they were loaded are looked into again; a file's age is data, so make them old.
import os
with Project.open(folder) as project:
    for path in (folder / "data").iterdir():
        os.utime(path, (1, 1))
    project.run()
with Project.open(folder) as project:
    began = time.perf_counter()
    plan = project.plan()
    took = time.perf_counter() - began
    assert len(plan.actions) == 1
print(json.dumps({"work": took, "landing": landing, "status": plan.actions[0].status}))
"""


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    count = 1_000 if quick else 10_000
    with tempfile.TemporaryDirectory() as place:
        run = child(OURS, Path(place), count)
    line = {"contest": "files", "files": count, "plan_s": round(run.work, 3), "goal_s": 1.0, "landing_s": round(run.said["landing"], 2)}
    emit(line)
    return [line]
