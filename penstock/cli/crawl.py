"""`penstock crawl`: looks into data that somebody else owns, and writes its definition."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from penstock.cli.command import complete_asset, shared
from penstock.cli.screen import Face, write

if TYPE_CHECKING:
    from penstock.project.crawl import Crawled, Drift
    from penstock.project.project import Project


@click.command()
@click.argument("what", nargs=-1, required=True, metavar="PATTERN | URL | SOURCE", shell_complete=complete_asset)
@click.option("--name", metavar="NAME", help="The name of the new source.")
@click.option("--table", metavar="TABLE", help="One table of a database; all of them without it.")
@click.option("--pin", is_flag=True, help="Write down the columns and types, so that other files cannot change them.")
@click.option("--write", "append", is_flag=True, help="Add the definitions to the project's module; nothing in it is changed.")
@shared
def crawl(face: Face, what: tuple[str, ...], name: str | None, table: str | None, pin: bool, append: bool) -> None:
    """Look into raw data and print its definition.

    Files or a database give a source and a first table over it, as Python.

    PATTERN is relative to the project's folder, e.g. 'data/*.csv'. URL is sqlite:///file.db or postgresql://user@host/db. The name of
    a SOURCE of the project shows how its columns differ now from those recorded.
    """
    from penstock.project import crawl as crawling

    with face.open() as project:
        pattern = crawling.pattern_of(what)
        if pattern in project.graph.nodes and name is None and not append:
            _drift(face, crawling.drift(project, pattern))
        elif crawling.is_database(pattern):
            _found(face, project, crawling.crawl_database(project, pattern, table=table or "", name=name or ""), pin, append)
        else:
            _found(face, project, crawling.crawl_files(project, pattern, name=name or ""), pin, append)


def _found(face: Face, project: Project, found: list[Crawled], pin: bool, append: bool) -> None:
    from penstock.project import crawl as crawling

    path, alias = crawling.written_as(project.settings)
    ps = alias or "ps"
    texts = [crawling.compiled(t) for each in found for t in (crawling.definition(each, pin=pin, ps=ps), crawling.starter(each, ps=ps))]
    written = str(crawling.append(project, texts)) if append else None
    if face.json:
        records = [{**asdict(c), "definition": texts[2 * i], "starter": texts[2 * i + 1]} for i, c in enumerate(found)]
        face.document("crawl", sources=records, written=written)
        return
    for i, each in enumerate(found):
        _report(face, each)
        if not append:
            write("\n" + texts[2 * i] + "\n\n" + texts[2 * i + 1] + "\n")
    if append:
        face.line(f"added to {path.name}: {', '.join(name for text in texts for name in crawling.bound(text))}", "bold green")
    else:
        face.note(f"--write adds this to {path.name}")


def _report(face: Face, found: Crawled) -> None:
    """What was found, on stderr, so that stdout holds nothing but Python."""
    from penstock.cli.screen import cells, table
    from penstock.project.figures import count, one_line, share

    face.note(f"{found.asset}: {found.summary}")
    shown = table("column", "type", "nulls", "values", "least", "", right=("nulls", "values"))
    for column in found.columns:
        marks = [
            w
            for w, here in (
                ("key", column.name in found.key),
                ("time", column.name == found.time),
                ("folder", column.name in found.partitions),
            )
            if here
        ]
        nulls = share(column.nulls)
        shown.add_row(
            *cells(
                column.name,
                column.type,
                nulls,
                count(column.distinct),
                column.example,
                ", ".join(marks),
                styles={0: "bold", 1: "cyan", 5: "green"},
            )
        )
    face.err.print(shown)
    for label, text in found.differing.items():
        face.note(f"differs: {label} is {one_line(text)}")


def _drift(face: Face, found: Drift) -> None:
    from penstock.cli.screen import cells, table

    if face.json:
        face.document("drift", **asdict(found), drifted=found.any)
        return
    if not found.any:
        face.line(f"{found.asset}: no drift, {len(found.now)} columns as recorded", "green")
        return
    face.line(f"{found.asset}: its columns differ from those recorded (drift={found.policy!r})", "bold yellow")
    shown = table("column", "recorded", "now")
    for name in found.added:
        shown.add_row(*cells(name, "", dict(found.now)[name], styles={2: "green"}))
    for name in found.missing:
        shown.add_row(*cells(name, dict(found.recorded)[name], "missing", styles={2: "red"}))
    for name, (was, now) in found.changed.items():
        shown.add_row(*cells(name, was, now, styles={2: "yellow"}))
    face.show(shown)
    for label, text in found.differing.items():
        face.line(f"  {label}: {text}")
