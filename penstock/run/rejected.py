"""Rejected rows: a table beside each asset that keeps what was not let in, why, and where it came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from penstock.craft.quality.checks import failing_query
from penstock.ground.names import literal, quote, rejected_name
from penstock.ports.lake import DataFile, Draft, Lake, Snapshot
from penstock.run.runtime import Job
from penstock.spec.checks import Check
from penstock.spec.schema import Schema, schema_of

if TYPE_CHECKING:
    import pyarrow as pa

#: Columns of every rejected table. `original` is the line as read (stage `parse`) or a JSON object of the row's values as
#: texts (stage `check`); `position` counts from 1: the line of the file, or the row among the file's readable rows.
COLUMNS = schema_of(
    asset="string", run="string", token="string", stage="string", check="string", reason="string", original="string",
    file="string", position="long", definition="string", contract="string", rejected_at="timestamptz",
)  # fmt: skip


def of_parse(job: Job, found: pa.Table) -> str:
    """Binds rows that could not be read; returns a query of them in rejected form."""
    job.session.bind("_unread", found)
    return f'SELECT {_who(job, "parse")}, "check", reason, original, file, CAST(position AS BIGINT) AS position, {_when(job)} FROM _unread'


def of_checks(job: Job, relation: str, schema: Schema, checks: Sequence[Check]) -> str:
    """A query of the rows of a relation that fail rejecting checks, in rejected form."""
    failing = failing_query(relation, checks, schema)
    values = ", ".join(f"{quote(f.name)} := CAST({quote(f.name)} AS VARCHAR)" for f in schema)
    file = "CAST(NULL AS VARCHAR) AS file, CAST(NULL AS BIGINT) AS position"
    if "_file" in schema:
        first = f'SELECT min(o."_pos") FROM {quote(relation)} o WHERE o."_path" = f."_path" AND o."_file" = f."_file"'
        file = f'"_file" AS file, CAST("_pos" - ({first}) + 1 AS BIGINT) AS position'
    return (
        f'SELECT {_who(job, "check")}, _check AS "check", _reason AS reason, CAST(to_json(struct_pack({values})) AS VARCHAR) AS original, '
        f"{file}, {_when(job)} FROM ({failing}) f"
    )


def _who(job: Job, stage: str) -> str:
    return f"{literal(job.name)} AS asset, {literal(job.run)} AS run, {literal(job.token)} AS token, {literal(stage)} AS stage"


def _when(job: Job) -> str:
    now = job.runtime.clock.now().isoformat()
    return (
        f"{literal(job.declared.definition)} AS definition, {literal(job.declared.contract)} AS contract, "
        f"CAST({literal(now)} AS TIMESTAMPTZ) AS rejected_at"
    )


def draft(lake: Lake, asset: str) -> Draft:
    return lake.draft(rejected_name(asset), COLUMNS)


def publish(job: Job, drafted: Draft, files: Sequence[DataFile], *, everything: bool) -> Snapshot | None:
    """Publishes a job's rejected rows before its good ones: a crash in between leaves a batch that the next commit takes out.

    With `everything` the asset was computed whole, so older rejected rows are history and leave the current version.
    Repeat: the same token commits once.
    """
    lake, table = job.runtime.lake, rejected_name(job.name)
    newest = lake.snapshot(table)
    if newest is None and not files:
        return None
    remove: Sequence[str] | str = "*" if everything else _orphans(job, newest)
    if not files and (not remove or (newest is not None and newest.rows == 0)):
        return newest
    return lake.commit(
        drafted,
        files,
        token=f"{job.token}:rejected",
        remove="*" if remove == "*" and newest is not None else [r for r in remove if r != "*"],
        summary={"run": job.run, "asset": job.name},
        operation="overwrite" if remove else "append",
    )


def _orphans(job: Job, newest: Snapshot | None) -> list[str]:
    """Files of the newest commit, if the asset's version it was made for was never published and this is another batch."""
    if newest is None or newest.token in ("", f"{job.token}:rejected", f"{job.base.get('token')}:rejected"):
        return []
    if newest.token.endswith(":replayed"):
        return []
    return [f.path for f in job.runtime.lake.changes(newest.table, since=newest.parent, until=newest.version).added.files]
