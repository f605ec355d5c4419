"""Jobs on the command line: running jobs and flows, and what is queued, why it waits, what it printed and what it cost."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from penstock.cli.screen import Face
from penstock.ground.errors import UnknownName

if TYPE_CHECKING:
    from penstock.ports.queue import QueuedJob
    from penstock.project.project import Project

_SECONDS = 1.0


# -- running --------------------------------------------------------------------------------------------------------
def input_of(text: str | None) -> Any:
    """JSON as typed. Raises: click.UsageError."""
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"--input is not JSON: {error}") from error


def started(
    face: Face, project: Project, name: str, given: Any, params: Mapping[str, Mapping[str, Any]], priority: int, later: bool
) -> int:
    """Queues a job or flow, and does it unless that is for workers."""
    from penstock.project.jobs import put_in

    if strange := [other for other in params if other != name]:
        raise click.UsageError(f"--set {strange[0]}.…: only parameters of {name} go with it")
    run = put_in(project, name, given, params.get(name, {}), priority=priority)
    if later:
        if face.json:
            face.document("queued", run=run)
        else:
            face.line(f"run {run} is queued; `penstock show {run}` tells how it stands")
        return 0
    return carried(face, project, run)


def carried(face: Face, project: Project, run: str) -> int:
    """Does a run's jobs and says how they ended. Gives 0 if all is well, 3 if what failed may succeed later, else 1."""
    from penstock.project.jobs import carry, output_of

    lock = threading.Lock()

    def tell(job: QueuedJob, status: str) -> None:
        if not face.json and job.kind != "flow" and status != "started":
            with lock:
                face.line(f"{job.name}  {status}")

    jobs = carry(project, run, tell)
    lost = [job for job in jobs if job.status in ("failed", "dead", "cancelled")]
    output = output_of(project, run, jobs)
    if face.json:
        face.document("jobs", run=run, ok=not lost, output=output, jobs=[record(job, "") for job in jobs])
    else:
        _ended(face, run, lost, output)
    first = [job for job in lost if not job.because]
    return 0 if not lost else 3 if first and all(job.error and job.error.get("retry") for job in first) else 1


def backfilled(face: Face, name: str, text: str, params: Mapping[str, Mapping[str, Any]], priority: int) -> int:
    """`--backfill`: a line for each slice, then a summary. Gives 0 if all is well, 3 if what failed may succeed later, else 1."""
    from penstock.cli.failure import print_record, recorded_lines
    from penstock.project.figures import of, seconds

    def tell(slice_: str, job: QueuedJob, ended: int, total: int) -> None:
        if face.json:
            return
        told = job.result if isinstance(job.result, Mapping) else {}
        rows = f"  {of(int(told['rows']), 'row')}" if told.get("status") == "made" else ""
        face.line(f"{name}@{slice_ or '(no time)'}  {told.get('status', job.status)}{rows}  {ended:,} of {total:,}")

    first, dots, last = text.partition("..")
    with face.open() as project:
        found = project.backfill(name, first, last if dots else first, params=params, priority=priority, tell=tell)
    failed = found.failed
    if face.json:
        jobs = [{"slice": slice_, **record(job, "")} for slice_, job in found.jobs.items()]
        face.document("backfill", run=found.run, asset=name, ok=not failed, seconds=found.seconds, left=found.left, jobs=jobs)
    else:
        for job in list(failed.values())[:3]:
            if job.error:
                print_record(face, job.error, list(recorded_lines(str(job.error.get("traceback", "")))))
        left = f"; {of(found.left, 'slice')} of {name} left" if found.left else f"; {name} is fresh"
        done = f"{of(len(found.jobs) - len(failed), 'slice')} done" + (f", {len(failed):,} failed" if failed else "")
        face.line(f"run {found.run}: {done} in {seconds(found.seconds)}{left}", "bold red" if failed else "bold green")
    return 0 if not failed else 3 if all(job.error and job.error.get("retry") for job in failed.values()) else 1


def _ended(face: Face, run: str, lost: Sequence[QueuedJob], output: Any) -> None:
    from penstock.cli.failure import print_record, recorded_lines
    from penstock.project.figures import one_line

    for job in lost:
        if job.error and not job.because:
            print_record(face, job.error, list(recorded_lines(str(job.error.get("traceback", "")))))
    face.line(f"run {run}: {'failed' if lost else 'done'}", "bold red" if lost else "bold green")
    if lost:
        face.line(f"`penstock run --resume {run}` goes on from there; `penstock show {run} --logs` has what it printed")
    elif output is not None:
        face.line(f"output: {one_line(json.dumps(output, ensure_ascii=False), 500)}")


def handled(
    face: Face, *, cancel: str | None, again: str | None, fork: str | None, step: str | None, params: Any, given: str | None
) -> int:
    """`--cancel`, `--retry`, `--resume` and `--fork`."""
    from penstock.project import jobs

    with face.open() as project:
        if cancel is not None:
            ended = jobs.stop(project, cancel)
            if face.json:
                face.document("cancelled", jobs=[record(job, "") for job in ended])
            else:
                face.line(f"{len(ended)} jobs cancelled; what runs is asked to end")
            return 0
        if again is not None:
            return carried(face, project, jobs.again(project, again))
        if not fork or not step:
            raise click.UsageError("--fork RUN goes with --from STEP")
        flat = {key: value for values in params.values() for key, value in values.items()}
        new = jobs.forked(project, fork, step, flat, ... if given is None else input_of(given))
        return carried(face, project, new)


