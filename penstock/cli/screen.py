"""What a verb prints with: one JSON document or lines for people on stdout, diagnostics on stderr. Rich is loaded when first used."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.project.figures import plain

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from penstock.project.project import Project


@dataclass
class Face:
    """The options that every verb has, and the ways to print."""

    project: str = "."
    level: str | None = None
    json: bool = False
    traceback: bool = False

    def open(self, **inputs: Any) -> Project:
        """Raises: SettingsError(E7001)."""
        from penstock.project.project import Project

        return Project.open(self.project, level=self.level, **inputs)

    @cached_property
    def out(self) -> Console:
        return _console(sys.stdout)

    @cached_property
    def err(self) -> Console:
        return _console(sys.stderr)

    def document(self, schema: str, **fields: Any) -> None:
        """The one JSON document of a verb: `{"schema": "penstock.<schema>/1", ...}`."""
        write(json_text({"schema": f"penstock.{schema}/1", **fields}) + "\n")

    def line(self, text: str = "", style: str = "") -> None:
        """A line for people; nothing in it is read as markup."""
        from rich.text import Text

        self.out.print(Text(plain(text), style=style), soft_wrap=True)

    def show(self, *things: RenderableType) -> None:
        for thing in things:
            self.out.print(thing)

    def note(self, text: str) -> None:
        """A diagnostic, on stderr."""
        click.echo(plain(text), err=True)


def _console(file: Any) -> Console:
    from rich.console import Console

    class Quiet(Console):
        """A console whose reader may go away at any time: what is written after that is dropped."""

        def on_broken_pipe(self) -> None:
            drop(file)

    wide = None if file.isatty() or Quiet(file=file).is_terminal else 4096
    return Quiet(file=file, highlight=False, markup=False, emoji=False, width=wide)


def drop(file: Any) -> None:
    """Sends what is still written to a closed pipe to nowhere."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, file.fileno())
        os.close(nowhere)
    except (OSError, ValueError, AttributeError):
        return


def write(text: str) -> None:
    """Text for stdout as it is; a reader that has gone away is no error."""
    try:
        click.echo(text, nl=False)
        sys.stdout.flush()
    except BrokenPipeError:
        drop(sys.stdout)


def table(*columns: str, right: Sequence[str] = (), title: str = "") -> Any:
    """An empty table with headings; columns named in `right` are aligned right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    made = Table(
        box=SIMPLE_HEAD, pad_edge=False, show_edge=False, title=Text(title) if title else None, title_justify="left", header_style="bold"
    )
    for column in columns:
        made.add_column(Text(plain(column)), justify="right" if column in right else "left", no_wrap=column in right, overflow="fold")
    return made


def cells(*values: object, styles: Mapping[int, str] | None = None) -> list[Any]:
    """A table's row, safe from markup; `styles` by position."""
    from rich.text import Text

    return [v if isinstance(v, Text) else Text(plain(v), style=(styles or {}).get(i, "")) for i, v in enumerate(values)]


#: How a status looks, everywhere.
STYLES = {
    "fresh": "green", "made": "green", "unchanged": "green", "passed": "green", "stale": "yellow", "waiting": "cyan", "look": "cyan",
    "skipped": "yellow", "failed": "bold red", "refused": "bold red", "unknown": "dim", "never made": "dim",
}  # fmt: skip


def status(word: str) -> Any:
    from rich.text import Text

    return Text(word, style=STYLES.get(word, ""))


def json_text(value: Any, *, indent: int | None = None) -> str:
    return json.dumps(jsonable(value), ensure_ascii=False, allow_nan=False, indent=indent)


def jsonable(value: Any) -> Any:
    """Any value of a row or record as JSON has it: moments and decimals with a fraction as texts, bytes as hex, NaN and infinities as texts."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(v) for v in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return int(value) if value.is_finite() and value == value.to_integral_value() and value.as_tuple().exponent == 0 else str(value)
    if isinstance(value, Path):
        return str(value)
    return jsonable(value.item()) if hasattr(value, "item") else str(value)
