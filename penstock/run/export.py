"""Copies of rows outside the lake: Parquet, CSV, JSON, NDJSON, Arrow; whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.ground.errors import DefinitionError
from penstock.ground.paths import sync_folder

if TYPE_CHECKING:
    import pyarrow as pa


def write_rows(reader: pa.RecordBatchReader, path: Path) -> int:
    """Writes a stream of rows to a file; its ending says the format. Returns the number of rows.

    Raises: DefinitionError(E1001) for an unknown ending. OSError.
    """
    ending = path.suffix.lower()
    if ending not in WRITERS:
        raise DefinitionError("unknown ending of an export", place=path.name, expected=", ".join(WRITERS), got=ending or "none")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        count = WRITERS[ending](reader, draft)
        with open(draft, "rb") as written:
            os.fsync(written.fileno())
        os.replace(draft, path)
        sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)
    return count


def _parquet(reader: pa.RecordBatchReader, path: Path) -> int:
    import pyarrow.parquet as pq

    count = 0
    with pq.ParquetWriter(path, reader.schema, compression="zstd") as out:
        for batch in reader:
            out.write_batch(batch)
            count += batch.num_rows
    return count


def _csv(reader: pa.RecordBatchReader, path: Path) -> int:
    import pyarrow as pa
    from pyarrow import csv

    flat = pa.schema([pa.field(f.name, pa.string() if pa.types.is_nested(f.type) else f.type) for f in reader.schema])
    count = 0
    with csv.CSVWriter(str(path), flat) as out:
        for batch in reader:
            columns = [
                pa.array([None if v is None else json.dumps(v, default=str) for v in c.to_pylist()], pa.string())
                if pa.types.is_nested(c.type)
                else c
                for c in batch.columns
            ]
            out.write_batch(pa.record_batch(columns, schema=flat))
            count += batch.num_rows
    return count


def _ndjson(reader: pa.RecordBatchReader, path: Path) -> int:
    count = 0
    with open(path, "w", encoding="utf-8") as out:
        for batch in reader:
            for row in batch.to_pylist():
                out.write(json.dumps(row, default=str, ensure_ascii=False) + "\n")
            count += batch.num_rows
    return count


def _json(reader: pa.RecordBatchReader, path: Path) -> int:
    count = 0
    with open(path, "w", encoding="utf-8") as out:
        out.write("[")
        for batch in reader:
            for row in batch.to_pylist():
                out.write(("," if count else "") + "\n" + json.dumps(row, default=str, ensure_ascii=False))
                count += 1
        out.write("\n]\n")
    return count


def _arrow(reader: pa.RecordBatchReader, path: Path) -> int:
    import pyarrow as pa

    count = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, reader.schema) as out:
        for batch in reader:
            out.write_batch(batch)
            count += batch.num_rows
    return count


WRITERS: dict[str, Callable[[Any, Path], int]] = {
    ".parquet": _parquet, ".csv": _csv, ".ndjson": _ndjson, ".jsonl": _ndjson, ".json": _json, ".arrow": _arrow,
}  # fmt: skip
