"""The process of one task, from the fork to its end."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO

from penstock.adapters.compute.process.sheet import Sheet
from penstock.ground.calls import answer, failure
from penstock.ground.environ import replace_environment

#: Loaded before the fork.
_LIBC = ctypes.CDLL(None, use_errno=True)
_SET_PARENT_DEATH_SIGNAL, _SET_CHILD_SUBREAPER = 1, 36
#: The kernel takes a task first when the machine has no memory left; 0 to 1000.
_OUT_OF_MEMORY_SCORE = 500


def adopt_orphans() -> None:
    """Makes this process the parent of what its descendants leave behind, whatever session it hides in."""
    _LIBC.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def run(handle: int, *, parent: int, output: int | None, memory_bytes: int | None, cpus: Sequence[int]) -> NoReturn:
    """Does the task of a sheet and ends this process. Called in a forked child that has dropped what is its parent's.

    Args: parent: whose death is this process's. output: where stdout and stderr go.
    """
    os.setsid()
    _LIBC.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    adopt_orphans()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _say_to(output)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OUT_OF_MEMORY_SCORE))
    if cpus:
        with suppress(OSError):
            os.sched_setaffinity(0, cpus)
    sheet = Sheet(handle)
    os.close(handle)
    request = sheet.request()
    replace_environment(request["environment"])
    sys.path[:] = request["path"]
    for folder in [p for p, finder in sys.path_importer_cache.items() if finder is None]:
        del sys.path_importer_cache[folder]  # it may be there by now; folders that were are looked at anew if they changed
    if request["folder"]:
        with suppress(OSError):
            os.chdir(request["folder"])
    _new_randomness()
    faulthandler.enable()
    if memory_bytes is not None:
        _limit_memory(memory_bytes)
    sheet.begin(_status("VmRSS"))
    sheet.answer(_answered(request["call"], request["payload"], sheet.room))
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(0)


def _answered(call: str, payload: Any, room: int) -> bytes:
    try:
        return answer(call, payload, limit_bytes=room)
    except KeyboardInterrupt as error:
        return failure(call, error)


def _say_to(output: int | None) -> None:
    """stdout and stderr into a descriptor; each line as it is printed."""
    if output is not None:
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
    sys.stdout, sys.stderr = _lines_to(1), _lines_to(2)


def _lines_to(number: int) -> TextIO:
    return os.fdopen(number, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _new_randomness() -> None:
    """Numbers drawn without a seed differ from task to task. Python's own generator sees to that by itself; numpy's does not."""
    generator = sys.modules.get("numpy.random")
    if generator is not None:
        generator.seed()


def _status(name: str) -> int:
    """A size of this process, in bytes."""
    return next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name + ":"))


def _limit_memory(above: int) -> None:
    """Memory for data is this much more than now; beyond it allocation fails, in Python as a MemoryError."""
    now = _status("VmData")
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = now + above
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
