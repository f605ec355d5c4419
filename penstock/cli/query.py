"""`penstock query`: SQL over everything, now or as it was."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from penstock.cli.command import shared
from penstock.cli.screen import Face, drop

#: Rows that a table for people shows if nothing else is asked for.
SHOWN = 40
FORMATS = ("table", "csv", "json", "ndjson", "parquet", "arrow")


@dataclass
class Limited:
    """At most `limit` rows of a stream of batches, and a count of all that came."""

    reader: Any
    limit: int | None
    rows: int = 0

    @property
    def schema(self) -> Any:
        return self.reader.schema

    def __iter__(self) -> Iterator[Any]:
        for batch in self.reader:
            left = batch.num_rows if self.limit is None else self.limit - self.rows
            self.rows += batch.num_rows
            yield batch if left >= batch.num_rows else batch.slice(0, max(left, 0))
            if self.limit is not None and self.rows >= self.limit:
                return


@click.command()
@click.argument("sql")
@click.option("--as-of", metavar="MOMENT", help="Read the tables as they were then (ISO 8601, UTC if no zone is given).")
@click.option("--format", "format_", type=click.Choice(FORMATS), help="How to print; with --out the file's ending says it.")
@click.option("--out", metavar="FILE", type=click.Path(dir_okay=False), help="Write to a file, whole or not at all.")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help=f"At most N rows; a table shows {SHOWN} without it.")
@shared
def query(face: Face, sql: str, as_of: str | None, format_: str | None, out: str | None, limit: int | None) -> None:
    """Run a query over the project's tables.

    Tables have the names of their assets. `-` reads the query from stdin.

    Rejected rows of an asset are the table `<asset>__rejected`.
    """
    from penstock.project.query import moment

    kind = _kind(format_, out)
    text = sys.stdin.read() if sql == "-" else sql
    with face.open() as project, project.query(text, as_of=moment(as_of) if as_of else None) as result:
        rows = Limited(result.reader(), limit)
        if out:
            _to_file(face, rows, Path(out), kind)
        elif face.json:
            _document(face, rows, dict(result.versions))
        elif kind == "table":
            _table(face, rows if limit is not None else Limited(rows.reader, None), SHOWN if limit is None else limit)
        else:
            _to_stdout(rows, kind)


def _kind(format_: str | None, out: str | None) -> str:
    if out is None:
        if format_ in ("parquet", "arrow") and sys.stdout.isatty():
            raise click.UsageError(f"{format_} is not for a terminal; use --out FILE or a pipe")
        return format_ or "table"
    ending = Path(out).suffix.lower().lstrip(".")
    if format_ and format_ not in (ending, {"jsonl": "ndjson"}.get(ending, ending)):
        raise click.UsageError(f"--format {format_} and --out {Path(out).name} disagree; the file's ending says the format")
    return ending


def _to_file(face: Face, rows: Limited, path: Path, kind: str) -> None:
    from penstock.project.figures import of
    from penstock.run.export import write_rows

    number = write_rows(rows, path)
    if face.json:
        face.document("query", out=str(path), format=kind, count=number)
    else:
        face.line(f"{of(number, 'row')} written to {path}")


def _to_stdout(rows: Limited, kind: str) -> None:
    """Through a file of its own: it is whole before the first byte is printed."""
    from penstock.run.export import write_rows

    with tempfile.TemporaryDirectory(prefix="penstock-") as folder:
        path = Path(folder) / f"rows.{kind}"
        write_rows(rows, path)
        try:
            with path.open("rb") as made:
                shutil.copyfileobj(made, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            drop(sys.stdout)


def _document(face: Face, rows: Limited, versions: dict[str, str]) -> None:
    from penstock.project.figures import type_name

    columns = [{"name": f.name, "type": type_name(f.type)} for f in rows.schema]
    found = [list(row) for batch in rows for row in zip(*(c.to_pylist() for c in batch.columns), strict=True)]
    face.document("query", columns=columns, rows=found, count=len(found), versions=versions)


def _table(face: Face, rows: Limited, shown: int) -> None:
    from penstock.project.figures import count, of, type_name

    schema = rows.schema
    first: list[tuple[Any, ...]] = []
    for batch in rows:
        if len(first) < shown:
            part = batch.slice(0, shown - len(first))
            first += list(zip(*(c.to_pylist() for c in part.columns), strict=True))
    types = [type_name(f.type) for f in schema]
    face.show(rows_table([f.name for f in schema], types, first))
    more = rows.rows - len(first)
    if more > 0 and rows.limit is None:
        face.line(f"{of(rows.rows, 'row')}, {count(more)} more than shown; --limit N shows more, --format csv or --out FILE all", "dim")
    else:
        face.line(of(len(first), "row"), "dim")


_RIGHT = ("int", "long", "float", "double", "decimal")


def rows_table(names: list[str], types: list[str], rows: list[tuple[Any, ...]]) -> Any:
    """Rows under names and types."""
    from rich.text import Text

    from penstock.cli.screen import cells, table
    from penstock.project.figures import cell, one_line

    made = table()
    for name, kind in zip(names, types, strict=True):
        heading = Text(one_line(name, 60)).append("\n").append(one_line(kind, 40), style="dim")
        made.add_column(heading, justify="right" if kind.startswith(_RIGHT) else "left", overflow="fold")
    for row in rows:
        made.add_row(*cells(*(cell(v) for v in row)))
    return made
