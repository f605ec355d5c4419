"""Doing queued jobs: one attempt under its lease, kept alive by heartbeats, ended in the queue's record with what it cost.

What a kind of job does is a function of an `Attempt` in a table; this file knows none of them. A worker whose lease was taken over
records nothing (Fenced). An attempt that fails in a way that may pass is tried again after a while that doubles and differs from job to job.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from penstock.ground.errors import Elsewhere, Fenced, JobCancelled, PenstockError, StorageFull, WorkerVanished
from penstock.ground.failpoints import reach
from penstock.plan.retries import retry_at
from penstock.ports.queue import Lease, Queue, QueuedJob, Status, added
from penstock.run.claims import is_dead
from penstock.run.cost import Meter
from penstock.run.runtime import Runtime

#: Seconds a job's lease holds without a heartbeat; there are three in that span.
LEASE_S = 15.0
#: How soon a cancel is noticed, in seconds.
LOOK_S = 1.0
T = TypeVar("T")


@dataclass
class Attempt:
    """One attempt at a job, as its function sees it.

    Attributes:
        stop: set when the job is to end: somebody cancelled it, or another worker has it. Work that can be ended looks at it.
        leaving: set when the worker itself must end, and what it does is for others.
        cost: what the attempt took, where that is not what is measured of this process. `more` is added: of processes it started.
    """

    job: QueuedJob
    runtime: Runtime
    stop: threading.Event = field(default_factory=threading.Event)
    leaving: threading.Event = field(default_factory=threading.Event)
    cost: dict[str, float] = field(default_factory=dict)
    more: dict[str, float] = field(default_factory=dict)

    @property
    def payload(self) -> Mapping[str, Any]:
        return self.job.payload


#: What each kind of job does. The function returns JSON, the job's result; it raises what went wrong.
Works = Mapping[str, Callable[[Attempt], Any]]


class Beat:
    """Keeps a lease while a block runs: a thread sends heartbeats, and looks often whether a cancel was asked for."""

    def __init__(self, runtime: Runtime, lease: Lease, stop: threading.Event) -> None:
        self._runtime = runtime
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._stop = stop
        self.lease = lease
        self.lost = False

    def __enter__(self) -> Beat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _keep(self) -> None:
        looks = 0
        while not self._over.wait(LOOK_S):
            looks += 1
            try:
                self._look(beat=looks % round(LEASE_S / 3 / LOOK_S) == 0)
            except Fenced:
                self.lost = True
                self._stop.set()
                return
            except PenstockError:
                continue  # the state is away for a moment; the next look tells

    def _look(self, *, beat: bool) -> None:
        queue, clock = self._runtime.state.queue, self._runtime.clock
        if beat:
            self.lease = queue.heartbeat(self.lease, now=clock.now(), lease_s=LEASE_S)
            job = self.lease.job
        else:
            job = queue.jobs([self.lease.job.id])[0]
            if job.epoch != self.lease.epoch:
                raise Fenced("the job was taken over", place=job.name)
        if job.cancel_asked:
            self._stop.set()


def work(lease: Lease, runtime: Runtime, works: Works, *, leaving: threading.Event | None = None) -> QueuedJob | None:
    """Does one job and records how the attempt ended; None if another worker has taken it over.

    Raises: what is no error of a job: a defect of ours after the job was recorded as failed, an interrupt after it was given back.
    """
    queue, clock = runtime.state.queue, runtime.clock
    attempt = Attempt(lease.job, runtime, leaving=leaving or threading.Event())
    reach("worker.claimed")
    meter = Meter(clock)
    defect: BaseException | None = None
    error: Mapping[str, Any] | None = None
    result: Any = None
    with Beat(runtime, lease, attempt.stop) as beat:
        try:
            result = works[lease.job.kind](attempt)
            reach("worker.worked")
        except (PenstockError, OSError) as raised:
            if isinstance(raised, JobCancelled) and attempt.leaving.is_set():
                _given_back(queue, lease, clock.now())
                return None
            error = record_of(raised, lease.job.name)
            if error is None:
                defect, error = raised, defect_record(raised, lease.job.name)
        except Exception as raised:  # noqa: BLE001 -- whatever is left is ours to mend; the job ends, and the caller is told
            defect, error = raised, defect_record(raised, lease.job.name)
        except BaseException:
            _given_back(queue, lease, clock.now())
            raise
    cost = {**added({**meter.cost(), **attempt.cost}, attempt.more), **_waited(lease.job)}
    ended = None if beat.lost else _recorded(runtime, lease, result, error, cost)
    if defect is not None:
        raise defect
    return ended


def _recorded(runtime: Runtime, lease: Lease, result: Any, error: Mapping[str, Any] | None, cost: Mapping[str, float]) -> QueuedJob | None:
    queue, now = runtime.state.queue, runtime.clock.now()
    try:
        if error is None:
            ended = _insisting(runtime, lambda: queue.complete(lease, now=now, result=result, cost=cost))
        else:
            at = next_attempt(lease.job, error, now)
            ended = _insisting(runtime, lambda: queue.fail(lease, error, now=now, retry_at=at, cost=cost))
    except Fenced:
        return None
    reach("worker.recorded")
    return ended


def _insisting(runtime: Runtime, call: Callable[[], T]) -> T:
    """What a call gives, repeated while its answer is lost; calls of workers may be repeated."""
    for wait in (0.05, 0.2, 1.0, 3.0):
        try:
            return call()
        except PenstockError as error:
            if not error.retry:
                raise
            runtime.clock.wait(wait)
    return call()


def _given_back(queue: Queue, lease: Lease, now: datetime) -> None:
    error = JobCancelled("its worker was interrupted", place=lease.job.name).as_record()
    try:
        queue.fail(lease, error, now=now, counted=False)
    except PenstockError:
        return  # the lease ends by itself


def _waited(job: QueuedJob) -> dict[str, float]:
    """Seconds from when the job could have begun to its first attempt, with the time that jobs before it took."""
    if job.attempt != 1 or job.started is None:
        return {}
    since = max(job.created, job.not_before) if job.not_before is not None else job.created
    return {"waited_seconds": round(max(0.0, (job.started - since).total_seconds()), 3)}


# -- errors ---------------------------------------------------------------------------------------------------------
def record_of(error: Exception, place: str) -> dict[str, Any] | None:
    """An error as it is recorded, with the traceback of the user's code if that raised it; None for one that nobody expects."""
    if isinstance(error, OSError) and error.errno == 28 and not isinstance(error, PenstockError):
        error = StorageFull("no space left on the device", place=place, hint="free some space and run again; nothing was published")
    if not isinstance(error, PenstockError):
        return None
    record = error.as_record()
    if isinstance(error.__cause__, Elsewhere):
        record["traceback"] = str(error.__cause__)
    elif error.__cause__ is not None and error.code == "E5001":
        record["traceback"] = "".join(traceback.format_exception(error.__cause__))
    return record


