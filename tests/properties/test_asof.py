"""The point-in-time join equals a search over all rows that is obviously right."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.adapters.engine.duckdb import DuckEngine
from penstock.ports.adapters import Context
from penstock.ports.engine import Session
from penstock.testing.clock import ManualClock, SeededIds

START = datetime(2026, 1, 1, tzinfo=UTC)
KEYS = st.none() | st.sampled_from(["a", "b", ""])
NUMBERS = st.none() | st.integers(0, 2)
#: Few moments, so that ties are common; microseconds, so that the edge of an age is met.
MOMENTS = st.none() | st.integers(0, 6).map(lambda n: START + timedelta(microseconds=n))
LEFT = st.lists(st.tuples(KEYS, NUMBERS, MOMENTS), max_size=12)
RIGHT = st.lists(st.tuples(KEYS, NUMBERS, MOMENTS, MOMENTS), max_size=12)
WITHIN = st.none() | st.integers(0, 6)
INSTANT = pa.timestamp("us", "UTC")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder: Path = tmp_path_factory.mktemp("engine")
    made = DuckEngine.open("duckdb:", Context(folder, ManualClock(), SeededIds(), str)).session()
    yield made
    made.close()


def best(left: tuple[Any, ...], right: list[tuple[Any, ...]], keys: int, within: int | None, known: bool) -> set[int]:
    """Numbers of the right rows that may be taken for a left row: all the newest of those that count, empty if none counts."""
    at = left[2]
    if at is None or None in left[:keys]:
        return set()
    counts = [
        (row[2], n)
        for n, row in enumerate(right)
        if row[:keys] == left[:keys] and row[2] is not None and row[2] <= at and (not known or (row[3] is not None and row[3] <= at))
    ]
    newest = max((event for event, _ in counts), default=None)
    if newest is None or (within is not None and at - newest > timedelta(microseconds=within)):
        return set()
    return {n for event, n in counts if event == newest}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(left=LEFT, right=RIGHT, keys=st.integers(0, 2), within=WITHIN, known=st.booleans())
def test_asof_equals_a_search_over_all_rows(
    session: Session, left: list[tuple[Any, ...]], right: list[tuple[Any, ...]], keys: int, within: int | None, known: bool
) -> None:
    spine = {"n": list(range(len(left))), "k": [r[0] for r in left], "j": [r[1] for r in left], "at": [r[2] for r in left]}
    facts = {
        "row": list(range(len(right))),
        "again": [-n for n in range(len(right))],
        "k": [r[0] for r in right],
        "j": [r[1] for r in right],
        "event": [r[2] for r in right],
        "known": [r[3] for r in right],
    }
    session.bind("spine", pa.table(spine, pa.schema([("n", pa.int64()), ("k", pa.string()), ("j", pa.int64()), ("at", INSTANT)])))
    fields = [("row", pa.int64()), ("again", pa.int64()), ("k", pa.string()), ("j", pa.int64()), ("event", INSTANT), ("known", INSTANT)]
    session.bind("facts", pa.table(facts, pa.schema(fields)))
    session.asof(
        "joined", "spine", "facts", by=["k", "j"][:keys], on="at", right_on="event",
        within_s=None if within is None else within / 1e6, take=["row", "again"], right_known="known" if known else None,
    )  # fmt: skip
    found = session.rows("SELECT n, row, again FROM joined ORDER BY n")
    assert [n for n, _, _ in found] == list(range(len(left)))
    for n, row, again in found:
        wanted = best(left[n], right, keys, within, known)
        assert row in wanted if wanted else row is None
        assert again == (None if row is None else -row)
