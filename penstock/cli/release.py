"""`penstock release`: makes a version of a model live, or goes back, by one signed record."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from penstock.cli.command import complete_asset, shared
from penstock.cli.screen import Face

if TYPE_CHECKING:
    from penstock.project.project import Project
    from penstock.run.runtime import Event


@click.command()
@click.argument("model", shell_complete=complete_asset)
@click.option("--to", type=click.Choice(["production"]), help="What the version is released to.")
@click.option("--version", metavar="vN", help="Which version; the newest that passed its gates if none is named.")
@click.option("--rollback", is_flag=True, help="Go back to the version that was live before.")
@click.option("--live-at", metavar="MOMENT", help="Only tell what was live at a moment, such as 2026-11-01T12:00.")
@click.option("--by", metavar="NAME", help="Who releases; the user of this process if nobody is named.")
@click.option("--reason", default="", metavar="TEXT", help="Why; kept in the record.")
@click.option("--despite-gates", is_flag=True, help="Release a version that its gates refused; needs --reason.")
@shared
def release(
    face: Face, model: str, to: str | None, version: str | None, rollback: bool, live_at: str | None, by: str | None, reason: str,
    despite_gates: bool,
) -> None:  # fmt: skip
    """Release a model, roll back, tell what was live.

    The record says who, when, why, on what evidence, and what was replaced. What scores with the model is stale afterwards.
    """
    if sum((to is not None, rollback, live_at is not None)) != 1:
        raise click.UsageError("say one of --to production, --rollback, --live-at MOMENT")
    if despite_gates and not reason:
        raise click.UsageError("--despite-gates needs --reason")
    with face.open(listener=lambda event: _heard(face, event)) as project:
        if live_at is not None:
            tell_live(face, project, model, live_at)
            return
        if rollback:
            made = project.rollback(model, by=by, reason=reason)
        else:
            made = project.release(model, version=version or "", by=by, reason=reason, despite_gates=despite_gates)
    if face.json:
        face.document("promotion", **made.record())
        return
    was = f", in place of {made.replaced}" if made.replaced else ""
    face.line(f"{model}: {made.version} is live{was} ({made.how} by {made.by})", "bold green")


def _heard(face: Face, event: Event) -> None:
    """Shows what did not go as wished, such as a tracker that does not answer."""
    if event.kind == "note":
        face.note(f"{event.asset}: {event.text}")


def tell_live(face: Face, project: Project, model: str, at: str) -> None:
    """What was live at a moment, and since when by whose word."""
    from penstock.project.experiments import moment_of

    moment = moment_of(at)
    found = project.live_at(model, moment)
    if face.json:
        face.document("live", model=model, at=at, promotion=found.record() if found else None)
    elif found is None:
        face.line(f"{model}: nothing was live at {at}")
    else:
        told = f": {found.reason}" if found.reason else ""
        face.line(f"{model}: {found.version} was live at {at}", "bold")
        face.line(f"  since {found.at} by {found.by} ({found.how}{told})")
        if found.replaced:
            face.line(f"  in place of {found.replaced}")
