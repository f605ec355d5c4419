"""DuckDB's types and the spec's, both ways, and the clause that gives a Parquet file its field ids."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import duckdb

from penstock.ground.errors import FileIdsWrong, QueryError
from penstock.ground.names import literal, quote
from penstock.spec.schema import Field, Schema, Type, decimal, list_of, map_of, primitive, struct_of

#: By DuckDB's own name of a type. Types that the lake lacks become the least type that holds all their values.
_FROM = {
    "boolean": "boolean",
    "tinyint": "int",
    "smallint": "int",
    "integer": "int",
    "utinyint": "int",
    "usmallint": "int",
    "bigint": "long",
    "uinteger": "long",
    "float": "float",
    "double": "double",
    "varchar": "string",
    "enum": "string",
    "bit": "string",
    "null": "string",
    "blob": "binary",
    "date": "date",
    "time": "time",
    "time_ns": "time",
    "timestamp": "timestamp",
    "timestamp_s": "timestamp",
    "timestamp_ms": "timestamp",
    "timestamp_ns": "timestamp",
    "timestamp with time zone": "timestamptz",
    "timestamp with time zone_ns": "timestamptz",
    "uuid": "uuid",
}
_WHOLE = {"ubigint": decimal(20, 0), "hugeint": decimal(38, 0), "uhugeint": decimal(38, 0)}
_HINTS = {
    "interval": "use epoch(x) for its length in seconds",
    "time with time zone": "CAST it to TIME or VARCHAR",
    "bignum": "CAST it to DECIMAL(38,0) or VARCHAR",
    "union": "CAST it to VARCHAR, or take one member with union_extract",
    "variant": "CAST it to VARCHAR or JSON",
    "geometry": "use ST_AsWKB(x) or CAST it to VARCHAR",
}
_TO = {
    "boolean": "BOOLEAN",
    "int": "INTEGER",
    "long": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "string": "VARCHAR",
    "binary": "BLOB",
    "date": "DATE",
    "time": "TIME",
    "timestamp": "TIMESTAMP",
    "timestamptz": "TIMESTAMP WITH TIME ZONE",
    "uuid": "UUID",
}


def from_duck(kind: Any, *, place: str = "") -> Type:
    """The spec's type of a DuckDB type, given as text or as DuckDB's own type object.

    Raises: QueryError(E1006) for a type that a lake cannot keep, with how to turn it into one that it can.
    """
    found = duckdb.sqltype(kind) if isinstance(kind, str) else kind
    name = str(found.id)
    if name in _FROM:
        return primitive(_FROM[name])
    if name in _WHOLE:
        return _WHOLE[name]
    if name not in ("decimal", "list", "array", "map", "struct"):
        raise QueryError("a table cannot keep this type", place=place, got=str(found), hint=_HINTS.get(name, "CAST it to VARCHAR"))
    parts = dict(found.children)
    if name == "decimal":
        return decimal(parts["precision"], parts["scale"])
    if name == "map":
        return map_of(from_duck(parts["key"], place=place), from_duck(parts["value"], place=place))
    if name == "struct":
        return struct_of(*(Field(_member(member, place), from_duck(part, place=place)) for member, part in found.children))
    return list_of(from_duck(parts["child"], place=place))


def _member(name: str, place: str) -> str:
    if not name:
        raise QueryError("a struct's members need names", place=place, hint="write {'name': value} instead of row(value)")
    return name


def to_duck(kind: Type) -> str:
    """A type as DuckDB writes it, e.g. `STRUCT("a" INTEGER, "b" VARCHAR[])`."""
    if kind.name == "decimal":
        return f"DECIMAL({kind.precision},{kind.scale})"
    if kind.name == "list":
        return f"{to_duck(kind.fields[0].type)}[]"
    if kind.name == "map":
        return f"MAP({to_duck(kind.fields[0].type)}, {to_duck(kind.fields[1].type)})"
    if kind.name == "struct":
        return "STRUCT(" + ", ".join(f"{quote(f.name)} {to_duck(f.type)}" for f in kind.fields) + ")"
    return _TO[kind.name]


def schema_from_duck(columns: Iterable[tuple[str, Any]]) -> Schema:
    """A schema of (name, DuckDB type) pairs.

    Raises: QueryError(E1006), DefinitionError(E1001) if two names differ in nothing but case.
    """
    return Schema(tuple(Field(name, from_duck(kind, place=name)) for name, kind in columns))


def null_of(kind: Type) -> str:
    return f"CAST(NULL AS {to_duck(kind)})"


def field_ids(schema: Schema) -> str:
    """The value of COPY's option FIELD_IDS: all ids of a schema, nested ones included.

    Raises: FileIdsWrong(E4008) if the schema has not got all ids.
    Source: DuckDB documentation, "Parquet: field_ids"; facts measured against Spark and pyiceberg readers.
    """
    return "{" + ", ".join(_with_id(f) for f in schema) + "}"


def _with_id(field: Field) -> str:
    if field.id is None:
        raise FileIdsWrong("a column has no field id to write", place=field.name, expected="a schema that comes from a lake's draft")
    if not field.type.fields:
        return f"{literal(field.name)}: {field.id}"
    inner = ", ".join(_with_id(f) for f in field.type.fields)
    return f"{literal(field.name)}: {{__duckdb_field_id: {field.id}, {inner}}}"
