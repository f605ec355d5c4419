"""The queue in SQL that SQLite and PostgreSQL both understand. What differs is in kit/database.py.

Tables: `queue_jobs`, `queue_after` (blocker, job), `queue_workers`, `queue_paused`. A job's `blockers` is how many of the jobs it comes
after are not done; it is right while the job waits, and counted anew when it is retried. `ready` and `waiting` jobs, and running ones by
`until`, owner and key, have partial indexes: jobs that ended cost nothing.

Locks, where several write at once: a job is locked before it changes; one that ends is changed before its dependents are looked for, and one
that is put in locks those it comes after against a change, so that neither misses the other. The limit of a key is counted under a lock
of that key.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar, cast

from penstock.adapters.kit.database import Database, Row, Run
from penstock.ground.clock import from_iso, iso
from penstock.ground.errors import CommitConflict, DuplicateJob, Fenced, JobCancelled, UnknownName, WorkerVanished
from penstock.ground.ids import Ids
from penstock.ports.queue import LOST, STATUSES, Lease, Needs, NewJob, Offers, QueuedJob, Status, Worker, added, admitted, encoded

T = TypeVar("T")

#: What stands in a row of `queue_jobs` when it is put in, in order.
NEW = (
    "id", "name", "kind", "payload", "run", "priority", "key", "at_once", "dedupe", "on_duplicate", "comes_after", "not_before", "attempts",
    "timeout_s", "memory_bytes", "cores", "gpus", "status", "created", "blockers",
)  # fmt: skip
_READ = (
    "seq", *NEW[:-1], "attempt", "vanished", "epoch", "owner", "until", "started", "ended", "cancel_asked", "progress", "result", "error",
    "because", "cost",
)  # fmt: skip
_JOB = ", ".join(_READ)
_LOST = "('failed', 'cancelled', 'dead')"
_LIVE = "('waiting', 'ready', 'running')"


class SqlQueue:
    """The queue over a database."""

    def __init__(self, database: Database, ids: Ids) -> None:
        self._database = database
        self._ids = ids
        self._dialect = database.dialect

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
        values: dict[str, Any] = {"run": run, "kind": kind, "name": name, "key": key, "owner": owner}
        values = {what: value for what, value in values.items() if value}
        where = [f"{what} = :{what}" for what in values]
        if ids is not None:
            where, values["ids"] = [*where, f"id {self._dialect.among('ids')}"], json.dumps(list(ids))
        if below is not None:
            where, values["below"] = [*where, "seq < :below"], below
        parts = []
        for n, term in enumerate(_terms(status)):
            condition = " AND ".join([*where, term])
            few = "" if term in _MANY else "+"  # sorts what an index of these gives, rather than go through all jobs in order
            ordered = f"SELECT {_JOB} FROM queue_jobs WHERE {condition} ORDER BY {few}seq DESC LIMIT :most"
            parts.append(f"SELECT {_JOB} FROM ({ordered}) AS part{n}")
        query = " UNION ALL ".join(parts) + " ORDER BY seq DESC LIMIT :most"
        return [self._job(row) for row in self._database.read(query, **values, most=limit)]

    def counts(self, *, run: str = "") -> Mapping[Status, int]:
        where, values = (" WHERE run = :run", {"run": run}) if run else ("", {})
        parts = (
            f"SELECT status, count(*) AS n FROM queue_jobs{where} GROUP BY run, status"  # in the order of an index: a million is not sorted
        )
        query = f"SELECT status, sum(n) FROM ({parts}) AS of_run GROUP BY status"
        found: dict[str, int] = {status: int(n) for status, n in self._database.read(query, **values)}
        return {status: found.get(status, 0) for status in STATUSES}

    def workers(self, *, now: datetime) -> Sequence[Worker]:
        query = f"SELECT {_WORKER} FROM queue_workers WHERE until > :now ORDER BY owner"
        return [self._worker(row) for row in self._database.read(query, now=self._at(now))]

    def paused(self) -> frozenset[str]:
        return frozenset(row[0] for row in self._database.read("SELECT kind FROM queue_paused"))

    # -- users and the scheduler
    def enqueue(self, jobs: Sequence[NewJob], *, now: datetime) -> Sequence[QueuedJob]:
        named = [job if job.id else replace(job, id=self._ids.new()) for job in jobs]
        payloads = admitted(named)
        return self._write(lambda run: self._put(run, named, payloads, now)) if named else []

    def _put(self, run: Run, jobs: Sequence[NewJob], payloads: Sequence[str], now: datetime) -> list[QueuedJob]:
        named = {job.id: job for job in jobs}
        outside = {before for job in jobs for before in job.after if before not in named}
        state = self._states(run, outside)
        blockers = [sum(state.get(each, "") != "done" for each in set(job.after)) for job in jobs]
        rows = [self._row(*each, now) for each in zip(jobs, payloads, blockers, strict=True)]
        fresh = {row[0] for row in self._database.insert(run, "queue_jobs", NEW, rows, returned="id")}
        stands_for = {} if len(fresh) == len(jobs) else self._twins(run, named, fresh)
        linked = [job for job in named.values() if job.id in fresh and job.after]
        if linked:
            after = {job.id: tuple(stands_for.get(each, each) for each in job.after) for job in linked}
            if len(fresh) < len(jobs):
                state |= self._states(run, {each for ids in after.values() for each in ids if each not in outside})
                self._recount(run, linked, after, state, now)
            self._link(run, linked, after, {**dict.fromkeys(fresh, "waiting"), **state}, now)
        meant = [stands_for.get(job.id, job.id) for job in jobs]
        found: dict[str, QueuedJob] = {job.id: job for job in self._named(run, meant)}
        return [found[id] for id in meant]

    def _states(self, run: Run, ids: Collection[str]) -> dict[str, str]:
        """The status of jobs that others come after; it does not change until this transaction ends."""
        if not ids:
            return {}
        query = f"SELECT id, status FROM queue_jobs WHERE id {self._dialect.among('ids')} ORDER BY id{self._dialect.shared}"
        return dict(run(query, ids=json.dumps(sorted(ids))))

    def _twins(self, run: Run, jobs: Mapping[str, NewJob], fresh: Collection[str]) -> dict[str, str]:
        """Id of a job that was not put in, because another one with its dedupe text has not ended -> id of that one."""
        left = {id for id in jobs if id not in fresh}
        known = {row[0] for row in run(f"SELECT id FROM queue_jobs WHERE id {self._dialect.among('ids')}", ids=json.dumps(sorted(left)))}
        texts = {jobs[id].dedupe for id in left - known}
        query = f"SELECT dedupe, id FROM queue_jobs WHERE dedupe {self._dialect.among('texts')} AND dedupe <> '' AND status IN {_LIVE}"
        holders: dict[str, str] = dict(run(query, texts=json.dumps(sorted(texts)))) if texts else {}
        for job in jobs.values():
            if job.id in left - known:
                if job.dedupe not in holders:
                    raise CommitConflict("a job like it ended at the same moment", place=job.name, hint="put it in again")
                if job.on_duplicate == "refuse":
                    raise DuplicateJob("a job like it has not ended", place=job.name, expected="none", got=holders[job.dedupe])
        return {id: holders[jobs[id].dedupe] for id in left - known}

    def _recount(
        self, run: Run, jobs: Sequence[NewJob], after: Mapping[str, Sequence[str]], state: Mapping[str, str], now: datetime
    ) -> None:
        """Rows are put in as if all jobs of the call were new; where some were not, their dependents are told."""
        query = "UPDATE queue_jobs SET comes_after = :after, blockers = :blockers, status = :status WHERE id = :id"
        for job in jobs:
            blockers = sum(state.get(each, "") != "done" for each in set(after[job.id]))
            status = _status(job.not_before, blockers, now)
            run(query, id=job.id, after=json.dumps(after[job.id]), blockers=blockers, status=status)

    def _link(self, run: Run, jobs: Sequence[NewJob], after: Mapping[str, Sequence[str]], state: Mapping[str, str], now: datetime) -> None:
        """Notes what new jobs come after, and cancels those that come after lost ones. Raises: UnknownName(E1003)."""
        for job in jobs:
            for before in after[job.id]:
                if before not in state:
                    raise UnknownName("no such job", place=job.name, expected="the id of a job", got=before)
        self._database.insert(
            run, "queue_after", ("blocker", "job"), [(before, id) for id, ids in after.items() for before in dict.fromkeys(ids)]
        )
        cancelled = (
            "UPDATE queue_jobs SET status = 'cancelled', ended = :now, because = :because, error = :error"
            f" WHERE id = :id AND status = 'waiting' RETURNING {_JOB}"
        )
        for job in jobs:
            if lost := [each for each in after[job.id] if state[each] in LOST]:
                cause = self._named(run, lost[:1])[0]
                ended = run(cancelled, id=job.id, now=self._at(now), because=cause.id, error=_because(cause))
                self._lose_after(run, [self._job(row) for row in ended], now)

    def cancel(self, ids: Collection[str], *, now: datetime, reason: str = "") -> Sequence[QueuedJob]:
        error = json.dumps(JobCancelled(reason or "cancelled").as_record())

        def work(run: Run) -> Sequence[QueuedJob]:
            self._lock(run, ids)
            chosen = json.dumps(list(ids))
            among = f"WHERE id {self._dialect.among('ids')}"
            run(f"UPDATE queue_jobs SET cancel_asked = 1 {among} AND status = 'running'", ids=chosen)
            update = (
                f"UPDATE queue_jobs SET status = 'cancelled', ended = :now, error = :error {among} AND status IN ('waiting', 'ready')"
                f" RETURNING {_JOB}"
            )
            ended = run(update, ids=chosen, now=self._at(now), error=error)
            self._lose_after(run, [self._job(row) for row in ended], now)
            return self._named(run, ids)

        return self._write(work) if ids else []

    def retry(self, ids: Collection[str], *, now: datetime) -> Sequence[QueuedJob]:
        def work(run: Run) -> Sequence[QueuedJob]:
            chosen = {job.id: job for job in self._lock(run, ids) if job.status in LOST}
            query = f"SELECT {_JOB} FROM queue_jobs WHERE status = 'cancelled' AND because <> '' AND because {self._dialect.among('ids')}"
            level = set(chosen)
            while level:
                found = [self._job(row) for row in run(query + " ORDER BY id" + self._dialect.locked, ids=json.dumps(sorted(level)))]
                level = {job.id for job in found} - set(chosen)
                chosen |= {job.id: job for job in found}
            state = self._states(run, {before for job in chosen.values() for before in job.after})
            while stuck := [j for j in chosen.values() if any(b not in chosen and state[b] in LOST for b in j.after)]:
                for job in stuck:
                    del chosen[job.id]
            self._refuse_twins(run, chosen.values())
            groups: dict[tuple[int, str], list[str]] = {}
            for job in chosen.values():
                blockers = sum(state[each] != "done" for each in set(job.after))
                groups.setdefault((blockers, _status(job.not_before, blockers, now)), []).append(job.id)
            again = (
                "UPDATE queue_jobs SET status = :status, blockers = :blockers, attempt = 0, vanished = 0, ended = NULL, cancel_asked = 0,"
                f" error = NULL, because = '' WHERE id {self._dialect.among('ids')}"
            )
            for (blockers, status), members in groups.items():
                run(again, status=status, blockers=blockers, ids=json.dumps(members))
            return self._named(run, ids)

        return self._write(work) if ids else []

    def _refuse_twins(self, run: Run, jobs: Collection[QueuedJob]) -> None:
        texts = Counter(job.dedupe for job in jobs if job.dedupe)
        if not texts:
            return
        query = f"SELECT dedupe FROM queue_jobs WHERE dedupe {self._dialect.among('texts')} AND dedupe <> '' AND status IN {_LIVE}"
        texts.update(row[0] for row in run(query, texts=json.dumps(sorted(texts))))
        for job in jobs:
            if texts[job.dedupe] > 1:
                raise DuplicateJob("another job has taken its place", place=job.name, expected="none with the same dedupe text", got="one")

    def pause(self, kind: str = "", *, paused: bool = True) -> None:
        add = "INSERT INTO queue_paused (kind) VALUES (:kind) ON CONFLICT DO NOTHING"
        self._write(lambda run: run(add if paused else "DELETE FROM queue_paused WHERE kind = :kind", kind=kind))

    # -- workers
    def claim(self, owner: str, offers: Offers, *, now: datetime, lease_s: float, runs: Collection[str] = ()) -> Lease | None:
        def work(run: Run) -> Lease | None:
            self._advance(run, now)
            self._see(run, owner, offers, now, lease_s)
            seq = self._next(run, owner, offers, runs)
            if seq is None:
                return None
            until = now + timedelta(seconds=lease_s)
            row = run(_CLAIM, seq=seq, owner=owner, until=self._at(until), now=self._at(now))[0]
            return self._lease(self._job(row))

        return self._write(work)

    def _next(self, run: Run, owner: str, offers: Offers, runs: Collection[str]) -> int | None:
        taken = run(
            "SELECT memory_bytes, cores, gpus FROM queue_jobs WHERE status = 'running' AND owner = :owner ORDER BY seq", owner=owner
        )
        kinds = f" AND kind {self._dialect.among('kinds')}" if offers.kinds else ""
        kinds += f" AND run {self._dialect.among('runs')}" if runs else ""
        values = {
            "memory": offers.memory_bytes - sum(row[0] for row in taken),
            "cores": offers.cores - sum(row[1] for row in taken),
            "gpus": offers.gpus - sum(row[2] for row in taken),
            **({"kinds": json.dumps(offers.kinds)} if offers.kinds else {}),
            **({"runs": json.dumps(sorted(runs))} if runs else {}),
        }
        while found := run(_NEXT.format(kinds=kinds, skipped=self._dialect.skipped), **values):
            seq, key, at_once = found[0]
            if not at_once or not self._dialect.skipped:
                return int(seq)
            self._database.lock(run, f"queue/{key}")
            if run("SELECT count(*) FROM queue_jobs WHERE status = 'running' AND key = :key", key=key)[0][0] < at_once:
                return int(seq)
        return None

    def heartbeat(self, lease: Lease, *, now: datetime, lease_s: float, progress: Mapping[str, Any] | None = None) -> Lease:
        until = now + timedelta(seconds=lease_s)
        told = "" if progress is None else ", progress = :progress"
        values = {} if progress is None else {"progress": encoded(progress, "progress", lease.job.name)}
        query = f"UPDATE queue_jobs SET until = :until{told} WHERE id = :id AND epoch = :epoch AND status = 'running' RETURNING {_JOB}"

        def work(run: Run) -> Lease:
            rows = run(query, id=lease.job.id, epoch=lease.epoch, until=self._at(until), **values)
            if not rows:
                self._fence(run, lease)
                raise Fenced("the job was ended by this lease", place=lease.job.name, hint="stop this worker's attempt")
            half = now + timedelta(seconds=lease_s / 2)
            seen = "UPDATE queue_workers SET until = :until WHERE owner = :owner AND until < :half"
            run(seen, owner=lease.owner, until=self._at(until), half=self._at(half))
            return self._lease(self._job(rows[0]))

        return self._write(work)

    def complete(self, lease: Lease, *, now: datetime, result: Any = None, cost: Mapping[str, float] | None = None) -> QueuedJob:
        told = encoded(result, "result", lease.job.name)
        spent = encoded(added(lease.job.cost, cost), "cost", lease.job.name)

        def work(run: Run) -> QueuedJob:
            rows = run(_DONE, id=lease.job.id, epoch=lease.epoch, now=self._at(now), result=told, cost=spent)
            if not rows:
                return self._fence(run, lease)
            if self._has_dependents(run, [lease.job.id]):
                ready = "CASE WHEN blockers = 1 AND (not_before IS NULL OR not_before <= :now) THEN 'ready' ELSE status END"
                waiting = "SELECT id FROM queue_jobs WHERE status = 'waiting' AND id IN (SELECT job FROM queue_after WHERE blocker = :id)"
                update = f"UPDATE queue_jobs SET status = {ready}, blockers = blockers - 1 WHERE id IN ({waiting} ORDER BY id{{locked}})"
                run(update.format(locked=self._dialect.locked), id=lease.job.id, now=self._at(now))
            return self._job(rows[0])

        return self._write(work)

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
        told = encoded(dict(error), "error", lease.job.name)
        encoded(dict(cost or {}), "cost", lease.job.name)
        again = retry_at if counted else retry_at or now

        def work(run: Run) -> QueuedJob:
            job = self._fence(run, lease)
            if job.status != "running":
                return job
            spent = json.dumps(added(job.cost, cost))
            if again is not None and not job.cancel_asked and not (counted and job.attempt >= job.attempts):
                query = (
                    "UPDATE queue_jobs SET status = :status, blockers = 0, not_before = :again, attempt = :attempt, until = NULL, error = :error,"
                    f" cost = :cost WHERE id = :id RETURNING {_JOB}"
                )
                values = {"status": _status(again, 0, now), "again": self._at(again), "attempt": job.attempt - (not counted)}
                return self._job(run(query, id=job.id, error=told, cost=spent, **values)[0])
            status: Status = "cancelled" if job.cancel_asked else "failed" if again is None else "dead"
            run("UPDATE queue_jobs SET cost = :cost WHERE id = :id", id=job.id, cost=spent)
            return self._lose(run, job, status, told, now)

        return self._write(work)

    def leave(self, owner: str) -> None:
        self._write(lambda run: run("DELETE FROM queue_workers WHERE owner = :owner", owner=owner))

    def advance(self, *, now: datetime) -> Sequence[QueuedJob]:
        return self._write(lambda run: self._advance(run, now))

    # -- parts
    def _write(self, work: Callable[[Run], T]) -> T:
        return self._database.write(work, point="queue.write")

    def _advance(self, run: Run, now: datetime) -> Sequence[QueuedJob]:
        at = self._at(now)
        late, due, gone = run(_LOOK, now=at)[0]
        if gone:
            run("DELETE FROM queue_workers WHERE until <= :now", now=at)
        if due:
            some = f"SELECT seq FROM queue_jobs WHERE {_DUE} ORDER BY seq{self._dialect.skipped}"
            run(f"UPDATE queue_jobs SET status = 'ready' WHERE seq IN ({some})", now=at)
        if not late:
            return []
        rows = run(f"SELECT {_JOB} FROM queue_jobs WHERE {_LATE} ORDER BY seq{self._dialect.skipped}", now=at)
        return [self._vanish(run, self._job(row), now) for row in rows][::-1]

    def _vanish(self, run: Run, job: QueuedJob, now: datetime) -> QueuedJob:
        """A job whose lease ran out. Its epoch grows, so that its worker finds out whatever becomes of it."""
        times = job.vanished + 1
        text = f"its worker vanished {times} time{'s' if times > 1 else ''}"
        error = json.dumps(WorkerVanished(text, place=job.name, got=job.owner).as_record())
        query = (
            "UPDATE queue_jobs SET status = 'ready', vanished = :times, epoch = epoch + 1, until = NULL, error = :error"
            f" WHERE id = :id RETURNING {_JOB}"
        )
        job = self._job(run(query, id=job.id, times=times, error=error)[0])
        if job.cancel_asked or job.attempt >= job.attempts:
            return self._lose(run, job, "cancelled" if job.cancel_asked else "dead", error, now)
        return job

    def _lose(self, run: Run, job: QueuedJob, status: Status, error: str, now: datetime) -> QueuedJob:
        query = f"UPDATE queue_jobs SET status = :status, ended = :now, until = NULL, error = :error WHERE id = :id RETURNING {_JOB}"
        lost = self._job(run(query, id=job.id, status=status, now=self._at(now), error=error)[0])
        self._lose_after(run, [lost], now)
        return lost

    def _lose_after(self, run: Run, lost: Sequence[QueuedJob], now: datetime) -> None:
        """Cancels what waits for lost jobs, and what waits for that, level by level."""
        query = (
            "UPDATE queue_jobs SET status = 'cancelled', ended = :now, because = :because, error = :error WHERE id IN (SELECT id FROM"
            " queue_jobs WHERE status = 'waiting' AND id IN (SELECT job FROM queue_after WHERE blocker = :because) ORDER BY id{})"
            f" RETURNING {_JOB}"
        )
        level = sorted(lost, key=lambda job: job.seq)
        while level:
            causing = self._has_dependents(run, [job.id for job in level])
            found: list[QueuedJob] = []
            for cause in level:
                if cause.id in causing:
                    rows = run(query.format(self._dialect.locked), now=self._at(now), because=cause.id, error=_because(cause))
                    found += sorted((self._job(row) for row in rows), key=lambda job: job.seq)
            level = found

    def _has_dependents(self, run: Run, ids: Collection[str]) -> set[str]:
        query = f"SELECT DISTINCT blocker FROM queue_after WHERE blocker {self._dialect.among('ids')}"
        return {row[0] for row in run(query, ids=json.dumps(list(ids)))}

    def _see(self, run: Run, owner: str, offers: Offers, now: datetime, lease_s: float) -> None:
        """Counts a worker as up; writes nothing while more than half a lease is left and its offers are the same."""
        rows = run(f"SELECT {_WORKER} FROM queue_workers WHERE owner = :owner", owner=owner)
        if rows:
            known = self._worker(rows[0])
            if known.offers == offers and known.until >= now + timedelta(seconds=lease_s / 2):
                return
        run(
            "INSERT INTO queue_workers (owner, memory_bytes, cores, gpus, kinds, since, until)"
            " VALUES (:owner, :memory, :cores, :gpus, :kinds, :now, :until) ON CONFLICT (owner) DO UPDATE SET"
            " memory_bytes = excluded.memory_bytes, cores = excluded.cores, gpus = excluded.gpus, kinds = excluded.kinds, until = excluded.until",
            owner=owner,
            memory=offers.memory_bytes,
            cores=offers.cores,
            gpus=offers.gpus,
            kinds=json.dumps(offers.kinds),
            now=self._at(now),
            until=self._at(now + timedelta(seconds=lease_s)),
        )

    def _fence(self, run: Run, lease: Lease) -> QueuedJob:
        rows = run(f"SELECT {_JOB} FROM queue_jobs WHERE id = :id{self._dialect.locked}", id=lease.job.id)
        job = self._job(rows[0]) if rows else None
        if job is None or job.epoch != lease.epoch:
            raise Fenced(
                "the job was taken over",
                place=lease.job.name,
                expected=f"epoch {lease.epoch}",
                got=f"epoch {job.epoch}" if job else "no such job in this queue",
                hint="stop this worker's attempt; nothing of it was recorded",
            )
        return job

    def _named(self, run: Run, ids: Collection[str]) -> list[QueuedJob]:
        query = f"SELECT {_JOB} FROM queue_jobs WHERE id {self._dialect.among('ids')} ORDER BY seq DESC"
        return [self._job(row) for row in run(query, ids=json.dumps(list(ids)))]

    def _lock(self, run: Run, ids: Collection[str]) -> list[QueuedJob]:
        """The jobs, locked. Raises: UnknownName(E1003)."""
        query = f"SELECT {_JOB} FROM queue_jobs WHERE id {self._dialect.among('ids')} ORDER BY id{self._dialect.locked}"
        jobs = [self._job(row) for row in run(query, ids=json.dumps(list(ids)))]
        if missing := sorted(set(ids) - {job.id for job in jobs}):
            raise UnknownName("no such job", place="queue", expected="the id of a job", got=missing[0])
        return jobs

    def _at(self, moment: datetime) -> Any:
        return self._dialect.moment(moment)

    def _row(self, job: NewJob, payload: str, blockers: int, now: datetime) -> Row:
        return (
            job.id, job.name, job.kind, payload, job.run, job.priority, job.key, job.at_once,
            job.dedupe, job.on_duplicate, json.dumps(job.after), job.not_before and self._at(job.not_before), job.attempts, job.timeout_s,
            job.needs.memory_bytes, float(job.needs.cores), job.needs.gpus, _status(job.not_before, blockers, now), self._at(now), blockers,
        )  # fmt: skip

    def _job(self, row: Row) -> QueuedJob:
        read = self._dialect.read
        return QueuedJob(
            seq=row[0], id=row[1], name=row[2], kind=row[3], payload=json.loads(row[4]), run=row[5], priority=row[6], key=row[7],
            at_once=row[8], dedupe=row[9], on_duplicate=row[10], after=tuple(json.loads(row[11])) if row[11] != "[]" else (), not_before=row[12] and read(row[12]),
            attempts=row[13], timeout_s=row[14], needs=Needs(row[15], row[16], row[17]), status=row[18], created=read(row[19]),
            attempt=row[20], vanished=row[21], epoch=row[22], owner=row[23], until=row[24] and read(row[24]),
            started=row[25] and read(row[25]), ended=row[26] and read(row[26]), cancel_asked=bool(row[27]),
            progress=row[28] and json.loads(row[28]), result=row[29] and json.loads(row[29]), error=row[30] and json.loads(row[30]),
            because=row[31], cost=json.loads(row[32]) if row[32] != "{}" else {},
        )  # fmt: skip

    def _worker(self, row: Row) -> Worker:
        read = self._dialect.read
        return Worker(row[0], Offers(row[1], row[2], row[3], tuple(json.loads(row[4]))), read(row[5]), read(row[6]))

    def _lease(self, job: QueuedJob) -> Lease:
        return Lease(job, job.owner, job.epoch, cast("datetime", job.until))


_WORKER = "owner, memory_bytes, cores, gpus, kinds, since, until"
_LATE = "status = 'running' AND until <= :now"
_DUE = "status = 'waiting' AND blockers = 0 AND not_before <= :now"
_LOOK = (
    f"SELECT EXISTS (SELECT 1 FROM queue_jobs WHERE {_LATE}), EXISTS (SELECT 1 FROM queue_jobs WHERE {_DUE}),"
    " EXISTS (SELECT 1 FROM queue_workers WHERE until <= :now)"
)
_NEXT = (
    "SELECT j.seq, j.key, j.at_once FROM queue_jobs AS j WHERE j.status = 'ready'"
    " AND NOT EXISTS (SELECT 1 FROM queue_paused AS p WHERE p.kind = '' OR p.kind = j.kind){kinds}"
    " AND (j.memory_bytes = 0 OR j.memory_bytes <= :memory) AND (j.cores = 0 OR j.cores <= :cores) AND (j.gpus = 0 OR j.gpus <= :gpus)"
    " AND (j.at_once = 0 OR (SELECT count(*) FROM queue_jobs AS r WHERE r.status = 'running' AND r.key = j.key) < j.at_once)"
    " ORDER BY j.priority DESC, j.seq LIMIT 1{skipped}"
)
_CLAIM = (
    "UPDATE queue_jobs SET status = 'running', owner = :owner, epoch = epoch + 1, attempt = attempt + 1, until = :until, started = :now,"
    f" progress = NULL, cancel_asked = 0 WHERE seq = :seq RETURNING {_JOB}"
)
_DONE = (
    "UPDATE queue_jobs SET status = 'done', ended = :now, until = NULL, error = NULL, result = :result, cost = :cost"
    f" WHERE id = :id AND epoch = :epoch AND status = 'running' RETURNING {_JOB}"
)


def _terms(status: Collection[Status]) -> list[str]:
    """Conditions of which one holds for each job with one of the statuses, as the partial indexes answer them."""
    if not status:
        return [_MANY[0]]
    terms = [f"status = '{each}'" for each in STATUSES if each in status and each not in LOST]
    if lost := [each for each in LOST if each in status]:
        terms.append(f"status IN {_LOST} AND status IN (" + ", ".join(f"'{each}'" for each in lost) + ")")
    return terms


#: What so many jobs fulfil that they are best read in order.
_MANY = ("1 = 1", "status = 'done'")


def _status(not_before: datetime | None, blockers: int, now: datetime) -> Status:
    """Compares as moments are kept, to the microsecond."""
    return "ready" if not blockers and (not_before is None or from_iso(iso(not_before)) <= from_iso(iso(now))) else "waiting"


def _because(cause: QueuedJob) -> str:
    return json.dumps(JobCancelled(f"{cause.name} ({cause.id}) is {cause.status}", place=cause.name).as_record())
