"""Versions of a model beside each other as one HTML page: metrics with intervals, parameters, gates, cost, curves; opens offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock.ground.paths import private_folder, write_atomically
from penstock.project.experiments import differing, telling, with_interval
from penstock.project.figures import count, figure, moment, seconds, size
from penstock.project.markup import Html, joined, table, tag
from penstock.project.project import Project
from penstock.project.report import pill, whole_page

#: Size of a plot in pixels, and of its margins.
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 490, 200, 64, 44, 12
#: Colours of versions in one plot, the newest first; more versions are not drawn.
COLOURS = ("#2563eb", "#c2410c", "#16a34a", "#7c3aed", "#0891b2", "#64748b")


def write_page(project: Project, model: str, versions: Sequence[Mapping[str, Any]]) -> Path:
    """Writes the page under `.penstock/reports/` and returns its path. Raises: OSError."""
    path = private_folder(project.settings.folder / "reports") / f"{model}-versions.html"
    write_atomically(path, page(model, versions).encode("utf-8", "replace"))
    return path


def page(model: str, versions: Sequence[Mapping[str, Any]]) -> str:
    """The whole page."""
    metrics = telling(versions, most=4)
    plots = [tag("div", tag("h3", m), drawn, class_="fix") for m in metrics if (drawn := metric_svg(versions, m)) is not None]
    names = differing(versions)
    swept = [
        tag("div", tag("h3", f"{metrics[0]} by {n}"), drawn, class_="fix")
        for n in names
        if metrics and (drawn := parameter_svg(versions, n, metrics[0])) is not None
    ]
    content = tag(
        "main", tag("h1", f"{model}: {len(versions)} versions"),
        tag("h2", "Metrics of the test rows, with 95 % intervals"), tag("div", tag("div", plots, class_="two"), class_="panel"),
        [tag("h2", "By parameter"), tag("div", tag("div", swept, class_="two"), class_="panel")] if swept else None,
        _curves(versions),
        tag("h2", "Versions"), tag("div", _table(versions, names, metrics), class_="panel"),
        tag("h2", "Data"), tag("div", _data(versions), class_="panel"),
    )  # fmt: skip
    return whole_page(f"{model}: versions", content)


def _state(version: Mapping[str, Any]) -> Html:
    return pill("refused") if version["refused"] else pill("live", "made") if version["live"] else pill("passed", "fresh")


def _table(versions: Sequence[Mapping[str, Any]], names: Sequence[str], metrics: Sequence[str]) -> Html:
    rows: list[list[object]] = []
    for v in versions:
        cells: list[object] = [tag("b", v["version"]), _state(v), tag("span", moment(v["at"]), class_="nw")]
        cells += [str(v["params"].get(n, "")) for n in names]
        cells += [tag("span", with_interval(v, m), class_="nw") for m in metrics]
        worst = v["worst"]
        cells.append(f"{worst['column']} {worst['value']} {figure(worst['is'])}" if worst else "")
        cells.append("; ".join(v["failed"]))
        cells += [seconds(v["fit_seconds"]), seconds(v["cpu_seconds"]), size(v["peak_memory_bytes"]) if v["peak_memory_bytes"] else ""]
        rows.append(cells)
    heads = ["version", "", "made", *names, *metrics, "worst slice", "failed gates", "fit", "CPU", "memory"]
    return table(heads, rows, right=("fit", "CPU", "memory"))


def _data(versions: Sequence[Mapping[str, Any]]) -> Html:
    inputs = sorted({n for v in versions for n in v["inputs"]})
    rows: list[list[object]] = [
        [
            tag("b", v["version"]),
            count(v["train_rows"]),
            count(v["test_rows"]),
            *(tag("code", str(v["inputs"].get(n, ""))[:12]) for n in inputs),
        ]
        for v in versions
    ]
    return table(["version", "learnt from", "tested on", *inputs], rows, right=("learnt from", "tested on"))


def _curves(versions: Sequence[Mapping[str, Any]]) -> Html | None:
    """The newest versions' ROC, precision-recall and learning curves, each version a line of its own colour."""
    few = versions[: len(COLOURS)]
    drawn = []
    for name, x, y in (("roc", "false positive rate", "true positive rate"), ("precision_recall", "recall", "precision")):
        lines = [(v["version"], list(zip(c["x"], c["y"], strict=True))) for v in few if isinstance(c := v["curves"].get(name), Mapping)]
        if lines:
            drawn.append(tag("div", tag("h3", name.replace("_", " and ")), lines_svg(lines, x, y), class_="fix"))
    learnt = [(v["version"], points) for v in few if len(points := _learning(v["learning"])) > 1]
    if learnt:
        drawn.append(tag("div", tag("h3", "Learning"), lines_svg(learnt, "step", "reported"), class_="fix"))
    return joined([tag("h2", "Curves"), tag("div", tag("div", drawn, class_="two"), class_="panel")]) if drawn else None


