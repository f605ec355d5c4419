"""Spans of time as a user writes them: `90s`, `10m`, `6h`, `1d`, `2w`."""

from __future__ import annotations

import re
from datetime import timedelta

from penstock.ground.errors import DefinitionError

_UNITS = {
    "s": 1,
    "sec": 1,
    "second": 1,
    "seconds": 1,
    "m": 60,
    "min": 60,
    "minute": 60,
    "minutes": 60,
    "h": 3600,
    "hour": 3600,
    "hours": 3600,
    "d": 86400,
    "day": 86400,
    "days": 86400,
    "w": 604800,
    "week": 604800,
    "weeks": 604800,
}


def span(text: str) -> timedelta:
    """`"1d"` or `"1 day"` as a timedelta.

    Raises: DefinitionError(E1001). Months have no fixed length and are refused.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", text.lower())
    if not match or match[2] not in _UNITS:
        raise DefinitionError("not a span of time", place=text[:40], expected="a number and s, m, h, d or w", got=text[:40])
    return timedelta(seconds=float(match[1]) * _UNITS[match[2]])


def seconds(text: str) -> int:
    """Whole seconds of a span, rounded to the nearest."""
    return round(span(text).total_seconds())
