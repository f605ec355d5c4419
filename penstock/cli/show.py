"""`penstock show`: what is declared and recorded, of everything, one asset, one row or one run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from penstock.cli.command import complete_asset, shared
from penstock.cli.screen import Face

if TYPE_CHECKING:
    from penstock.project.project import Project
    from penstock.project.trace import TraceStep
    from penstock.project.views import AssetView, Lineage

_LOOKS = ("ledger", "lineage", "rejected", "history", "files", "compare", "releases", "card", "why")


@click.command()
@click.argument("name", required=False, shell_complete=complete_asset)
@click.option("look", "--ledger", flag_value="ledger", help="What happened to each row of the newest version.")
@click.option("look", "--lineage", flag_value="lineage", help="What it was made of and what was made of it, with versions.")
@click.option("look", "--rejected", flag_value="rejected", help="Rejected rows by check, with samples.")
@click.option("look", "--history", flag_value="history", help="Versions and failures, newest first; without a name: runs.")
@click.option("look", "--files", flag_value="files", help="Files of a source as last landed.")
@click.option("look", "--compare", flag_value="compare", help="Versions of a model beside each other, and a page with plots.")
@click.option("look", "--releases", flag_value="releases", help="Who released which version of a model when, newest first.")
@click.option("look", "--card", flag_value="card", help="The model card, in Markdown.")
@click.option("look", "--why", flag_value="why", help="Why the newest version of a model was refused, with rows.")
@click.option("--diff", nargs=2, metavar="vA vB", help="Where and how much two versions score the rows of predictions differently.")
@click.option("--live-at", metavar="MOMENT", help="Which version of a model was live at a moment.")
@click.option("--key", metavar="COL=VALUE[,COL=VALUE]", help="Trace one row back to its source files.")
@click.option("--at", metavar="MOMENT", help="Features as they were known then, an entity a row; with --key of one entity.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="How many samples or records.")
@click.option("--jobs", is_flag=True, help="Queued jobs, newest first, with why each waits; of one run with its id.")
@click.option("statuses", "--status", multiple=True, metavar="STATUS", help="With --jobs: only waiting, ready, running, done, failed, ...")
@click.option("--logs", is_flag=True, help="What the jobs of a run printed.")
@click.option("--follow", is_flag=True, help="With --logs: until they have ended.")
@click.option("--automations", is_flag=True, help="What runs by itself when, when it did last and why, and what it waits for.")
@click.option("--costs", is_flag=True, help="What jobs took, by day and name.")
@click.option("--days", type=click.IntRange(min=1), default=7, metavar="N", help="With --costs: how many days back.")
@shared
def show(
    face: Face, name: str | None, look: str | None, key: str | None, at: str | None, limit: int | None, live_at: str | None,
    diff: tuple[str, str] | None, jobs: bool, statuses: tuple[str, ...], logs: bool, follow: bool, costs: bool, days: int,
    automations: bool,
) -> None:  # fmt: skip
    """Show all assets, or one asset, or a run by its id."""
    if automations:
        if name or look or key or at or live_at or diff or jobs or logs or costs:
            raise click.UsageError("--automations is a question of its own")
        from penstock.cli.automations import tell

        with face.open() as project:
            tell(face, project)
        return
    if jobs or logs or costs:
        if sum((jobs, logs, costs)) > 1 or look or key or at or live_at or diff or (logs and not name) or (costs and name):
            raise click.UsageError("--jobs, --logs RUN and --costs are questions of their own")
        _queue(face, name or "", jobs, statuses, logs, follow, days, limit or 50)
        return
    if statuses or follow:
        raise click.UsageError("--status goes with --jobs, --follow with --logs")
    if live_at is not None and (name is None or look or key or at):
        raise click.UsageError("--live-at is a question of its own, about one model")
    if diff is not None and (name is None or look or key or at or live_at):
        raise click.UsageError("--diff is a question of its own, about predictions")
    if at is not None and (look is not None or name is None):
        raise click.UsageError("--at goes with the name of features, and --key or --limit")
    if look is None and key is None and at is None and limit is not None:
        raise click.UsageError("--limit goes with --rejected or --history")
    if look is not None and key is not None:
        raise click.UsageError(f"--key and --{look} are two questions; ask one")
    with face.open() as project:
        if name is None:
            _all(face, project, look, key, limit or 20)
        elif diff is not None:
            from penstock.cli import versions

            versions.diff(face, project, name, *diff)
        elif live_at is not None:
            from penstock.cli.release import tell_live

            tell_live(face, project, name, live_at)
        elif look in ("compare", "releases", "card", "why"):
            from penstock.cli import versions

            getattr(versions, look)(face, project, name, limit)
        elif at is not None:
            _known(face, project, name, at, key, limit or 20)
        elif key is not None:
            _trace(face, project, name, key)
        elif look is not None:
            globals()[f"_{look}"](face, project, name, limit)
        else:
            _one(face, project, name)


def _queue(
    face: Face, name: str, jobs: bool, statuses: tuple[str, ...], logs: bool, follow: bool, days: int, limit: int
) -> None:  # fmt: skip
    from penstock.cli import jobs as of_jobs
    from penstock.ports.queue import STATUSES

    if strange := [status for status in statuses if status not in STATUSES]:
        raise click.UsageError(f"--status {strange[0]}: known are {', '.join(STATUSES)}")
    with face.open() as project:
        if jobs:
            of_jobs.queued(face, project, name, statuses, limit)
        elif logs:
            of_jobs.logs(face, project, name, follow=follow, wait=project.clock.wait)
        else:
            of_jobs.costs(face, project, days)


# -- all assets -----------------------------------------------------------------------------------------------------
def _all(face: Face, project: Project, look: str | None, key: str | None, limit: int) -> None:
    from penstock.cli.screen import cells, status, table
    from penstock.project.figures import age, count, one_line, short
    from penstock.project.views import assets

    if look == "history":
        _runs(face, project, limit)
        return
    if look or key:
        raise click.UsageError(f"--{look or 'key'} needs the name of an asset")
    lines, trouble = assets(project)
    if face.json:
        face.document("assets", assets=[asdict(line) for line in lines], trouble=trouble)
        return
    now = project.clock.now()
    shown = table("asset", "kind", "status", "version", "rows", "rejected", "age", "description", right=("rows", "rejected", "age"))
    for line in lines:
        old = age(line.at, now) if line.at else ""
        about = one_line(line.doc, 70)
        word = status(line.status if line.version else "never made")
        shown.add_row(
            *cells(
                line.name,
                line.kind,
                word,
                short(line.version),
                count(line.rows),
                count(line.rejected or None),
                old,
                about,
                styles={0: "bold", 7: "dim"},
            )
        )
    face.show(shown)
    if trouble:
        face.note(f"status unknown: {trouble}")


def _runs(face: Face, project: Project, limit: int) -> None:
    from penstock.cli.screen import cells, status, table
    from penstock.project.figures import moment, seconds
    from penstock.project.views import runs

    found = runs(project, limit=limit)
    if face.json:
        face.document("runs", runs=found)
        return
    shown = table("run", "started", "outcome", "assets", "time", right=("time",))
    for record in found:
        told: dict[str, int] = {}
        for result in record["results"]:
            told[result["status"]] = told.get(result["status"], 0) + 1
        outcome = status("made" if record["ok"] else "failed")
        shown.add_row(
            *cells(
                record["run"],
                moment(record["started"]),
                outcome,
                ", ".join(f"{n} {w}" for w, n in told.items()),
                seconds(record["seconds"]),
            )
        )
    face.show(shown)


# -- one asset ------------------------------------------------------------------------------------------------------
def _one(face: Face, project: Project, name: str) -> None:
    from penstock.project.views import asset, not_found, run_record

    if name not in project.graph.nodes:
        from penstock.cli import jobs as of_jobs

        record = run_record(project, name)
        if record is None and not any(project.state.queue.counts(run=name).values()):
            raise not_found(project, name)
        if record is not None:
            _run(face, record)
        elif face.json:
            of_jobs.queued(face, project, name, (), 1000)
        if not face.json:
            of_jobs.of_run(face, project, name)
        return
    view = asset(project, name)
    if face.json:
        face.document("asset", **view.record())
        return
    _head(face, view, project)
    _columns(face, view)
    _check_table(face, view)
    _model(face, view.body)
    _statistics(face, view.body)
    _recent(face, view)


def _head(face: Face, view: AssetView, project: Project) -> None:
    from rich.text import Text

    from penstock.cli.screen import STYLES
    from penstock.ground.clock import from_iso
    from penstock.project.figures import age, count, of, plain, seconds, short, size

    body = view.body
    face.show(Text.assemble((view.name, "bold"), (f"  {view.kind}  ", "dim"), (view.status, STYLES.get(view.status, ""))))
    if view.doc:
        face.line(plain(view.doc))
    facts: list[tuple[str, str]] = [("why", "; ".join(view.reasons))] if view.reasons else []
    facts += [(k, ", ".join(map(str, v)) if isinstance(v, list) else str(v)) for k, v in view.declared.items()]
    facts += [("inputs", ", ".join(f"{n} {short(v)}".strip() for n, v in view.inputs.items()))] if view.inputs else []
    facts += [("used by", ", ".join(view.users))] if view.users else []
    if body:
        old = age(from_iso(str(body["at"])), project.clock.now()) if body.get("at") else ""
        facts.append(
            (
                "version",
                f"{body['version']}  made {old} ago in {seconds(body.get('seconds'))}"
                if old != "just now"
                else f"{body['version']}  made just now",
            )
        )
        if view.kind == "model":
            facts += [
                (
                    "learnt",
                    f"from {count(body.get('train_rows'))} rows, tested on {count(body.get('test_rows'))}, split at {body.get('boundary', '')}",
                )
            ]
            facts += [("features", ", ".join(map(str, body.get("features", []))))]
        else:
            facts.append(("rows", f"{count(body.get('rows'))} in {of(int(body.get('files') or 0), 'file')}, {size(body.get('bytes'))}"))
        if body.get("rejected"):
            facts.append(("rejected", f"{count(body['rejected'])}; `penstock show {view.name} --rejected` tells why"))
    else:
        facts.append(("version", f"never made; `penstock run {view.name}` makes it"))
    if view.quarantined:
        facts.append(("left out", ", ".join(view.quarantined)))
    for word, text in facts:
        face.show(Text.assemble((f"  {word:<11}", "dim"), plain(text)))


def _columns(face: Face, view: AssetView) -> None:
    from penstock.cli.screen import cells, table

    if not view.columns:
        return
    shown = table("column", "type", "")
    marks = {**dict.fromkeys(view.declared.get("key", []), "key"), str(view.declared.get("time", "")): "time"}
    for name, kind in view.columns:
        shown.add_row(*cells(name, kind, marks.get(name, ""), styles={0: "bold", 1: "cyan", 2: "dim"}))
    face.line()
    face.show(shown)


def _check_table(face: Face, view: AssetView) -> None:
    from penstock.cli.screen import cells, status, table
    from penstock.project.figures import count

    if not view.checks:
        return
    shown = table("check", "on failure", "last result", "failures", right=("failures",))
    for check in view.checks:
        passed = check.get("passed")
        word = status("passed" if passed else "failed") if passed is not None else ""
        shown.add_row(*cells(check["check"], f"{check.get('outcome', '')}s", word, count(check.get("failures") or None)))
    face.line()
    face.show(shown)


def _model(face: Face, body: Mapping[str, Any]) -> None:
    from penstock.cli.progress import slices_text
    from penstock.project.experiments import weak_text
    from penstock.project.figures import figure, gate_text, metrics, ranked

    if not body.get("metrics"):
        return
    face.line()
    intervals = body.get("evaluation", {}).get("overall", {}).get("intervals", {})
    for name, value in metrics(body["metrics"]):
        between = intervals.get(name)
        told = f"  95 % between {figure(between[0])} and {figure(between[1])}" if between else ""
        face.line(f"  {name:<22} {figure(value):>9}{told}")
    for gate in body.get("gates", []):
        face.line(f"  gate    {gate_text(gate)}", "green" if gate.get("passed") else "bold red")
    for column, (metric, slices) in ranked(body.get("slices", [])).items():
        face.line(f"  slices  {slices_text(column, metric, slices)}")
    for weak in body.get("weak", []):
        face.line(f"  weak    {weak['condition']}: {weak_text(weak)}", "yellow")


def _statistics(face: Face, body: Mapping[str, Any]) -> None:
    from penstock.cli.screen import cells, table
    from penstock.project.figures import count, figure, one_line

    for one in body.get("coverage", []):
        older = f", {one['older_share']:.1%} have only one that is too old" if one["older"] else ""
        face.line(f"  joined  {one['asset']}: {one['share'] or 0:.1%} of {count(one['rows'])} rows have a feature row{older}", "dim")
    found = body.get("statistics")
    if not found:
        return

    def told(value: Any) -> str:
        return figure(value) if isinstance(value, int | float) else one_line(value if value is not None else "", 24)

    figures = ("known", "distinct", "least", "5 %", "half", "mean", "95 %", "greatest")
    shown = table("feature", *figures, right=figures)
    for name, one in found["columns"].items():
        spread = one.get("quantiles") or {}
        known = f"{one['known']:.1%}" if one["known"] is not None else ""
        values = (one["min"], spread.get("0.05"), spread.get("0.5"), one["mean"], spread.get("0.95"), one["max"])
        shown.add_row(*cells(name, known, count(one["distinct"]), *map(told, values), styles={0: "bold"}))
    face.line()
    face.line(f"newest row {found['newest'] or 'none'}", "dim")
    face.show(shown)


def _recent(face: Face, view: AssetView) -> None:
    if view.runs:
        face.line()
        face.show(_history_table(view.runs))


def _history_table(records: Any) -> Any:
    from penstock.cli.screen import cells, status, table
    from penstock.project.figures import count, moment, one_line, seconds, short

    shown = table("at", "event", "version", "rows", "rejected", "time", "run", "why", right=("rows", "rejected", "time"))
    for r in records:
        error = r.get("error") or {}
        why = f"{error.get('code')}: {error.get('message')}" if error else "; ".join(r.get("reasons") or [])
        word = "refused" if r.get("refused") else str(r["event"])
        figures = (short(str(r.get("version", ""))), count(r.get("rows")), count(r.get("rejected") or None), seconds(r.get("seconds")))
        shown.add_row(*cells(moment(r["at"]), status(word), *figures, short(str(r.get("run", ""))), one_line(why)))
    return shown


# -- parts of one asset ---------------------------------------------------------------------------------------------
def _history(face: Face, project: Project, name: str, limit: int | None) -> None:
    from penstock.project.views import history

    found = history(project, name, limit=limit or 50)
    if face.json:
        face.document("history", asset=name, records=found)
    elif not found:
        face.line(f"{name}: never made")
    else:
        face.show(_history_table(found))


def _ledger(face: Face, project: Project, name: str, limit: int | None) -> None:
    from penstock.project.figures import moment, step_text
    from penstock.project.views import ledger

    found = ledger(project, name)
    if face.json:
        face.document("ledger", **found)
        return
    if not found["version"]:
        face.line(f"{name}: never made")
        return
    face.line(f"{name}  version {found['version']}  {moment(found['at'])}", "bold")
    for step in found["steps"]:
        face.line(f"  {step['name']:<10} {step_text(step)}", "" if step.get("balanced", True) else "bold red")


def _files(face: Face, project: Project, name: str, limit: int | None) -> None:
    from penstock.cli.screen import cells, table
    from penstock.project.figures import count, moment, size
    from penstock.project.views import files

    found = files(project, name)
    if face.json:
        face.document("files", asset=name, files=found)
        return
    shown = table("file", "status", "rows", "size", "loaded", right=("rows", "size"))
    for f in found:
        shown.add_row(*cells(f["file"], f["status"], count(f["rows"]), size(f["size"]), moment(f["loaded_at"])))
    face.show(shown)


def _rejected(face: Face, project: Project, name: str, limit: int | None) -> None:
    from penstock.project.figures import of, one_line
    from penstock.project.views import rejected

    found = rejected(project, name, limit=limit or 3)
    if face.json:
        face.document("rejected", asset=name, rows=sum(g.rows for g in found), groups=[asdict(g) for g in found])
        return
    if not found:
        face.line(f"{name}: no rejected rows", "green")
        return
    face.line(f"{name}: {of(sum(g.rows for g in found), 'rejected row')}; after a fix `penstock replay {name}` tries them again", "bold")
    for group in found:
        face.line()
        face.line(
            f"{group.check}  {of(group.rows, 'row')}  ({'could not be read' if group.stage == 'parse' else 'failed the check'})", "yellow"
        )
        for sample in group.samples:
            where = f"{sample['file'] or ''}:{sample['position'] or ''}".strip(":")
            face.line(f"    {one_line(where, 60)}  {one_line(sample['reason'] or '', 100)}")
            face.line(f"        {one_line(sample['original'] or '', 300)}", "dim")


def _lineage(face: Face, project: Project, name: str, limit: int | None) -> None:
    from penstock.project.views import lineage

    up, down = lineage(project, name)
    if face.json:
        face.document("lineage", asset=name, up=asdict(up), down=asdict(down))
        return
    if up.next:
        face.line("made of", "dim")
        face.show(_tree(up))
    if down.next:
        face.line("makes", "dim")
        face.show(_tree(down))
    if not up.next and not down.next:
        face.show(_tree(up))


def _tree(node: Lineage) -> Any:
    from rich.tree import Tree

    tree = Tree(_label(node), guide_style="dim")
    waiting = [(tree, node)]
    while waiting:
        branch, at = waiting.pop()
        for child in at.next:
            waiting.append((branch.add(_label(child)), child))
    return tree


def _label(node: Lineage) -> Any:
    from rich.text import Text

    from penstock.project.figures import count, moment, short

    label = Text.assemble((node.asset, "bold"), (f"  {node.kind}", "dim"))
    if not node.version:
        return label.append("  never made", style="dim")
    label.append(f"  {short(node.version)}", style="cyan").append(f"  {moment(node.at)}")
    if node.rows is not None:
        label.append(f"  {count(node.rows)} rows")
    if not node.newest:
        label.append("  (a newer version exists)", style="yellow")
    return label.append("  (shown above)", style="dim") if node.again else label


# -- features at a moment -------------------------------------------------------------------------------------------
def _known(face: Face, project: Project, name: str, at: str, key: str | None, limit: int) -> None:
    from penstock.cli.screen import cells, table
    from penstock.project.figures import cell, of, seconds
    from penstock.project.query import moment

    then = moment(at)
    found = project.features_at(name, then, [pairs(key)] if key is not None else None).rows()
    if face.json:
        face.document("features", asset=name, at=then.isoformat(), rows=len(found), values=found[:limit])
        return
    if not found:
        face.line(f"{name}: nothing was known at {at}")
        return
    shown = table(*("age" if c == "age_s" else c for c in found[0]))
    for row in found[:limit]:
        told = {c: seconds(v) if c == "age_s" else ("yes" if v else "") if c == "expired" else cell(v, 30) for c, v in row.items()}
        shown.add_row(*cells(*told.values()))
    face.show(shown)
    if len(found) > limit:
        face.note(f"{of(len(found), 'row')}; --limit shows more")


# -- one row --------------------------------------------------------------------------------------------------------
def _trace(face: Face, project: Project, name: str, key: str) -> None:
    step = project.trace(name, pairs(key))
    if face.json:
        face.document("trace", **step.record())
    else:
        face.show(_trace_tree(step))


def pairs(text: str) -> dict[str, str]:
    """`a=1,b=x` as names and values; a comma belongs to the value before it unless a name and `=` follow."""
    import re

    found: dict[str, str] = {}
    for part in re.split(r",(?=[^,=]+=)", text):
        column, equals, value = part.partition("=")
        if not (column and equals):
            raise click.BadParameter(f"{text!r} is not of the form column=value[,column=value]", param_hint="--key")
        found[column.strip()] = value
    return found


def _trace_tree(step: TraceStep) -> Any:
    from rich.tree import Tree

    tree = Tree(_trace_label(step), guide_style="dim")
    _trace_branches(tree, step)
    return tree


def _trace_branches(branch: Any, step: TraceStep) -> None:
    from rich.text import Text

    from penstock.project.figures import cell, one_line

    for row in step.rows:
        told = "  ".join(f"{k}={cell(v, 40)}" for k, v in row.items() if v is not None)
        branch.add(Text(one_line(told, 400)))
    for place in step.origin:
        branch.add(Text(f"{one_line(place['file'], 200)}, row {place['row']}", style="green"))
    for child in step.inputs:
        _trace_branches(branch.add(_trace_label(child)), child)


def _trace_label(step: TraceStep) -> Any:
    from rich.text import Text

    from penstock.project.figures import plain, short

    label = Text.assemble((step.asset, "bold"), (f"  {step.kind}", "dim"), (f"  {short(step.version)}", "cyan"))
    return label.append(f"  {plain(step.note)}", style="yellow") if step.note else label


# -- one run --------------------------------------------------------------------------------------------------------
def _run(face: Face, record: Mapping[str, Any]) -> None:
    from penstock.cli.failure import print_record, recorded_lines
    from penstock.cli.progress import body_lines
    from penstock.project.figures import moment, seconds

    if face.json:
        face.document("run", **record)
        return
    face.line(
        f"run {record['run']}  {moment(record['started'])}  {seconds(record['seconds'])}", "bold green" if record["ok"] else "bold red"
    )
    for result in record["results"]:
        if result["status"] in ("made", "unchanged", "refused"):
            for text, style in body_lines(result["asset"], result):
                face.line(text, style)
        else:
            face.line(
                f"- {result['asset']:<24} {result['kind']:<12} {result['status']}", "dim" if result["status"] == "fresh" else "yellow"
            )
            if error := result.get("error"):
                print_record(face, error, list(recorded_lines(str(error.get("traceback", "")))), indent="  ", console=face.out)
