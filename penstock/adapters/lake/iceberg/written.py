"""What is checked of a written Parquet file before it is committed, and its entry for the manifest with statistics from its footer.

Iceberg's own `add_files` accepts files with swapped, foreign or missing field ids, and takes partition values from a column's minimum
and maximum, NULLs or not; each of these gave wrong rows without an error. So all of it is checked here, from the footer alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.manifest import DataFile as IcebergFile
from pyiceberg.manifest import DataFileContent, FileFormat
from pyiceberg.schema import Schema as IcebergSchema
from pyiceberg.typedef import Record

from penstock.adapters.lake.iceberg.columns import schema_json
from penstock.adapters.lake.iceberg.footers import statistics
from penstock.adapters.lake.iceberg.places import schema_id_of, uri
from penstock.ground.errors import FileIdsWrong, StorageError
from penstock.ports.lake import DataFile, Draft
from penstock.spec.schema import Field, Type

Path = tuple[str, ...]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR_US = 3_600_000_000
_DAY_US = 24 * _HOUR_US
#: Iceberg type -> Arrow types of the files' columns that every reader takes for it. Smaller numbers are widened by readers.
_ARROW: Mapping[str, tuple[pa.DataType, ...]] = {
    "boolean": (pa.bool_(),),
    "int": (pa.int32(), pa.int16(), pa.int8()),
    "long": (pa.int64(), pa.int32(), pa.int16(), pa.int8()),
    "float": (pa.float32(),),
    "double": (pa.float64(), pa.float32()),
    "string": (pa.string(), pa.large_string()),
    "binary": (pa.binary(), pa.large_binary()),
    "date": (pa.date32(),),
    "time": (pa.time64("us"),),
    "timestamp": (pa.timestamp("us"),),
    "timestamptz": (pa.timestamp("us", "UTC"),),
    "uuid": (pa.binary(16), pa.uuid()),
}


def checked(draft: Draft, file: DataFile, spec_id: int) -> IcebergFile | None:
    """The manifest entry of a new file, now durable; None for a file without rows, which is left out.

    Raises: StorageError(E4001) if the file is missing, damaged or not as told; FileIdsWrong(E4008).
    """
    footer = _footer(draft, file)
    schema = footer.schema.to_arrow_schema()
    _require_ids(draft, file, schema)
    _require_partition(draft, file, footer)
    _sync(file.path)
    if not footer.num_rows:
        return None
    iceberg = IcebergSchema.model_validate(schema_json(draft.schema, draft.schema_id))
    kinds = {f.field_id: f.field_type for f in iceberg.fields if f.field_type.is_primitive}
    made = IcebergFile.from_args(
        content=DataFileContent.DATA,
        file_path=uri(file.path),
        file_format=FileFormat.PARQUET,
        partition=Record(*file.partition),
        file_size_in_bytes=file.size_bytes,
        sort_order_id=None,
        equality_ids=None,
        key_metadata=None,
        **statistics(footer, list(_leaf_ids(schema)), kinds),
    )
    made.spec_id = spec_id
    return made


def _footer(draft: Draft, file: DataFile) -> pq.FileMetaData:
    place = f"{draft.table}: {os.path.basename(file.path)}"
    if os.path.dirname(file.path) != draft.folder:
        raise StorageError("a file to commit is not in the draft's folder", place=place, expected=draft.folder, got=file.path)
    try:
        footer = pq.read_metadata(file.path)
        size = os.path.getsize(file.path)
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise StorageError("a file to commit is missing or no Parquet file", place=place, got=error) from error
    if (footer.num_rows, size) != (file.rows, file.size_bytes):
        told = f"{file.rows} rows, {file.size_bytes} bytes"
        raise StorageError("a file to commit is not as told", place=place, expected=told, got=f"{footer.num_rows} rows, {size} bytes")
    if (number := schema_id_of(file.path)) is not None and number != draft.schema_id:
        raise StorageError(
            "a file to commit was named for another schema", place=place, expected=f"-s{draft.schema_id}-", got=f"-s{number}-"
        )
    return footer


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        os.utime(handle)  # young again, so that no orphan is seen in a file that waited long for its commit
    finally:
        os.close(handle)


# -- field ids ------------------------------------------------------------------------------------------------------
def _require_ids(draft: Draft, file: DataFile, schema: pa.Schema) -> None:
    """Every column and member of the draft must be in the file, under its id and a type that fits; and nothing else."""
    want = dict(_wanted(draft.schema.fields))
    found = dict(_found(schema))
    wrong = sorted(
        {*want, *found} - {p for p in want.keys() & found.keys() if want[p].id == found[p][0] and _fits(want[p].type, found[p][1])}
    )
    if wrong:
        path = wrong[0]
        raise FileIdsWrong(
            "a written file does not fit the table; committing it would move values between columns",
            place=f"{draft.table}[{'.'.join(path)}]: {os.path.basename(file.path)}",
            expected=f"field id {want[path].id}, {want[path].type}" if path in want else "no such column",
            got=f"field id {found[path][0]}, {found[path][1]}" if path in found else "no such column",
            hint="write with the draft's field ids, nested ones included, and its current names",
        )


def _wanted(fields: Sequence[Field], prefix: Path = ()) -> Iterator[tuple[Path, Field]]:
    for field in fields:
        yield (*prefix, field.name), field
        yield from _wanted(field.type.fields, (*prefix, field.name))


def _found(fields: Sequence[pa.Field], prefix: Path = ()) -> Iterator[tuple[Path, tuple[int | None, pa.DataType]]]:
    for field in fields:
        yield (*prefix, field.name), (_id(field), field.type)
        yield from _found(_inner(field.type), (*prefix, field.name))


def _inner(kind: pa.DataType) -> list[pa.Field]:
    """Members of a nested type, called as the lake calls them."""
    if pa.types.is_struct(kind):
        return [kind.field(i) for i in range(kind.num_fields)]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return [kind.value_field.with_name("element")]
    if pa.types.is_map(kind):
        return [kind.key_field.with_name("key"), kind.item_field.with_name("value")]
    return []


def _id(field: pa.Field) -> int | None:
    text = (field.metadata or {}).get(b"PARQUET:field_id")
    return int(text) if text is not None else None


def _leaf_ids(fields: Sequence[pa.Field]) -> Iterator[int]:
    """Ids of the leaves, in the order of the file's columns."""
    for field in fields:
        inner = _inner(field.type)
        yield from _leaf_ids(inner) if inner else (_id(field) or 0,)


