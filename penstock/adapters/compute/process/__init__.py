"""Tasks in processes of their own on this machine, forked from a server that has loaded what they need. Linux 5.3 and
newer only.

See `docs/decisions/010` for why the server is our own. Elsewhere than on Linux opening is refused: fork, limits and the death of a parent
work otherwise there, and none of it is tested.

What is not held: the memory limit counts each process of a task by itself; if the server and the process that owns it are killed at the same
instant, a task's first process ends but not what that has started.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from signal import SIGABRT, SIGBUS, SIGKILL, SIGSEGV, Signals
from typing import Any
from urllib.parse import parse_qsl

from penstock.adapters.compute.process.link import Link, Patience, import_path
from penstock.adapters.compute.process.sheet import ASKED, new_sheet, read_answer, state_of
from penstock.ground.calls import check_call, encoded
from penstock.ground.clock import Clock
from penstock.ground.environ import environment
from penstock.ground.errors import (
    JobCancelled,
    JobCrashed,
    MemoryLimit,
    PenstockError,
    SettingsError,
    TimeLimit,
    Unsupported,
    did_you_mean,
)
from penstock.ground.logs import open_log
from penstock.ports.adapters import Context
from penstock.ports.compute import ComputeCapabilities, Cost, Ended, Limits, Task

#: Loaded by the server before the first fork, where they are installed.
PRELOAD = ("numpy", "pyarrow", "pyarrow.compute", "pyarrow.parquet", "duckdb")
#: How often a task whose process never came to begin is started again, the last times by a server that has loaded nothing.
_STARTS = 3
#: A task that died in native code with this share of its memory limit in use is taken to have died of it.
_NEAR = 0.8
_WAITS = tuple(f.name for f in fields(Patience))
#: The variable that tells processes of a task from others; programs that a task starts have it too.
_MARK = "PENSTOCK_TASK"
#: How often survivors of a server are looked for at most, and how often nothing must be found: one may fork and end during a look.
_LOOKS, _EMPTY_LOOKS = 20, 3
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS")


class ProcessHandle:
    """One task and its process."""

    def __init__(self, compute: ProcessCompute, number: int, task: Task) -> None:
        self._compute = compute
        self._task = task
        self._over = threading.Event()
        self._ended: Ended | None = None
        self._pid: int | None = None
        self.number = number
        self.mark = f"{os.getpid()}.{id(compute):x}.{number}"
        self.sheet = -1
        self.log: int | None = None
        self.cpus: tuple[int, ...] = ()
        self.devices: tuple[str, ...] = ()
        self.starts = 0
        self.link: Link | None = None
        self.cancelled = False

    @property
    def id(self) -> str:
        return self._task.id

    @property
    def task(self) -> Task:
        return self._task

    @property
    def pid(self) -> int | None:
        return self._pid

    def wait(self, timeout: float | None = None) -> Ended | None:
        self._over.wait(timeout)
        return self._ended

    def cancel(self) -> None:
        self._compute.cancel(self)

    def begun_as(self, pid: int | None) -> None:
        self._pid = pid

    def end(self, ended: Ended) -> None:
        """Called: once."""
        if self.sheet >= 0:
            os.close(self.sheet)
        if self.log is not None:
            os.close(self.log)
        self._ended = ended
        self._over.set()


class ProcessCompute:
    """A server while there are tasks, and for some time after the last one.

    Args:
        preload: modules that the server loads; what tasks need and what is long to load.
        patience: when a server ends, and when it is taken to hang.
        grace_s: seconds between TERM and KILL.
        result_bytes: the most that a task may return, as JSON.
        gpus: devices that may be given to tasks, as `CUDA_VISIBLE_DEVICES` names them.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        preload: Sequence[str] = PRELOAD,
        patience: Patience = Patience(),  # noqa: B008 -- a frozen value
        grace_s: float = 5.0,
        result_bytes: int = 16 << 20,
        gpus: Sequence[str] = (),
    ) -> None:
        self.capabilities = ComputeCapabilities(
            isolated=True, memory_limit=True, time_limit=True, cores_limit=True, kill=True, gpus=len(gpus)
        )
        self._clock = clock
        self._preload = tuple(preload)
        self._patience = patience
        self._grace_s = grace_s
        self._result_bytes = result_bytes
        self._cpus = Counter(dict.fromkeys(sorted(os.sched_getaffinity(0)), 0))
        self._devices = Counter(dict.fromkeys(gpus, 0))
        self._lock = threading.RLock()
        self._jobs: dict[int, ProcessHandle] = {}
        self._links: list[Link] = []
        self._server: Link | None = None
        self._bare: Link | None = None
        self._installed: tuple[tuple[str, int], ...] = ()
        self._avoided: set[str] = set()
        self._made = 0
        self._owner = os.getpid()
        self._closed = False

    @classmethod
    def open(cls, url: str, context: Context) -> ProcessCompute:
        """`process://?preload=numpy,duckdb&grace_s=5&result_bytes=16777216&gpus=0,1&idle_s=60`; each may be an option too.

        Raises: SettingsError(E7001), Unsupported(E4007) elsewhere than on Linux 5.3 or newer.
        """
        if not _has_pidfds():
            raise Unsupported(
                "processes are watched in the way of Linux only", place=url, expected="Linux 5.3", got=sys.platform, hint="use inline://"
            )
        options = _options(url, context.options)
        options.setdefault("gpus", _devices())
        waits = {name: options.pop(name) for name in list(options) if name in _WAITS}
        options["patience"] = Patience(**waits)
        return cls(context.clock, **options)

    def start(self, task: Task) -> ProcessHandle:
        check_call(task.call)
        _check_limits(task.limits, len(self._devices), task.call)
        with self._lock:
            if self._closed:
                raise JobCancelled("the compute is closed", place=task.id)
            if os.getpid() != self._owner:
                raise Unsupported("a compute is of the process that opened it", place=task.id, hint="open one in this process")
            self._made += 1
            cpus = _least_used(self._cpus, task.limits.cores) if task.limits.cores is not None else ()
            devices = _least_used(self._devices, task.limits.gpus)
            handle = ProcessHandle(self, self._made, task)
            request = encoded(_request(task, devices, handle.mark), task.call)
            handle.cpus, handle.devices = cpus, devices
            self._cpus.update(cpus)
            self._devices.update(devices)
            self._jobs[handle.number] = handle
            try:
                handle.sheet = new_sheet(request, self._result_bytes)
                if task.log is not None:
                    handle.log = open_log(task.log)
                self._send(handle)
            except OSError as error:
                self._finish(
                    handle, "crashed", JobCrashed("its process could not be started", place=task.id, got=error, hint="see the log")
                )
        return handle

    def warm(self) -> None:
        with self._lock:
            if not self._closed:
                with suppress(OSError):  # whatever it is, the next start tells
                    self._link(bare=False)

    def cancel(self, handle: ProcessHandle) -> None:
        with self._lock:
            if handle.number in self._jobs and not handle.cancelled:
                handle.cancelled = True
                if handle.link is not None:
                    with suppress(OSError):
                        handle.link.send({"do": "cancel", "id": handle.number})

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for handle in self._jobs.values():
                handle.cancelled = True
            links = list(self._links)
            for link in links:
                if not link.ready:
                    link.kill()
                with suppress(OSError):
                    link.send({"do": "close"})
        for link in links:
            link.thread.join(self._grace_s + 5.0)
            if link.thread.is_alive():
                link.kill()
                link.thread.join()

    # -- servers ----------------------------------------------------------------------------------------------------
    def _link(self, *, bare: bool) -> Link:
        """The server to use now, started if there is none; another one if packages were installed or removed since. Raises: OSError."""
        installed = _installed()
        if installed != self._installed:
            self._retire(self._server)
            self._retire(self._bare)
            self._server = self._bare = None
            self._avoided.clear()
            self._installed = installed
        modules = [m for m in self._preload if m not in self._avoided]
        found = self._bare if bare else self._server
        if found is None:
            found = Link([] if bare else modules, self._patience, self._clock, heard=self._heard, lost=self._lost)
            self._links.append(found)
            if bare:
                self._bare = found
            else:
                self._server = found
        return found

    def _retire(self, link: Link | None) -> None:
        if link is not None:
            with suppress(OSError):
                link.send({"do": "retire"})

    def _forget(self, link: Link) -> None:
        self._server = None if self._server is link else self._server
        self._bare = None if self._bare is link else self._bare

    def _send(self, handle: ProcessHandle) -> None:
        """Has a server start a task. Raises: OSError if none can be had."""
        handle.starts += 1
        handle.begun_as(None)
        limits = handle.task.limits
        message = {"do": "start", "id": handle.number, "seconds": limits.seconds, "memory": limits.memory_bytes, "cpus": handle.cpus,
                   "grace": self._grace_s, "log": handle.log is not None}  # fmt: skip
        handles = [handle.sheet] if handle.log is None else [handle.sheet, handle.log]
        for last in (False, True):
            link = self._link(bare=handle.starts > 1)
            link.owe(handle.number)
            handle.link = link
            try:
                link.send(message, handles)
            except OSError:
                link.jobs.discard(handle.number)
                self._forget(link)
                if last:
                    raise
            else:
                return

    def _again(self, handle: ProcessHandle, why: str) -> None:
        """Starts a task anew whose process never came to begin."""
        if handle.starts < _STARTS and not handle.cancelled and not self._closed:
            try:
                self._send(handle)
            except OSError as error:
                why = str(error)
            else:
                return
        if handle.cancelled or self._closed:
            self._finish(handle, "cancelled", JobCancelled("cancelled before it began", place=handle.id))
        else:
            self._finish(handle, "crashed", JobCrashed("its process did not come to begin", place=handle.id, got=why))

    # -- what servers say, in their link's thread -------------------------------------------------------------------
    def _heard(self, link: Link, message: dict[str, Any]) -> None:
        with self._lock:
            if message["do"] == "ready" and message["threaded"]:
                self._avoided.update(message["threaded"])  # a lock that such a thread holds at a fork stays locked in the child
                self._retire(link)
                self._forget(link)
            handle = self._jobs.get(message.get("id", 0))
            if handle is None or handle.link is not link:
                return
            if message["do"] == "started":
                handle.begun_as(message["pid"])
            elif message["do"] == "ended":
                link.jobs.discard(handle.number)
                self._ended(handle, message)

    def _ended(self, handle: ProcessHandle, message: dict[str, Any]) -> None:
        said = read_answer(handle.sheet)
        asked_to_end = message["why"] in ("timeout", "cancelled")
        if said is not None and (said["status"] == "done" or not asked_to_end):
            self._answered(handle, said, _cost(message))
        elif message["why"] == "hung" or (message["how"] == "fork" and state_of(handle.sheet) == ASKED):
            self._again(handle, message["why"])
        else:
            self._finish(handle, *_verdict(handle.task, message), _cost(message))

    def _answered(self, handle: ProcessHandle, said: dict[str, Any], cost: Cost) -> None:
        error: Any = said.get("error")
        limit = handle.task.limits.memory_bytes
        if said["status"] == "memory" and limit is not None and not error["expected"]:
            error["expected"] = f"up to {limit} bytes"
        self._finish(handle, said["status"], error, cost, said.get("result"))

    def _lost(self, link: Link) -> None:
        """A server is gone, and with it the processes of its tasks."""
        with self._lock:
            self._forget(link)
            self._links.remove(link)
            if not link.ready:
                self._avoided.update(link.modules)
            handles = [self._jobs[number] for number in sorted(link.jobs)]
            if handles:
                _end_survivors(handles)
            for handle in handles:
                if (said := read_answer(handle.sheet)) is not None:
                    self._answered(handle, said, Cost(0.0))
                elif state_of(handle.sheet) == ASKED:
                    self._again(handle, "the server that starts processes ended")
                elif handle.cancelled:
                    self._finish(handle, "cancelled", JobCancelled("cancelled while it ran", place=handle.id))
                else:
                    error = JobCrashed("it was killed, because the server that started it ended", place=handle.id)
                    self._finish(handle, "crashed", error)

    def _finish(self, handle: ProcessHandle, status: Any, error: Any, cost: Cost | None = None, result: Any = None) -> None:
        del self._jobs[handle.number]
        self._cpus.subtract(handle.cpus)
        self._devices.subtract(handle.devices)
        record = error.as_record() if isinstance(error, PenstockError) else error
        handle.end(Ended(status, result, record, cost or Cost(0.0)))


