"""The project's schedule and dependencies as files of another scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Literal

from penstock.craft.exports.airflow import airflow
from penstock.craft.exports.outline import Export, Outline, Part, Written, needed, outlines
from penstock.craft.exports.python_text import identifier
from penstock.craft.exports.stepfunctions import RESOURCE, stepfunctions
from penstock.graph.graph import Graph
from penstock.ground.errors import SettingsError, UnknownName, did_you_mean
from penstock.project.discover import Found

Scheduler = Literal["airflow", "stepfunctions"]


def written(
    scheduler: Scheduler, graph: Graph, found: Found, export: Export, *, select: Sequence[str] = (), start: date, resource: str = RESOURCE
) -> Written:
    """The files of one scheduler; nothing is written to disk.

    Args:
        select: names of automations, jobs, flows and assets; for an asset that no automation runs: it and all it needs. None for all,
            and the whole project as well.
    Raises: UnknownName(E1003); DefinitionError(E1001) as `craft.exports.airflow`.
    """
    chosen = selected(outlined(graph, found, export.project), graph, select)
    if scheduler == "airflow":
        return airflow(chosen, export, start=start)
    return stepfunctions(chosen, export, start=start, resource=resource)


def outlined(graph: Graph, found: Found, project: str) -> tuple[Outline, ...]:
    """All that is scheduled. The project's name as other schedulers take it: letters, digits, underscores."""
    parts = {node.name: Part(node.name, node.kind, node.inputs, str(getattr(node.asset, "doc", "") or "")) for node in graph}
    return outlines(identifier(project), parts, found.jobs, found.flows, found.automations)


def selected(whole: Sequence[Outline], graph: Graph, select: Sequence[str]) -> tuple[Outline, ...]:
    """Outlines by name, with or without the project's name in front. Raises: UnknownName(E1003)."""
    if not select:
        return tuple(whole)
    by_name = {name: o for o in whole for name in (o.name, o.name.partition(".")[2]) if name}
    parts = {p.name: p for o in whole[:1] for p in o.parts}
    project = whole[0].name.partition(".")[0] if whole else ""
    made: dict[str, Outline] = {}
    for name in select:
        if name not in by_name and name not in graph.nodes:
            raise UnknownName(
                "no automation, job, flow or asset has this name", place=name[:80], hint=did_you_mean(name, [*by_name, *graph.nodes])
            )
        made[name] = by_name.get(name) or Outline(f"{project}.{name}", name, parts=needed(name, parts), doc=parts[name].doc)
    return tuple({o.name: o for o in made.values()}.values())


def store(files: Sequence[tuple[str, str]], folder: Path) -> list[Path]:
    """Writes files into a folder, which is made if it is not there; a file that is the same already is left alone.

    Raises: SettingsError(E7001) if it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / name for name, _ in files]
        for path, (_, text) in zip(paths, files, strict=True):
            if not (path.exists() and path.read_bytes() == text.encode()):
                path.write_bytes(text.encode())
    except OSError as error:
        raise SettingsError("files cannot be written there", place=str(folder)[:120], got=error.strerror or str(error)) from error
    return paths
