"""Values of a check's definition as SQL literals of a column's type. What does not fit the type is refused when the check is compiled."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal, InvalidOperation
from typing import Literal
from uuid import UUID

from penstock.ground.errors import DefinitionError
from penstock.ground.names import literal
from penstock.spec.checks import Scalar
from penstock.spec.schema import Field

Side = Literal["low", "high"]
_SQL = {"float": "REAL", "double": "DOUBLE", "date": "DATE", "time": "TIME", "timestamp": "TIMESTAMP", "uuid": "UUID"}
EXACT = ("int", "long", "decimal")
FLOATING = ("float", "double")
#: Room for the digits of any double.
_WIDE = Context(prec=800)
ORDERED = (*EXACT, *FLOATING, "string", "date", "time", "timestamp", "timestamptz")


def bound(field: Field, value: Scalar, side: Side, place: str) -> str | None:
    """One end of a range; None if it is open.

    For whole and decimal columns the bound moves inwards to the next value the column can hold, so that comparing is exact.
    Raises: DefinitionError(E1001).
    """
    if value is None:
        return None
    if field.type.name not in ORDERED:
        raise DefinitionError("the column has no order", place=place, expected=", ".join(ORDERED), got=field.type)
    if field.type.name not in EXACT:
        return equal(field, value, place)
    number = _number(field, value, place)
    if number.is_infinite():
        inwards = (number > 0) == (side == "low")
        return f"CAST({literal(_float(number))} AS DOUBLE)" if inwards else None
    return _plain(_stepped(field, number, ROUND_CEILING if side == "low" else ROUND_FLOOR))


def equal(field: Field, value: Scalar, place: str) -> str | None:
    """A value to compare a column with; None if the column cannot hold it, so that nothing equals it.

    Raises: DefinitionError(E1001).
    """
    kind = field.type.name
    if kind == "string" and isinstance(value, str):
        return literal(value)
    if kind == "boolean" and isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if kind in FLOATING:
        return f"CAST({literal(_float(_number(field, value, place)))} AS {_SQL[kind]})"
    if kind in EXACT:
        number = _number(field, value, place)
        return _plain(number) if number.is_finite() and _fits(field, number) else None
    if isinstance(value, str) and kind in ("date", "time", "timestamp", "timestamptz", "uuid"):
        return _moment(kind, value, place)
    raise _unfit(field, value, place)


def _fits(field: Field, number: Decimal) -> bool:
    digits = {"int": 10, "long": 19}.get(field.type.name, field.type.precision - field.type.scale)
    return abs(number) < Decimal(10) ** digits and number == _stepped(field, number, ROUND_FLOOR)


def _stepped(field: Field, number: Decimal, rounding: str) -> Decimal:
    return number.quantize(Decimal(1).scaleb(-field.type.scale), rounding, context=_WIDE)


def _number(field: Field, value: Scalar, place: str) -> Decimal:
    if isinstance(value, bool) or value is None:
        raise _unfit(field, value, place)
    try:
        number = Decimal(repr(value) if isinstance(value, float) else value)
    except InvalidOperation as error:
        raise _unfit(field, value, place) from error
    if math.isnan(number):
        raise DefinitionError("NaN cannot be compared with", place=place, hint="use finite() to find NaN")
    return number


def _plain(number: Decimal) -> str:
    """Digits without an exponent: an exact number in every SQL."""
    return f"{number:f}"


def _float(number: Decimal) -> str:
    return repr(float(number))


def _moment(kind: str, text: str, place: str) -> str:
    """A date, time, moment or UUID, read and written again in one form. A moment without a zone is UTC where the column has one."""
    try:
        if kind == "uuid":
            clean = str(UUID(text))
        elif kind == "date":
            clean = date.fromisoformat(text).isoformat()
        elif kind == "time":
            clean = time.fromisoformat(text).replace(tzinfo=None).isoformat("microseconds")
        else:
            return _instant(kind, datetime.fromisoformat(text), place)
    except ValueError as error:
        raise DefinitionError("cannot be read as the column's type", place=place, expected=f"{kind} in ISO 8601", got=text[:60]) from error
    return f"CAST({literal(clean)} AS {_SQL[kind]})"


def _instant(kind: str, moment: datetime, place: str) -> str:
    if kind == "timestamptz":
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        return f"CAST({literal(moment.isoformat(' ', 'microseconds'))} AS TIMESTAMPTZ)"
    if moment.tzinfo is not None:
        raise DefinitionError("a moment with a zone for a column without one", place=place, hint="leave the zone away")
    return f"CAST({literal(moment.isoformat(' ', 'microseconds'))} AS TIMESTAMP)"


def _unfit(field: Field, value: Scalar, place: str) -> DefinitionError:
    return DefinitionError(
        "cannot be read as the column's type", place=place, expected=field.type, got=f"{type(value).__name__} {str(value)[:40]}"
    )
