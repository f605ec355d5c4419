"""Running a plan: a queued job for each asset, done by this process and by workers, decided again with the versions that are really there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from penstock.graph.graph import Graph, Node
from penstock.ground.clock import iso
from penstock.ground.digest import digest
from penstock.ground.errors import PenstockError, UnknownName
from penstock.ground.failpoints import reach
from penstock.plan.decide import PENDING, decide
from penstock.plan.records import Action, Declared, FileSeen, Made, Reason
from penstock.plan.retries import OF_ASSETS, attempts
from penstock.ports.queue import LIVE, LOST, Needs, NewJob, Offers, Queue, QueuedJob
from penstock.ports.state import State
from penstock.run.claims import claimed, me
from penstock.run.cost import Metered
from penstock.run.recorded import adopt, made_of, recorded
from penstock.run.runtime import Event, Job, Outcome, Runtime
from penstock.run.upkeep import needs_upkeep
from penstock.run.worker import LEASE_S, Attempt, Works, enlisted, next_attempt, record_of, relieve, work

Params = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class AssetResult:
    """What became of one asset in a run. `status`: made, unchanged, fresh, failed, refused, skipped."""

    asset: str
    kind: str
    status: str
    seconds: float = 0.0
    body: Mapping[str, Any] = field(default_factory=dict)
    error: Mapping[str, Any] | None = None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunReport:
    """A whole run. `ok` is False if an asset failed, was refused by its gates, or was skipped for that."""

    run: str
    started: datetime
    seconds: float
    results: tuple[AssetResult, ...]

    @property
    def ok(self) -> bool:
        return all(r.status in ("made", "unchanged", "fresh") for r in self.results)

    @property
    def nothing(self) -> bool:
        return all(r.status == "fresh" for r in self.results)

    def record(self) -> dict[str, Any]:
        results = [
            {"asset": r.asset, "kind": r.kind, "status": r.status, "seconds": r.seconds, "reasons": list(r.reasons), "error": r.error,
             **{k: r.body.get(k) for k in ("version", "rows", "rows_in", "rejected", "ledger", "checks", "gates") if k in r.body}}
            for r in self.results
        ]  # fmt: skip
        return {"run": self.run, "started": iso(self.started), "seconds": self.seconds, "ok": self.ok, "results": results}


@dataclass(frozen=True)
class Wanted:
    """What is to be run: the graph, what is declared, what is seen of the sources now, and which assets.

    `unseen` are sources that cannot be looked at; they fail alone, with what needs them.
    """

    graph: Graph
    declared: Mapping[str, Declared]
    seen: Mapping[str, Mapping[str, FileSeen]]
    chosen: Collection[str]
    force: Collection[str] = ()
    looks: Collection[str] = ()
    unseen: Mapping[str, PenstockError] = field(default_factory=dict)


Kinds = Mapping[str, Callable[[Job], Outcome]]
#: What is wanted by a job's payload: for its asset alone, with its parameters, as the sources are now.
Sight = Callable[[Mapping[str, Any]], Wanted]

#: Of jobs that make assets and care for them: seconds before the second attempt, how often they are tried again, and after which errors.
AGAIN = {"backoff_s": 0.2, "retries": OF_ASSETS, "transient_only": True}
#: What a command's own worker offers: it does one job at a time, whatever that needs.
ANY = Offers(memory_bytes=2**62, cores=2.0**40, gpus=2**30)
#: Seconds between looks at jobs that others do: short at first, then longer.
LOOKS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)
#: How many ids are asked for at once.
_PAGE = 500
#: Whether this thread is making an asset: a run within a run, which may not wait for the jobs of the outer one.
_inside: ContextVar[bool] = ContextVar("inside", default=False)


def run(look: Callable[[], Wanted], runtime: Runtime, works: Works, *, params: Params | None = None, priority: int = 0) -> RunReport:
    """Makes the chosen assets fresh: what is stale becomes queued jobs, one for each asset, after those of its inputs; see decision 017.

    This process does them one after the other, beside all workers that are up, and returns when all have ended. A job like one that another
    run has put in is that one; when it has ended the plan is made again, since that run may have looked at the sources earlier.
    An asset whose input failed is skipped; the others go on. A run that died anywhere is taken on by the next one.

    Args: look: what is wanted now. params: goes with the jobs, for workers elsewhere.
    """
    run_id = runtime.ids.new()
    started, tick = runtime.clock.now(), runtime.clock.tick()
    relieve(runtime)
    wanted = look()
    adopt(wanted.graph, runtime)
    going = _Run(run_id, runtime, works, params or {}, priority)
    try:
        with enlisted(runtime.state.queue, going.owner):
            while going.round(wanted):
                wanted = look()
            going.finish()
    except KeyboardInterrupt:
        going.cancel()
        raise
    report = RunReport(run_id, started, round(runtime.clock.tick() - tick, 3), tuple(going.results(wanted)))
    if not report.nothing:
        runtime.state.append("run", run_id, report.record(), at=runtime.clock.now())
    return report


@dataclass
class _Run:
    """One run under way. `jobs` are those that stand for its assets, by asset; `why` the reasons of its plan."""

    id: str
    runtime: Runtime
    works: Works
    params: Params
    priority: int
    jobs: dict[str, QueuedJob] = field(default_factory=dict)
    why: dict[str, tuple[str, ...]] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)

    @property
    def owner(self) -> str:
        return f"{me()}#{self.id}"

    def round(self, wanted: Wanted) -> bool:
        """Plans, puts in what is stale, and stays until it has ended. Gives whether to plan again: another run's job stood for one."""
        settled = {name for name, job in self.jobs.items() if job.run == self.id}
        new = self._put_in(wanted, settled)
        if not new:
            return False
        self.jobs |= new
        self._stay(wanted.graph, new)
        return any(job.run != self.id for job in new.values())

    def _put_in(self, wanted: Wanted, settled: Collection[str]) -> dict[str, QueuedJob]:
        """One job for each asset that is not fresh, in one transaction; gives by asset the job that stands for it."""
        made = recorded(self.runtime.state)
        ids: dict[str, str] = {}
        jobs = []
        versions = {name: record.version for name, record in made.items() if record.version}
        for node in wanted.graph:
            if node.name not in wanted.chosen or node.name in settled:
                continue
            action = decided(node, wanted, made.get(node.name), versions)
            self.why[node.name] = tuple(r.text for r in action.reasons)
            if not action.works and node.name not in wanted.unseen:
                continue
            versions[node.name] = PENDING
            ids[node.name] = self.runtime.ids.new()
            jobs.append(self._job(node, wanted, ids))
        put = self.runtime.state.queue.enqueue(jobs, now=self.runtime.clock.now()) if jobs else ()
        reach("run.queued")
        return dict(zip(ids, put, strict=True))

    def _job(self, node: Node, wanted: Wanted, ids: Mapping[str, str]) -> NewJob:
        own = {node.name: dict(self.params[node.name])} if node.name in self.params else {}
        force, looks = node.name in wanted.force, node.name in wanted.looks
        declared = wanted.declared[node.name]
        same = digest([declared.definition, dict(declared.parts), declared.contract, declared.recorded_params, force])
        payload = {"asset": node.name, "params": own, "force": force, "look": looks, **AGAIN}
        key, at_once, dedupe = (f"make:{node.name}", 1, f"asset:{node.name}:{same}") if not _inside.get() else ("", 0, "")
        return NewJob(
            f"asset:{node.name}", "make", payload, self.id, self.priority, key, at_once, dedupe,
            after=tuple(ids[name] for name in node.inputs if name in ids), attempts=attempts(OF_ASSETS), needs=Needs(cores=1), id=ids[node.name],
        )  # fmt: skip

    def _stay(self, graph: Graph, jobs: Mapping[str, QueuedJob]) -> None:
        """Does jobs of the runs concerned, and looks at those that others do, until all have ended."""
        names = {job.id: name for name, job in jobs.items()}
        left = dict(names)
        runs = {self.id, *(job.run for job in jobs.values())}
        idle = 0
        while left:
            if (ended := self._do_one(runs)) is not None:
                idle = 0
                if ended.status not in LOST:
                    self._see(graph, [ended], left)
                    continue
            before = len(left)
            self._see(graph, jobs_with(self.runtime.state.queue, list(left)), left)
            if ended is None and left:
                idle = 0 if len(left) < before else idle + 1
                if idle > len(LOOKS_S):
                    relieve(self.runtime)
                self.runtime.clock.wait(LOOKS_S[min(idle, len(LOOKS_S) - 1)])

    def _do_one(self, runs: Collection[str]) -> QueuedJob | None:
        now = self.runtime.clock.now()
        lease = self.runtime.state.queue.claim(self.owner, ANY, now=now, lease_s=LEASE_S, runs=runs)
        return None if lease is None else work(lease, self.runtime, self.works)

    def _see(self, graph: Graph, jobs: Iterable[QueuedJob], left: dict[str, str]) -> None:
        """Takes note of jobs that have ended, and tells of those that others did."""
        for job in sorted(jobs, key=lambda job: job.seq):
            if job.id not in left or job.status in LIVE:
                continue
            name = left.pop(job.id)
            self.jobs[name] = job
            if job.status == "cancelled" and job.because:
                lost = [n for n in graph.node(name).inputs if n in self.jobs and self.jobs[n].status in LOST]
                self.runtime.tell(Event("skipped", name, f"needs {', '.join(lost)}"))
            elif job.owner != self.owner:
                _told(job, name, graph.node(name).kind, self.runtime)

    def finish(self) -> None:
        """Does what the run's jobs put in besides: upkeep. What others do of it is theirs."""
        while self._do_one({self.id}) is not None:
            pass

    def cancel(self) -> None:
        """Ends what has not begun; whoever else waits for it plans again."""
        queue, now = self.runtime.state.queue, self.runtime.clock.now()
        live = [job.id for job in queue.jobs(run=self.id, status=LIVE, limit=100_000)]
        queue.cancel(live, now=now, reason="the command was interrupted")

    def results(self, wanted: Wanted) -> Iterator[AssetResult]:
        """What became of each chosen asset, in running order. What needs an asset that failed or was skipped counts as skipped."""
        versions = self.runtime.state.heads("asset")
        broken: set[str] = set()
        for node in wanted.graph:
            if node.name not in wanted.chosen:
                continue
            result = self._result(node, [name for name in node.inputs if name in broken])
            if result.status in ("failed", "skipped") or node.name not in versions or not versions[node.name].body["version"]:
                broken.add(node.name)
            yield result

    def _result(self, node: Node, lost: Sequence[str]) -> AssetResult:
        job, why = self.jobs.get(node.name), self.why.get(node.name, ())
        if lost or (job is not None and job.status == "cancelled" and job.because):
            return AssetResult(node.name, node.kind, "skipped", reasons=(f"{', '.join(lost)} has no version to use",))
        if job is None:
            return AssetResult(node.name, node.kind, "fresh", reasons=why)
        told = job.result if isinstance(job.result, Mapping) else {}
        if job.status == "done":
            why = tuple(told.get("reasons", why))
            return AssetResult(node.name, node.kind, str(told["status"]), float(told["seconds"]), told.get("body", {}), reasons=why)
        seconds = float(job.cost.get("seconds", 0.0))
        return AssetResult(node.name, node.kind, "failed", round(seconds, 3), error=job.error, reasons=why)


