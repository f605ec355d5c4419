"""The queue suite over the queue in memory and the one in an SQLite file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from penstock.adapters.state.sqlite import SqliteState
from penstock.ground.clock import SystemClock
from penstock.ports.state import State
from penstock.testing.states import MemoryState
from penstock.testing.suites.queue import *  # noqa: F403
from penstock.testing.suites.queue import NewState


@pytest.fixture(params=["memory", "sqlite"])
def new_state(request: pytest.FixtureRequest, tmp_path: Path) -> NewState:
    made = iter(range(10_000))

    def sqlite() -> Callable[[], State]:
        return partial(SqliteState, tmp_path / f"{next(made)}" / "state.db", SystemClock())

    def memory() -> Callable[[], State]:
        state = MemoryState()
        return lambda: state

    return sqlite if request.param == "sqlite" else memory
