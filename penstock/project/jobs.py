"""What queued jobs of users do: jobs, steps of flows, flows going on, and assets with all they need; found in the project by name."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from penstock.ground.environ import environment, machine_memory
from penstock.ground.errors import PenstockError, RunFailed, UnknownName, UserCodeError, did_you_mean, from_record
from penstock.ports.queue import Offers, QueuedJob
from penstock.project.project import Project
from penstock.run.claims import me
from penstock.run.flow import advance
from penstock.run.isolate import isolated
from penstock.run.serve import Server
from penstock.run.worker import Attempt
from penstock.spec.jobs import Branch, Flow, Job, Make, argv, plain, step_named
from penstock.spec.sizes import size

#: Kinds of queued jobs, as a worker offers them.
KINDS = ("make", "upkeep", "asset", "job", "branch", "flow")


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
def worker(project: Project, *, tell: Callable[[QueuedJob, str], None], at_once: int | None = None, memory: str | None = None) -> Server:
    """A worker of a project that does each job in a process of its own.

    Args: at_once: how many; as many as there are processors. memory: what its jobs together may need, e.g. `8GB`; the machine's.
    """
    offers = Offers(size(memory) if memory else machine_memory(), float(at_once or project.runtime.cores), 0, KINDS)
    return Server(project.runtime, apart(project, KINDS), offers, tell)
