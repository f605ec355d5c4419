"""What queued jobs of users do: jobs, steps of flows, flows going on, and assets with all they need; found in the project by name."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from penstock.ground.clock import iso
from penstock.ground.environ import environment, machine_memory
from penstock.ground.errors import PenstockError, RunFailed, UnknownName, UserCodeError, did_you_mean, from_record
from penstock.plan.flows import input_digest
from penstock.plan.waiting import why
from penstock.ports.queue import LIVE, LOST, Offers, QueuedJob, Status, added
from penstock.project.project import Project
from penstock.run.claims import me
from penstock.run.flow import advance, cancel, flow_job, fork, job_of, jobs_of
from penstock.run.isolate import isolated
from penstock.run.journal import idempotency_key, stable_id
from penstock.run.serve import GRACE_S, Server
from penstock.run.worker import Attempt
from penstock.spec.jobs import Branch, Flow, Job, Make, argv, plain, step_named, steps_of
from penstock.spec.sizes import size

#: Kinds of queued jobs, as a worker offers them.
KINDS = ("make", "slice", "upkeep", "asset", "job", "branch", "flow")


def works(project: Project) -> dict[str, Callable[[Attempt], Any]]:
    """What each kind does, in this process."""
    return {
        **project.works(),
        "asset": partial(_asset, project), "job": partial(_job, project), "branch": partial(_branch, project), "flow": partial(_flow, project),
    }  # fmt: skip


def apart(project: Project, kinds: tuple[str, ...]) -> dict[str, Callable[[Attempt], Any]]:
    """The same for some kinds, each job in a process of its own."""
    return dict.fromkeys(kinds, partial(isolated, level=project.settings.level))


# -- kinds ----------------------------------------------------------------------------------------------------------
def _asset(project: Project, attempt: Attempt) -> dict[str, Any]:
    """Makes an asset and all it needs fresh, in a run of its own. Raises: RunFailed(E5002), or the error if it may pass."""
    name = str(attempt.payload["asset"])
    report = project.run(name, priority=attempt.job.priority)
    if not report.ok:
        broken = [r for r in report.results if r.status in ("failed", "refused")]
        errors = [r.error for r in broken if r.error]
        if errors and len(errors) == len(broken) and all(e.get("retry") for e in errors):
            raise from_record(errors[0])
        got = ", ".join(f"{r.asset} {r.status}" for r in broken)
        raise RunFailed("an asset could not be made", place=name, got=got, hint=f"penstock show {report.run}")
    head = project.state.heads("asset", prefix=name).get(name)
    attempt.cost["rows"] = float(sum(int(r.body.get("rows") or 0) for r in report.results if r.status == "made"))
    return {"asset": name, "version": str(head.body["version"]) if head else "", "run": report.run}


def _job(project: Project, attempt: Attempt) -> Any:
    return done(_declared(project, attempt.payload, Job), attempt.payload, project.root)


def _branch(project: Project, attempt: Attempt) -> Any:
    branch = _declared(project, attempt.payload, Branch)
    return plain(called(branch.by, (attempt.payload["input"],), {}, branch.name), branch.name)


def _flow(project: Project, attempt: Attempt) -> dict[str, Any]:
    found = advance(
        project.state, _flow_named(project, str(attempt.payload["flow"])), attempt.job, owner=f"{me()}#{attempt.job.id}",
        now=project.clock.now(),
    )  # fmt: skip
    return {"done": True, "output": found.output} if found.done else {"done": False, "steps": [work.step for work in found.works]}


def _declared(project: Project, payload: Mapping[str, Any], kind: type[Any]) -> Any:
    """The record of a job or step. Raises: UnknownName(E1003) if the project no longer has it."""
    if "step" in payload:
        found: Any = step_named(_flow_named(project, str(payload["flow"])), str(payload["step"]))
    else:
        found = project.found.jobs.get(str(payload["job"]))
    if not isinstance(found, kind) or isinstance(found, Make):
        name = str(payload.get("step") or payload.get("job"))
        raise UnknownName("the project no longer has this job", place=name, hint=did_you_mean(name, project.found.jobs))
    return found


def _flow_named(project: Project, name: str) -> Flow:
    flows = project.found.flows
    if name not in flows:
        raise UnknownName("the project has no such flow", place=name, hint=did_you_mean(name, flows))
    return flows[name]


# -- user code ------------------------------------------------------------------------------------------------------
def done(job: Job, payload: Mapping[str, Any], root: Path) -> Any:
    """What a job gives for its input and parameters. Raises: UserCodeError(E5001) with the function's own error as cause."""
    params, given = payload.get("params", {}), payload.get("input")
    if job.function is not None:
        return plain(called(job.function, (given,) if job.takes_input else (), params, job.name), job.name)
    return _program(job, given, params, root)


