"""Tracing one row back: from a prediction to the model and rows it was made of, down to the file and position it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.craft.lineage.shape import parsed, tracing
from penstock.graph.graph import Graph, Node
from penstock.ground.errors import DefinitionError, PenstockError, UnknownName, VersionNotFound
from penstock.ground.names import quote
from penstock.ports.engine import Session
from penstock.run.build import HIDDEN, called
from penstock.run.land import FILE_COLUMN
from penstock.run.point_in_time import feature_assets, model_rows
from penstock.run.registry import entry
from penstock.run.runtime import Runtime, snapshot_for
from penstock.spec.features import Features
from penstock.spec.models import Model, Predictions
from penstock.spec.schema import Schema
from penstock.spec.tables import Ref, Sql, Table


@dataclass(frozen=True)
class TraceStep:
    """A row, or the rows that a row was made of, in one version of one asset.

    Attributes:
        rows: up to five rows as values.
        origin: for rows of a source: the input file and the row's position in it (from 1, among the file's readable rows).
        note: why the trace is less exact than a row.
    """

    asset: str
    kind: str
    version: str
    rows: tuple[Mapping[str, Any], ...] = ()
    origin: tuple[Mapping[str, Any], ...] = ()
    note: str = ""
    inputs: tuple[TraceStep, ...] = field(default_factory=tuple)

    def record(self) -> dict[str, Any]:
        return {
            "asset": self.asset, "kind": self.kind, "version": self.version, "rows": [dict(r) for r in self.rows],
            "origin": [dict(o) for o in self.origin], "note": self.note, "inputs": [i.record() for i in self.inputs],
        }  # fmt: skip


def trace(graph: Graph, runtime: Runtime, name: str, key: Mapping[str, Any]) -> TraceStep:
    """Follows the row with these column values (texts are read as the column's type) back to its sources.

    Raises: UnknownName(E1003), VersionNotFound(E4009) if no row has the key.
    """
    node = graph.node(name)
    head = runtime.state.heads("asset", prefix=name).get(name)
    if head is None:
        raise VersionNotFound("never made", place=name, hint=f"penstock run {name}")
    session = runtime.engine.session()
    try:
        version = str(head.body["version"])
        schema = runtime.lake.scan(name, version=snapshot_for(runtime, name, version)).schema
        for column in key:
            schema.field(column, of=name)
        condition = " AND ".join(f"CAST({quote(c)} AS VARCHAR) = {_text(v)}" for c, v in key.items())
        step = _step(session, graph, runtime, node, version, condition, 0)
        if not step.rows:
            raise VersionNotFound("no row has this key", place=name, got=", ".join(f"{k}={v}" for k, v in key.items()))
        return step
    finally:
        session.close()


def _text(value: Any) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def _body(runtime: Runtime, name: str, version: str) -> Mapping[str, Any]:
    """The record of one version of an asset."""
    for record in runtime.state.history("asset", name, limit=1000):
        if str(record.body["version"]) == version:
            return record.body
    return {}


def _step(session: Session, graph: Graph, runtime: Runtime, node: Node, version: str, condition: str, depth: int) -> TraceStep:
    body = _body(runtime, node.name, version)
    if node.kind == "model":
        told = entry(runtime.state, node.name, version)
        detail = {k: told.get(k) for k in ("version", "at", "train_rows", "test_rows", "boundary", "metrics", "inputs")}
        return TraceStep(node.name, "model", version, (detail,))
    scan = runtime.lake.scan(node.name, version=snapshot_for(runtime, node.name, version))
    name = f"_t{depth}_{node.name}"
    session.bind(name, scan, hidden=[h for h in HIDDEN if h in scan.schema])
    rows = tuple(session.read(f"SELECT * FROM {quote(name)} WHERE {condition} LIMIT 5").read_all().to_pylist())
    if node.kind == "source":
        return TraceStep(node.name, "source", version, rows, _origin(session, name, scan.schema, condition))
    inputs: Mapping[str, str] = body.get("inputs", {})
    if isinstance(node.asset, Table):
        return _of_table(session, graph, runtime, node, version, condition, rows, inputs, depth)
    if isinstance(node.asset, Predictions):
        return _of_predictions(session, graph, runtime, node, version, rows, inputs, depth)
    note = "aggregated from the rows of its table" if isinstance(node.asset, Features) and node.asset.table is None else ""
    return TraceStep(node.name, node.kind, version, rows, note=note, inputs=_versions(graph, inputs))


def _origin(session: Session, name: str, schema: Schema, condition: str) -> tuple[Mapping[str, Any], ...]:
    if FILE_COLUMN not in schema:
        return ()
    numbered = (
        f"SELECT *, row_number() OVER (PARTITION BY {quote(FILE_COLUMN)} ORDER BY _path, _pos) AS _row FROM {quote(name + '__all')} "
        f"WHERE {quote(FILE_COLUMN)} IN (SELECT {quote(FILE_COLUMN)} FROM {quote(name + '__all')} WHERE {condition})"
    )
    found = session.rows(f"SELECT {quote(FILE_COLUMN)}, _row FROM ({numbered}) WHERE {condition} LIMIT 5")
    return tuple({"file": file, "row": row} for file, row in found)


def _of_table(
    session: Session, graph: Graph, runtime: Runtime, node: Node, version: str, condition: str, rows: tuple[Any, ...],
    inputs: Mapping[str, str], depth: int,
) -> TraceStep:  # fmt: skip
    """Runs the table's query again at the versions it read, with hidden columns that say where each part came from."""
    table = node.asset
    assert isinstance(table, Table)
    body = _body(runtime, node.name, version)
    exact = _asked(session, graph, runtime, node, table, {**dict(table.params), **body.get("params", {})}, inputs, condition, depth)
    if exact is None:
        return TraceStep(
            node.name, "table", version, rows, note="its query makes new rows; traced by versions only", inputs=_versions(graph, inputs)
        )
    return TraceStep(node.name, "table", version, rows, inputs=exact)


def _asked(
    session: Session, graph: Graph, runtime: Runtime, node: Node, table: Table, params: Mapping[str, Any], inputs: Mapping[str, str],
    condition: str, depth: int,
) -> tuple[TraceStep, ...] | None:  # fmt: skip
    made = table.query
    if made is None and not any(table.forms):
        made = called(table, [Ref(n) for n in table.inputs], params, place=node.name)
    if not isinstance(made, Sql):
        return None
    for name, version in inputs.items():
        scan = runtime.lake.scan(name, version=snapshot_for(runtime, name, version))
        session.bind(name, scan, hidden=[h for h in HIDDEN if h in scan.schema])
        if FILE_COLUMN not in scan.schema:
            session.define(f"{name}__traced", f"SELECT *, CAST(NULL AS VARCHAR) AS _file FROM {quote(name + '__all')}")
        else:
            session.define(f"{name}__traced", f"SELECT * FROM {quote(name + '__all')}")
    asked = tracing(parsed(made.text, place=node.name), {n: f"{n}__traced" for n in inputs})
    if asked is None:
        return None
    query, traced = asked
    wanted = ", ".join(f'"_{i}_path", "_{i}_pos"' for i in range(len(traced)))
    try:
        session.define("_asked", query, dict(made.params))
        found = session.rows(f"SELECT DISTINCT {wanted} FROM _asked WHERE {condition} LIMIT 5")
    except PenstockError:
        return None
    steps = []
    for i, name in enumerate(traced):
        places = {(row[2 * i], row[2 * i + 1]) for row in found if row[2 * i] is not None}
        where = " OR ".join(f"(_path = {_text(path)} AND _pos = {int(pos)})" for path, pos in sorted(places)) or "false"
        steps.append(_at(session, graph, runtime, graph.node(name), inputs[name], where, depth + 1))
    others = {n: v for n, v in inputs.items() if n not in traced}
    return (*steps, *_versions(graph, others))


def _at(session: Session, graph: Graph, runtime: Runtime, node: Node, version: str, where: str, depth: int) -> TraceStep:
    """As `_step`, for rows given by their place in the lake."""
    scan = runtime.lake.scan(node.name, version=snapshot_for(runtime, node.name, version))
    name = f"_t{depth}_{node.name}"
    session.bind(name, scan, hidden=[h for h in HIDDEN if h in scan.schema])
    columns = ", ".join(quote(f.name) for f in scan.schema if f.name not in HIDDEN)
    rows = tuple(session.read(f"SELECT {columns} FROM {quote(name + '__all')} WHERE {where} LIMIT 5").read_all().to_pylist())
    if node.kind == "source":
        return TraceStep(node.name, "source", version, rows, _origin(session, name, scan.schema, where))
    body = _body(runtime, node.name, version)
    if isinstance(node.asset, Table) and node.asset.key and rows:
        key = " AND ".join(f"CAST({quote(k)} AS VARCHAR) = {_text(rows[0][k])}" for k in node.asset.key)
        return _of_table(session, graph, runtime, node, version, key, rows, body.get("inputs", {}), depth)
    return TraceStep(node.name, node.kind, version, rows, inputs=_versions(graph, body.get("inputs", {})))


def _of_predictions(
    session: Session, graph: Graph, runtime: Runtime, node: Node, version: str, rows: tuple[Any, ...], inputs: Mapping[str, str], depth: int
) -> TraceStep:
    asset = node.asset
    assert isinstance(asset, Predictions)
    if not rows:
        return TraceStep(node.name, node.kind, version)
    over = graph.node(asset.over)
    key = over.asset.key if isinstance(over.asset, Table) else ()
    if not key:
        raise DefinitionError("the scored table has no key to trace by", place=asset.over)
    condition = " AND ".join(f"CAST({quote(k)} AS VARCHAR) = {_text(rows[0][k])}" for k in key)
    scored = _step(session, graph, runtime, over, inputs[asset.over], condition, depth + 1)
    model = graph.node(asset.model)
    made = _step(session, graph, runtime, model, str(rows[0]["model_version"]), "true", depth + 1)
    seen = _features_seen(session, graph, runtime, asset, str(rows[0]["model_version"]), inputs, condition)
    return TraceStep(node.name, node.kind, version, rows, inputs=(made, *seen, scored))


def _features_seen(
    session: Session, graph: Graph, runtime: Runtime, asset: Predictions, version: str, inputs: Mapping[str, str], condition: str
) -> tuple[TraceStep, ...]:
    """What the model saw of a row: its columns, each feature asset's values with their times, and what each did to the score."""
    from penstock.run.judge import registered
    from penstock.run.learn import declared_as

    model = graph.node(asset.model).asset
    assert isinstance(model, Model)
    then = declared_as(model, entry(runtime.state, asset.model, version))
    wanted = (asset.over, *feature_assets(then))
    if any(name not in inputs and name not in graph.nodes for name in wanted):
        return (TraceStep(asset.model, "features", version, note="a feature asset of this version is gone"),)
    scans = {}
    for name in wanted:
        at = str(inputs.get(name) or _newest(runtime, name))
        scans[name] = runtime.lake.scan(name, version=snapshot_for(runtime, name, at))
        session.bind(name, scans[name], hidden=[h for h in HIDDEN if h in scans[name].schema])
    session.define("_spine", f"SELECT * FROM {quote(asset.over)} WHERE {condition}")
    found = model_rows(session, graph, then, {**scans, then.over: scans[asset.over]}, "_spine")
    read = session.read(f"SELECT * FROM {quote(found.relation)} LIMIT 1").read_all()
    if not read.num_rows:
        return ()
    row = read.to_pylist()[0]
    scorer = registered(runtime, asset.model, version)
    moved, _ = scorer.contributions(scorer.encoder.matrix(read.combine_chunks().to_batches()[0]))
    reasons = dict(zip(scorer.encoder.names, moved[0].tolist(), strict=True)) if moved.ndim == 2 else {}
    steps = []
    for joined in found.joined:
        values = {c: row[c] for c in joined.columns} | {"event_time": row[joined.event], "known_time": row[joined.known]}
        steps.append(TraceStep(joined.asset, "features", str(inputs.get(joined.asset, "")), (values,), note="as known at the row's time"))
    seen = {c: row[c] for c in found.columns if not any(c in j.columns for j in found.joined)}
    told = sorted(reasons.items(), key=lambda item: -abs(item[1]))
    why = "; ".join(f"{name} {value:+.3g}" for name, value in told[:5])
    steps.append(TraceStep(asset.over, "columns", version, (seen,), note=f"what moved the score most: {why}" if why else ""))
    return tuple(steps)


def _newest(runtime: Runtime, name: str) -> str:
    head = runtime.state.heads("asset", prefix=name).get(name)
    return str(head.body["version"]) if head else ""


def _versions(graph: Graph, inputs: Mapping[str, str]) -> tuple[TraceStep, ...]:
    found = []
    for name, version in inputs.items():
        if name not in graph.nodes:
            raise UnknownName("an input of this version is no asset any more", place=name)
        found.append(TraceStep(name, graph.node(name).kind, version, note="by version"))
    return tuple(found)
