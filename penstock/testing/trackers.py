"""Trackers for tests: one in memory, which is the reference, and one that fails by a schedule."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from penstock.ground.digest import digest
from penstock.ground.errors import ArtefactRefused, TrackerError, TrackerUnreachable
from penstock.ports.tracker import CurvePoint, LiveTold, Tracker, TrackerCapabilities, VersionTold

T = TypeVar("T")
ENDINGS = (".onnx", ".txt", ".ubj", ".json", ".skops")


@dataclass(frozen=True)
class Seen:
    """A version as a tracker shows it. Values of params and tags are texts; only the tags that were told are here."""

    version: str
    refused: bool
    params: dict[str, str]
    metrics: dict[str, float]
    curve: tuple[CurvePoint, ...]
    tags: dict[str, str]
    files: dict[str, bytes]


@dataclass
class MemoryTracker:
    """Keeps everything in itself, so that a second handle (this object again) sees it.

    Attributes:
        told: versions in the order they were first told. lived: promotions in the order they were told.
        finished: models that others left, by reference.
    """

    told: dict[str, VersionTold] = field(default_factory=dict)
    lived: list[LiveTold] = field(default_factory=list)
    finished: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.capabilities = TrackerCapabilities(files=True, curves=True, models=True)
        self._files: dict[str, dict[str, bytes]] = {}

    def tell(self, version: VersionTold) -> None:
        if version.token not in self.told:
            self._files[version.token] = {name: path.read_bytes() for name, path in version.files.items()}
            self.told[version.token] = version

    def live(self, told: LiveTold) -> None:
        if told.token not in self.told:
            raise TrackerError("the tracker has no such version", place=f"{told.model}@{told.version}")
        if told not in self.lived:
            self.lived.append(told)

    def fetch(self, reference: str, folder: Path) -> Path:
        if reference not in self.finished:
            raise TrackerError("the tracker has no such model, version or alias", place=reference)
        path = self.finished[reference]
        if path.suffix not in ENDINGS:
            raise ArtefactRefused("the model is a pickle", place=reference, got=path.name)
        return Path(shutil.copyfile(path, folder / f"model{path.suffix}"))

    def close(self) -> None:
        """Keeps everything."""

    # -- what tests look at -----------------------------------------------------------------------------------------
    def seen(self, project: str, model: str) -> list[Seen]:
        """Versions of a model, in the order they were told."""
        texts = {token: {k: v if isinstance(v, str) else repr(v) for k, v in told.params.items()} for token, told in self.told.items()}
        return [
            Seen(v.version, v.refused, texts[t], dict(v.metrics), tuple(v.curve), dict(v.tags), self._files[t])
            for t, v in self.told.items()
            if (v.project, v.model) == (project, model)
        ]

    def live_now(self, project: str, model: str) -> str:
        """The version that was last told to be live, "" if none was."""
        return next((p.version for p in reversed(self.lived) if (p.project, p.model) == (project, model)), "")


class FaultyTracker:
    """A tracker that fails by a schedule drawn from a seed: a call did nothing, or it did its work and the answer was lost.

    Either way it raises TrackerUnreachable(E6005), so that a caller cannot tell them apart. `faults` counts what was injected.
    """

    def __init__(self, inner: Tracker, *, seed: int, share: float) -> None:
        """`share` of all calls fail, within [0, 1], half of them either way. The seed decides which."""
        self.capabilities = inner.capabilities
        self.faults = 0
        self._inner, self._seed, self._share, self._calls = inner, seed, share, 0

    def tell(self, version: VersionTold) -> None:
        self._call(lambda: self._inner.tell(version))

    def live(self, told: LiveTold) -> None:
        self._call(lambda: self._inner.live(told))

    def fetch(self, reference: str, folder: Path) -> Path:
        return self._call(lambda: self._inner.fetch(reference, folder))

    def close(self) -> None:
        self._inner.close()

    def _call(self, work: Callable[[], T]) -> T:
        self._calls += 1
        drawn = int(digest([self._seed, self._calls]), 16) / 16**32
        if drawn >= self._share:
            return work()
        self.faults += 1
        if drawn >= self._share / 2:
            work()
        raise TrackerUnreachable("injected fault", place="tracker", hint=f"seed {self._seed}, call {self._calls}")
