"""The scheduler: at each tick it holds every automation's condition against what is recorded, and queues the targets of those that fire.

Exactly one is active: it holds the claim `scheduler`, and everything it writes down carries that claim. What an automation has fired with,
and that it fires, is one record (`automation`, by name); its job is queued after that, under an id that follows from the record. So

    a scheduler that dies before the record   has done nothing: the next one sees the same facts and fires;
    one that dies after it                    leaves a firing that the next one queues, and that is there already if it was queued;
    one that was taken for dead and wakes     cannot write (Fenced), and what it still queues is there already.

Nothing is kept in memory but what can be read again. Time comes with each tick.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from penstock.craft.schedule.conditions import Facts, Fired, Happened, evaluate
from penstock.craft.schedule.cron import following
from penstock.craft.schedule.freshness import versions
from penstock.graph.graph import Graph
from penstock.ground.clock import iso
from penstock.ground.digest import digest
from penstock.ground.errors import Busy, Fenced, PenstockError, StorageError, UnknownName
from penstock.ground.ids import base32
from penstock.plan.flows import input_digest
from penstock.plan.retries import OF_ASSETS, attempts
from penstock.ports.queue import NewJob, QueuedJob
from penstock.ports.state import Claim, Record, State
from penstock.run import events
from penstock.run.claims import is_dead
from penstock.run.flow import flow_job, job_of
from penstock.run.journal import idempotency_key, stable_id
from penstock.run.watch import KIND as ARRIVAL
from penstock.run.watch import ListFiles, Watch, arrived
from penstock.spec.automation import Arrived, Automation, Condition, Cron, Every, Failed, Fresh, OnEvent, Updated, leaves
from penstock.spec.jobs import Flow, Job
from penstock.spec.sources import Files
from penstock.spec.spans import span

CLAIM = "scheduler"
KIND = "automation"
#: Seconds that the active scheduler's claim holds without a sign of life: so long nothing fires after it died.
LEASE_S = 15.0
#: Seconds between two looks at the files of sources.
POLL_S = 5.0
#: How often an automation may fire in one tick; the rest comes in the next.
AT_MOST = 100
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


@dataclass(frozen=True)
class Schedule:
    """What there is to schedule.

    Attributes:
        inputs: asset -> what it needs, in running order.
        sources: sources of files by name.
    """

    automations: Mapping[str, Automation]
    jobs: Mapping[str, Job] = field(default_factory=dict)
    flows: Mapping[str, Flow] = field(default_factory=dict)
    inputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sources: Mapping[str, Files] = field(default_factory=dict)


def schedule_of(graph: Graph, automations: Mapping[str, Automation], jobs: Mapping[str, Job], flows: Mapping[str, Flow]) -> Schedule:
    """The schedule of a project."""
    sources = {node.name: node.asset for node in graph if isinstance(node.asset, Files)}
    return Schedule(automations, jobs, flows, {node.name: node.inputs for node in graph}, sources)


@dataclass(frozen=True)
class Ticked:
    """What a tick did.

    Attributes:
        active: whether this scheduler is the active one. `holder`: the one that is, if it is another.
        queued: jobs that are queued now because of it. `looks`: what each automation's last look gave.
        notes: what went wrong without stopping the rest.
    """

    active: bool
    holder: str = ""
    queued: tuple[QueuedJob, ...] = ()
    looks: Mapping[str, Fired] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Scheduler:
    """One of any number of schedulers on the same state. Called from one thread."""

    def __init__(
        self, schedule: Schedule, state: State, *, owner: str, list_files: ListFiles, lease_s: float = LEASE_S, poll_s: float = POLL_S
    ) -> None:
        """`owner` names this process; no other scheduler has the same."""
        self._schedule = schedule
        self._state = state
        self._owner = owner
        self._list = list_files
        self._lease_s = lease_s
        self._poll_s = poll_s
        self._leaves = [leaf for a in schedule.automations.values() for leaf in leaves(a.when)]
        self._claim: Claim | None = None
        self._forget()

    def _forget(self) -> None:
        """What was read under an earlier claim does not count under the next."""
        self._heads: dict[str, Mapping[str, Any]] | None = None
        self._queued: dict[str, str] = {}
        self._polled: datetime | None = None
        self._watch = Watch(self._schedule.sources, _watched(self._schedule, self._leaves), self._list)
        self._assets: tuple[int, Mapping[str, Record]] = (-1, {})

    def tick(self, now: datetime) -> Ticked:
        """Takes or keeps the claim, and fires what fires. Called: every second or so; a tick without news reads a few rows and writes none.

        Durable: what is returned. Repeat: fires nothing twice.
        Raises:  StorageError(E4001) if the state is away; the next tick goes on where this one was.
        """
        holder = self._lead(now)
        if holder is not None:
            return Ticked(False, holder)
        assert self._claim is not None
        try:
            return self._led(self._claim, now)
        except Fenced:
            self._claim = None
            return Ticked(False, "another scheduler took over")
        except StorageError:
            self._forget()  # what was written before the error is read again
            raise

    def resign(self) -> None:
        """Gives the claim back, so that another scheduler need not wait for the lease to end. Repeat: does nothing."""
        if self._claim is not None:
            self._state.release(self._claim)
            self._claim = None

    def explain(self, now: datetime) -> dict[str, Fired]:
        """What a look at each automation gives now, by what is recorded. Writes nothing; any process may ask."""
        heads = {name: record.body for name, record in self._state.heads(KIND).items()}
        watch = Watch(self._schedule.sources, _watched(self._schedule, self._leaves), self._list)
        watch.glance()
        facts = self._facts(now, heads, watch)
        return {
            name: evaluate(a.when, facts, heads.get(name, {}).get("remembered", {}))
            for name, a in sorted(self._schedule.automations.items())
        }

    # -- leading
    def _lead(self, now: datetime) -> str | None:
        """Takes or renews the claim. Returns: None if this scheduler is the active one, else who is."""
        try:
            if self._claim is not None:
                left = (self._claim.until - now).total_seconds()
                if not self._lease_s / 2 < left <= self._lease_s:
                    self._claim = self._state.renew(self._claim, now=now, lease_s=self._lease_s)
                return None
            self._claim = self._taken(now)
        except Busy as busy:
            return busy.holder.owner if busy.holder is not None else "another scheduler"
        except Fenced:
            self._claim = None
            return "another scheduler took over"
        self._forget()
        return None

    def _taken(self, now: datetime) -> Claim:
        """The claim; that of a process of this machine that is gone is taken over at once. Raises: Busy(E4005)."""
        try:
            return self._state.claim(CLAIM, self._owner, now=now, lease_s=self._lease_s)
        except Busy as busy:
            if busy.holder is None or not is_dead(busy.holder.owner):
                raise
            self._state.release(busy.holder)
            return self._state.claim(CLAIM, self._owner, now=now, lease_s=self._lease_s)

    def _led(self, claim: Claim, now: datetime) -> Ticked:
        state = self._state
        notes: list[str] = []
        queued: list[QueuedJob] = []
        state.queue.advance(now=now)
        if self._heads is None:
            self._heads = {name: record.body for name, record in state.heads(KIND).items()}
            self._queued = self._known_firings()
        queued += self._queue(list(self._schedule.automations), now, notes)  # what was written down before and may not have been queued
        if self._polled is None or not 0 <= (now - self._polled).total_seconds() < self._poll_s:
            notes += self._watch.poll(state, claim, now)
            self._polled = now
        facts = self._facts(now, self._heads, self._watch)
        looks: dict[str, Fired] = {}
        names = sorted(self._schedule.automations)
        for _ in range(AT_MOST):
            entries = self._look(names, facts, looks, notes)
            if entries:
                state.append_all(entries, at=now, claim=claim)
                self._heads = {**self._heads, **{name: body for _, name, body in entries}}
            names = [name for _, name, _ in entries if looks[name].yes]
            if not names:
                break
            queued += self._queue(names, now, notes)
        return Ticked(True, "", tuple(queued), looks, tuple(notes))

    # -- firing
    def _look(
        self, names: Sequence[str], facts: Facts, looks: dict[str, Fired], notes: list[str]
    ) -> list[tuple[str, str, Mapping[str, Any]]]:
        """Looks at some automations once. Returns the records to write; in `looks` a firing stays until a later tick."""
        entries: list[tuple[str, str, Mapping[str, Any]]] = []
        for name in names:
            automation, head = self._schedule.automations[name], (self._heads or {}).get(name, {})
            try:
                fired = evaluate(automation.when, facts, head.get("remembered", {}))
            except PenstockError as error:
                notes.append(f"{name}: {error}")
                continue
            if fired.yes or name not in looks:
                looks[name] = fired
            if fired.remembered != head.get("remembered"):
                body = {"remembered": fired.remembered, "count": head.get("count", 0) + fired.yes, "firing": head.get("firing")}
                if fired.yes:
                    body["firing"] = _firing(name, automation, fired, body["count"], facts.now)
                entries.append((KIND, name, body))
        return entries

    def _known_firings(self) -> dict[str, str]:
        """Automation -> run of its newest firing, of those that are queued."""
        runs = {name: body["firing"]["run"] for name, body in (self._heads or {}).items() if body.get("firing")}
        ids = {id: name for name, run in runs.items() for id in (run, stable_id("flow", run))}
        asked = sorted(ids)
        pages = (self._state.queue.jobs(asked[i : i + 500], limit=500) for i in range(0, len(asked), 500))
        return {ids[job.id]: runs[ids[job.id]] for page in pages for job in page}

    def _queue(self, names: Sequence[str], now: datetime, notes: list[str]) -> list[QueuedJob]:
        """Queues the newest firings of some automations, but those that are known to be queued; in one transaction, if nothing is wrong."""
        jobs: dict[str, NewJob] = {}
        for name in names:
            firing = (self._heads or {}).get(name, {}).get("firing")
            if firing is None or self._queued.get(name) == firing["run"]:
                continue
            try:
                jobs[name] = job_for(self._schedule, name, firing)
            except PenstockError as error:
                notes.append(f"{name}: {error}")  # it cannot be queued as the project is now, and will not be later
                self._queued[name] = firing["run"]
        made = self._put_in(jobs, now, notes) if jobs else []
        self._queued.update({name: job.run for name, job in jobs.items()})
        return made

    def _put_in(self, jobs: Mapping[str, NewJob], now: datetime, notes: list[str]) -> list[QueuedJob]:
        try:
            return list(self._state.queue.enqueue(list(jobs.values()), now=now))
        except StorageError:
            raise
        except PenstockError as error:
            if len(jobs) == 1:
                notes.append(f"{next(iter(jobs))}: {error}")
                return []
        return [job for name in jobs for job in self._put_in({name: jobs[name]}, now, notes)]

    # -- facts
    def _facts(self, now: datetime, heads: Mapping[str, Mapping[str, Any]], watch: Watch) -> Facts:
        """What the conditions in use need to know, and no more."""
        kinds = {type(leaf) for leaf in self._leaves}
        return Facts(
            now,
            self._versions(watch) if kinds & {Fresh, Updated} else {},
            arrived(self._state.heads(ARRIVAL)) if Arrived in kinds else {},
            {leaf.what: found for leaf in self._leaves if isinstance(leaf, Failed) and (found := self._failure(leaf.what)) is not None},
            self._events(heads) if OnEvent in kinds else {},
        )

    def _versions(self, watch: Watch) -> Mapping[str, Any]:
        newest = next((r.seq for r in self._state.history("asset", limit=1)), 0)
        if newest != self._assets[0]:
            self._assets = (newest, self._state.heads("asset"))
        waiting = {source: watch.waiting(self._state, source) for source in self._schedule.sources}
        return versions(self._schedule.inputs, {name: (r.body, r.at) for name, r in self._assets[1].items()}, waiting)

    def _failure(self, what: str) -> Happened | None:
        """The newest failure of an asset, job or flow; what somebody cancelled has not failed."""
        kind = "flow" if what in self._schedule.flows else "job" if what in self._schedule.jobs else "asset"
        lost = self._state.queue.jobs(name=f"{kind}:{what}", status=("failed", "dead", "cancelled"), limit=50)
        ended = [(j.ended, j) for j in lost if j.ended is not None and (j.status != "cancelled" or j.because)]
        if not ended:
            return None
        at, job = max(ended, key=lambda pair: pair[0])
        error = dict(job.error or {})
        number = (at - _EPOCH) // timedelta(microseconds=1)
        return Happened(number, at, str(error.get("message", ""))[:200], {"what": what, "run": job.run, "job": job.id, "error": error})

    def _events(self, heads: Mapping[str, Mapping[str, Any]]) -> dict[str, Sequence[Happened]]:
        """Events that some automation has not fired with, oldest first."""
        newest = self._state.heads(events.KIND)
        found: dict[str, Sequence[Happened]] = {}
        for name in {leaf.name for leaf in self._leaves if isinstance(leaf, OnEvent)}:
            if name in newest:
                used = self._used(name, heads)
                limit = 1 if used is None or newest[name].seq <= used else 100
                records = self._state.history(events.KIND, name, limit=limit)
                while len(records) == limit and limit > 1 and records[-1].seq > (used or 0):
                    limit *= 10
                    records = self._state.history(events.KIND, name, limit=limit)
                found[name] = [Happened(r.seq, r.at, "", r.body["data"]) for r in reversed(records)]
        return found

    def _used(self, name: str, heads: Mapping[str, Mapping[str, Any]]) -> int | None:
        """The event up to which every automation that waits for this name has fired; None if none has looked at it yet."""
        marks = []
        for automation_name, automation in self._schedule.automations.items():
            known = heads.get(automation_name, {}).get("remembered", {}).get("marks", {})
            for path, leaf in paths(automation.when):
                if isinstance(leaf, OnEvent) and leaf.name == name and isinstance(mark := known.get(path), int):
                    marks.append(mark)
        return min(marks) if marks else None


def paths(condition: Condition, path: str = "0") -> list[tuple[str, Condition]]:
    """The leaves of a condition with the paths under which they are remembered."""
    parts = getattr(condition, "of", None)
    inner = [*(parts if isinstance(parts, tuple) else [parts])] if parts is not None else []
    inner += [condition.reset] if hasattr(condition, "reset") else []
    inner = [part for part in inner if isinstance(part, Condition)]
    return [found for i, part in enumerate(inner) for found in paths(part, f"{path}.{i}")] if inner else [(path, condition)]


def _firing(name: str, automation: Automation, fired: Fired, count: int, now: datetime) -> dict[str, Any]:
    """What is written down of a firing. Its run's id is sortable by time, and the same for the same firing whoever writes it down."""
    at = fired.at or now
    milliseconds = max(0, (at - _EPOCH) // timedelta(milliseconds=1))
    noise = int(digest([KIND, name, count, list(fired.cause)]), 16) & ((1 << 50) - 1)
    return {
        "run": base32(milliseconds, 10) + base32(noise, 10), "target": automation.target, "params": dict(automation.params), "at": iso(now),
        "cause": list(fired.cause), "why": fired.why.as_json(), "text": str(fired.why), "data": fired.data,
    }  # fmt: skip


def job_for(schedule: Schedule, name: str, firing: Mapping[str, Any]) -> NewJob:
    """The job of a firing. Its run is the firing's, and its id follows from that.

    Raises: UnknownName(E1003) if the project no longer has the target.
    """
    run, target, params = firing["run"], firing["target"], firing["params"]
    told = {"automation": name, "because": firing["text"]}
    if target in schedule.flows:
        made = flow_job(target, run, firing["data"], params)
        return replace(made, payload={**made.payload, **told})
    if target in schedule.jobs:
        job = schedule.jobs[target]
        whole = {**dict(job.params), **params}
        key = idempotency_key(run, target, input_digest(firing["data"], whole))
        payload = {"job": target, "input": firing["data"], "params": whole, "idempotency_key": key, **told}
        return job_of(job, whole, payload, name=f"job:{target}", kind="job", run=run, id=run)
    if target in schedule.inputs:
        payload = {"asset": target, "retries": OF_ASSETS, "backoff_s": 10.0, "transient_only": True, **told}
        return NewJob(f"asset:{target}", "asset", payload, run, key=f"asset:{target}", at_once=1, attempts=attempts(OF_ASSETS), id=run)
    raise UnknownName("the project no longer has what was to run", place=f"{name}: {target}")


def next_tick(schedule: Schedule, now: datetime) -> datetime | None:
    """When time alone may make an automation fire next; None if never. Files, events and versions may do so before."""
    found = []
    for leaf in (leaf for a in schedule.automations.values() for leaf in leaves(a.when)):
        if isinstance(leaf, Cron) and (at := following(leaf.text, leaf.tz, now)) is not None:
            found.append(at)
        if isinstance(leaf, Every):
            length = span(leaf.span)
            found.append(now - (now - _EPOCH) % length + length)
    return min(found, default=None)


def _watched(schedule: Schedule, found: Sequence[Condition]) -> dict[str, set[str]]:
    """Sources to poll, with their markers: those that are waited for, and those that what should be fresh stands on."""
    watched: dict[str, set[str]] = {}
    for leaf in found:
        if isinstance(leaf, Arrived):
            watched.setdefault(leaf.source, set()).add(leaf.marker)
        if isinstance(leaf, Fresh):
            for name in _above(leaf.asset, schedule.inputs):
                if name in schedule.sources:
                    watched.setdefault(name, set()).add("")
    return watched


def _above(name: str, inputs: Mapping[str, tuple[str, ...]]) -> set[str]:
    found: set[str] = set()
    waiting = [name]
    while waiting:
        nearest = waiting.pop()
        if nearest not in found:
            found.add(nearest)
            waiting += inputs.get(nearest, ())
    return found