def jobs_with(queue: Queue, ids: Sequence[str]) -> Iterator[QueuedJob]:
    for i in range(0, len(ids), _PAGE):
        yield from queue.jobs(ids[i : i + _PAGE], limit=_PAGE)


def _told(job: QueuedJob, name: str, kind: str, runtime: Runtime) -> None:
    """Tells of a job that another process did."""
    told = job.result if isinstance(job.result, Mapping) else {}
    if job.status != "done":
        runtime.tell(Event("failed", name, str((job.error or {}).get("message", job.status)), job.error or {}))
    elif told["status"] == "skipped":
        runtime.tell(Event("skipped", name, "; ".join(told["reasons"])))
    else:
        runtime.tell(Event("started", name, "; ".join(told["reasons"]), {"kind": kind, "mode": told.get("mode", "full")}))
        runtime.tell(Event("finished", name, told["status"], {**told["body"], "seconds": told["seconds"], "status": told["status"]}))


# -- one asset ------------------------------------------------------------------------------------------------------
def make(attempt: Attempt, sight: Sight, kinds: Kinds) -> dict[str, Any]:
    """Makes one asset, as a queued job asks for; decided again with the versions that are there now.

    Returns: status (made, unchanged, refused, fresh, skipped), seconds, reasons, mode, and the body of the record.
    """
    runtime, wanted = attempt.runtime, sight(attempt.payload)
    node = wanted.graph.node(str(attempt.payload["asset"]))
    tick, outer = runtime.clock.tick(), _inside.set(True)
    try:
        return _made(node, attempt, wanted, kinds)
    except (PenstockError, OSError) as error:
        record = record_of(error, node.name)
        if record is not None and (next_attempt(attempt.job, record, runtime.clock.now()) is None):
            seconds = runtime.clock.tick() - tick
            runtime.state.append("failure", node.name, {"error": record, "seconds": seconds}, at=runtime.clock.now())
            runtime.tell(Event("failed", node.name, str(error), record))
        raise
    finally:
        _inside.reset(outer)


