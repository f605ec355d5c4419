"""Reading by field ids: what is asked of DuckDB, and files that cannot be told."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.adapters.engine.duckdb.scan import exact, scan_sql, traceable
from penstock.ground.errors import FileIdsWrong, Unsupported
from penstock.ports.lake import DataFile
from penstock.spec.schema import Field, Schema, primitive

SCHEMA = Schema((Field("a", primitive("long"), 1),))


def file(path: str, *deletes: str) -> DataFile:
    return DataFile(path, 1, 1, (), 0, deletes)


def test_files_in_the_current_schema_are_read_as_they_are() -> None:
    text = scan_sql(duckdb.connect(), SCHEMA, [file("/x/1"), file("/x/2")], {0: SCHEMA})
    assert text == "SELECT \"a\" AS \"a\" FROM read_parquet(['/x/1', '/x/2'], hive_partitioning=false) f"


def test_paths_match_only_themselves() -> None:
    assert exact("/a[1]/*?.parquet") == "/a[[]1]/[*][?].parquet"


@pytest.mark.parametrize("name", ["_path", "_POS", "file_row_number"])
def test_names_that_tracing_needs(name: str) -> None:
    schema = Schema((Field(name, primitive("long"), 1),))
    assert not traceable(schema)
    with pytest.raises(Unsupported):
        scan_sql(duckdb.connect(), schema, [file("/x", "/d")], {0: schema})


def test_a_file_without_ids_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(FileIdsWrong) as caught:
        scan_sql(duckdb.connect(), SCHEMA, [file(path)], {})
    assert caught.value.place == path
