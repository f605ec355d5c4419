"""The queue port: jobs that wait, run under a lease, and end; in the same database as the state.

Protocol. A job is put in once, by id. It is `waiting` (for jobs before it, or for a moment), `ready`, `running`, and ends as

- `done`: its worker completed it;
- `failed`: it failed in a way that no repeat helps;
- `dead`: its attempts are used up, by errors or by workers that vanished;
- `cancelled`: somebody asked for it, or a job it comes `after` did not end as `done`.

A worker claims a job for the length of a lease and renews that by heartbeats. A lease that ran out makes the job ready for anyone. Each
claim has an epoch above the one before; every write of a worker carries it, and one with an old epoch changes nothing (Fenced, E4004): the
worker was taken for dead and must stop. So a job may be run twice, but only one run is recorded.

What must hold whenever anything can be read:
- at most `at_once` jobs of a key run, as the job that is claimed says it; jobs without a limit count among the key's running jobs;
- of all jobs with one `dedupe` text at most one has not ended;
- jobs after one that ended otherwise than `done` have ended as `cancelled`, in the transaction that ended it;
- what a worker's running jobs need is within what it offers.

Payload, progress, result, error and cost are JSON. Time is the caller's (`now`): clocks of several machines that differ, or jump, by more
than a lease cost repeated work or waiting, never a wrong record. Every method is one transaction, durable on return, safe to call from
several threads and processes at once, and safe to repeat when its answer was lost (`StorageError` with `retry`): jobs by their ids, what
workers write by their epochs.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from graphlib import CycleError as Circle
from graphlib import TopologicalSorter
from typing import Any, Literal, Protocol

from penstock.ground.errors import CycleError, DefinitionError

Status = Literal["waiting", "ready", "running", "done", "failed", "cancelled", "dead"]
#: Every status, in the order of a job's life.
STATUSES: tuple[Status, ...] = ("waiting", "ready", "running", "done", "failed", "cancelled", "dead")
LIVE: tuple[Status, ...] = ("waiting", "ready", "running")
#: How a job can end other than well; jobs after it do not run.
LOST: tuple[Status, ...] = ("failed", "cancelled", "dead")


@dataclass(frozen=True)
class Needs:
    """What a job takes of its worker while it runs."""

    memory_bytes: int = 0
    cores: float = 0.0
    gpus: int = 0


@dataclass(frozen=True)
class NewJob:
    """A job to put in.

    Attributes:
        name: what it works on, for people and filters, e.g. `asset:departures`.
        kind: which code runs it; workers may offer only some kinds.
        payload: what that code gets; JSON.
        run: the run it belongs to, "" for none.
        priority: higher goes first; among equals the oldest.
        key, at_once: at most so many jobs of this key run at once; 0 is no limit.
        dedupe: of jobs that have not ended, one may have this text; "" is no such rule.
        on_duplicate: `return` gives that one instead, `refuse` raises DuplicateJob(E5008).
        after: ids of jobs that must be done before; of the same call or earlier ones.
        not_before: it waits until then.
        attempts: how often it may be started before it is dead, at least 1.
        timeout_s: how long an attempt may take; the worker sees to it.
        id: 20 characters of `ground.ids`, so that a repeated call finds the job; "" lets the queue make one.
    """

    name: str
    kind: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    run: str = ""
    priority: int = 0
    key: str = ""
    at_once: int = 0
    dedupe: str = ""
    on_duplicate: Literal["return", "refuse"] = "return"
    after: tuple[str, ...] = ()
    not_before: datetime | None = None
    attempts: int = 1
    timeout_s: float | None = None
    needs: Needs = Needs()
    id: str = ""


@dataclass(frozen=True, kw_only=True)
class QueuedJob(NewJob):
    """A job as it is recorded.

    Attributes:
        seq: grows in the order jobs were put in.
        attempt: how often it was started; one that was given back (`fail` with `counted=False`) does not count.
        vanished: how often its worker vanished.
        epoch: number of its newest claim.
        owner: the worker that has or had it. `until` is when that one's lease ends, None if it does not run.
        created, started, ended: when it was put in, when its newest attempt began, when it ended.
        cancel_asked: somebody asked its worker to stop.
        progress: what its worker told last.
        error: the newest error as `PenstockError.as_record` gives it, perhaps with a `traceback`; kept while it waits for its next attempt.
        because: id of the job because of which it was cancelled.
        cost: of all its attempts together, see `added`.
    """

    seq: int
    status: Status
    created: datetime
    attempt: int = 0
    vanished: int = 0
    epoch: int = 0
    owner: str = ""
    until: datetime | None = None
    started: datetime | None = None
    ended: datetime | None = None
    cancel_asked: bool = False
    progress: Mapping[str, Any] | None = None
    result: Any = None
    error: Mapping[str, Any] | None = None
    because: str = ""
    cost: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Lease:
    """The right to run a job until `until`. `job` is as it was when the lease was given or renewed.

    `cancel_asked`: somebody wants the job to stop; its worker ends it by `fail`, and it counts as cancelled.
    """

    job: QueuedJob
    owner: str
    epoch: int
    until: datetime

    @property
    def cancel_asked(self) -> bool:
        return self.job.cancel_asked


@dataclass(frozen=True)
class Offers:
    """What a worker has in all; what its running jobs need is taken off by the queue. `kinds`: what it can run, () for all."""

    memory_bytes: int = 0
    cores: float = 0.0
    gpus: int = 0
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Worker:
    """A worker that asked for jobs or sent heartbeats lately: it counts as up until `until`."""

    owner: str
    offers: Offers
    since: datetime
    until: datetime


class QueueReader(Protocol):
    """What can be asked, also of a queue that others work on. Changes nothing."""

    def jobs(
        self,
        ids: Collection[str] | None = None,
        *,
        status: Collection[Status] = (),
        run: str = "",
        kind: str = "",
        name: str = "",
        key: str = "",
        owner: str = "",
        below: int | None = None,
        limit: int = 100,
    ) -> Sequence[QueuedJob]:
        """Jobs that fit all given filters, newest first. The next page is below the last `seq`. An unknown id is left out.

        Cost: indexed for ids, status but `done`, run, key, owner; pages of 100 out of a million take milliseconds.
        """
        ...

    def counts(self, *, run: str = "") -> Mapping[Status, int]:
        """How many jobs have each status, of all or of one run; every status is there."""
        ...

    def workers(self, *, now: datetime) -> Sequence[Worker]:
        """The workers that are up, by owner."""
        ...

    def paused(self) -> frozenset[str]:
        """The kinds that are paused; "" is all."""
        ...


class QueueDesk(Protocol):
    """What users, triggers and the scheduler do."""

    def enqueue(self, jobs: Sequence[NewJob], *, now: datetime) -> Sequence[QueuedJob]:
        """Puts jobs in, all or none; gives one for each, in order: the new one, or the one that is there already.

        A job whose id is known is returned as it stands, whatever else the call says of it. In `after` the id of a job of the same call
        that was a duplicate means the one that it duplicates. A job after one that is lost is put in and cancelled at once.
        Raises: DefinitionError(E1001) for what is no JSON or out of range, or an id given twice, UnknownName(E1003) for an unknown id in `after`,
            CycleError(E1004), DuplicateJob(E5008); nothing is put in then.
        """
        ...

    def cancel(self, ids: Collection[str], *, now: datetime, reason: str = "") -> Sequence[QueuedJob]:
        """Ends jobs that wait, and those after them; asks the workers of those that run. Gives the jobs as they are then, newest first.

        A job that has ended stays as it is. Raises: UnknownName(E1003).
        """
        ...

    def retry(self, ids: Collection[str], *, now: datetime) -> Sequence[QueuedJob]:
        """Lets lost jobs begin anew with all their attempts, and with each the jobs that were cancelled because of it.

        A job that is not lost stays as it is, and so does one that comes after another lost job. Gives the named jobs, newest first.
        Raises: UnknownName(E1003); DuplicateJob(E5008) if a job with the same `dedupe` has taken the place of one; nothing is changed then.
        """
        ...

    def pause(self, kind: str = "", *, paused: bool = True) -> None:
        """No job of a kind (of any, for "") is claimed until `paused=False`; what runs goes on. Repeat: does nothing."""
        ...


class QueueFloor(Protocol):
    """What workers do."""

    def claim(self, owner: str, offers: Offers, *, now: datetime, lease_s: float, runs: Collection[str] = ()) -> Lease | None:
        """The next job for a worker: highest priority first, then oldest, of those that are ready, not paused, within the limit of their
        key and within what the worker has left; with `runs` only of these. None if there is none.

        Does `advance` first, and counts the worker as up for a lease. `owner` must be new for each worker process: what its running jobs
        need is taken off its offers. Cost: does not grow with jobs that ended or wait; by jobs that are ready and may not run now,
        about a microsecond each. A call that finds nothing writes at most twice in a lease.
        """
        ...

    def heartbeat(self, lease: Lease, *, now: datetime, lease_s: float, progress: Mapping[str, Any] | None = None) -> Lease:
        """Renews a lease and stores progress, if given. Called: well before `until`, by the lease's worker; look at `cancel_asked`.

        Raises: Fenced(E4004), also after the job was completed or failed.
        """
        ...

    def complete(self, lease: Lease, *, now: datetime, result: Any = None, cost: Mapping[str, float] | None = None) -> QueuedJob:
        """Ends the job as `done` and makes jobs ready that waited for it alone.

        A lease that ran out will do as long as nobody noticed. Repeat, or after `fail`: changes nothing, gives the job as it stands.
        Raises: Fenced(E4004); DefinitionError(E1001) for what is no JSON.
        """
        ...

    def fail(
        self,
        lease: Lease,
        error: Mapping[str, Any],
        *,
        now: datetime,
        retry_at: datetime | None = None,
        counted: bool = True,
        cost: Mapping[str, float] | None = None,
    ) -> QueuedJob:
        """Ends an attempt. With `retry_at` the job waits until then for its next one; without attempts left it is `dead`. Without
        `retry_at` it is `failed`. If a cancel was asked for it is `cancelled`.

        `counted=False` gives the job back, as a worker does that must stop: the attempt does not count, and `retry_at` is now if not given.
        Repeat, or after `complete`: changes nothing, gives the job as it stands. Raises: as `complete`.
        """
        ...

    def leave(self, owner: str) -> None:
        """The worker is not up any more. Jobs that it still has stay its own until their leases end. Repeat: does nothing."""
        ...

    def advance(self, *, now: datetime) -> Sequence[QueuedJob]:
        """Does what time brings: jobs whose moment has come get ready; running jobs whose lease ran out get ready again, or are `dead`
        ("its worker vanished N times") or, if a cancel was asked for, `cancelled`. Gives these as they are then, newest first.

        Called: by each `claim`; by the scheduler, so that nothing stays running where no worker is left.
        """
        ...


class Queue(QueueReader, QueueDesk, QueueFloor, Protocol):
    """All of it."""


def added(cost: Mapping[str, float], more: Mapping[str, float] | None) -> dict[str, float]:
    """The cost of two attempts: numbers are added; of those whose name begins with `peak` the higher one stays."""
    whole = dict(cost)
    for name, value in (more or {}).items():
        before = whole.get(name, 0)
        whole[name] = max(before, value) if name.startswith("peak") else before + value
    return whole


def admitted(jobs: Sequence[NewJob]) -> list[str]:
    """The payloads as JSON text, in order. Raises: DefinitionError(E1001) for what no queue takes, CycleError(E1004)."""
    payloads = []
    for job in jobs:
        if not _plain(job.name + job.kind + job.run + job.key + job.dedupe + job.id):
            raise DefinitionError("a job's texts are not plain", place=f"job {job.name!a}"[:80], expected="no NUL, no half surrogates")
        payloads.append(encoded(job.payload, "payload", job.name))
        needs = job.needs
        for what, value, least in (
            ("priority", job.priority, -_LARGEST), ("at_once", job.at_once, 0), ("attempts", job.attempts, 1),
            ("timeout_s", job.timeout_s or 0, 0), ("memory_bytes", needs.memory_bytes, 0), ("gpus", needs.gpus, 0), ("cores", needs.cores, 0),
        ):  # fmt: skip
            if not least <= value <= _LARGEST:
                raise DefinitionError(f"a job's {what} is out of range", place=job.name, expected=f"{least} to {_LARGEST}", got=value)
        if job.at_once and not job.key:
            raise DefinitionError("a job is limited without a key", place=job.name, expected="key with at_once", got="none")
    graph = {job.id: job.after for job in jobs if job.id}
    if len(graph) < sum(bool(job.id) for job in jobs):
        raise DefinitionError("an id stands twice in one call", place="jobs", expected="one job for each id")
    try:
        TopologicalSorter({id: after for id, after in graph.items() if after}).prepare()
    except Circle as error:
        raise CycleError("jobs wait for each other in a circle", place="jobs", got=" after ".join(error.args[1])) from error
    return payloads


def encoded(value: Any, what: str, place: str) -> str:
    """A value as JSON text, ASCII only, so that any text comes back as it was. Raises: DefinitionError(E1001)."""
    try:
        return _JSON.encode(dict(value) if isinstance(value, Mapping) else value)
    except (TypeError, ValueError, RecursionError) as error:
        raise DefinitionError(f"a job's {what} is not JSON", place=place, got=str(error)[:200]) from error


def _plain(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


_JSON = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
_LARGEST = 2**62