def _made(node: Node, attempt: Attempt, wanted: Wanted, kinds: Kinds) -> dict[str, Any]:
    runtime, state = attempt.runtime, attempt.runtime.state
    versions = Newest(state)
    if lost := _lost(attempt, node, versions):
        runtime.tell(Event("skipped", node.name, f"needs {', '.join(lost)}"))
        return {"status": "skipped", "seconds": 0.0, "reasons": [f"{', '.join(lost)} has no version to use"]}
    if node.name in wanted.unseen:
        raise wanted.unseen[node.name]
    head = state.heads("asset", prefix=node.name).get(node.name)
    listing = state.heads("listing", prefix=f"{node.name}/") if node.name in wanted.seen else {}
    made = made_of(node.name, head.body, listing) if head else None
    action = decided(node, wanted, made, versions)
    reasons = [r.text for r in action.reasons]
    if not action.works:
        return {"status": "fresh", "seconds": 0.0, "reasons": reasons, "mode": action.mode, "body": {}}
    tick = runtime.clock.tick()
    runtime.tell(Event("started", node.name, "; ".join(reasons), {"kind": node.kind, "mode": action.mode}))
    metered = replace(runtime, open_compute=lambda: Metered(runtime.compute, attempt.more))
    outcome = _worked(node, wanted, metered, attempt.job.run, kinds)
    seconds = round(runtime.clock.tick() - tick, 3)
    if not outcome.body:
        runtime.tell(Event("finished", node.name, "fresh", {"seconds": seconds, "status": "fresh"}))
        return {"status": "fresh", "seconds": seconds, "reasons": ["another run made it meanwhile"], "body": {"version": outcome.version}}
    status = "refused" if outcome.body.get("refused") else "made" if outcome.changed else "unchanged"
    runtime.tell(Event("finished", node.name, status, {**outcome.body, "seconds": seconds, "status": status}))
    attempt.cost["rows"] = float(outcome.body.get("rows") or 0) if outcome.changed else 0.0
    if status == "made" and needs_upkeep(int(outcome.body.get("files") or 0)):
        _care(node.name, attempt)
    return {"status": status, "seconds": seconds, "reasons": reasons, "mode": action.mode, "body": dict(outcome.body)}


