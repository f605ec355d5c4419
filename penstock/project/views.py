"""What is declared and recorded, as records for `show`: assets, ledgers, lineage, rejected rows, history, runs. Nothing is changed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from penstock.graph.graph import Node
from penstock.ground.clock import from_iso, iso
from penstock.ground.errors import PenstockError, UnknownName, did_you_mean
from penstock.ground.names import quote, rejected_name
from penstock.plan.records import Action, Plan
from penstock.project.figures import plan_counts
from penstock.project.project import Project
from penstock.spec.features import Features, KnownAt
from penstock.spec.sources import Files

#: How many records of an asset lineage looks back through.
BACK = 1000


# -- plans ----------------------------------------------------------------------------------------------------------
def plan_record(plan: Plan) -> dict[str, Any]:
    """JSON-ready: counts, cost, and each action with its reasons and files."""
    return {
        "nothing": plan.nothing, "counts": plan_counts(plan), "rows": plan.rows, "seconds": plan.seconds,
        "actions": [_action_record(a) for a in plan.actions],
    }  # fmt: skip


def _action_record(action: Action) -> dict[str, Any]:
    files = {k: list(v) for k, v in asdict(action.files).items()}
    return {
        "asset": action.asset, "kind": action.kind, "status": action.status, "mode": action.mode,
        "reasons": [asdict(r) for r in action.reasons], "files": files, "rows": action.rows, "seconds": action.seconds,
    }  # fmt: skip


# -- assets ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class AssetLine:
    """One asset in a list. `status`: fresh, stale, waiting, look, or unknown if planning failed. `at` is None if it was never made."""

    name: str
    kind: str
    status: str
    version: str
    rows: int | None
    rejected: int
    at: datetime | None
    doc: str


def assets(project: Project) -> tuple[list[AssetLine], str]:
    """All assets in running order, and why their status is unknown ("" if it is not)."""
    heads = project.state.heads("asset")
    statuses, trouble = statuses_of(project)
    lines = []
    for node in project.graph:
        body = heads[node.name].body if node.name in heads else {}
        status = statuses.get(node.name, "unknown")
        lines.append(
            AssetLine(
                node.name, node.kind, status, str(body.get("version", "")), body.get("rows"), int(body.get("rejected", 0) or 0),
                _at(body), first_line(doc_of(node)),
            )
        )  # fmt: skip
    return lines, trouble


def statuses_of(project: Project) -> tuple[dict[str, str], str]:
    """Each asset's status by a plan, or nothing and the reason why there is no plan."""
    try:
        return {a.asset: a.status for a in project.plan()}, ""
    except PenstockError as error:
        return {}, error.text()


def doc_of(node: Node) -> str:
    return str(getattr(node.asset, "doc", "") or "")


def first_line(text: str) -> str:
    return text.strip().partition("\n")[0].strip()


def _at(body: Mapping[str, Any]) -> datetime | None:
    return from_iso(str(body["at"])) if body.get("at") else None


@dataclass(frozen=True)
class AssetView:
    """Everything about one asset.

    Attributes:
        body: its newest record, {} if it was never made.
        declared: parts of its declaration that are worth showing, by name.
        checks: per check its text, outcome, and the newest result if there is one.
        runs: newest records, failures among them, newest first.
    """

    name: str
    kind: str
    status: str
    reasons: tuple[str, ...]
    doc: str
    declared: Mapping[str, Any]
    inputs: Mapping[str, str]
    users: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    checks: tuple[Mapping[str, Any], ...]
    body: Mapping[str, Any]
    runs: tuple[Mapping[str, Any], ...]
    quarantined: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        return {**asdict(self), "columns": [list(c) for c in self.columns]}


def asset(project: Project, name: str) -> AssetView:
    """One asset, as declared and as last made.

    Raises: UnknownName(E1003).
    """
    node = project.graph.node(name)
    body = body_of(project, name)
    try:
        action = next(a for a in project.plan(name) if a.asset == name)
        status, reasons = str(action.status), tuple(r.text for r in action.reasons)
    except PenstockError as error:
        status, reasons = "unknown", (error.text(),)
    return AssetView(
        name=name, kind=node.kind, status=status, reasons=reasons, doc=doc_of(node), declared=declared_parts(node),
        inputs={n: str(body.get("inputs", {}).get(n, "")) for n in node.inputs}, users=project.graph.users()[name],
        columns=tuple((str(n), str(t)) for n, t in body.get("columns", [])), checks=_checks(node, body), body=body,
        runs=tuple(history(project, name, limit=5)), quarantined=tuple(body.get("quarantined", ())),
    )  # fmt: skip


