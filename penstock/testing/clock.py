"""Time and identifiers that a test sets itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from penstock.ground.digest import digest
from penstock.ground.ids import base32

#: Where a ManualClock starts unless told otherwise.
START = datetime(2026, 1, 1, tzinfo=UTC)


class ManualClock:
    """A clock that stands still until it is moved, or somebody waits. `now` and `tick` move together."""

    def __init__(self, start: datetime = START) -> None:
        self._start = start
        self._now = start

    def now(self) -> datetime:
        return self._now

    def tick(self) -> float:
        return (self._now - self._start).total_seconds()

    def wait(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> datetime:
        """Moves on and returns the new moment. A negative number moves back, as a machine's clock may."""
        self._now += timedelta(seconds=seconds)
        return self._now


class SeededIds:
    """The same identifiers for the same seed, in sorted order."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._made = 0

    def new(self) -> str:
        self._made += 1
        noise = int(digest([self._seed, self._made]), 16) & ((1 << 50) - 1)
        return base32(self._made, 10) + base32(noise, 10)
