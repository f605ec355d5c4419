"""Parquet and Arrow files: typed already, so that most columns pass as they are; a value that does not fit the recorded type is rejected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.ipc

from penstock.adapters.engine.duckdb.raw.stage import Staged, reading_errors
from penstock.adapters.engine.duckdb.raw.texts import Formats, Reading, reading
from penstock.adapters.engine.duckdb.types import from_duck, to_duck
from penstock.ground.errors import QueryError, SourceError
from penstock.ground.names import literal, quote
from penstock.spec.schema import Type, primitive, strip_ids, widened

#: Columns that readers add, and that no file is expected to have.
PATH, FILE, LINE = "_penstock_path", "_penstock_file", "_penstock_line"


def columns_of(connection: duckdb.DuckDBPyConnection, staged: Staged, format: str) -> tuple[tuple[str, Any], ...]:
    """Names and DuckDB types of a file's columns. Raises: SourceError(E2001) naming the file."""
    with source_errors(staged):
        if format == "parquet":
            found = connection.sql(f"FROM read_parquet({literal(staged.path)})")
        else:
            with reading_errors(staged.file), open_arrow(staged.path) as reader:
                found = connection.from_arrow(reader.schema.empty_table())
        return tuple(zip(found.columns, found.types, strict=True))


@contextmanager
def source_errors(staged: Staged) -> Iterator[None]:
    """Raises DuckDB's errors about a file as SourceError(E2001) that names it."""
    try:
        yield
    except duckdb.Error as error:
        said = str(error).split("\n")[0].replace(staged.path, staged.file.label)[:200]
        raise SourceError("cannot be read: truncated, corrupt or not what its name says", place=staged.file.label, got=said) from error


def kept(kind: Any) -> Type:
    try:
        return from_duck(kind)
    except QueryError:
        return primitive("string")


def cast(column: str, have: Any, want: Type, formats: Formats) -> Reading:
    """How a typed column is read as another type: as it is, by a cast that cannot lose, or through its text."""
    plain = kept(have)
    if str(have) == to_duck(want):
        return Reading(column, "FALSE")
    if not want.fields and (want.name == "string" or (str(have) != "UBIGINT" and widened(plain, want) == strip_ids(want))):
        return Reading(f"CAST({column} AS {to_duck(want)})", "FALSE")
    if plain.name in ("timestamp", "timestamptz", "date") and want.name in ("timestamp", "timestamptz", "date"):
        return reading(f"CAST(CAST({column} AS {to_duck(plain)}) AS VARCHAR)", want, Formats())
    return reading(
        f"CAST({'to_json(' + column + ')' if plain.fields else column} AS VARCHAR)", want, formats if plain.name == "string" else Formats()
    )


def parquet_relation(files: Sequence[Staged], names: Sequence[str]) -> str:
    """A query over Parquet files of the same columns: those as c0 ..., `_file` and `_line` (from 1)."""
    columns = "".join(f"{quote(name)} AS c{i}, " for i, name in enumerate(names))
    paths = ", ".join(literal(f.path) for f in files)
    number = f"CAST(parse_filename({PATH}, true) AS INTEGER)" if len(files) > 1 else str(files[0].number)
    read = f"read_parquet([{paths}], filename={literal(PATH)}, file_row_number=true, hive_partitioning=false)"
    return f"SELECT {columns}{number} AS _file, file_row_number + 1 AS _line FROM {read}"


def parquet_rows(connection: duckdb.DuckDBPyConnection, staged: Staged) -> int:
    """The number of rows the file's footer tells."""
    with source_errors(staged):
        query = f"SELECT num_rows FROM parquet_file_metadata({literal(staged.path)})"
        return int(connection.execute(query).fetchall()[0][0])


def broken_one(connection: duckdb.DuckDBPyConnection, files: Sequence[Staged]) -> None:
    """Reads each file whole. Raises: SourceError(E2001) for the first that cannot be read."""
    for staged in files:
        with source_errors(staged):
            connection.execute(
                f"SELECT bit_xor(hash(COLUMNS(*))) FROM read_parquet({literal(staged.path)}, hive_partitioning=false)"
            ).fetchall()


# -- Arrow ----------------------------------------------------------------------------------------------------------
@contextmanager
def open_arrow(path: str) -> Iterator[Any]:
    """An Arrow IPC file (Feather 2) or stream, as a reader of batches; closed at the end of the block."""
    with pa.OSFile(path, "rb") as source:
        head = source.read(6)
        source.seek(0)
        yield pa.ipc.open_file(source) if head == b"ARROW1" else pa.ipc.open_stream(source)


def arrow_batches(files: Sequence[Staged], given: dict[int, int]) -> pa.RecordBatchReader:
    """Rows of Arrow files of the same columns: those as c0 ..., `_file`, `_line`; rows per file number are counted in `given`."""
    with reading_errors(files[0].file), open_arrow(files[0].path) as reader:
        columns = [pa.field(f"c{i}", f.type) for i, f in enumerate(reader.schema)]
    schema = pa.schema([*columns, pa.field("_file", pa.int64()), pa.field("_line", pa.int64())])

    def made() -> Iterator[pa.RecordBatch]:
        for staged in files:
            with reading_errors(staged.file), open_arrow(staged.path) as reader:
                many = isinstance(reader, pa.ipc.RecordBatchFileReader)
                for batch in (reader.get_batch(i) for i in range(reader.num_record_batches)) if many else reader:
                    batch.validate(full=True)
                    start = given.get(staged.number, 0)
                    given[staged.number] = start + batch.num_rows
                    number = pa.array([staged.number] * batch.num_rows, pa.int64())
                    lines = pa.array(range(start + 1, start + batch.num_rows + 1), pa.int64())
                    yield pa.RecordBatch.from_arrays([*batch.columns, number, lines], schema=schema)

    return pa.RecordBatchReader.from_batches(schema, made())


def by_columns(files: Mapping[Staged, tuple[tuple[str, Any], ...]]) -> list[tuple[tuple[tuple[str, Any], ...], list[Staged]]]:
    """Files with equal columns together, in the order of each group's first file."""
    found: dict[tuple[tuple[str, str], ...], tuple[tuple[tuple[str, Any], ...], list[Staged]]] = {}
    for staged, columns in files.items():
        found.setdefault(tuple((n, str(t)) for n, t in columns), (columns, []))[1].append(staged)
    return list(found.values())
