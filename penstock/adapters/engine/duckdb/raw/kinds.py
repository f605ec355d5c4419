"""What type the texts of a column have: the narrowest that all of them are written as, without losing a digit or a leading zero."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from functools import lru_cache
from typing import Any

from penstock.spec.schema import Field, Type, common, list_of, primitive, struct_of

#: Texts that may mean "no value". They do if they are what keeps a column from being numbers, times or truth values.
NULLS = ("NA", "N/A", "n/a", "#N/A", "null", "NULL", "Null", "None", "none", "nan", "NaN", "-", "\\N", "?")
#: strptime formats tried where a text is not ISO 8601; one that fits all values of a column, and alone does, is taken.
DATES = ("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y")
TIMES = ("%H:%M:%S", "%H:%M", "%H:%M:%S.%f")
#: Nested JSON below this depth stays JSON text.
DEPTH = 8

_LONG = re.compile(r"[+-]?(0|[1-9]\d{0,17})")
_DOUBLE = re.compile(r"[+-]?(\d+\.\d*|\.\d+|(0|[1-9]\d{0,14}))([eE][+-]?\d{1,2})?|[+-]?(0|[1-9]\d{0,17})")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_STAMP = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?( ?(Z|[+-]\d{2}(:?\d{2})?))?")
_TIME = re.compile(r"\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?")
_TRUTH = ("true", "false")


@lru_cache(maxsize=1 << 16)
def kind_of(text: str) -> str:
    """The narrowest kind one text is written as: a primitive type's name, `odd` for a date or time in a format of its own."""
    if _LONG.fullmatch(text):
        return "long"
    if _DOUBLE.fullmatch(text):
        return "double"
    if text.lower() in _TRUTH:
        return "boolean"
    if _DATE.fullmatch(text):
        return "date" if _is(date.fromisoformat, text) else "string"
    if match := _STAMP.fullmatch(text):
        plain = text[:19].replace(" ", "T")
        return ("timestamptz" if match[3] else "timestamp") if _is(datetime.fromisoformat, plain) else "string"
    if _TIME.fullmatch(text):
        return "time"
    return "odd" if text[:1].isdigit() and re.match(r"\d{1,4}[/.-]\d{1,2}[/.-]\d{2,4}", text) else "string"


def _is(parse: Any, text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


def nulls_in(columns: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Texts of NULLS that mean "no value" somewhere: without them a column is not text."""
    found: set[str] = set()
    for values in columns:
        distinct = set(values) - {""}
        suspects = distinct & set(NULLS)
        if suspects and distinct - suspects and type_of(distinct - suspects).name != "string":
            found |= suspects
    return tuple(n for n in NULLS if n in found)


def type_of(values: Iterable[str], formats: Mapping[str, str] | None = None) -> Type:
    """The type all texts can be read as; empty ones do not count; string if there are none."""
    distinct = {v for v in values if v != ""}
    kinds = {kind_of(v) for v in distinct}
    if kinds == {"odd"} and formats:
        for name, kind in (("date_format", "date"), ("timestamp_format", "timestamp")):
            if (form := formats.get(name)) and all(_parsed(v, form) for v in distinct):
                return primitive(kind)
    return _joined(primitive("string" if k == "odd" else k) for k in kinds)


def _joined(kinds: Iterable[Type]) -> Type:
    """The common type; a time with offset and one without meet in an instant (none means UTC)."""
    found: Type | None = None
    for kind in sorted(kinds, key=str):
        if found is None:
            found = kind
        elif {found.name, kind.name} <= {"timestamp", "timestamptz", "date"} and "timestamptz" in (found.name, kind.name):
            found = primitive("timestamptz")
        else:
            found = common(found, kind) or primitive("string")
    return found or primitive("string")


def joined(left: Type, right: Type) -> Type:
    """The type that values of both can be read as."""
    return left if left == right else _joined((left, right))


def formats_in(columns: Iterable[Sequence[str]]) -> dict[str, str]:
    """Reader options date_format and timestamp_format for columns that need one; ambiguous columns need the user's word."""
    found: dict[str, str] = {}
    for values in columns:
        distinct = set(values) - {""}
        if not distinct or {kind_of(v) for v in distinct} != {"odd"}:
            continue
        for name, candidates in (("date_format", DATES), ("timestamp_format", [f"{d} {t}" for d in DATES for t in TIMES])):
            fitting = [form for form in candidates if all(_parsed(v, form) for v in distinct)]
            if len(fitting) == 1:
                found.setdefault(name, fitting[0])
    return found


def _parsed(text: str, form: str) -> bool:
    return _is(lambda t: datetime.strptime(t, form), text)  # noqa: DTZ007 - only whether it fits


# -- JSON -----------------------------------------------------------------------------------------------------------
def json_type(value: Any, depth: int = 0) -> Type | None:
    """The type of a parsed JSON value; None for null. Objects beyond DEPTH, empty ones and mixed lists stay JSON text."""
    match value:
        case None:
            return None
        case bool():
            return primitive("boolean")
        case int():
            return primitive("long") if abs(value) < 1 << 63 else primitive("string")
        case float():
            return primitive("double")
        case str():
            kind = kind_of(value)
            return primitive(kind if kind in ("date", "timestamp", "timestamptz") else "string")
        case dict():
            fields = {k: json_type(v, depth + 1) for k, v in value.items()}
            plain = len({k.lower() for k in fields}) == len(fields) and all(fields) and "" not in fields
            if depth >= DEPTH or not fields or not plain:
                return primitive("string")
            return struct_of(*(Field(k, kind) for k, kind in fields.items() if kind))
        case list():
            elements = [kind for kind in (json_type(v, depth + 1) for v in value) if kind]
            if depth >= DEPTH or not elements:
                return None if not elements else primitive("string")
            merged = elements[0]
            for element in elements[1:]:
                merged = json_joined(merged, element)
            return list_of(merged)
    return primitive("string")


def json_joined(left: Type, right: Type) -> Type:
    """The type of members seen in several documents: structs get the members of both, lists meet in their elements."""
    if left.name == right.name == "struct":
        members = {f.name: f.type for f in left.fields}
        for field in right.fields:
            members[field.name] = json_joined(members[field.name], field.type) if field.name in members else field.type
        if len({name.lower() for name in members}) < len(members):
            return primitive("string")
        return struct_of(*(Field(name, kind) for name, kind in members.items()))
    if left.name == right.name == "list":
        return list_of(json_joined(left.fields[0].type, right.fields[0].type))
    return joined(left, right)
