"""Training through a project against the bare `fit` on the same Arrow data: what split, process, storing, measuring and gates cost.

Both begin with the rows in Parquet. The bare script reads them with Arrow, fits scikit-learn's HistGradientBoosting on the older rows, and
measures one AUC on the newer ones. Ours is `run` of one model whose table is fresh: point in time, split, a process of its own, storing with
parity, all metrics with intervals, slices, weak slices, leak detectors, gates, signature, registry. The library is loaded before the clock
starts in the bare script; ours loads it in its server, which starts with the clock. Goal: bare * 1.05 + 0.3 s (`goal_s`).
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from bench.measure import CACHE, Measured, child, compare, emit

MAKE = """
import json, sys
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
rows, out = int(sys.argv[1]), sys.argv[2]
rng = np.random.default_rng(5)
X = rng.normal(size=(rows, 20))
odds = 1 / (1 + np.exp(-(X[:, :8] @ rng.normal(size=8) * 0.5 + np.sin(X[:, 8] * 2) - 1)))
columns = {"id": np.arange(rows), "ts": np.datetime64("2026-01-01", "us") + np.arange(rows) * np.timedelta64(1_000_000, "us")}
columns |= {f"x{j}": X[:, j] for j in range(20)} | {"city": np.array(["a", "b", "c", "d"])[rng.integers(0, 4, rows)], "good": rng.random(rows) < odds}
pq.write_table(pa.table(columns), out)
print(json.dumps({"work": 0}))
"""
PIPELINE = """
import penstock as ps
raw = ps.files("data/*.parquet")

@ps.table(key="id", time="ts")
def rows(raw):
    return ps.sql("SELECT * FROM raw")

@ps.model(over=rows, label="good", features=[*[f"x{j}" for j in range(20)], "city"], split=ps.by_time(test="BOUNDARY"), slices=["city"],
          gates=[ps.metric("roc_auc") >= 0.6, ps.metric("feature_drift") <= 0.25, ps.no_leakage()])
def model(train):
    from sklearn.ensemble import HistGradientBoostingClassifier
    return HistGradientBoostingClassifier(max_iter=ITERATIONS, early_stopping=False, random_state=0).fit(train.X, train.y)
"""
BARE = """
import json, sys, time
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
path, boundary, iterations = sys.argv[1], np.datetime64(sys.argv[2], "us"), int(sys.argv[3])
began = time.perf_counter()
table = pq.read_table(path)
city = table["city"].dictionary_encode().combine_chunks()
codes = np.argsort(np.argsort(city.dictionary.to_pylist()))[city.indices.to_numpy()]
X = np.column_stack([*(table[f"x{j}"].to_numpy() for j in range(20)), codes.astype(float)])
y, old = table["good"].to_numpy().astype(np.int8), table["ts"].to_numpy() < boundary
fit = time.perf_counter()
model = HistGradientBoostingClassifier(max_iter=iterations, early_stopping=False, random_state=0).fit(X[old], y[old])
fit = time.perf_counter() - fit
auc = roc_auc_score(y[~old], model.predict_proba(X[~old])[:, 1])
print(json.dumps({"work": time.perf_counter() - began, "auc": round(auc, 6), "fit_s": round(fit, 3)}))
"""
FRESH = """
import json, sys
from penstock.project.project import Project
with Project.open(sys.argv[1]) as project:
    assert project.run("rows").ok
print(json.dumps({"work": 0}))
"""
OURS = """
import json, sys, time
from penstock.project.project import Project
import duckdb, numpy, pyarrow
from sklearn.metrics import roc_auc_score
from sklearn.ensemble import HistGradientBoostingClassifier
began = time.perf_counter()
with Project.open(sys.argv[1]) as project:
    report = project.run("model", force=True)
    took = time.perf_counter() - began
    assert report.ok, [(r.error, r.body.get("gates")) for r in report.results]
    body = report.results[-1].body
print(json.dumps({"work": took, "auc": round(body["metrics"]["roc_auc"], 6), "fit_s": round(body["fit_seconds"], 3)}))
"""


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    lines = []
    for rows, iterations in ((50_000, 50),) if quick else ((100_000, 100), (1_000_000, 200)):
        boundary = f"2026-01-{1 + rows * 8 // 10 // 86400:02d} 00:00:00" if rows >= 200_000 else "2026-01-01 20:00:00"
        if rows == 50_000:
            boundary = "2026-01-01 11:00:00"
        with tempfile.TemporaryDirectory(dir=CACHE) as place:
            source, project = Path(place) / "rows.parquet", Path(place) / "project"
            child(MAKE, rows, source)
            (project / "data").mkdir(parents=True)
            shutil.copy(source, project / "data")
            pipeline = PIPELINE.replace("BOUNDARY", boundary).replace("ITERATIONS", str(iterations))
            (project / "pipeline.py").write_text(pipeline)
            child(FRESH, project)

            def ours(project: Path = project) -> Measured:
                return child(OURS, project)

            def bare(source: Path = source, boundary: str = boundary, iterations: int = iterations) -> Measured:
                return child(BARE, source, boundary, iterations)

            line = compare(f"training_{rows // 1000}k", ours, bare, runs=1 if quick else 3, rows=rows)
            goal = round(line["bare_s"] * 1.05 + 0.3, 3)
            emit(
                {
                    "contest": line["contest"],
                    "goal_s": goal,
                    "met": line["penstock_s"] <= goal,
                    "over_s": round(line["penstock_s"] - line["bare_s"], 3),
                }
            )
            lines.append({**line, "goal_s": goal})
    return lines
