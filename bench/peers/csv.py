"""One GB of CSV into Parquet (zstd) by Spark, with a declared schema and with an inferred one, against Penstock.

Settings in Spark's favour: no web page, an unhurried heap, micro-second timestamps, and its `work` leaves out the start of the JVM.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from bench.contests.csv import OURS, big_csv
from bench.measure import CACHE, Measured, child, compare
from bench.peers.environment import environment, need, versions

SPARK = """
import json, os, sys, time
os.environ.update(PYSPARK_PYTHON=sys.executable, SPARK_LOCAL_IP="127.0.0.1")
began = time.perf_counter()
from pyspark.sql import SparkSession
source, target, schema = sys.argv[1:]
spark = (SparkSession.builder.master("local[2]").appName("csv")
         .config("spark.driver.memory", "2g").config("spark.ui.enabled", "false").config("spark.ui.showConsoleProgress", "false")
         .config("spark.driver.bindAddress", "127.0.0.1")
         .config("spark.sql.session.timeZone", "UTC").config("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
         .config("spark.sql.parquet.compression.codec", "zstd").getOrCreate())
spark.sparkContext.setLogLevel("ERROR")
started = time.perf_counter()
reader = spark.read.option("header", True).option("nullValue", "NA")
reader = reader.schema(schema) if schema else reader.option("inferSchema", True)
reader.csv(source).write.mode("overwrite").parquet(target)
done = time.perf_counter()
rows = spark.read.parquet(target).count()
print(json.dumps({"work": done - started, "start": round(started - began, 3), "with_start": round(done - began, 3), "rows": rows}))
"""
SCHEMA = ", ".join(
    f"{name} {'TIMESTAMP' if name == 'time_hour' else 'STRING' if name in ('carrier', 'tailnum', 'origin', 'dest') else 'INT'}"
    for name in (
        *("year", "month", "day", "dep_time", "sched_dep_time", "dep_delay", "arr_time", "sched_arr_time", "arr_delay"),
        *("carrier", "flight", "tailnum", "origin", "dest", "air_time", "distance", "hour", "minute", "time_hour"),
    )
)


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    need("java")
    python = environment("spark")
    source = big_csv(quick)
    lines = []
    with tempfile.TemporaryDirectory(dir=CACHE) as place:
        folder = Path(place)

        def ours() -> Measured:
            project = folder / "ours"
            shutil.rmtree(project, ignore_errors=True)
            project.mkdir()
            (project / "pipeline.py").write_text(f"import penstock as ps\n\nflights = ps.files({str(source)!r})\n")
            return child(OURS, project)

        for how, schema in (("declared schema", SCHEMA), ("inferSchema", "")):

            def peer(schema: str = schema) -> Measured:
                return child(SPARK, source, folder / "spark.parquet", schema, python=python)

            line = compare(
                "csv", ours, peer, other="peer", runs=1 if quick else 3, goal=0.25, who=f"PySpark local[2], {how}",
                megabytes=round(source.stat().st_size / 1e6), versions=versions(python, ("pyspark",)),
            )  # fmt: skip
            if line["said"]["rows"] != line["peer_said"]["rows"]:
                raise SystemExit(f"the rows differ: {line['said']['rows']} and {line['peer_said']['rows']}")
            lines.append(line)
    return lines