def defect_record(error: BaseException, place: str) -> dict[str, Any]:
    """An error that no part of ours expects."""
    told = PenstockError(f"{type(error).__name__}: {error}"[:2000], place=place, hint="report it with the traceback").as_record()
    return {**told, "traceback": "".join(traceback.format_exception(error))}


def next_attempt(job: QueuedJob, error: Mapping[str, Any], now: datetime) -> datetime | None:
    """When a job whose attempt failed is tried again; None for never. A full disk, which nobody has freed that soon, is not tried again."""
    return None if error.get("code") == StorageFull.code else retry_at(job, now, error)


# -- dead workers ---------------------------------------------------------------------------------------------------
_RUNNING: tuple[Status, ...] = ("running",)


def relieve(runtime: Runtime) -> list[QueuedJob]:
    """Gives back the jobs of workers of this machine that are gone, so that nobody waits for their leases; gives them as they are then."""
    queue, now = runtime.state.queue, runtime.clock.now()
    found = []
    for job in queue.jobs(status=_RUNNING, limit=10_000):
        if job.until is None or not is_dead(job.owner):
            continue
        error = WorkerVanished("its worker is gone", place=job.name, got=job.owner).as_record()
        try:
            found.append(queue.fail(Lease(job, job.owner, job.epoch, job.until), error, now=now, retry_at=now))
        except Fenced:
            continue  # somebody else did it
    return found


@contextmanager
def enlisted(queue: Queue, owner: str) -> Iterator[None]:
    """Tells the queue at the end of a block that a worker is not up any more."""
    try:
        yield
    finally:
        with suppress(PenstockError):  # it counts as up until its lease ends
            queue.leave(owner)
