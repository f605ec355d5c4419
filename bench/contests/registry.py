"""A model with 10,000 versions: `show MODEL`, `--compare` and `--live-at` as a person waits for them, whole commands. Goal: 0.2 s.

Versions have records of the size that training leaves (about 20 kB); every fifth was live for an hour.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from bench.measure import CACHE, child, emit

SETUP = """
import json, random, sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from penstock.project.project import Project
folder, versions = Path(sys.argv[1]), int(sys.argv[2])
(folder / "data").mkdir()
chance = random.Random(1)
lines = ["id,ts,size,good"] + [f"{i},2026-01-{1 + i // 24:02d} {i % 24:02d}:00:00,{(s := chance.random()):.4f},{str(chance.random() < s).lower()}" for i in range(480)]
(folder / "data/a.csv").write_text("\\n".join(lines))
(folder / "pipeline.py").write_text('''
import penstock as ps
raw = ps.files("data/*.csv")
@ps.table(key="id", time="ts")
def rows(raw):
    return ps.sql("SELECT * FROM raw")
@ps.model(over=rows, label="good", features=["size"], split=ps.by_time(test="5d"))
def model(train, *, depth=2):
    from sklearn.tree import DecisionTreeClassifier
    return DecisionTreeClassifier(max_depth=depth, random_state=0).fit(train.X, train.y)
''')
with Project.open(folder) as project:
    assert project.run().ok
    state = project.state
    entry, head, live = (state.history(k, n, limit=1)[0].body for k, n in (("model", "model@v1"), ("asset", "model"), ("promotion", "model")))
    entry = {**entry, "padding": "x" * max(0, 20_000 - len(json.dumps(entry)))}
    start = datetime(2027, 1, 1, tzinfo=UTC)
    for first in range(2, versions + 1, 500):
        batch = []
        for n in range(first, min(first + 500, versions + 1)):
            batch.append(("model", f"model@v{n}", {**entry, "version": f"v{n}", "params": {"depth": n % 9}}))
        state.append_all(batch, at=start)
        for n in range(first, min(first + 500, versions + 1), 5):
            body = {**live, "version": f"v{n}", "replaced": f"v{n - 5}", "at": (start + timedelta(hours=n)).isoformat()}
            state.append("promotion", "model", project.runtime.keys.sign({k: v for k, v in body.items() if k != "signature"}, purpose="promotion"), at=start + timedelta(hours=n))
    state.append("asset", "model", {**head, "version": f"v{n}", "candidate": f"v{versions}"}, at=start + timedelta(hours=versions))
print(json.dumps({"work": 0}))
"""
ASK = """
import json, subprocess, sys, time
from pathlib import Path
command = [str(Path(sys.executable).with_name("penstock")), "-C", sys.argv[1], *sys.argv[2:]]
best = []
for _ in range(4):
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    best.append(time.perf_counter() - began)
    assert done.returncode == 0, done.stderr
print(json.dumps({"work": sorted(best)[1], "printed": done.stdout[:60]}))
"""
ASKED = (
    ("show", "model"),
    ("show", "model", "--compare"),
    ("show", "model", "--live-at", "2027-03-01T00:30"),
    ("show", "model", "--releases"),
)


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    versions, lines = (500 if quick else 10_000), []
    with tempfile.TemporaryDirectory(dir=CACHE) as place:
        folder = Path(place)
        child(SETUP, folder, versions)
        for asked in ASKED:
            found = child(ASK, folder, *asked)
            line = {
                "contest": f"registry_{'_'.join(a.strip('-') for a in asked[2:3]) or 'show'}",
                "versions": versions,
                "seconds": round(found.work, 3),
                "goal": 0.2,
                "said": found.said,
            }
            emit(line)
            lines.append(line)
    return lines
