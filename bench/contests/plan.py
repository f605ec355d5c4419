"""Planning a project of 1,000 assets, and what one more tiny asset costs a run."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from bench.measure import child, emit

PLAN = """
import json, sys, time
from penstock.project.project import Project
began = time.perf_counter()
with Project.open(sys.argv[1]) as project:
    plan = project.plan()
print(json.dumps({"work": time.perf_counter() - began, "assets": len(plan.actions), "stale": plan.count("stale") + plan.count("waiting")}))
"""
RUN = """
import json, sys, time
from penstock.project.project import Project
with Project.open(sys.argv[1]) as project:
    project.run("raw")
    began = time.perf_counter()
    report = project.run()
    assert report.ok
print(json.dumps({"work": time.perf_counter() - began, "made": sum(r.status == "made" for r in report.results)}))
"""


def pipeline(assets: int, width: int = 10) -> str:
    """A source and layers of small tables, each reading two of the layer before, declared by functions as a user would."""
    parts = ['import penstock as ps\n\nraw = ps.files("data.csv")\n']
    for i in range(1, assets):
        inputs = ["raw"] if i <= width else [f"t{i - width}", f"t{i - width + 1 if (i % width) else i - width - 1}"]
        joined = f"SELECT {i} AS n, a.x FROM {inputs[0]} a" + (f" LEFT JOIN {inputs[1]} b USING (x)" if len(inputs) > 1 else "")
        parts.append(
            f'@ps.table\ndef t{i}({", ".join(inputs)}):\n    """Table {i}."""\n    return ps.sql("""{joined}\n        WHERE a.x > 0""")\n'
        )
    return "\n\n".join(parts)


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    lines = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "data.csv").write_text("x\n1\n2\n3\n")
        (folder / "pipeline.py").write_text(pipeline(1000))
        took = sorted(child(PLAN, folder).work for _ in range(3))
        lines.append({"contest": "plan_1000_new", "seconds": round(took[1], 3), "goal_s": 0.5})
        shutil.rmtree(folder / ".penstock", ignore_errors=True)
        count = 30 if quick else 100
        (folder / "pipeline.py").write_text(pipeline(count))
        run = child(RUN, folder)
        per_asset = run.work / run.said["made"]
        lines.append({"contest": "tiny_asset", "ms_per_asset": round(per_asset * 1000, 1), "goal_ms": 60, "assets": run.said["made"]})
    for line in lines:
        emit(line)
    return lines
