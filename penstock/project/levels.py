"""Which level each part of the project needs now: what is recorded of its size and time, against this machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from penstock.ground.environ import machine_memory
from penstock.ports.queue import QueuedJob
from penstock.project.figures import of, seconds, size
from penstock.project.settings import Settings

Verdict = Literal["enough", "near", "move", "unknown"]
#: How many of the newest jobs are looked at.
JOBS = 500
#: Limits of the embedded parts: (near, move). Source: own. An asset that takes an hour cannot be made hourly; SQLite serves one machine
#: and is copied whole for a backup; a job that takes most of the memory leaves none for others beside it.
LONGEST_S = (900.0, 3_600.0)
STATE_BYTES = (1 << 30, 10 << 30)
MEMORY_SHARE = (0.5, 0.8)
DISK_SHARE = (0.5, 0.8)


@dataclass(frozen=True)
class PortLevel:
    """One part: what it is now, the figure that decides, whether that is enough here, when to move it, and by which setting."""

    port: str
    now: str
    figure: str
    verdict: Verdict
    when: str
    setting: str

    def record(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Machine:
    """Memory, and free disk where the project's data is, in bytes."""

    memory: int
    free: int


def this_machine(folder: Path) -> Machine:
    place = folder if folder.exists() else folder.parent
    return Machine(machine_memory(), shutil.disk_usage(place).free)


def levels(
    settings: Settings, assets: Mapping[str, Mapping[str, Any]], peaks: Mapping[str, float], machine: Machine, *, automations: int
) -> list[PortLevel]:
    """Every part of a project. Changes nothing.

    Args: assets: newest record of each. peaks: job -> the most memory that it needed, in bytes.
    """
    known = bool(assets)
    stored = sum(int(body.get("bytes") or 0) for body in assets.values())
    name, longest = max(((n, float(b.get("seconds") or 0.0)) for n, b in assets.items()), key=lambda p: p[1], default=("", 0.0))
    rows = max((int(b.get("rows") or 0) for b in assets.values()), default=0)
    hungry, peak = max(peaks.items(), key=lambda p: p[1], default=("", 0.0))
    file = settings.folder / "state.db"
    state = file.stat().st_size if file.exists() else 0
    return [
        PortLevel(
            "lake", _now(settings, "lake", "files in .penstock/lake"), f"{size(stored)} in {of(len(assets), 'asset')}, {size(machine.free)} free",
            _verdict(stored / max(1, stored + machine.free), DISK_SHARE, known),
            "the disk is nearly full, or another machine has to read the tables", "lake",
        ),
        PortLevel(
            "engine", _now(settings, "engine", "in this process"),
            f"longest: {name} {seconds(longest)}; largest: {rows:,} rows" if known else "", _verdict(longest, LONGEST_S, known),
            "one asset takes over an hour", "engine",
        ),
        PortLevel(
            "state", _now(settings, "state", "a file, .penstock/state.db"), size(state) if state else "", _verdict(state, STATE_BYTES, bool(state)),
            "a second machine runs jobs, or its file is over 10 GiB", "state",
        ),
        PortLevel(
            "compute", _now(settings, "compute", "processes on this machine"),
            f"most memory: {hungry} {size(int(peak))} of {size(machine.memory)}" if peaks else f"{size(machine.memory)} here",
            _verdict(peak / machine.memory, MEMORY_SHARE, bool(peaks)), "a job needs most of the memory of this machine", "compute",
        ),
        PortLevel(
            "schedule", "penstock up", of(automations, "automation"), "enough", "the company runs another scheduler already", "--files",
        ),
    ]  # fmt: skip


def worst(found: Iterable[PortLevel]) -> Verdict:
    order: tuple[Verdict, ...] = ("unknown", "enough", "near", "move")
    return max((p.verdict for p in found), key=order.index, default="unknown")


def peaks_of(jobs: Iterable[QueuedJob]) -> dict[str, float]:
    """The most memory that jobs of one name needed; of jobs in this process that of all of it."""
    found: dict[str, float] = {}
    for job in jobs:
        if peak := float(job.cost.get("peak_memory_bytes", 0.0)):
            found[job.name] = max(peak, found.get(job.name, 0.0))
    return found


def _now(settings: Settings, port: str, embedded: str) -> str:
    """The setting without what may be secret in it."""
    url = settings.urls.get(port)
    return f"{url.partition('://')[0]}://" if url else embedded


def _verdict(figure: float, limits: tuple[float, float], known: bool) -> Verdict:
    if not known:
        return "unknown"
    return "move" if figure >= limits[1] else "near" if figure >= limits[0] else "enough"
