"""Pictures as SVG: the lineage of a project in layers, the curves of a model, bars. Pure; sizes in pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, log10
from typing import Any

from penstock.graph.graph import Graph
from penstock.project.figures import count, figure, one_line
from penstock.project.markup import Html, tag

KIND_COLOURS = {"source": "#64748b", "table": "#2563eb", "features": "#7c3aed", "model": "#c2410c", "predictions": "#047857"}
STATUS_COLOURS = {
    "made": "#16a34a", "unchanged": "#16a34a", "fresh": "#94a3b8", "failed": "#dc2626", "refused": "#dc2626", "skipped": "#d97706",
    "stale": "#d97706", "waiting": "#0891b2", "look": "#0891b2",
}  # fmt: skip
WIDTH, HEIGHT, ACROSS, DOWN, EDGE = 176, 48, 56, 16, 8
#: Up to this width a picture shrinks to its page; a wider one is scrolled, or its texts would be too small.
FIT = 1700


@dataclass(frozen=True)
class Box:
    """One asset of the picture: its name, kind, a second line, and a status for its dot."""

    name: str
    kind: str
    text: str
    status: str


# -- lineage --------------------------------------------------------------------------------------------------------
def layers(graph: Graph) -> list[list[str]]:
    """Names by distance from the sources, with `a>b@n` where an edge from a to b passes layer n; ordered to cross little.

    Source: Sugiyama, Tagawa, Toda 1981, with the mean of the neighbours' places as the measure.
    """
    depth: dict[str, int] = {}
    for node in graph:
        depth[node.name] = max((depth[i] + 1 for i in node.inputs), default=0)
    rows: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    before: dict[str, list[str]] = {}
    for node in graph:
        rows[depth[node.name]].append(node.name)
        before[node.name] = []
        for needed in node.inputs:
            last = needed
            for layer in range(depth[needed] + 1, depth[node.name]):
                point = f"{needed}>{node.name}@{layer}"
                rows[layer].append(point)
                before[point], last = [last], point
            before[node.name].append(last)
    after: dict[str, list[str]] = {}
    for name, needed_names in before.items():
        for needed in needed_names:
            after.setdefault(needed, []).append(name)
    for turn in range(6):
        for row in rows if turn % 2 == 0 else reversed(rows):
            _reordered(row, before if turn % 2 == 0 else after, rows)
    return rows


def _reordered(row: list[str], beside: Mapping[str, list[str]], rows: list[list[str]]) -> None:
    place = {name: i / max(len(r) - 1, 1) for r in rows for i, name in enumerate(r)}
    own = {name: place[name] for name in row}

    def wish(name: str) -> float:
        near = [place[n] for n in beside.get(name, ())]
        return sum(near) / len(near) if near else own[name]

    row.sort(key=wish)


def lineage_svg(graph: Graph, boxes: Mapping[str, Box]) -> Html:
    """The project from left to right: sources, what is made of them, and so on."""
    rows = layers(graph)
    tall = max((len(r) for r in rows), default=0)
    height = tall * (HEIGHT + DOWN) - DOWN + 2 * EDGE
    width = len(rows) * (WIDTH + ACROSS) - ACROSS + 2 * EDGE
    at: dict[str, tuple[float, float]] = {}
    for i, row in enumerate(rows):
        top = EDGE + (height - 2 * EDGE - (len(row) * (HEIGHT + DOWN) - DOWN)) / 2
        for j, name in enumerate(row):
            at[name] = (EDGE + i * (WIDTH + ACROSS), top + j * (HEIGHT + DOWN) + HEIGHT / 2)
    edges = [_edge(at, needed, node.name) for node in graph for needed in node.inputs]
    drawn = [_box(boxes[n.name], *at[n.name]) for n in graph if n.name in boxes]
    fit = "fit" if width <= FIT else None
    return tag(
        "svg", edges, drawn, viewBox=f"0 0 {width} {height}", width=width, height=height, class_=fit, role="img", aria_label="lineage"
    )


def _edge(at: Mapping[str, tuple[float, float]], start: str, end: str) -> Html:
    """A curve from the right side of a box to the left side of another, through the points in between."""
    points = [(at[start][0] + WIDTH, at[start][1])]
    passed = sorted((n for n in at if n.startswith(f"{start}>{end}@")), key=lambda n: int(n.rpartition("@")[2]))
    for name in passed:
        points += [(at[name][0], at[name][1]), (at[name][0] + WIDTH, at[name][1])]
    points.append(at[end])
    path = f"M{points[0][0]:.0f} {points[0][1]:.0f}"
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (x0 + x1) / 2
        path += f" C{middle:.0f} {y0:.0f} {middle:.0f} {y1:.0f} {x1:.0f} {y1:.0f}"
    return tag("path", d=path, fill="none", stroke="#cbd5e1", stroke_width=1.5)


def _box(box: Box, x: float, y: float) -> Html:
    colour = KIND_COLOURS.get(box.kind, "#64748b")
    top = y - HEIGHT / 2
    return tag(
        "g",
        tag("title", f"{box.name} ({box.kind}, {box.status})"),
        tag("rect", x=x, y=top, width=WIDTH, height=HEIGHT, rx=7, fill="#ffffff", stroke="#cbd5e1"),
        tag("rect", x=x, y=top + 8, width=4, height=HEIGHT - 16, rx=2, fill=colour),
        tag("text", one_line(box.name, 21), x=x + 14, y=top + 20, class_="n"),
        tag("text", one_line(box.text, 27), x=x + 14, y=top + 37, class_="s"),
        tag("circle", cx=x + WIDTH - 13, cy=top + 15, r=4.5, fill=STATUS_COLOURS.get(box.status, "#94a3b8")),
    )


# -- calibration ----------------------------------------------------------------------------------------------------
SIDE, MARGIN = 220, 34


def calibration_svg(curve: Mapping[str, Sequence[Any]]) -> Html | None:
    """Observed share over predicted chance; a point's area grows with its rows, the dashed line is a perfect model.

    For regression the labels over the predictions, with the middle 80 % of the labels of each point.
    """
    if curve.get("residuals"):
        return _agreement_svg(curve)
    points = [
        (float(p), float(o), int(n))
        for p, o, n in zip(curve.get("predicted", ()), curve.get("observed", ()), curve.get("count", ()), strict=False)
        if p is not None and o is not None and n
    ]
    if not points:
        return None
    most = max(n for _, _, n in points)
    top = max(0.05, min(1.0, max(max(p, o) for p, o, _ in points) * 1.08))
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.25) if top / s <= 5.5)
    scaled = [(_x(p / top), _y(o / top), n) for p, o, n in points]
    ticks = [i * step for i in range(int(top / step + 1e-9) + 1)]
    return tag(
        "svg",
        [tag("line", x1=_x(t / top), y1=_y(0), x2=_x(t / top), y2=_y(1), class_="g") for t in ticks],
        [tag("line", x1=_x(0), y1=_y(t / top), x2=_x(1), y2=_y(t / top), class_="g") for t in ticks],
        [tag("text", f"{t:g}", x=_x(t / top), y=_y(0) + 14, text_anchor="middle", class_="s") for t in ticks],
        [tag("text", f"{t:g}", x=_x(0) - 6, y=_y(t / top) + 4, text_anchor="end", class_="s") for t in ticks],
        tag("line", x1=_x(0), y1=_y(0), x2=_x(1), y2=_y(1), stroke="#94a3b8", stroke_dasharray="4 4"),
        tag("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y, _ in scaled), fill="none", stroke="#c2410c", stroke_width=1.5),
        [
            tag("circle", tag("title", f"predicted {figure(p)}, observed {figure(o)}, {count(n)} rows"), cx=f"{x:.1f}", cy=f"{y:.1f}",
                r=f"{2.5 + 5 * (n / most) ** 0.5:.1f}", fill="#c2410c", fill_opacity=0.55)
            for (x, y, n), (p, o, _) in zip(scaled, points, strict=True)
        ],
        tag("text", "predicted", x=_x(0.5), y=_y(0) + 30, text_anchor="middle", class_="s"),
        tag("text", "observed", transform=f"translate(11 {_y(0.5):.0f}) rotate(-90)", text_anchor="middle", class_="s"),
        viewBox=f"0 0 {SIDE + MARGIN + 22} {SIDE + MARGIN + 12}", width=SIDE + MARGIN + 22, height=SIDE + MARGIN + 12, role="img", aria_label="calibration",
    )  # fmt: skip


def _x(share: float) -> float:
    return MARGIN + 10 + share * SIDE


def _y(share: float) -> float:
    return 8 + (1 - share) * SIDE


# -- curves ---------------------------------------------------------------------------------------------------------
LINES = ("#c2410c", "#2563eb", "#047857", "#7c3aed", "#d97706", "#0891b2", "#db2777", "#64748b", "#65a30d", "#9f1239", "#1e3a8a", "#78716c")
TITLES = {
    "roc": "ROC", "precision_recall": "Precision and recall", "confusion": "Confusion", "scores": "Scores by label",
    "residuals": "Residuals", "queries": "NDCG of the queries",
}  # fmt: skip


def curves_svg(curves: Mapping[str, Any]) -> list[tuple[str, Html]]:
    """The pictures of a model's curves with their titles; those there is no data for are left out. Reliability is `calibration_svg`."""
    drawn: dict[str, Html | None] = {}
    if roc := curves.get("roc"):
        drawn["roc"] = _lines_svg(roc if isinstance(roc, list) else [roc], "false alarms", "found", diagonal=True)
    if curve := curves.get("precision_recall"):
        drawn["precision_recall"] = _lines_svg([curve], "found (recall)", "right (precision)", diagonal=False)
    if found := curves.get("confusion"):
        drawn["confusion"] = _confusion_svg(found["classes"], found["counts"])
    if found := curves.get("scores"):
        drawn["scores"] = _histogram_svg(found["edges"], {"true": found["true"], "false": found["false"]}, "score")
    for name, axis in (("residuals", "label less prediction"), ("queries", "NDCG")):
        if found := curves.get(name):
            drawn[name] = _histogram_svg(
                found["edges"], {"": found["count"]}, axis, "share of queries" if name == "queries" else "share of rows"
            )
    return [(TITLES[name], picture) for name, picture in drawn.items() if picture is not None]


