"""The whole flights loop by PySpark + Feast + MLflow + Redis (`flights_seeds.py`), against Penstock.

Both score the same flights. They learn from almost the same rows: the example splits at midnight UTC and a check rejects one of them, the
programs by hand split by the month of local time, so that of 300,326 rows the example has 145 fewer and the AUC differs in its third place.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from bench.contests.loop import OURS, data
from bench.measure import CACHE, ROOT, Measured, child, compare
from bench.peers.environment import environment, need, versions

PARTS = ("pyspark", "feast", "mlflow", "redis", "scikit-learn", "duckdb", "pandas", "pyarrow")


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    need("java", "redis-server")
    python = environment("flights_seeds")
    source = data(1)
    program = Path(__file__).with_name("flights_seeds.py").read_text()
    with tempfile.TemporaryDirectory(dir=CACHE) as place:
        folder = Path(place)

        def ours() -> Measured:
            project = folder / "ours"
            shutil.rmtree(project, ignore_errors=True)
            project.mkdir()
            shutil.copy(ROOT / "bench" / "projects" / "flights" / "pipeline.py", project)
            (project / "data").symlink_to(source)
            return child(OURS, project)

        def peer() -> Measured:
            return child(program, source, folder / "peer", python=python)

        line = compare(
            "loop_x1", ours, peer, other="peer", runs=1 if quick else 3, warm=False,
            who="PySpark local[2] + Feast (DuckDB store) + MLflow + Redis", versions=versions(python, PARTS),
        )  # fmt: skip
    _alike(line["said"], line["peer_said"])
    return [line]


def _alike(ours: dict[str, Any], peer: dict[str, Any]) -> None:
    """Raises SystemExit unless both scored as many flights, from training rows and to an AUC that are nearly equal."""
    rows, auc = abs(ours["train_rows"] / peer["train_rows"] - 1), abs(ours["auc"] - peer["auc"])
    if ours["scores"] != peer["scores"] or rows > 0.001 or auc > 0.005:
        raise SystemExit(f"the results differ: {ours} and {peer}")
