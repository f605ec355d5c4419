"""State in one SQLite file: an append-only log of records, the head of each key, and claims with epochs.

Tested with SQLite 3.40. The journal is a WAL, every commit is synced (`synchronous=FULL`), so what `append` returned survives power loss.
The file may be shared with tables of others (the Iceberg catalog): ours are `records`, `heads`, `claims` and `penstock_schema`,
and the file's own `user_version` is left alone. `records` refuses changes by triggers.

Limits: a WAL needs shared memory, so the file must be on a local disk. Known network file systems are refused; one that hides behind
a local name (a FUSE mount without a telling type) cannot be told and must not be used.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from penstock.ground.clock import Clock, from_iso, iso
from penstock.ground.errors import Busy, Fenced, StateTooNew, StorageError, StorageFull
from penstock.ground.failpoints import reach
from penstock.ground.paths import private_folder
from penstock.ports.adapters import Context
from penstock.ports.state import Claim, Record, StateCapabilities

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
)
_OURS = ("records", "heads", "claims")
#: How long a writer waits for another before it gives up, in seconds. Transactions last a few milliseconds.
_WAIT_S = 60.0
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "lustre", "beegfs", "gfs2", "ocfs2", "ncpfs"})


class SqliteState:
    """The embedded state. Safe to share between threads; other processes open the same file, a forked child too (it may not inherit)."""

    capabilities = StateCapabilities(several_processes=True)

    def __init__(self, path: Path, clock: Clock) -> None:
        """Opens or makes the file.

        Raises: StorageError(E4001) for a damaged file, a foreign one that has our table names, or a network file system;
            StateTooNew(E4010); StorageFull(E4006).
        """
        self._path = path
        self._lock = threading.RLock()
        _refuse_network(path)
        with _translated(path):
            private_folder(path.parent)
            self._connection = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
            try:
                upgrade(self._connection, path, MIGRATIONS, clock.now())
            except BaseException:
                self._connection.close()
                raise

    @classmethod
    def open(cls, url: str, context: Context) -> SqliteState:
        """`sqlite://` is `state.db` in the project's own folder; `sqlite:///relative` counts from the folder above it, `sqlite:////abs`."""
        rest = url.removeprefix("sqlite://")
        return cls(context.folder.parent / rest[1:] if rest else context.folder / "state.db", context.clock)

    def append(self, kind: str, key: str, body: Mapping[str, Any], *, at: datetime, claim: Claim | None = None) -> Record:
        return self.append_all([(kind, key, body)], at=at, claim=claim)[0]

    def append_all(
        self, entries: Sequence[tuple[str, str, Mapping[str, Any]]], *, at: datetime, claim: Claim | None = None
    ) -> Sequence[Record]:
        rows = [(kind, key, iso(at), self._json(kind, key, body)) for kind, key, body in entries]
        with self._writing() as run:
            if claim is not None:
                self._fence(run, claim)
            made = [(_insert(run, row), *row) for row in rows]
            reach("state.append.before")
        with _translated(self._path):
            reach("state.append.after")
        return [_record(row) for row in made]

    def heads(self, kind: str, *, prefix: str = "") -> Mapping[str, Record]:
        where, values = "", [kind]
        if prefix:
            where, values = " AND h.key >= ?", [kind, prefix]
            if (end := _end_of(prefix)) is not None:
                where, values = where + " AND h.key < ?", [*values, end]
        query = "SELECT r.seq, r.kind, r.key, r.at, r.body FROM heads h JOIN records r ON r.seq = h.seq WHERE h.kind = ?"
        return {record.key: record for record in self._records(query + where + " ORDER BY h.key", values)}

    def history(self, kind: str, key: str | None = None, *, before: datetime | None = None, limit: int = 100) -> Sequence[Record]:
        where, values = "kind = ?", [kind]
        if key is not None:
            where, values = where + " AND key = ?", [*values, key]
        if before is not None:
            where, values = where + " AND at <= ?", [*values, iso(before)]
        return self._records(f"SELECT seq, kind, key, at, body FROM records WHERE {where} ORDER BY seq DESC LIMIT ?", [*values, limit])

    def claim(self, name: str, owner: str, *, now: datetime, lease_s: float) -> Claim:
        until = now + timedelta(seconds=lease_s)
        with self._writing() as run:
            row = run.execute("SELECT epoch, owner, until FROM claims WHERE name = ?", (name,)).fetchone()
            epoch, holder, end = row or (0, None, "")
            if holder is not None and holder != owner and end > iso(now):
                raise Busy(
                    "another process works on it",
                    holder=Claim(name, holder, epoch, from_iso(end)),
                    place=name,
                    expected="no owner",
                    got=f"{holder} until {end}",
                    hint="wait for it to end",
                )
            run.execute(
                "INSERT INTO claims (name, epoch, owner, until) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (name) DO UPDATE SET epoch = excluded.epoch, owner = excluded.owner, until = excluded.until",
                (name, epoch + 1, owner, iso(until)),
            )
        return Claim(name, owner, epoch + 1, until)

    def renew(self, claim: Claim, *, now: datetime, lease_s: float) -> Claim:
        until = now + timedelta(seconds=lease_s)
        with self._writing() as run:
            self._fence(run, claim)
            if not run.execute("UPDATE claims SET until = ? WHERE name = ? AND owner IS NOT NULL", (iso(until), claim.name)).rowcount:
                raise Fenced("the claim was given back", place=claim.name, hint="claim it again")
        return Claim(claim.name, claim.owner, claim.epoch, until)

    def release(self, claim: Claim) -> None:
        with self._writing() as run:
            run.execute("UPDATE claims SET owner = NULL, until = NULL WHERE name = ? AND epoch = ?", (claim.name, claim.epoch))

    def close(self) -> None:
        """Gives the connection back. Repeat: does nothing."""
        with self._lock, _translated(self._path):
            self._connection.close()

    def _fence(self, run: sqlite3.Connection, claim: Claim) -> None:
        row = run.execute("SELECT epoch FROM claims WHERE name = ?", (claim.name,)).fetchone()
        if row is None or row[0] != claim.epoch:
            raise Fenced(
                "the claim was taken over",
                place=claim.name,
                expected=f"epoch {claim.epoch}",
                got=f"epoch {row[0]}" if row else "no such claim in this state",
                hint="stop this worker; another one has the asset",
            )

    def _records(self, query: str, values: Sequence[Any]) -> list[Record]:
        with self._lock, _translated(self._path):
            return [_record(row) for row in self._connection.execute(query, values).fetchall()]

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction that has the write lock from its start; nothing is left of it after an error."""
        with self._lock, _translated(self._path), _transaction(self._connection) as run:
            yield run

    def _json(self, kind: str, key: str, body: Mapping[str, Any]) -> str:
        """The body as JSON text; ASCII only, so that any text comes back as it was, broken surrogates included."""
        try:
            (kind + key).encode()
            return json.dumps(body, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError) as error:
            raise StorageError("a record is not JSON", place=f"{self._path.name} {kind}/{key!a}", got=str(error)[:200]) from error


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
def _translated(path: Path) -> Iterator[None]:
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


def _insert(run: sqlite3.Connection, row: tuple[str, str, str, str]) -> int:
    """Adds a record and makes it the head of its key; returns its number."""
    seq = run.execute("INSERT INTO records (kind, key, at, body) VALUES (?, ?, ?, ?)", row).lastrowid or 0
    run.execute(
        "INSERT INTO heads (kind, key, seq) VALUES (?, ?, ?) ON CONFLICT (kind, key) DO UPDATE SET seq = excluded.seq", (*row[:2], seq)
    )
    return seq


def _record(row: tuple[int, str, str, str, str]) -> Record:
    return Record(row[0], row[1], row[2], from_iso(row[3]), json.loads(row[4]))


def _end_of(prefix: str) -> str | None:
    """The first text after all that begin with the prefix, in order of code points (as SQLite compares); None if there is none."""
    while prefix:
        last = ord(prefix[-1])
        if last < 0x10FFFF:
            return prefix[:-1] + chr(0xE000 if last == 0xD7FF else last + 1)
        prefix = prefix[:-1]
    return None


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
