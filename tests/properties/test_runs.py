"""Merge and slices in parts against one computation of everything, over random batches of rows."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.runs.conftest import Workshop

MERGE = """
raw = ps.files("data/*.parquet")

@ps.table(key="k", time="ts", write=ps.merge())
def made(raw):
    return ps.sql("SELECT k, ts, v FROM raw")
"""
SLICES = """
raw = ps.files("data/*.parquet")

@ps.table(time="day", write=ps.slices("day", of="raw", on="ts"{more}))
def made(raw):
    return ps.sql("{query}")
"""
SUMS = "SELECT date_trunc('day', ts) AS day, sum(v) AS total, count(*) AS n FROM raw GROUP BY 1"
LOOKING_BACK = (
    "SELECT day, total, sum(total) OVER (ORDER BY day RANGE BETWEEN INTERVAL 1 DAY PRECEDING AND CURRENT ROW) AS two FROM "
    "(SELECT date_trunc('day', ts) AS day, sum(v) AS total FROM raw GROUP BY 1)"
)
rows = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 5 * 24), st.integers(0, 9)), min_size=1, max_size=12)
batches = st.lists(rows, min_size=1, max_size=4)
few = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))


def write(folder: Path, name: str, batch: list[tuple[int, int, int]]) -> None:
    table = pa.table(
        {
            "k": pa.array([k for k, _, _ in batch], pa.int64()),
            "ts": pa.array([h * 3_600_000_000 for _, h, _ in batch], pa.timestamp("us")),
            "v": pa.array([v for _, _, v in batch], pa.int64()),
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / name)


def contents(shop: Workshop) -> Counter[Any]:
    return Counter(tuple(r.values()) for r in shop.rows("SELECT * FROM made"))


def in_parts_and_at_once(pipeline: str, given_batches: list[list[tuple[int, int, int]]]) -> tuple[Counter[Any], Counter[Any]]:
    with tempfile.TemporaryDirectory() as place:
        parts, whole = Workshop(Path(place) / "parts"), Workshop(Path(place) / "whole")
        for shop in (parts, whole):
            shop.folder.mkdir()
            shop.pipeline(pipeline)
        for i, batch in enumerate(given_batches):
            write(parts.folder / "data", f"{i}.parquet", batch)
            parts.made()
            write(whole.folder / "data", f"{i}.parquet", batch)
        whole.made()
        return contents(parts), contents(whole)


@few
@given(batches)
def test_merge_in_parts_is_merge_at_once(given_batches: list[list[tuple[int, int, int]]]) -> None:
    parts, whole = in_parts_and_at_once(MERGE, given_batches)
    newest: dict[int, tuple[int, int, int]] = {}
    for k, h, v in (row for batch in given_batches for row in batch):
        newest[k] = max(newest.get(k, (h, k, v)), (h, k, v))
    assert parts == whole
    assert sorted((k, v) for (k, _, v), n in parts.items() for _ in range(n)) == sorted((k, v) for _, k, v in newest.values())


@pytest.mark.parametrize(("query", "more"), [(SUMS, ""), (LOOKING_BACK, ", lookback=1")])
@few
@given(given_batches=batches)
def test_slices_in_parts_are_slices_at_once(query: str, more: str, given_batches: list[list[tuple[int, int, int]]]) -> None:
    parts, whole = in_parts_and_at_once(SLICES.format(query=query, more=more), given_batches)
    assert parts == whole
