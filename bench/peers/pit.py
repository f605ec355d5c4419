"""Three feature views joined to a spine by Feast, from its DuckDB store and its file store (Dask), against Penstock.

Reading the spine is inside Feast's time, its imports and `apply` are not. With few keys Feast's time grows with the square of the
history, so that contest has a third of the rows; the file store takes part where there are many keys.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.contests.pit import OURS, data, project
from bench.measure import Measured, child, compare
from bench.peers.environment import environment

FEAST = """
import json, sys, tempfile, time, warnings
from datetime import timedelta
from pathlib import Path
warnings.filterwarnings("ignore")
import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float64
where, kind = Path(sys.argv[1]), sys.argv[2]
with tempfile.TemporaryDirectory() as repo:
    Path(repo, "feature_store.yaml").write_text(
        f"project: p\\nregistry: {repo}/registry.db\\nprovider: local\\noffline_store:\\n  type: {kind}\\n"
        f"online_store:\\n  type: sqlite\\n  path: {repo}/online.db\\nentity_key_serialization_version: 3\\n")
    store = FeatureStore(repo_path=repo)
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    views = [FeatureView(name=f"view{k}", entities=[user], ttl=timedelta(days=7), schema=[Field(name=f"f{k}_{c}", dtype=Float64) for c in "abc"],
                         source=FileSource(path=str(where / f"view{k}.parquet"), timestamp_field="event_timestamp")) for k in (1, 2, 3)]
    store.apply([user, *views])
    began, cpu = time.perf_counter(), time.process_time()
    spine = pd.read_parquet(where / "spine.parquet", columns=["row_id", "user_id", "event_timestamp"])
    spine["event_timestamp"] = pd.to_datetime(spine["event_timestamp"], utc=True)
    got = store.get_historical_features(entity_df=spine, features=[f"view{k}:f{k}_{c}" for k in (1, 2, 3) for c in "abc"]).to_arrow()
    work, cpu = time.perf_counter() - began, time.process_time() - cpu
found = got.to_pandas()
sums = {c: [int(found[c].notna().sum()), round(float(found[c].sum()), 1)] for c in ("f1_a", "f2_b", "f3_c")}
print(json.dumps({"work": work, "cpu": round(cpu, 2), "rows": len(found), "sums": sums}))
"""


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    python = environment("feast")
    lines = []
    for keys, kind, rows in (("many", "duckdb", 1_000_000), ("many", "dask", 1_000_000), ("few", "duckdb", 336_776)):
        rows = rows // (20 if keys == "few" else 10) if quick else rows
        where = data(rows, keys)
        made = project(where)

        def ours(made: Path = made) -> Measured:
            return child(OURS, made)

        def feast(where: Path = where, kind: str = kind) -> Measured:
            return child(FEAST, where, kind, python=python)

        runs = 3 if keys == "many" and not quick else 1
        lines.append(
            compare("pit", ours, feast, runs=runs, warm=keys == "many", other="peer", who=f"Feast, {kind}, {keys} keys", rows=rows)
        )
    return lines
