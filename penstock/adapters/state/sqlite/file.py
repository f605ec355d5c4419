"""One SQLite file: opened, brought to the newest version of our tables, and written in transactions that are synced.

Tested with SQLite 3.40. The journal is a WAL, every commit is synced (`synchronous=FULL`), so what a write returned survives power loss.
The file may be shared with tables of others (the Iceberg catalog): ours are `records`, `heads`, `claims`, those that begin with `queue_`, and
`penstock_schema`, and the file's own `user_version` is left alone. `records` refuses changes by triggers.

Limits: a WAL needs shared memory, so the file must be on a local disk. Known network file systems are refused; one that hides behind
a local name (a FUSE mount without a telling type) cannot be told and must not be used.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from penstock.ground.clock import Clock, iso
from penstock.ground.errors import Busy, StateTooNew, StorageError, StorageFull
from penstock.ground.paths import private_folder

#: One entry per version of the tables, each a list of statements that leads there from the version before. Never edited, only added to.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE records (seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, key TEXT NOT NULL, at TEXT NOT NULL,"
        " body TEXT NOT NULL)",
        "CREATE INDEX records_by_key ON records (kind, key, seq)",
        "CREATE INDEX records_by_kind ON records (kind, seq)",
        "CREATE TRIGGER records_stay BEFORE UPDATE ON records BEGIN SELECT raise(ABORT, 'records are never changed'); END",
        "CREATE TRIGGER records_last BEFORE DELETE ON records BEGIN SELECT raise(ABORT, 'records are never removed'); END",
        "CREATE TABLE heads (kind TEXT NOT NULL, key TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (kind, key)) WITHOUT ROWID",
        "CREATE TABLE claims (name TEXT PRIMARY KEY, epoch INTEGER NOT NULL, owner TEXT, until TEXT) WITHOUT ROWID",
    ),
    (
        "CREATE TABLE queue_jobs (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, kind TEXT NOT NULL,"
        " payload TEXT NOT NULL, run TEXT NOT NULL, priority INTEGER NOT NULL, key TEXT NOT NULL, at_once INTEGER NOT NULL,"
        " dedupe TEXT NOT NULL, on_duplicate TEXT NOT NULL, comes_after TEXT NOT NULL, not_before TEXT, attempts INTEGER NOT NULL,"
        " timeout_s REAL, memory_bytes INTEGER NOT NULL, cores REAL NOT NULL, gpus INTEGER NOT NULL, status TEXT NOT NULL,"
        " created TEXT NOT NULL, blockers INTEGER NOT NULL, attempt INTEGER NOT NULL DEFAULT 0, vanished INTEGER NOT NULL DEFAULT 0,"
        " epoch INTEGER NOT NULL DEFAULT 0, owner TEXT NOT NULL DEFAULT '', until TEXT, started TEXT, ended TEXT,"
        " cancel_asked INTEGER NOT NULL DEFAULT 0, progress TEXT, result TEXT, error TEXT, because TEXT NOT NULL DEFAULT '',"
        " cost TEXT NOT NULL DEFAULT '{}')",
        "CREATE INDEX queue_jobs_ready ON queue_jobs (priority DESC, seq) WHERE status = 'ready'",
        "CREATE INDEX queue_jobs_waiting ON queue_jobs (blockers, not_before) WHERE status = 'waiting'",
        "CREATE INDEX queue_jobs_late ON queue_jobs (until) WHERE status = 'running'",
        "CREATE INDEX queue_jobs_running_of_owner ON queue_jobs (owner) WHERE status = 'running'",
        "CREATE INDEX queue_jobs_running_of_key ON queue_jobs (key) WHERE status = 'running'",
        "CREATE UNIQUE INDEX queue_jobs_alone ON queue_jobs (dedupe) WHERE dedupe <> '' AND status IN ('waiting', 'ready', 'running')",
        "CREATE INDEX queue_jobs_lost_by ON queue_jobs (because) WHERE because <> ''",
        "CREATE INDEX queue_jobs_of_run ON queue_jobs (run, status)",
        "CREATE INDEX queue_jobs_of_key ON queue_jobs (key) WHERE key <> ''",
        "CREATE INDEX queue_jobs_lost ON queue_jobs (status) WHERE status IN ('failed', 'cancelled', 'dead')",
        "CREATE TABLE queue_after (blocker TEXT NOT NULL, job TEXT NOT NULL, PRIMARY KEY (blocker, job)) WITHOUT ROWID",
        "CREATE TABLE queue_workers (owner TEXT PRIMARY KEY, memory_bytes INTEGER NOT NULL, cores REAL NOT NULL, gpus INTEGER NOT NULL,"
        " kinds TEXT NOT NULL, since TEXT NOT NULL, until TEXT NOT NULL) WITHOUT ROWID",
        "CREATE TABLE queue_paused (kind TEXT PRIMARY KEY) WITHOUT ROWID",
    ),
)
_OURS = ("records", "heads", "claims", "queue_jobs", "queue_after", "queue_workers", "queue_paused")
#: How long a writer waits for another before it gives up, in seconds. Transactions last a few milliseconds.
_WAIT_S = 60.0
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "lustre", "beegfs", "gfs2", "ocfs2", "ncpfs"})


class StateFile:
    """One connection, shared by threads. Other processes open the same file, a forked child too (it may not inherit)."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """Opens or makes the file.

        Raises: StorageError(E4001) for a damaged file, a foreign one that has our table names, or a network file system;
            StateTooNew(E4010); StorageFull(E4006).
        """
        self.path = path
        self._lock = threading.RLock()
        _refuse_network(path)
        with translated(path):
            private_folder(path.parent)
            self.connection = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
            try:
                upgrade(self.connection, path, MIGRATIONS, clock.now())
            except BaseException:
                self.connection.close()
                raise

    def read(self, query: str, values: Any = ()) -> list[tuple[Any, ...]]:
        with self._lock, translated(self.path):
            return self.connection.execute(query, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction that has the write lock from its start; nothing is left of it after an error."""
        with self._lock, translated(self.path), _transaction(self.connection) as run:
            yield run

    def close(self) -> None:
        """Gives the connection back. Repeat: does nothing."""
        with self._lock, translated(self.path):
            self.connection.close()


