"""A real Airflow 3 for tests, from the pins in `airflow.txt`: its own database in a temporary folder, no server, nothing that listens.

`airflow dags test` runs a whole DAG in one process; how each task ended is read from Airflow's database.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.services.environment import environment

#: Run by Airflow's Python: the DAGs of a folder as Airflow itself holds them after it has serialised them.
_READ = """
import json, sys
import pendulum
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization
from airflow.timetables.base import TimeRestriction

bag = DagBag(sys.argv[1])
made = {}
for dag in bag.dags.values():
    held = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    within = TimeRestriction(earliest=pendulum.parse(sys.argv[2]), latest=None, catchup=True)
    last, runs = None, []
    for _ in range(5):
        found = held.timetable.next_dagrun_info(last_automated_data_interval=last, restriction=within)
        if found is None:
            break
        runs.append(found.run_after.isoformat())
        last = found.data_interval
    made[held.dag_id] = {
        "runs": runs, "catchup": held.catchup, "max_active_runs": held.max_active_runs, "tags": sorted(held.tags),
        "tasks": {t.task_id: {"above": sorted(t.upstream_task_ids), "retries": t.retries, "pool": t.pool} for t in held.tasks},
    }
print(json.dumps({"errors": bag.import_errors, "dags": made}))
"""


@dataclass(frozen=True)
class Airflow:
    """An installed Airflow with a database of its own."""

    bin: Path
    home: Path

    def read(self, folder: Path, since: str) -> dict[str, Any]:
        """The DAGs of a folder, each with its first five runs from a moment on; none of the files may fail."""
        said = self._call([self.bin / "python", "-c", _READ, folder, since], folder)
        found = json.loads(said.splitlines()[-1])
        assert found["errors"] == {}
        dags: dict[str, Any] = found["dags"]
        return dags

    def test(self, folder: Path, dag: str, conf: Any = None) -> dict[str, str]:
        """Runs a DAG of a folder from beginning to end. Returns how each task ended, in the order in which they began: `load[0]` is the first of many."""
        given = ["-c", json.dumps(conf)] if conf is not None else []
        said = self._call([self.bin / "airflow", "dags", "test", dag, *given], folder, codes=(0, 1))
        with closing(sqlite3.connect(self.home / "airflow.db")) as database:
            run = "SELECT run_id FROM dag_run WHERE dag_id = ? ORDER BY id DESC LIMIT 1"
            found = database.execute(run, [dag]).fetchone()
            assert found is not None, said[-3000:]
            (latest,) = found
            states = "SELECT task_id, map_index, state FROM task_instance WHERE dag_id = ? AND run_id = ? ORDER BY start_date, task_id"
            return {f"{t}[{i}]" if i >= 0 else t: s for t, i, s in database.execute(states, [dag, latest])}

    def gave(self, dag: str, task: str) -> Any:
        """What a task of the last run of a DAG handed on."""
        with closing(sqlite3.connect(self.home / "airflow.db")) as database:
            query = "SELECT value FROM xcom WHERE dag_id = ? AND task_id = ? AND key = 'return_value' ORDER BY dag_run_id DESC LIMIT 1"
            found = database.execute(query, [dag, task]).fetchone()
        return json.loads(found[0]) if found else None

    def tries(self, dag: str, task: str) -> int:
        with closing(sqlite3.connect(self.home / "airflow.db")) as database:
            query = "SELECT max(try_number) FROM task_instance WHERE dag_id = ? AND task_id = ?"
            return int(database.execute(query, [dag, task]).fetchone()[0])

    def _call(self, command: list[Any], folder: Path, codes: tuple[int, ...] = (0,)) -> str:
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "PYTHON", "PENSTOCK"))}
        told = {
            "AIRFLOW_HOME": str(self.home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "AIRFLOW__CORE__DAGS_FOLDER": str(folder), "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        }  # fmt: skip
        done = subprocess.run(list(map(str, command)), env={**keep, **told}, capture_output=True, text=True, check=False, cwd=self.home)
        if done.returncode not in codes:
            raise AssertionError(f"{command[0]} ended with {done.returncode}: {done.stdout[-3000:]}{done.stderr[-3000:]}")
        return done.stderr + done.stdout


@pytest.fixture(scope="session")
def airflow() -> Iterator[Airflow]:
    """One database for the whole session."""
    home = Path(tempfile.mkdtemp(prefix="penstock-airflow-"))
    try:
        made = Airflow(environment("airflow"), home)
        made._call([made.bin / "airflow", "db", "migrate"], home)
        yield made
    finally:
        shutil.rmtree(home, ignore_errors=True)
