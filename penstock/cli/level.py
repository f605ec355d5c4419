"""`penstock level`: which level each part needs now, and the schedule as files of other schedulers."""

from __future__ import annotations

from pathlib import Path

import click

from penstock.cli.command import shared
from penstock.cli.screen import Face


@click.command()
@click.option("--files", type=click.Choice(["airflow", "stepfunctions"]), help="Write the schedule and dependencies for this scheduler.")
@click.option("--out", metavar="DIR", type=click.Path(file_okay=False, path_type=Path), help="Where to; needed with --files.")
@click.option("--select", metavar="NAME", multiple=True, help="Only this automation, job, flow or asset; may be given more than once.")
@click.option("--at", metavar="DIR", help="The project's folder on the machines where the tasks run; here if it is not said.")
@click.option("--command", "program", default="penstock", show_default=True, metavar="PROGRAM", help="The command on those machines.")
@click.option("--resource", metavar="ARN", help="What runs the tasks of stepfunctions; a placeholder if it is not said.")
@click.option("--start", metavar="DAY", type=click.DateTime(["%Y-%m-%d"]), help='The first day for `catch_up="all"`; today if not said.')
@shared
def level(
    face: Face, files: str | None, out: Path | None, select: tuple[str, ...], at: str | None, program: str, resource: str | None, start: click.DateTime | None,
) -> None:  # fmt: skip
    """Tell what each part needs now; export the schedule.

    With --files the schedule and dependencies are written for another scheduler instead. Figures are those of the newest versions, against
    this machine. What the other scheduler has no words for is told on stderr; Airflow's file also says it in a comment.
    """
    if files is None and (out or select or at or resource or start):
        raise click.UsageError("--out, --select, --at, --resource and --start go with --files")
    if files is not None and out is None:
        raise click.UsageError("--files needs --out DIR")
    with face.open() as project:
        if files is None or out is None:
            _levels(face, project.level())
            return
        made, paths = project.export(files, out, select=select, at=at, command=program, resource=resource, start=start)  # type: ignore[arg-type]
    for name, reason in made.missing:
        face.note(f"{name}: {reason}")
    if face.json:
        missing = [{"name": name, "reason": reason} for name, reason in made.missing]
        face.document("export", scheduler=files, files=[str(p) for p in paths], missing=missing)
        return
    for path in paths:
        face.line(f"wrote {path}")


def _levels(face: Face, found: list) -> None:  # type: ignore[type-arg]
    from penstock.cli.screen import cells, table
    from penstock.project.levels import worst

    if face.json:
        face.document("level", verdict=worst(found), ports=[port.record() for port in found])
        return
    shown = table("part", "now", "figures", "here", "move it when", "setting")
    styles = {"enough": "green", "near": "yellow", "move": "bold red", "unknown": "dim"}
    for port in found:
        shown.add_row(
            *cells(port.port, port.now, port.figure, port.verdict, port.when, port.setting, styles={0: "bold", 3: styles[port.verdict]})
        )
    face.show(shown)