def body_of(project: Project, name: str) -> Mapping[str, Any]:
    """The asset's newest record, {} if it was never made."""
    head = project.state.heads("asset", prefix=name).get(name)
    return head.body if head else {}


_SHOWN = (
    "pattern",
    "format",
    "drift",
    "gone",
    "table",
    "query",
    "cursor",
    "key",
    "entity",
    "time",
    "windows",
    "over",
    "label",
    "model",
    "where",
    "ttl",
)


def declared_parts(node: Node) -> dict[str, Any]:
    """Parts of a declaration that have a value, as texts and lists. No URL is shown with what stands before its `@`."""
    found: dict[str, Any] = {}
    for name in _SHOWN:
        value = getattr(node.asset, name, None)
        if value not in (None, (), "", False) and isinstance(value, str | tuple):
            found[name] = list(value) if isinstance(value, tuple) else value
    if url := getattr(node.asset, "url", ""):
        found["url"] = re.sub(r"//[^/@]*@", "//…@", url)
    if isinstance(node.asset, Features):
        known = node.asset.known
        found["known"] = known.column if isinstance(known, KnownAt) else f"{known.lag} after"
        found["aggregates"] = [f"{n} = {a.text}" for n, a in node.asset.aggregates]
    if partition := getattr(node.asset, "partition", ()):
        found["partition"] = [f"{p.transform}({p.column})" for p in partition]
    if params := getattr(node.asset, "params", ()):
        found["parameters"] = [f"{n} = {v!r}" for n, v in params]
    write = type(getattr(node.asset, "write", None)).__name__.lower()
    if write in ("append", "merge", "slices"):
        found["write"] = write
    return found


