"""Many commands at once, and workers that are killed: each asset is made once, nothing stays running, another worker goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from penstock.ground.clock import SystemClock
from penstock.project import jobs
from penstock.project.project import Project
from tests.faults import rig

pytestmark = pytest.mark.fault
COMMANDS = 50
HANGS = """
import pathlib, time
import penstock as ps

FOLDER = pathlib.Path(__file__).parent

@ps.job
def hangs():
    if not (FOLDER / "began").exists():
        (FOLDER / "began").touch()
        time.sleep(600)
    return "done"
"""


def test_fifty_commands_at_once_make_each_asset_once(tmp_path: Path) -> None:
    rig.make(tmp_path, phase=0)
    began = [rig.start(tmp_path) for _ in range(COMMANDS)]
    for process in began:
        out, _ = process.communicate(timeout=550)
        assert process.returncode == 0, out.decode()
    with Project.open(tmp_path) as project:
        assert project.run().nothing
        made = [job for job in project.state.queue.jobs(kind="make", limit=10_000) if job.result and job.result["status"] == "made"]
        assert sorted(job.name for job in made) == sorted({job.name for job in made}), "an asset was made twice"
        counts = project.state.queue.counts()
        assert not any(counts[status] for status in ("waiting", "ready", "running", "failed", "dead"))


def worker(folder: Path) -> subprocess.Popen[bytes]:
    call = "import sys; from penstock.cli.command import command; command(sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", call, "-C", str(folder), "up", "worker", "--jobs", "1"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def until(ready: Path) -> None:
    for _ in range(1200):
        if ready.exists():
            return
        SystemClock().wait(0.05)
    raise AssertionError(f"{ready.name} never came")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_ends_leaves_its_job_to_others(number: int, tmp_path: Path) -> None:
    """Killed, another one of the machine sees at once that it is gone; told to end twice, it gives its job back."""
    (tmp_path / "pipeline.py").write_text(HANGS)
    first = worker(tmp_path)
    with Project.open(tmp_path) as project:
        run = jobs.put_in(project, "hangs")
        until(tmp_path / "began")
        os.kill(first.pid, number)
        if number == signal.SIGTERM:
            SystemClock().wait(0.5)
            os.kill(first.pid, number)
        out, _ = first.communicate(timeout=60)
        assert first.returncode == (0 if number == signal.SIGTERM else -number), out.decode()
        tick = project.clock.tick()
        jobs.worker(project, tell=lambda job, status: None, at_once=1).serve(until=lambda: project.state.queue.counts(run=run)["done"] == 1)
        assert project.clock.tick() - tick < 10, "it waited for the lease"
        [job] = project.state.queue.jobs(run=run)
        assert (job.status, job.result) == ("done", "done")


def test_an_idle_worker_takes_a_job_and_uses_no_time(tmp_path: Path) -> None:
    (tmp_path / "pipeline.py").write_text(HANGS)
    (tmp_path / "began").touch()
    told = threading.Event()
    with Project.open(tmp_path) as project:
        server = jobs.worker(project, tell=lambda job, status: told.set() if status == "done" else None, at_once=1)
        thread = threading.Thread(target=server.serve)
        thread.start()
        before = os.times()
        SystemClock().wait(3.0)
        after = os.times()
        assert after.user + after.system - before.user - before.system < 0.15
        jobs.put_in(project, "hangs")
        assert told.wait(60)
        server.end()
        thread.join(60)
        assert not thread.is_alive()
        assert not project.state.queue.workers(now=project.clock.now())
