"""Time as an input. The wall clock is read in this file only."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where time comes from. `now` is UTC and aware; `tick` only measures spans, in seconds; `wait` returns after so many seconds."""

    def now(self) -> datetime: ...
    def tick(self) -> float: ...
    def wait(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def tick(self) -> float:
        return time.perf_counter()

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)


def iso(moment: datetime) -> str:
    """UTC text with microseconds and `Z`: sorts as time sorts."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def from_iso(text: str) -> datetime:
    """Reads what `iso` wrote, and any ISO 8601 text; a text without a zone is UTC.

    Raises: ValueError if the text is no moment.
    """
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
