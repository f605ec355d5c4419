"""Writing a query into Parquet files of a draft: its columns, types and field ids, one partition per file, rows in order.

DuckDB keeps the order of rows, on all cores, only while it writes one file. So a query is computed into one file first, and cut
into several only where it must be: by partition, or because it is too large. A cut is a range of row numbers of the first file,
and reading it opens just the row groups that it touches. Only if the rows of a partition do not stand together are they parted
by `PARTITION_BY`, then on one core, for the order's sake.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from penstock.adapters.engine.duckdb.errors import Known, engine_errors, misfit_head
from penstock.adapters.engine.duckdb.query import relation_of
from penstock.adapters.engine.duckdb.scan import PATH, POSITION, read_parquet, traceable
from penstock.adapters.engine.duckdb.types import field_ids, from_duck, null_of, to_duck
from penstock.ground.errors import QueryError, Unsupported, did_you_mean
from penstock.ground.ids import Ids
from penstock.ground.names import literal, quote
from penstock.ports.lake import DataFile, Draft
from penstock.spec.partitions import Partition
from penstock.spec.schema import Field, strip_ids, widened

#: A file above the first size is cut into files of about the second. Source: Iceberg's default `write.target-file-size-bytes`.
LARGEST_FILE_BYTES = 1 << 30
TARGET_FILE_BYTES = 512 << 20

Values = tuple[int | str | bool | float | None, ...]


def write(connection: duckdb.DuckDBPyConnection, query: str, draft: Draft, *, ids: Ids, known: Known | None = None) -> tuple[DataFile, ...]:
    """Computes a query into Parquet files; see `Session.write`. Columns that tell a row's place are left out.

    File names: `part-s<schema id>-<number>-<fresh id>.parquet`.
    Raises: QueryError(E1006), Unsupported(E4007), StorageFull(E4006), MemoryLimit(E5003); then no file stays.
    """
    with engine_errors(draft.table, known):
        given = relation_of(connection, query, {})
        columns = _projection(connection, dict(zip(given.columns, given.types, strict=True)), draft)
        keys = [_key(p, draft) for p in draft.partition]
        job = _Writing(connection, draft, ids.new())
        try:
            return job.partitioned(query, columns, keys) if keys else job.whole(query, columns)
        except BaseException:
            job.remove_written()
            raise
        finally:
            job.remove_stages()


@dataclass
class _Writing:
    """One write: what its file names have in common, and how many there are."""

    connection: duckdb.DuckDBPyConnection
    draft: Draft
    id: str
    count: int = 0
    stages: list[str] = field(default_factory=list)

    def whole(self, query: str, columns: Sequence[str]) -> tuple[DataFile, ...]:
        names = [quote(f.name) for f in self.draft.schema]
        first = self._copy(f"SELECT {_listed(columns, names)} FROM ({query}\n) q", ())
        if first.rows and (first.size_bytes <= LARGEST_FILE_BYTES or not traceable(self.draft.schema)):
            return (first,)
        files = self._cut(first.path, names, (0, first.rows), first.size_bytes, ())
        os.remove(first.path)
        return files

    def partitioned(self, query: str, columns: Sequence[str], keys: Sequence[Key]) -> tuple[DataFile, ...]:
        """By way of a stage, a file next to the engine's spill files that also holds the partition values."""
        names = [quote(f.name) for f in self.draft.schema]
        plain = [f"c{i}" for i in range(len(names))]
        values = [f"k{i}" for i in range(len(keys))]
        named = f"SELECT {_listed(columns, names)} FROM ({query}\n) q"
        valued = f"SELECT {_listed(names, plain)}, {_listed([k.value for k in keys], values)} FROM ({named})"
        code = " || '/' || ".join(k.code.format(v) for k, v in zip(keys, values, strict=True))
        stage = self._stage(f"SELECT *, {code} AS code FROM ({valued})")
        parts = self._parts(stage, values)
        renamed = [f"{c} AS {n}" for c, n in zip(plain, names, strict=True)]
        if any(end - first != rows for _, _, rows, first, end in parts):
            return self._scattered(stage, renamed, {code: partition for code, partition, *_ in parts})
        files: list[DataFile] = []
        for _, partition, _, first, end in parts:
            file = self._copy(_rows(stage, renamed, first, end), partition)
            files.append(file)
            if file.size_bytes > LARGEST_FILE_BYTES:
                os.remove(files.pop().path)
                files += self._cut(stage, renamed, (first, end), file.size_bytes, partition)
        return tuple(files)

    def _parts(self, stage: str, values: Sequence[str]) -> list[tuple[str, Values, int, int, int]]:
        """Per partition: its code, its values, number of rows, first row, row after its last; in the order of the first rows."""
        found = ", ".join(f"any_value({v})" for v in values)
        query = f"SELECT code, count(*), min(file_row_number), max(file_row_number) + 1, {found} FROM {read_parquet([stage])}"
        rows = self.connection.execute(f"{query} GROUP BY code ORDER BY 3").fetchall()
        return [(code, tuple(partition), count, first, end) for code, count, first, end, *partition in rows]

    def _scattered(self, stage: str, columns: Sequence[str], partitions: Mapping[str, Values]) -> tuple[DataFile, ...]:
        """One pass over a stage into a folder per partition, whose files then get our names."""
        folder = os.path.join(self.draft.folder, f"parting-{self.id}.parquet")
        threads = self.connection.execute("SELECT current_setting('threads')").fetchall()[0][0]
        options = f"{self._options()}, PARTITION_BY (code), FILE_SIZE_BYTES {TARGET_FILE_BYTES}"
        self.connection.execute("SET threads = 1")
        try:
            query = f"SELECT {', '.join(columns)}, code FROM {read_parquet([stage])}"
            written = self.connection.execute(f"COPY ({query}) TO {literal(folder)} ({options})").fetchall()
        finally:
            self.connection.execute(f"SET threads = {threads}")
        order = {code: i for i, code in enumerate(partitions)}
        made = [
            (order[keys["code"]], len(path), path, rows, size_bytes, keys["code"]) for path, rows, size_bytes, _, _, keys, *_ in written
        ]
        files: list[DataFile] = []
        for _, _, path, rows, size_bytes, code in sorted(made):  # data_2 before data_10
            os.replace(path, target := self._path())
            files.append(DataFile(target, rows, size_bytes, partitions[code], self.draft.schema_id))
        shutil.rmtree(folder)
        return tuple(files)

    def _cut(self, source: str, columns: Sequence[str], rows: tuple[int, int], size_bytes: int, partition: Values) -> tuple[DataFile, ...]:
        """Rows `[first, end)` of a file as several files of about the target size; none for no rows."""
        first, end = rows
        step = max(1, -(-(end - first) // -(-size_bytes // TARGET_FILE_BYTES)))
        return tuple(self._copy(_rows(source, columns, at, min(at + step, end)), partition) for at in range(first, end, step))

    def _stage(self, query: str) -> str:
        folder = str(self.connection.execute("SELECT current_setting('temp_directory')").fetchall()[0][0])
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, f"stage-{len(self.stages)}-{self.id}.parquet")
        self.stages.append(path)
        self.connection.execute(f"COPY ({query}) TO {literal(path)} (FORMAT parquet, COMPRESSION lz4)")
        return path

    def _copy(self, query: str, partition: Values) -> DataFile:
        path = self._path()
        _, rows, size_bytes, *_ = self.connection.execute(f"COPY ({query}) TO {literal(path)} ({self._options()})").fetchall()[0]
        return DataFile(path, rows, size_bytes, partition, self.draft.schema_id)

    def _path(self) -> str:
        self.count += 1
        return os.path.join(self.draft.folder, f"part-s{self.draft.schema_id}-{self.count - 1}-{self.id}.parquet")

    def _options(self) -> str:
        return f"FORMAT parquet, COMPRESSION zstd, FIELD_IDS {field_ids(self.draft.schema)}, RETURN_STATS"

    def remove_written(self) -> None:
        """Removes all files of this write, finished or not."""
        for entry in os.scandir(self.draft.folder):
            if entry.name.endswith(f"-{self.id}.parquet"):
                shutil.rmtree(entry.path) if entry.is_dir() else os.remove(entry.path)

    def remove_stages(self) -> None:
        for path in self.stages:
            Path(path).unlink(missing_ok=True)


def _listed(expressions: Sequence[str], names: Sequence[str]) -> str:
    return ", ".join(f"{e} AS {n}" for e, n in zip(expressions, names, strict=True))


def _rows(source: str, columns: Sequence[str], first: int, end: int) -> str:
    """Rows `[first, end)` of a file; only the row groups that hold them are opened."""
    return f"SELECT {', '.join(columns)} FROM {read_parquet([source])} WHERE file_row_number BETWEEN {first} AND {end - 1}"


# -- columns --------------------------------------------------------------------------------------------------------
def _projection(connection: duckdb.DuckDBPyConnection, given: Mapping[str, Any], draft: Draft) -> list[str]:
    """An expression for each column of the draft: the query's column of that name, cast if need be, else null.

    Raises: QueryError(E1006) for a column of the query that the draft lacks, or a type that can never be cast.
    """
    lower = {name.lower(): name for name in given}
    wanted = {name.lower() for name in draft.schema.names}
    if surplus := [name for name in given if name.lower() not in wanted and name not in (PATH, POSITION)]:
        hint = did_you_mean(surplus[0], draft.schema.names)
        raise QueryError("the query gives a column that the table lacks", place=f"{draft.table}[{surplus[0]}]", hint=hint)
    found = []
    for column in draft.schema:
        name = lower.get(column.name.lower())
        found.append(null_of(column.type) if name is None else _cast(connection, quote(name), given[name], column, draft.table))
    return found


def _cast(connection: duckdb.DuckDBPyConnection, source: str, have: Any, want: Field, table: str) -> str:
    """A column as the draft's type. A value that does not fit, or would be changed by the cast, ends the query with its column."""
    target = to_duck(want.type)
    if str(have) == target:
        return source
    place = f"{table}[{want.name}]"
    plain = from_duck(have, place=place)
    if str(have).upper() not in _MAY_OVERFLOW and widened(plain, want.type) == strip_ids(want.type):
        return f"CAST({source} AS {target})"
    try:
        connection.execute(f"DESCRIBE SELECT CAST(x AS {target}) FROM (SELECT CAST(NULL AS {have}) AS x)").fetchall()
    except duckdb.Error as error:
        raise QueryError("the column cannot be cast", place=place, expected=want.type, got=plain) from error
    attempt = f"TRY_CAST({source} AS {target})"
    misfit = f"{attempt} IS NULL"
    if plain.name in _MEASURES and want.type.name in _MEASURES:
        misfit = f"({misfit} OR CAST({attempt} AS {have}) IS DISTINCT FROM {source})"
    head, tail = literal(misfit_head(want.name)), literal(f" does not fit {want.type}")
    text = f"{head} || left(CAST({source} AS VARCHAR), 80) || {tail}"
    return f"CASE WHEN {source} IS NOT NULL AND {misfit} THEN CAST(error({text}) AS {target}) ELSE {attempt} END"


#: Types whose greatest values the lake's nearest type does not hold.
_MAY_OVERFLOW = {"HUGEINT", "UHUGEINT", "UBIGINT"}
#: Types between which a cast can round: then the way there and back must give the value again.
_MEASURES = {"int", "long", "float", "double", "decimal", "date", "timestamp", "timestamptz"}


# -- partitions -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Key:
    """A partition field: the expression of its value, and of a text that tells its values and null apart."""

    value: str
    code: str = "coalesce(CAST({} AS VARCHAR), 'null')"


_DATES = {"date", "timestamp", "timestamptz"}
_SPANS = {"year": _DATES, "month": _DATES, "day": _DATES, "hour": {"timestamp", "timestamptz"}}
_NUMBERS = {"boolean", "int", "long", "float", "double"}
_COUNTED = {"date": "date_diff('day', DATE '1970-01-01', {})", "timestamp": "epoch_us({})", "timestamptz": "epoch_us({})"}


def _key(partition: Partition, draft: Draft) -> Key:
    """The values of a partition field: spans counted from 1970 and rounded down, other values as Iceberg keeps them.

    Raises: Unsupported(E4007) for buckets, whose hash DuckDB lacks, and for types without a plain value.
    Source: Iceberg specification v2, "Partition Transforms".
    """
    column = draft.schema.field(partition.column, of=draft.table)
    name, kind = quote(column.name), column.type.name
    if partition.transform in _SPANS and kind in _SPANS[partition.transform]:
        moment = f"({name} AT TIME ZONE 'UTC')" if kind == "timestamptz" else name
        if partition.transform == "hour":
            return Key(f"date_diff('hour', TIMESTAMP '1970-01-01', {moment})")
        return Key(f"date_diff('{partition.transform}', DATE '1970-01-01', CAST({moment} AS DATE))")
    if partition.transform == "identity" and kind in _NUMBERS:
        return Key(name)
    if partition.transform == "identity" and kind in _COUNTED:
        return Key(_COUNTED[kind].format(name))
    if partition.transform == "identity" and kind == "string":
        return Key(name, "coalesce(md5({}), 'null')")
    raise Unsupported(
        "this engine cannot partition so",
        place=f"{draft.table}[{partition.column}]",
        got=f"{partition.transform} of {column.type}",
        hint="year, month, day and hour of times, and identity of texts, numbers and times work",
    )
