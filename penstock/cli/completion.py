"""`penstock completion`: the script that lets a shell complete verbs, options and names of assets."""

from __future__ import annotations

import click

from penstock.cli.command import shared
from penstock.cli.screen import Face, write


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@shared
def completion(face: Face, shell: str) -> None:
    """Print the completion script of a shell.

    For bash, add to ~/.bashrc:  eval "$(penstock completion bash)"
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None
    root = click.get_current_context().find_root().command
    script = made(root, {}, "penstock", "_PENSTOCK_COMPLETE").source()
    if face.json:
        face.document("completion", shell=shell, script=script)
    else:
        write(script)
