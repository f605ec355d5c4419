"""Selection of assets as a user types it: `late_risk`, `+late_risk`, `departures+`, `+departures+`, `kind:table`, `dep*`."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from penstock.graph.graph import Graph
from penstock.ground.errors import UnknownName, did_you_mean

_KINDS = ("source", "table", "features", "model", "predictions")


def select(graph: Graph, patterns: Sequence[str], *, needed: bool = False) -> tuple[str, ...]:
    """Names that the patterns choose, in running order; all assets if there are no patterns.

    `+x` adds all that x needs, `x+` all that needs x; a comma or several patterns add up. With `needed` every pattern
    reads as if it began with `+`.

    Raises: UnknownName(E1003) for a pattern that chooses nothing.
    """
    if not patterns:
        return tuple(graph.nodes)
    chosen: set[str] = set()
    for pattern in (part.strip() for text in patterns for part in text.split(",")):
        chosen |= _one(graph, pattern, needed)
    return tuple(name for name in graph.nodes if name in chosen)


def _one(graph: Graph, pattern: str, needed: bool) -> set[str]:
    up, down, core = pattern.startswith("+"), pattern.endswith("+") and len(pattern) > 1, pattern.strip("+")
    if core.startswith("kind:"):
        names = {n.name for n in graph if n.kind == core[5:]}
        known: tuple[str, ...] = tuple(f"kind:{k}" for k in _KINDS)
    else:
        names = {n for n in graph.nodes if fnmatchcase(n, core)}
        known = tuple(graph.nodes)
    if not names:
        raise UnknownName("the selection chooses no asset", place=pattern, hint=did_you_mean(core, known))
    found = set(names)
    for name in names:
        if up or needed:
            found.update(graph.upstream(name))
        if down:
            found.update(graph.downstream(name))
    return found
