"""`penstock show MODEL --compare`, `--releases`, `--card` and `--why`: a model's versions, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.cli.screen import Face

if TYPE_CHECKING:
    from penstock.project.project import Project


def compare(face: Face, project: Project, model: str, limit: int | None) -> None:
    """Versions beside each other: parameters that differ, metrics with intervals, what failed, what it cost."""
    from penstock.cli.screen import cells, status, table
    from penstock.project.comparison import write_page
    from penstock.project.experiments import compared, differing, telling, with_interval
    from penstock.project.figures import count, moment, seconds, size

    found = compared(project, model, limit=limit or 20)
    page = write_page(project, model, found) if found else None
    if face.json:
        face.document("versions", model=model, versions=found, page=str(page) if page else None)
        return
    if not found:
        project.graph.node(model)
        face.line(f"{model}: no version yet")
        return
    params, metrics = differing(found), telling(found)
    shown = table(
        "version", "made", "", *params, *metrics, "failed gates", "learnt from", "fit", "memory", right=("learnt from", "fit", "memory")
    )
    for v in found:
        word = status("refused" if v["refused"] else "live" if v["live"] else "passed")
        cost = (count(v["train_rows"]), seconds(v["fit_seconds"]), size(v["peak_memory_bytes"]) if v["peak_memory_bytes"] else "")
        told = [str(v["params"].get(n, "")) for n in params] + [with_interval(v, m) for m in metrics]
        shown.add_row(*cells(v["version"], moment(v["at"]), word, *told, "; ".join(v["failed"]), *cost))
    face.show(shown)
    if page:
        face.line(f"plots: {page}")


def releases(face: Face, project: Project, model: str, limit: int | None) -> None:
    """Who released what when."""
    from penstock.cli.screen import cells, table
    from penstock.project.figures import moment
    from penstock.run.registry import promotions

    project.graph.node(model)
    found = promotions(project.state, model, limit=limit or 50)
    if face.json:
        face.document("releases", model=model, releases=[p.record() for p in found])
        return
    if not found:
        face.line(f"{model}: nothing was ever live")
        return
    shown = table("at", "live", "in place of", "how", "by", "reason")
    for p in found:
        shown.add_row(*cells(moment(p.at), p.version, p.replaced, p.how, p.by, p.reason))
    face.show(shown)


def card(face: Face, project: Project, model: str, limit: int | None) -> None:
    """The card of the live version, or of the newest one."""
    from penstock.project.experiments import card as card_of

    text = card_of(project, model)
    if face.json:
        face.document("card", model=model, markdown=text)
    else:
        for line in text.splitlines():
            face.line(line)


def why(face: Face, project: Project, model: str, limit: int | None) -> None:
    """Each failed gate of the newest version: by how much, and rows that show it."""
    from penstock.project.figures import gate_text
    from penstock.run.registry import entries

    project.graph.node(model)
    newest = entries(project.state, model, limit=1)
    failed: list[Any] = [g for g in newest[0].get("gates", []) if not g["passed"]] if newest else []
    if face.json:
        leaks = newest[0].get("leaks", []) if newest else []
        face.document("why", model=model, version=newest[0]["version"] if newest else "", failed=failed, leaks=leaks)
        return
    if not failed:
        face.line(f"{model}: " + (f"{newest[0]['version']} passed all its gates" if newest else "no version yet"), "green")
        return
    face.line(f"{model} {newest[0]['version']}: refused by {len(failed)} of {len(newest[0]['gates'])} gates", "bold red")
    for gate in failed:
        face.line(f"  {gate_text(gate)}", "red")
        for row in gate.get("rows", []):
            face.line("      " + "  ".join(f"{k}={v}" for k, v in row.items()), "dim")
    for leak in newest[0].get("leaks", []):
        face.line(f"  leak: {leak['reason']}", "yellow")


def diff(face: Face, project: Project, predictions: str, first: str, second: str) -> None:
    """Where and how much two versions differ on the rows of predictions."""
    from penstock.project.figures import count, figure

    found = project.difference(predictions, first, second)
    if face.json:
        face.document("difference", predictions=predictions, **found.record())
        return
    face.line(f"{predictions}: {first} beside {second} on {count(found.rows)} rows", "bold")
    face.line(f"  equal      {count(found.equal)} rows have the very same score")
    told = ", ".join(f"{name} {figure(value)}" for name, value in found.quantiles.items())
    face.line(f"  difference {told}; mean change {found.mean:+.4g}")
    face.line(f"  decisions  {count(found.flips)} rows are decided otherwise")
    for part in found.slices:
        label = f"{part['column']} {part['value']}"
        face.line(
            f"  where      {label:<28} {count(part['rows']):>10} rows  mean {figure(part['mean'])}  {count(part['flips'])} decided otherwise"
        )
    for row in found.most:
        face.line("  most       " + "  ".join(f"{k}={figure(v) if isinstance(v, float) else v}" for k, v in row.items()), "dim")
