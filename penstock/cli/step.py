"""`penstock run --step`: one step done in this process, JSON in and JSON out, for other schedulers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from penstock.cli.screen import Face, json_text, write


def stepped(face: Face, name: str, given: str | None, params: Mapping[str, Mapping[str, Any]]) -> int:
    """Prints the step's output as one line of JSON on stdout; all else goes to stderr."""
    try:
        value = json.loads(given) if given else None
    except ValueError as error:
        raise click.BadParameter(f"no JSON: {error}", param_hint="--input") from error
    with face.open() as project:
        output = project.step(name, value, params=params.get(name.partition("/")[0], {}))
    if face.json:
        face.document("step", step=name, output=output)
    else:
        write(json_text(output) + "\n")
    return 0
