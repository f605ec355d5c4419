"""Replaying rejected rows: after a fix of the checks or options, what was kept aside is tried again, and what passes lands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.graph.graph import Node
from penstock.ground.clock import iso
from penstock.ground.digest import digest
from penstock.ground.errors import DefinitionError, Unsupported, VersionNotFound
from penstock.ground.names import literal, quote, rejected_name
from penstock.ground.paths import private_folder
from penstock.plan.records import Action, Declared
from penstock.ports.engine import RawFile, RawFiles
from penstock.ports.lake import DataFile, Draft
from penstock.run import rejected
from penstock.run.execute import claimed
from penstock.run.land import FILE_COLUMN, format_of
from penstock.run.ledger import Step, require_balance
from penstock.run.publish import Batch, audited, final_audit, require_passed, version_of
from penstock.run.runtime import Job, Runtime
from penstock.spec.schema import Field, Schema, schema_from_record
from penstock.spec.sources import Files
from penstock.spec.tables import Table


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
            return _replayed(job, aside.rows)
        finally:
            session.close()


def _replayed(job: Job, tried: int) -> ReplayReport:
    lake, session, asset = job.runtime.lake, job.session, job.node.asset
    scan = lake.scan(rejected_name(job.name))
    assert isinstance(asset, Table | Files)
    session.bind("_aside", scan)
    current = lake.scan(job.name)
    draft = lake.draft(job.name, Schema(tuple(Field(f.name, f.type) for f in current.schema)))
    files, refused = _read_again(job, draft)
    batch = Batch(draft, files, refused, whole=False)
    batch, audit = audited(job, batch, asset.checks, ())
    still = {str(name): int(n) for name, n in _still(job, batch)}
    landed = sum(f.rows for f in batch.files)
    job.steps[:] = [Step("replay", tried, landed, rejected=still)]
    require_balance(job.name, job.steps)
    require_passed(job, audit)
    key = asset.key if isinstance(asset, Table) else ()
    if (whole := final_audit(job, batch, asset.checks, key, current)) is not None:
        require_passed(job, whole)
    snapshot = (
        lake.commit(draft, batch.files, token=job.token, summary={"run": job.run, "replay": str(landed)}, operation="append")
        if landed
        else None
    )
    aside = _keep_still_rejected(job, batch)
    now = job.runtime.clock.now()
    body = {
        **job.base, **(version_of(snapshot) if snapshot else {}), "contract": job.declared.contract, "run": job.run, "at": iso(now),
        "token": job.token if snapshot else job.base.get("token"), "ledger": [s.record() for s in job.steps], "reasons": ["replay"],
        "rejected": sum(still.values()), "rows_in": tried, "aside": aside,
    }  # fmt: skip
    job.runtime.state.append("asset", job.name, body, at=now, claim=job.claim)
    return ReplayReport(job.name, tried, landed, still, str(body["version"]))


def _read_again(job: Job, draft: Draft) -> tuple[tuple[DataFile, ...], tuple[str, ...]]:
    """Rows kept as values are cast back; lines that could not be read are read again under today's options.

    Returns: files with the rows that can be read now, and queries of those that still cannot.
    """
    session = job.session
    texts = {f.name: f"json_extract_string(original, {literal(_path(f.name))})" for f in draft.schema}
    casts = {f.name: f"TRY_CAST({texts[f.name]} AS {session.type_name(f.type)})" for f in draft.schema}
    readable = " AND ".join(f"({texts[n]} IS NULL OR {casts[n]} IS NOT NULL)" for n in texts)
    values = ", ".join(f"{cast} AS {quote(name)}" for name, cast in casts.items())
    files = list(session.write(f"SELECT {values} FROM _aside WHERE stage = 'check' AND {readable}", draft))
    refused = [f"SELECT * FROM _aside WHERE stage = 'check' AND NOT ({readable})"]
    if isinstance(job.node.asset, Files):
        lines = session.rows("SELECT file, original FROM _aside WHERE stage = 'parse' ORDER BY file, position")
        if lines:
            loaded = session.load(_as_files(job, job.node.asset, lines), draft)
            files += loaded.files
            refused += [rejected.of_parse(job, loaded.rejected)] if loaded.rejected.num_rows else []
    return tuple(files), tuple(refused)


def _path(name: str) -> str:
    return '$."' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _as_files(job: Job, asset: Files, lines: Sequence[tuple[Any, ...]]) -> RawFiles:
    """The kept lines as small files with the columns' header, one for each file they came from."""
    columns = schema_from_record(list(job.base["crawl"]))
    options: Mapping[str, Any] = {**job.base.get("options", {}), **dict(asset.options)}
    folder = private_folder(job.runtime.folder / "replay" / job.run)
    by_file: dict[str, list[str]] = {}
    for label, line in lines:
        by_file.setdefault(str(label), []).append(str(line))
    kind = format_of(asset, [RawFile("", label, 0, 0) for label in by_file])
    delimiter = str(options.get("delimiter") or ("\t" if kind == "tsv" else ","))
    made = []
    for i, (label, texts) in enumerate(sorted(by_file.items())):
        header = [delimiter.join(columns.names)] if kind in ("csv", "tsv") and options.get("header", True) else []
        path = folder / f"{i}.txt"
        path.write_text("\n".join([*header, *(t.rstrip("\r\n") for t in texts)]) + "\n", encoding="utf-8")
        made.append(RawFile(str(path), label, path.stat().st_size, path.stat().st_mtime_ns))
    plain = {k: v for k, v in options.items() if k not in ("encoding", "compression", "skip")}
    return RawFiles(tuple(made), kind, columns, plain, FILE_COLUMN)


def _still(job: Job, batch: Batch) -> list[tuple[Any, ...]]:
    if not batch.refused:
        return []
    union = " UNION ALL BY NAME ".join(batch.refused)
    job.session.bind("_still", job.session.read(union).read_all())
    return job.session.rows('SELECT "check", count(*) FROM _still GROUP BY 1 ORDER BY 1')


def _keep_still_rejected(job: Job, batch: Batch) -> str:
    drafted = rejected.draft(job.runtime.lake, job.name)
    files = job.session.write("SELECT * FROM _still", drafted) if batch.refused else ()
    done = job.runtime.lake.commit(
        drafted, files, token=f"{job.token}:replayed", remove="*", summary={"run": job.run, "asset": job.name}, operation="overwrite"
    )
    return done.version