def _check_limits(limits: Limits, devices: int, place: str) -> None:
    if limits.gpus > devices:
        raise Unsupported("there are not so many devices", place=place, expected=f"gpus up to {devices}", got=limits.gpus)
    for name, value in (("memory_bytes", limits.memory_bytes), ("seconds", limits.seconds), ("cores", limits.cores)):
        if value is not None and not value > 0:
            raise Unsupported("a limit must be above zero", place=place, expected=f"{name} > 0", got=value)


def _least_used(used: Counter[Any], wanted: int) -> tuple[Any, ...]:
    return tuple(sorted(used, key=lambda name: used[name])[:wanted])


def _request(task: Task, devices: Sequence[str], mark: str) -> dict[str, Any]:
    """What the child is told of a task. It sees the environment and the path as they are here and now."""
    threads = {} if task.limits.cores is None else dict.fromkeys(_THREADS, str(task.limits.cores))
    try:
        folder = os.getcwd()
    except FileNotFoundError:
        folder = ""
    return {
        "call": task.call,
        "payload": task.payload,
        "environment": {**environment(), "CUDA_VISIBLE_DEVICES": ",".join(devices), **threads, **task.environment, _MARK: mark},
        "path": [*map(os.fspath, task.path), *import_path()],
        "folder": folder,
    }


