"""Small Parquet files with field ids, written and read without any engine: what a lake's tests compare against."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from penstock.ports.lake import DataFile, Draft, Scan
from penstock.spec.schema import Field, Schema, Type

Row = Mapping[str, Any]
Path = tuple[str, ...]

_NUMBERS = itertools.count()
_ARROW = {
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "binary": pa.binary(),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", "UTC"),
    "uuid": pa.binary(16),
}


def arrow_schema(schema: Schema) -> pa.Schema:
    """The schema of a file for a draft: every column and member has its field id."""
    return pa.schema([_arrow_field(f) for f in schema])


def _arrow_field(field: Field) -> pa.Field:
    metadata = None if field.id is None else {"PARQUET:field_id": str(field.id)}
    return pa.field(field.name, _arrow_type(field.type), metadata=metadata)


def _arrow_type(kind: Type) -> pa.DataType:
    inner = [_arrow_field(f) for f in kind.fields]
    if kind.name == "struct":
        return pa.struct(inner)
    if kind.name == "list":
        return pa.list_(inner[0])
    if kind.name == "map":
        return pa.map_(inner[0].with_nullable(False), inner[1])
    return pa.decimal128(kind.precision, kind.scale) if kind.name == "decimal" else _ARROW[kind.name]


def written(draft: Draft, rows: Sequence[Row], *, partition: Sequence[Any] = (), schema: pa.Schema | None = None) -> DataFile:
    """Writes rows into a file of a draft; columns that a row lacks are null. `schema` writes other columns or ids than the draft's."""
    path = os.path.join(draft.folder, f"rows{os.getpid()}x{next(_NUMBERS)}-s{draft.schema_id}-0.parquet")
    pq.write_table(pa.Table.from_pylist([dict(r) for r in rows], schema=schema or arrow_schema(draft.schema)), path)
    return DataFile(path, len(rows), os.path.getsize(path), tuple(partition), draft.schema_id)


def rows_of(scan: Scan) -> list[dict[str, Any]]:
    """All rows of a scan in its current columns, found by field id in each file. Position deletes are not for this reader."""
    made = []
    for file in scan.files:
        table = pq.ParquetFile(file.path).read()
        columns = {_id(f): (f, table.column(i).to_pylist()) for i, f in enumerate(table.schema)}
        for i in range(table.num_rows):
            made.append({f.name: _value(f.type, *_at(columns, f.id, i)) for f in scan.schema})
    return made


def _at(columns: Mapping[int | None, tuple[pa.Field, list[Any]]], number: int | None, i: int) -> tuple[pa.DataType, Any]:
    field, values = columns.get(number, (None, []))
    return (field.type, values[i]) if field is not None else (None, None)


def _value(kind: Type, found: pa.DataType, value: Any) -> Any:
    """A value of a file, with its members found by id."""
    if value is None or not kind.fields:
        return value
    if kind.name == "struct":
        members = {_id(found.field(i)): found.field(i) for i in range(found.num_fields)}
        got = {f.name: members.get(f.id) for f in kind.fields}
        return {f.name: _value(f.type, m.type, value[m.name]) if (m := got[f.name]) is not None else None for f in kind.fields}
    if kind.name == "list":
        return [_value(kind.fields[0].type, found.value_type, v) for v in value]
    return [(_value(kind.fields[0].type, found.key_type, k), _value(kind.fields[1].type, found.item_type, v)) for k, v in value]


def ids_of(schema: Schema) -> dict[Path, int | None]:
    """Name path -> field id of all columns and members; lists have `element`, maps `key` and `value`."""
    return dict(_ids(arrow_schema(schema)))


def ids_in(path: str) -> dict[Path, int | None]:
    """The same of a file."""
    return dict(_ids(pq.read_schema(path)))


def _ids(fields: Sequence[pa.Field], prefix: Path = ()) -> Iterator[tuple[Path, int | None]]:
    for field in fields:
        yield (*prefix, field.name), _id(field)
        yield from _ids(_members(field.type), (*prefix, field.name))


def _members(kind: pa.DataType) -> list[pa.Field]:
    if pa.types.is_struct(kind):
        return [kind.field(i) for i in range(kind.num_fields)]
    if pa.types.is_list(kind):
        return [kind.value_field.with_name("element")]
    if pa.types.is_map(kind):
        return [kind.key_field.with_name("key"), kind.item_field.with_name("value")]
    return []


def _id(field: pa.Field) -> int | None:
    text = (field.metadata or {}).get(b"PARQUET:field_id")
    return int(text) if text is not None else None
