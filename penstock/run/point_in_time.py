"""The rows a model sees: those of its table, each with its features as they were known at that row's own time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.graph.graph import Graph
from penstock.ground.errors import DefinitionError
from penstock.ground.names import quote
from penstock.ports.engine import Session
from penstock.ports.lake import Scan
from penstock.run.build import visible
from penstock.spec.features import Features
from penstock.spec.models import Feature, Model
from penstock.spec.schema import Schema
from penstock.spec.spans import seconds
from penstock.spec.tables import Table


@dataclass(frozen=True)
class Rows:
    """A named relation with all columns a model needs: of its table and, point in time, of its features.

    `columns` are the model's inputs in order; `time` and `key` are those of the table.
    """

    relation: str
    schema: Schema
    columns: tuple[str, ...]
    time: str
    key: tuple[str, ...]


def model_rows(session: Session, graph: Graph, model: Model, scans: Mapping[str, Scan], spine: str) -> Rows:
    """Joins a model's feature assets to the rows of `spine` (a relation with the columns of the model's table).

    A row at time t gets, of each feature asset, the newest row of its entity at or before t. No row is lost or doubled.
    """
    over = graph.node(model.over).asset
    time, key = (over.time, over.key) if isinstance(over, Table) else (None, ())
    if time is None:
        raise DefinitionError("a model's table needs a time column", place=f"{model.name}.over", got=model.over, hint="@ps.table(time=...)")
    schema = visible(scans[model.over].schema)
    columns: list[str] = []
    left = spine
    for i, given in enumerate(model.features):
        if isinstance(given, str):
            schema.field(given, of=model.over)
            columns.append(given)
            continue
        asset = graph.node(given.asset).asset
        assert isinstance(asset, Features)
        taken = {f"{given.asset}_{column}": column for column in asset.columns}
        view = f"_features{i}"
        picked = ", ".join([*(quote(c) for c in (*asset.entity, asset.time)), *(f"{quote(c)} AS {quote(n)}" for n, c in taken.items())])
        session.define(view, f"SELECT {picked} FROM {quote(given.asset)}")
        within = float(seconds(asset.ttl)) if asset.ttl else None
        name = f"_joined{i}"
        schema = session.asof(name, left, view, by=asset.entity, on=time, right_on=asset.time, within_s=within, take=list(taken))
        columns += list(taken)
        left = name
    return Rows(left, schema, tuple(columns), time, key)


def feature_assets(model: Model) -> tuple[str, ...]:
    """Names of a model's feature assets."""
    return tuple(f.asset for f in model.features if isinstance(f, Feature))
