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
from typing import Any

from penstock.ground.clock import Clock

#: A server that owes an answer and says nothing for this many seconds hangs, in a fork or while it loads; it is killed.
SILENCE_S = 30.0
LOADING_S = 120.0
_PING_S = 5.0
_PACKET = 1 << 16
_CODE = (
    "import json, sys; told = json.loads(sys.argv[1]); sys.path[:] = told.pop('path'); "
    "from penstock.adapters.compute.process.server import main; main(**told)"
)


class Link:
    """A server that was started, and is loading or ready.

    Args:
        heard: called with each message, in the link's thread.
        lost: called once, in that thread, when the server's process is gone.
    """

    def __init__(
        self,
        modules: Sequence[str],
        idle_s: float,
        clock: Clock,
        *,
        heard: Callable[[Link, dict[str, Any]], None],
        lost: Callable[[Link], None],
    ) -> None:
        self.modules = tuple(modules)
        self.ready = False
        self.jobs: set[int] = set()
        self._clock = clock
        self._heard = heard
        self._lost = lost
        self._sending = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(SILENCE_S), 0))
        told = {"path": sys.path, "control": theirs.fileno(), "owner": os.getpid(), "modules": list(modules), "idle_s": idle_s}
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _CODE, json.dumps(told)],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self.thread = threading.Thread(target=self._listen, name="penstock-compute", daemon=True)
        self.thread.start()

    def send(self, message: dict[str, Any], handles: Sequence[int] = ()) -> None:
        """Raises: OSError if the server is gone, or takes nothing any more."""
        with self._sending:
            socket.send_fds(self._control, [json.dumps(message).encode()], list(handles))

    def kill(self) -> None:
        self.process.kill()

    def _listen(self) -> None:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        last = self._clock.tick()
        while True:
            owed = bool(self.jobs) or not self.ready
            if not poll.poll(_PING_S * 1000 if owed else None):
                if self._clock.tick() - last > (SILENCE_S if self.ready else LOADING_S):
                    self.kill()
                elif self.ready:
                    with suppress(OSError):
                        self.send({"do": "ping"})
                continue
            try:
                data = self._control.recv(_PACKET)
            except OSError:
                data = b""
            if not data:
                break
            last = self._clock.tick()
            message = json.loads(data)
            self.ready = self.ready or message["do"] == "ready"
            self._heard(self, message)
        self.kill()
        self.process.wait()
        with self._sending:
            self._control.close()
        self._lost(self)
