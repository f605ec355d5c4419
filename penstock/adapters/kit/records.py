"""Records, heads and claims of a state in SQL that SQLite and PostgreSQL both understand.

Tables: `records`, `heads` (kind, key, seq) and `claims`. Appends exclude each other, so that numbers grow in the order of the commits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from penstock.adapters.kit.database import Database, Row, Run
from penstock.ground.clock import from_iso, iso
from penstock.ground.errors import Busy, Fenced, StorageError
from penstock.ports.state import Claim, Record

_RECORD = ("kind", "key", "at", "body")


class SqlRecords:
    """The state but for its queue."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._at = database.dialect.moment
        self._moment = database.dialect.read

    def append(self, kind: str, key: str, body: Mapping[str, Any], *, at: datetime, claim: Claim | None = None) -> Record:
        return self.append_all([(kind, key, body)], at=at, claim=claim)[0]

    def append_all(
        self, entries: Sequence[tuple[str, str, Mapping[str, Any]]], *, at: datetime, claim: Claim | None = None
    ) -> Sequence[Record]:
        moment = from_iso(iso(at))
        rows = [(kind, key, self._at(moment), self._json(kind, key, body)) for kind, key, body in entries]

        def work(run: Run) -> list[int]:
            self._database.lock(run, "records")
            if claim is not None:
                self._fence(run, claim)
            numbers = [int(row[0]) for row in self._database.insert(run, "records", _RECORD, rows, returned="seq")]
            newest = {(kind, key): seq for (kind, key, *_), seq in zip(rows, numbers, strict=True)}
            heads = [(*of, seq) for of, seq in newest.items()]
            if len(heads) == 1:
                run(_HEAD, **dict(zip(("kind", "key", "seq"), heads[0], strict=True)))
            elif heads:
                listed = json.dumps([str(seq) for seq in newest.values()])
                run(_HEADS.format(f"CAST(seq AS TEXT) {self._database.dialect.among('seqs')}"), least=min(newest.values()), seqs=listed)
            return numbers

        numbers = self._database.write(work, point="state.append")
        return [Record(seq, row[0], row[1], moment, json.loads(row[3])) for seq, row in zip(numbers, rows, strict=True)]

    def heads(self, kind: str, *, prefix: str = "") -> Mapping[str, Record]:
        where, values = "", {"kind": kind}
        if prefix:
            where, values = " AND h.key >= :prefix", {**values, "prefix": prefix}
            if (end := end_of(prefix)) is not None:
                where, values = where + " AND h.key < :until", {**values, "until": end}
        query = "SELECT r.seq, r.kind, r.key, r.at, r.body FROM heads h JOIN records r ON r.seq = h.seq WHERE h.kind = :kind"
        rows = self._database.read(f"{query}{where} ORDER BY h.key", **values)
        return {row[2]: self._record(row) for row in rows}

    def history(self, kind: str, key: str | None = None, *, before: datetime | None = None, limit: int = 100) -> Sequence[Record]:
        where, values = "kind = :kind", {"kind": kind, "most": limit}
        if key is not None:
            where, values = where + " AND key = :key", {**values, "key": key}
        if before is not None:
            where, values = where + " AND at <= :before", {**values, "before": self._at(before)}
        rows = self._database.read(f"SELECT seq, kind, key, at, body FROM records WHERE {where} ORDER BY seq DESC LIMIT :most", **values)
        return [self._record(row) for row in rows]

    def claim(self, name: str, owner: str, *, now: datetime, lease_s: float) -> Claim:
        until = now + timedelta(seconds=lease_s)

        def work(run: Run) -> int:
            self._database.lock(run, f"claim/{name}")
            rows = run("SELECT epoch, owner, until FROM claims WHERE name = :name", name=name)
            epoch, holder, end = rows[0] if rows else (0, None, None)
            if holder is not None and holder != owner and self._moment(end) > from_iso(iso(now)):
                raise Busy(
                    "another process works on it",
                    holder=Claim(name, holder, epoch, self._moment(end)),
                    place=name,
                    expected="no owner",
                    got=f"{holder} until {iso(self._moment(end))}",
                    hint="wait for it to end",
                )
            run(
                "INSERT INTO claims (name, epoch, owner, until) VALUES (:name, :epoch, :owner, :until)"
                " ON CONFLICT (name) DO UPDATE SET epoch = excluded.epoch, owner = excluded.owner, until = excluded.until",
                name=name,
                epoch=epoch + 1,
                owner=owner,
                until=self._at(until),
            )
            return int(epoch) + 1

        return Claim(name, owner, self._database.write(work), until)

    def renew(self, claim: Claim, *, now: datetime, lease_s: float) -> Claim:
        until = now + timedelta(seconds=lease_s)

        def work(run: Run) -> None:
            self._fence(run, claim)
            update = "UPDATE claims SET until = :until WHERE name = :name AND owner IS NOT NULL RETURNING name"
            if not run(update, name=claim.name, until=self._at(until)):
                raise Fenced("the claim was given back", place=claim.name, hint="claim it again")

        self._database.write(work)
        return Claim(claim.name, claim.owner, claim.epoch, until)

    def release(self, claim: Claim) -> None:
        update = "UPDATE claims SET owner = NULL, until = NULL WHERE name = :name AND epoch = :epoch"
        self._database.write(lambda run: run(update, name=claim.name, epoch=claim.epoch))

    def _fence(self, run: Run, claim: Claim) -> None:
        """No newer claim begins before this transaction ends."""
        rows = run(f"SELECT epoch FROM claims WHERE name = :name{self._database.dialect.locked}", name=claim.name)
        if not rows or rows[0][0] != claim.epoch:
            raise Fenced(
                "the claim was taken over",
                place=claim.name,
                expected=f"epoch {claim.epoch}",
                got=f"epoch {rows[0][0]}" if rows else "no such claim in this state",
                hint="stop this worker; another one has the asset",
            )

    def _record(self, row: Row) -> Record:
        return Record(row[0], row[1], row[2], self._moment(row[3]), json.loads(row[4]))

    def _json(self, kind: str, key: str, body: Mapping[str, Any]) -> str:
        """The body as JSON text; ASCII only, so that any text comes back as it was, broken surrogates included."""
        try:
            (kind + key).encode()
            return json.dumps(body, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError) as error:
            raise StorageError("a record is not JSON", place=f"{self._database.name} {kind}/{key!a}", got=str(error)[:200]) from error


_HEAD = "INSERT INTO heads (kind, key, seq) VALUES (:kind, :key, :seq) ON CONFLICT (kind, key) DO UPDATE SET seq = excluded.seq"
_HEADS = (
    "INSERT INTO heads (kind, key, seq) SELECT kind, key, seq FROM records WHERE seq >= :least AND {}"
    " ON CONFLICT (kind, key) DO UPDATE SET seq = excluded.seq"
)


def end_of(prefix: str) -> str | None:
    """The first text after all that begin with the prefix, in order of code points (as both compare); None if there is none."""
    while prefix:
        last = ord(prefix[-1])
        if last < 0x10FFFF:
            return prefix[:-1] + chr(0xE000 if last == 0xD7FF else last + 1)
        prefix = prefix[:-1]
    return None
