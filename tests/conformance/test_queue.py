"""The queue suite over the queue in memory and the one in an SQLite file, and what only the file can be asked."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from time import perf_counter

import pytest

from penstock.adapters.state.sqlite import SqliteState
from penstock.adapters.state.sqlite.file import MIGRATIONS, upgrade
from penstock.ground.clock import SystemClock
from penstock.ground.errors import Fenced, StorageFull
from penstock.ground.failpoints import armed, full
from penstock.ports.queue import LIVE, NewJob, Offers
from penstock.ports.state import State
from penstock.testing.clock import START
from penstock.testing.states import MemoryState
from penstock.testing.suites.queue import *  # noqa: F403
from penstock.testing.suites.queue import NewState


@pytest.fixture(params=["memory", "sqlite"])
def new_state(request: pytest.FixtureRequest, tmp_path: Path) -> NewState:
    made = iter(range(10_000))

    def sqlite() -> Callable[[], State]:
        return partial(SqliteState, tmp_path / f"{next(made)}" / "state.db", SystemClock())

    def memory() -> Callable[[], State]:
        state = MemoryState()
        return lambda: state

    return sqlite if request.param == "sqlite" else memory


def open_at(path: Path) -> SqliteState:
    return SqliteState(path, SystemClock())


CHILD = """
import sys
from pathlib import Path
from penstock.adapters.state.sqlite import SqliteState
from penstock.ground.clock import SystemClock
from penstock.ground.failpoints import arm_from_environment
from penstock.ports.queue import LIVE, NewJob, Offers
from penstock.testing.clock import START
queue = SqliteState(Path(sys.argv[1]), SystemClock()).queue
arm_from_environment()
queue.enqueue([NewJob("x", "k", id="x" * 20, attempts=3), NewJob("y", "k", id="y" * 20, after=("x" * 20,))], now=START)
print("enqueued", flush=True)
lease = queue.claim("child", Offers(), now=START, lease_s=30)
print("claimed", flush=True)
queue.heartbeat(lease, now=START, lease_s=30, progress={"done": 1})
print("beaten", flush=True)
queue.complete(lease, now=START, result="child")
print("completed", flush=True)
"""
STEPS = ["enqueued", "claimed", "beaten", "completed"]


@pytest.mark.parametrize("at", [1, 2, 3, 4])
@pytest.mark.parametrize("point", ["queue.write.before", "queue.write.after"])
def test_a_worker_killed_at_any_write_is_taken_over(tmp_path: Path, point: str, at: int) -> None:
    path = tmp_path / "state.db"
    environment = {**os.environ, "PENSTOCK_FAILPOINTS": f"{point}=kill@{at}"}
    done = subprocess.run([sys.executable, "-c", CHILD, str(path)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout.split() == STEPS[: at - 1]
    written = at if point == "queue.write.after" else at - 1
    state = open_at(path)
    found = {job.name: job.status for job in state.queue.jobs()}
    assert found == [
        {}, {"x": "ready", "y": "waiting"}, {"x": "running", "y": "waiting"}, {"x": "running", "y": "waiting"}, {"x": "done", "y": "ready"}
    ][written]  # fmt: skip
    state.queue.enqueue([NewJob("x", "k", id="x" * 20, attempts=3), NewJob("y", "k", id="y" * 20, after=("x" * 20,))], now=START)
    results = {}
    later = START + timedelta(seconds=30)
    while lease := state.queue.claim("parent", Offers(), now=later, lease_s=30):
        results[lease.job.name] = state.queue.complete(lease, now=later, result="parent").vanished
    assert results == ({"y": 0} if written == 4 else {"x": int(written > 1), "y": 0})
    assert state.queue.counts()["done"] == 2


def test_a_stopped_worker_that_wakes_after_a_takeover_is_fenced(tmp_path: Path) -> None:
    """A process claims, is stopped by SIGSTOP, loses its job to another one, wakes, and cannot write."""
    path = tmp_path / "state.db"
    state = open_at(path)
    state.queue.enqueue([NewJob("x", "k", attempts=2)], now=START)
    code = (
        "import sys; from pathlib import Path\n"
        "from penstock.adapters.state.sqlite import SqliteState\nfrom penstock.ground.clock import SystemClock\n"
        "from penstock.ground.errors import Fenced\nfrom penstock.ports.queue import Offers\nfrom penstock.testing.clock import START\n"
        "queue = SqliteState(Path(sys.argv[1]), SystemClock()).queue\n"
        "lease = queue.claim('sleeper', Offers(), now=START, lease_s=30)\nprint('claimed', flush=True)\nsys.stdin.readline()\n"
        "try:\n    queue.complete(lease, now=START, result='late')\nexcept Fenced:\n    print('fenced', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sleeper:
        assert sleeper.stdin is not None
        assert sleeper.stdout is not None
        assert sleeper.stdout.readline() == "claimed\n"
        sleeper.send_signal(signal.SIGSTOP)
        lease = state.queue.claim("other", Offers(), now=START + timedelta(seconds=30), lease_s=30)
        assert lease is not None
        sleeper.send_signal(signal.SIGCONT)
        sleeper.stdin.write("go on\n")
        sleeper.stdin.flush()
        assert sleeper.stdout.readline() == "fenced\n"
    assert state.queue.complete(lease, now=START, result="other").result == "other"


@pytest.mark.parametrize("jump", [timedelta(hours=-1), timedelta(days=1), timedelta(days=3650)])
def test_a_clock_that_jumps_costs_at_most_repeated_work(tmp_path: Path, jump: timedelta) -> None:
    queue = open_at(tmp_path / "state.db").queue
    queue.enqueue([NewJob("x", "k", attempts=2), NewJob("y", "k", attempts=2)], now=START)
    first = queue.claim("a", Offers(), now=START, lease_s=30)
    assert first is not None
    now = START + jump
    second = queue.claim("b", Offers(), now=now, lease_s=30)
    assert second is not None
    if jump < timedelta(0):
        assert second.job.name == "y"
        first = queue.heartbeat(first, now=now, lease_s=30)
        assert first.until == now + timedelta(seconds=30)
        queue.complete(first, now=now)
    else:
        assert (second.job.name, second.job.vanished) == ("x", 1)
        with pytest.raises(Fenced):
            queue.complete(first, now=now)
    queue.complete(second, now=now)
    assert queue.counts()["running"] == 0


def test_a_full_disk_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    state = open_at(tmp_path / "state.db")
    (job,) = state.queue.enqueue([NewJob("x", "k")], now=START)
    with armed("queue.write.before", full), pytest.raises(StorageFull):
        state.queue.claim("w", Offers(), now=START, lease_s=30)
    connection = state._file.connection
    connection.execute(f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').fetchone()[0]}")
    with pytest.raises(StorageFull) as told:
        state.queue.enqueue([NewJob("big", "k", {"text": "x" * 100_000}) for _ in range(10)], now=START)
    assert told.value.retry
    assert list(state.queue.jobs()) == [job]
    connection.execute("PRAGMA max_page_count = 1000000")
    assert state.queue.claim("w", Offers(), now=START, lease_s=30) is not None


def test_a_state_from_before_the_queue_gets_one(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    old = sqlite3.connect(path, isolation_level=None)
    upgrade(old, path, MIGRATIONS[:1], START)
    old.execute("INSERT INTO records (kind, key, at, body) VALUES ('asset', 'x', '2026-01-01T00:00:00.000000Z', '{}')")
    old.close()
    state = open_at(path)
    assert len(state.history("asset")) == 1
    assert [job.status for job in state.queue.enqueue([NewJob("x", "k")], now=START)] == ["ready"]


def test_what_is_asked_often_goes_through_small_indexes(tmp_path: Path) -> None:
    """With many ended jobs no statement of a claim, a heartbeat or a page looks at all of them, and a claim does not sort those that are ready."""
    state = open_at(tmp_path / "state.db")
    connection = state._file.connection
    state.queue.enqueue([NewJob(f"j{n}", "k", key="a", at_once=5, run="r") for n in range(2000)], now=START)
    connection.execute("UPDATE queue_jobs SET status = 'done' WHERE seq <= 1990")
    seen: list[str] = []
    connection.set_trace_callback(seen.append)
    lease = state.queue.claim("w", Offers(kinds=("k",)), now=START, lease_s=30)
    assert lease is not None
    state.queue.heartbeat(lease, now=START, lease_s=30)
    state.queue.complete(lease, now=START)
    state.queue.advance(now=START + timedelta(days=1))
    state.queue.jobs(limit=10)
    state.queue.jobs(status=("running",))
    state.queue.jobs(status=("failed", "dead"))
    state.queue.jobs(status=LIVE)
    state.queue.jobs(status=("ready", "cancelled"))
    state.queue.jobs([lease.job.id])
    state.queue.jobs(run="r", status=("running",))
    state.queue.counts(run="r")
    state.queue.counts()
    connection.set_trace_callback(None)
    asked = {text for text in seen if text.startswith(("SELECT", "UPDATE")) and "queue_jobs" in text}
    assert len(asked) > 10
    for text in asked:
        steps = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}")]
        whole = [
            step for step in steps if step in ("SCAN queue_jobs", "SCAN j") or step.startswith("SCAN queue_jobs USING INDEX queue_jobs_of")
        ]
        assert whole == (["SCAN queue_jobs"] if "WHERE 1 = 1" in text else []), text
        assert "GROUP BY run" not in text or any("COVERING INDEX queue_jobs_of_run" in step for step in steps), text
        assert "j.status" not in text or not any("TEMP B-TREE FOR ORDER" in step for step in steps), text


def test_ten_thousand_jobs_are_put_in_and_looked_at_quickly(tmp_path: Path) -> None:
    """Figures of the benchmark, with room for a busy machine: below a second there."""
    state = open_at(tmp_path / "state.db")
    began = perf_counter()
    made = state.queue.enqueue([NewJob(f"j{n}", "k", {"n": n}) for n in range(10_000)], now=START)
    assert perf_counter() - began < 5
    assert len({job.id for job in made}) == 10_000
    assert min(_seconds(state.queue.counts) for _ in range(5)) < 0.2
    assert min(_seconds(lambda: state.queue.jobs(limit=100)) for _ in range(5)) < 0.05


def _seconds(work: Callable[[], object]) -> float:
    began = perf_counter()
    work()
    return perf_counter() - began
