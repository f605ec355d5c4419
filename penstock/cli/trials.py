"""`penstock run MODEL --sweep` and `--rebuild`: trials of parameters beside each other, and a version made again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from penstock.cli.screen import Face
from penstock.cli.selection import value_of

if TYPE_CHECKING:
    from penstock.run.sweep import Search, Swept


def space(texts: Sequence[str]) -> dict[str, Any]:
    """`depth=3,5,7` as values, `rate=0.01..0.3:log` as a range, by parameter."""
    from penstock.run.sweep import Range

    found: dict[str, Any] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not (equals and name and values):
            raise click.BadParameter(f"{text!r} is not of the form parameter=values", param_hint="--sweep")
        if ".." in values:
            ends, _, how = values.partition(":")
            match = re.fullmatch(r"(.+?)\.\.(.+)", ends)
            low, high = (value_of(match[1]), value_of(match[2])) if match else (None, None)
            numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (low, high))
            if not numbers or how not in ("", "log"):
                raise click.BadParameter(f"{text!r} is not a range such as 1..9 or 0.001..0.3:log", param_hint="--sweep")
            found[name] = Range(low, high, how == "log")  # type: ignore[arg-type]
        else:
            found[name] = [value_of(v) for v in values.split(",")]
    return found


def swept(
    face: Face, model: str, values: dict[str, Any], search: Search, trials: int, metric: str, params: dict[str, dict[str, Any]]
) -> int:  # fmt: skip
    """Sweeps, prints the trials and what became of the best; 1 if no trial gave a value."""
    from penstock.cli.progress import Progress

    progress = Progress(face)
    with face.open(listener=progress) as project:
        with progress:
            found = project.sweep(model, values, search=search, trials=trials, metric=metric, params=params)
        if face.json:
            face.document("sweep", **found.record())
        else:
            _table(face, found)
    return 0 if found.best else 1


def _table(face: Face, found: Swept) -> None:
    from penstock.cli.screen import cells, table
    from penstock.project.figures import figure, seconds

    names = list(dict.fromkeys(n for t in found.trials for n in t.params))
    shown = table("", *names, found.metric, "95 % interval", "time", "", right=("time",))
    for trial in found.trials:
        interval = (trial.measured or {}).get("intervals", {}).get(found.metric)
        between = f"{figure(interval[0])} to {figure(interval[1])}" if interval else ""
        told = "recorded before" if trial.again else str((trial.error or {}).get("message", ""))[:60]
        value = figure(trial.value(found.metric)) if trial.value(found.metric) is not None else "failed"
        mark = "best" if trial is found.best else ""
        shown.add_row(*cells(mark, *(str(trial.params[n]) for n in names), value, between, seconds(trial.seconds), told))
    face.line()
    face.show(shown)
    if found.best:
        best = ", ".join(f"{n}={v}" for n, v in found.best.params.items())
        face.line(f"{found.model}: best of {len(found.trials)} trials: {best}; adopted until the code's own values change", "bold green")
    else:
        face.line(f"{found.model}: no trial gave a value of {found.metric}", "bold red")


def rebuilt(face: Face, model: str, version: str) -> int:
    """Rebuilds and tells how alike; 0 if every score is the same, else 1."""
    from penstock.cli.progress import Progress
    from penstock.project.figures import count, figure, seconds

    progress = Progress(face)
    with face.open(listener=progress) as project, progress:
        found = project.rebuild(model, version)
    if face.json:
        face.document("rebuild", **found.record())
        return 0 if found.same else 1
    style = "bold green" if found.same else "bold yellow"
    face.line(
        f"{model} {version}: {count(found.equal)} of {count(found.rows)} test rows have the very same score ({seconds(found.seconds)})",
        style,
    )
    face.line(
        f"  greatest difference {figure(found.difference)}; the stored files are {'the same' if found.same_bytes else 'not the same'} byte by byte"
    )
    for change in found.changed:
        face.line(f"  another environment: {change}", "yellow")
    return 0 if found.same else 1
