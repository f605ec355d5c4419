"""What the project says of each asset, reduced to fingerprints that planning can compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from penstock.craft.lineage.shape import normal
from penstock.graph.graph import Graph, Node
from penstock.ground.digest import digest
from penstock.ground.errors import DefinitionError, QueryError, did_you_mean
from penstock.plan.records import Declared
from penstock.project.code import CodeReader
from penstock.run.build import called
from penstock.spec.features import After, Features, OnDemand
from penstock.spec.models import Feature, Model, Predictions
from penstock.spec.sources import Database, Files
from penstock.spec.tables import Ref, Replace, Sql, Table


def declared(graph: Graph, code: CodeReader, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Declared]:
    """Every asset as declared, in running order. `overrides`: asset -> parameter -> value, as given by `--set`.

    A table's function whose inputs have no annotations is called here with references, because its query is its definition.

    Raises: DefinitionError(E1001) for an override of a parameter that does not exist; UserCodeError(E5001); QueryError(E1006).
    """
    return {node.name: _declared(graph, node, code, (overrides or {}).get(node.name, {})) for node in graph}


def _declared(graph: Graph, node: Node, code: CodeReader, overrides: Mapping[str, Any]) -> Declared:
    asset = node.asset
    params = _params(node, overrides)
    if isinstance(asset, Files):
        made = [asset.format, asset.schema and [[f.name, str(f.type)] for f in asset.schema], asset.hive, _plain(asset.options)]
        contract = digest([_checks(asset), asset.drift])
        return Declared(node.name, node.kind, (), digest(made), contract, params, partial=True, drops_gone=asset.gone == "drop")
    if isinstance(asset, Database):
        made = [asset.url, asset.table, asset.query and normal(asset.query), asset.cursor, asset.key, asset.schema and str(asset.schema)]
        return Declared(node.name, node.kind, (), digest(made), digest(_checks(asset)), params, partial=asset.cursor is not None)
    if isinstance(asset, Table):
        return _table(node, asset, code, params)
    if isinstance(asset, Features):
        return _features(node, asset, code, params)
    if isinstance(asset, Model):
        parts = [asset.over, asset.label, [_given(graph, node, f) for f in asset.features], asdict(asset.split), asset.seed]
        parts += [asset.kind, asset.weight, asset.group, asset.folds, asset.calibrate, asset.format, asset.source]
        made = [*parts, code.digest(asset.function) if asset.function is not None else code.file(asset.source)]
        contract = digest([[asdict(g) for g in asset.gates], asset.slices])
        return Declared(node.name, node.kind, node.inputs, digest(made), contract, params)
    assert isinstance(asset, Predictions)
    made = [asset.model, asset.over, asset.where, *([asset.reasons] if asset.reasons else [])]
    return Declared(node.name, node.kind, node.inputs, digest(made), "", params, partial=True, driving=asset.over)


def _given(graph: Graph, node: Node, feature: Any) -> Any:
    """One of a model's features: a column's name, an asset with how it is joined, or expressions without regard to spacing."""
    if isinstance(feature, Feature):
        asset = graph.node(feature.asset).asset
        assert isinstance(asset, Features)
        lag = asset.known.lag if asset.table is not None and isinstance(asset.known, After) else ""
        return [feature.asset, asset.ttl, lag] if asset.ttl or lag else feature.asset
    if not isinstance(feature, OnDemand):
        return feature
    try:
        return [[name, normal(text)] for name, text in feature.expressions]
    except QueryError as error:
        raise QueryError(error.message, place=node.name, got=error.got) from error


def _features(node: Node, asset: Features, code: CodeReader, params: Mapping[str, Any]) -> Declared:
    """Each column of windowed features has a fingerprint of its own; the definition is what all have in common.

    `ttl`, and of a function `known`, matter to those who join: they are no part of the rows.
    """
    if asset.table is not None:
        return _table(node, asset.table, code, params)
    where = normal(asset.where) if asset.where else None
    made = ["windowed", asset.over, asset.entity, asset.time, type(asset.known).__name__, asdict(asset.known), where]
    parts = {
        f"{name}_{window}": digest([window, aggregate.how, aggregate.column, aggregate.at, normal(aggregate.sql) if aggregate.sql else ""])
        for window in asset.windows
        for name, aggregate in asset.aggregates
    }
    return Declared(node.name, node.kind, node.inputs, digest(made), "", params, partial=True, driving=asset.over, parts=parts)


def _table(node: Node, asset: Table, code: CodeReader, params: Mapping[str, Any]) -> Declared:
    made: list[Any] = [asset.time, asdict(asset.write), type(asset.write).__name__, _plain(asset.partition), asset.renamed, asset.inputs]
    made.append(_body(node, asset, code, params))
    partial = not isinstance(asset.write, Replace)
    driving = (getattr(asset.write, "of", "") or asset.inputs[0]) if partial else ""
    return Declared(
        node.name,
        node.kind,
        node.inputs,
        digest(made),
        digest([_checks(asset), asset.key, [e.to for e in asset.exports]]),
        params,
        partial,
        driving,
    )


def _body(node: Node, asset: Table, code: CodeReader, params: Mapping[str, Any]) -> Any:
    if asset.query is not None:
        return _query(node, asset.query)
    assert asset.function is not None
    if any(form is not None for form in asset.forms) or not asset.inputs:
        return ["python", code.digest(asset.function), [str(f) for f in asset.forms]]
    made = called(asset, [Ref(name) for name in asset.inputs], params, place=node.name)
    if not isinstance(made, Sql):
        raise DefinitionError(
            "a function whose inputs have no annotations gives a query", place=node.name, expected="ps.sql(...)", got=type(made).__name__,
            hint="annotate the inputs to get rows: def f(rows: polars.LazyFrame)",
        )  # fmt: skip
    return _query(node, made)


def _query(node: Node, query: Sql) -> Any:
    try:
        text = normal(query.text)
    except QueryError as error:
        raise QueryError(error.message, place=node.name, got=error.got) from error
    return ["sql", text, _plain(query.params), [_plain(asdict(a).items()) for a in query.asofs]]


def _params(node: Node, overrides: Mapping[str, Any]) -> dict[str, Any]:
    declared_params = dict(getattr(node.asset, "params", ()))
    for name in overrides:
        if name not in declared_params:
            raise DefinitionError("no such parameter", place=f"{node.name}.{name}", hint=did_you_mean(name, declared_params))
    return {**declared_params, **overrides}


def _checks(asset: Any) -> Any:
    return [_plain(asdict(c).items()) for c in asset.checks]


def _plain(value: Any) -> Any:
    """Nested tuples as lists, records as lists of their fields, anything else as text if JSON has no form for it."""
    if isinstance(value, str | int | float | bool | None):
        return value
    if hasattr(value, "__dataclass_fields__"):
        return [type(value).__name__, *[_plain(v) for v in asdict(value).values()]]
    if isinstance(value, Mapping):
        return [[str(k), _plain(v)] for k, v in value.items()]
    if hasattr(value, "__iter__"):
        return [_plain(v) for v in value]
    return str(value)
