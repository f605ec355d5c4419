"""What a task and its result are written on: a file in memory, shared by the process that asks and the one that answers.

No pipe carries a result, so nothing waits for a reader or for a last writer, and a task that closes its descriptors can still answer: its
process has the sheet mapped. The state is set last; a sheet that says `ANSWERED` has its whole answer.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from typing import Any

#: Where a task is.
ASKED, BEGUN, ANSWERED = 0, 1, 2
#: Room for an error besides that for a result; what `ground.calls` tells of one is shorter.
_ERROR_BYTES = 512 << 10
#: State, bytes of the request, bytes of the answer, resident bytes when the task began.
_HEAD = struct.Struct("<QQQQ")


def new_sheet(request: bytes, result_bytes: int) -> int:
    """The descriptor of a sheet with a request, and room for a result of some bytes. Raises: OSError."""
    handle = os.memfd_create("penstock-task", os.MFD_CLOEXEC)
    try:
        os.ftruncate(handle, _HEAD.size + len(request) + result_bytes + _ERROR_BYTES)
        os.pwrite(handle, _HEAD.pack(ASKED, len(request), 0, 0), 0)
        written = 0
        while written < len(request):
            written += os.pwrite(handle, request[written:], _HEAD.size + written)
    except BaseException:
        os.close(handle)
        raise
    return handle


def state_of(handle: int) -> int:
    return int(_HEAD.unpack(os.pread(handle, _HEAD.size, 0))[0])


def resident_at_begin(handle: int) -> int:
    """Bytes, 0 if it has not begun."""
    return int(_HEAD.unpack(os.pread(handle, _HEAD.size, 0))[3])


def read_answer(handle: int) -> dict[str, Any] | None:
    """What was answered; None if nothing was, or if the task has spoilt its sheet."""
    try:
        state, asked, answered, _ = _HEAD.unpack(os.pread(handle, _HEAD.size, 0))
        room = os.fstat(handle).st_size - _HEAD.size
        if state != ANSWERED or asked + answered > room:
            return None
        said = json.loads(os.pread(handle, answered, _HEAD.size + asked))
    except (ValueError, OSError, struct.error, RecursionError):
        return None
    whole = isinstance(said, dict) and (said.get("status") == "done" or isinstance(said.get("error"), dict))
    return said if whole and said["status"] in ("done", "failed", "memory") else None


class Sheet:
    """A sheet as the task's process sees it, through memory alone."""

    def __init__(self, handle: int) -> None:
        self._memory = mmap.mmap(handle, 0)
        self._asked = _HEAD.unpack_from(self._memory)[1]

    @property
    def room(self) -> int:
        """Bytes that a result may have."""
        return len(self._memory) - _HEAD.size - int(self._asked) - _ERROR_BYTES

    def request(self) -> dict[str, Any]:
        asked: dict[str, Any] = json.loads(self._memory[_HEAD.size : _HEAD.size + self._asked])
        return asked

    def begin(self, resident: int) -> None:
        """From here on the task is not started again by itself."""
        _HEAD.pack_into(self._memory, 0, BEGUN, self._asked, 0, resident)

    def answer(self, said: bytes) -> None:
        resident = _HEAD.unpack_from(self._memory)[3]
        at = _HEAD.size + self._asked
        self._memory[at : at + len(said)] = said
        _HEAD.pack_into(self._memory, 0, BEGUN, self._asked, len(said), resident)
        _HEAD.pack_into(self._memory, 0, ANSWERED, self._asked, len(said), resident)
