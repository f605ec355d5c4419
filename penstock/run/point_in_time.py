"""The rows a model sees: those of its table, each with its features as they were known at that row's own time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.craft.temporal.clocks import same_clock
from penstock.craft.temporal.expressions import of_row
from penstock.graph.graph import Graph
from penstock.ground.errors import DefinitionError
from penstock.ground.names import quote
from penstock.ports.engine import Session
from penstock.ports.lake import Scan
from penstock.run.build import visible
from penstock.run.ledger import Step
from penstock.spec.features import Features, KnownAt, OnDemand
from penstock.spec.models import Feature, Model
from penstock.spec.schema import Schema
from penstock.spec.spans import seconds, span
from penstock.spec.tables import Table


@dataclass(frozen=True)
class Joined:
    """A feature asset joined to rows.

    Attributes:
        columns: its features, as the joined relation calls them.
        event, known: columns of the joined relation: event time of the row taken, whatever its age, and when that became known.
            Null where the entity had no row yet; `known` also where the row is older than `ttl_s`.
    """

    asset: str
    columns: tuple[str, ...]
    event: str
    known: str
    ttl_s: float | None


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
    joined: tuple[Joined, ...] = ()


def model_rows(session: Session, graph: Graph, model: Model, scans: Mapping[str, Scan], spine: str) -> Rows:
    """Joins a model's feature assets to the rows of `spine` (a relation with the columns of the model's table).

    A row at time t gets, of each feature asset, the newest row of its entity at or before t that was known at t and is no older
    than the asset's ttl, else nulls; a null entity or time gets nulls. No row is lost or doubled. What is computed on demand
    follows, from the row with its features.

    Raises: DefinitionError(E1001) for times that cannot be compared, unknown columns, and expressions that read the label.
    """
    over = graph.node(model.over).asset
    time, key = (over.time, over.key) if isinstance(over, Table) else (None, ())
    if time is None:
        raise DefinitionError("a model's table needs a time column", place=f"{model.name}.over", got=model.over, hint="@ps.table(time=...)")
    schema = visible(scans[model.over].schema)
    columns: list[str] = []
    joined: list[Joined] = []
    left = spine
    for given in model.features:
        if isinstance(given, str):
            schema.field(given, of=model.over)
            columns.append(given)
        elif isinstance(given, OnDemand):
            columns += given.columns
        else:
            asset = graph.node(given.asset).asset
            assert isinstance(asset, Features)
            number = len(joined)
            found = feature_view(session, f"_features{number}", given.asset, asset, visible(scans[given.asset].schema))
            same_clock(schema.field(time, of=model.over), scans[given.asset].schema.field(asset.time), place=f"{model.name}.features")
            schema = join_features(session, f"_joined{number}", left, found, asset, on=time, view=f"_features{number}")
            left = f"_joined{number}"
            columns += found.columns
            joined.append(found)
    if demanded := [item for given in model.features if isinstance(given, OnDemand) for item in given.expressions]:
        schema = _on_demand(session, left, schema, demanded, model)
        left = "_demanded"
    return Rows(left, schema, tuple(columns), time, key, tuple(joined))


def feature_columns(asset: Features, schema: Schema) -> tuple[str, ...]:
    """The columns of a feature asset's table that are features."""
    others = {*asset.entity, asset.time, *([asset.known.column] if isinstance(asset.known, KnownAt) else [])}
    return asset.columns or tuple(name for name in schema.names if name not in others)


def feature_view(session: Session, view: str, name: str, asset: Features, schema: Schema) -> Joined:
    """Names a bound feature asset's rows `view`, with columns called as a join gives them, and `_known`: when each became known.

    Rows of windowed features are known at their own time: what counts in them is chosen by known time.
    """
    own = f"_{name}"
    taken = {f"{name}_{column}": column for column in feature_columns(asset, schema)}
    at = quote(asset.time)
    known = at
    if isinstance(asset.known, KnownAt) and asset.table is not None:
        known = quote(asset.known.column)
        same_clock(schema.field(asset.time), schema.field(asset.known.column), place=f"{name}.known")
    elif not isinstance(asset.known, KnownAt) and asset.table is not None and _lag_us(asset):
        known = f"({at} + to_microseconds({_lag_us(asset)}))"
    picked = [*(quote(c) for c in (*asset.entity, asset.time)), *(f"{quote(c)} AS {quote(n)}" for n, c in taken.items())]
    session.define(view, f"SELECT {', '.join(picked)}, {known} AS {quote(own + '_known')} FROM {quote(name)}")
    ttl = float(seconds(asset.ttl)) if asset.ttl else None
    return Joined(name, tuple(taken), f"{own}_event", f"{own}_known", ttl)


