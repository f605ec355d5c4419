"""Which times may be compared with each other."""

from __future__ import annotations

from penstock.ground.errors import DefinitionError
from penstock.spec.schema import Field

_HINTS = {
    frozenset(("timestamp", "timestamptz")): "say which zone the time without one is in: at AT TIME ZONE 'Europe/Paris'",
    frozenset(("date", "timestamp")): "say at what time of the day it counts: a day's total is known at its end, day + INTERVAL 1 DAY",
    frozenset(("date", "timestamptz")): "say at what time of the day and in which zone it counts",
}


def same_clock(left: Field, right: Field, *, place: str, dates: bool = False) -> None:
    """Raises: DefinitionError(E1001) if two times have different types: instants, times without zone, and dates do not mix.

    Without a zone a time is ambiguous when clocks are set back, and a date stands for its first moment: a join would look
    into the future, or hours back, without a word. With `dates` a date may stand for its first moment without zone.
    """
    if left.type != right.type and not (dates and {left.type.name, right.type.name} == {"date", "timestamp"}):
        raise DefinitionError(
            "times of different kinds cannot be compared", place=place, expected=f"{left.type} as {left.name}",
            got=f"{right.type} ({right.name})", hint=_HINTS.get(frozenset((left.type.name, right.type.name)), ""),
        )  # fmt: skip
