"""The server: a process that has loaded what tasks need, and forks one child for each. One thread, and it runs no code of a task.

It does all that must be done by the parent of a process: time limits, signals, logs, the last look at a process that is gone. It ends,
and its children with it, when the process that started it ends or closes the socket.

Messages are JSON, one per packet. In: `start` (with the sheet's descriptor, and the log's), `cancel`, `ping`, `retire` (end when the last
task has), `close` (end all). Out: `ready`, `started`, `ended`, `pong`.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from penstock.adapters.compute.process import child
from penstock.adapters.compute.process.sheet import ASKED, resident_at_begin, state_of
from penstock.ground.clock import SystemClock
from penstock.ground.logs import Log

#: The longest that the end of a task's last processes is waited for once they were killed, in seconds.
_GONE_S = 2.0
_PACKET = 1 << 16
_MOST_DESCRIPTORS = 2


@dataclass
class Job:
    """A child and what is known of it."""

    id: int
    pid: int
    process: int
    sheet: int
    log: Log | None
    log_file: int
    printed: int
    grace: float
    started: float
    oom_kills: int
    deadline: float | None
    begin_by: float
    kill_at: float | None = None
    why: str = ""
    begun: bool = False

    def next_time(self) -> float | None:
        """The next moment at which it must be looked at."""
        if self.why:
            return self.kill_at
        return min((t for t in (self.deadline, None if self.begun else self.begin_by) if t is not None), default=None)


class Server:
    """Args: owner: a descriptor of the process to serve. begin_s: a child that has not begun its task by then hangs, most often in a lock
    that another thread held at the fork. idle_s: it ends after so long without a task."""

    def __init__(self, control: socket.socket, owner: int, *, idle_s: float, begin_s: float) -> None:
        self._control = control
        self._owner = owner
        self._idle_s = idle_s
        self._begin_s = begin_s
        self._tick = SystemClock().tick
        self._selector = selectors.DefaultSelector()
        self._jobs: dict[int, Job] = {}
        self._retired = False
        self._me = os.getpid()
        self._oom_kills, self._oom_kills_until = 0, 0.0
        self._selector.register(control, selectors.EVENT_READ, self._hear)
        self._selector.register(owner, selectors.EVENT_READ, self._end_all)

    def run(self) -> None:
        """Serves until there is nothing to serve."""
        while self._jobs or not self._retired:
            times = [t for job in self._jobs.values() if (t := job.next_time()) is not None]
            wait = max(0.0, min(times) - self._tick()) if times else (None if self._jobs else self._idle_s)
            ready = self._selector.select(wait)
            if not ready and not self._jobs:
                return
            for key, _ in ready:
                if self._selector.get_map().get(key.fd) is key:
                    call: Callable[[], None] = key.data
                    call()
            self._look_at_times()

    # -- messages -------------------------------------------------------------------------------------------------
    def _hear(self) -> None:
        data, handles, _, _ = socket.recv_fds(self._control, _PACKET, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        if not data:
            self._end_all()
        message = json.loads(data)
        what = message["do"]
        if what == "start":
            self._start(message, list(handles))
        elif what == "cancel":
            if (job := self._jobs.get(message["id"])) is not None:
                self._ask_to_end(job, "cancelled")
        elif what == "ping":
            self._say({"do": "pong"})
        elif what == "retire":
            self._retired = True
        elif what == "close":
            self._retired = True
            for job in list(self._jobs.values()):
                self._ask_to_end(job, "cancelled")

    def _say(self, message: dict[str, Any]) -> None:
        try:
            self._control.send(json.dumps(message).encode())
        except OSError:
            self._end_all()

    # -- start ----------------------------------------------------------------------------------------------------
    def _start(self, message: dict[str, Any], handles: list[int]) -> None:
        pipe: list[int] = []
        try:
            if len(handles) != 1 + message["log"]:
                raise OSError("descriptors were lost on the way")
            if message["log"]:
                pipe = list(os.pipe2(os.O_CLOEXEC))
            self._count_oom_kills()
            pid = os.fork()
        except OSError as error:
            for handle in handles + pipe:
                os.close(handle)
            self._say({"do": "ended", "id": message["id"], "how": "fork", "code": 0, "why": str(error), "seconds": 0.0})
            return
        if pid == 0:
            self._become(message, handles, pipe)
        if pipe:
            os.close(pipe[1])
            os.set_blocking(pipe[0], False)
        now = self._tick()
        seconds = message["seconds"]
        job = Job(
            id=message["id"], pid=pid, process=os.pidfd_open(pid), sheet=handles[0], log=Log(handles[1]) if pipe else None,
            log_file=handles[1] if pipe else -1, printed=pipe[0] if pipe else -1, grace=message["grace"], started=now, oom_kills=self._oom_kills,
            deadline=None if seconds is None else now + seconds, begin_by=now + self._begin_s,
        )  # fmt: skip
        self._jobs[job.id] = job
        self._selector.register(job.process, selectors.EVENT_READ, partial(self._gone, job))
        if pipe:
            self._selector.register(job.printed, selectors.EVENT_READ, partial(self._printed, job))
        self._say({"do": "started", "id": job.id, "pid": pid})

    def _count_oom_kills(self) -> None:
        """Once a second is enough: it only tells old kills from those since a task began."""
        if (now := self._tick()) >= self._oom_kills_until:
            self._oom_kills, self._oom_kills_until = _oom_kills(), now + 1.0

    def _become(self, message: dict[str, Any], handles: list[int], pipe: list[int]) -> None:
        """In the child: drops what is the server's, and does the task. Never returns."""
        try:
            self._selector.close()
            self._control.close()
            os.close(self._owner)
            for job in self._jobs.values():
                for handle in (job.process, job.sheet, job.log_file, job.printed):
                    if handle >= 0:
                        os.close(handle)
            for handle in handles[1:] + pipe[:1]:
                os.close(handle)
            output = pipe[1] if pipe else None
            child.run(handles[0], parent=self._me, output=output, memory_bytes=message["memory"], cpus=message["cpus"])
        except BaseException:  # noqa: BLE001 -- nothing of a child may come back into the server's loop
            with suppress(BaseException):
                sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)

    # -- while it runs --------------------------------------------------------------------------------------------
    def _printed(self, job: Job) -> bool:
        """Takes what a task has printed into its log; whether there may be more."""
        try:
            data = os.read(job.printed, _PACKET)
        except BlockingIOError:
            return False
        if data and job.log is not None:
            job.log.write(data)
        elif not data:
            self._selector.unregister(job.printed)
            os.close(job.printed)
            job.printed = -1
        return bool(data)

    def _look_at_times(self) -> None:
        now = self._tick()
        for job in list(self._jobs.values()):
            if not job.begun:
                job.begun = state_of(job.sheet) != ASKED
            if job.kill_at is not None and now >= job.kill_at:
                job.kill_at = now + 1.0
                _signal(job.pid, signal.SIGKILL)
            elif job.deadline is not None and now >= job.deadline:
                self._ask_to_end(job, "timeout")
            elif not job.begun and now >= job.begin_by:
                job.grace = 0.0
                self._ask_to_end(job, "hung")

    def _ask_to_end(self, job: Job, why: str) -> None:
        if job.why:
            return
        job.why = why
        job.kill_at = self._tick() + job.grace
        _signal(job.pid, signal.SIGTERM if job.grace else signal.SIGKILL)

    # -- the end --------------------------------------------------------------------------------------------------
    def _gone(self, job: Job) -> None:
        """The child has ended: a last look at it, an end to what it left behind, and the word about it."""
        os.waitid(os.P_PID, job.pid, os.WEXITED | os.WNOWAIT)  # its number is not given away yet
        seconds = self._tick() - job.started
        read, written = _bytes_of(job.pid)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(job.pid, signal.SIGKILL)
        _, status, usage = os.wait4(job.pid, 0)
        self._end_orphans()
        for _ in range(64):
            if job.printed < 0 or not self._printed(job):
                break
        self._selector.unregister(job.process)
        if job.printed >= 0:
            self._selector.unregister(job.printed)
        del self._jobs[job.id]
        grown = max(0, usage.ru_maxrss * 1024 - resident_at_begin(job.sheet))
        for handle in (job.process, job.sheet, job.log_file, job.printed):
            if handle >= 0:
                os.close(handle)
        signalled = os.WIFSIGNALED(status)
        self._say(
            {
                "do": "ended", "id": job.id, "how": "signal" if signalled else "exit", "why": job.why, "seconds": seconds,
                "code": os.WTERMSIG(status) if signalled else os.WEXITSTATUS(status), "cpu": usage.ru_utime + usage.ru_stime, "grown": grown,
                "read": read, "written": written, "oom": signalled and not job.why and _oom_kills() > job.oom_kills,
            }
        )  # fmt: skip

    def _end_orphans(self) -> None:
        """Kills what came to this process when its parent ended. Every running task adopts its own, so these are of tasks that are gone."""
        until = self._tick() + _GONE_S
        while orphans := _children() - {job.pid for job in self._jobs.values()}:
            for pid in orphans:
                with suppress(ProcessLookupError, ChildProcessError):
                    os.kill(pid, signal.SIGKILL)
                    process = os.pidfd_open(pid)
                    with selectors.DefaultSelector() as wait:
                        wait.register(process, selectors.EVENT_READ)
                        wait.select(max(0.0, until - self._tick()))
                    os.close(process)
                    os.waitpid(pid, os.WNOHANG)
            if self._tick() > until:
                return

    def _end_all(self) -> None:
        """Nobody is left to serve."""
        for job in self._jobs.values():
            _signal(job.pid, signal.SIGKILL)
        for job in self._jobs.values():
            with suppress(ChildProcessError):
                os.waitpid(job.pid, 0)
        self._jobs.clear()
        self._end_orphans()
        os._exit(0)


