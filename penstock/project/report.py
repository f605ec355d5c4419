"""What happened in a run as one HTML page that opens anywhere, offline and without scripts; and parts of it for notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock.graph.graph import Graph
from penstock.ground.clock import iso
from penstock.ground.paths import private_folder, write_atomically
from penstock.plan.records import Plan
from penstock.ports.state import State
from penstock.project import figures
from penstock.project.drawing import STATUS_COLOURS, Box, bar, calibration_svg, curves_svg, lineage_svg
from penstock.project.figures import count, figure, moment, of, one_line, seconds
from penstock.project.markup import Html, joined, table, tag
from penstock.project.settings import Settings
from penstock.run.execute import AssetResult, RunReport

#: Rows of a result that a notebook shows, and slices of one column that a page shows at either end.
NOTEBOOK_ROWS, ENDS = 20, 5

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 14px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; color: #0f172a; background: #f8fafc; margin: 0; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 24px 64px; }
h1 { font-size: 22px; margin: 0; } h2 { font-size: 16px; margin: 34px 0 10px; } h3 { font-size: 14px; margin: 18px 0 6px; color: #334155; }
p { margin: 4px 0; } .dim, .s { color: #64748b; } a { color: #2563eb; text-decoration: none; }
code, .mono { font: 12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0 0; }
.card { background: #fff; border: 1px solid #e2e8f0; border-radius: 10px; padding: 10px 16px; min-width: 112px; }
.card b { display: block; font-size: 20px; font-weight: 600; } .card span { color: #64748b; font-size: 12.5px; }
.panel { background: #fff; border: 1px solid #e2e8f0; border-radius: 10px; padding: 6px 16px 12px; overflow-x: auto; margin: 0 0 14px; }
.panel > svg { display: block; margin: 8px auto 2px; } .panel > svg.fit { max-width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: #475569; font-size: 12.5px; border-bottom: 1px solid #e2e8f0; padding: 8px 14px 6px 0; }
td { padding: 6px 14px 6px 0; border-bottom: 1px solid #f1f5f9; vertical-align: top; overflow-wrap: anywhere; }
tr:last-child td { border-bottom: 0; } .r { text-align: right; white-space: nowrap; overflow-wrap: normal; }
td svg { vertical-align: middle; } .nw { white-space: nowrap; overflow-wrap: normal; }
.pill { display: inline-block; padding: 0 9px; border-radius: 999px; font-size: 12.5px; font-weight: 600; color: #fff; white-space: nowrap; }
.error { border-left: 4px solid #dc2626; padding: 8px 14px; margin: 8px 0; background: #fef2f2; border-radius: 0 8px 8px 0; }
.error pre { margin: 8px 0 0; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 12px; color: #7f1d1d; }
.two { display: flex; flex-wrap: wrap; gap: 28px; align-items: flex-start; } .two > div { flex: 1 1 300px; min-width: 0; } .two > .fix { flex: 0 0 auto; }
svg text { font: 11px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; fill: #64748b; }
svg text.n { font-size: 13px; font-weight: 600; fill: #0f172a; } svg .g { stroke: #eef2f7; }
"""


def write_report(report: RunReport, graph: Graph, state: State, settings: Settings) -> Path:
    """Writes the page of a run under `.penstock/reports/` and returns its path. Raises: OSError."""
    bodies = {name: head.body for name, head in state.heads("asset").items()}
    page = report_html(report, graph, bodies, name=settings.name, level=settings.level)
    path = private_folder(settings.folder / "reports") / f"{report.run}.html"
    write_atomically(path, page.encode("utf-8", "replace"))
    return path


def report_html(report: RunReport, graph: Graph, bodies: Mapping[str, Mapping[str, Any]], *, name: str, level: str = "embedded") -> str:
    """The whole page. `bodies` are newest records of assets, for those that this run left alone."""
    results = {r.asset: r for r in report.results}
    boxes = {n.name: _lineage_box(n.name, n.kind, results.get(n.name), bodies.get(n.name, {})) for n in graph}
    content = tag(
        "main",
        _head(report, name, level),
        [_error(r) for r in report.results if r.error],
        tag("h2", "Lineage"), tag("div", lineage_svg(graph, boxes), class_="panel"),
        tag("h2", "Assets"), tag("div", _assets(report.results, bodies), class_="panel"),
        [_model_section(r) for r in report.results],
        _section("Ledger", _ledger(report.results)),
        _section("Checks", _checks(report.results)),
    )  # fmt: skip
    return whole_page(f"{name}: run {report.run}", content)