def _lost(attempt: Attempt, node: Node, versions: Mapping[str, str]) -> list[str]:
    """Inputs that cannot be used: without a version, or skipped by a job that this one comes after."""
    before = attempt.runtime.state.queue.jobs(attempt.job.after, limit=len(attempt.job.after)) if attempt.job.after else ()
    skipped = {job.payload.get("asset") for job in before if isinstance(job.result, Mapping) and job.result.get("status") == "skipped"}
    return [name for name in node.inputs if name in skipped or name not in versions]


def _care(name: str, attempt: Attempt) -> None:
    """Puts in the upkeep of an asset's tables, after all that makes assets."""
    job = NewJob(
        f"upkeep:{name}", "upkeep", {"asset": name, **AGAIN}, attempt.job.run, -10, f"make:{name}", 1, f"upkeep:{name}",
        attempts=attempts(OF_ASSETS),
    )  # fmt: skip
    attempt.runtime.state.queue.enqueue([job], now=attempt.runtime.clock.now())


def decided(node: Node, wanted: Wanted, made: Made | None, versions: Mapping[str, str]) -> Action:
    """What to do with one asset, given what is recorded of it and the versions of its inputs."""
    forced, look = node.name in wanted.force, node.name in wanted.looks
    return decide(wanted.declared[node.name], made, wanted.seen.get(node.name), versions, forced=forced, look=look)