def _lines_svg(lines: Sequence[Mapping[str, Any]], across: str, up: str, *, diagonal: bool) -> Html | None:
    """Lines over the unit square; more than one have their names beside."""
    lines = [line for line in lines if line.get("x")]
    if not lines:
        return None
    named = [(one_line(line.get("name", ""), 18), LINES[i % len(LINES)]) for i, line in enumerate(lines)] if len(lines) > 1 else []
    return _framed(
        [0, 0.25, 0.5, 0.75, 1], [0, 0.25, 0.5, 0.75, 1], (0.0, 1.0), (0.0, 1.0), across, up,
        tag("line", x1=_x(0), y1=_y(0), x2=_x(1), y2=_y(1), stroke="#94a3b8", stroke_dasharray="4 4") if diagonal else None,
        [
            tag("polyline", tag("title", one_line(line.get("name", ""), 60)) if line.get("name") else None, fill="none",
                points=" ".join(f"{_x(x):.1f},{_y(y):.1f}" for x, y in zip(line["x"], line["y"], strict=True)),
                stroke=LINES[i % len(LINES)], stroke_width=1.5)
            for i, line in enumerate(lines)
        ],
        legend=named, label=across,
    )  # fmt: skip


def _agreement_svg(curve: Mapping[str, Sequence[Any]]) -> Html | None:
    points = [
        (float(p), float(o), float(p) + low, float(p) + high, int(n))
        for p, o, n, (low, _, high) in zip(curve["predicted"], curve["observed"], curve["count"], curve["residuals"], strict=True)
    ]
    low, high = min(min(p, o, a) for p, o, a, _, _ in points), max(max(p, o, b) for p, o, _, b, _ in points)
    span: float = high - low or abs(high) or 1.0
    ends: tuple[float, float] = (low - 0.04 * span, high + 0.04 * span)

    def at(value: float) -> float:
        return (value - ends[0]) / (ends[1] - ends[0])

    ticks = _ticks(*ends)
    return _framed(
        ticks, ticks, ends, ends, "predicted", "observed",
        tag("line", x1=_x(0), y1=_y(0), x2=_x(1), y2=_y(1), stroke="#94a3b8", stroke_dasharray="4 4"),
        [
            tag("line", x1=f"{_x(at(p)):.1f}", x2=f"{_x(at(p)):.1f}", y1=f"{_y(at(a)):.1f}", y2=f"{_y(at(b)):.1f}", stroke="#fdba74", stroke_width=5)
            for p, _, a, b, _ in points
        ],
        [
            tag("circle", tag("title", f"predicted {figure(p)}, observed {figure(o)}, {count(n)} rows, 80 % within {figure(a)} to {figure(b)}"),
                cx=f"{_x(at(p)):.1f}", cy=f"{_y(at(o)):.1f}", r=4, fill="#c2410c")
            for p, o, a, b, n in points
        ],
        label="predicted and observed",
    )  # fmt: skip


