"""The tracker suite over the trackers for tests, and the connection to MLflow with servers that misbehave."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.ground.errors import TrackerUnreachable
from penstock.ports.tracker import Tracker
from penstock.testing.suites.tracker import *  # noqa: F403
from penstock.testing.suites.tracker import version
from penstock.testing.trackers import FaultyTracker, MemoryTracker, Seen


class MemoryPlace:
    project = "shop"

    def __init__(self, folder: Path, *, wrapped: bool = False) -> None:
        self.tracker = MemoryTracker()
        self._folder, self._wrapped, self._left = folder, wrapped, 0

    def open(self) -> Tracker:
        return FaultyTracker(self.tracker, seed=1, share=0.0) if self._wrapped else self.tracker

    def seen(self, model: str) -> list[Seen]:
        return self.tracker.seen(self.project, model)

    def live_now(self, model: str) -> str:
        return self.tracker.live_now(self.project, model)

    def leave(self, name: str, files: dict[str, bytes], alias: str) -> str:
        self._left += 1
        folder = self._folder / f"left{self._left}"
        folder.mkdir()
        for file, content in files.items():
            (folder / file).write_bytes(content)
            self.tracker.finished[f"{name}@{alias}"] = self.tracker.finished[f"{name}/{self._left}"] = folder / file
        return f"{name}/{self._left}"


@pytest.fixture(params=["memory", "no faults"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MemoryPlace:
    return MemoryPlace(tmp_path_factory.mktemp("place"), wrapped=request.param == "no faults")


def test_faults_come_before_and_after_the_work(tmp_path: Path) -> None:
    place = MemoryPlace(tmp_path)
    faulty = FaultyTracker(place.tracker, seed=3, share=0.5)
    done = []
    for n in range(1, 41):
        before = len(place.tracker.told)
        try:
            faulty.tell(version(place, tmp_path, n))
            done.append("told")
        except TrackerUnreachable:
            done.append("lost" if len(place.tracker.told) > before else "refused")
    assert set(done) == {"told", "lost", "refused"}
    assert faulty.faults == len(done) - done.count("told")
