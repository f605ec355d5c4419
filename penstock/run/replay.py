"""Replaying rejected rows: after a fix of the checks or options, what was kept aside is tried again, and what passes lands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from penstock.craft.quality.checks import audit_query, verdict
from penstock.graph.graph import Node
from penstock.ground.clock import iso
from penstock.ground.digest import digest
from penstock.ground.errors import DefinitionError, Unsupported, VersionNotFound
from penstock.ground.names import literal, quote, rejected_name
from penstock.ground.paths import private_folder
from penstock.plan.records import Action, Declared
from penstock.ports.engine import RawFile, RawFiles
from penstock.ports.lake import DataFile, Draft, Operation, Scan, Snapshot
from penstock.run import rejected
from penstock.run.audit import Batch, audited, final_audit, require_passed
from penstock.run.build import merged
from penstock.run.claims import claimed
from penstock.run.land import FILE_COLUMN, format_of
from penstock.run.ledger import Step, require_balance
from penstock.run.publish import version_of
from penstock.run.recorded import adopt
from penstock.run.runtime import Job, Runtime
from penstock.run.standing import standing_rows
from penstock.spec.schema import Field, Schema, schema_from_record
from penstock.spec.sources import Files
from penstock.spec.tables import Merge, Table


@dataclass(frozen=True)
class ReplayReport:
    """What a replay did: rows tried, landed, and still rejected by check."""

    asset: str
    tried: int
    landed: int
    still_rejected: Mapping[str, int] = field(default_factory=dict)
    version: str = ""

    def record(self) -> dict[str, Any]:
        return {
            "asset": self.asset,
            "tried": self.tried,
            "landed": self.landed,
            "still_rejected": dict(self.still_rejected),
            "version": self.version,
        }


def replay(node: Node, declared: Declared, graph: Any, runtime: Runtime) -> ReplayReport:
    """Tries all rejected rows of an asset again under today's checks; those that pass are added to the newest version.

    Repeat: lands nothing twice, also after a crash in between (the commit's token is made of the rejected version).
    Raises: VersionNotFound(E4009) if the asset was never made; DefinitionError(E1001) if its code changed since.
    """
    if not isinstance(node.asset, Table | Files):
        raise Unsupported("only tables and file sources have rejected rows to replay", place=node.name, got=node.kind)
    adopt(graph, runtime)
    run_id = runtime.ids.new()
    with claimed(runtime, f"asset:{node.name}", run_id) as claim:
        head = runtime.state.heads("asset", prefix=node.name).get(node.name)
        if head is None:
            raise VersionNotFound("never made, so nothing was rejected", place=node.name, hint=f"penstock run {node.name}")
        if head.body["definition"] != declared.definition:
            raise DefinitionError(
                "its code or options changed since the rows were rejected", place=node.name,
                hint=f"`penstock run {node.name}` computes it again with the new code, rejected rows included",
            )  # fmt: skip
        aside = runtime.lake.snapshot(rejected_name(node.name))
        if aside is None or aside.rows == 0:
            return ReplayReport(node.name, 0, 0, version=str(head.body["version"]))
        session = runtime.engine.session()
        try:
            token = f"{node.name}:{digest([aside.version, declared.contract])}:replay"
            versions = dict(head.body["inputs"])
            action = Action(node.name, node.kind, "stale", "part")
            job = Job(
                runtime, graph, node, declared, action, run_id, claim, session, versions, dict(head.body), token, runtime.clock.tick()
            )
            return _replayed(job, aside)
        finally:
            session.close()


def _replayed(job: Job, aside: Snapshot) -> ReplayReport:
    """Judges the rows, then: a `pending` record with the files of what stays rejected, the commit, the rejected rows, the record."""
    lake, session, asset = job.runtime.lake, job.session, job.node.asset
    scan, lost = lake.scan(aside.table, version=aside.version), rejected.orphans(job, aside)
    scan = replace(scan, files=tuple(f for f in scan.files if f.path not in lost))
    assert isinstance(asset, Table | Files)
    session.bind("_aside", scan)
    current = lake.scan(job.name)
    columns = Schema(tuple(Field(f.name, f.type) for f in current.schema))
    draft = lake.draft(job.name, columns, partition=getattr(asset, "partition", ()))
    files, refused = _read_again(job, draft)
    batch = Batch(draft, files, refused, whole=False)
    merging = isinstance(asset, Table) and isinstance(asset.write, Merge)
    batch, audit = audited(job, batch, asset.checks, (), standing="" if merging else standing_rows(job, current, "false"))
    still = _still(job, batch)
    job.steps[:] = [Step("replay", scan.rows, sum(f.rows for f in batch.files), rejected=still)]
    if isinstance(asset, Table) and isinstance(asset.write, Merge) and batch.files:
        batch = merged(job, asset, batch, current)
    require_balance(job.name, job.steps)
    require_passed(job, audit)
    key = asset.key if isinstance(asset, Table) else ()
    if (whole := final_audit(job, batch, asset.checks, key, current)) is not None:
        require_passed(job, whole)
    kept_aside = session.write("SELECT * FROM _still", rejected.draft(lake, job.name))
    landed = sum(f.rows for f in batch.files)
    state, now = job.runtime.state, job.runtime.clock.now()
    body = {
        **job.base, "contract": _contract(job, asset, current), "run": job.run, "ledger": [s.record() for s in job.steps],
        "reasons": ["replay"], "rejected": sum(still.values()), "rows_in": scan.rows,
    }  # fmt: skip
    if landed:
        body |= {"token": job.token, "replayed": [vars(f) for f in kept_aside]}
        state.append("pending", job.name, body, at=now, claim=job.claim)
        operation: Operation = "overwrite" if batch.remove else "append"
        summary = {"run": job.run, "replay": str(landed)}
        added = (*batch.kept, *batch.files)
        body |= version_of(lake.commit(draft, added, token=job.token, remove=batch.remove, summary=summary, operation=operation))
    aside_now = rejected.renew(lake, job.name, kept_aside, token=job.token)
    now = job.runtime.clock.now()
    state.append("asset", job.name, {**body, "at": iso(now), "aside": aside_now}, at=now, claim=job.claim)
    return ReplayReport(job.name, scan.rows, landed, still, str(body["version"]))


def _contract(job: Job, asset: Table | Files, current: Scan) -> str:
    """Today's contract if the rows published before keep it too; else the one they were made under, so that they are made again."""
    if job.base["contract"] == job.declared.contract:
        return job.declared.contract
    job.session.bind("_landed", current)
    key, now = (asset.key if isinstance(asset, Table) else ()), job.runtime.clock.now()
    row = job.session.rows(audit_query("_landed__all", asset.checks, current.schema, key, now=now))[0]
    found = verdict(row, asset.checks, current.schema, key, now=now)
    return str(job.base["contract"] if found.rejected_rows or found.blocking else job.declared.contract)


def _read_again(job: Job, draft: Draft) -> tuple[tuple[DataFile, ...], tuple[str, ...]]:
    """Rows kept as values are cast back; lines that could not be read are read again under today's options.

    Returns: files with the rows that can be read now, and queries of those that still cannot.
    """
    session = job.session
    casts = {f.name: rejected.value_of(f.name, session.type_name(f.type)) for f in draft.schema}
    readable = " AND ".join(f"({rejected.text_of(n)} IS NULL OR {cast} IS NOT NULL)" for n, cast in casts.items())
    values = ", ".join(f"{cast} AS {quote(name)}" for name, cast in casts.items())
    files = list(session.write(f"SELECT {values} FROM _aside WHERE stage = 'check' AND {readable}", draft))
    refused = [f"SELECT * FROM _aside WHERE stage = 'check' AND NOT ({readable})"]
    if isinstance(job.node.asset, Files):
        lines = session.rows("SELECT file, original FROM _aside WHERE stage = 'parse' ORDER BY file, position")
        raw, left = _as_files(job, job.node.asset, lines)
        if raw.files:
            loaded = session.load(raw, draft)
            files += loaded.files
            refused += [rejected.of_parse(job, loaded.rejected)] if loaded.rejected.num_rows else []
        names = ", ".join(literal(label) for label in left)
        refused += [f"SELECT * FROM _aside WHERE stage = 'parse' AND file IN ({names})"] if left else []
    return tuple(files), tuple(refused)


def _as_files(job: Job, asset: Files, lines: Sequence[tuple[Any, ...]]) -> tuple[RawFiles, list[str]]:
    """The kept lines as small files, one for each file they came from, with its own header; and labels of which too little is known."""
    columns = schema_from_record(list(job.base["crawl"]))
    options: Mapping[str, Any] = {**job.base.get("options", {}), **dict(asset.options)}
    folder = private_folder(job.runtime.folder / "replay" / job.run)
    by_file: dict[str, list[str]] = {}
    for label, line in lines:
        by_file.setdefault(str(label), []).append(str(line).rstrip("\r\n"))
    kind = format_of(asset, [RawFile("", label, 0, 0) for label in by_file]) if by_file else ""
    kind = {"parquet": "ndjson", "arrow": "ndjson", "excel": "tsv"}.get(kind, kind)  # the form in which their rows were kept
    delimiter = "\t" if kind == "tsv" else options.get("delimiter")
    listing = job.runtime.state.heads("listing", prefix=f"{job.name}/")
    made, left = [], []
    for i, (label, texts) in enumerate(sorted(by_file.items())):
        record = listing[f"{job.name}/{label}"].body if f"{job.name}/{label}" in listing else {}
        if kind in ("csv", "tsv") and options.get("header", True):
            if not record.get("columns") or not delimiter:
                left.append(label)
                continue
            texts = [str(delimiter).join(_quoted(name, str(options.get("quote") or '"')) for name in record["columns"]), *texts]
        path = folder / f"{i}.txt"
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")
        partition = tuple((str(k), str(v)) for k, v in record.get("partition", ()))
        made.append(RawFile(str(path), label, path.stat().st_size, path.stat().st_mtime_ns, partition))
    plain = {k: v for k, v in options.items() if k not in ("encoding", "compression", "skip", "sheet")}
    plain |= {"delimiter": delimiter} if kind in ("csv", "tsv") and delimiter else {}
    return RawFiles(tuple(made), kind, columns, plain, FILE_COLUMN), left


def _quoted(name: str, mark: str) -> str:
    return mark + name.replace(mark, mark * 2) + mark


def _still(job: Job, batch: Batch) -> dict[str, int]:
    """Binds the rows that stay rejected, with the file and position they had; returns how many there are, by check."""
    union = " UNION ALL BY NAME ".join(batch.refused)
    text = "rtrim(original, chr(13) || chr(10))"
    numbered = f"SELECT *, {text} AS _text, row_number() OVER (PARTITION BY {text} ORDER BY file, position) AS _number"
    query = (
        "SELECT n.* EXCLUDE (_text, _number) REPLACE (coalesce(o.file, n.file) AS file, o.position AS position) "
        f"FROM ({numbered} FROM ({union})) n LEFT JOIN ({numbered} FROM _aside) o ON n._text = o._text AND n._number = o._number"
    )
    job.session.bind("_still", job.session.read(query).read_all())
    counted = job.session.rows('SELECT "check", count(*) FROM _still GROUP BY 1 ORDER BY 1')
    return {str(name): int(n) for name, n in counted}
