"""kill -9 at every named point of a run and at random moments: nothing is lost, nothing doubled, the next run heals."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from penstock.ground.failpoints import POINTS
from tests.faults import rig

pytestmark = pytest.mark.fault
Contents = dict[str, Counter[tuple[Any, ...]]]
#: Points that a run without models reaches, those of the queue and its worker among them.
REACHED = [p for p in POINTS if not p.startswith("model.")]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Contents]:
    """What undisturbed runs give after each phase."""
    found = {}
    folder = tmp_path_factory.mktemp("calm")
    for phase in (0, 1):
        rig.make(folder, phase=phase)
        rig.finish(folder)
        found[phase] = rig.contents(folder)
    return found


def same(found: Contents, expected: Contents) -> None:
    for name in rig.TABLES:
        lost, doubled = expected[name] - found[name], found[name] - expected[name]
        assert not lost and not doubled, (
            f"{name}: {lost.total()} rows lost, {doubled.total()} rows too many, e.g. {list(lost)[:2]} {list(doubled)[:2]}"
        )


def test_the_calm_run_keeps_every_line(expected: dict[int, Contents], tmp_path: Path) -> None:
    for phase in (0, 1):
        given = rig.make(tmp_path / str(phase), phase=phase).given
        assert expected[phase]["raw"].total() + expected[phase]["raw__rejected"].total() == given


@pytest.mark.parametrize("point", REACHED)
@pytest.mark.parametrize("phase", [0, 1])
def test_killed_at_a_point(point: str, phase: int, expected: dict[int, Contents], tmp_path: Path) -> None:
    rig.make(tmp_path, phase=0)
    if phase == 1:
        rig.finish(tmp_path)
        rig.make(tmp_path, phase=1)
    effective = 0
    for at in (1, 3):
        effective += rig.killed_at(tmp_path, point, at)
    assert effective, f"{point} was never reached"
    rig.finish(tmp_path)
    same(rig.contents(tmp_path), expected[phase])
    assert "made" not in rig.finish(tmp_path)


def test_killed_at_random_moments(expected: dict[int, Contents], tmp_path: Path) -> None:
    rig.make(tmp_path / "clock", phase=1)
    began = time.perf_counter()
    rig.finish(tmp_path / "clock")
    length = time.perf_counter() - began
    chance = random.Random(7)
    kills = 0
    for case in range(8):
        folder = tmp_path / str(case)
        rig.make(folder, phase=0)
        kills += rig.killed_after(folder, chance.uniform(0.2, 1.0) * length)
        rig.make(folder, phase=1)
        kills += rig.killed_after(folder, chance.uniform(0.2, 1.0) * length)
        rig.finish(folder)
        same(rig.contents(folder), expected[1])
    assert kills >= 8, f"only {kills} effective kills"


@pytest.mark.parametrize("point", [p for p in POINTS if p.startswith("model.")])
def test_a_model_killed_at_a_point(point: str, tmp_path: Path) -> None:
    """The next run makes one version, and each row is scored once; a half-stored version is never used."""
    from tests.runs.conftest import Workshop
    from tests.runs.test_learning import PIPELINE, write

    shop = Workshop(tmp_path)
    write(shop, "a", 0, 400)
    shop.pipeline(PIPELINE.replace("GATES", ""))
    assert rig.killed_at(tmp_path, point), f"{point} was never reached"
    rig.finish(tmp_path)
    counted = "SELECT count(*) AS n, count(DISTINCT id) AS k, count(DISTINCT model_version) AS v FROM scores"
    assert shop.rows(counted) == [{"n": 400, "k": 400, "v": 1}]
    assert shop.run().nothing
    shop.close()
