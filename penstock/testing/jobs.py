"""Functions for tasks of tests: each takes a payload and does what its name says. Nothing heavy is imported before it is asked for."""

from __future__ import annotations

import ctypes
import importlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from penstock.ground.environ import environment
from penstock.ground.errors import CheckFailed

Payload = dict[str, Any]
#: "For ever" in seconds: longer than any test, short enough to leave nothing behind for good.
_EVER = 600.0


def echo(payload: Payload) -> Payload:
    return payload


def add(payload: Payload) -> Any:
    return payload["a"] + payload["b"]


def whole_place(payload: Payload) -> Payload:
    """Where the call runs: process, parent, folder, path, and the variables asked for."""
    names = payload.get("names", ())
    return {
        "pid": os.getpid(), "parent": os.getppid(), "group": os.getpgid(0), "folder": os.getcwd(), "path": sys.path, "cpus": len(os.sched_getaffinity(0)),
        "environment": {name: environment().get(name) for name in names},
    }  # fmt: skip


def imported(payload: Payload) -> Any:
    """What the function of a module gives, both by name."""
    return getattr(importlib.import_module(payload["module"]), payload["function"])()


def loaded(payload: Payload) -> list[str]:
    """Which of some modules are loaded."""
    return [name for name in payload["names"] if name in sys.modules]


def speak(payload: Payload) -> None:
    """Prints to stdout, to stderr, and past Python."""
    print(payload["out"])
    print(payload["err"], file=sys.stderr)
    sys.stdout.flush()
    if payload.get("native"):
        os.write(1, payload["native"].encode())


def chatter(payload: Payload) -> int:
    """Prints numbered lines; with `touch`, makes that file after them and stays."""
    for n in range(payload["lines"]):
        print(f"line {n} {'x' * payload.get('width', 40)}")
    if "touch" in payload:
        Path(payload["touch"]).touch()
        hang(payload)
    return int(payload["lines"])


# -- exceptions -----------------------------------------------------------------------------------------------------
class Hostile(Exception):
    """An exception that cannot be pickled or copied, and whose text fails."""

    def __init__(self, a: int, *, b: threading.Lock) -> None:
        self.lock = b

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def fail(payload: Payload) -> NoReturn:
    kinds: dict[str, Any] = {
        "value": lambda: ValueError("a bad value: Ä\ud800"), "own": lambda: CheckFailed("too few rows", place="flights", expected=1, got=0),
        "hostile": lambda: Hostile(1, b=threading.Lock()), "exit": lambda: SystemExit(3), "interrupt": KeyboardInterrupt,
        "base": lambda: BaseException("base"), "stop": StopIteration, "memory": MemoryError, "long": lambda: ValueError("x" * 10_000_000),
        "long own": lambda: CheckFailed("Ä" * 1_000_000, place="\U0001f6e9" * 1_000_000),
    }  # fmt: skip
    raise kinds[payload["kind"]]()


def deep(payload: Payload) -> Any:
    """Recurses without end."""
    return deep(payload)


def no_json(payload: Payload) -> Any:
    circle: list[Any] = []
    circle.append(circle)
    return {"object": object(), "bytes": b"x", "nan": float("nan"), "circle": circle, "set": {1}}[payload["kind"]]


def long_result(payload: Payload) -> str:
    return "x" * int(payload["bytes"])


# -- ends without an answer -----------------------------------------------------------------------------------------
def leave(payload: Payload) -> NoReturn:
    os._exit(payload["code"])


def segfault(payload: Payload) -> Any:
    return ctypes.string_at(0)


def kill_itself(payload: Payload) -> None:
    os.kill(os.getpid(), signal.Signals[payload["signal"]])
    hang(payload)


def hang(payload: Payload) -> None:
    """Sleeps; with `touch`, makes that file first; with `stubborn`, does not listen to TERM."""
    if payload.get("stubborn"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "touch" in payload:
        Path(payload["touch"]).touch()
    time.sleep(_EVER)


def polite(payload: Payload) -> None:
    """Leaves by an exception when it is asked to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    hang(payload)


def spin(payload: Payload) -> NoReturn:
    while True:
        pass


def hog(payload: Payload) -> int:
    """Holds more and more memory, up to `most` bytes; with `keep`, also after it failed."""
    held: list[bytearray] = []
    if payload.get("keep"):
        globals()["kept"] = held
    for _ in range(payload["most"] >> 20):
        held.append(bytearray(1 << 20))
    return len(held)


def native_hog(payload: Payload) -> None:
    """Takes memory past Python and dies of the first refusal, as native libraries do."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    for _ in range(payload["most"] >> 20):
        block = libc.malloc(ctypes.c_size_t(1 << 20))
        if not block:
            os.abort()
        ctypes.memset(block, 1, 1 << 20)


def use(payload: Payload) -> None:
    """Uses what is to be measured: seconds of CPU, bytes of memory, bytes written and read."""
    held = bytearray(payload.get("memory", 0))
    for at in range(0, len(held), 4096):
        held[at] = 1
    place = Path(payload["file"])
    place.write_bytes(b"x" * payload.get("written", 0))
    place.read_bytes()
    until = time.process_time() + payload.get("cpu", 0.0)
    while time.process_time() < until:
        pass


# -- what is left behind --------------------------------------------------------------------------------------------
def close_all(payload: Payload) -> str:
    """Closes every descriptor that it has."""
    os.closerange(0, 4096)
    return "still here"


def garbage(payload: Payload) -> str:
    """Writes bytes into every descriptor that takes them, but the first three."""
    for handle in range(3, 256):
        try:
            os.write(handle, b"\x00garbage\xff" * 100)
        except OSError:
            continue
    return "still here"


def orphan(payload: Payload) -> int:
    """Leaves a process behind that holds everything that this one had open; with `hidden`, in a session of its own and without a parent."""
    read, write = os.pipe()
    if os.fork() == 0:
        if payload.get("hidden"):
            os.setsid()
            if os.fork():
                os._exit(0)
        os.write(write, str(os.getpid()).encode())
        time.sleep(_EVER)
        os._exit(0)
    pid = int(os.read(read, 20))
    if payload.get("then") in ("crash", "hang"):
        Path(payload["file"] + ".draft").write_text(str(pid))
        Path(payload["file"] + ".draft").rename(payload["file"])
        if payload["then"] == "hang":
            hang({})
        os.kill(os.getpid(), signal.SIGKILL)
    return pid


def program(payload: Payload) -> str:
    """What another program prints."""
    return subprocess.run(payload["command"], capture_output=True, text=True, check=True).stdout


def thread_stays(payload: Payload) -> str:
    """Returns while a thread of it goes on."""
    threading.Thread(target=hang, args=({},)).start()
    return "returned"


def small_files(payload: Payload) -> str:
    """Lets files grow to some bytes only, and prints more than that."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (payload["bytes"], payload["bytes"]))
    print("x" * payload["bytes"] * 4)
    return "still here"
