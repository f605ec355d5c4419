"""Schemas and partitions as Iceberg's JSON, both ways."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.ground.errors import Unsupported
from penstock.spec.partitions import Partition
from penstock.spec.schema import PRIMITIVES, Field, Schema, Type, decimal

Json = Mapping[str, Any]

#: Transform -> types of columns it can be kept for. Floats and decimals as partitions are refused: engines write them differently.
_SOURCES = {
    "identity": frozenset({"boolean", "int", "long", "string", "date", "timestamp", "timestamptz"}),
    "year": frozenset({"date", "timestamp", "timestamptz"}),
    "month": frozenset({"date", "timestamp", "timestamptz"}),
    "day": frozenset({"date", "timestamp", "timestamptz"}),
    "hour": frozenset({"timestamp", "timestamptz"}),
    "bucket": frozenset({"int", "long", "decimal", "date", "time", "timestamp", "timestamptz", "string", "uuid", "binary"}),
}
TRANSFORMS = frozenset(_SOURCES)


# -- schemas --------------------------------------------------------------------------------------------------------
def schema_json(schema: Schema, schema_id: int) -> dict[str, Any]:
    """A schema whose fields all have ids. Every column is optional: engines cannot write required ones from a query."""
    return {"type": "struct", "schema-id": schema_id, "fields": [_field_json(f) for f in schema]}


def _field_json(field: Field) -> dict[str, Any]:
    made = {"id": field.id, "name": field.name, "required": False, "type": _type_json(field.type)}
    return {**made, "doc": field.doc} if field.doc else made


def _type_json(kind: Type) -> Any:
    if kind.name == "struct":
        return {"type": "struct", "fields": [_field_json(f) for f in kind.fields]}
    if kind.name == "list":
        (element,) = kind.fields
        return {"type": "list", "element-id": element.id, "element": _type_json(element.type), "element-required": False}
    if kind.name == "map":
        key, value = kind.fields
        keys = {"key-id": key.id, "key": _type_json(key.type), "value-id": value.id, "value": _type_json(value.type)}
        return {"type": "map", **keys, "value-required": False}
    return f"decimal({kind.precision}, {kind.scale})" if kind.name == "decimal" else kind.name


def has_required(made: Any) -> bool:
    """Whether a schema or type has members that must not be null, as other engines declare them."""
    if not isinstance(made, Mapping):
        return False
    required = made.get("required") or made.get("element-required") or made.get("value-required")
    inner = [*made.get("fields", ()), *(made.get(part) for part in ("type", "element", "value"))]
    return bool(required) or any(has_required(part) for part in inner)


def schema_of_json(made: Json, place: str) -> Schema:
    """Raises: Unsupported(E4007) for a type that is not ours."""
    return Schema(tuple(_field_of(f, place) for f in made["fields"]))


def _field_of(made: Json, place: str) -> Field:
    return Field(made["name"], _type_of(made["type"], f"{place}[{made['name']}]"), made["id"], made.get("doc", ""))


def _type_of(made: Any, place: str) -> Type:
    if isinstance(made, str):
        if match := re.fullmatch(r"decimal\((\d+),\s*(\d+)\)", made):
            return decimal(int(match[1]), int(match[2]))
        if made in PRIMITIVES:
            return Type(made)
        raise Unsupported("a column's type is not known here", place=place, expected=", ".join(PRIMITIVES), got=made)
    if made["type"] == "struct":
        return Type("struct", fields=tuple(_field_of(f, place) for f in made["fields"]))
    if made["type"] == "list":
        return Type("list", fields=(Field("element", _type_of(made["element"], place), made["element-id"]),))
    key = Field("key", _type_of(made["key"], place), made["key-id"])
    return Type("map", fields=(key, Field("value", _type_of(made["value"], place), made["value-id"])))


# -- partitions -----------------------------------------------------------------------------------------------------
def transform_text(part: Partition) -> str:
    return f"bucket[{part.n}]" if part.transform == "bucket" else part.transform


def require_transforms(partition: Sequence[Partition], schema: Schema, table: str) -> None:
    """Raises: Unsupported(E4007) for a transform that cannot be kept for its column's type; DefinitionError for an unknown column."""
    for part in partition:
        kind = schema.field(part.column, of=table).type.name
        if kind not in _SOURCES[part.transform]:
            raise Unsupported(
                f"a table cannot be partitioned by {part.transform} of this column",
                place=f"{table}[{part.column}]",
                expected=", ".join(sorted(_SOURCES[part.transform])),
                got=kind,
            )


def pairs(spec: Json) -> tuple[tuple[int, str], ...]:
    """What makes a partition spec: source column ids and transforms, in order."""
    return tuple((f["source-id"], f["transform"]) for f in spec["fields"] if f["transform"] != "void")


def spec_json(partition: Sequence[Partition], schema: Schema, spec_id: int, specs: Sequence[Json]) -> dict[str, Any]:
    """A partition spec; a field that an earlier spec had keeps its field id, as Iceberg v2 asks."""
    known = {(f["source-id"], f["transform"]): f["field-id"] for spec in specs for f in spec["fields"]}
    last = max([999, *known.values()])
    fields = []
    for part in partition:
        source, text = schema.field(part.column).id or 0, transform_text(part)
        if (source, text) not in known:
            last += 1
        fields.append(
            {"source-id": source, "field-id": known.get((source, text), last), "transform": text, "name": _part_name(part, schema)}
        )
    return {"spec-id": spec_id, "fields": fields}


def _part_name(part: Partition, schema: Schema) -> str:
    """`month` of `at` is `at_month`; a name that a column has already gets an underscore."""
    name = part.column if part.transform == "identity" else f"{part.column}_{part.transform}"
    while part.transform != "identity" and name.lower() in {n.lower() for n in schema.names}:
        name += "_"
    return name
