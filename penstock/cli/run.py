"""`penstock run`: makes assets fresh, and says what happened to every row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.cli.command import shared
from penstock.cli.screen import Face
from penstock.cli.selection import selection

if TYPE_CHECKING:
    from penstock.project.project import Project
    from penstock.run.execute import RunReport
    from penstock.run.sweep import Search


@click.command()
@click.option(
    "--sweep", metavar="PARAM=VALUES", multiple=True, help="Try values of a model's parameter: `3,5,7`, `1..9` or `0.001..0.3:log`."
)
@click.option(
    "--search", type=click.Choice(["grid", "random", "optuna"]), default="grid", help="How a sweep chooses; ranges need random or optuna."
)
@click.option("--trials", type=click.IntRange(min=1), default=20, metavar="N", help="How many tries of random and optuna.")
@click.option("--metric", default="", metavar="NAME", help="What a sweep compares.")
@click.option("--step", metavar="NAME", help="Do only this job, flow or `flow/step`, here and now; prints its output as JSON.")
@click.option("--rebuild", metavar="vN", help="Train a registered version again from what was recorded, and compare.")
@click.option("given", "--input", metavar="JSON", help="What a job, flow or --step is given.")
@click.option("--priority", type=int, default=0, metavar="N", help="Greater goes first in the queue.")
@click.option("--queue", "later", is_flag=True, help="Only queue a job or flow; a worker does it.")
@click.option("--cancel", metavar="RUN|JOB", help="Cancel a run or a job.")
@click.option("again", "--retry", "--resume", metavar="RUN|JOB", help="Do what failed of a run again, and all after it.")
@click.option("--fork", metavar="RUN", help="A new run of a flow from a step on, with other parameters; goes with --from.")
@click.option("begin", "--from", metavar="STEP", help="The first step that a fork does itself.")
@click.option("--backfill", metavar="FIRST..LAST", help="Make the slices of a table in this time that are missing or touched.")
@selection
@shared
def run(
    face: Face, select: tuple[str, ...], params: dict[str, dict[str, Any]], force: bool, sweep: tuple[str, ...], search: Search, trials: int,
    metric: str, step: str | None, given: str | None, rebuild: str | None, priority: int, later: bool, cancel: str | None,
    again: str | None, fork: str | None, begin: str | None, backfill: str | None,
) -> int:  # fmt: skip
    """Make assets fresh, or do a job or flow.

    SELECT as for `penstock plan`; all that an asset needs is made fresh with it. An asset that fails leaves its readers on the old
    version, and the others go on.

    With --sweep or --rebuild SELECT is one model. With --step there is no SELECT.
    """
    from penstock.cli.progress import Progress

    if cancel or again or fork or begin:
        from penstock.cli.jobs import handled

        if select or step or sum(map(bool, (cancel, again, fork or begin))) > 1:
            raise click.UsageError("--cancel, --retry and --fork name a run or job, each alone")
        return handled(face, cancel=cancel, again=again, fork=fork, step=begin, params=params, given=given)
    if step is not None:
        if select or force or sweep or rebuild or later:
            raise click.UsageError("--step goes with --input and --set only")
        from penstock.cli.step import stepped

        return stepped(face, step, given, params)
    if backfill is not None:
        if len(select) != 1 or force or sweep or rebuild or later or given is not None:
            raise click.UsageError("--backfill goes with the name of one table, --set and --priority")
        from penstock.cli.jobs import backfilled

        return backfilled(face, select[0], backfill, params, priority)
    if sweep or rebuild:
        if len(select) != 1 or (sweep and rebuild):
            raise click.UsageError("--sweep or --rebuild goes with the name of one model")
        from penstock.cli import trials as of_models

        space = of_models.space(sweep)
        return (
            of_models.rebuilt(face, select[0], rebuild)
            if rebuild
            else of_models.swept(face, select[0], space, search, trials, metric, params)
        )

    progress = Progress(face)
    with face.open(listener=progress) as project:
        if len(select) == 1 and select[0] not in project.graph.nodes:
            from penstock.cli.jobs import input_of, started
            from penstock.project.jobs import is_job

            if is_job(project, select[0]):
                return started(face, project, select[0], input_of(given), params, priority, later)
        if given is not None or later:
            raise click.UsageError("--input and --queue go with the name of one job or flow")
        with progress:
            report = project.run(*select, params=params, force=force, priority=priority)
        page = None if report.nothing else _page(face, project, report)
    if face.json:
        face.document("run", **report.record(), report=page)
    else:
        _summary(face, report, page)
    return _code(report)


def _page(face: Face, project: Project, report: RunReport) -> Path | None:
    """The run's page; that it cannot be written is told and changes nothing."""
    from penstock.project.report import write_report

    try:
        return write_report(report, project.graph, project.state, project.settings)
    except OSError as error:
        face.note(f"the report could not be written: {error}")
        return None


def _summary(face: Face, report: RunReport, page: Path | None) -> None:
    from penstock.project.figures import of, seconds

    if report.nothing:
        face.line(f"nothing to do: everything is fresh ({of(len(report.results), 'asset')})", "green")
        return
    counts: dict[str, int] = {}
    for result in report.results:
        counts[result.status] = counts.get(result.status, 0) + 1
    told = ", ".join(f"{n} {status}" for status, n in counts.items())
    face.line()
    face.line(f"run {report.run}: {told} in {seconds(report.seconds)}", "bold green" if report.ok else "bold red")
    if page is not None:
        face.line(f"report: {_near(page)}")


def _near(path: Path) -> str:
    """A path as it can be typed from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _code(report: RunReport) -> int:
    """0 if all is well, 3 if all that failed may succeed later, else 1."""
    if report.ok:
        return 0
    broken = [r for r in report.results if r.status in ("failed", "refused")]
    return 3 if broken and all(r.error and r.error.get("retry") for r in broken) else 1
