"""The compute suite over processes of this machine and over none, and what only processes can be asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.ground.clock import SystemClock
from penstock.ground.ids import SystemIds
from penstock.ports.adapters import Context
from penstock.ports.compute import Compute
from penstock.project.adapters import opened
from penstock.testing.suites.compute import *  # noqa: F403
from penstock.testing.suites.compute import test_closing_ends_what_runs


def no_secret(name: str) -> str:
    raise AssertionError(name)


def context(folder: Path) -> Context:
    return Context(folder, SystemClock(), SystemIds(SystemClock()), no_secret)


@pytest.fixture(scope="module")
def open_ones() -> Iterator[dict[str, Compute]]:
    made: dict[str, Compute] = {}
    yield made
    for one in made.values():
        one.close()


@pytest.fixture(params=["process://?grace_s=0.3&gpus=3,5&preload=numpy", "process://?grace_s=0.3&preload=", "inline://"])
def compute(request: pytest.FixtureRequest, open_ones: dict[str, Compute], tmp_path: Path) -> Compute:
    """One for all tests, so that what a test leaves behind meets the next; that which a test closes is made anew."""
    if request.param not in open_ones:
        open_ones[request.param] = opened("compute", request.param, context(tmp_path))
    return open_ones.pop(request.param) if request.function is test_closing_ends_what_runs else open_ones[request.param]
