"""Ticks of cron lines in time zones, as moments in UTC.

`cronsim` reads the line and walks the days; it is given wall-clock times without a zone, and this module turns them into moments.

Daylight saving, as Debian's cron treats it. A line whose minute and hour both do not begin with `*` names *times of day*:
    gap      A time that the clock skips ticks once, at the first minute after the gap (02:30 in Vienna on the last Sunday of March: at
             03:00). Several times in one gap are one tick.
    repeat   A time that the clock shows twice ticks at the first showing only.
Any other line names *a rhythm*, and ticks at each minute whose wall-clock time matches: none in a gap, both showings of a repeat.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from penstock.ground.errors import DefinitionError, DriverMissing

#: By more than this no zone moves its clock at once: some have skipped or repeated a whole day (Samoa 2011, Kwajalein 1993).
_LONGEST_MOVE = timedelta(hours=25)
#: Spans in which the newest tick is looked for, one after the other.
_LOOK_BACK = tuple(timedelta(hours=h) for h in (1, 24, 24 * 32, 24 * 367, 24 * 366 * 9))


def ticks(text: str, tz: str, after: datetime) -> Iterator[datetime]:
    """All ticks after a moment, in order, each once, in UTC. Ends if the line has none in 50 years (30 February).

    Raises: DefinitionError(E1001) for a text that is no cron line; DriverMissing(E7002) without cronsim.
    Source: own, by cronsim's days; `tests/unit/test_cron.py` holds it against a walk over every minute.
    """
    zone = ZoneInfo(tz)
    near = {(after + move).astimezone(zone).utcoffset() for move in (-_LONGEST_MOVE, timedelta(0), _LONGEST_MOVE)}
    start = after.astimezone(zone).replace(tzinfo=None) - (_LONGEST_MOVE if len(near) > 1 else timedelta(0))
    minute, hour = text.split()[:2]
    moments = _times_of_day if not (minute.startswith("*") or hour.startswith("*")) else _rhythm
    last = after.astimezone(UTC)
    for moment in moments(_wall(text, start), zone):
        if moment > last:
            yield moment
            last = moment


def between(text: str, tz: str, after: datetime, until: datetime) -> Iterator[datetime]:
    """Ticks in `(after, until]`, in order. Raises: as `ticks`."""
    for moment in ticks(text, tz, after):
        if moment > until:
            return
        yield moment


def newest(text: str, tz: str, after: datetime, until: datetime) -> datetime | None:
    """The last tick in `(after, until]`, None if there is none. Cost: the ticks of about one interval, not of the whole span."""
    for back in (*_LOOK_BACK, until - after):
        found = deque(between(text, tz, max(after, until - back), until), maxlen=1)
        if found or until - back <= after:
            return found[0] if found else None
    return None


def following(text: str, tz: str, after: datetime) -> datetime | None:
    """The first tick after a moment, None if there is none. Raises: as `ticks`."""
    return next(ticks(text, tz, after), None)


def checked(text: str, tz: str) -> None:
    """Raises: DefinitionError(E1001) if the text is no cron line, or has no tick at all."""
    if following(text, tz, datetime(2024, 1, 1, tzinfo=UTC)) is None:
        raise DefinitionError("a cron line without any tick", place=f"cron({text!r})", hint="is there such a day in such a month?")


def _wall(text: str, start: datetime) -> Iterator[datetime]:
    """Wall-clock times of a line after a time, without a zone."""
    try:
        from cronsim import CronSim, CronSimError
    except ImportError as error:
        raise DriverMissing("cron lines need cronsim", place=f"cron({text!r})", hint="pip install 'penstock[up]'") from error
    try:
        walls: Iterator[datetime] = CronSim(text, start)
        return walls
    except (CronSimError, ValueError, AssertionError) as error:
        raise DefinitionError(
            "not a cron line", place=f"cron({text[:40]!r})", expected="minute hour day month weekday", got=str(error)[:80]
        ) from error


def _times_of_day(walls: Iterator[datetime], zone: ZoneInfo) -> Iterator[datetime]:
    for wall in walls:
        if _is_real(moment := wall.replace(tzinfo=zone)):
            yield moment.astimezone(UTC)
        else:
            yield _after_gap(wall, zone)


def _rhythm(walls: Iterator[datetime], zone: ZoneInfo) -> Iterator[datetime]:
    """Every showing of each time. Second showings are held back until no earlier moment can come."""
    held: list[datetime] = []
    for wall in walls:
        first = wall.replace(tzinfo=zone)
        if not _is_real(first):
            continue
        while held and held[0] < first.astimezone(UTC):
            yield heapq.heappop(held)
        second = first.replace(fold=1)
        if second.utcoffset() != first.utcoffset():
            heapq.heappush(held, second.astimezone(UTC))
        yield first.astimezone(UTC)
    yield from sorted(held)


def _is_real(moment: datetime) -> bool:
    """Whether a clock in that zone ever shows this time."""
    return moment.astimezone(UTC).astimezone(moment.tzinfo).replace(tzinfo=None) == moment.replace(tzinfo=None)


@lru_cache(maxsize=256)
def _after_gap(wall: datetime, zone: ZoneInfo) -> datetime:
    """The first minute after the gap that a time falls into."""
    later = wall.replace(tzinfo=zone, second=0)
    while not _is_real(later):
        later += timedelta(minutes=1)
    return later.astimezone(UTC)