def _histogram_svg(edges: Sequence[float], series: Mapping[str, Sequence[float]], across: str, up: str = "share of rows") -> Html | None:
    """Bars by bin; of two series each is drawn as its own share, one over the other."""
    shares = {name: [v / total for v in values] for name, values in series.items() if (total := sum(values)) > 0}
    most = max((max(values) for values in shares.values()), default=0.0)
    if most <= 0:
        return None
    ends = float(edges[0]), float(edges[-1])
    colours = dict(zip(shares, ("#c2410c", "#2563eb"), strict=False))
    bars = [
        tag("rect", tag("title", f"{figure(edges[i])} to {figure(edges[i + 1])}: {share:.1%}{' of ' + name if name else ''}"),
            x=f"{_x(i / len(values)):.1f}", y=f"{_y(share / most):.1f}", width=f"{SIDE / len(values) - 0.5:.1f}",
            height=f"{share / most * SIDE:.1f}", fill=colours[name], fill_opacity=0.5)
        for name, values in shares.items() for i, share in enumerate(values) if share > 0
    ]  # fmt: skip
    legend = [(name, colour) for name, colour in colours.items() if name]
    return _framed(_ticks(*ends), _ticks(0, most), ends, (0.0, most), across, up, bars, legend=legend, label=across)


