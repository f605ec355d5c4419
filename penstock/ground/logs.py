"""Logs of limited size: the beginning and the end stay, what is between goes, and a line in its place says how much."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from penstock.ground.paths import private_folder

#: The most that a log holds, in bytes. A quarter of it is for the beginning; the end is at least another quarter.
LIMIT_BYTES = 8 << 20
_NOTE = re.compile(rb"\n\[(\d+) bytes left out\]\n")
_NOTE_BYTES = 64
_PIECE = 1 << 16


def open_log(path: Path) -> int:
    """A descriptor to write a log with, private; made if it was missing. Raises: OSError."""
    private_folder(path.parent)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


class Log:
    """Adds to a log. One writer at a time. What cannot be written is lost, which is told in the log when it can be; nothing is raised."""

    def __init__(self, handle: int, limit_bytes: int = LIMIT_BYTES) -> None:
        self._handle = handle
        self._limit = limit_bytes
        self._lost = 0

    def write(self, data: bytes) -> None:
        note = b"\n[%d bytes could not be written]\n" % self._lost if self._lost else b""
        whole, written = note + data, 0
        try:
            size = os.fstat(self._handle).st_size
            while written < len(whole):
                piece = whole[written : written + self._limit // 4]
                if size + len(piece) > self._limit:
                    size = self._cut(size)
                done = os.pwrite(self._handle, piece, size)
                size, written = size + done, written + done
        except OSError:
            untold = self._lost if written < len(note) else 0
            self._lost = untold + len(data) - max(0, written - len(note))
        else:
            self._lost = 0

    def _cut(self, size: int) -> int:
        """Takes out the middle; the file's new size."""
        head = self._limit // 4
        before, note = _left_out(self._handle, head)
        keep = min(self._limit // 4, size - head - note)
        tail = os.pread(self._handle, keep, size - keep)
        rest = b"\n[%d bytes left out]\n" % (before + size - note - head - keep) + tail
        os.pwrite(self._handle, rest, head)
        os.ftruncate(self._handle, head + len(rest))
        return head + len(rest)


def follow(path: Path, over: Callable[[], bool], *, limit_bytes: int = LIMIT_BYTES) -> Iterator[str]:
    """The text of a log as it grows, until its writer is over and all is read. Bytes that are no UTF-8 come as `\\xNN`.

    What was left out before it could be read is told by a line, as in the log itself.

    Args:
        over: waits a moment and says whether the writer has ended, e.g. `lambda: handle.wait(0.2) is not None`. It is called when there is
            nothing to read.
        limit_bytes: as the log is written with.
    Raises: OSError if the log is there and cannot be read.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    handle, seen, ended = -1, 0, False
    try:
        while True:
            if handle < 0:
                with suppress(FileNotFoundError):
                    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            data, seen = _next(handle, seen, limit_bytes // 4) if handle >= 0 else (b"", seen)
            if data:
                if said := decoder.decode(data):
                    yield said
            elif ended:
                if said := decoder.decode(b"", final=True):
                    yield said
                return
            else:
                ended = over()
    finally:
        if handle >= 0:
            os.close(handle)


def _left_out(handle: int, head: int) -> tuple[int, int]:
    """How many bytes were left out after the beginning, and how many the note about them has; zeros if nothing was."""
    found = _NOTE.match(os.pread(handle, _NOTE_BYTES, head))
    return (int(found[1]), len(found[0])) if found else (0, 0)


def _next(handle: int, seen: int, head: int) -> tuple[bytes, int]:
    """Bytes after the first `seen` that were ever written, and how many were then seen; again if the log was cut meanwhile."""
    while True:
        left, note = _left_out(handle, head)
        missed = max(0, head + left - seen) if left and seen >= head else 0
        at = seen if seen < head else seen + missed - left + note
        data = os.pread(handle, min(_PIECE, head - at) if at < head else _PIECE, at)
        if _left_out(handle, head) == (left, note):
            said = b"\n[%d bytes left out]\n" % missed if missed else b""
            return said + data, seen + missed + len(data)