# -- looking --------------------------------------------------------------------------------------------------------
def record(job: QueuedJob, why: str) -> dict[str, Any]:
    """A job for programs."""
    from penstock.ground.clock import iso

    moments = {name: iso(at) if (at := getattr(job, name)) else None for name in ("created", "started", "ended")}
    return {
        "id": job.id, "name": job.name, "kind": job.kind, "run": job.run, "status": job.status, "attempt": job.attempt,
        "attempts": job.attempts, "priority": job.priority, "why": why, "error": job.error, "cost": dict(job.cost), **moments,
        "because": job.payload.get("because", ""), "input": job.payload.get("input"), "output": job.result,
    }  # fmt: skip


def queued(face: Face, project: Project, run: str, status: Sequence[str], limit: int) -> None:
    """`penstock show --jobs`."""
    from penstock.project.jobs import reasons

    known: Any = tuple(status)
    jobs = project.state.queue.jobs(run=run, status=known, limit=limit)
    why = reasons(project, jobs)
    if face.json:
        counts = project.state.queue.counts(run=run)
        face.document("jobs", counts=dict(counts), jobs=[record(job, why[job.id]) for job in jobs])
        return
    listed(face, project, jobs, why)


def listed(face: Face, project: Project, jobs: Sequence[QueuedJob], why: Mapping[str, str]) -> None:
    """A table of jobs with what they wait for or took."""
    from penstock.cli.screen import cells, status, table
    from penstock.project.figures import age, one_line, seconds, size

    now = project.clock.now()
    right = ("tries", "time", "cpu", "memory")
    shown = table("job", "what", "status", "tries", "age", "time", "cpu", "memory", "why", right=right)
    for job in jobs:
        cost = job.cost
        took = [seconds(cost.get("seconds")) if cost else "", seconds(cost.get("cpu_seconds")) if cost else ""]
        memory = size(int(cost["peak_memory_bytes"])) if cost.get("peak_memory_bytes") else ""
        tries = f"{job.attempt}/{job.attempts}"
        shown.add_row(
            *cells(job.id, job.name, status(job.status), tries, age(job.created, now), *took, memory, one_line(why.get(job.id, ""), 90))
        )
    face.show(shown)


def of_run(face: Face, project: Project, run: str) -> bool:
    """The jobs of a run, oldest first; False if there are none."""
    from penstock.project.jobs import reasons

    jobs = project.state.queue.jobs(run=run, limit=1000)[::-1]
    if jobs:
        listed(face, project, jobs, reasons(project, jobs))
        _exchanged(face, jobs)
    return bool(jobs)


def _exchanged(face: Face, jobs: Sequence[QueuedJob]) -> None:
    """Of each job of a run why it began, what it got and what it gave, as far as there is something."""
    from penstock.project.figures import one_line

    for job in jobs:
        gave = job.result if job.kind in ("job", "branch", "flow") else None
        made = job.result.get("reasons", ()) if job.kind == "make" and isinstance(job.result, Mapping) else ()
        told = {"because": job.payload.get("because") or "; ".join(made), "got": job.payload.get("input"), "gave": gave}
        lines = [(word, what if word == "because" else json.dumps(what, ensure_ascii=False)) for word, what in told.items() if what]
        if lines:
            face.line(job.name, "bold")
        for word, text in lines:
            face.line(f"    {word:<8} {one_line(text, 240)}")


def logs(face: Face, project: Project, what: str, *, follow: bool, wait: Callable[[float], None]) -> None:
    """What the jobs of a run, or one job, printed; with `follow` until they have ended. Raises: UnknownName(E1003)."""
    from penstock.run.isolate import log_of

    seen: dict[str, int] = {}
    while True:
        jobs = project.state.queue.jobs(run=what, limit=1000)[::-1] or project.state.queue.jobs([what])
        if not jobs:
            raise UnknownName("no run or job has this id", place=what, hint="penstock show --jobs")
        live = any(job.status in ("waiting", "ready", "running") for job in jobs)
        for job in jobs:
            seen[job.id] = _printed(face, job, log_of(project.runtime, job.id), seen.get(job.id, 0))
        if not follow or not live:
            return
        wait(_SECONDS)


def _printed(face: Face, job: QueuedJob, path: Any, offset: int) -> int:
    """Prints what a log has beyond an offset; gives the new offset."""
    from penstock.project.figures import plain

    try:
        with open(path, "rb") as log:
            log.seek(offset)
            data = log.read()
    except FileNotFoundError:
        return offset
    for line in data.decode("utf-8", "replace").splitlines():
        face.line(f"{job.name}  {plain(line)}")
    return offset + len(data)


def costs(face: Face, project: Project, days: int) -> None:
    """`penstock show --costs`."""
    from dataclasses import asdict

    from penstock.cli.screen import cells, table
    from penstock.project.figures import count, seconds, size
    from penstock.project.jobs import costs as found_of

    found, priced = found_of(project, days=days), project.settings.prices.any
    if face.json:
        face.document("costs", days=days, costs=[asdict(spent) for spent in found])
        return
    shown = table(
        "day", "what", "jobs", "cpu", "memory", "read", "written", "rows", "money", right=("jobs", "cpu", "memory", "rows", "money")
    )
    for spent in found:
        cost = spent.cost
        sizes = [size(int(cost.get(what, 0))) for what in ("peak_memory_bytes", "bytes_read", "bytes_written")]
        money = f"{spent.money:.4f}" if priced else ""
        rows = count(int(cost.get("rows", 0)) or None)
        shown.add_row(*cells(spent.day, spent.name, str(spent.jobs), seconds(cost.get("cpu_seconds")), *sizes, rows, money))
    face.show(shown)
    total = sum(spent.money for spent in found)
    face.line(f"{sum(s.jobs for s in found)} jobs in {days} days" + (f", {total:.4f} in money" if priced else ""))
