"""`penstock run --step`: one step done in this process, JSON in and JSON out, for other schedulers."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

import click

from penstock.cli.screen import Face, json_text, write


def stepped(face: Face, name: str, given: str | None, params: Mapping[str, Mapping[str, Any]]) -> int:
    """Prints the step's output as one line of JSON on stdout; what user code prints goes to stderr."""
    from penstock.project.steps import step_done

    try:
        value = json.loads(given) if given else None
    except ValueError as error:
        raise click.BadParameter(f"no JSON: {error}", param_hint="--input") from error
    with face.open() as project, _aside():
        output = step_done(project, name, value, params.get(name.partition("/")[0], {}))
    if face.json:
        face.document("step", step=name, output=output)
    else:
        write(json_text(output) + "\n")
    return 0


@contextmanager
def _aside() -> Iterator[None]:
    """Sends what is printed to stderr, also by programs that are started meanwhile."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
