"""What `plan` and `run` are asked for: a selection of assets, values for their parameters, and whether to make them anyhow."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import click

from penstock.cli.command import complete_asset


def selection(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds SELECT..., --set and --force."""
    for option in (
        click.option("--force", is_flag=True, help="Make the selected assets even if they are fresh."),
        click.option(
            "params", "--set", metavar="ASSET.PARAM=VALUE", multiple=True, callback=_params,
            help="Give a parameter another value: JSON if it can be read as such, else text.",
        ),
        click.argument("select", nargs=-1, metavar="[SELECT]...", shell_complete=complete_asset),
    ):  # fmt: skip
        command = option(command)
    return command


def _params(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for text in values:
        name, equals, value = text.partition("=")
        asset, dot, parameter = name.partition(".")
        if not (equals and dot and asset and parameter):
            raise click.BadParameter(f"{text!r} is not of the form asset.parameter=value", ctx=ctx, param=param)
        found.setdefault(asset, {})[parameter] = value_of(value)
    return found


def value_of(text: str) -> Any:
    """A value as typed: what JSON means by it, else the text itself."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError:
        return text


def _no_constant(name: str) -> Any:
    raise ValueError(name)
