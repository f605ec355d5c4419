"""One job, flow or step of one, done here and now: what another scheduler, which keeps time, tries and history itself, asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.ground.errors import RunFailed, UnknownName, did_you_mean, from_record
from penstock.plan.flows import Journal, Work, following
from penstock.project.jobs import called, done
from penstock.project.project import Project
from penstock.spec.jobs import Branch, Each, Flow, Job, Make, plain, step_named

Step = Job | Make | Branch | Each | Flow


def step_done(project: Project, name: str, given: Any = None, params: Mapping[str, Any] | None = None) -> Any:
    """Does a job, a flow, a step of one (`flow/step`) or an asset, and all in it, one after the other in this process.

    Gives its output; of a branch only the name of the case that it chooses. Nothing is recorded but the assets that it makes. Limits of
    memory and time, retries and keys are the caller's to hold.

    Raises: UnknownName(E1003); UserCodeError(E5001) as jobs do; of an asset that cannot be made its error, RunFailed(E5002) if it has none.
    """
    step = _named(project, name)
    given = plain(given, f"{name}(input)")
    if isinstance(step, Branch):
        return _chosen(step, given)
    whole = step if isinstance(step, Flow) else Flow(step.name, (step,))
    finished: dict[tuple[str, str], Any] = {}
    while not (found := following(whole, given, params or {}, Journal(finished))).done:
        for work in found.works:
            finished[work.step, work.digest] = _worked(project, work)
    return plain(found.output, step.name)


def _named(project: Project, name: str) -> Step:
    found, assets = project.found, project.graph.nodes
    head, _, rest = name.partition("/")
    if rest and head in found.flows:
        return step_named(found.flows[head], rest)
    if rest or head not in {*found.jobs, *found.flows, *assets}:
        raise UnknownName(
            "no job, flow or asset has this name", place=name[:80], hint=did_you_mean(head, [*found.jobs, *found.flows, *assets])
        )
    return found.jobs.get(head) or found.flows.get(head) or Make(head, head)


def _worked(project: Project, work: Work) -> Any:
    if isinstance(work.do, Make):
        return {"asset": work.do.asset, "version": _made(project, work.do.asset)}
    if isinstance(work.do, Branch):
        return _chosen(work.do, work.given)
    return done(work.do, {"input": work.given, "params": work.params}, project.root)


def _chosen(branch: Branch, given: Any) -> Any:
    return plain(called(branch.by, (given,), {}, branch.name), branch.name)


def _made(project: Project, name: str) -> str:
    """Makes an asset and all it needs fresh. Returns its version. An error that may pass is raised only if all of them may."""
    report = project.run(name)
    if not report.ok:
        errors = [r.error for r in report.results if r.status in ("failed", "refused") and r.error]
        if errors:
            raise from_record(next((e for e in errors if not e.get("retry")), errors[0]))
        raise RunFailed("an asset could not be made", place=name, hint=f"penstock show {report.run}")
    return str(project.state.heads("asset", prefix=name)[name].body["version"])
