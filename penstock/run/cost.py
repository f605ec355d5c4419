"""What an attempt took of this machine: processor time, memory, bytes; and what that costs at a price."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.ground.clock import Clock
from penstock.ports.compute import Compute, ComputeCapabilities, Cost, Ended, Handle, Task
from penstock.ports.queue import added

_GB = 1e9


class Meter:
    """Measures this process from when it is made. Of several jobs at once in one process each is told what all took."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tick = clock.tick()
        self._cpu = _cpu_seconds()
        self._io = _bytes()

    def cost(self) -> dict[str, float]:
        """Costs so far: `seconds`, `cpu_seconds`, `peak_memory_bytes` of the whole process, `gb_seconds`, `bytes_read`, `bytes_written`."""
        seconds, now = self._clock.tick() - self._tick, _bytes()
        moved = {name: float(now[name] - self._io[name]) for name in now if name in self._io}
        return _rounded(seconds, _cpu_seconds() - self._cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0) | moved


def of_process(cost: Cost) -> dict[str, float]:
    """What a task in a process of its own took, in the same words."""
    moved = {"bytes_read": cost.bytes_read, "bytes_written": cost.bytes_written}
    return _rounded(cost.seconds, cost.cpu_seconds or 0.0, float(cost.peak_memory_bytes or 0)) | {
        name: float(value) for name, value in moved.items() if value is not None
    }


class Metered:
    """A compute that adds what its tasks took to a cost."""

    def __init__(self, compute: Compute, spent: dict[str, float]) -> None:
        self._compute, self._spent = compute, spent

    @property
    def capabilities(self) -> ComputeCapabilities:
        return self._compute.capabilities

    def start(self, task: Task) -> Handle:
        return _MeteredHandle(self._compute.start(task), self._spent)

    def warm(self) -> None:
        self._compute.warm()

    def close(self) -> None:
        """It is closed by whoever opened it."""


class _MeteredHandle:
    def __init__(self, handle: Handle, spent: dict[str, float]) -> None:
        self._handle, self._spent, self._told = handle, spent, False

    @property
    def id(self) -> str:
        return self._handle.id

    @property
    def pid(self) -> int | None:
        return self._handle.pid

    def wait(self, timeout: float | None = None) -> Ended | None:
        ended = self._handle.wait(timeout)
        if ended is not None and not self._told:
            self._told = True
            took = {name: value for name, value in of_process(ended.cost).items() if name != "seconds"}
            self._spent.update(added(self._spent, took))
        return ended

    def cancel(self) -> None:
        self._handle.cancel()


def _rounded(seconds: float, cpu_seconds: float, peak: float) -> dict[str, float]:
    return {
        "seconds": round(seconds, 4), "cpu_seconds": round(cpu_seconds, 4), "peak_memory_bytes": peak,
        "gb_seconds": round(peak / _GB * seconds, 4),
    }  # fmt: skip


def _cpu_seconds() -> float:
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def _bytes() -> dict[str, int]:
    """Bytes that this process asked the system to read and write so far; {} where the system does not tell."""
    try:
        with open("/proc/self/io", encoding="ascii") as told:
            found = dict(line.split(": ") for line in told.read().splitlines())
    except (OSError, ValueError):
        return {}
    return {"bytes_read": int(found.get("rchar", 0)), "bytes_written": int(found.get("wchar", 0))}


@dataclass(frozen=True)
class Prices:
    """What a unit costs, in whatever money the project counts: an hour of one processor, an hour of one GB of memory."""

    cpu_hour: float = 0.0
    gb_hour: float = 0.0

    @property
    def any(self) -> bool:
        return bool(self.cpu_hour or self.gb_hour)

    def money(self, cost: Mapping[str, Any]) -> float:
        """The price of a job's cost. Memory counts by its peak, for as long as the attempt took."""
        cpu = float(cost.get("cpu_seconds", 0.0)) / 3600 * self.cpu_hour
        return cpu + float(cost.get("gb_seconds", 0.0)) / 3600 * self.gb_hour