def _fits(kind: Type, found: pa.DataType) -> bool:
    if kind.name == "decimal":
        return bool(pa.types.is_decimal(found) and found.scale == kind.scale and found.precision <= kind.precision)
    if kind.fields:
        return bool({"struct": pa.types.is_struct, "list": _is_list, "map": pa.types.is_map}[kind.name](found))
    return found in _ARROW[kind.name]


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


# -- partitions -----------------------------------------------------------------------------------------------------
def _require_partition(draft: Draft, file: DataFile, footer: pq.FileMetaData) -> None:
    """The file's rows must all lie in the partition it is said to be in, as far as the footer can tell."""
    if len(file.partition) != len(draft.partition):
        place = f"{draft.table}: {os.path.basename(file.path)}"
        expected = ", ".join(p.column for p in draft.partition) or "no partition"
        raise StorageError("a file has not one value for each partition field", place=place, expected=expected, got=file.partition)
    for part, value in zip(draft.partition, file.partition, strict=True):
        seen = _seen(footer, part.column)
        if not all(_is_in(part.transform, value, chunk) for chunk in seen):
            raise StorageError(
                "a file has rows of another partition than the one it is committed to; filters would miss them",
                place=f"{draft.table}[{part.column}]: {os.path.basename(file.path)}",
                expected=f"{part.transform} {value!r}",
                got="; ".join(f"{s.min!r} to {s.max!r}, {s.null_count} nulls" for s in seen),
            )


def _seen(footer: pq.FileMetaData, column: str) -> list[pq.Statistics]:
    """Statistics of a column in all row groups that have them."""
    at = [footer.schema.column(i).path for i in range(footer.num_columns)].index(column)
    chunks = (footer.row_group(g).column(at) for g in range(footer.num_row_groups))
    return [c.statistics for c in chunks if c.is_stats_set]


def _is_in(transform: str, value: Any, seen: pq.Statistics) -> bool:
    if seen.has_null_count and (seen.num_values if value is None else seen.null_count):
        return False
    if value is None or transform == "bucket" or not seen.has_min_max:
        return True
    low, high = (transformed(transform, bound) for bound in (seen.min, seen.max))
    return bool(low == value == high) or (isinstance(value, str) and len(value.encode()) > 32)


def transformed(transform: str, value: Any) -> Any:
    """A column's value as a partition value: times as Iceberg counts them from 1970, in UTC. Not for `bucket`."""
    if isinstance(value, datetime):
        value = (value if value.tzinfo else value.replace(tzinfo=UTC)) - _EPOCH
        at = value // timedelta(microseconds=1)
        day = at // _DAY_US
    elif isinstance(value, date):
        at = day = (value - _EPOCH.date()).days
    else:
        return value
    if transform in ("identity", "day", "hour"):
        return {"identity": at, "day": day, "hour": at // _HOUR_US}[transform]
    when = _EPOCH + timedelta(days=day)
    years = when.year - 1970
    return years if transform == "year" else years * 12 + when.month - 1
