"""A backfill: the slices of a table in a range of time that are missing or touched, one queued job and one commit for each.

A slice is right if the table's newest version was computed from the inputs as they are, or a job of a backfill made it from them: the commit
of that job records so, with the slice (`slice` records). Until no slice is left the version stays recorded as made from the inputs it had
before, so that a plan goes on to call it stale; after the last one it is recorded as fresh.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from penstock.graph.graph import Graph, Node
from penstock.ground.digest import digest
from penstock.ground.errors import DefinitionError
from penstock.ground.names import literal, quote
from penstock.plan.records import Action, Declared, Reason
from penstock.plan.retries import OF_ASSETS, attempts
from penstock.ports.engine import Session
from penstock.ports.lake import Scan
from penstock.ports.queue import LIVE, Needs, NewJob, QueuedJob
from penstock.run.build import build_table
from penstock.run.claims import claimed, me
from penstock.run.execute import AGAIN, ANY, LOOKS_S, Newest, Sight, jobs_with
from penstock.run.recorded import adopted
from penstock.run.runtime import Job, Runtime, snapshot_for
from penstock.run.worker import LEASE_S, Attempt, Works, enlisted, relieve, work
from penstock.spec.tables import Slices, Table

_SHOWN = {"year": 4, "month": 7, "day": 10, "hour": 13}
_MOMENT = re.compile(r"\d{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01])(T([01]\d|2[0-3]))?)?)?")
#: Told after each slice: the slice, its job, how many have ended, of how many.
Tell = Callable[[str, QueuedJob, int, int], None]


@dataclass(frozen=True)
class Backfilled:
    """What a backfill did: its jobs by slice, and how many slices of the whole table are `left` to be made."""

    run: str
    asset: str
    seconds: float
    jobs: Mapping[str, QueuedJob]
    left: int

    @property
    def failed(self) -> dict[str, QueuedJob]:
        return {name: job for name, job in self.jobs.items() if job.status != "done"}


def span(text: str) -> tuple[str, str]:
    """First and last of `2013-01..2013-12` or of `2013-05`: years, months, days or hours (`2013-05-01T07`), both included.

    Raises: DefinitionError(E1001) for another form, or a last that is before the first.
    """
    first, dots, last = text.partition("..")
    last = last if dots else first
    if not (_MOMENT.fullmatch(first) and _MOMENT.fullmatch(last)) or last < first[: len(last)]:
        raise DefinitionError("not a range of time", place="--backfill", expected="FIRST..LAST such as 2013-01..2013-12", got=text)
    return first.replace("T", " "), last.replace("T", " ")


def sliced(node: Node) -> Table:
    """The table of a node that is made of slices. Raises: DefinitionError(E1001) for any other asset."""
    if not isinstance(node.asset, Table) or not isinstance(node.asset.write, Slices):
        hint = 'declare @ps.table(time="month", write=ps.slices("month", of="input", on="its time column"))'
        got = node.kind if not isinstance(node.asset, Table) else type(node.asset.write).__name__.lower()
        raise DefinitionError(
            "only a table made of slices can be backfilled",
            place=node.name,
            expected="a table with write=ps.slices(...)",
            got=got,
            hint=hint,
        )
    return node.asset


def backfill(
    node: Node, graph: Graph, declared: Declared, runtime: Runtime, works: Works, *, first: str, last: str, params: Mapping[str, Any],
    priority: int = 0, tell: Tell = lambda *_: None,
) -> Backfilled:  # fmt: skip
    """Makes the slices of a range that are missing or touched; returns when all their jobs have ended, some of them done by other workers.

    A slice that another backfill has put in for the same inputs is that job. Killed anywhere, the next one does what is left. Readers see a
    slice when it is committed, and the old rows until then. The inputs are used as they were last made.
    """
    run, tick = runtime.ids.new(), runtime.clock.tick()
    owner = f"{me()}#{run}"
    relieve(runtime)
    with claimed(runtime, f"asset:{node.name}", run) as claim:
        adopted(node, runtime, claim)
    stale = stale_slices(node, declared, runtime)
    chosen = [name for name in sorted(stale) if first <= name[: len(first)] and name[: len(last)] <= last]
    versions = Newest(runtime.state)
    key = digest([_same(declared), {name: versions[name] for name in node.inputs}])
    new = [_queued(node, name, key, run, params, priority) for name in chosen]
    queue = runtime.state.queue
    put = queue.enqueue(new, now=runtime.clock.now()) if new else ()
    jobs = dict(zip(chosen, put, strict=True))
    with enlisted(queue, owner):
        jobs = _done(jobs, owner, run, runtime, works, tell)
    left = _settled(node, declared, runtime, run)
    shown = {_shown(node, name): job for name, job in jobs.items()}
    return Backfilled(run, node.name, round(runtime.clock.tick() - tick, 3), shown, left)


def _shown(node: Node, name: str) -> str:
    return name[: _SHOWN[sliced(node).write.every]].replace(" ", "T")  # type: ignore[union-attr]


def _queued(node: Node, name: str, key: str, run: str, params: Mapping[str, Any], priority: int) -> NewJob:
    payload = {"asset": node.name, "params": params, "force": False, "look": False, "slice": name, **AGAIN}
    return NewJob(
        f"slice:{node.name}@{_shown(node, name)}", "slice", payload, run, priority, f"make:{node.name}", 1, f"slice:{node.name}:{name}:{key}",
        attempts=attempts(OF_ASSETS), needs=Needs(cores=1),
    )  # fmt: skip


def _done(jobs: Mapping[str, QueuedJob], owner: str, run: str, runtime: Runtime, works: Works, tell: Tell) -> dict[str, QueuedJob]:
    """Does the jobs beside other workers until all have ended; gives them as they are then."""
    queue, left, ended = runtime.state.queue, {job.id: name for name, job in jobs.items()}, dict(jobs)
    runs, idle = {run, *(job.run for job in jobs.values())}, 0
    try:
        while left:
            lease = queue.claim(owner, ANY, now=runtime.clock.now(), lease_s=LEASE_S, runs=runs)
            mine = work(lease, runtime, works) if lease is not None else None
            idle = 0 if lease is not None else idle + 1
            for job in (mine,) if mine is not None else jobs_with(queue, list(left)):
                if job.id in left and job.status not in LIVE:
                    name = left.pop(job.id)
                    ended[name] = job
                    tell(str(job.name).partition("@")[2], job, len(jobs) - len(left), len(jobs))
            if lease is None and left:
                if idle > len(LOOKS_S):
                    relieve(runtime)
                runtime.clock.wait(LOOKS_S[min(idle, len(LOOKS_S) - 1)])
    except KeyboardInterrupt:
        queue.cancel(list(left), now=runtime.clock.now(), reason="the command was interrupted")
        raise
    return ended


# -- which slices ---------------------------------------------------------------------------------------------------
def stale_slices(node: Node, declared: Declared, runtime: Runtime) -> set[str]:
    """Slices of a table that are not what its code and inputs would make now, by the moment they begin at."""
    table, state, versions = sliced(node), runtime.state, Newest(runtime.state)
    write = table.write
    assert isinstance(write, Slices)
    driving, head = write.of or table.inputs[0], state.heads("asset", prefix=node.name).get(node.name)
    base: Mapping[str, Any] = head.body if head else {}
    now, same, campaign = {name: versions[name] for name in node.inputs}, _same(declared), _campaign(base)
    session = runtime.engine.session()
    known: dict[str, set[str] | None] = {}

    def touched(inputs: Mapping[str, str]) -> set[str] | None:
        """Slices touched since the inputs were as told; None for all."""
        if any(inputs.get(name) != now[name] for name in node.inputs if name != driving) or driving not in inputs:
            return None
        if (since := inputs[driving]) not in known:
            until = snapshot_for(runtime, driving, now[driving])
            changes = runtime.lake.changes(driving, since=since, until=until)
            on = write.on or table.time or ""
            found = [_begins(session, scan, on, write) for scan in (changes.added, changes.removed) if scan.files]
            known[since] = set().union(*found) if changes.complete else None
        return known[since]

    try:
        stale = touched(base["inputs"]) if base and _same_as(base) == same else None
        if stale is None:
            source = runtime.lake.scan(driving, version=snapshot_for(runtime, driving, now[driving]))
            stale = _begins(session, source, write.on or table.time or "", write)
            if base and runtime.lake.snapshot(node.name) is not None:
                stale |= _begins(session, runtime.lake.scan(node.name), table.time or "", Slices(write.every))
        done = set()
        for key, record in state.heads("slice", prefix=f"{node.name}/").items():
            if record.body["campaign"] == campaign and record.body["same"] == same:
                name, since_then = key.partition("/")[2], touched(record.body["inputs"])
                done |= {name} if since_then is not None and name not in since_then else set()
        return stale - done
    finally:
        session.close()


def _begins(session: Session, scan: Scan, on: str, write: Slices) -> set[str]:
    """Where the slices begin that rows fall into, and those that look back on them. Rows without a time are in one called ""."""
    session.bind("_looked_at", scan)
    start = f"CAST(date_trunc({literal(write.every)}, {quote(on)}) AS TIMESTAMP)"
    moments = [f"{start} + INTERVAL {i} {write.every.upper()}" for i in range(write.lookback + 1)]
    found = session.rows(" UNION ".join(f"SELECT CAST({moment} AS VARCHAR) FROM _looked_at" for moment in moments))
    return {str(begin or "") for (begin,) in found}


def _same(declared: Declared) -> str:
    return digest([declared.definition, dict(declared.parts), declared.contract, declared.recorded_params])


def _same_as(body: Mapping[str, Any]) -> str:
    return digest([body["definition"], dict(body.get("parts", {})), body["contract"], body["params"]])


def _campaign(base: Mapping[str, Any]) -> str:
    """Names the version that backfills go on from: what they recorded of slices ends with it."""
    return str(base.get("backfill") or base.get("version") or "new")


# -- one slice ------------------------------------------------------------------------------------------------------
def make_slice(attempt: Attempt, sight: Sight) -> dict[str, Any]:
    """Makes one slice of a table, as a queued job asks for, and commits it. Gives `status` (made, fresh) and `rows` of the slice.

    Raises: as building the table does; nothing was published then.
    """
    runtime, wanted, name = attempt.runtime, sight(attempt.payload), str(attempt.payload["slice"])
    node = wanted.graph.node(str(attempt.payload["asset"]))
    table, declared = sliced(node), wanted.declared[node.name]
    with claimed(runtime, f"asset:{node.name}", attempt.job.run) as claim:
        adopted(node, runtime, claim)
        versions, head = Newest(runtime.state), runtime.state.heads("asset", prefix=node.name).get(node.name)
        base = dict(head.body) if head else {}
        entry = {"campaign": _campaign(base), "same": _same(declared), "inputs": {name: versions[name] for name in node.inputs}}
        was = runtime.state.heads("slice", prefix=f"{node.name}/{name}").get(f"{node.name}/{name}")
        if was is not None and was.body == entry:
            return {"status": "fresh", "rows": 0}
        session = runtime.engine.session()
        try:
            action = Action(node.name, node.kind, "stale", "part", (Reason("forced", f"backfill of {name or 'rows without a time'}"),))
            token = f"{node.name}:{digest([entry, name, base.get('version'), base.get('at')])}"
            job = Job(
                runtime, wanted.graph, node, declared, action, attempt.job.run, claim, session, versions, base, token, runtime.clock.tick()
            )  # fmt: skip
            before = {"definition": declared.definition, "parts": dict(declared.parts), "contract": declared.contract,
                      "params": declared.recorded_params, "inputs": {}}  # fmt: skip
            kept = {key: base.get(key, value) for key, value in before.items()}
            more = {**kept, "backfill": entry["campaign"], "backfilled": {name: entry}}
            build_table(job, table, extra=lambda batch, current: more, only=_within(table, name))
        finally:
            session.close()
    rows = next((step.rows_out for step in reversed(job.steps) if step.name != "replace"), 0)
    attempt.cost["rows"] = float(rows)
    return {"status": "made", "rows": rows}


def _within(table: Table, name: str) -> Callable[[str], str]:
    """An SQL condition on a time (an expression): it is in the slice."""
    assert isinstance(table.write, Slices)
    every = table.write.every.upper()

    def condition(of: str) -> str:
        time = f"CAST({of} AS TIMESTAMP)"
        start = f"TIMESTAMP {literal(name)}"
        return f"({time} >= {start} AND {time} < {start} + INTERVAL 1 {every})" if name else f"({time} IS NULL)"

    return condition


def _settled(node: Node, declared: Declared, runtime: Runtime, run: str) -> int:
    """Records the newest version as made from the inputs as they are, if no slice is left; gives how many are left."""
    with claimed(runtime, f"asset:{node.name}", run) as claim:
        left = len(stale_slices(node, declared, runtime))
        head = runtime.state.heads("asset", prefix=node.name).get(node.name)
        if left or head is None or "backfill" not in head.body:
            return left
        versions = Newest(runtime.state)
        body = {key: value for key, value in head.body.items() if key not in ("backfill", "backfilled")}
        body |= {
            "definition": declared.definition, "parts": dict(declared.parts), "contract": declared.contract,
            "params": declared.recorded_params, "inputs": {name: versions[name] for name in node.inputs},
        }  # fmt: skip
        runtime.state.append("asset", node.name, body, at=runtime.clock.now(), claim=claim)
    return 0