def _learning(points: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """The first reported value over the steps of the last phase."""
    last = [p for p in points if p["phase"] == points[-1]["phase"]] if points else []
    names = list(last[0]["values"]) if last else []
    return [(float(p["step"]), float(p["values"][names[0]])) for p in last if names and names[0] in p["values"]]


# -- plots ----------------------------------------------------------------------------------------------------------
def metric_svg(versions: Sequence[Mapping[str, Any]], metric: str) -> Html | None:
    """A metric version by version, oldest left: dots with intervals; the live version is filled, refused ones are red."""
    having = [v for v in reversed(versions) if v["metrics"].get(metric) is not None]
    if not having:
        return None
    ends = [v["intervals"].get(metric) or [v["metrics"][metric]] * 2 for v in having]
    scale = _scale([e for pair in ends for e in pair])
    step = (WIDTH - LEFT - 12) / len(having)
    marks: list[object] = []
    for i, (v, (low, high)) in enumerate(zip(having, ends, strict=True)):
        x, y = LEFT + (i + 0.5) * step, scale(v["metrics"][metric])
        colour = "#dc2626" if v["refused"] else "#16a34a" if v["live"] else "#2563eb"
        told = f"{v['version']}: {with_interval(v, metric)}"
        marks += [
            tag("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=f"{scale(low):.1f}", y2=f"{scale(high):.1f}", stroke=colour, stroke_width=1.5),
            tag("circle", tag("title", told), cx=f"{x:.1f}", cy=f"{y:.1f}", r=4.5, fill=colour if v["live"] else "#ffffff", stroke=colour, stroke_width=2),
        ]  # fmt: skip
        if len(having) <= 24 or i % -(-len(having) // 24) == 0:
            marks.append(tag("text", v["version"], x=f"{x:.1f}", y=HEIGHT + TOP + 16, text_anchor="middle"))
    return _plot(scale, marks, metric)


def parameter_svg(versions: Sequence[Mapping[str, Any]], name: str, metric: str) -> Html | None:
    """A metric over a numeric parameter; None if it is no number."""
    points = [(v["params"].get(name), v["metrics"].get(metric), v) for v in versions]
    given = [(p, m, v) for p, m, v in points if isinstance(p, int | float) and not isinstance(p, bool) and m is not None]
    if len({p for p, _, _ in given}) < 2:
        return None
    scale = _scale([m for _, m, _ in given])
    low, high = min(p for p, _, _ in given), max(p for p, _, _ in given)
    marks: list[object] = []
    for p, m, v in given:
        x = LEFT + 12 + (p - low) / (high - low) * (WIDTH - LEFT - 36)
        colour = "#dc2626" if v["refused"] else "#16a34a" if v["live"] else "#2563eb"
        marks.append(
            tag(
                "circle",
                tag("title", f"{v['version']}: {name} {p:g}, {figure(m)}"),
                cx=f"{x:.1f}",
                cy=f"{scale(m):.1f}",
                r=4.5,
                fill=colour,
                fill_opacity=0.7,
            )
        )
    for p in (low, high):
        x = LEFT + 12 + (p - low) / (high - low) * (WIDTH - LEFT - 36)
        marks.append(tag("text", f"{p:g}", x=f"{x:.1f}", y=HEIGHT + TOP + 16, text_anchor="middle"))
    return _plot(scale, marks, f"{metric} by {name}")


def lines_svg(lines: Sequence[tuple[str, Sequence[tuple[float, float]]]], x: str, y: str) -> Html:
    """Named lines over common axes, with a legend."""
    scale = _scale([b for _, points in lines for _, b in points])
    low, high = min(a for _, points in lines for a, _ in points), max(a for _, points in lines for a, _ in points)
    across = (WIDTH - LEFT - 24) / ((high - low) or 1.0)
    marks: list[object] = []
    for (name, points), colour in zip(lines, COLOURS, strict=False):
        path = " ".join(f"{LEFT + 12 + (a - low) * across:.1f},{scale(b):.1f}" for a, b in points)
        marks.append(tag("polyline", tag("title", name), points=path, fill="none", stroke=colour, stroke_width=1.6))
    for i, ((name, _), colour) in enumerate(zip(lines, COLOURS, strict=False)):
        marks.append(tag("text", name, x=LEFT + 18 + i * 52, y=HEIGHT + TOP + 38, fill=colour, style=f"fill: {colour}; font-weight: 600"))
    marks += [
        tag("text", f"{v:.3g}", x=f"{LEFT + 12 + (v - low) * across:.1f}", y=HEIGHT + TOP + 16, text_anchor="middle") for v in (low, high)
    ]
    marks.append(tag("text", f"{y} over {x}", x=WIDTH / 2 + LEFT / 2, y=HEIGHT + TOP + 16, text_anchor="middle"))
    return _plot(scale, marks, f"{y} over {x}")


class _scale:
    """A value as a place from the top, with a little room at both ends."""

    def __init__(self, values: Sequence[float]) -> None:
        low, high = min(values), max(values)
        room = (high - low) * 0.12 or abs(high) * 0.05 or 0.5
        self.low, self.high = low - room, high + room

    def __call__(self, value: float) -> float:
        return TOP + (self.high - value) / (self.high - self.low) * HEIGHT

    def ticks(self) -> list[float]:
        return [self.low + (self.high - self.low) * i / 4 for i in range(5)]


def _plot(scale: _scale, marks: Sequence[object], label: str) -> Html:
    grid = [tag("line", x1=LEFT, x2=WIDTH, y1=f"{scale(t):.1f}", y2=f"{scale(t):.1f}", class_="g") for t in scale.ticks()]
    texts = [tag("text", f"{t:.4g}", x=LEFT - 8, y=f"{scale(t) + 4:.1f}", text_anchor="end") for t in scale.ticks()]
    whole = HEIGHT + TOP + BOTTOM
    return tag(
        "svg", grid, texts, joined(list(marks)), viewBox=f"0 0 {WIDTH} {whole}", width=WIDTH, height=whole, role="img", aria_label=label
    )
