"""Running a plan: one asset after the other, each under a claim, decided again with the versions that are really there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from penstock.graph.graph import Graph, Node
from penstock.ground.clock import iso
from penstock.ground.digest import digest
from penstock.ground.errors import PenstockError, StorageFull, UnknownName
from penstock.ground.failpoints import reach
from penstock.plan.decide import decide
from penstock.plan.records import Action, Declared, FileSeen, Made, Reason
from penstock.run.claims import claimed
from penstock.run.recorded import adopt, made_of, recorded
from penstock.run.runtime import Event, Job, Outcome, Runtime


@dataclass(frozen=True)
class AssetResult:
    """What became of one asset in a run. `status`: made, unchanged, fresh, failed, refused, skipped."""

    asset: str
    kind: str
    status: str
    seconds: float = 0.0
    body: Mapping[str, Any] = field(default_factory=dict)
    error: Mapping[str, Any] | None = None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunReport:
    """A whole run. `ok` is False if an asset failed, was refused by its gates, or was skipped for that."""

    run: str
    started: datetime
    seconds: float
    results: tuple[AssetResult, ...]

    @property
    def ok(self) -> bool:
        return all(r.status in ("made", "unchanged", "fresh") for r in self.results)

    @property
    def nothing(self) -> bool:
        return all(r.status == "fresh" for r in self.results)

    def record(self) -> dict[str, Any]:
        results = [
            {"asset": r.asset, "kind": r.kind, "status": r.status, "seconds": r.seconds, "reasons": list(r.reasons), "error": r.error,
             **{k: r.body.get(k) for k in ("version", "rows", "rows_in", "rejected", "ledger", "checks", "gates") if k in r.body}}
            for r in self.results
        ]  # fmt: skip
        return {"run": self.run, "started": iso(self.started), "seconds": self.seconds, "ok": self.ok, "results": results}


@dataclass(frozen=True)
class Wanted:
    """What is to be run: the graph, what is declared, what is seen of the sources now, and which assets.

    `unseen` are sources that cannot be looked at; they fail alone, with what needs them.
    """

    graph: Graph
    declared: Mapping[str, Declared]
    seen: Mapping[str, Mapping[str, FileSeen]]
    chosen: Collection[str]
    force: Collection[str] = ()
    looks: Collection[str] = ()
    unseen: Mapping[str, PenstockError] = field(default_factory=dict)


Kinds = Mapping[str, Callable[[Job], Outcome]]


def run(wanted: Wanted, runtime: Runtime, kinds: Kinds) -> RunReport:
    """Makes the chosen assets fresh, in running order.

    An asset whose input failed is skipped; the others go on. Each asset is one claim, one commit, one record; a run that
    died anywhere is healed by the next one.
    """
    run_id = runtime.ids.new()
    started, tick = runtime.clock.now(), runtime.clock.tick()
    adopt(wanted.graph, runtime)
    made = recorded(runtime.state)
    versions = {name: record.version for name, record in made.items() if record.version}
    broken: dict[str, str] = {}
    results: list[AssetResult] = []
    for node in wanted.graph:
        if node.name not in wanted.chosen:
            continue
        result = _one(node, wanted, runtime, run_id, made, versions, broken, kinds)
        results.append(result)
        if result.body.get("version") and result.status != "failed":
            versions[node.name] = str(result.body["version"])
        if result.status in ("failed", "skipped") or node.name not in versions:
            broken[node.name] = result.status
    report = RunReport(run_id, started, round(runtime.clock.tick() - tick, 3), tuple(results))
    if not report.nothing:
        runtime.state.append("run", run_id, report.record(), at=runtime.clock.now())
    return report


def _one(
    node: Node, wanted: Wanted, runtime: Runtime, run_id: str, made: Mapping[str, Made], versions: Mapping[str, str],
    broken: Mapping[str, str], kinds: Kinds,
) -> AssetResult:  # fmt: skip
    if lost := [name for name in node.inputs if name in broken]:
        runtime.tell(Event("skipped", node.name, f"needs {', '.join(lost)}"))
        return AssetResult(node.name, node.kind, "skipped", reasons=(f"{', '.join(lost)} has no version to use",))
    if node.name in wanted.unseen:
        return _failed(node, runtime, wanted.unseen[node.name], 0.0, ())
    action = decided(node, wanted, made.get(node.name), versions)
    reasons = tuple(r.text for r in action.reasons)
    if not action.works:
        return AssetResult(node.name, node.kind, "fresh", reasons=reasons)
    tick = runtime.clock.tick()
    runtime.tell(Event("started", node.name, "; ".join(reasons), {"kind": node.kind, "mode": action.mode}))
    try:
        outcome = _worked(node, wanted, runtime, run_id, versions, kinds)
    except (PenstockError, OSError) as error:
        return _failed(node, runtime, error, runtime.clock.tick() - tick, reasons)
    seconds = round(runtime.clock.tick() - tick, 3)
    if not outcome.body:
        runtime.tell(Event("finished", node.name, "fresh", {"seconds": seconds, "status": "fresh"}))
        return AssetResult(node.name, node.kind, "fresh", seconds, {"version": outcome.version}, reasons=("another run made it meanwhile",))
    status = "refused" if outcome.body.get("refused") else "made" if outcome.changed else "unchanged"
    runtime.tell(Event("finished", node.name, status, {**outcome.body, "seconds": seconds, "status": status}))
    return AssetResult(node.name, node.kind, status, seconds, outcome.body, reasons=reasons)


def _failed(node: Node, runtime: Runtime, error: Exception, seconds: float, reasons: tuple[str, ...]) -> AssetResult:
    if isinstance(error, OSError) and error.errno == 28 and not isinstance(error, PenstockError):
        error = StorageFull("no space left on the device", place=node.name, hint="free some space and run again; nothing was published")
    if not isinstance(error, PenstockError):
        raise error
    record = error.as_record()
    if error.__cause__ is not None and error.code == "E5001":
        import traceback

        record["traceback"] = "".join(traceback.format_exception(error.__cause__))
    runtime.state.append("failure", node.name, {"error": record, "seconds": seconds}, at=runtime.clock.now())
    runtime.tell(Event("failed", node.name, str(error), record))
    return AssetResult(node.name, node.kind, "failed", round(seconds, 3), error=record, reasons=reasons)


def decided(node: Node, wanted: Wanted, made: Made | None, versions: Mapping[str, str]) -> Action:
    """What to do with one asset, given what is recorded of it and the versions of its inputs."""
    forced, look = node.name in wanted.force, node.name in wanted.looks
    return decide(wanted.declared[node.name], made, wanted.seen.get(node.name), versions, forced=forced, look=look)


def _newest(runtime: Runtime, names: Sequence[str]) -> dict[str, str]:
    """The recorded versions of some assets."""
    heads = {name: runtime.state.heads("asset", prefix=name).get(name) for name in names}
    return {name: str(head.body["version"]) for name, head in heads.items() if head is not None and head.body["version"]}


def _worked(node: Node, wanted: Wanted, runtime: Runtime, run_id: str, versions: Mapping[str, str], kinds: Kinds) -> Outcome:
    """One asset under its claim, in one engine session; decided again there, since another run may have worked on it meanwhile.

    The outcome has an empty body if nothing is left to do.
    """
    with claimed(runtime, f"asset:{node.name}", run_id) as claim:
        reach("run.claimed")
        head = runtime.state.heads("asset", prefix=node.name).get(node.name)
        base = dict(head.body) if head else {}
        declared = wanted.declared[node.name]
        versions = {**versions, **_newest(runtime, node.inputs)}
        listing = runtime.state.heads("listing", prefix=f"{node.name}/")
        action = decided(node, wanted, made_of(node.name, base, listing) if base else None, versions)
        if not action.works:
            return Outcome(str(base["version"]), {}, changed=False)
        session = runtime.engine.session()
        try:
            token = f"{node.name}:{_work_digest(node, declared, action, base, versions, wanted.seen.get(node.name))}"
            tick = runtime.clock.tick()
            job = Job(runtime, wanted.graph, node, declared, action, run_id, claim, session, versions, base, token, tick)
            return kinds[node.kind](job)
        finally:
            session.close()


@contextmanager
def alone(
    node: Node, graph: Graph, declared: Declared, runtime: Runtime, *, claim: str, why: str, versions: Mapping[str, str] | None = None
) -> Iterator[Job]:
    """One job outside of a plan, under a claim of its own: it makes no version of an asset.

    Raises: Busy(E4005), UnknownName(E1003) if an input was never made.
    """
    run_id = runtime.ids.new()
    head = runtime.state.heads("asset", prefix=node.name).get(node.name)
    read = dict(versions) if versions is not None else _newest(runtime, node.inputs)
    if missing := [name for name in node.inputs if name not in read]:
        raise UnknownName("an input has never been made", place=f"{node.name}({missing[0]})", hint=f"penstock run {missing[0]}")
    with claimed(runtime, claim, run_id) as held:
        session = runtime.engine.session()
        try:
            action = Action(node.name, node.kind, "stale", "full", (Reason("forced", why),))
            yield Job(
                runtime,
                graph,
                node,
                declared,
                action,
                run_id,
                held,
                session,
                read,
                dict(head.body) if head else {},
                "",
                runtime.clock.tick(),
            )
        finally:
            session.close()


def _work_digest(
    node: Node,
    declared: Declared,
    action: Action,
    base: Mapping[str, Any],
    versions: Mapping[str, str],
    seen: Mapping[str, FileSeen] | None,
) -> str:
    """Names a piece of work by all that decides its result, so that the same work after a crash is known again."""
    inputs = {name: versions.get(name, "") for name in node.inputs}
    what = [
        declared.definition,
        dict(declared.parts),
        declared.contract,
        declared.recorded_params,
        action.mode,
        inputs,
        _files_of(action, seen),
    ]
    return digest([*what, base.get("version"), base.get("at")])


def _files_of(action: Action, seen: Mapping[str, FileSeen] | None) -> Any:
    if seen is None:
        return None
    labels = [*action.files.new, *action.files.changed] if action.mode == "part" else seen
    return [[label, seen[label].size_bytes, seen[label].changed_ns] for label in sorted(labels) if label in seen]
