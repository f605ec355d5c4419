"""Errors as people read them, as JSON, and as exit codes."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import click

from penstock.cli.screen import Face
from penstock.ground.errors import PenstockError
from penstock.project.figures import plain

FAILED, WRONG, BUSY, INTERRUPTED = 1, 2, 3, 130
_WRONG_CODES = ("E4007", "E4009", "E4010")
#: Folder of the package: lines of tracebacks inside it are ours, not the user's.
_OURS = str(Path(__file__).parents[1])


def exit_code(record: Mapping[str, Any]) -> int:
    """Of an error's record: 3 if a retry may help, 2 for wrong usage, names, definitions and settings, else 1."""
    if record.get("retry"):
        return BUSY
    code = str(record.get("code", ""))
    return WRONG if code[:2] in ("E1", "E7") or code in _WRONG_CODES else FAILED


def tell_error(face: Face, error: PenstockError) -> int:
    """Prints an error of ours and returns the exit code."""
    record = error.as_record()
    if face.json:
        face.document("error", error=record)
        return exit_code(record)
    print_record(face, record, user_lines(error.__cause__) if error.__cause__ else ())
    if face.traceback:
        _print_traceback(error)
    return exit_code(record)


def print_record(face: Face, record: Mapping[str, Any], lines: Any = (), *, indent: str = "", console: Any = None) -> None:
    """An error: head in red, then expected, got and hint each on its line, then the lines of the user's code it came from."""
    from rich.text import Text

    console = console or face.err
    place = f" {record['place']}" if record.get("place") else ""
    head = (
        Text(indent)
        .append(f"{record['code']}{plain(place)}: ", style="bold red")
        .append(plain(str(record["message"]).rstrip(".")), style="red")
    )
    console.print(head, soft_wrap=True)
    for part in ("expected", "got", "hint"):
        if record.get(part):
            text = plain(record[part]).replace("\n", f"\n{indent}            ")
            console.print(Text.assemble((f"{indent}  {part + ':':<9} ", "dim"), text), soft_wrap=True)
    for line in lines:
        console.print(Text(f"{indent}  {plain(line)}", style="dim"), soft_wrap=True)


def user_lines(error: BaseException) -> list[str]:
    """Where in the user's own files an error came from, outermost first: `pipeline.py:12 in departures: return 1 / 0`."""
    found = [
        f"at {Path(f.filename).name}:{f.lineno} in {f.name}: {f.line or ''}".rstrip(": ")
        for f in traceback.extract_tb(error.__traceback__)
        if _is_users(f.filename)
    ]
    if isinstance(error, SyntaxError) and error.filename and _is_users(error.filename):
        found.append(f"at {Path(error.filename).name}:{error.lineno}: {(error.text or '').strip()}".rstrip(": "))
    return found


def recorded_lines(text: str) -> Iterator[str]:
    """The user's own lines of a traceback that was recorded as text."""
    import re

    for match in re.finditer(r'File "([^"]+)", line (\d+), in (.+)\n(?: {4}(?! *[\^~])(.*)\n)?', text):
        if _is_users(match[1]):
            yield f"at {Path(match[1]).name}:{match[2]} in {match[3]}" + (f": {match[4].strip()}" if match[4] else "")


def _is_users(filename: str) -> bool:
    return not filename.startswith((_OURS, sys.base_prefix, sys.prefix, "<")) and "site-packages" not in filename


def tell_defect(face: Face, error: BaseException) -> int:
    """Prints an error that should have been one of ours: short, with the place to look."""
    place = _place(error.__traceback__)
    message = f"{type(error).__name__}: {error}"
    if face.json:
        record = PenstockError(message, place=place, hint="this is a defect of Penstock; --traceback shows all of it").as_record()
        face.document("error", error={**record, "kind": type(error).__name__})
    else:
        click.echo(click.style("this is a defect of Penstock: ", fg="red", bold=True) + plain(message), err=True)
        click.echo(f"  at {place}" + ("" if face.traceback else "; --traceback shows all of it"), err=True)
    if face.traceback:
        _print_traceback(error)
    return FAILED


def _place(step: TracebackType | None) -> str:
    """The innermost line of the package."""
    ours = [f for f in traceback.extract_tb(step) if f.filename.startswith(_OURS)]
    if not ours:
        return "unknown"
    return f"penstock/{Path(ours[-1].filename).relative_to(_OURS).as_posix()}:{ours[-1].lineno}"


def tell_usage(face: Face, error: click.ClickException) -> int:
    """Prints what click says about wrong arguments."""
    if face.json:
        record = PenstockError(error.format_message(), place="arguments", hint="penstock --help").as_record()
        face.document("error", error={**record, "code": "usage", "kind": type(error).__name__, "fault": "user"})
    else:
        error.show()
    return error.exit_code if error.exit_code != 1 else WRONG


def _print_traceback(error: BaseException) -> None:
    click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
