"""What is recorded of the assets' versions, and the recording of versions that an interrupted run had published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.graph.graph import Graph, Node
from penstock.ground.clock import iso
from penstock.ground.errors import Busy, PenstockError
from penstock.ground.names import rejected_name
from penstock.plan.records import Made
from penstock.ports.lake import DataFile
from penstock.ports.state import Claim, State
from penstock.run import rejected
from penstock.run.build import export_table
from penstock.run.claims import claimed
from penstock.run.land import recorded_files
from penstock.run.publish import listing_entries, version_of
from penstock.run.runtime import Event, Runtime
from penstock.spec.tables import Table


def recorded(state: State) -> dict[str, Made]:
    """Newest recorded version of every asset."""
    listing = state.heads("listing")
    by_asset: dict[str, dict[str, Any]] = {}
    for key, record in listing.items():
        by_asset.setdefault(key.split("/", 1)[0], {})[key] = record
    return {name: made_of(name, head.body, by_asset.get(name, {})) for name, head in state.heads("asset").items()}


def made_of(name: str, body: Mapping[str, Any], listing: Mapping[str, Any]) -> Made:
    return Made(
        version=str(body["version"]), definition=str(body["definition"]), contract=str(body["contract"]), params=body["params"],
        inputs=body["inputs"], rows=int(body["rows"]), seconds=float(body.get("seconds", 0.0)), bytes_in=int(body.get("bytes_in", 0)),
        files=recorded_files(listing, name), parts=body.get("parts", {}),
    )  # fmt: skip


def adopt(graph: Graph, runtime: Runtime) -> tuple[str, ...]:
    """Records versions that were committed by a run that died before it could record them.

    Such an asset has a `pending` record newer than its `asset` record; the lake tells whether its token was committed.
    """
    pending, assets = runtime.state.heads("pending"), runtime.state.heads("asset")
    found = []
    for name, record in pending.items():
        if name not in graph.nodes or (name in assets and assets[name].seq > record.seq):
            continue
        try:
            with claimed(runtime, f"asset:{name}", runtime.ids.new()) as claim:
                if adopted(graph.nodes[name], runtime, claim):
                    found.append(name)
        except Busy:
            continue  # that run is not dead but at work, and will record it itself
    return tuple(found)


def adopted(node: Node, runtime: Runtime, claim: Claim) -> bool:
    """Records the newest version of an asset if it was committed and never recorded; its exports are written first."""
    name = node.name
    record, head = (runtime.state.heads(kind, prefix=name).get(name) for kind in ("pending", "asset"))
    if record is None or (head is not None and head.seq > record.seq):
        return False
    snapshot = next((s for s in reversed(runtime.lake.history(name)) if s.token == record.body["token"]), None)
    if snapshot is None:
        return False
    if (left := record.body.get("replayed")) is not None:
        files = [DataFile(**{**f, "partition": tuple(f["partition"]), "deletes": tuple(f["deletes"])}) for f in left]
        rejected.renew(runtime.lake, name, files, token=snapshot.token)
    now, aside = runtime.clock.now(), runtime.lake.snapshot(rejected_name(name))
    body = {**record.body, **version_of(snapshot), "aside": aside.version if aside else None, "at": iso(now)}
    if isinstance(node.asset, Table) and node.asset.exports:
        body["contract"] = _exported(node.asset, runtime) or body["contract"]
    runtime.state.append_all([("asset", name, body), *listing_entries(name, body)], at=now, claim=claim)
    runtime.tell(Event("note", name, "a version that an interrupted run had published was recorded"))
    return True


def _exported(table: Table, runtime: Runtime) -> str:
    """Writes a table's exports. Returns "" or, if they fail, a contract that no table has, so that the next run tries again."""
    session = runtime.engine.session()
    try:
        export_table(table, runtime, session)
    except (PenstockError, OSError) as error:
        runtime.tell(Event("note", table.name, f"its exports could not be written: {error}"))
        return "(exports are missing)"
    finally:
        session.close()
    return ""
