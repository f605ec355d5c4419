"""Running flows by the queue. A flow's state is its journal: any process can take it on, and doing so twice changes nothing.

A run of a flow is a chain of queued jobs of kind `flow`. Each reads the journal, adds what has finished since, puts in the steps that are
missing, and in the same transaction the next job of its kind, which comes after them. Ids of jobs follow from run, step and input, so that
a job put in again is the one that is there. If a step is lost, the job after it is cancelled because of it, and so the run has failed;
`resume` lets both begin anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from penstock.ground.errors import DefinitionError, UnknownName, did_you_mean
from penstock.plan.flows import Next, Work, following
from penstock.plan.retries import OF_ASSETS, attempts
from penstock.ports.queue import LIVE, LOST, Needs, NewJob, QueuedJob
from penstock.ports.state import State
from penstock.run.journal import ANY, Entry, entries, idempotency_key, journal_of, stable_id
from penstock.spec.jobs import Flow, Job, Make, filled, names_of, plain
from penstock.spec.sizes import size
from penstock.spec.spans import span

#: Attempts at going on with a flow: it only reads and writes state, so another try helps unless the state is away.
_TRIES = 10
#: How long the claim on a run holds, in seconds. Going on with a flow takes milliseconds for each hundred steps.
LEASE_S = 15.0
#: How many ids are asked for at once.
_PAGE = 500


def flow_job(name: str, run: str, given: Any, params: Mapping[str, Any], *, priority: int = 0) -> NewJob:
    """The first job of a run of a flow. The same run gives the same job. Raises: UserCodeError(E5001) for what is no JSON."""
    payload = {"flow": name, "input": plain(given, f"{name}(input)"), "params": plain(dict(params), f"{name}(params)")}
    return _going_on(name, run, payload, stable_id("flow", run), priority)


def _going_on(name: str, run: str, payload: Mapping[str, Any], id: str, priority: int, after: tuple[str, ...] = ()) -> NewJob:
    return NewJob(
        f"flow:{name}", "flow", {**payload, "retries": _TRIES, "backoff_s": 1.0, "transient_only": True}, run, priority, f"flow:{run}", 1, after=after,
        attempts=attempts(_TRIES), id=id,
    )  # fmt: skip


def job_of(job: Job, params: Mapping[str, Any], payload: Mapping[str, Any], *, name: str, kind: str, run: str, id: str) -> NewJob:
    """A queued job for a declared one: its limits, retries and needs."""
    needs = Needs(size(job.memory) if job.memory else 0, job.cores, job.gpus)
    key = filled(job.key, params) if job.key else f"job:{job.name}" if job.at_once else ""
    return NewJob(
        name, kind, {**payload, "retries": job.retries, "backoff_s": span(job.backoff).total_seconds()}, run, job.priority, key, job.at_once,
        attempts=attempts(job.retries), timeout_s=span(job.timeout).total_seconds() if job.timeout else None, needs=needs, id=id,
    )  # fmt: skip


def advance(state: State, flow: Flow, job: QueuedJob, *, owner: str, now: datetime) -> Next:
    """Takes a run of a resolved flow on, as a queued job of kind `flow` asks for; what comes next is queued on return.

    Called:  by the worker that has the job. Repeat: changes nothing that it has done.
    Returns: what comes next; if the flow is done its output is recorded (`flow`, by run).
    Raises:  Busy(E4005) while another process does it, Fenced(E4004) if one took over; UserCodeError(E5001) of `plan.flows`.
    """
    run, payload = job.run, _started(state, job.run).payload
    claim = state.claim(f"flow:{run}", owner, now=now, lease_s=LEASE_S)
    try:
        known = entries(state, run)
        while True:
            found = following(flow, payload["input"], payload["params"], journal_of(known))
            queued = _queued(state, [_step_id(run, work) for work in found.works])
            done = [
                _entry(run, queued[id]) for work in found.works if (id := _step_id(run, work)) in queued and queued[id].status == "done"
            ]
            if not done:
                break
            state.append_all([entry.record() for entry in done], at=now, claim=claim)
            known += done
        if found.done:
            if run not in state.heads("flow", prefix=run):
                body = {"flow": flow.name, "output": plain(found.output, flow.name), "input": payload["input"], "params": payload["params"]}
                state.append("flow", run, body, at=now, claim=claim)
            return found
        if new := [work for work in found.works if _step_id(run, work) not in queued]:
            state.queue.enqueue(list(_put_in(flow.name, run, new, job.priority)), now=now)
        return found
    finally:
        state.release(claim)


def _put_in(name: str, run: str, works: Sequence[Work], priority: int) -> Iterator[NewJob]:
    """Jobs for new works, and for each arm the job that goes on after them. One transaction: a work is queued if and only if that is."""
    for arm in dict.fromkeys(work.arm for work in works):
        made = [_step_job(name, run, work, priority) for work in works if work.arm == arm]
        yield from made
        ids = tuple(job.id for job in made)
        yield _going_on(name, run, {"flow": name}, stable_id("flow", run, ids), priority, ids)


def _step_job(name: str, run: str, work: Work, priority: int) -> NewJob:
    payload = {
        "flow": name, "step": work.step, "digest": work.digest, "input": work.given, "params": dict(work.params),
        "idempotency_key": idempotency_key(run, work.step, work.digest),
    }  # fmt: skip
    job = work.do if isinstance(work.do, Job) else Job(work.do.name, retries=OF_ASSETS if work.kind == "asset" else 0)
    made = job_of(job, work.params, payload, name=f"{name}/{work.step}", kind=work.kind, run=run, id=_step_id(run, work))
    changed: dict[str, Any] = {"priority": made.priority or priority}
    if isinstance(work.do, Make):
        payload = {**made.payload, "asset": work.do.asset, "transient_only": True}
        changed |= {"payload": payload, "key": f"asset:{work.do.asset}", "at_once": 1}
    elif work.at_once and not made.key:
        changed |= {"key": f"{run}/{work.key}", "at_once": work.at_once}
    elif work.at_once and made.at_once:
        changed |= {"at_once": min(made.at_once, work.at_once)}
    return replace(made, **changed)


def _step_id(run: str, work: Work) -> str:
    return stable_id("step", run, work.step, work.digest)


def _queued(state: State, ids: Sequence[str]) -> dict[str, QueuedJob]:
    pages = [ids[i : i + _PAGE] for i in range(0, len(ids), _PAGE)]
    return {job.id: job for page in pages for job in state.queue.jobs(page, limit=len(page))}


def _entry(run: str, job: QueuedJob) -> Entry:
    return Entry(run, str(job.payload["step"]), str(job.payload["digest"]), job.result, job.id)


# -- after a failure ------------------------------------------------------------------------------------------------
def jobs_of(state: State, run: str, status: Iterable[Any] = ()) -> list[QueuedJob]:
    """All jobs of a run, newest first, whatever their number."""
    found: list[QueuedJob] = []
    while True:
        page = state.queue.jobs(run=run, status=tuple(status), below=found[-1].seq if found else None, limit=_PAGE)
        found += page
        if len(page) < _PAGE:
            return found


def resume(state: State, run: str, *, now: datetime) -> Sequence[QueuedJob]:
    """Lets the lost jobs of a run begin anew; finished steps stay. Gives those that begin, newest first; none if nothing was lost."""
    lost = jobs_of(state, run, LOST)
    return state.queue.retry([job.id for job in lost], now=now) if lost else []


def cancel(state: State, run: str, *, now: datetime, reason: str = "") -> Sequence[QueuedJob]:
    """Ends all jobs of a run that have not ended; those that run are asked to."""
    live = jobs_of(state, run, LIVE)
    return state.queue.cancel([job.id for job in live], now=now, reason=reason) if live else []


def fork(
    state: State,
    flow: Flow,
    run: str,
    new: str,
    *,
    step: str,
    owner: str,
    now: datetime,
    params: Mapping[str, Any] | None = None,
    given: Any = ...,
) -> QueuedJob:
    """A new run of a flow that takes what another run has finished before a step, and does that step and all after it.

    What stands before the step in the flow as it is declared now is taken over as it was, whatever `params` and `given` are now; what of it
    had not finished is done. Repeat with the same `new`: gives the same run.

    Raises: UnknownName(E1003) for a run or step that is not there; DefinitionError(E1001) for a run of another flow.
    """
    names = list(dict.fromkeys(names_of(flow)))
    bare = _bare(step)
    if bare not in names:
        raise UnknownName("the flow has no such step", place=f"{flow.name}.{step}", hint=did_you_mean(bare, names))
    payload = _started(state, run).payload
    if payload["flow"] != flow.name:
        raise DefinitionError("a run of another flow", place=run, expected=flow.name, got=payload["flow"])
    before = set(names[: names.index(bare)])
    taken = [Entry(new, e.step, ANY, e.output, e.job) for e in entries(state, run) if _bare(e.step) in before]
    claim = state.claim(f"flow:{new}", owner, now=now, lease_s=LEASE_S)
    try:
        there = {(e.step, e.digest) for e in entries(state, new)}
        if fresh := [entry.record() for entry in taken if (entry.step, entry.digest) not in there]:
            state.append_all(fresh, at=now, claim=claim)
    finally:
        state.release(claim)
    started = flow_job(flow.name, new, payload["input"] if given is ... else given, {**payload["params"], **(params or {})})
    return state.queue.enqueue([started], now=now)[0]


def _started(state: State, run: str) -> QueuedJob:
    """The first job of a run, which has what the flow was started with. Raises: UnknownName(E1003)."""
    found = state.queue.jobs([stable_id("flow", run)])
    if not found:
        raise UnknownName("there is no such run of a flow", place=run)
    return found[0]


def _bare(step: str) -> str:
    return re.sub(r"\[\d+\]", "", step)