def called(function: Callable[..., Any], args: tuple[Any, ...], params: Mapping[str, Any], place: str) -> Any:
    """What a user's function gives. Raises: UserCodeError(E5001) with the function's own error as cause."""
    try:
        return function(*args, **params)
    except PenstockError:
        raise
    except Exception as error:
        raise UserCodeError(f"the function raised {type(error).__name__}: {error}", place=place) from error


def _program(job: Job, given: Any, params: Mapping[str, Any], root: Path) -> Any:
    """Runs a command in the project's folder: JSON on its standard input, its output in the file that PENSTOCK_OUTPUT names."""
    with tempfile.TemporaryDirectory(prefix="penstock-") as folder:
        output = Path(folder) / "output.json"
        try:
            ended = subprocess.run(
                argv(job, params), input=json.dumps(given).encode(), cwd=root, env={**environment(), "PENSTOCK_OUTPUT": str(output)}, check=False,
            )  # fmt: skip
        except OSError as error:
            raise UserCodeError("the program cannot be started", place=job.name, got=str(error)) from error
        if ended.returncode:
            raise UserCodeError(
                "the program failed", place=job.name, expected="exit code 0", got=ended.returncode, hint="its output is in the job's log"
            )
        if not output.exists():
            return None
        try:
            return plain(json.loads(output.read_text(encoding="utf-8")), job.name)
        except (OSError, ValueError) as error:
            raise UserCodeError("what the program wrote is no JSON", place=job.name, got=str(error)[:120]) from error


# -- workers --------------------------------------------------------------------------------------------------------
Tell = Callable[[QueuedJob, str], None]
#: What a command offers for the jobs that it was asked for: whatever they need.
_ANY = Offers(memory_bytes=2**62, cores=2.0**40, gpus=2**30)


def worker(project: Project, *, tell: Tell, at_once: int | None = None, memory: str | None = None, grace_s: float = GRACE_S) -> Server:
    """A worker of a project that does each job in a process of its own.

    Args: at_once: how many; as many as there are processors. memory: what its jobs together may need, e.g. `8GB`; the machine's.
        grace_s: how long running jobs have when it must end.
    """
    most = at_once or project.runtime.cores
    offers = Offers(size(memory) if memory else machine_memory(), float(max(most, project.runtime.cores)), 0, KINDS)
    return Server(project.runtime, apart(project, KINDS), offers, tell, at_once=most, grace_s=grace_s)


def carry(project: Project, run: str, tell: Tell) -> list[QueuedJob]:
    """Does the jobs of a run, beside all workers that are up, until all have ended; gives them, oldest first.

    User code runs in processes of its own; assets are made by this one. Interrupted, it cancels what has not ended.
    """
    queue = project.state.queue
    table = {**works(project), **apart(project, ("job", "branch"))}
    server = Server(project.runtime, table, _ANY, tell, at_once=project.runtime.cores, runs=(run,))
    try:
        server.serve(until=lambda: not any(queue.counts(run=run)[status] for status in LIVE))
    except KeyboardInterrupt:
        cancel(project.state, run, now=project.clock.now(), reason="the command was interrupted")
        raise
    return jobs_of(project.state, run)[::-1]


# -- what users ask for ---------------------------------------------------------------------------------------------
def is_job(project: Project, name: str) -> bool:
    """Whether a name is that of a job or flow."""
    return name in project.found.jobs or name in project.found.flows


def put_in(
    project: Project, name: str, given: Any = None, params: Mapping[str, Any] | None = None, *, priority: int = 0, run: str = ""
) -> str:
    """Queues a job or flow by name; gives its run, a new one unless one is named: the same run is queued once. Raises: UnknownName(E1003), also for a parameter; UserCodeError(E5001) for no JSON."""
    run, now = run or project.ids.new(), project.clock.now()
    found = project.found.flows.get(name) or project.found.jobs.get(name)
    if found is None:
        raise UnknownName("no job or flow has this name", place=name, hint=did_you_mean(name, [*project.found.jobs, *project.found.flows]))
    own = dict(found.params)
    if isinstance(found, Flow):
        own |= {key: value for _, step in steps_of(found) if isinstance(step, Job) for key, value in step.params}
    for key in params or {}:
        if key not in own:
            raise UnknownName("there is no such parameter", place=f"{name}.{key}", hint=did_you_mean(key, own))
    if isinstance(found, Flow):
        made = flow_job(name, run, given, params or {}, priority=priority)
    else:
        whole = {**own, **(params or {})}
        key = idempotency_key(run, name, input_digest(given, whole))
        payload = {"job": name, "input": plain(given, name), "params": plain(whole, name), "idempotency_key": key}
        made = job_of(found, whole, payload, name=f"job:{name}", kind="job", run=run, id=run)
        made = replace(made, priority=priority or made.priority)
    project.state.queue.enqueue([made], now=now)
    return run


