"""`penstock plan`: what is stale, why, and what making it will cost."""

from __future__ import annotations

from typing import Any

import click

from penstock.cli.command import shared
from penstock.cli.screen import Face
from penstock.cli.selection import selection


@click.command()
@selection
@shared
def plan(face: Face, select: tuple[str, ...], params: dict[str, dict[str, Any]], force: bool) -> None:
    """Show what is stale, why, and what it will cost.

    SELECT is an asset's name, a glob such as `dep*`, or `kind:table`; `+x` means x and all it needs, `x+` x and all that needs
    it. What an asset needs is always planned with it. Nothing selected means everything.
    """
    with face.open() as project:
        made = project.plan(*select, params=params, force=force)
        if face.json:
            from penstock.project.views import plan_record

            face.document("plan", **plan_record(made))
            return
        _show(face, made)


def _show(face: Face, made: Any) -> None:
    from penstock.cli.screen import cells, status, table
    from penstock.project.figures import count, of, plan_text, seconds

    if made.nothing:
        face.line(f"{of(len(made.actions), 'asset')}: nothing to do, everything is fresh", "green")
    else:
        face.line(plan_text(made), "bold")
    shown = table("asset", "kind", "status", "why", "rows", "time", right=("rows", "time"))
    for action in made:
        why = "; ".join(r.text for r in action.reasons)
        part = "" if action.status == "fresh" or action.mode == "full" else " (only what is new)"
        rows, cost = ("", "") if action.status == "fresh" else (count(action.rows), seconds(action.seconds))
        shown.add_row(*cells(action.asset, action.kind, status(action.status), why + part, rows, cost, styles={0: "bold"}))
    face.line()
    face.show(shown)
