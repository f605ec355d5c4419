"""Two `penstock up` on one project, as real processes: one is killed, stopped or told to end in the middle of a run, the other goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from penstock.project.project import Project

PIPELINE = '''
from pathlib import Path

import penstock as ps

HERE = Path(__file__).parent
raw = ps.files("raw/*.csv", columns={"x": "long"})

@ps.table(write=ps.append())
def log(raw):
    return ps.sql("SELECT x FROM raw")

@ps.job(retries=1)
def slow(given):
    """Ends when it is let go on. Each attempt leaves a line."""
    import os
    import time
    with open(HERE / "attempts", "a") as out:
        out.write(f"{os.getpid()}\\n")
    until = time.monotonic() + 60
    while not (HERE / "go").exists() and time.monotonic() < until:
        time.sleep(0.01)
    return {"files": given["files"]}

ps.automate(log, when=ps.arrived(raw))
ps.automate(slow, when=ps.arrived(raw), name="slowly")
'''
LEASE_S = 2.0


class Kept:
    """A `penstock up` of its own, and what it has told, as JSON."""

    def __init__(self, folder: Path, *more: str) -> None:
        command = [
            str(Path(sys.executable).with_name("penstock")),
            "-C",
            str(folder),
            "up",
            "--json",
            "--lease",
            str(LEASE_S),
            "--poll",
            "0.2",
            *more,
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        self.told: list[dict[str, Any]] = []
        self.other: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                try:
                    self.told.append(json.loads(line))
                except ValueError:
                    self.other.append(line)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def until(self, kind: str, name: str = "", seconds: float = 60) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            return next((news for news in self.told if news["kind"] == kind and news["name"] == name), None)

        with self._changed:
            assert self._changed.wait_for(lambda: found() or self.process.poll() is not None, seconds), (kind, name, self.told, self.other)
            news = found()
        assert news is not None, (self.told, self.other)
        return news

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def over(self) -> int:
        code = self.process.wait(60)
        self._reader.join(30)
        return code


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/a.csv").write_text("x\n1\n2\n")
    return tmp_path


@pytest.fixture
def up(folder: Path) -> Iterator[Callable[[], Kept]]:
    made: list[Kept] = []

    def start() -> Kept:
        made.append(Kept(folder, "--workers", "2"))
        return made[-1]

    yield start
    for kept in made:
        if kept.process.poll() is None:
            kept.send(signal.SIGCONT)
            os.killpg(kept.process.pid, signal.SIGKILL)
        kept.over()


def moment(news: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(news["at"])


def settled(folder: Path) -> None:
    """Nothing is lost and nothing was done twice: each firing has one job, which is done; each row is there once."""
    with Project.open(folder) as project:
        jobs = project.state.queue.jobs(limit=1000)
        assert {job.status for job in jobs} == {"done"}, [(job.name, job.status, job.error) for job in jobs]
        assert Counter(job.name for job in jobs if job.kind in ("job", "asset")) == {"asset:log": 1, "job:slow": 1}
        assert project.query("SELECT x FROM log ORDER BY x").rows() == [{"x": 1}, {"x": 2}]


def test_a_killed_one_is_taken_over_and_nothing_is_lost_or_done_twice(folder: Path, up: Callable[[], Kept]) -> None:
    one = up()
    one.until("started", "job:slow")
    two = up()
    two.until("standby")
    killed = datetime.now(UTC)
    one.send(signal.SIGKILL)
    assert (moment(two.until("active")) - killed).total_seconds() <= 2 * LEASE_S
    (folder / "go").touch()
    two.until("done", "job:slow")
    with Project.open(folder) as project:
        job = next(job for job in project.state.queue.jobs(name="job:slow"))
        assert (job.attempt, job.vanished) == (2, 1)
        deadline = threading.Event()
        while project.state.queue.counts()["done"] < len(project.state.queue.jobs(limit=1000)):
            assert not deadline.wait(0.05) and (datetime.now(UTC) - killed).total_seconds() < 60
    two.send(signal.SIGTERM)
    assert two.over() == 0
    settled(folder)


def test_a_stopped_one_loses_the_claim_after_its_lease_and_stands_by_when_it_wakes(folder: Path, up: Callable[[], Kept]) -> None:
    (folder / "go").touch()
    one = up()
    one.until("done", "job:slow")
    one.until("done", "asset:log")
    two = up()
    two.until("standby")
    stopped = datetime.now(UTC)
    one.send(signal.SIGSTOP)
    assert (moment(two.until("active")) - stopped).total_seconds() <= 2 * LEASE_S
    one.send(signal.SIGCONT)
    one.until("standby")
    settled(folder)


def test_told_to_end_it_lets_its_job_end_and_the_other_is_active_at_once(folder: Path, up: Callable[[], Kept]) -> None:
    one = up()
    one.until("started", "job:slow")
    two = up()
    two.until("standby")
    one.send(signal.SIGTERM)
    (folder / "go").touch()
    one.until("done", "job:slow")
    assert one.over() == 0
    assert (moment(two.until("active")) - moment(one.told[-1])).total_seconds() <= LEASE_S
    two.send(signal.SIGINT)
    assert two.over() == 0
    assert len((folder / "attempts").read_text().split()) == 1


def test_told_twice_it_gives_back_what_runs(folder: Path, up: Callable[[], Kept]) -> None:
    one = up()
    one.until("done", "asset:log")
    one.until("started", "job:slow")
    one.send(signal.SIGTERM)
    one.send(signal.SIGINT)
    assert one.over() == 0
    with Project.open(folder) as project:
        (job,) = project.state.queue.jobs(name="job:slow")
        assert (job.status, job.attempt) == ("ready", 0)
    (folder / "go").touch()
    two = up()
    two.until("done", "job:slow")
    two.send(signal.SIGTERM)
    assert two.over() == 0
    settled(folder)
