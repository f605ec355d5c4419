"""Claims: one writer for each asset. A live owner renews its claim; a dead owner's claim is taken over at once."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from penstock.ground.errors import Busy, Fenced, PenstockError
from penstock.ports.state import Claim
from penstock.run.runtime import Runtime

#: Seconds a claim holds without a sign of life; renewed three times in that span.
LEASE_S = 15.0


def me() -> str:
    """This process as a claim's owner: host, pid, and the kernel's start time of the process, so that a reused pid is told apart."""
    return f"{socket.gethostname()}/{os.getpid()}/{_born(os.getpid())}"


def _born(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            return stat.read().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return ""


def is_dead(owner: str) -> bool:
    """Whether a claim's owner was a process of this machine that is gone; False if that cannot be told."""
    host, pid, born, *_ = (*owner.split("#")[0].split("/"), "", "")
    if host != socket.gethostname() or not pid.isdigit() or not born:
        return False
    return _born(int(pid)) != born


@contextmanager
def claimed(runtime: Runtime, name: str, run_id: str) -> Iterator[Claim]:
    """Holds a claim for the length of the block, renewed by a thread; a dead owner's claim is taken over at once.

    Raises: Busy(E4005) while another live process holds it.
    """
    owner = f"{me()}#{run_id}"
    try:
        claim = runtime.state.claim(name, owner, now=runtime.clock.now(), lease_s=LEASE_S)
    except Busy as busy:
        if busy.holder is None or not is_dead(busy.holder.owner):
            raise
        runtime.state.release(busy.holder)
        claim = runtime.state.claim(name, owner, now=runtime.clock.now(), lease_s=LEASE_S)
    over = threading.Event()
    keeper = threading.Thread(target=_keep, args=(runtime, claim, over), daemon=True)
    keeper.start()
    try:
        yield claim
    finally:
        over.set()
        keeper.join()
        runtime.state.release(claim)


def _keep(runtime: Runtime, claim: Claim, over: threading.Event) -> None:
    while not over.wait(LEASE_S / 3):
        try:
            claim = runtime.state.renew(claim, now=runtime.clock.now(), lease_s=LEASE_S)
        except Fenced:
            return
        except PenstockError:
            continue
