"""The queue for tests: what the port means, in plain Python."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import Any

from penstock.ground.clock import from_iso, iso
from penstock.ground.errors import DuplicateJob, Fenced, JobCancelled, UnknownName, WorkerVanished
from penstock.ground.failpoints import reach
from penstock.ground.ids import base32
from penstock.ports.queue import LIVE, LOST, STATUSES, Lease, NewJob, Offers, QueuedJob, Status, Worker, added, admitted, encoded


class MemoryQueue:
    """The reference. Nothing survives the process; every look goes over all jobs."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._jobs: dict[str, QueuedJob] = {}
        self._workers: dict[str, Worker] = {}
        self._paused: set[str] = set()
        self._seq = 0

    # -- reading
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
        with self._lock:
            found = [
                job
                for job in self._jobs.values()
                if (ids is None or job.id in ids)
                and (not status or job.status in status)
                and all(not wanted or wanted == had for wanted, had in _pairs(job, run, kind, name, key, owner))
                and (below is None or job.seq < below)
            ]
        return sorted(found, key=lambda job: -job.seq)[:limit]

    def counts(self, *, run: str = "") -> Mapping[Status, int]:
        with self._lock:
            jobs = [job for job in self._jobs.values() if not run or job.run == run]
        return {status: sum(job.status == status for job in jobs) for status in STATUSES}

    def workers(self, *, now: datetime) -> Sequence[Worker]:
        with self._lock:
            return [self._workers[owner] for owner in sorted(self._workers) if self._workers[owner].until > now]

    def paused(self) -> frozenset[str]:
        with self._lock:
            return frozenset(self._paused)

    # -- users and the scheduler
    def enqueue(self, jobs: Sequence[NewJob], *, now: datetime) -> Sequence[QueuedJob]:
        admitted(jobs)
        now = _moment(now)
        with self._lock:
            before, seq = dict(self._jobs), self._seq
            try:
                meant = self._put(jobs, now)
                reach("queue.write.before")
            except BaseException:
                self._jobs, self._seq = before, seq
                raise
            reach("queue.write.after")
            return [self._jobs[each] for each in meant]

    def _put(self, jobs: Sequence[NewJob], now: datetime) -> list[str]:
        """Adds what is new; gives for each job the id it has now."""
        meant: list[str] = []
        stands_for: dict[str, str] = {}
        fresh: list[str] = []
        for job in jobs:
            twin = next((j.id for j in self._jobs.values() if job.dedupe and j.dedupe == job.dedupe and j.status in LIVE), "")
            if job.id not in self._jobs and twin:
                if job.on_duplicate == "refuse":
                    raise DuplicateJob("a job like it has not ended", place=job.name, got=twin)
                stands_for[job.id] = twin
                meant.append(twin)
            elif job.id in self._jobs:
                meant.append(job.id)
            else:
                self._seq += 1
                plain = {f.name: getattr(job, f.name) for f in fields(NewJob)}
                plain["payload"] = _plain(job.payload)
                plain["not_before"] = job.not_before and _moment(job.not_before)
                plain["id"] = job.id or base32(self._seq, 20)
                made = QueuedJob(**plain, seq=self._seq, status="waiting", created=now)
                self._jobs[made.id] = made
                meant.append(made.id)
                fresh.append(made.id)
        for id in fresh:
            after = tuple(stands_for.get(each, each) for each in self._jobs[id].after)
            for each in after:
                if each not in self._jobs:
                    raise UnknownName("no such job", place=self._jobs[id].name, got=each)
            self._jobs[id] = replace(self._jobs[id], after=after)
        for id in fresh:
            lost = [each for each in self._jobs[id].after if self._jobs[each].status in LOST]
            if lost and self._jobs[id].status == "waiting":
                self._cancel_because(id, lost[0], now)
                self._lose_after([id], now)
        for id in fresh:
            self._settle(id, now)
        return meant

    def cancel(self, ids: Collection[str], *, now: datetime, reason: str = "") -> Sequence[QueuedJob]:
        now = _moment(now)
        with self._lock:
            self._know(ids)
            error = JobCancelled(reason or "cancelled").as_record()
            ended = []
            for job in self._named(ids)[::-1]:
                if job.status == "running":
                    self._jobs[job.id] = replace(job, cancel_asked=True)
                elif job.status in LIVE:
                    self._jobs[job.id] = replace(job, status="cancelled", ended=now, error=error)
                    ended.append(job.id)
            self._lose_after(ended, now)
            return self._named(ids)

    def retry(self, ids: Collection[str], *, now: datetime) -> Sequence[QueuedJob]:
        now = _moment(now)
        with self._lock:
            self._know(ids)
            chosen = {job.id for job in self._named(ids) if job.status in LOST}
            while more := {j.id for j in self._jobs.values() if j.because in chosen and j.status == "cancelled"} - chosen:
                chosen |= more
            while stuck := {id for id in chosen if any(b not in chosen and self._jobs[b].status in LOST for b in self._jobs[id].after)}:
                chosen -= stuck
            rules = [j.dedupe for j in self._jobs.values() if j.dedupe and (j.status in LIVE or j.id in chosen)]
            for id in chosen:
                if rules.count(self._jobs[id].dedupe) > 1:
                    raise DuplicateJob("another job has taken its place", place=self._jobs[id].name)
            for id in chosen:
                self._jobs[id] = replace(
                    self._jobs[id], status="waiting", attempt=0, vanished=0, ended=None, cancel_asked=False, error=None, because=""
                )
            for id in chosen:
                self._settle(id, now)
            return self._named(ids)

    def pause(self, kind: str = "", *, paused: bool = True) -> None:
        with self._lock:
            (self._paused.add if paused else self._paused.discard)(kind)

    # -- workers
    def claim(self, owner: str, offers: Offers, *, now: datetime, lease_s: float, runs: Collection[str] = ()) -> Lease | None:
        now = _moment(now)
        with self._lock:
            self.advance(now=now)
            self._see(owner, offers, now, lease_s)
            running = [job for job in self._jobs.values() if job.status == "running"]
            mine = [job.needs for job in running if job.owner == owner]
            fit = [
                job
                for job in self._jobs.values()
                if job.status == "ready"
                and not {"", job.kind} & self._paused
                and (not offers.kinds or job.kind in offers.kinds)
                and (not runs or job.run in runs)
                and (not job.at_once or sum(other.key == job.key for other in running) < job.at_once)
                and _fits(job.needs.memory_bytes, offers.memory_bytes, [n.memory_bytes for n in mine])
                and _fits(job.needs.cores, offers.cores, [n.cores for n in mine])
                and _fits(job.needs.gpus, offers.gpus, [n.gpus for n in mine])
            ]
            if not fit:
                return None
            job = min(fit, key=lambda job: (-job.priority, job.seq))
            until = _moment(now + timedelta(seconds=lease_s))
            epoch, attempt = job.epoch + 1, job.attempt + 1
            job = replace(
                job,
                status="running",
                owner=owner,
                epoch=epoch,
                attempt=attempt,
                until=until,
                started=now,
                progress=None,
                cancel_asked=False,
            )
            self._jobs[job.id] = job
            reach("queue.write.after")
            return Lease(job, owner, job.epoch, until)

    def heartbeat(self, lease: Lease, *, now: datetime, lease_s: float, progress: Mapping[str, Any] | None = None) -> Lease:
        now = _moment(now)
        text = encoded(progress, "progress", lease.job.name)
        with self._lock:
            job = self._fence(lease)
            if job.status != "running":
                raise Fenced("the job was ended by this lease", place=job.name)
            until = _moment(now + timedelta(seconds=lease_s))
            job = replace(job, until=until, progress=job.progress if progress is None else json.loads(text))
            self._jobs[job.id] = job
            if (worker := self._workers.get(lease.owner)) is not None:
                self._see(lease.owner, worker.offers, now, lease_s)
            return Lease(job, lease.owner, lease.epoch, until)

    def complete(self, lease: Lease, *, now: datetime, result: Any = None, cost: Mapping[str, float] | None = None) -> QueuedJob:
        text = encoded([result, dict(cost or {})], "result", lease.job.name)
        with self._lock:
            job = self._fence(lease)
            if job.status == "running":
                plain, spent = json.loads(text)
                self._end(job.id, "done", _moment(now), error=None, result=plain, cost=added(job.cost, spent))
            reach("queue.write.after")
            return self._jobs[job.id]

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
        now = _moment(now)
        text = encoded([dict(error), dict(cost or {})], "error", lease.job.name)
        with self._lock:
            job = self._fence(lease)
            if job.status != "running":
                return job
            told, spent = json.loads(text)
            job = replace(job, error=told, cost=added(job.cost, spent), until=None)
            self._jobs[job.id] = job
            again = _moment(retry_at or now) if retry_at is not None or not counted else None
            if job.cancel_asked:
                self._end(job.id, "cancelled", now)
            elif again is None:
                self._end(job.id, "failed", now)
            elif counted and job.attempt >= job.attempts:
                self._end(job.id, "dead", now)
            else:
                self._jobs[job.id] = replace(job, status="waiting", not_before=again, attempt=job.attempt - (not counted))
                self._settle(job.id, now)
            return self._jobs[job.id]

    def leave(self, owner: str) -> None:
        with self._lock:
            self._workers.pop(owner, None)

    def advance(self, *, now: datetime) -> Sequence[QueuedJob]:
        now = _moment(now)
        with self._lock:
            self._workers = {owner: worker for owner, worker in self._workers.items() if worker.until > now}
            for job in list(self._jobs.values()):
                if job.status == "waiting":
                    self._settle(job.id, now)
            late = [job for job in self._jobs.values() if job.status == "running" and job.until is not None and job.until <= now]
            for job in late:
                times = job.vanished + 1
                text = f"its worker vanished {times} time{'s' if times > 1 else ''}"
                error = WorkerVanished(text, place=job.name, got=job.owner).as_record()
                job = replace(job, vanished=times, epoch=job.epoch + 1, until=None, error=error)
                self._jobs[job.id] = job
                if job.cancel_asked:
                    self._end(job.id, "cancelled", now)
                elif job.attempt >= job.attempts:
                    self._end(job.id, "dead", now)
                else:
                    self._jobs[job.id] = replace(job, status="ready")
            return self._named([job.id for job in late])

    # -- parts
    def _settle(self, id: str, now: datetime) -> None:
        """A waiting job becomes ready if nothing is in its way."""
        job = self._jobs[id]
        if job.status != "waiting" or any(self._jobs[each].status != "done" for each in job.after):
            return
        if job.not_before is None or job.not_before <= now:
            self._jobs[id] = replace(job, status="ready")

    def _end(self, id: str, status: Status, now: datetime, **more: Any) -> None:
        self._jobs[id] = replace(self._jobs[id], status=status, ended=now, until=None, **more)
        if status == "done":
            for job in list(self._jobs.values()):
                if id in job.after:
                    self._settle(job.id, now)
        else:
            self._lose_after([id], now)

    def _lose_after(self, lost: Sequence[str], now: datetime) -> None:
        """Cancels what waits for lost jobs, and what waits for that, level by level."""
        level = list(lost)
        while level:
            found = []
            for cause in level:
                for job in list(self._jobs.values()):
                    if cause in job.after and job.status == "waiting":
                        self._cancel_because(job.id, cause, now)
                        found.append(job.id)
            level = found

    def _cancel_because(self, id: str, because: str, now: datetime) -> None:
        cause = self._jobs[because]
        error = JobCancelled(f"{cause.name} ({because}) is {cause.status}", place=cause.name).as_record()
        self._jobs[id] = replace(self._jobs[id], status="cancelled", ended=now, because=because, error=error)

    def _see(self, owner: str, offers: Offers, now: datetime, lease_s: float) -> None:
        """Counts a worker as up; nothing is written while more than half a lease is left and its offers are the same."""
        known = self._workers.get(owner)
        if known is None or known.offers != offers or known.until < now + timedelta(seconds=lease_s / 2):
            self._workers[owner] = Worker(owner, offers, known.since if known else now, _moment(now + timedelta(seconds=lease_s)))

    def _fence(self, lease: Lease) -> QueuedJob:
        job = self._jobs.get(lease.job.id)
        if job is None or job.epoch != lease.epoch:
            raise Fenced("the job was taken over", place=lease.job.name, expected=f"epoch {lease.epoch}", got=job and f"epoch {job.epoch}")
        return job

    def _know(self, ids: Iterable[str]) -> None:
        for id in ids:
            if id not in self._jobs:
                raise UnknownName("no such job", place="queue", got=id)

    def _named(self, ids: Iterable[str]) -> list[QueuedJob]:
        return sorted((self._jobs[id] for id in set(ids)), key=lambda job: -job.seq)


def _pairs(job: QueuedJob, run: str, kind: str, name: str, key: str, owner: str) -> list[tuple[str, str]]:
    return [(run, job.run), (kind, job.kind), (name, job.name), (key, job.key), (owner, job.owner)]


def _fits(needed: float, offered: float, taken: Sequence[float]) -> bool:
    """What needs nothing of a kind fits always."""
    return not needed or needed <= offered - sum(taken)


def _moment(at: datetime) -> datetime:
    return from_iso(iso(at))


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, allow_nan=False))
