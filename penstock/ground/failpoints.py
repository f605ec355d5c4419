"""Named places where a test may make the process die, fail or wait: the failure is an input like time is.

Production code calls `reach("run.publish.before")`. That costs one truth test while nothing is armed. A test arms a point
in its own process with `armed`, or in a child process by the variable PENSTOCK_FAILPOINTS, e.g.
`run.publish.before=kill` or `lake.commit.after=kill@3` (the third time it is reached).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from penstock.ground.environ import environment

#: Every point of a run, in the order a run reaches them, and those of the queue and of what does its jobs. Fault rigs iterate over this list, so that none is forgotten.
POINTS = (
    "run.claimed",
    "source.files_listed",
    "source.written",
    "run.computed",
    "run.written",
    "run.audited",
    "run.rejected_committed",
    "lake.commit.before",
    "lake.commit.after",
    "run.published",
    "run.recorded",
    "model.trained",
    "model.stored",
    "model.registered",
    "state.append.before",
    "state.append.after",
    "queue.write.before",
    "queue.write.after",
    "run.queued",
    "worker.claimed",
    "worker.worked",
    "worker.recorded",
)

_armed: dict[str, list[tuple[Callable[[], None], int]]] = {}


class FailpointError(RuntimeError):
    """What an armed point raises by default: no part of Penstock expects it."""


def reach(point: str) -> None:
    """Marks a place. Does nothing unless a test armed it."""
    if _armed:
        _fire(point)


def _fire(point: str) -> None:
    waiting = _armed.get(point, [])
    for i, (action, left) in enumerate(waiting):
        waiting[i] = (action, left - 1)
        if left == 1:
            action()


def kill() -> None:
    """Ends this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise FailpointError("armed failpoint")


def full() -> None:
    raise OSError(28, "No space left on device")


ACTIONS: dict[str, Callable[[], None]] = {"kill": kill, "fail": fail, "full": full}


@contextmanager
def armed(point: str, action: Callable[[], None] = fail, *, at: int = 1) -> Iterator[None]:
    """Arms a point for the `at`-th time it is reached, for the length of the block."""
    if point not in POINTS:
        raise ValueError(f"no failpoint is called {point!r}; known: {', '.join(POINTS)}")
    entry = (action, at)
    _armed.setdefault(point, []).append(entry)
    try:
        yield
    finally:
        _armed[point].pop()
        if not _armed[point]:
            del _armed[point]


def arm_from_environment() -> None:
    """Arms what PENSTOCK_FAILPOINTS names; called once by the command line."""
    for item in filter(None, environment().get("PENSTOCK_FAILPOINTS", "").split(",")):
        point, _, what = item.partition("=")
        action, _, at = what.partition("@")
        if point not in POINTS or action not in ACTIONS:
            raise ValueError(f"PENSTOCK_FAILPOINTS: {item!r} is not POINT=ACTION[@N]")
        _armed.setdefault(point, []).append((ACTIONS[action], int(at or 1)))
