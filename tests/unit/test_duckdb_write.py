"""Large outputs are cut into several files, in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from penstock.adapters.engine.duckdb import write as writing
from penstock.ground.errors import QueryError
from penstock.spec.partitions import Partition, by
from penstock.testing.clock import SeededIds
from penstock.testing.suites.engine import columns, draft_in

ROWS = 400_000


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    made = duckdb.connect(config={"temp_directory": str(tmp_path / "spill"), "threads": "2"})
    yield made
    made.close()


@pytest.fixture
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "LARGEST_FILE_BYTES", 600_000)
    monkeypatch.setattr(writing, "TARGET_FILE_BYTES", 300_000)


@pytest.mark.usefixtures("_small_files")
@pytest.mark.parametrize(
    ("partition", "k"), [((), "0"), ((by("k"),), "i // 200000"), ((by("k"),), "i % 2")], ids=["whole", "together", "scattered"]
)
def test_a_large_output_becomes_several_files_in_order(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, partition: tuple[Partition, ...], k: str
) -> None:
    draft = draft_in(tmp_path / "t", columns(k="long", a="long", h="double"), *partition)
    query = f"SELECT i AS a, {k} AS k, hash(i) / 1e19 AS h FROM range({ROWS}) r(i)"
    files = writing.write(connection, query, draft, ids=SeededIds())
    assert len(files) > 3
    assert {str(p) for p in (tmp_path / "t").rglob("*")} == {f.path for f in files}
    found: dict[object, list[int]] = {}
    for file in files:
        values = pq.read_table(file.path)["a"].to_pylist()
        assert len(values) == file.rows
        found.setdefault(file.partition, []).extend(values)
    assert all(values == sorted(values) for values in found.values())
    assert sorted(a for values in found.values() for a in values) == list(range(ROWS))
    assert list((tmp_path / "spill").glob("stage*")) == []


def test_the_number_of_threads_is_as_before(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    draft = draft_in(tmp_path / "t", columns(k="long"), by("k"))
    writing.write(connection, "SELECT i % 2 AS k FROM range(4) r(i)", draft, ids=SeededIds())
    with pytest.raises(QueryError):
        writing.write(connection, "SELECT CASE WHEN i = 3 THEN error('x') ELSE i % 2 END AS k FROM range(4) r(i)", draft, ids=SeededIds())
    assert connection.execute("SELECT current_setting('threads')").fetchall() == [(2,)]
