"""A worker that stays: claims what is queued, does several jobs at once, and sleeps while there is nothing.

It looks at the queue at once when it has done something, then after ever longer pauses up to a second; that is one small transaction on
each look, and no process beside it. Told to end, it takes nothing new, lets its jobs end for a while, and gives back what has not ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

from penstock.ground.errors import PenstockError
from penstock.ports.queue import Lease, Offers, QueuedJob
from penstock.run.claims import me
from penstock.run.runtime import Runtime
from penstock.run.worker import LEASE_S, Works, enlisted, relieve, work

#: Seconds between looks, the last one for as long as there is nothing.
PAUSES_S = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
#: Seconds that running jobs have when the worker must end.
GRACE_S = 30.0

Tell = Callable[[QueuedJob, str], None]


class Server:
    """One worker process.

    Args:
        offers: what it has.
        at_once: how many jobs may run at a time, whatever they need.
        runs: it does only jobs of these; () for all.
        tell: called as a job is taken (`started`) and as its attempt has ended (its status then), from any thread.
    """

    def __init__(
        self,
        runtime: Runtime,
        works: Works,
        offers: Offers,
        tell: Tell,
        *,
        at_once: int,
        runs: Collection[str] = (),
        grace_s: float = GRACE_S,
    ) -> None:
        self._runtime, self._works, self._offers, self._tell, self._grace_s = runtime, works, offers, tell, grace_s
        self._at_once, self._runs = at_once, runs
        self._running: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._over = threading.Event()
        self._leaving = threading.Event()
        self.owner = f"{me()}#{runtime.ids.new()}"

    def end(self) -> None:
        """Takes nothing new from now on. May be called from a signal's handler. Called again: gives back what runs, at once."""
        if self._over.is_set():
            self._leaving.set()
        self._over.set()
        self._wake.set()

    def serve(self, *, until: Callable[[], bool] | None = None) -> None:
        """Works until `end`, or until `until` holds when there is nothing to do. An interrupt gives back what runs, and goes on."""
        with enlisted(self._runtime.state.queue, self.owner):
            try:
                self._serve(until)
                self._drain()
            except BaseException:
                self._leaving.set()
                self._drain()
                raise

    def _serve(self, until: Callable[[], bool] | None) -> None:
        idle = 0
        relieve(self._runtime)
        while not self._over.is_set():
            self._wake.clear()
            lease = self._claimed()
            if lease is not None:
                idle = 0
                self._start(lease)
                continue
            if until is not None and not self._busy and until():
                return
            self._wake.wait(PAUSES_S[min(idle, len(PAUSES_S) - 1)])
            idle += 1
            if idle % 15 == 0:
                self._relieved()

    @property
    def _busy(self) -> int:
        with self._lock:
            return len(self._running)

    def _claimed(self) -> Lease | None:
        """The next job, if a slot is free; None too while the state is away."""
        if self._busy >= self._at_once:
            return None
        try:
            now = self._runtime.clock.now()
            return self._runtime.state.queue.claim(self.owner, self._offers, now=now, lease_s=LEASE_S, runs=self._runs)
        except PenstockError as error:
            if not error.retry:
                raise
            return None

    def _relieved(self) -> None:
        try:
            relieve(self._runtime)
        except PenstockError as error:
            if not error.retry:
                raise

    def _start(self, lease: Lease) -> None:
        thread = threading.Thread(target=self._work, args=(lease,), name=lease.job.name)
        with self._lock:
            self._running.add(thread)
        thread.start()

    def _work(self, lease: Lease) -> None:
        self._tell(lease.job, "started")
        try:
            ended = work(lease, self._runtime, self._works, leaving=self._leaving)
            self._tell(ended or lease.job, ended.status if ended else "taken over or given back")
        except Exception as error:  # noqa: BLE001 -- it is recorded with the job; the worker goes on
            self._tell(lease.job, f"failed: {error}")
        finally:
            with self._lock:
                self._running.discard(threading.current_thread())
            self._wake.set()

    def _drain(self) -> None:
        since = self._runtime.clock.tick()
        while self._busy:
            self._wake.clear()
            self._wake.wait(0.2)
            if self._runtime.clock.tick() - since > self._grace_s:
                self._leaving.set()
