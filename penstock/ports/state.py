"""The state port: what happened, as an append-only log of small records, and who may work on what.

Protocol. Records are JSON under a kind and a key; the newest record of a key is its head. Nothing is changed in place, so that "what
was true at T" is a query. Claims serialise writers of an asset: a claim has an epoch that only grows; a worker whose claim was taken
over finds out at the next `renew` or at `append` with its claim, and must stop (Fenced).

Jobs wait and run in the state's `queue`, which is kept in the same database (ports/queue.py).

Kinds in use: `asset` (a version was made), `listing` (files of a source as last loaded), `crawl` (columns of a source), `run`, `step`,
`model`, `promotion`, `untold` (what a tracker is owed), `told` (how far it was told), `setting`. Readers ignore keys they do not know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from penstock.ports.queue import Queue


@dataclass(frozen=True)
class Record:
    """One entry. `seq` grows by time of writing, over all kinds."""

    seq: int
    kind: str
    key: str
    at: datetime
    body: Mapping[str, Any]


@dataclass(frozen=True)
class Claim:
    """The right to write one thing until `until`, with a fencing number."""

    name: str
    owner: str
    epoch: int
    until: datetime


@dataclass(frozen=True)
class StateCapabilities:
    """What a state can do; the defaults are the weakest."""

    several_processes: bool = False
    several_machines: bool = False


class State(Protocol):
    """Safe to call from several threads and processes at once. `queue` is the jobs of the same database; it ends with `close`."""

    capabilities: StateCapabilities
    queue: Queue

    def append(self, kind: str, key: str, body: Mapping[str, Any], *, at: datetime, claim: Claim | None = None) -> Record:
        """Adds a record and makes it the head of its key.

        Durable: on return. Raises: Fenced(E4004) if `claim` is given and a newer epoch exists; nothing is written then.
        """
        ...

    def append_all(
        self, entries: Sequence[tuple[str, str, Mapping[str, Any]]], *, at: datetime, claim: Claim | None = None
    ) -> Sequence[Record]:
        """Adds several records (kind, key, body) in one step: all of them or none. Else as `append`."""
        ...

    def heads(self, kind: str, *, prefix: str = "") -> Mapping[str, Record]:
        """The newest record of each key of a kind. Cost: one indexed query; planning calls it once per kind."""
        ...

    def history(self, kind: str, key: str | None = None, *, before: datetime | None = None, limit: int = 100) -> Sequence[Record]:
        """Records of a kind (and key), newest first, at or before a moment."""
        ...

    def claim(self, name: str, owner: str, *, now: datetime, lease_s: float) -> Claim:
        """Takes the right to write `name`; the epoch is one above any before.

        Raises: Busy(E4005) while another owner's lease runs; its `holder` is that owner's claim, which `release` takes, so that
        a caller who knows the owner to be dead need not wait. Repeat by the same owner: a new epoch.
        """
        ...

    def renew(self, claim: Claim, *, now: datetime, lease_s: float) -> Claim:
        """Lengthens a lease. Called: by the claim's owner, well before `until`. Raises: Fenced(E4004)."""
        ...

    def release(self, claim: Claim) -> None:
        """Gives the right back. Repeat, or after a takeover: does nothing."""
        ...

    def pulse(self) -> int:
        """Another number after another handle wrote anything, records or jobs; perhaps another one without that. For whoever waits for news.

        Cost: some microseconds where the state is a file, one round trip where it is a server.
        """
        ...

    def close(self) -> None: ...
