"""Features as they were known at a moment: per entity the values that a row at that moment would have been given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from penstock.graph.graph import Graph
from penstock.ground.errors import DefinitionError, UnknownName, VersionNotFound
from penstock.ground.names import literal, quote
from penstock.ports.engine import Session
from penstock.project.query import Result
from penstock.run.build import visible
from penstock.run.point_in_time import Joined, feature_view, join_features
from penstock.run.runtime import Runtime
from penstock.spec.features import Features
from penstock.spec.schema import Schema, Type

#: Columns beside the entity and the features. No age is negative.
EVENT, KNOWN, AGE, EXPIRED = "event_time", "known_time", "age_s", "expired"


def features_at(
    graph: Graph, runtime: Runtime, name: str, moment: datetime, entities: Sequence[Mapping[str, Any]] | None = None,
    *, as_of: datetime | None = None,
) -> Result:  # fmt: skip
    """One row an entity: its newest feature row with event and known time at or before a moment, as a join would take it.

    Columns: the entity, `event_time`, `known_time`, `age_s`, `expired`, the features. Of a row older than the asset's ttl the
    features and `known_time` are null and `expired` is true; of an entity that had no row yet all is null.

    Args:
        moment: in UTC if it has no zone; where the asset's times have none they are compared as they are written.
        entities: values of the entity's columns, in the order of the answer; None for all that had a row by then, in their order.
        as_of: reads the version of the table that was current at this moment, instead of the newest.
    Raises: UnknownName(E1003), VersionNotFound(E4009), DefinitionError(E1001) for entities with other columns.
    """
    node = graph.node(name)
    asset = node.asset
    if not isinstance(asset, Features):
        raise UnknownName("no features have this name", place=name, got=node.kind)
    snapshot = runtime.lake.snapshot(name, at=as_of) if as_of else runtime.lake.snapshot(name)
    if snapshot is None:
        raise VersionNotFound("the features were never made", place=name, hint=f"penstock run {name}")
    session = runtime.engine.session()
    try:
        scan = runtime.lake.scan(name, version=snapshot.version)
        session.bind(name, scan)
        schema = visible(scan.schema)
        found = feature_view(session, "_view", name, asset, schema)
        asked = _entities(session, name, asset, schema, found, moment, entities)
        join_features(session, "_at", asked, found, asset, on=_OWN + "moment", view="_view")
        query = _answer(asset, found)
        session.define("_known", query)
    except BaseException:
        session.close()
        raise
    return Result(session, query, {}, {name: snapshot.version})


_OWN = "_asked_"


def _entities(
    session: Session,
    name: str,
    asset: Features,
    schema: Schema,
    found: Joined,
    moment: datetime,
    entities: Sequence[Mapping[str, Any]] | None,
) -> str:
    """Names a relation of the entities that are asked for, in order, each with the moment."""
    at = _literal(moment, schema.field(asset.time).type)
    columns = ", ".join(map(quote, asset.entity))
    if entities is None:
        known = f"{quote(asset.time)} <= {at} AND {quote(found.known)} <= {at}"
        rows = f"SELECT DISTINCT {columns} FROM _view WHERE {known}"
        session.define("_asked", f"SELECT *, row_number() OVER (ORDER BY {columns}) AS {_OWN}number, {at} AS {_OWN}moment FROM ({rows})")
        return "_asked"
    selects = []
    for number, entity in enumerate(entities):
        if set(entity) != set(asset.entity):
            raise DefinitionError("not an entity of these features", place=name, expected=", ".join(asset.entity), got=", ".join(entity))
        values = [f"CAST({literal(str(entity[c]))} AS {session.type_name(schema.field(c).type)}) AS {quote(c)}" for c in asset.entity]
        selects.append(f"SELECT {', '.join(values)}, {number} AS {_OWN}number, {at} AS {_OWN}moment")
    none = f"SELECT {columns}, 0 AS {_OWN}number, {at} AS {_OWN}moment FROM _view WHERE false"
    session.define("_asked", " UNION ALL ".join(selects) or none)
    return "_asked"


def _answer(asset: Features, found: Joined) -> str:
    age = f"(epoch_us({_OWN}moment) - epoch_us({quote(found.event)}))"
    old = f"{age} > {round(found.ttl_s * 1_000_000)}" if found.ttl_s is not None else f"{quote(found.event)} IS NOT NULL AND false"
    prefix = len(found.asset) + 1
    columns = [
        *map(quote, asset.entity), f"{quote(found.event)} AS {EVENT}", f"{quote(found.known)} AS {KNOWN}", f"{age} / 1e6 AS {AGE}",
        f"coalesce({old}, false) AS {EXPIRED}", *(f"{quote(c)} AS {quote(c[prefix:])}" for c in found.columns),
    ]  # fmt: skip
    return f"SELECT {', '.join(columns)} FROM _at ORDER BY {_OWN}number"


def _literal(moment: datetime, kind: Type) -> str:
    """A moment as the type of the asset's times. A date is known from its first moment, as in a join."""
    if kind.name == "timestamptz":
        instant = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return f"TIMESTAMPTZ {literal(instant.isoformat())}"
    wall = moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
    return f"CAST(TIMESTAMP {literal(wall.isoformat())} AS {'DATE' if kind.name == 'date' else 'TIMESTAMP'})"
