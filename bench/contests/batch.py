"""Scoring 5 M rows of 20 columns: a project with a table and its predictions, against a bare stream of Arrow through the same booster.

Both read Parquet, score on all cores and write keys and scores as Parquet. Ours also reads through the lake, holds the key to be
unique, commits a version, and records it. LightGBM of 200 trees with 63 leaves is compiled on the way, first (`batch_first`) and then
found compiled (`batch`); XGBoost and scikit-learn have no compiled runtime, so there only what surrounds the library can be told.
The bare script has the model ready in its file and its libraries imported before its clock starts; ours has not.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from bench.measure import CACHE, Measured, child, compare

MAKE = """
import json, sys
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
out, n = Path(sys.argv[1]), int(sys.argv[2])
r = np.random.default_rng(3)
names = [f"f{i}" for i in range(20)]
def table(k, first):
    X = r.standard_normal((k, 20)).astype("f4")
    y = X[:, 0] + X[:, 1] * X[:, 2] + np.sin(X[:, 3] * 2) + r.standard_normal(k) > 0
    ts = np.datetime64("2026-01-01", "us") + np.arange(first, first + k).astype("m8[s]").astype("m8[us]")
    cols = {"id": pa.array(np.arange(first, first + k)), "ts": pa.array(ts)} | {c: pa.array(X[:, i]) for i, c in enumerate(names)}
    return pa.table(cols), pa.array(y)
(out / "train").mkdir(parents=True); (out / "new").mkdir()
t, y = table(100_000, 0)
pq.write_table(t.append_column("label", y), out / "train" / "0.parquet", compression="zstd")
for part in range(10):
    pq.write_table(table(n // 10, part * (n // 10))[0], out / "new" / f"{part}.parquet", compression="zstd", row_group_size=125_000)
print(json.dumps({"work": 0}))
"""
PIPELINE = """
import penstock as ps

old = ps.files("data/train/*.parquet")
new = ps.files("data/new/*.parquet")

@ps.table(key="id", time="ts")
def learnt(old):
    return ps.sql("SELECT * FROM old")

@ps.table(key="id", time="ts")
def fresh(new):
    return ps.sql("SELECT * FROM new")

@ps.model(over=learnt, label="label", features=[f"f{i}" for i in range(20)], split=ps.by_time(test="10000s"))
def chance(train):
    MODEL

scores = ps.predictions(chance, over=fresh)
"""
MODELS = {
    "lightgbm": "import lightgbm; return lightgbm.LGBMClassifier(n_estimators=200, num_leaves=63, verbose=-1, random_state=1, n_jobs=2).fit(train.X, train.y)",
    "xgboost": "import xgboost; return xgboost.XGBClassifier(n_estimators=200, max_leaves=63, max_depth=0, grow_policy='lossguide', random_state=1, n_jobs=2).fit(train.X, train.y)",
    "sklearn": "from sklearn.ensemble import HistGradientBoostingClassifier as H; return H(max_iter=100, random_state=1).fit(train.X, train.y)",
}  # fmt: skip
PREPARE = """
import json, sys
from penstock.project.project import Project
with Project.open(sys.argv[1]) as project:
    report = project.run("chance", "fresh")
    assert report.ok, [r.error for r in report.results if r.error]
print(json.dumps({"work": 0}))
"""
OURS = """
import json, sys
from penstock.project.project import Project
told = []
with Project.open(sys.argv[1], listener=lambda e: told.append(e.text) if "runtime" in e.text else None) as project:
    report = project.run("scores", force=True)
    done = next(r for r in report.results if r.asset == "scores")
    assert report.ok and done.status == "made", [r.error for r in report.results]
    found = project.query("SELECT count(*) AS n, sum(score) AS total FROM scores").arrow().to_pylist()[0]
    n, total = found["n"], found["total"]
print(json.dumps({"work": done.seconds, "rows": n, "sum": round(total, 4), "runtime": told[-1:]}))
"""
BARE = """
import glob, json, sys, time
import numpy as np, pyarrow as pa, pyarrow.dataset as ds, pyarrow.parquet as pq
kind, models, rows, out = sys.argv[1:]
names = [f"f{i}" for i in range(20)]
stored = lambda ending: glob.glob(models + "/*/model." + ending)[0]
if kind == "lightgbm":
    import lightgbm
    booster = lightgbm.Booster(model_file=stored("txt"))
    predict = lambda X: booster.predict(X, num_threads=2)
elif kind == "xgboost":
    import xgboost
    booster = xgboost.Booster(model_file=stored("ubj"))
    predict = lambda X: booster.inplace_predict(X).astype("f8")
else:
    import skops.io
    held = skops.io.loads(open(stored("skops"), "rb").read(), trusted=skops.io.get_untrusted_types(file=stored("skops")))
    predict = lambda X: held.predict_proba(X)[:, 1]
began = time.perf_counter()
schema = pa.schema([("id", pa.int64()), ("score", pa.float64())])
n, total = 0, 0.0
with pq.ParquetWriter(out, schema, compression="zstd") as w:
    for b in ds.dataset(rows).to_batches(batch_size=125_000, batch_readahead=2, fragment_readahead=1):
        X = np.empty((b.num_rows, 20), "f4" if kind != "sklearn" else "f8")
        for i, c in enumerate(names):
            X[:, i] = b[c].to_numpy()
        p = predict(X)
        n, total = n + len(p), total + float(p.sum())
        w.write_batch(pa.record_batch([b["id"], pa.array(p)], schema=schema))
print(json.dumps({"work": time.perf_counter() - began, "rows": n, "sum": round(total, 4)}))
"""


def main(*, quick: bool = False, kinds: tuple[str, ...] = tuple(MODELS), runs: int = 3) -> list[dict[str, Any]]:
    rows, runs = (500_000, 1) if quick else (5_000_000, runs)
    data = CACHE / f"batch_{rows}"
    if not data.exists():
        draft = data.with_suffix(".draft")
        shutil.rmtree(draft, ignore_errors=True)
        child(MAKE, draft, rows)
        draft.rename(data)
    lines = []
    for kind in kinds:
        with tempfile.TemporaryDirectory(dir=CACHE) as place:
            project = Path(place) / "project"
            project.mkdir()
            (project / "pipeline.py").write_text(PIPELINE.replace("MODEL", MODELS[kind]))
            (project / "data").symlink_to(data)
            child(PREPARE, project)

            def ours(project: Path = project) -> Measured:
                return child(OURS, project, env={"PENSTOCK_MEMORY_LIMIT": "400MB"})

            def bare(project: Path = project, kind: str = kind) -> Measured:
                return child(BARE, kind, project / ".penstock" / "models" / "chance", data / "new", project.parent / "out.parquet")

            goal = 0.5 if kind == "lightgbm" else 1.05
            if kind == "lightgbm":
                lines.append(compare("batch_first", ours, bare, runs=1, goal=goal, warm=False, rows=rows, model=kind))
            lines.append(compare("batch", ours, bare, runs=runs, goal=goal, warm=False, rows=rows, model=kind))
    return lines
