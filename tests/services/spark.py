"""A real Spark 4.1 with Iceberg, as a child process per session: `pyspark` from a virtual environment of its own, jars from Maven Central.

Both are made once, in the folder named by PENSTOCK_TEST_CACHE or ~/.cache/penstock-services, about 600 MB. Needs Java 17 and `mvn`.
The child reads one JSON question per line, and answers in JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PYSPARK = "pyspark>=4.1,<4.2"
JARS = ("org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.12.0", "org.xerial:sqlite-jdbc:3.54.1.0")
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"

SERVER = """
import json, sys
from pyspark.sql import SparkSession

settings = json.loads(sys.argv[1])
builder = SparkSession.builder.master("local[2]").appName("penstock")
for key, value in settings.items():
    builder = builder.config(key, value)
spark = builder.getOrCreate()
spark.sparkContext.setLogLevel("ERROR")
print(json.dumps({"ready": spark.version}), flush=True)
for line in sys.stdin:
    try:
        frame = spark.sql(json.loads(line))
        rows = [[repr(v) for v in row] for row in frame.collect()]
        print(json.dumps({"columns": frame.columns, "rows": rows}), flush=True)
    except Exception as error:
        print(json.dumps({"error": str(error)[:2000]}), flush=True)
"""


class Spark:
    """A running session whose catalog `penstock` is one SQLite file and folder."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self._log = process, log
        self.version = self._answer()["ready"]

    def sql(self, text: str) -> list[list[str]]:
        """Rows of a statement, each value as Python's `repr` of it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(text) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        if "error" in answer:
            raise AssertionError(f"Spark refuses {text!r}: {answer['error']}")
        rows: list[list[str]] = answer["rows"]
        return rows

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            pytest.fail(f"Spark ended or cannot be started:\n{self._log.read_text(errors='replace')[-4000:]}")
        return json.loads(line)


def session(catalog: Path, lake: Path) -> Iterator[Spark]:
    """Starts Spark on a catalog; it ends with the generator."""
    home = cache()
    settings = {
        "spark.jars": ",".join(str(p) for p in sorted((home / "jars").glob("*.jar"))),
        "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
        "spark.sql.catalog.penstock": "org.apache.iceberg.spark.SparkCatalog",
        "spark.sql.catalog.penstock.type": "jdbc",
        "spark.sql.catalog.penstock.uri": f"jdbc:sqlite:{catalog}",
        "spark.sql.catalog.penstock.jdbc.schema-version": "V1",
        "spark.sql.catalog.penstock.warehouse": lake.as_uri(),
        "spark.sql.catalog.penstock.cache-enabled": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.driver.memory": "700m",
    }
    work = Path(tempfile.mkdtemp(prefix="penstock-spark-"))
    environment = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "TZ": "UTC", "SPARK_LOCAL_DIRS": str(work)}
    command = [str(home / "venv/bin/python"), "-c", SERVER, json.dumps(settings)]
    with open(work / "log", "w") as log:
        process = subprocess.Popen(
            command, cwd=work, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )  # fmt: skip
    try:
        yield Spark(process, work / "log")
    finally:
        assert process.stdin is not None
        process.stdin.close()  # the session ends by itself when nobody can ask any more
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        shutil.rmtree(work, ignore_errors=True)


def cache() -> Path:
    """Where pyspark and the jars are; made if they are missing."""
    root = Path(os.environ.get("PENSTOCK_TEST_CACHE") or Path.home() / ".cache/penstock-services") / "spark-4.1"
    root.mkdir(parents=True, exist_ok=True)
    if not (root / "venv/installed").exists():
        shutil.rmtree(root / "venv", ignore_errors=True)
        _call([sys.executable, "-m", "venv", str(root / "venv")], "its virtual environment")
        _call([str(root / "venv/bin/python"), "-m", "pip", "install", "--quiet", PYSPARK], "pyspark")
        (root / "venv/installed").touch()
    for artifact in JARS:
        _, name, version = artifact.split(":")
        if not (root / "jars" / f"{name}-{version}.jar").exists():
            _call(["mvn", "-q", "-B", COPY, f"-Dartifact={artifact}", f"-DoutputDirectory={root / 'jars'}"], artifact)
    return root


def _call(command: list[str], what: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        pytest.fail(f"Spark cannot be started: {what} cannot be fetched, {error}")
    if done.returncode:
        pytest.fail(f"Spark cannot be started: {what} cannot be fetched\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
