"""Pictures as SVG: the lineage of a project in layers, a calibration curve, bars. Pure; sizes in pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
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
    """Observed share over predicted chance; a point's area grows with its rows, the dashed line is a perfect model."""
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
