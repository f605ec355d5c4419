"""The state suite over every state, and what only the SQLite file can be asked."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import perf_counter

import pytest

from penstock.adapters.state.sqlite import SqliteState
from penstock.adapters.state.sqlite.file import MIGRATIONS, filesystem, upgrade
from penstock.ground.clock import SystemClock
from penstock.ground.errors import StateTooNew, StorageError, StorageFull
from penstock.ground.failpoints import armed, full
from penstock.ports.queue import NewJob
from penstock.ports.state import State
from penstock.testing.clock import START
from penstock.testing.states import FaultyState, MemoryState, WeakState
from penstock.testing.suites.state import *  # noqa: F403
from penstock.testing.suites.state import NewState


@pytest.fixture(params=["memory", "weak", "sqlite", "no faults"])
def new_state(request: pytest.FixtureRequest, tmp_path: Path) -> NewState:
    made = iter(range(10_000))

    def sqlite() -> Callable[[], State]:
        return partial(SqliteState, tmp_path / f"{next(made)}" / "state.db", SystemClock())

    def same(state: State) -> Callable[[], State]:
        return lambda: state

    makers: dict[str, NewState] = {
        "memory": lambda: same(MemoryState()),
        "weak": lambda: same(WeakState()),
        "sqlite": sqlite,
        "no faults": lambda: same(FaultyState(MemoryState(), seed=1, share=0.0)),
    }
    return makers[request.param]


def open_at(path: Path) -> SqliteState:
    return SqliteState(path, SystemClock())


def test_the_files_are_private(tmp_path: Path) -> None:
    state = open_at(tmp_path / "p" / "state.db")
    state.append("asset", "x", {}, at=START)
    files = list((tmp_path / "p").iterdir())
    assert {f.name for f in files} >= {"state.db", "state.db-wal"}
    assert all(stat.S_IMODE(f.stat().st_mode) == 0o600 for f in files)
    state.close()
    state.close()


def test_the_journal_is_a_synced_wal(tmp_path: Path) -> None:
    state = open_at(tmp_path / "state.db")
    assert state._file.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert state._file.connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_tables_of_others_in_the_same_file_stay(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "state.db") as other:
        other.execute("CREATE TABLE iceberg_tables (name TEXT)")
        other.execute("INSERT INTO iceberg_tables VALUES ('flights')")
        other.execute("PRAGMA user_version = 7")
    other.close()
    open_at(tmp_path / "state.db").append("asset", "x", {}, at=START)
    with sqlite3.connect(tmp_path / "state.db") as other:
        assert other.execute("SELECT name FROM iceberg_tables").fetchall() == [("flights",)]
        assert other.execute("PRAGMA user_version").fetchone() == (7,)
    other.close()


def test_a_file_of_another_program_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE records (mine TEXT)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(StorageError, match="another program"):
        open_at(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["no database", "cut", "header", "page"])
def test_a_damaged_file_is_told_and_kept(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "state.db"
    state = open_at(path)
    for n in range(500):
        state.append("asset", f"asset{n}", {"n": n, "text": "x" * 100}, at=START)
    state.close()
    whole = path.read_bytes()
    spoilt = {
        "no database": b"these are not the bytes you want" * 200,
        "cut": whole[: len(whole) // 2],
        "header": b"\0" * 100 + whole[100:],
        "page": whole[:4096] + b"\xff" * (len(whole) - 4096),
    }[damage]
    path.write_bytes(spoilt)
    with pytest.raises(StorageError) as told:
        open_at(path).heads("asset")
    assert told.value.place == str(path)
    assert "copy" in told.value.hint
    assert path.read_bytes() == spoilt


def test_a_newer_state_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    open_at(path).close()
    raw = sqlite3.connect(path, isolation_level=None)
    raw.execute("INSERT INTO penstock_schema VALUES (?, '2030-01-01')", (len(MIGRATIONS) + 1,))
    raw.close()
    with pytest.raises(StateTooNew, match="upgrade"):
        open_at(path)


def test_migrations_go_forward_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    open_at(path).append("asset", "x", {"n": 1}, at=START)
    raw = sqlite3.connect(path, isolation_level=None)
    broken = (*MIGRATIONS, ("ALTER TABLE records ADD COLUMN who TEXT", "SELECT * FROM nowhere"))
    with pytest.raises(sqlite3.OperationalError):
        upgrade(raw, path, broken, START)
    assert raw.execute("SELECT max(version) FROM penstock_schema").fetchone() == (len(MIGRATIONS),)
    longer = (*MIGRATIONS, ("ALTER TABLE records ADD COLUMN who TEXT",))
    upgrade(raw, path, longer, START)
    upgrade(raw, path, longer, START)
    assert raw.execute("SELECT count(*), max(version) FROM penstock_schema").fetchone() == (len(longer), len(longer))
    assert raw.execute("SELECT key, who FROM records").fetchall() == [("x", None)]
    raw.close()


def test_records_cannot_be_changed_by_sql(tmp_path: Path) -> None:
    open_at(tmp_path / "state.db").append("asset", "x", {"n": 1}, at=START)
    raw = sqlite3.connect(tmp_path / "state.db")
    for statement in ("UPDATE records SET body = '{}'", "DELETE FROM records"):
        with pytest.raises(sqlite3.IntegrityError, match="never"):
            raw.execute(statement)
    raw.close()


def test_a_full_disk_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    state = open_at(tmp_path / "state.db")
    with armed("state.append.before", full), pytest.raises(StorageFull):
        state.append("asset", "x", {}, at=START)
    pages = state._file.connection.execute("PRAGMA page_count").fetchone()[0]
    state._file.connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageFull):
        state.append("asset", "x", {"text": "x" * 100_000}, at=START)
    assert not state.history("asset")


CHILD = """
import sys
from pathlib import Path
from penstock.adapters.state.sqlite import SqliteState
from penstock.ground.clock import SystemClock
from penstock.ground.failpoints import arm_from_environment
from penstock.testing.clock import START
state = SqliteState(Path(sys.argv[1]), SystemClock())
arm_from_environment()
for n in range(5):
    state.append("asset", "x", {"n": n}, at=START)
    print(n, flush=True)
