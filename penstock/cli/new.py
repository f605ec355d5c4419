"""`penstock new`: makes a project that runs at once."""

from __future__ import annotations

from pathlib import Path

import click

from penstock.cli.command import shared
from penstock.cli.screen import Face


@click.command()
@click.argument("name", type=click.Path())
@shared
def new(face: Face, name: str) -> None:
    """Make a project that runs at once, in a new folder.

    It has a small pipeline with data, settings, a readme and a .gitignore.
    """
    from penstock.project.scaffold import scaffold

    made = scaffold(Path(face.project) / name)
    if face.json:
        face.document("new", folder=made.folder, files=list(made.files))
        return
    face.line(f"made {name}/", "bold green")
    for file in made.files:
        face.line(f"    {file}", "dim")
    face.line(f"next: cd {name} && penstock run")
