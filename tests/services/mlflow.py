"""A real MLflow 3.17 for tests, from a virtual environment of its own: it listens on 127.0.0.1 only, and is ended by its pid.

The environment is made once, in the folder named by PENSTOCK_TEST_CACHE or ~/.cache/penstock-services, about 620 MB.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from penstock.adapters.tracker.mlflow import MlflowTracker
from penstock.ground.clock import SystemClock
from penstock.ground.errors import SettingsError
from penstock.ground.ids import SystemIds
from penstock.ports.adapters import Context
from penstock.ports.tracker import CurvePoint
from penstock.testing.trackers import Seen

PACKAGES = ("mlflow==3.17.2", "lightgbm>=4.5")
START_S = 240
ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "DO_NOT_TRACK": "true"}


class Mlflow:
    """A server that can be stopped and started again, with the same data at the same address."""

    def __init__(self, home: Path, python: Path) -> None:
        self.home, self.python = home, python
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"mlflow+{self.address}"

    def start(self) -> None:
        """Returns when the server answers."""
        store = ["--backend-store-uri", f"sqlite:///{self.home}/mlflow.db", "--artifacts-destination", str(self.home / "files")]
        command = [self.python, "-m", "mlflow", "server", *store, "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        with open(self.home / "log", "ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.home, env={**os.environ, **ENVIRONMENT}, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )  # fmt: skip
        end = time.monotonic() + START_S
        while self._process.poll() is None and time.monotonic() < end:
            with suppress(OSError), urllib.request.urlopen(f"{self.address}/health", timeout=5):
                return
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.2)
        self.stop()
        pytest.fail(f"MLflow cannot be started:\n{(self.home / 'log').read_text(errors='replace')[-4000:]}")

    def stop(self) -> None:
        """Ends the server and what it has started, which is in its process group. Repeat: does nothing."""
        if self._process is None:
            return
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, sign)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(20)
        self._process = None

    def run(self, script: str, *arguments: str) -> str:
        """What a Python script prints that uses MLflow's own client."""
        environment = {**os.environ, **ENVIRONMENT, "MLFLOW_TRACKING_URI": self.address}
        done = subprocess.run(
            [self.python, "-c", script, *arguments], cwd=self.home, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    def ask(self, where: str, body: Any = None, /, **query: Any) -> Any:
        """An answer of the REST API."""
        url = f"{self.address}/api/2.0/{where}?{urllib.parse.urlencode(query)}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


class MlflowPlace:
    """An MLflow server as a tracker under test, looked into by its REST API."""

    def __init__(self, server: Mlflow, folder: Path) -> None:
        self.server = server
        self.project = f"p{uuid4().hex[:8]}"
        clock = SystemClock()
        self._context = Context(folder, clock, SystemIds(clock), no_secret)

    def open(self) -> MlflowTracker:
        return MlflowTracker.open(self.server.url, self._context)

    def versions(self, model: str) -> list[dict[str, Any]]:
        """Versions of the registered model, oldest first."""
        name = f"{self.project}.{model}"
        found = self.server.ask("mlflow/model-versions/search", filter=f"name='{name}'", max_results=100).get("model_versions", [])
        return sorted(found, key=lambda v: int(v["version"]))

    def seen(self, model: str) -> list[Seen]:
        return [self._seen(v) for v in self.versions(model)]

    def live_now(self, model: str) -> str:
        try:
            live = self.server.ask("mlflow/registered-models/alias", name=f"{self.project}.{model}", alias="production")
        except urllib.error.HTTPError:  # 400 where there is no such alias
            return ""
        return _tags(live["model_version"])["version"]

    def leave(self, name: str, files: dict[str, bytes], alias: str) -> str:
        ask, name = self.server.ask, f"{self.project}.{name}"
        experiment = ask("mlflow/experiments/create", {"name": name})["experiment_id"]
        run = ask("mlflow/runs/create", {"experiment_id": experiment})["run"]["info"]
        folder = urllib.parse.urlsplit(run["artifact_uri"]).path.strip("/")
        for file, content in files.items():
            url = f"{self.server.address}/api/2.0/mlflow-artifacts/artifacts/{folder}/model/{file}"
            with urllib.request.urlopen(urllib.request.Request(url, content, method="PUT"), timeout=60):
                pass
        ask("mlflow/registered-models/create", {"name": name})
        source = {"name": name, "source": f"{run['artifact_uri']}/model", "run_id": run["run_id"]}
        made = ask("mlflow/model-versions/create", source)["model_version"]
        ask("mlflow/registered-models/alias", {"name": name, "alias": alias, "version": made["version"]})
        return f"{name}/{made['version']}"

    def _seen(self, found: dict[str, Any]) -> Seen:
        run = self.server.ask("mlflow/runs/get", run_id=found["run_id"])["run"]
        assert run["info"]["status"] == "FINISHED"
        data, told = run["data"], _tags(run["data"])
        assert told["token"] == _tags(found)["token"]
        values = {m["key"]: m["value"] for m in data.get("metrics", [])}
        folder = urllib.parse.urlsplit(found["source"]).path.strip("/")
        return Seen(
            told["version"], told["refused"] == "true", {p["key"]: p["value"] for p in data.get("params", [])},
            {k: v for k, v in values.items() if "/" not in k}, tuple(p for k in values if "/" in k for p in self._curve(found["run_id"], k)), told,
            self._files(folder),
        )  # fmt: skip

    def _curve(self, run: str, key: str) -> list[CurvePoint]:
        phase, _, name = key.rpartition("/")
        found = self.server.ask("mlflow/metrics/get-history", run_id=run, metric_key=key)["metrics"]
        return [CurvePoint(phase, int(m["step"]), {name: m["value"]}) for m in found]

    def _files(self, folder: str) -> dict[str, bytes]:
        listed = self.server.ask("mlflow-artifacts/artifacts", path=folder).get("files", [])
        found = {}
        for name in (f["path"] for f in listed):
            with urllib.request.urlopen(f"{self.server.address}/api/2.0/mlflow-artifacts/artifacts/{folder}/{name}", timeout=60) as answer:
                found[name] = answer.read()
        return found


def no_secret(name: str) -> str:
    raise SettingsError("a secret has no value", place=name)


def _tags(found: dict[str, Any]) -> dict[str, str]:
    return {t["key"].removeprefix("penstock."): t["value"] for t in found.get("tags", [])}


@pytest.fixture(scope="session")
def mlflow() -> Iterator[Mlflow]:
    """One server for the whole session; each test takes a project of its own."""
    python = environment()
    home = Path(tempfile.mkdtemp(prefix="penstock-mlflow-"))
    server = None
    try:
        server = Mlflow(home, python)
        yield server
    finally:
        if server is not None:
            server.stop()
        shutil.rmtree(home, ignore_errors=True)


def environment() -> Path:
    """The interpreter of the environment with MLflow; made if it is missing."""
    root = Path(os.environ.get("PENSTOCK_TEST_CACHE") or Path.home() / ".cache/penstock-services") / "mlflow-3.17"
    python = root / "venv/bin/python"
    if not (root / "venv/installed").exists():
        shutil.rmtree(root / "venv", ignore_errors=True)
        for command in (
            [sys.executable, "-m", "venv", root / "venv"],
            [python, "-m", "pip", "install", "--quiet", "--no-input", *PACKAGES],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
            if done.returncode:
                pytest.fail(f"MLflow cannot be started: its environment cannot be made\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        (root / "venv/installed").touch()
    return python