"""


@pytest.mark.parametrize(("point", "kept"), [("state.append.before", [1, 0]), ("state.append.after", [2, 1, 0])])
def test_a_killed_writer_leaves_what_it_committed(tmp_path: Path, point: str, kept: list[int]) -> None:
    path = tmp_path / "state.db"
    environment = {**os.environ, "PENSTOCK_FAILPOINTS": f"{point}=kill@3"}
    done = subprocess.run([sys.executable, "-c", CHILD, str(path)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout.split() == ["0", "1"]
    assert [r.body["n"] for r in open_at(path).history("asset")] == kept


def test_the_pulse_tells_of_jobs_too(tmp_path: Path) -> None:
    watching, writing = open_at(tmp_path / "state.db"), open_at(tmp_path / "state.db")
    seen = watching.pulse()
    job = writing.queue.enqueue([NewJob("tell", "job")], now=START)[0]
    after_job = watching.pulse()
    writing.queue.cancel([job.id], now=START)
    assert len({seen, after_job, watching.pulse()}) == 3


def test_a_thousand_heads_are_read_quickly(tmp_path: Path) -> None:
    """No look at every record: about 3 ms for the heads and 1 ms an append on a quiet machine; bounds for one that is not."""
    state = open_at(tmp_path / "state.db")
    body = {"version": "1" * 19, "rows": 336_776, "inputs": {"flights": "2" * 19, "planes": "3" * 19}}
    appends = [_seconds(lambda n=n: state.append("asset", f"asset{n}", body, at=START)) for n in range(1000)]
    assert sorted(appends)[500] < 0.1
    assert min(_seconds(lambda: state.heads("asset")) for _ in range(5)) < 0.2
    assert len(state.heads("asset")) == 1000


def _seconds(work: Callable[[], object]) -> float:
    started = perf_counter()
    work()
    return perf_counter() - started


def test_network_file_systems_are_told_from_local_ones() -> None:
    mounts = "\n".join(
        [
            "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/vda rw",
            "40 22 0:35 / /mnt/my\\040data rw - nfs4 server:/export rw",
            "41 22 0:36 / /mnt/cloud rw - fuse.sshfs host:/ rw",
        ]
    )
    assert filesystem(Path("/home/me/state.db"), mounts) == "ext4"
    assert filesystem(Path("/mnt/my data/p/state.db"), mounts) == "nfs4"
    assert filesystem(Path("/mnt/cloud/state.db"), mounts) == "fuse.sshfs"
    assert filesystem(Path("/anything"), "") == ""


def test_injected_faults_follow_the_seed_and_tell_what_happened() -> None:
    runs = []
    for _ in range(2):
        inner = MemoryState()
        faulty = FaultyState(inner, seed=3, share=0.5)
        for n in range(200):
            with suppress(StorageError):
                faulty.append("asset", "x", {"n": n}, at=START)
        kinds = [fault for _, fault in faulty.faults]
        assert len(inner.history("asset", limit=1000)) == kinds.count("") + kinds.count("answer lost")
        assert min(kinds.count("refused"), kinds.count("answer lost")) > 20
        runs.append(kinds)
    assert runs[0] == runs[1]
