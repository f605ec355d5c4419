from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.adapters.engine.duckdb import DuckEngine
from penstock.adapters.engine.duckdb.session import DuckSession, Limits
from penstock.ground.clock import SystemClock
from penstock.ground.ids import SystemIds
from penstock.testing.suites.raw import Reader


@pytest.fixture
def session(tmp_path: Path) -> Iterator[DuckSession]:
    made = DuckEngine(tmp_path / "spill", Limits("1GB", "2"), SystemIds(SystemClock())).session()
    yield made
    made.close()


@pytest.fixture
def reader(session: DuckSession, tmp_path: Path) -> Reader:
    return Reader(session, tmp_path)