def join_features(session: Session, name: str, left: str, found: Joined, asset: Features, *, on: str, view: str) -> Schema:
    """Names the join of a view made by `feature_view` to the rows of `left`, each at its time `on`."""
    late = asset.table is not None and (isinstance(asset.known, KnownAt) or _lag_us(asset) > 0)
    return session.asof(
        name, left, view, by=asset.entity, on=on, right_on=asset.time, within_s=found.ttl_s, take=(*found.columns, found.known),
        right_known=found.known if late else None, event_as=found.event,
    )  # fmt: skip


def _lag_us(asset: Features) -> int:
    return 0 if isinstance(asset.known, KnownAt) else round(span(asset.known.lag).total_seconds() * 1_000_000)


def _on_demand(session: Session, left: str, schema: Schema, demanded: Sequence[tuple[str, str]], model: Model) -> Schema:
    for name, text in demanded:
        place = f"{model.name}.{name}"
        if name in schema:
            raise DefinitionError("a column would occur twice", place=place, hint="call what is computed on demand otherwise")
        if model.label in of_row(text, schema.names, place=place):
            raise DefinitionError("a feature is computed of the label", place=place, got=text[:80])
    made = ", ".join(f"({text}) AS {quote(name)}" for name, text in demanded)
    return session.define("_demanded", f"SELECT *, {made} FROM {quote(left)}")


# -- what the join found --------------------------------------------------------------------------------------------
def coverage(session: Session, rows: Rows, spine: str) -> tuple[Step, list[dict[str, Any]]]:
    """What a join found, in one pass: the ledger's step, which balances if no row was lost or doubled, and one record an asset.

    Records: `rows` of the table, `found` with a feature row, `older` with one too old to be used, both also as shares.
    """
    at = f"epoch_us({quote(rows.time)})"
    asked = ["count(*)"]
    for one in rows.joined:
        old = f"{at} - epoch_us({quote(one.event)}) > {round(one.ttl_s * 1_000_000)}" if one.ttl_s is not None else "false"
        asked += [f"count({quote(one.event)})", f"count(*) FILTER ({quote(one.event)} IS NOT NULL AND {old})"]
    total, *counts = session.rows(f"SELECT {', '.join(asked)} FROM {quote(rows.relation)}")[0]
    given = int(session.rows(f"SELECT count(*) FROM {quote(spine)}")[0][0])
    records: list[dict[str, Any]] = []
    for i, one in enumerate(rows.joined):
        met, older = int(counts[2 * i]), int(counts[2 * i + 1])
        records.append({
            "asset": one.asset, "rows": int(total), "found": met - older, "older": older,
            "share": round((met - older) / total, 6) if total else None, "older_share": round(older / total, 6) if total else None,
        })  # fmt: skip
    return Step("join", given, int(total), note={f"with {r['asset']}": int(r["found"]) for r in records}), records


# -- a model's features as they are recorded ------------------------------------------------------------------------
def feature_assets(model: Model) -> tuple[str, ...]:
    """Names of a model's feature assets."""
    return tuple(f.asset for f in model.features if isinstance(f, Feature))


def given_record(model: Model) -> list[dict[str, Any]]:
    """A model's features as JSON, in order."""
    records: list[dict[str, Any]] = []
    for given in model.features:
        if isinstance(given, OnDemand):
            records.append({"on_demand": [list(item) for item in given.expressions]})
        else:
            records.append({"asset": given.asset} if isinstance(given, Feature) else {"column": given})
    return records


def given_from(records: Sequence[Mapping[str, Any]]) -> tuple[str | Feature | OnDemand, ...]:
    """A model's features from their record."""
    found: list[str | Feature | OnDemand] = []
    for record in records:
        if "on_demand" in record:
            found.append(OnDemand(tuple((str(name), str(text)) for name, text in record["on_demand"])))
        else:
            found.append(Feature(str(record["asset"])) if "asset" in record else str(record["column"]))
    return tuple(found)
