"""The raw file suite over the embedded engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.adapters.engine.duckdb import DuckEngine
from penstock.adapters.engine.duckdb.session import Limits
from penstock.ground.clock import SystemClock
from penstock.ground.ids import SystemIds
from penstock.testing.suites.raw import *  # noqa: F403


@pytest.fixture
def engine(tmp_path: Path) -> DuckEngine:
    return DuckEngine(tmp_path / "spill", Limits("1GB", "2"), SystemIds(SystemClock()))
