"""A thousand stories of schedulers and workers that die, wake, see errors and have wrong clocks; and proof that faults would be found.

A seed that fails is printed with the end of its story: python -m penstock.testing.simulation SEED
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from penstock.ports.state import Claim
from penstock.run import scheduler
from penstock.testing.simulation import EMBEDDED, Broken, Chance, main, run_seeds, simulate, states
from penstock.testing.states import MemoryState

SEEDS, PARTS = 1000, 8


def part(number: int) -> Counter[str]:
    """Every eighth seed: on SQLite half of the parts, on the reference the others."""
    return run_seeds(range(number, SEEDS, PARTS), kind="memory" if number % 2 else EMBEDDED)


def test_a_thousand_stories_hold() -> None:
    with multiprocessing.get_context("spawn").Pool(min(PARTS, os.cpu_count() or 1)) as pool:
        told = sum(pool.imap_unordered(part, range(PARTS)), Counter[str]())
    assert {what for what in ("dies", "is", "wakes", "sees", "was", "has") if told[what] < 100} == set(), "too little trouble"
    assert told["fires"] > 5_000
    assert told["done"] > 20_000


def test_a_seed_is_the_same_story_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    main(["7", "memory"])
    first = capsys.readouterr().out
    main(["7"])
    assert capsys.readouterr().out == first
    assert "all holds" in first


def test_chance_is_even() -> None:
    chance = Chance(1)
    found = Counter(chance.below(10) for _ in range(10_000))
    assert all(850 < n < 1150 for n in found.values())


# -- faults that it must find ---------------------------------------------------------------------------------------
class Unfenced(MemoryState):
    """Claims of some names are given to everybody, and nobody has to keep to them."""

    def __init__(self, names: str) -> None:
        super().__init__()
        self.names = names

    def _fence(self, claim: Claim) -> None:
        if not claim.name.startswith(self.names):
            super()._fence(claim)

    def claim(self, name: str, owner: str, *, now: datetime, lease_s: float) -> Claim:
        if name.startswith(self.names):
            self._claims.pop(name, None)
        return super().claim(name, owner, now=now, lease_s=lease_s)


def broken(make: Callable[[], MemoryState], first: int = 0) -> str:
    """What the first story that does not hold tells, "" if 1,500 hold."""
    for seed in range(first, first + 1500):
        try:
            simulate(seed, make())
        except Broken as error:
            return str(error)
    return ""


def test_two_schedulers_at_once_are_found() -> None:
    text = broken(lambda: Unfenced("scheduler"))
    seed = text.split()[1].removesuffix(":")
    assert text.endswith(f"replay: python -m penstock.testing.simulation {seed}")


def test_a_journal_that_two_write_is_found() -> None:
    assert "in the journal twice" in broken(lambda: Unfenced("flow:"), 120)  # two must go on with one flow at once: about one seed in 700


def test_a_firing_queued_under_another_id_each_time_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    count = iter(range(10**9))
    job_for = scheduler.job_for

    def unstable(*args: Any) -> Any:
        made = job_for(*args)
        return type(made)(**{**vars(made), "id": f"{next(count):020}"})

    monkeypatch.setattr(scheduler, "job_for", unstable)
    assert broken(MemoryState)


def test_a_firing_that_is_not_queued_after_a_crash_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    known = scheduler.Scheduler._known_firings

    def forgetful(self: Any) -> dict[str, str]:
        known(self)
        return {name: body["firing"]["run"] for name, body in self._heads.items() if body.get("firing")}

    monkeypatch.setattr(scheduler.Scheduler, "_known_firings", forgetful)
    assert broken(MemoryState)


def test_states_are_new_for_each_seed() -> None:
    with states(EMBEDDED) as new:
        one, two = new(1), new(2)
        one.append("x", "y", {}, at=datetime.fromisoformat("2026-01-01T00:00:00+00:00"))
        assert two.heads("x") == {}
        one.close()
        two.close()
