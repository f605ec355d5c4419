"""The way from written files to a published version: audit, reject, balance, commit, record. One path for every kind of table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from penstock.craft.quality.checks import Audit
from penstock.ground.clock import iso
from penstock.ground.failpoints import reach
from penstock.ground.names import rejected_name
from penstock.ports.lake import DataFile, Snapshot
from penstock.run import rejected
from penstock.run.audit import Batch, require_passed
from penstock.run.ledger import require_balance
from penstock.run.runtime import Job, Outcome
from penstock.run.standing import moved
from penstock.spec.schema import schema_record


def published(
    job: Job, batch: Batch, audit: Audit, *, extra: Mapping[str, Any] | None = None, export: Callable[[Job], None] | None = None
) -> Outcome:
    """Balances the ledger, commits rejected rows, then the version, writes its exports, then records it.

    Crash between any two steps: the next run finds the commit by its token and records it, or does the work again.
    """
    require_balance(job.name, job.steps)
    require_passed(job, audit)
    body = body_of(job, batch, audit, extra or {})
    state, now = job.runtime.state, job.runtime.clock.now()
    state.append("pending", job.name, body, at=now, claim=job.claim)
    aside = _publish_rejected(job, batch)
    reach("run.rejected_committed")
    replaces = batch.whole and job.runtime.lake.snapshot(job.name) is not None  # also what no record tells of
    snapshot = job.runtime.lake.commit(
        batch.draft,
        (*batch.kept, *batch.files),
        token=job.token,
        remove="*" if replaces else batch.remove,
        summary={
            "run": job.run,
            "definition": job.declared.definition,
            "contract": job.declared.contract,
            "inputs": json.dumps(body["inputs"], separators=(",", ":")),
            "rows_in": str(body["rows_in"]),
            "rejected": str(body["rejected"]),
        },
        operation="append" if not batch.remove and not batch.whole else "overwrite",
    )
    reach("run.published")
    if export is not None:
        export(job)
    return recorded(job, snapshot, {**body, "aside": aside})


def _publish_rejected(job: Job, batch: Batch) -> str | None:
    """Publishes a job's rejected rows before its good ones: a crash in between leaves orphans that the next commit takes out.

    Rows that the batch judges anew leave: all of them if the asset was computed whole. Returns the newest version, None if there
    never was a rejected row. Repeat: the same token commits once.
    """
    lake, table = job.runtime.lake, rejected_name(job.name)
    newest = lake.snapshot(table)
    if newest is None and not batch.refused:
        return None
    drafted = rejected.draft(lake, job.name)
    files: tuple[DataFile, ...] = ()
    remove: Sequence[str] | Literal["*"] = ()
    if batch.refused:
        files = job.session.write(" UNION ALL BY NAME ".join(batch.refused), drafted)
    if newest is not None and batch.whole:
        remove = "*" if newest.rows else ()
    elif newest is not None:
        lost = rejected.orphans(job, newest)
        scan = lake.scan(table)
        stays = replace(scan, files=tuple(f for f in scan.files if f.path not in lost))
        kept, gone, _ = moved(job, drafted, stays, batch.outdated) if batch.outdated else ((), (), None)
        files, remove = (*kept, *files), (*lost, *gone)
    if newest is not None and not files and not remove:
        return newest.version
    done = lake.commit(
        drafted, files, token=job.token + rejected.TOKEN, remove=remove, summary={"run": job.run, "asset": job.name},
        operation="overwrite" if remove else "append",
    )  # fmt: skip
    return done.version


def body_of(job: Job, batch: Batch, audit: Audit, extra: Mapping[str, Any]) -> dict[str, Any]:
    """What is recorded of the version, all but the version itself."""
    first = job.steps[0] if job.steps else None
    return {
        "token": job.token,
        "run": job.run,
        "kind": job.node.kind,
        "mode": job.action.mode,
        "reasons": [r.text for r in job.action.reasons],
        "definition": job.declared.definition,
        "parts": dict(job.declared.parts),
        "contract": job.declared.contract,
        "params": job.declared.recorded_params,
        "inputs": {name: job.versions[name] for name in job.node.inputs},
        "rows_in": first.rows_in if first else 0,
        "rejected": sum(sum(s.rejected.values()) for s in job.steps),
        "bytes": sum(f.size_bytes for f in (*batch.kept, *batch.files)),
        "ledger": [s.record() for s in job.steps],
        "checks": [r.record() for r in audit.results],
        "columns": schema_record(batch.draft.schema),
        **extra,
    }


def recorded(job: Job, snapshot: Snapshot, body: Mapping[str, Any]) -> Outcome:
    """Makes a committed snapshot the asset's newest version."""
    now = job.runtime.clock.now()
    full = {**body, **version_of(snapshot), "seconds": job.seconds, "at": iso(now)}
    job.runtime.state.append_all([("asset", job.name, full), *listing_entries(job.name, body)], at=now, claim=job.claim)
    reach("run.recorded")
    return Outcome(snapshot.version, full)


def version_of(snapshot: Snapshot) -> dict[str, Any]:
    """What a snapshot adds to an asset's record."""
    return {"version": snapshot.version, "parent": snapshot.parent, "rows": snapshot.rows, "files": snapshot.files}


def listing_entries(asset: str, body: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """State entries for the input files that a landing took in or dropped, and for the slices that a backfill made."""
    kinds = {"listing": body.get("listing", {}), "slice": body.get("backfilled", {})}
    return [(kind, f"{asset}/{label}", entry) for kind, entries in kinds.items() for label, entry in entries.items()]


def unchanged(job: Job, audit_results: Sequence[Mapping[str, Any]] = (), *, extra: Mapping[str, Any] | None = None) -> Outcome:
    """Records that the newest version is also right for today's inputs and definition."""
    require_balance(job.name, job.steps)
    now = job.runtime.clock.now()
    body = {
        **job.base,
        "run": job.run,
        "definition": job.declared.definition,
        "parts": dict(job.declared.parts),
        "contract": job.declared.contract,
        "params": job.declared.recorded_params,
        "inputs": {name: job.versions[name] for name in job.node.inputs},
        "ledger": [s.record() for s in job.steps],
        "reasons": [r.text for r in job.action.reasons],
        **({"checks": list(audit_results)} if audit_results else {}),
        **(extra or {}),
    }
    job.runtime.state.append_all([("asset", job.name, body), *listing_entries(job.name, body)], at=now, claim=job.claim)
    return Outcome(str(body["version"]), body, changed=False)
