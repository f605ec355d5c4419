"""One server as its owner sees it: the process, the socket, and a thread that listens."""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from penstock.ground.clock import Clock

#: How often a silent server is asked before it is killed.
_LOOKS = 5
_PACKET = 1 << 16
_CODE = (
    "import json, sys; told = json.loads(sys.argv[1]); sys.path[:] = told.pop('path'); "
    "from penstock.adapters.compute.process.server import main; main(**told)"
)


def import_path() -> list[str]:
    """Where this process imports from; what imports pass over is left out."""
    return [folder for folder in sys.path if isinstance(folder, str)]


@dataclass(frozen=True)
class Patience:
    """How long what is waited for, in seconds.

    Attributes:
        idle_s: a server without a task ends after that.
        begin_s: a task's process that has not come to begin by then hangs; the task is started elsewhere.
        silence_s: a server that is asked and says nothing for that long hangs in a fork, or is stopped; it is killed.
        loading_s: the same while it loads modules.
    """

    idle_s: float = 60.0
    begin_s: float = 10.0
    silence_s: float = 30.0
    loading_s: float = 120.0


class Link:
    """A server that was started, and is loading or ready.

    Args:
        heard: called with each message, in the link's thread.
        lost: called once, in that thread, when the server's process is gone.
    """

    def __init__(
        self,
        modules: Sequence[str],
        patience: Patience,
        clock: Clock,
        *,
        heard: Callable[[Link, dict[str, Any]], None],
        lost: Callable[[Link], None],
    ) -> None:
        self.modules = tuple(modules)
        self.ready = False
        self.jobs: set[int] = set()
        self._clock = clock
        self._patience = patience
        self._heard = heard
        self._lost = lost
        self._sending = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", *_split(patience.silence_s)))
        told = {"path": import_path(), "control": theirs.fileno(), "owner": os.getpid(), "modules": list(modules)}
        told |= {"idle_s": patience.idle_s, "begin_s": patience.begin_s}
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _CODE, json.dumps(told)],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._wake = os.eventfd(0)
        self._last = clock.tick()
        self.thread = threading.Thread(target=self._listen, name="penstock-compute", daemon=True)
        self.thread.start()

    def send(self, message: dict[str, Any], handles: Sequence[int] = ()) -> None:
        """Raises: OSError if the server is gone, or takes nothing any more."""
        with self._sending:
            socket.send_fds(self._control, [json.dumps(message).encode()], list(handles))

    def owe(self, number: int) -> None:
        """A task is about to be sent: from now on the server has to show that it lives."""
        if not self.jobs:
            self._last = self._clock.tick()
        self.jobs.add(number)
        with suppress(OSError, ValueError):  # a link that was closed meanwhile: sending over it tells
            os.eventfd_write(self._wake, 1)

    def kill(self) -> None:
        self.process.kill()

    def _listen(self) -> None:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            allowed = self._patience.silence_s if self.ready else self._patience.loading_s
            ready = dict(poll.poll(allowed * 1000 / _LOOKS if self.jobs or not self.ready else None))
            if not ready:
                if self._clock.tick() - self._last > allowed:
                    self.kill()
                elif self.ready:
                    with suppress(OSError):
                        self.send({"do": "ping"})
            if self._wake in ready:
                os.eventfd_read(self._wake)
            if self._control.fileno() not in ready:
                continue
            try:
                data = self._control.recv(_PACKET)
            except OSError:
                data = b""
            if not data:
                break
            self._last = self._clock.tick()
            message = json.loads(data)
            self.ready = self.ready or message["do"] == "ready"
            self._heard(self, message)
        self.kill()
        self.process.wait()
        with self._sending:
            self._control.close()
            wake, self._wake = self._wake, -1
            os.close(wake)
        self._lost(self)


def _split(seconds: float) -> tuple[int, int]:
    """Whole seconds and microseconds."""
    return int(seconds), int(seconds % 1 * 1e6)
