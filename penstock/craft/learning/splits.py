"""Splits: which rows are for learning and which for testing."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime

from penstock.ground.clock import from_iso
from penstock.ground.errors import DefinitionError
from penstock.spec.models import ByTime
from penstock.spec.spans import span


def boundary(split: ByTime, newest: datetime) -> datetime:
    """The first moment of the test set: rows at or after it are for testing, rows before it for learning.

    A span or a number of months is counted back from the newest row; a month back is the same day and time of the month
    before, or that month's last day where it is shorter. A moment stands for itself.

    Units:   UTC; a moment without zone is UTC, and the result has a zone exactly if `newest` has one.
    Raises:  DefinitionError(E1001) for a text that is none of the three, or a moment after the newest row.
    """
    at = newest.replace(tzinfo=UTC) if newest.tzinfo is None else newest.astimezone(UTC)
    first = _first(split.test, at)
    if first > at:
        raise DefinitionError("the test set is empty", place=f"by_time(test={split.test!r})", expected=f"a moment up to {at}", got=first)
    return first.replace(tzinfo=None) if newest.tzinfo is None else first


def _first(test: str, newest: datetime) -> datetime:
    parts = test.split()
    if len(parts) == 2 and parts[1].rstrip("s") == "month" and parts[0].isdigit():
        return months_before(newest, int(parts[0]))
    if test[4:5] != "-":
        return newest - span(test)
    try:
        return from_iso(test)
    except ValueError as error:
        raise DefinitionError("not a moment", place=f"by_time(test={test!r})", expected="such as 2013-12-01", got=test) from error


def months_before(moment: datetime, months: int) -> datetime:
    """The same day and time so many calendar months earlier, or the month's last day where it is shorter."""
    year, month = divmod(moment.year * 12 + moment.month - 1 - months, 12)
    day = min(moment.day, calendar.monthrange(year, month + 1)[1])
    return moment.replace(year=year, month=month + 1, day=day)
