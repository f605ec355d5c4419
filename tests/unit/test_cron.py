"""Cron lines: held against a walk over every minute, tables of what daylight saving does, hostile lines."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.craft.schedule.cron import between, checked, following, newest, ticks
from penstock.ground.errors import DefinitionError
from penstock.spec.automation import cron

#: Zone -> a moment shortly before its clock moves forward, and one before it moves back.
MOVES = {
    "Europe/Vienna": ("2026-03-28T20:00", "2026-10-24T20:00"),
    "America/New_York": ("2026-03-08T02:00", "2026-11-01T00:00"),
    "Australia/Lord_Howe": ("2026-10-03T10:00", "2026-04-04T10:00"),  # by half an hour
    "America/Havana": ("2024-03-10T00:00", "2024-11-03T00:00"),  # at midnight
    "Africa/Casablanca": ("2026-03-21T20:00", "2026-02-14T20:00"),  # around Ramadan
    "Pacific/Apia": ("2011-12-29T18:00", "2012-03-31T08:00"),  # a day that was not
    "Asia/Kathmandu": ("2026-03-28T20:00", "2026-10-24T20:00"),  # never moves, and stands at a quarter
    "UTC": ("2026-03-28T20:00", "2026-10-24T20:00"),
}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def local(moments: list[datetime], tz: str) -> list[str]:
    return [m.astimezone(ZoneInfo(tz)).strftime("%m-%d %H:%M%z") for m in moments]


def values(field: str, low: int, high: int) -> set[int]:
    """A field of a cron line, read in the plainest way."""
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = (f"{low}-{high}" if span == "*" else span).partition("-")
        end = int(last) if last else high if step else int(first)
        found |= set(range(int(first), end + 1, int(step or 1)))
    return found


def walked(text: str, tz: str, after: datetime, minutes: int) -> list[datetime]:
    """Ticks found by looking at every minute: the rule of `craft/schedule/cron.py` in other words."""
    fields = text.split()
    minute, hour, month = values(fields[0], 0, 59), values(fields[1], 0, 23), values(fields[3], 1, 12)
    days, weekdays = values(fields[2], 1, 31), {d % 7 for d in values(fields[4], 0, 7)}
    both = fields[2].startswith("*") or fields[4].startswith("*")

    def named(wall: datetime) -> bool:
        day, weekday = wall.day in days, wall.isoweekday() % 7 in weekdays
        return wall.minute in minute and wall.hour in hour and wall.month in month and ((day and weekday) if both else (day or weekday))

    zone, times = ZoneInfo(tz), not (fields[0].startswith("*") or fields[1].startswith("*"))
    found = []
    before = after.astimezone(zone).replace(tzinfo=None) - timedelta(minutes=1)
    shown = {(after + timedelta(minutes=i)).astimezone(zone).replace(tzinfo=None) for i in range(-1600, 1)} if times else set()
    for i in range(minutes + 1):
        moment = after + timedelta(minutes=i)
        wall = moment.astimezone(zone).replace(tzinfo=None)
        skipped = [before + timedelta(minutes=n) for n in range(1, int((wall - before).total_seconds()) // 60)]
        new = wall not in shown or i == 0
        if (any(map(named, skipped)) or (named(wall) and new)) if times else named(wall):
            found.append(moment)
        shown.add(wall)
        before = wall
    return [m for m in found if m > after]


FIELD = st.sampled_from
LINES = st.tuples(
    FIELD(["*", "*/7", "0", "30", "15,45", "1-59/13", "59", "0,30"]),
    FIELD(["*", "*/2", "0", "1", "2", "3", "0-3", "23", "2,3", "1-23/4"]),
    FIELD(["*", "*", "1", "29-31", "*/2", "8,25"]),
    FIELD(["*", "*", "*", "3,10,11,12", "1-4"]),
    FIELD(["*", "*", "0", "7", "1-5", "6,0"]),
).map(" ".join)


@example("* * * * *", "America/Havana", 1, 240)
@settings(max_examples=200, deadline=None)
@given(LINES, st.sampled_from(sorted(MOVES)), st.integers(0, 1), st.integers(-300, 900))
def test_ticks_are_those_of_a_walk_over_every_minute(text: str, tz: str, which: int, shift: int) -> None:
    start = at(MOVES[tz][which]) + timedelta(minutes=shift)
    length = 30 * 60
    expected = walked(text, tz, start, length)
    found = list(between(text, tz, start, start + timedelta(minutes=length)))
    assert local(found, tz) == local(expected, tz)
    assert found == expected
    assert newest(text, tz, start, start + timedelta(minutes=length)) == (expected[-1] if expected else None)
    assert following(text, tz, start) == next(ticks(text, tz, start), None)


@settings(max_examples=60, deadline=None)
@given(LINES, st.sampled_from(sorted(MOVES)), st.integers(0, 1), st.lists(st.integers(1, 400), min_size=1, max_size=8))
def test_a_span_looked_at_in_pieces_has_the_same_ticks(text: str, tz: str, which: int, pieces: list[int]) -> None:
    start = moment = at(MOVES[tz][which])
    found = []
    for piece in pieces:
        found += list(between(text, tz, moment, moment + timedelta(minutes=piece)))
        moment += timedelta(minutes=piece)
    assert found == list(between(text, tz, start, moment))


@pytest.mark.parametrize(
    ("text", "tz", "after", "expected"),
    [
        ("30 2 * * *", "Europe/Vienna", "2026-03-27T12:00", ["03-28 02:30+0100", "03-29 03:00+0200", "03-30 02:30+0200"]),
        ("0,30 2 * * *", "Europe/Vienna", "2026-03-28T12:00", ["03-29 03:00+0200", "03-30 02:00+0200"]),
        ("0 2,3 * * *", "Europe/Vienna", "2026-03-28T12:00", ["03-29 03:00+0200", "03-30 02:00+0200"]),
        ("30 2 * * *", "Europe/Vienna", "2026-10-24T12:00", ["10-25 02:30+0200", "10-26 02:30+0100"]),
        ("30 2 * * *", "Europe/Vienna", "2026-10-25T00:45", ["10-26 02:30+0100"]),
        ("*/30 2 * * *", "Europe/Vienna", "2026-10-24T12:00", ["10-25 02:00+0200", "10-25 02:30+0200", "10-25 02:00+0100"]),
        ("*/30 2 * * *", "Europe/Vienna", "2026-03-28T12:00", ["03-30 02:00+0200"]),
        (
            "30 * * * *",
            "Europe/Vienna",
            "2026-10-24T23:00",
            ["10-25 01:30+0200", "10-25 02:30+0200", "10-25 02:30+0100", "10-25 03:30+0100"],
        ),
        ("15 2 * * *", "America/New_York", "2026-03-08T00:00", ["03-08 03:00-0400", "03-09 02:15-0400"]),
        ("0 0 * * *", "America/Havana", "2024-03-09T12:00", ["03-10 01:00-0400", "03-11 00:00-0400"]),
        ("0 0 * * *", "America/Havana", "2024-11-02T12:00", ["11-03 00:00-0400", "11-04 00:00-0500"]),
        ("45 * * * *", "Australia/Lord_Howe", "2026-04-04T14:00", ["04-05 01:45+1100", "04-05 01:45+1030", "04-05 02:45+1030"]),
        ("0 * * * *", "America/Havana", "2024-11-03T04:00", ["11-03 00:00-0500", "11-03 01:00-0500"]),
        ("0 12 30 12 *", "Pacific/Apia", "2011-12-01T00:00", ["12-31 00:00+1400", "12-30 12:00+1400"]),
        ("0 0 29 2 *", "UTC", "2026-01-01T00:00", ["02-29 00:00+0000", "02-29 00:00+0000"]),
        ("0 0 L * *", "UTC", "2026-01-31T12:00", ["02-28 00:00+0000", "03-31 00:00+0000"]),
        ("0 8 * * MON#1", "UTC", "2026-01-01T12:00", ["01-05 08:00+0000", "02-02 08:00+0000"]),
        ("0 8 13 * 5", "UTC", "2026-01-01T12:00", ["01-02 08:00+0000", "01-09 08:00+0000", "01-13 08:00+0000"]),
    ],
)
def test_what_the_clock_does_to_a_line(text: str, tz: str, after: str, expected: list[str]) -> None:
    assert local(list(islice(ticks(text, tz, at(after)), len(expected))), tz) == expected


@pytest.mark.parametrize(
    "text",
    ["", "* * * *", "* * * * * *", "61 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8", "*/0 * * * *", "5-1 * * * *",
     "a b c d e", "1,,2 * * * *", "@daily", "- * * * *", "* * * * L", "99999999999 * * * *", "\u0661 * * * *", "*;rm * * * *",
     "0 0 30 2 *", "0 0 31 4,6 *", "* * * * 1#6", "1" * 300 + " * * * *"],
)  # fmt: skip
def test_a_bad_line_is_refused(text: str) -> None:
    with pytest.raises(DefinitionError, match="cron"):
        checked(cron(text).text, "UTC")


@pytest.mark.parametrize("tz", ["Europe/Wien", "", "../../etc/passwd", "/etc/passwd", "Mars/Olympus", "Europe", "a\0b"])
def test_an_unknown_zone_is_refused(tz: str) -> None:
    with pytest.raises(DefinitionError, match="time zone"):
        cron("0 5 * * *", tz=tz)


def test_a_near_zone_is_named() -> None:
    with pytest.raises(DefinitionError, match="Europe/Vienna"):
        cron("0 5 * * *", tz="Europe/Viena")


def test_an_unknown_way_to_catch_up_is_refused() -> None:
    with pytest.raises(DefinitionError, match="last, all, none"):
        cron("0 5 * * *", catch_up="some")  # type: ignore[arg-type]


def test_the_newest_of_many_years_is_found_at_once() -> None:
    assert newest("* * * * *", "Europe/Vienna", at("1990-01-01T00:00"), at("2026-01-01T00:00")) == at("2026-01-01T00:00")
    assert newest("0 0 29 2 *", "UTC", at("1990-01-01T00:00"), at("2026-01-01T00:00")) == at("2024-02-29T00:00")