def output_of(project: Project, run: str, jobs: Sequence[QueuedJob]) -> Any:
    """What a run of a flow or job gave; None if it has not ended well."""
    if (record := project.state.heads("flow", prefix=run).get(run)) is not None:
        return record.body["output"]
    return jobs[0].result if len(jobs) == 1 and jobs[0].status == "done" else None


def stop(project: Project, what: str) -> list[QueuedJob]:
    """Cancels a run or a job. Raises: UnknownName(E1003)."""
    queue, now = project.state.queue, project.clock.now()
    ids = _ids(project, what, LIVE)
    return list(queue.cancel(ids, now=now, reason="cancelled by hand")) if ids else []


def again(project: Project, what: str) -> str:
    """Lets the lost jobs of a run, or one lost job, begin anew; gives the run. Finished ones stay. Raises: UnknownName(E1003)."""
    queue = project.state.queue
    ids = _ids(project, what, LOST)
    if ids:
        queue.retry(ids, now=project.clock.now())
    return what if any(queue.counts(run=what).values()) else queue.jobs([what])[0].run


def forked(project: Project, run: str, step: str, params: Mapping[str, Any] | None = None, given: Any = ...) -> str:
    """A new run of a flow that takes what another one had finished before a step; see `run.flow.fork`."""
    started = project.state.queue.jobs([stable_id("flow", run)])
    if not started:
        raise UnknownName("there is no such run of a flow", place=run)
    new = project.ids.new()
    flow, owner = _flow_named(project, str(started[0].payload["flow"])), f"{me()}#{new}"
    fork(project.state, flow, run, new, step=step, owner=owner, now=project.clock.now(), params=params, given=given)
    return new


def _ids(project: Project, what: str, status: Sequence[Status]) -> list[str]:
    """Ids of a run's jobs, or of one job, that stand so. Raises: UnknownName(E1003)."""
    found = jobs_of(project.state, what) or project.state.queue.jobs([what])
    if not found:
        raise UnknownName("no run or job has this id", place=what, hint="penstock show --jobs")
    return [job.id for job in found if job.status in status]


def reasons(project: Project, jobs: Sequence[QueuedJob]) -> dict[str, str]:
    """Why each job does not run, by id; see `plan.waiting`."""
    queue, now = project.state.queue, project.clock.now()
    running = queue.jobs(status=_RUNNING, limit=10_000)
    workers, paused = queue.workers(now=now), queue.paused()
    live = [job for job in jobs if job.status in ("waiting", "ready")]
    before = queue.jobs({id for job in live for id in job.after}, limit=100_000) if live else ()
    others = {job.id: job for job in (*before, *running)}.values()
    return {job.id: why(job, others, workers, now, paused=paused) for job in jobs}


@dataclass(frozen=True)
class Spent:
    """What a day's jobs of one name took."""

    day: str
    name: str
    jobs: int
    cost: Mapping[str, float]
    money: float


def costs(project: Project, *, days: int = 7) -> list[Spent]:
    """What jobs took by day (UTC, of their end) and name, newest day first, the dearest first; money by the project's prices."""
    since = project.clock.now() - timedelta(days=days)
    found: dict[tuple[str, str], tuple[int, dict[str, float]]] = {}
    below: int | None = None
    while page := project.state.queue.jobs(below=below, limit=1000):
        below = page[-1].seq
        for job in page:
            if job.cost and job.ended is not None and job.ended >= since and job.kind not in _AROUND:
                count, cost = found.get((iso(job.ended)[:10], job.name), (0, {}))
                found[iso(job.ended)[:10], job.name] = (count + 1, added(cost, job.cost))
        if page[-1].created < since:
            break
    prices = project.settings.prices
    spent = [Spent(day, name, count, cost, prices.money(cost)) for (day, name), (count, cost) in found.items()]
    return sorted(spent, key=lambda s: (s.day, s.money, s.cost.get("cpu_seconds", 0.0)), reverse=True)


_RUNNING: tuple[Status, ...] = ("running",)
#: Kinds whose time is that of other jobs, or of looking what comes next.
_AROUND = ("flow", "asset")