def upgrade(connection: sqlite3.Connection, path: Path, migrations: Sequence[Sequence[str]], now: datetime) -> None:
    """Brings a file to the newest version of our tables, in one transaction; changes nothing when it is there already.

    Raises: StateTooNew(E4010), StorageError(E4001) if tables of ours exist without our mark. sqlite3.Error.
    """
    if _version(connection, path, len(migrations)) < len(migrations):
        with suppress(FileNotFoundError):
            os.chmod(path, 0o600)  # by name: closing a descriptor of our own would drop the locks of every connection in this process
        _use_wal(connection)
    connection.execute("PRAGMA synchronous = FULL")
    if _version(connection, path, len(migrations)) == len(migrations):
        return
    with _transaction(connection) as run:
        version = _version(run, path, len(migrations))
        run.execute("CREATE TABLE IF NOT EXISTS penstock_schema (version INTEGER PRIMARY KEY, since TEXT NOT NULL)")
        for number, statements in enumerate(migrations[version:], version + 1):
            for statement in statements:
                run.execute(statement)
            run.execute("INSERT INTO penstock_schema (version, since) VALUES (?, ?)", (number, iso(now)))


def _version(connection: sqlite3.Connection, path: Path, newest: int) -> int:
    """Version of our tables in the file, 0 if it has none of them."""
    names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")}
    if "penstock_schema" not in names:
        if foreign := sorted(names & set(_OURS)):
            raise StorageError(
                "the file belongs to another program",
                place=str(path),
                expected="no table called " + ", ".join(_OURS),
                got=", ".join(foreign),
                hint="give the state a file of its own; nothing was changed",
            )
        return 0
    version = int(connection.execute("SELECT coalesce(max(version), 0) FROM penstock_schema").fetchone()[0])
    if version > newest:
        raise StateTooNew(
            "written by a newer Penstock", place=str(path), expected=f"version {newest}", got=f"version {version}", hint="upgrade penstock"
        )
    return version


def _use_wal(connection: sqlite3.Connection) -> None:
    """Turns the file to WAL; another process may be doing the same, and SQLite does not wait for that by itself."""
    for attempt in range(200):
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or attempt == 199:
                raise
            threading.Event().wait(0.01)
            continue
        if mode != "wal":
            raise StorageError("SQLite cannot keep a WAL here", expected="journal mode wal", got=mode, hint="put the file on a local disk")
        return


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """SQLite's and the system's errors as ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise _as_ours(error, path) from error
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        kind = StorageFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StorageError
        raise kind("the state cannot be written", place=str(path), got=error.strerror or str(error)) from error


def _as_ours(error: sqlite3.Error, path: Path) -> StorageError:
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    place = str(path)
    if code == sqlite3.SQLITE_FULL:
        return StorageFull("no space left for the state", place=place, got=str(error), hint="free some space; nothing was written")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        hint = f"another process has held the file for {_WAIT_S:.0f} s"
        return Busy("the state is locked", place=place, got=str(error), hint=hint)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        hint = "nothing was changed; put back a copy of it, or move it away: tables stay, but what is fresh must be computed again"
        return StorageError("the state's file is damaged or no SQLite database", place=place, got=str(error), hint=hint)
    if code == sqlite3.SQLITE_CANTOPEN:
        return StorageError(
            "the state's file cannot be opened", place=place, got=str(error), hint="does the folder exist, may you write there?"
        )
    if code == sqlite3.SQLITE_READONLY:
        return StorageError("the state's file is read-only", place=place, got=str(error), hint="may you write to the file and its folder?")
    return StorageError("SQLite failed", place=place, got=str(error))


def _refuse_network(path: Path) -> None:
    kind = filesystem(path.absolute(), _mounts())
    if kind in _NETWORK or kind.startswith(("fuse.sshfs", "fuse.gluster", "fuse.s3fs", "fuse.rclone", "fuse.davfs")):
        raise StorageError(
            "the state is on a network file system, where SQLite loses writes",
            place=str(path),
            expected="a local disk",
            got=kind,
            hint="set `state` to a path on a local disk",
        )


def _mounts() -> str:
    try:
        return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def filesystem(path: Path, mounts: str) -> str:
    """The type of the file system a path is on, as Linux' `mountinfo` tells it; "" if it cannot be told."""
    best, kind = -1, ""
    for line in mounts.splitlines():
        left, dash, right = line.partition(" - ")
        if not dash:
            continue
        point = Path(left.split(" ")[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
        if path.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), right.split(" ")[0]
    return kind
