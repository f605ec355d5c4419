"""`penstock show --automations`: what runs by itself when, when it did last and why, and what it waits for now."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from penstock.cli.screen import Face

if TYPE_CHECKING:
    from penstock.project.project import Project


def tell(face: Face, project: Project) -> None:
    from penstock.cli.screen import cells, table
    from penstock.project.figures import moment, one_line
    from penstock.project.up import automations

    lines = automations(project)
    if face.json:
        face.document("automations", automations=[asdict(line) for line in lines])
        return
    if not lines:
        face.line("nothing runs by itself; `ps.automate(asset, when=...)` says what does")
        return
    shown = table("automation", "runs", "when", "fired", "last", "now", right=("fired",))
    for line in lines:
        last = f"{moment(line.last['at'])}: {one_line(line.last['because'])}, run {line.last['run']}" if line.last else "never"
        now = f"fires at the next look: {line.waits}" if line.due else f"waits: {line.waits}"
        shown.add_row(
            *cells(line.name, line.target, line.when, line.fired, last, one_line(now), styles={0: "bold", 5: "green" if line.due else ""})
        )
    face.show(shown)
