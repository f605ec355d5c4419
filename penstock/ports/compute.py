"""The compute port: where a job's process runs.

Protocol. A task names a function by text and gives it JSON; whoever opened the compute starts it and waits for how it ended. Every task
that was started ends once, whatever its process did: an `Ended` is the answer to a return, an exception, a signal, a limit and a lost
machine alike, and `wait` does not hang for a process that is gone. What a task has printed is in its log from the moment it is printed.

Nothing is retried here once the function has begun; that is for the queue, which knows what may be repeated. Nothing is queued either: a
started task runs at once, and how many run beside each other is the caller's to decide.

All processes of a task end with it: what it leaves behind is killed before `wait` says that it ended. They also end with the process that
started them, if the compute is on the same machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Status = Literal["done", "failed", "timeout", "memory", "crashed", "cancelled"]


@dataclass(frozen=True)
class Limits:
    """What a task may take; None is without limit.

    Attributes:
        memory_bytes: above what its process holds when it starts, for each process of the task by itself.
        seconds: wall time from the start of its process.
        cores: processors it may run on at once; libraries are told by the usual variables too.
        gpus: how many devices it sees; 0 sees none.
    """

    memory_bytes: int | None = None
    seconds: float | None = None
    cores: int | None = None
    gpus: int = 0


@dataclass(frozen=True)
class Task:
    """One call in a process of its own.

    Attributes:
        id: told back by the handle; the caller's to choose.
        call: `package.module:function`; it is called with the payload, and returns JSON.
        payload: JSON.
        path: folders put in front of `sys.path`.
        log: file that gets stdout and stderr, added to if it exists; None leaves them where this process has them.
        environment: variables set besides those of this process.
    """

    id: str
    call: str
    payload: Mapping[str, Any]
    limits: Limits = Limits()
    path: tuple[Path, ...] = ()
    log: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """What a task took; None where it cannot be told.

    Attributes:
        seconds: wall time of its process.
        cpu_seconds: user and system time of its process and of those it waited for.
        peak_memory_bytes: the most that was resident above what was at the start, as `Limits.memory_bytes` counts; of several
            processes the greatest.
        bytes_read, bytes_written: as asked of the system, from disk, cache, pipe or net; not those of memory-mapped files.
    """

    seconds: float
    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None
    bytes_read: int | None = None
    bytes_written: int | None = None


@dataclass(frozen=True)
class Ended:
    """How a task ended.

    Attributes:
        status: `done` returned JSON; `failed` raised, or returned something else; `timeout` and `memory` reached a limit (`memory` also
            if the machine had none left); `crashed` is gone without an answer; `cancelled` as asked.
        result: what it returned if done.
        error: None if done, else `PenstockError.as_record()`; with `traceback` and `raised` (the class) if code of the task raised.
    """

    status: Status
    result: Any
    error: Mapping[str, Any] | None
    cost: Cost


@dataclass(frozen=True)
class ComputeCapabilities:
    """What a compute can do; the defaults are the weakest.

    Attributes:
        isolated: a crash of a task is its own; nothing of it stays.
        memory_limit, time_limit, cores_limit: whether `Limits` are kept; what cannot be kept is refused.
        kill: whether a running task can be cancelled.
        gpus: how many devices there are to give.
        several_machines: whether tasks may run on others than this one.
    """

    isolated: bool = False
    memory_limit: bool = False
    time_limit: bool = False
    cores_limit: bool = False
    kill: bool = False
    gpus: int = 0
    several_machines: bool = False


class Handle(Protocol):
    """One started task. Safe to call from several threads."""

    @property
    def id(self) -> str: ...

    @property
    def pid(self) -> int | None:
        """Of its process on this machine; None while it has none, and if it is on another."""
        ...

    def wait(self, timeout: float | None = None) -> Ended | None:
        """How the task ended; None if it has not after `timeout` seconds. Repeat: the same."""
        ...

    def cancel(self) -> None:
        """Asks its processes to end (TERM) and ends them (KILL) if they have not soon. Returns at once; `wait` tells when they have.

        Repeat, or after the end: does nothing. Where `kill` is not among the capabilities: does nothing.
        """
        ...


class Compute(Protocol):
    """Safe to call from several threads."""

    @property
    def capabilities(self) -> ComputeCapabilities: ...

    def start(self, task: Task) -> Handle:
        """Starts a task. Returns at once where tasks are isolated, after the call where they are not.

        Raises: Unsupported(E4007) for a limit that cannot be kept; DefinitionError(E1001) if `call` is no name of a function or the
            payload is no JSON. What goes wrong after that is told by `wait`.
        """
        ...

    def warm(self) -> None:
        """Begins what makes later starts quick. Returns at once. Repeat: does nothing."""
        ...

    def close(self) -> None:
        """Cancels what still runs, and returns when nothing of it is left. Repeat: does nothing."""
        ...
