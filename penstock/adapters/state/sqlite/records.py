"""Records, heads and claims in the file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from penstock.adapters.kit.queue import SqlQueue
from penstock.adapters.state.sqlite.file import StateFile, translated
from penstock.adapters.state.sqlite.queue import QueueTables
from penstock.ground.clock import Clock, from_iso, iso
from penstock.ground.errors import Busy, Fenced, StorageError
from penstock.ground.failpoints import reach
from penstock.ground.ids import Ids, SystemIds
from penstock.ports.adapters import Context
from penstock.ports.queue import Queue
from penstock.ports.state import Claim, Record, StateCapabilities


class SqliteState:
    """The embedded state. Safe to share between threads; other processes open the same file, a forked child too (it may not inherit)."""

    capabilities = StateCapabilities(several_processes=True)

    def __init__(self, path: Path, clock: Clock, ids: Ids | None = None) -> None:
        """Opens or makes the file. Raises: as `StateFile`."""
        self._file = StateFile(path, clock)
        self.queue: Queue = SqlQueue(QueueTables(self._file), ids or SystemIds(clock))

    @classmethod
    def open(cls, url: str, context: Context) -> SqliteState:
        """`sqlite://` is `state.db` in the project's own folder; `sqlite:///relative` counts from the folder above it, `sqlite:////abs`."""
        rest = url.removeprefix("sqlite://")
        return cls(context.folder.parent / rest[1:] if rest else context.folder / "state.db", context.clock, context.ids)

    def append(self, kind: str, key: str, body: Mapping[str, Any], *, at: datetime, claim: Claim | None = None) -> Record:
        return self.append_all([(kind, key, body)], at=at, claim=claim)[0]

    def append_all(
        self, entries: Sequence[tuple[str, str, Mapping[str, Any]]], *, at: datetime, claim: Claim | None = None
    ) -> Sequence[Record]:
        rows = [(kind, key, iso(at), self._json(kind, key, body)) for kind, key, body in entries]
        with self._file.writing() as run:
            if claim is not None:
                self._fence(run, claim)
            made = [(_insert(run, row), *row) for row in rows]
            reach("state.append.before")
        with translated(self._file.path):
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
        with self._file.writing() as run:
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
        with self._file.writing() as run:
            self._fence(run, claim)
            if not run.execute("UPDATE claims SET until = ? WHERE name = ? AND owner IS NOT NULL", (iso(until), claim.name)).rowcount:
                raise Fenced("the claim was given back", place=claim.name, hint="claim it again")
        return Claim(claim.name, claim.owner, claim.epoch, until)

    def release(self, claim: Claim) -> None:
        with self._file.writing() as run:
            run.execute("UPDATE claims SET owner = NULL, until = NULL WHERE name = ? AND epoch = ?", (claim.name, claim.epoch))

    def close(self) -> None:
        """Gives the connection back. Repeat: does nothing."""
        self._file.close()

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
        return [_record(row) for row in self._file.read(query, values)]

    def _json(self, kind: str, key: str, body: Mapping[str, Any]) -> str:
        """The body as JSON text; ASCII only, so that any text comes back as it was, broken surrogates included."""
        try:
            (kind + key).encode()
            return json.dumps(body, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError) as error:
            raise StorageError("a record is not JSON", place=f"{self._file.path.name} {kind}/{key!a}", got=str(error)[:200]) from error


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
