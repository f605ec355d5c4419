"""Tasks in this process, one after the other in the thread that starts them: for debuggers, and where processes cannot be had.

Nothing is isolated. A task that ends the process ends it; modules it imported and what it changed stay. Limits cannot be kept and are
refused. Of `log`, what Python prints is in it; what native code writes is not.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from io import TextIOBase
from pathlib import Path

from penstock.ground.calls import answer, check_call, encoded
from penstock.ground.clock import Clock
from penstock.ground.environ import environment, replace_environment
from penstock.ground.errors import Unsupported
from penstock.ground.logs import Log, open_log
from penstock.ports.adapters import Context
from penstock.ports.compute import ComputeCapabilities, Cost, Ended, Limits, Task

#: The most that a task may return, in bytes of JSON.
RESULT_BYTES = 16 << 20


class InlineHandle:
    """A task that has ended already."""

    def __init__(self, id: str, ended: Ended) -> None:
        self._id = id
        self._ended = ended

    @property
    def id(self) -> str:
        return self._id

    @property
    def pid(self) -> int | None:
        return os.getpid()

    def wait(self, timeout: float | None = None) -> Ended | None:
        return self._ended

    def cancel(self) -> None:
        """It has ended."""


class InlineCompute:
    """One task at a time in each thread. Tasks with a `log`, a `path` or an `environment` change the whole process while they run."""

    capabilities = ComputeCapabilities()

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    @classmethod
    def open(cls, url: str, context: Context) -> InlineCompute:
        return cls(context.clock)

    def start(self, task: Task) -> InlineHandle:
        """Runs a task to its end. Raises besides what the port says: KeyboardInterrupt as it comes; OSError if the log cannot be opened."""
        check_call(task.call)
        if task.limits != Limits():
            raise Unsupported("no limit can be kept within this process", place=task.call, got=task.limits, hint="use process://")
        payload = json.loads(encoded(task.payload, task.call))
        began, used = self._clock.tick(), _cpu_seconds()
        with _place(task):
            said = json.loads(answer(task.call, payload, limit_bytes=RESULT_BYTES))
        cost = Cost(self._clock.tick() - began, _cpu_seconds() - used)
        return InlineHandle(task.id, Ended(said["status"], said.get("result"), said.get("error"), cost))

    def warm(self) -> None:
        """There is nothing to prepare."""

    def close(self) -> None:
        """Nothing is held."""


class _Printed(TextIOBase):
    """What is printed, into a log."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._log.write(text.encode("utf-8", "backslashreplace"))
        return len(text)


@contextmanager
def _place(task: Task) -> Iterator[None]:
    """The path, environment and log of a task, for the length of a block."""
    with ExitStack() as stack:
        if task.log is not None:
            handle = open_log(task.log)
            stack.callback(os.close, handle)
            printed = _Printed(Log(handle))
            stack.enter_context(redirect_stdout(printed))
            stack.enter_context(redirect_stderr(printed))
        if task.environment:
            stack.callback(replace_environment, dict(environment()))
            replace_environment({**environment(), **task.environment})
        if task.path:
            before = list(sys.path)
            stack.callback(lambda: sys.path.__setitem__(slice(None), before))
            sys.path[:0] = map(_text, task.path)
        yield


def _text(path: Path) -> str:
    return os.fspath(path)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
