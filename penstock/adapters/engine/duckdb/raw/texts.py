"""SQL that reads texts as values and never changes one in silence.

DuckDB's own casts do: '1.5' as INTEGER is 2, '1e-05' is 0, '1e400' as DOUBLE is infinity, a DATE drops the time of day, a TIMESTAMP
drops the offset. Here such a text is bad, except that an offset is applied: a time without one is UTC, everywhere.
Digits of a second beyond microseconds are cut, as the types have none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.adapters.engine.duckdb.types import to_duck
from penstock.ground.names import literal, quote
from penstock.spec.schema import Type

#: Integers up to here are exact in a double. Source: IEEE 754, 53 bits.
EXACT = 9007199254740992
_DAY_US = 86_400_000_000


@dataclass(frozen=True)
class Formats:
    """How texts are written: strptime formats ("" for ISO 8601), and the decimal separator."""

    date: str = ""
    timestamp: str = ""
    decimal: str = "."

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Formats:
        text = {name: str(options.get(name) or "") for name in ("date_format", "timestamp_format", "decimal")}
        return cls(text["date_format"], text["timestamp_format"], text["decimal"] or ".")


@dataclass(frozen=True)
class Reading:
    """Two SQL expressions over one text: its value, and whether the text is there but cannot be read as the type."""

    value: str
    bad: str


def reading(text: str, kind: Type, formats: Formats, depth: int = 0) -> Reading:
    """How to read the SQL text `text` as a type; nested types are read from JSON."""
    if kind.name == "string":
        return Reading(text, "FALSE")
    if kind.fields:
        return _nested(text, kind, formats, depth)
    value = _scalar(text, kind, formats)
    return Reading(value, f"({text} IS NOT NULL AND {value} IS NULL)")


def _scalar(text: str, kind: Type, formats: Formats) -> str:
    number = text if formats.decimal == "." else f"replace(replace({text}, '.', 'x'), {literal(formats.decimal)}, '.')"
    match kind.name:
        case "int" | "long":
            whole = f"TRY_CAST({number} AS {to_duck(kind)})"
            return f"CASE WHEN {whole} = TRY_CAST({number} AS DOUBLE) THEN {whole} END"
        case "float" | "double":
            found = f"TRY_CAST({number} AS {to_duck(kind)})"
            return f"CASE WHEN isfinite({found}) OR isnan({found}) OR contains(lower({text}), 'inf') THEN {found} END"
        case "decimal":
            digits = rf"\s*[+-]?[0-9]*(\.[0-9]{{0,{kind.scale}}}0*)?\s*"
            return f"CASE WHEN regexp_full_match({number}, {literal(digits)}) THEN TRY_CAST({number} AS {to_duck(kind)}) END"
        case "date" if formats.date:
            return f"CAST(try_strptime({text}, {literal(formats.date)}) AS DATE)"
        case "date":
            return midnight(instant(text))
        case "timestamp" if formats.timestamp:
            return f"make_timestamp(epoch_us(try_strptime({text}, {literal(formats.timestamp)})))"
        case "timestamp":
            return f"make_timestamp(epoch_us({instant(text)}))"
        case "timestamptz" if formats.timestamp:
            return f"CAST(try_strptime({text}, {literal(formats.timestamp)}) AS TIMESTAMPTZ)"
        case "timestamptz":
            return instant(text)
        case "time":
            plain = r"\s*[0-9]{1,2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?\s*"
            return f"CASE WHEN regexp_full_match({text}, {literal(plain)}) THEN TRY_CAST({text} AS TIME) END"
    return f"TRY_CAST({text} AS {to_duck(kind)})"


def instant(text: str) -> str:
    """A text as TIMESTAMPTZ, null if it is none; the session's zone is UTC."""
    found = f"TRY_CAST({text} AS TIMESTAMPTZ)"
    return f"CASE WHEN isfinite({found}) THEN {found} END"


def midnight(moment: str) -> str:
    """An instant as a date, null if it has a time of day."""
    return f"CASE WHEN epoch_us({moment}) % {_DAY_US} = 0 THEN CAST(make_timestamp(epoch_us({moment})) AS DATE) END"


def _nested(text: str, kind: Type, formats: Formats, depth: int) -> Reading:
    """A JSON text as struct, list or map: the members as texts first, then each as its type."""
    part = f"e{depth}"
    opening = "[" if kind.name == "list" else "{"
    if kind.name == "struct":
        shape = {f.name: "VARCHAR" for f in kind.fields}
        parts = f"TRY(from_json({text}, {literal(json.dumps(shape))}))"
        members = [(f.name, reading(f"struct_extract({parts}, {literal(f.name)})", f.type, formats, depth)) for f in kind.fields]
        made = "struct_pack(" + ", ".join(f"{quote(name)} := {r.value}" for name, r in members) + ")"
        inner = " OR ".join(r.bad for _, r in members)
    else:
        of = kind.fields[-1].type
        element = reading(part if kind.name == "list" else f"struct_extract({part}, 'value')", of, formats, depth + 1)
        if kind.name == "list":
            parts = f"TRY(from_json({text}, '[\"VARCHAR\"]'))"
            items, made = parts, f"list_transform({parts}, lambda {part}: {element.value})"
        else:
            parts = f"TRY(from_json({text}, '\"MAP(VARCHAR, VARCHAR)\"'))"
            items = f"map_entries({parts})"
            key = _scalar(f"struct_extract({part}, 'key')", kind.fields[0].type, formats)
            key = f"struct_extract({part}, 'key')" if kind.fields[0].type.name == "string" else key
            made = f"map_from_entries(list_transform({items}, lambda {part}: struct_pack(key := {key}, value := {element.value})))"
        inner = f"len(list_filter({items}, lambda {part}: {element.bad})) > 0"
    there = f"starts_with(ltrim({text}), '{opening}') AND {parts} IS NOT NULL"
    value = f"CASE WHEN {there} THEN {made} END"
    return Reading(value, f"({text} IS NOT NULL AND {text} <> 'null' AND (NOT coalesce({there}, FALSE) OR coalesce({inner}, FALSE)))")
