"""States for tests: the reference in memory, one that promises as little as the port allows, and one that fails by a schedule."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from penstock.ground.clock import from_iso, iso
from penstock.ground.digest import digest
from penstock.ground.errors import Busy, Fenced, StorageError
from penstock.ground.failpoints import reach
from penstock.ports.queue import Queue
from penstock.ports.state import Claim, Record, State, StateCapabilities
from penstock.testing.queues import MemoryQueue

T = TypeVar("T")
Entry = tuple[str, str, Mapping[str, Any]]


class MemoryState:
    """What the port means, in as few lines as it takes. Nothing survives the process."""

    capabilities = StateCapabilities()

    def __init__(self) -> None:
        self.queue: Queue = MemoryQueue()
        self._lock = threading.RLock()
        self._log: list[tuple[int, str, str, datetime, str]] = []
        self._claims: dict[str, tuple[int, str | None, datetime]] = {}
        self._pulses = 0

    def append(self, kind: str, key: str, body: Mapping[str, Any], *, at: datetime, claim: Claim | None = None) -> Record:
        return self.append_all([(kind, key, body)], at=at, claim=claim)[0]

    def append_all(self, entries: Sequence[Entry], *, at: datetime, claim: Claim | None = None) -> Sequence[Record]:
        texts = [_json(kind, key, body) for kind, key, body in entries]
        with self._lock:
            if claim is not None:
                self._fence(claim)
            reach("state.append.before")
            for (kind, key, _), text in zip(entries, texts, strict=True):
                self._log.append((self._next(), kind, key, from_iso(iso(at)), text))
            made = self._log[len(self._log) - len(texts) :]
            reach("state.append.after")
            return [_record(row) for row in made]

    def heads(self, kind: str, *, prefix: str = "") -> Mapping[str, Record]:
        with self._lock:
            newest = {row[2]: row for row in self._log if row[1] == kind and row[2].startswith(prefix)}
        return {key: _record(newest[key]) for key in sorted(newest)}

    def history(self, kind: str, key: str | None = None, *, before: datetime | None = None, limit: int = 100) -> Sequence[Record]:
        with self._lock:
            rows = [row for row in self._log if row[1] == kind and key in (None, row[2]) and (before is None or row[3] <= before)]
        return [_record(row) for row in rows[::-1][:limit]]

    def claim(self, name: str, owner: str, *, now: datetime, lease_s: float) -> Claim:
        with self._lock:
            epoch, holder, until = self._claims.get(name, (0, None, now))
            if holder not in (None, owner) and until > now:
                held = Claim(name, holder or "", epoch, until)
                raise Busy("another process works on it", holder=held, place=name, got=f"{holder} until {iso(until)}")
            made = Claim(name, owner, epoch + 1, now + timedelta(seconds=lease_s))
            self._claims[name] = (made.epoch, owner, made.until)
            return made

    def renew(self, claim: Claim, *, now: datetime, lease_s: float) -> Claim:
        with self._lock:
            self._fence(claim)
            if self._claims[claim.name][1] is None:
                raise Fenced("the claim was given back", place=claim.name)
            until = now + timedelta(seconds=lease_s)
            self._claims[claim.name] = (claim.epoch, claim.owner, until)
            return Claim(claim.name, claim.owner, claim.epoch, until)

    def release(self, claim: Claim) -> None:
        with self._lock:
            epoch, _, until = self._claims.get(claim.name, (0, None, claim.until))
            if epoch == claim.epoch:
                self._claims[claim.name] = (epoch, None, until)

    def pulse(self) -> int:
        self._pulses += 1  # there may always be news
        return self._pulses

    def close(self) -> None:
        """Keeps everything, so that a second handle (this object again) sees it."""

    def _fence(self, claim: Claim) -> None:
        epoch = self._claims.get(claim.name, (0, None, claim.until))[0]
        if epoch != claim.epoch:
            raise Fenced("the claim was taken over", place=claim.name, expected=f"epoch {claim.epoch}", got=f"epoch {epoch}")

    def _next(self) -> int:
        return len(self._log) + 1


class WeakState(MemoryState):
    """Keeps the protocol and nothing beyond it: numbers have gaps, heads come in no order and, like bodies, cannot be changed."""

    def append_all(self, entries: Sequence[Entry], *, at: datetime, claim: Claim | None = None) -> Sequence[Record]:
        return tuple(_frozen(record) for record in super().append_all(entries, at=at, claim=claim))

    def heads(self, kind: str, *, prefix: str = "") -> Mapping[str, Record]:
        whole = super().heads(kind, prefix=prefix)
        return MappingProxyType({key: _frozen(whole[key]) for key in sorted(whole, key=digest)})

    def history(self, kind: str, key: str | None = None, *, before: datetime | None = None, limit: int = 100) -> Sequence[Record]:
        return tuple(_frozen(record) for record in super().history(kind, key, before=before, limit=limit))

    def _next(self) -> int:
        return (self._log[-1][0] if self._log else 1000) + 1 + len(self._log) % 7


Fault = Literal["", "refused", "answer lost"]


class FaultyState:
    """A state that fails by a schedule drawn from a seed.

    A call that is `refused` changed nothing; one whose `answer` is `lost` did its work before it raised. Both raise StorageError(E4001),
    so that a caller cannot tell them apart. What was injected stands in `faults`, in order of the calls.
    Its queue does not fail.
    """

    def __init__(self, inner: State, *, seed: int, share: float) -> None:
        """`share` of all calls fail, within [0, 1], half of them either way. The seed decides which."""
        self.capabilities = inner.capabilities
        self.queue = inner.queue
        self.faults: list[tuple[str, Fault]] = []
        self._inner = inner
        self._seed = seed
        self._share = share

    def append(self, kind: str, key: str, body: Mapping[str, Any], *, at: datetime, claim: Claim | None = None) -> Record:
        return self._call("append", lambda: self._inner.append(kind, key, body, at=at, claim=claim))

    def append_all(self, entries: Sequence[Entry], *, at: datetime, claim: Claim | None = None) -> Sequence[Record]:
        return self._call("append_all", lambda: self._inner.append_all(entries, at=at, claim=claim))

    def heads(self, kind: str, *, prefix: str = "") -> Mapping[str, Record]:
        return self._call("heads", lambda: self._inner.heads(kind, prefix=prefix))

    def history(self, kind: str, key: str | None = None, *, before: datetime | None = None, limit: int = 100) -> Sequence[Record]:
        return self._call("history", lambda: self._inner.history(kind, key, before=before, limit=limit))

    def claim(self, name: str, owner: str, *, now: datetime, lease_s: float) -> Claim:
        return self._call("claim", lambda: self._inner.claim(name, owner, now=now, lease_s=lease_s))

    def renew(self, claim: Claim, *, now: datetime, lease_s: float) -> Claim:
        return self._call("renew", lambda: self._inner.renew(claim, now=now, lease_s=lease_s))

    def release(self, claim: Claim) -> None:
        self._call("release", lambda: self._inner.release(claim))

    def pulse(self) -> int:
        return self._call("pulse", self._inner.pulse)

    def close(self) -> None:
        self._inner.close()

    def _call(self, name: str, work: Callable[[], T]) -> T:
        fault = self._draw()
        self.faults.append((name, fault))
        if fault == "refused":
            raise StorageError("injected fault", place=f"state.{name}", hint=f"seed {self._seed}, call {len(self.faults)}")
        result = work()
        if fault:
            raise StorageError("injected fault", place=f"state.{name}", hint=f"seed {self._seed}, call {len(self.faults)}")
        return result

    def _draw(self) -> Fault:
        drawn = int(digest([self._seed, len(self.faults)]), 16) / 16**32
        if drawn >= self._share:
            return ""
        return "refused" if drawn < self._share / 2 else "answer lost"


def contend(opener: Callable[[], State], owner: str, turns: int, at: datetime) -> None:
    """Takes the claim `contended` some times and leaves two fenced records each time: `in` and `out`. Run in several processes at once."""
    state = opener()
    for _ in range(turns):
        claim = _patiently(state, owner, at)
        state.append("turn", owner, {"step": "in", "epoch": claim.epoch}, at=at, claim=claim)
        state.append("turn", owner, {"step": "out", "epoch": claim.epoch}, at=at, claim=claim)
        state.release(claim)
    state.close()


def _patiently(state: State, owner: str, at: datetime) -> Claim:
    while True:
        try:
            return state.claim("contended", owner, now=at, lease_s=3600)
        except Busy:
            continue


def _json(kind: str, key: str, body: Mapping[str, Any]) -> str:
    try:
        (kind + key).encode()
        return json.dumps(body, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StorageError("a record is not JSON", place=f"{kind}/{key!a}", got=str(error)) from error


def _record(row: tuple[int, str, str, datetime, str]) -> Record:
    return Record(row[0], row[1], row[2], row[3], json.loads(row[4]))


def _frozen(record: Record) -> Record:
    return Record(record.seq, record.kind, record.key, record.at, MappingProxyType(dict(record.body)))