def _end_survivors(handles: Sequence[ProcessHandle]) -> None:
    """Kills what tasks have left whose server is gone: processes that have a sheet mapped, and programs that were started with a mark."""
    sheets = {str(os.fstat(handle.sheet).st_ino) for handle in handles}
    marks = {f"{_MARK}={handle.mark}".encode() for handle in handles}
    empty = 0
    for _ in range(_LOOKS):
        survivors = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if pid != os.getpid() and _is_of(pid, sheets, marks)]
        for pid in survivors:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, SIGKILL)
        empty = 0 if survivors else empty + 1
        if empty == _EMPTY_LOOKS:
            return


def _is_of(pid: int, sheets: set[str], marks: set[bytes]) -> bool:
    try:
        if not marks.isdisjoint(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")):
            return True
        maps = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.split()[4] in sheets for line in maps if "/memfd:penstock-task" in line)


def _cost(message: Mapping[str, Any]) -> Cost:
    return Cost(message["seconds"], message.get("cpu"), message.get("grown"), message.get("read"), message.get("written"))


def _verdict(task: Task, message: Mapping[str, Any]) -> tuple[str, PenstockError]:
    """Status and error of a task that gave no answer."""
    limits, code, by_signal = task.limits, message["code"], message["how"] == "signal"
    where = f"see {task.log}" if task.log is not None else "give it a log to see what it printed last"
    if message["why"] == "cancelled":
        return "cancelled", JobCancelled("cancelled while it ran", place=task.id)
    if message["why"] == "timeout":
        return "timeout", TimeLimit(
            "its time was over", place=task.id, expected=f"up to {limits.seconds} s", got=f"{message['seconds']:.1f} s"
        )
    if by_signal and message["oom"] and code == SIGKILL:
        return "memory", MemoryLimit("the machine had no memory left", place=task.id, got=f"{message['grown']} bytes in use", hint=where)
    if by_signal and limits.memory_bytes and code in (SIGABRT, SIGSEGV, SIGBUS) and message["grown"] > _NEAR * limits.memory_bytes:
        got = f"{message['grown']} bytes, then {_signal_name(code)} in native code"
        return "memory", MemoryLimit("no more memory could be had", place=task.id, expected=f"up to {limits.memory_bytes} bytes", got=got)
    got = f"ended by {_signal_name(code)}" if by_signal else f"left with exit code {code}"
    return "crashed", JobCrashed("its process ended without an answer", place=task.id, expected="an answer", got=got, hint=where)