def _checks(node: Node, body: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    results = {str(r.get("check")): r for r in body.get("checks", [])}
    declared = [{"check": c.name, "outcome": c.outcome} for c in getattr(node.asset, "checks", ())]
    named = {str(d["check"]) for d in declared}
    extra = [dict(r) for n, r in results.items() if n not in named]
    return tuple([{**d, **results.get(str(d["check"]), {})} for d in declared] + extra)


# -- history --------------------------------------------------------------------------------------------------------
def history(project: Project, name: str, *, limit: int = 50) -> list[dict[str, Any]]:
    """What was recorded of an asset, newest first: versions made and failures.

    Raises: UnknownName(E1003) if nothing is declared or recorded under the name.
    """
    state = project.state
    made = [{"at": iso(r.at), "event": "made", **_of_body(r.body)} for r in state.history("asset", name, limit=limit)]
    failed = [{"at": iso(r.at), "event": "failed", **r.body} for r in state.history("failure", name, limit=limit)]
    if not made and not failed:
        project.graph.node(name)
    return sorted([*made, *failed], key=lambda r: str(r["at"]), reverse=True)[:limit]


def _of_body(body: Mapping[str, Any]) -> dict[str, Any]:
    return {k: body.get(k) for k in ("version", "rows", "rejected", "mode", "seconds", "run", "reasons", "inputs", "refused") if k in body}


def ledger(project: Project, name: str) -> dict[str, Any]:
    """The ledger of an asset's newest version."""
    body = body_of(project, name)
    if not body:
        project.graph.node(name)
    return {
        "asset": name,
        "version": body.get("version", ""),
        "at": body.get("at", ""),
        "run": body.get("run", ""),
        "steps": list(body.get("ledger", [])),
    }


def files(project: Project, name: str) -> list[dict[str, Any]]:
    """The files of a source as last landed, by label."""
    node = project.graph.node(name)
    if not isinstance(node.asset, Files):
        raise UnknownName("not a source of files", place=name, expected="a source made by ps.files", got=node.kind)
    start = len(name) + 1
    heads = project.state.heads("listing", prefix=f"{name}/")
    return [
        {
            "file": key[start:], "status": "gone" if r.body.get("gone") else r.body.get("status", ""), "rows": r.body.get("rows"),
            "size": r.body.get("size"), "loaded_at": _of_ns(r.body.get("loaded_ns")), "digest": r.body.get("digest", ""),
        }
        for key, r in sorted(heads.items())
    ]  # fmt: skip


def _of_ns(ns: Any) -> str:
    return iso(datetime.fromtimestamp(int(ns) / 1e9, UTC)) if ns else ""


def run_record(project: Project, run: str) -> Mapping[str, Any] | None:
    """The record of a run, by its id or the beginning of it (six characters at least); None if there is none or several."""
    if len(run) < 6 or not re.fullmatch(r"[0-9a-z]+", run):
        return None
    found = project.state.heads("run", prefix=run)
    return next(iter(found.values())).body if len(found) == 1 else None


def runs(project: Project, *, limit: int = 50) -> list[Mapping[str, Any]]:
    """Records of runs that did something, newest first."""
    return [r.body for r in project.state.history("run", limit=limit)]


def not_found(project: Project, name: str) -> UnknownName:
    """The error for a name that is neither an asset nor a run."""
    return UnknownName("no asset or run has this name", place=name, hint=did_you_mean(name, project.graph.nodes))


# -- lineage --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Lineage:
    """An asset's version in a tree. `again` marks one whose own tree stands elsewhere in the picture."""

    asset: str
    kind: str
    version: str
    at: str
    rows: int | None
    newest: bool
    next: tuple[Lineage, ...] = ()
    again: bool = False


def lineage(project: Project, name: str) -> tuple[Lineage, Lineage]:
    """What the newest version was made of, version by version, and what was made of it.

    Returns: the tree upwards (sources at its leaves) and the tree downwards.
    Raises:  UnknownName(E1003).
    """
    node = project.graph.node(name)
    tracer = _Tracer(project)
    version = str(tracer.heads[name].body["version"]) if name in tracer.heads else ""
    return tracer.up(node, version, set()), tracer.down(node, version, set())


class _Tracer:
    """Looks up records of versions, each asset's history read once."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self.heads = project.state.heads("asset")
        self._known: dict[str, dict[str, Mapping[str, Any]]] = {}

    def body(self, name: str, version: str) -> Mapping[str, Any]:
        """The newest record of a version, {} if there is none."""
        head = self.heads.get(name)
        if head is not None and str(head.body["version"]) == version:
            return head.body
        if name not in self._known:
            found = self._project.state.history("asset", name, limit=BACK)
            self._known[name] = {str(r.body["version"]): r.body for r in reversed(found)}
        return self._known[name].get(version, {})

    def _entry(self, node: Node, version: str, tree: Sequence[Lineage], again: bool) -> Lineage:
        body = self.body(node.name, version)
        head = self.heads.get(node.name)
        newest = head is None or str(head.body["version"]) == version
        return Lineage(node.name, node.kind, version, str(body.get("at", "")), body.get("rows"), newest, tuple(tree), again)

    def up(self, node: Node, version: str, seen: set[tuple[str, str]]) -> Lineage:
        again = (node.name, version) in seen and bool(node.inputs)
        seen.add((node.name, version))
        read = self.body(node.name, version).get("inputs", {})
        graph = self._project.graph
        tree = [] if again else [self.up(graph.node(n), str(read.get(n, "")), seen) for n in node.inputs]
        return self._entry(node, version, tree, again)

    def down(self, node: Node, version: str, seen: set[tuple[str, str]]) -> Lineage:
        graph = self._project.graph
        users = graph.users()[node.name]
        again = (node.name, version) in seen and bool(users)
        seen.add((node.name, version))
        tree = []
        for user in () if again else users:
            head = self.heads.get(user)
            tree.append(self.down(graph.node(user), str(head.body["version"]) if head else "", seen))
        return self._entry(node, version, tree, again)


# -- rejected rows --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Rejected:
    """Rows that one check or reader rule rejected, with some of them as they came."""

    check: str
    stage: str
    rows: int
    newest: str
    samples: tuple[Mapping[str, Any], ...]


def rejected(project: Project, name: str, *, limit: int = 3) -> list[Rejected]:
    """Rejected rows of an asset by check, most first, with `limit` samples of each.

    Raises: UnknownName(E1003).
    """
    project.graph.node(name)
    lake = project.runtime.lake
    if lake.snapshot(rejected_name(name)) is None:
        return []
    session = project.runtime.engine.session()
    try:
        session.bind("_rejected", lake.scan(rejected_name(name)))
        check = quote("check")
        groups = session.rows(f"SELECT {check}, stage, count(*), max(rejected_at) FROM _rejected GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2")
        ranked = f"SELECT *, row_number() OVER (PARTITION BY {check}, stage ORDER BY file, position) AS _nth FROM _rejected"
        few = session.rows(
            f"SELECT {check}, stage, reason, original, file, position FROM ({ranked}) WHERE _nth <= {int(limit)} ORDER BY file, position"
        )
    finally:
        session.close()
    samples: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for rule, stage, reason, original, file, position in few:
        samples.setdefault((rule, stage), []).append({"reason": reason, "original": original, "file": file, "position": position})
    return [Rejected(str(r), str(s), int(n), _moment(at), tuple(samples.get((r, s), ()))) for r, s, n, at in groups]


def _moment(value: Any) -> str:
    return iso(value) if isinstance(value, datetime) else str(value or "")