def _signal(pid: int, number: int) -> None:
    """To a child and its group. A child that has just been forked has no group yet."""
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _children() -> set[int]:
    """This process's. What is adopted becomes a child of the first thread, which is also the one that forks.

    A kernel that does not list them (without CONFIG_PROC_CHILDREN) leaves alone what hides in a session of its own.
    """
    try:
        return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))
    except FileNotFoundError:
        return set()


def _bytes_of(pid: int) -> tuple[int | None, int | None]:
    """Bytes that a process, and those it waited for, have read and written; None where the system does not tell."""
    try:
        told = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
        return int(told["rchar"]), int(told["wchar"])
    except (OSError, KeyError, ValueError):
        return None, None


def _oom_kills() -> int:
    """How many processes of this machine were ended because it had no memory left."""
    try:
        with open("/proc/vmstat", "rb") as lines:
            return next((int(line.split()[1]) for line in lines if line.startswith(b"oom_kill ")), 0)
    except OSError:
        return 0


def preload(modules: list[str]) -> tuple[dict[str, str], list[str]]:
    """Imports modules; those that cannot be, with the reason, and those that left a thread of Python running."""
    missing, threaded = {}, []
    for name in modules:
        before = threading.active_count()
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 -- an import runs anybody's code; without it the server is only slower
            missing[name] = f"{type(error).__name__}: {error}"[:500]
        if threading.active_count() > before:
            threaded.append(name)
    return missing, threaded


def main(*, control: int, owner: int, modules: list[str], idle_s: float, begin_s: float) -> None:
    """Args: control: the socket's descriptor. owner: the process to serve. modules: loaded before the first fork. Others: as `Server`."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
    try:
        process = os.pidfd_open(owner)
    except ProcessLookupError:
        return
    child.adopt_orphans()
    missing, threaded = preload(modules)
    gc.collect()
    gc.freeze()
    server = Server(socket.socket(fileno=control), process, idle_s=idle_s, begin_s=begin_s)
    server._say({"do": "ready", "missing": missing, "threaded": threaded})
    server.run()