def _signal_name(code: int) -> str:
    try:
        return Signals(code).name
    except ValueError:
        return f"signal {code}"


def _has_pidfds() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


def _installed() -> tuple[tuple[str, int], ...]:
    """Folders that modules are imported from, with the moment of their last change: installing and removing a package changes it."""
    found = []
    for folder in dict.fromkeys(import_path()):
        if folder.endswith(("site-packages", "dist-packages")):
            with suppress(OSError):
                found.append((folder, os.stat(folder).st_mtime_ns))
    return tuple(found)


def _devices() -> tuple[str, ...]:
    """This machine's, or those of them that this process may see."""
    visible = environment().get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(filter(None, visible.split(",")))
    try:
        return tuple(str(n) for n, _ in enumerate(Path("/proc/driver/nvidia/gpus").iterdir()))
    except OSError:
        return ()


def _options(url: str, given: Mapping[str, Any]) -> dict[str, Any]:
    kinds: dict[str, Any] = {"preload": _names, "grace_s": float, "result_bytes": int, "gpus": _names, **dict.fromkeys(_WAITS, float)}
    found = {}
    for name, value in [*given.items(), *parse_qsl(url.partition("?")[2], keep_blank_values=True)]:
        if name not in kinds:
            raise SettingsError("no such option", place=f"compute[{name}]", hint=did_you_mean(name, kinds))
        try:
            found[name] = kinds[name](value)
        except (TypeError, ValueError) as error:
            raise SettingsError("an option cannot be understood", place=f"compute[{name}]", got=value) from error
    return found


def _names(value: str | Sequence[str]) -> tuple[str, ...]:
    return tuple(filter(None, value.split(",") if isinstance(value, str) else map(str, value)))