def _confusion_svg(classes: Sequence[str], counts: Sequence[Sequence[float]]) -> Html | None:
    """Labels down, predictions across; a cell is the darker the greater its share of its row."""
    if not classes:
        return None
    cell = 64 if len(classes) <= 4 else 44
    left, top = 92, 26
    side = cell * len(classes)
    cells = []
    for i, row in enumerate(counts):
        total = sum(row) or 1
        for j, value in enumerate(row):
            share = value / total
            x, y = left + j * cell, top + i * cell
            told = f"label {classes[i]}, predicted {classes[j]}: {figure(value)}, {share:.1%} of the label"
            colour = "#2563eb" if i == j else "#c2410c"
            cells.append(
                tag(
                    "rect",
                    tag("title", told),
                    x=x,
                    y=y,
                    width=cell - 2,
                    height=cell - 2,
                    rx=3,
                    fill=colour,
                    fill_opacity=f"{0.06 + 0.6 * share:.2f}",
                )
            )
            cells.append(tag("text", _compact(value), x=x + cell / 2 - 1, y=y + cell / 2 + 3, text_anchor="middle", class_="s"))
    named = [
        tag("text", one_line(c, 13), x=left - 6, y=top + i * cell + cell / 2 + 3, text_anchor="end", class_="s")
        for i, c in enumerate(classes)
    ]
    width = cell // 6
    above = [
        tag("text", one_line(c, width), x=left + j * cell + cell / 2, y=top - 8, text_anchor="middle", class_="s")
        for j, c in enumerate(classes)
    ]
    foot = tag("text", "predicted across, labels down", x=left, y=top + side + 14, class_="s")
    size = left + max(side, 176) + 8, top + side + 22
    return tag(
        "svg",
        cells,
        named,
        above,
        foot,
        viewBox=f"0 0 {size[0]} {size[1]}",
        width=size[0],
        height=size[1],
        role="img",
        aria_label="confusion",
    )


