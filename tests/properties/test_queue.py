"""The queue in an SQLite file against what it means in plain Python: longer sequences than the conformance suite takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from penstock.adapters.state.sqlite import SqliteState
from penstock.ground.clock import SystemClock
from penstock.ports.state import State
from penstock.testing.suites.queue import machine


def test_any_sequence_of_calls_agrees_with_the_model(tmp_path: Path) -> None:
    made = iter(range(100_000))

    def new_state() -> Callable[[], State]:
        return partial(SqliteState, tmp_path / f"{next(made)}" / "state.db", SystemClock())

    run_state_machine_as_test(
        machine(new_state),
        settings=settings(max_examples=50, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)),
    )
