"""Types, fields and schemas: the neutral form between engines, lakes and sources.

The types are those of Iceberg format version 2, so that every engine reads what another wrote. Field ids belong to a lake's
table: a schema that comes from a query has none (`id` is None), a schema that comes from a lake has all, nested ones included.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from penstock.ground.errors import DefinitionError, did_you_mean

PRIMITIVES = (
    "boolean",
    "int",
    "long",
    "float",
    "double",
    "decimal",
    "string",
    "binary",
    "date",
    "time",
    "timestamp",
    "timestamptz",
    "uuid",
)
_NESTED = ("struct", "list", "map")
_INTEGERS = {"int": 0, "long": 1}


@dataclass(frozen=True)
class Type:
    """One type. `fields` holds the members of a struct, `element` of a list, `key` and `value` of a map.

    Units: timestamp and time have microseconds; timestamptz is an instant kept in UTC; timestamp has no zone.
    """

    name: str
    precision: int = 0
    scale: int = 0
    fields: tuple[Field, ...] = ()

    def __str__(self) -> str:
        if self.name == "decimal":
            return f"decimal({self.precision},{self.scale})"
        if self.name == "list":
            return f"list<{self.fields[0].type}>"
        if self.name == "map":
            return f"map<{self.fields[0].type},{self.fields[1].type}>"
        if self.name == "struct":
            return "struct<" + ",".join(f"{f.name}:{f.type}" for f in self.fields) + ">"
        return self.name


@dataclass(frozen=True)
class Field:
    """A named column or member. `id` is the lake's field id, None before the lake has given one."""

    name: str
    type: Type
    id: int | None = None
    doc: str = ""


@dataclass(frozen=True)
class Schema:
    """Columns in order. Names are unique without regard to case, because engines differ in that regard."""

    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for field in self.fields:
            if field.name.lower() in seen:
                raise DefinitionError(
                    "a column occurs twice", place=field.name, hint="columns may not differ only in case; rename one with AS"
                )
            seen.add(field.name.lower())

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f.name for f in self.fields)

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def __contains__(self, name: object) -> bool:
        return any(f.name == name for f in self.fields)

    def field(self, name: str, *, of: str = "") -> Field:
        """The column of that name.

        Raises: DefinitionError(E1001) that lists the nearest names.
        """
        for field in self.fields:
            if field.name == name:
                return field
        raise DefinitionError("no such column", place=f"{of}[{name}]" if of else name, hint=did_you_mean(name, self.names))


def primitive(name: str) -> Type:
    return Type(name)


def decimal(precision: int, scale: int) -> Type:
    return Type("decimal", precision, scale)


def list_of(element: Type) -> Type:
    return Type("list", fields=(Field("element", element),))


def map_of(key: Type, value: Type) -> Type:
    return Type("map", fields=(Field("key", key), Field("value", value)))


def struct_of(*fields: Field) -> Type:
    return Type("struct", fields=fields)


def schema_of(**columns: str) -> Schema:
    """A schema from `name="type"` pairs, in order: `schema_of(id="long", tags="list<string>")`."""
    return Schema(tuple(Field(name, parse_type(text)) for name, text in columns.items()))


def parse_type(text: str) -> Type:
    """The type that `str(type)` printed.

    Raises: DefinitionError(E1001).
    """
    text = text.strip().lower() if "struct" not in text else text.strip()
    if text in PRIMITIVES and text != "decimal":
        return Type(text)
    if match := re.fullmatch(r"decimal\((\d+),\s*(\d+)\)", text):
        return decimal(int(match[1]), int(match[2]))
    if match := re.fullmatch(r"(list|map|struct)<(.*)>", text, re.DOTALL):
        parts = _split(match[2])
        if match[1] == "list":
            return list_of(parse_type(match[2]))
        if match[1] == "map" and len(parts) == 2:
            return map_of(parse_type(parts[0]), parse_type(parts[1]))
        if match[1] == "struct":
            pairs = [part.partition(":") for part in parts]
            return struct_of(*(Field(name.strip(), parse_type(kind)) for name, _, kind in pairs))
    raise DefinitionError("not a type", place=text[:60], expected=", ".join((*PRIMITIVES, *_NESTED)), got=text[:60])


def _split(text: str) -> list[str]:
    """Comma-separated parts, minding brackets."""
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char in "<(") - (char in ">)")
        if char == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]]


def widened(old: Type, new: Type) -> Type | None:
    """The type that holds both without loss, if the lake can widen to it in place; else None.

    Source: Iceberg specification v2, "Schema Evolution": int to long, float to double, decimal to more precision.
    """
    if strip_ids(old) == strip_ids(new):
        return old
    if old.name in _INTEGERS and new.name in _INTEGERS:
        return old if _INTEGERS[old.name] >= _INTEGERS[new.name] else replace(new)
    if {old.name, new.name} == {"float", "double"}:
        return primitive("double")
    if old.name == new.name == "decimal" and old.scale == new.scale:
        return decimal(max(old.precision, new.precision), old.scale)
    if old.name == new.name and old.name in _NESTED and len(old.fields) <= len(new.fields):
        by_name = {f.name: f for f in old.fields}
        merged = []
        for field in new.fields:
            was = by_name.pop(field.name, None)
            kind = widened(was.type, field.type) if was else field.type
            if kind is None:
                return None
            merged.append(Field(field.name, kind, was.id if was else None))
        return None if by_name else Type(old.name, fields=tuple(merged))
    return None


def common(left: Type, right: Type) -> Type | None:
    """The least type that values of both can be read as; None if only text could.

    Used for inference over several files. Wider than `widened`: an integer and a double meet in double.
    """
    if (both := widened(left, right)) is not None:
        return both
    numbers = {"int", "long", "float", "double", "decimal"}
    if left.name in numbers and right.name in numbers:
        return primitive("double")
    if {left.name, right.name} <= {"date", "timestamp"}:
        return primitive("timestamp")
    return None


def strip_ids(kind: Type) -> Type:
    """The type without field ids."""
    return replace(kind, fields=tuple(Field(f.name, strip_ids(f.type)) for f in kind.fields)) if kind.fields else kind


def same_columns(left: Schema, right: Schema) -> bool:
    """Whether two schemas have the same names and types in the same order, ids aside."""
    return [(f.name, strip_ids(f.type)) for f in left] == [(f.name, strip_ids(f.type)) for f in right]


def schema_record(schema: Schema) -> list[list[Any]]:
    """JSON-ready: a list of [name, type text]; ids are the lake's business and not told."""
    return [[f.name, str(f.type)] for f in schema]


def schema_from_record(record: list[list[Any]]) -> Schema:
    return Schema(tuple(Field(str(name), parse_type(str(kind))) for name, kind in record))