def _framed(
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    x_ends: tuple[float, float],
    y_ends: tuple[float, float],
    across: str,
    up: str,
    *drawn: object,
    legend: Sequence[tuple[str, str]] = (),
    label: str = "",
) -> Html:
    """A square with its axes, ticks at values of their own, and what is drawn within."""

    def share(value: float, ends: tuple[float, float]) -> float:
        return (value - ends[0]) / (ends[1] - ends[0])

    left = 22  # room for numbers longer than those of a share
    wide = SIDE + MARGIN + 22 + left + (120 if legend else 0)
    names = [
        [
            tag("rect", x=_x(1) + 14, y=12 + 17 * i, width=9, height=9, rx=2, fill=colour),
            tag("text", name, x=_x(1) + 28, y=21 + 17 * i, class_="s"),
        ]
        for i, (name, colour) in enumerate(legend)
    ]
    inside = [
        [tag("line", x1=f"{_x(share(t, x_ends)):.1f}", y1=_y(0), x2=f"{_x(share(t, x_ends)):.1f}", y2=_y(1), class_="g") for t in x_ticks],
        [tag("line", x1=_x(0), y1=f"{_y(share(t, y_ends)):.1f}", x2=_x(1), y2=f"{_y(share(t, y_ends)):.1f}", class_="g") for t in y_ticks],
        [tag("text", _compact(t), x=f"{_x(share(t, x_ends)):.1f}", y=_y(0) + 14, text_anchor="middle", class_="s") for t in x_ticks],
        [tag("text", _compact(t), x=_x(0) - 6, y=f"{_y(share(t, y_ends)) + 4:.1f}", text_anchor="end", class_="s") for t in y_ticks],
        drawn,
        names,
        tag("text", across, x=_x(0.5), y=_y(0) + 30, text_anchor="middle", class_="s"),
    ]
    height = SIDE + MARGIN + 12
    return tag(
        "svg",
        tag("text", up, transform=f"translate(11 {_y(0.5):.0f}) rotate(-90)", text_anchor="middle", class_="s"),
        tag("g", inside, transform=f"translate({left} 0)"),
        viewBox=f"0 0 {wide} {height}", width=wide, height=height, role="img", aria_label=label,
    )  # fmt: skip


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers within two ends."""
    if not high > low:
        return [low]
    power = float(10.0 ** floor(log10((high - low) / 5)))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if (high - low) / (s * power) <= 5.5)
    first = ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, floor(high / step + 1e-9) + 1)]


def _compact(value: float) -> str:
    """`950`, `1.2k`, `3.4M`: at most six characters."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.3g}{unit}"
    return f"{value:.4g}"


# -- bars -----------------------------------------------------------------------------------------------------------
def bar(share: float, colour: str = "#93c5fd", width: int = 120) -> Html:
    """A bar of a share within [0, 1]."""
    length = max(1.0, min(1.0, max(0.0, share)) * width)
    return tag(
        "svg",
        tag("rect", x=0, y=2, width=width, height=8, rx=4, fill="#f1f5f9"),
        tag("rect", x=0, y=2, width=f"{length:.1f}", height=8, rx=4, fill=colour),
        viewBox=f"0 0 {width} 12", width=width, height=12, aria_hidden="true",
    )  # fmt: skip