class Newest(Mapping[str, str]):
    """The newest recorded version of each asset that has one. Each is read when it is first asked for, and stays as it was."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._known: dict[str, str | None] = {}

    def __getitem__(self, name: str) -> str:
        if name not in self._known:
            head = self._state.heads("asset", prefix=name).get(name)
            self._known[name] = str(head.body["version"]) if head is not None and head.body["version"] else None
        found = self._known[name]
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._state.heads("asset") if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _worked(node: Node, wanted: Wanted, runtime: Runtime, run_id: str, kinds: Kinds) -> Outcome:
    """One asset under its claim, in one engine session; decided again there, since another run may have worked on it meanwhile.

    The outcome has an empty body if nothing is left to do.
    """
    with claimed(runtime, f"asset:{node.name}", run_id) as claim:
        reach("run.claimed")
        head = runtime.state.heads("asset", prefix=node.name).get(node.name)
        base = dict(head.body) if head else {}
        declared = wanted.declared[node.name]
        versions = Newest(runtime.state)
        listing = runtime.state.heads("listing", prefix=f"{node.name}/")
        action = decided(node, wanted, made_of(node.name, base, listing) if base else None, versions)
        if not action.works:
            return Outcome(str(base["version"]), {}, changed=False)
        session = runtime.engine.session()
        try:
            token = f"{node.name}:{_work_digest(node, declared, action, base, versions, wanted.seen.get(node.name))}"
            tick = runtime.clock.tick()
            job = Job(runtime, wanted.graph, node, declared, action, run_id, claim, session, versions, base, token, tick)
            return kinds[node.kind](job)
        finally:
            session.close()


@contextmanager
def alone(
    node: Node, graph: Graph, declared: Declared, runtime: Runtime, *, claim: str, why: str, versions: Mapping[str, str] | None = None
) -> Iterator[Job]:
    """One job outside of a plan, under a claim of its own: it makes no version of an asset.

    Raises: Busy(E4005), UnknownName(E1003) if an input was never made.
    """
    run_id = runtime.ids.new()
    head = runtime.state.heads("asset", prefix=node.name).get(node.name)
    known = Newest(runtime.state)
    read = dict(versions) if versions is not None else {name: known[name] for name in node.inputs if name in known}
    if missing := [name for name in node.inputs if name not in read]:
        raise UnknownName("an input has never been made", place=f"{node.name}({missing[0]})", hint=f"penstock run {missing[0]}")
    with claimed(runtime, claim, run_id) as held:
        session = runtime.engine.session()
        try:
            action = Action(node.name, node.kind, "stale", "full", (Reason("forced", why),))
            yield Job(
                runtime,
                graph,
                node,
                declared,
                action,
                run_id,
                held,
                session,
                read,
                dict(head.body) if head else {},
                "",
                runtime.clock.tick(),
            )
        finally:
            session.close()


def _work_digest(
    node: Node,
    declared: Declared,
    action: Action,
    base: Mapping[str, Any],
    versions: Mapping[str, str],
    seen: Mapping[str, FileSeen] | None,
) -> str:
    """Names a piece of work by all that decides its result, so that the same work after a crash is known again."""
    inputs = {name: versions.get(name, "") for name in node.inputs}
    what = [
        declared.definition,
        dict(declared.parts),
        declared.contract,
        declared.recorded_params,
        action.mode,
        inputs,
        _files_of(action, seen),
    ]
    return digest([*what, base.get("version"), base.get("at")])


def _files_of(action: Action, seen: Mapping[str, FileSeen] | None) -> Any:
    if seen is None:
        return None
    labels = [*action.files.new, *action.files.changed] if action.mode == "part" else seen
    return [[label, seen[label].size_bytes, seen[label].changed_ns] for label in sorted(labels) if label in seen]