def whole_page(title: str, content: Html) -> str:
    """A document that opens anywhere: styled, without scripts, and asking the network for nothing."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    head = tag(
        "head", tag("meta", charset="utf-8"), tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"), tag("title", title), tag("style", Html(STYLE)),
    )  # fmt: skip
    return f"<!doctype html>\n{tag('html', head, tag('body', content), lang='en')}\n"


def pill(word: str, status: str = "") -> Html:
    """A word on the colour of a status, its own if none is given."""
    return tag("span", word, class_="pill", style=f"background: {STATUS_COLOURS.get(status or word, '#64748b')}")


def _head(report: RunReport, name: str, level: str) -> Html:
    counted: dict[str, int] = {}
    for result in report.results:
        counted[result.status] = counted.get(result.status, 0) + 1
    worked = [r.body for r in report.results if r.status in ("made", "unchanged", "refused")]
    rejected = sum(int(b.get("rejected") or 0) for b in worked)
    cards = [(count(n), word) for word, n in counted.items()]
    cards += [
        (count(sum(int(b.get("rows") or 0) for b in worked)), "rows in what was made"),
        (count(rejected), "rows rejected"),
        (seconds(report.seconds), "in all"),
    ]
    return joined([
        tag("h1", f"{name} ", pill("made" if report.ok else "failed")),
        tag("p", f"run {report.run}, {moment(iso(report.started))}, level {level}", class_="dim"),
        tag("div", [tag("div", tag("b", number), tag("span", word), class_="card") for number, word in cards], class_="cards"),
    ])  # fmt: skip


def _lineage_box(name: str, kind: str, result: AssetResult | None, body: Mapping[str, Any]) -> Box:
    newest = result.body if result is not None and result.body else body
    rows = newest.get("rows") if kind != "model" else None
    told = f"{count(rows)} rows" if rows is not None else ""
    if kind == "model" and newest.get("metrics"):
        metric, value = figures.metrics(newest["metrics"])[0]
        told = f"{metric} {figure(value)}"
    return Box(name, kind, f"{kind}  {told}".strip(), result.status if result is not None else "fresh")


def _error(result: AssetResult) -> Html:
    error = result.error or {}
    parts = [(word, error.get(word)) for word in ("expected", "got", "hint") if error.get(word)]
    return tag(
        "div",
        tag("b", f"{error.get('code', '')} {error.get('place') or result.asset}: "), str(error.get("message", "")),
        [tag("p", tag("span", f"{word}: ", class_="dim"), str(value)) for word, value in parts],
        tag("pre", str(error["traceback"])) if error.get("traceback") else None,
        class_="error",
    )  # fmt: skip


def _assets(results: Sequence[AssetResult], bodies: Mapping[str, Mapping[str, Any]]) -> Html:
    longest = max((r.seconds for r in results), default=0.0) or 1.0
    rows: list[list[object]] = []
    for r in results:
        body = r.body or bodies.get(r.asset, {})
        bold = tag("b", r.asset, class_="nw")
        name = tag("a", bold, href=f"#{r.asset}") if r.body and r.kind == "model" else bold
        size = count(body.get("rows")) if r.kind != "model" else count(body.get("train_rows"))
        time = [bar(r.seconds / longest), f" {seconds(r.seconds)}"] if r.status != "fresh" else ""
        rows.append(
            [
                name,
                tag("span", r.kind, class_="nw"),
                pill(r.status),
                "; ".join(r.reasons),
                size,
                count(body.get("rejected") or None),
                tag("span", time),
            ]
        )
    return table(["asset", "kind", "status", "why", "rows", "rejected", "time"], rows, right=("rows", "rejected", "time"))


# -- ledger and checks ----------------------------------------------------------------------------------------------
def _section(title: str, shown: Html | None) -> Html | None:
    return joined([tag("h2", title), tag("div", shown, class_="panel")]) if shown is not None else None


def _ledger(results: Sequence[AssetResult]) -> Html | None:
    """Every step of every asset that this run worked on."""
    rows: list[list[object]] = []
    for r in results:
        for i, step in enumerate(r.body.get("ledger", ())):
            law = (
                ""
                if not step.get("keeps", True)
                else tag("span", "balances", class_="nw")
                if step.get("balanced", True)
                else pill("failed")
            )
            rows.append(
                [tag("b", r.asset, class_="nw") if i == 0 else "", tag("span", step["name"], class_="nw"), figures.step_text(step), law]
            )
    return table(["asset", "step", "rows", ""], rows) if rows else None


def _checks(results: Sequence[AssetResult]) -> Html | None:
    rows: list[list[object]] = []
    for r in results:
        for i, check in enumerate(r.body.get("checks", ())):
            name = tag("b", r.asset, class_="nw") if i == 0 else ""
            said = one_line(str(check.get("text", "")).removeprefix(f"{check.get('check')}: "))
            rows.append([name, tag("code", check.get("check", "")), _verdict(check), said, count(check.get("failures") or None)])
    return table(["asset", "check", "", "result", "failures"], rows, right=("failures",)) if rows else None


def _verdict(check: Mapping[str, Any]) -> Html:
    """Green if it passed, red if it stops the publishing, else amber with what it did."""
    if check.get("passed"):
        return pill("passed", "made")
    return {"reject": pill("rejects", "skipped"), "warn": pill("warns", "skipped")}.get(str(check.get("outcome")), pill("blocks", "failed"))


# -- models ---------------------------------------------------------------------------------------------------------
def _model_section(result: AssetResult) -> Html | None:
    if result.kind != "model" or not result.body:
        return None
    version = tag("p", f"version {result.body.get('version', '')}", class_="dim")
    return joined(
        [tag("h2", result.asset, " ", pill(result.status), id=result.asset), tag("div", version, _model(result.body), class_="panel")]
    )


def _model(body: Mapping[str, Any]) -> Html:
    metrics = _metrics(body)
    learnt = f"learnt from {count(body.get('train_rows'))} rows, tested on {count(body.get('test_rows'))}"
    learnt += f", split at {body['boundary']}" if body.get("boundary") else ""
    drawn = calibration_svg(body.get("calibration") or {})
    two = [tag("div", tag("h3", "Metrics of the test set"), metrics, class_="fix"), tag("div", _gates(body.get("gates", ())))]
    if drawn is not None:
        title = "Predicted and observed" if (body.get("calibration") or {}).get("residuals") else "Calibration"
        two.append(tag("div", tag("h3", title), drawn, class_="fix"))
    plots = [tag("div", tag("h3", title), picture, class_="fix") for title, picture in curves_svg(body.get("curves") or {})]
    slices = [_slices(column, metric, found) for column, (metric, found) in figures.ranked(body.get("slices", ())).items()]
    found = [part for part in (_weak(body.get("weak") or ()), _drifts(body.get("figures") or {})) if part is not None]
    return joined(
        [
            tag("p", learnt),
            tag("div", two, class_="two"),
            tag("div", plots, class_="two") if plots else None,
            tag("div", [tag("div", part) for part in (*slices, *found)], class_="two") if slices or found else None,
        ]
    )


def _metrics(body: Mapping[str, Any]) -> Html:
    """Metrics with their intervals, where the record has them."""
    known = (body.get("evaluation") or {}).get("overall", {}).get("intervals", {})
    rows: list[list[object]] = [
        [k, figure(v), " to ".join(figure(e) for e in known.get(k, ()))] for k, v in figures.metrics(body.get("metrics", {}))
    ]
    if not known:
        return table(["metric", "value"], [row[:2] for row in rows], right=("value",))
    return table(["metric", "value", "95 % interval"], rows, right=("value", "95 % interval"))


def _weak(weak: Sequence[Mapping[str, Any]]) -> Html | None:
    """Weak slices that were found, each with its condition."""
    if not weak:
        return None
    rows: list[list[object]] = [
        [tag("code", one_line(w["condition"], 120)), count(w["rows"]), figure(w["loss"]), figure(w["elsewhere"]), f"{w['p']:.2g}"]
        for w in weak
    ]
    note = tag("span", ", found by themselves; mean loss on the half they were not found on", class_="dim")
    return joined(
        [
            tag("h3", "Weak slices", note),
            table(["rows where", "rows", "loss", "elsewhere", "p"], rows, right=("rows", "loss", "elsewhere", "p")),
        ]
    )


def _drifts(told: Mapping[str, Any]) -> Html | None:
    """Features that differ most between training and test rows."""
    drifts = [d for d in told.get("drifts", ()) if d["psi"] > 0][:ENDS]
    if not drifts:
        return None
    rows: list[list[object]] = [[tag("b", one_line(d["column"], 60)), bar(d["psi"]), figure(d["psi"])] for d in drifts]
    note = tag("span", ", training to test rows; above 0.25 is much", class_="dim")
    return joined([tag("h3", "Drift", note), table(["feature", "", "PSI"], rows, right=("PSI",))])


def _gates(gates: Sequence[Mapping[str, Any]]) -> Html | None:
    if not gates:
        return None
    rows: list[list[object]] = [
        [
            tag("code", g.get("name", "")),
            figure(g.get("value")),
            pill("passed", "made") if g.get("passed") else pill("failed"),
            str(g.get("slice") or ""),
            str(g.get("reason") or ""),
        ]
        for g in gates
    ]
    return joined([tag("h3", "Gates"), table(["gate", "value", "", "slice", "why"], rows, right=("value",))])


def _slices(column: str, metric: str, slices: Sequence[Mapping[str, Any]]) -> Html:
    """Best and worst slices of a column, as bars."""
    shown = list(slices) if len(slices) <= 2 * ENDS + 1 else [*slices[:ENDS], *slices[-ENDS:]]
    left_out = len(slices) - len(shown)
    values = [abs(float(s[metric])) for s in shown]
    longest = 1.0 if max(values, default=0) <= 1 else max(values)
    rows: list[list[object]] = [
        [tag("b", one_line(s.get("value"), 60)), bar(abs(float(s[metric])) / longest), figure(s[metric]), count(s.get("rows"))]
        for s in shown
    ]
    note = f", best and worst; {of(left_out, 'slice')} between them left out" if left_out else ", best first"
    return joined(
        [
            tag("h3", f"{metric} by {column}", tag("span", note, class_="dim")),
            table(["slice", "", metric, "rows"], rows, right=(metric, "rows")),
        ]
    )


# -- parts for notebooks --------------------------------------------------------------------------------------------
def _fragment(*children: object) -> str:
    style = "<style>.penstock td, .penstock th { text-align: left !important; } .penstock .r { text-align: right !important; }</style>"
    return str(tag("div", Html(style), children, class_="penstock"))


def plan_html(plan: Plan) -> str:
    """A plan as a fragment: its cost, and why each asset is stale."""
    rows: list[list[object]] = [
        [
            tag("b", a.asset),
            a.kind,
            a.status,
            "; ".join(r.text for r in a.reasons),
            count(a.rows) if a.works else "",
            seconds(a.seconds) if a.works else "",
        ]
        for a in plan
    ]
    shown = table(["asset", "kind", "status", "why", "rows", "time"], rows, right=("rows", "time"))
    return _fragment(tag("p", figures.plan_text(plan)), shown)


def run_html(report: RunReport) -> str:
    """A run as a fragment: what became of each asset."""
    rows: list[list[object]] = [
        [tag("b", r.asset), r.kind, r.status, _why(r), count(r.body.get("rows")), count(r.body.get("rejected") or None), seconds(r.seconds)]
        for r in report.results
    ]
    head = f"run {report.run}: {'fine' if report.ok else 'failed'}, {seconds(report.seconds)}"
    return _fragment(
        tag("p", head), table(["asset", "kind", "status", "why", "rows", "rejected", "time"], rows, right=("rows", "rejected", "time"))
    )


def _why(result: AssetResult) -> str:
    if result.error:
        return f"{result.error.get('code', '')}: {result.error.get('message', '')}"
    return "; ".join(result.reasons)


def rows_html(rows: Any) -> str:
    """The first rows of an Arrow table as a fragment, with types and the number of all."""
    names = [str(f.name) for f in rows.schema]
    types = [figures.type_name(f.type) for f in rows.schema]
    heads = [joined([tag("th", name, tag("br"), tag("small", kind)) for name, kind in zip(names, types, strict=True)])]
    columns = [column.to_pylist() for column in rows.slice(0, NOTEBOOK_ROWS).columns]
    body = [tag("tr", [tag("td", figures.cell(value)) for value in row]) for row in zip(*columns, strict=True)]
    more = f"{of(rows.num_rows, 'row')}" + (f", {NOTEBOOK_ROWS} shown" if rows.num_rows > NOTEBOOK_ROWS else "")
    return _fragment(tag("table", tag("thead", tag("tr", heads)), tag("tbody", body)), tag("p", more))
