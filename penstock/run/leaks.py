"""Leaks told by how columns are computed: from the label's own source, from labels that were not known yet, or from a model's scores.

What is read is followed through SQL, table by table, to the columns that no query computes. Functions that return rows instead of a
query end the trail; so do tables the engine's functions make. Said is only what is sure: a label computed from one column (a delay
above 15) is told by that column; of a label computed from several (arrival less plan), single ones may honestly be known, and
only a column that reads all of them is said. Windows, aggregates, self-joins and `.asof` may take from earlier rows alone, and are
passed over. What single ones tell, and what such aggregates count, is for `craft/learning/leakage.py` to find in the rows. A table
joined without `.asof` may carry rows of later times; that is not told either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from penstock.craft.learning.findings import Finding
from penstock.craft.lineage.columns import Read, columns_in, reads
from penstock.graph.graph import Graph, Node
from penstock.ground.errors import PenstockError
from penstock.run.build import called
from penstock.spec.features import Features, KnownAt, OnDemand
from penstock.spec.models import Feature, Model, Predictions
from penstock.spec.spans import span
from penstock.spec.tables import Ref, Sql, Table

#: A column of an asset.
Place = tuple[str, str]


class _Trail:
    """Which columns a column is computed from, by asset; each query is read once."""

    def __init__(self, graph: Graph, columns: Mapping[str, Sequence[str]]) -> None:
        self.graph = graph
        self.columns = columns
        self._read: dict[str, dict[str, frozenset[Read]]] = {}

    def sources(self, place: Place) -> frozenset[Place]:
        """The columns at the end of the trail; the column itself where it is computed from none."""
        found: set[Place] = set()
        waiting, seen = [place], {place}
        while waiting:
            at = waiting.pop()
            below = {(r.table, r.column) for r in self._of(at[0]).get(at[1], ())}
            found |= set() if below else {at}
            waiting += below - seen
            seen |= below
        return frozenset(found)

    def passed(self, place: Place) -> frozenset[Place]:
        """All columns on the trail whose value comes from one row, the column itself among them."""
        waiting, seen = [place], {place}
        while waiting:
            at = waiting.pop()
            below = {(r.table, r.column) for r in self._of(at[0]).get(at[1], ()) if r.row} - seen
            seen |= below
            waiting += below
        return frozenset(seen)

    def _of(self, name: str) -> dict[str, frozenset[Read]]:
        if name not in self._read:
            self._read[name] = _columns_read(self.graph.nodes.get(name), self.columns)
        return self._read[name]


def leaks(
    graph: Graph, model: Model, columns: Mapping[str, Sequence[str]], *, name: str = "", allow: Sequence[str] = ()
) -> tuple[Finding, ...]:
    """What leaks by lineage: features computed from the label, aggregates that count the row's own label, scores of the label's model.

    Args:    columns: asset -> its columns, for all assets upstream of the model, as queries see them. What is missing ends a trail.
             name: the model's own name; its own scores never help it.
             allow: columns, named as the model sees them, that may tell the label.
    """
    trail = _Trail(graph, columns)
    label = trail.sources((model.over, model.label)) | {(model.over, model.label)}
    found: dict[str, Finding] = {}
    for column, place, why in _inputs(graph, model, columns):
        if column in allow or column in found:
            continue
        passed = trail.passed(place)
        if said := _scored(graph, trail, passed, label, name) or (why and _reads_label(passed, label, model, place, why)):
            found[column] = Finding("lineage", (column,), 1.0, f"{column} {said}")
    return tuple(found.values())


def _inputs(graph: Graph, model: Model, columns: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, Place, str]]:
    """Each input as the model sees it, a column it is computed from, and how it would leak; "" if only through a model's scores."""
    over = columns.get(model.over, ())
    for given in model.features:
        if isinstance(given, str):
            yield given, (model.over, given), "of the same row"
        elif isinstance(given, OnDemand):
            for called_as, text in given.expressions:
                for column in _named(text, over):
                    yield called_as, (model.over, column), "of the same row"
        elif isinstance(given, Feature) and isinstance(asset := graph.node(given.asset).asset, Features):
            yield from _of_features(given.asset, asset, columns)


def _of_features(name: str, asset: Features, columns: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, Place, str]]:
    at_once = not isinstance(asset.known, KnownAt) and not span(asset.known.lag)
    why = "with no lag (`known=`), so that the row itself counts" if at_once else ""
    if asset.table is not None:
        others = {*asset.entity, asset.time}
        for column in columns.get(name, ()):
            if column not in others:
                yield f"{name}_{column}", (name, column), why
        return
    for called_as, aggregate in asset.aggregates:
        used = (
            {aggregate.column} if aggregate.column else set(_named(aggregate.sql, columns.get(asset.over, ()))) if aggregate.sql else set()
        )
        for window in asset.windows:
            for column in sorted(used):
                yield f"{name}_{called_as}_{window}", (asset.over, column), "" if aggregate.how == "count" else why


def _named(text: str, columns: Sequence[str]) -> list[str]:
    try:
        return sorted(columns_in(text, columns))
    except PenstockError:
        return []


def _reads_label(passed: frozenset[Place], label: frozenset[Place], model: Model, place: Place, why: str) -> str:
    """How a trail reads the label or all that the label is computed from; "" if it does not."""
    own = (model.over, model.label)
    if own in passed:
        return f"is the label {model.label}, or is computed from it, {why}"
    needed = label - {own} or {own}
    if not needed <= passed:
        return ""
    what = ", ".join(f"{asset}.{column}" for asset, column in sorted(needed))
    return f"is computed from {what}, as the label {model.label} is, {why}"


def _scored(graph: Graph, trail: _Trail, passed: frozenset[Place], label: frozenset[Place], name: str) -> str:
    """How a trail passes through scores of a model that learnt the same label."""
    for asset, column in sorted(passed):
        node = graph.nodes.get(asset)
        if node is None or not isinstance(node.asset, Predictions) or column == "model_version":
            continue
        other = graph.node(node.asset.model).asset
        if isinstance(other, Model) and node.asset.model != name:
            learnt = trail.sources((other.over, other.label)) | {(other.over, other.label)}
            if learnt & label:
                return f"is computed from {asset}.{column}, scores of a model ({node.asset.model}) that learnt the same label"
    return ""


def _columns_read(node: Node | None, columns: Mapping[str, Sequence[str]]) -> dict[str, frozenset[Read]]:
    """What each column of an asset is computed from; {} where that cannot be told."""
    table = getattr(node, "asset", None)
    if node is None:
        return {}
    if isinstance(table, Features):
        table = table.table
    if not isinstance(table, Table):
        return {}
    try:
        query = _query(table, node.name)
        if query is None:
            return {}
        found = reads(query.text, {i: columns.get(i, ()) for i in node.inputs}, place=node.name)
    except PenstockError:
        return {}
    cased = {name.lower(): name for name in columns.get(node.name, found)}
    found = {cased.get(name.lower(), name): of for name, of in found.items()}
    for join in query.asofs:
        for column in join.take if join.take is not None else columns.get(join.right, ()):
            found.setdefault(column, frozenset({Read(join.right, column, False)}))
    return found


def _query(table: Table, name: str) -> Sql | None:
    """The query of a table, if its function makes one."""
    if table.query is not None:
        return table.query
    if table.function is None or any(form is not None for form in table.forms):
        return None
    made = called(table, [Ref(i) for i in table.inputs], dict(table.params), place=name)
    return made if isinstance(made, Sql) else None
