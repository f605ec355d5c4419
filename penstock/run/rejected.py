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


#: Ends the token of the commit of rejected rows that belongs to a version's own commit.
TOKEN = ":rejected"


def of_parse(job: Job, found: pa.Table) -> str:
    """Binds rows that could not be read; returns a query of them in rejected form."""
    job.session.bind("_unread", found)
    return f'SELECT {_who(job, "parse")}, "check", reason, original, file, CAST(position AS BIGINT) AS position, {_when(job)} FROM _unread'


def of_checks(job: Job, relation: str, schema: Schema, checks: Sequence[Check]) -> str:
    """A query of the rows of a relation that fail rejecting checks, in rejected form."""
    return of_failing(job, relation, schema, failing_query(relation, checks, schema))


def of_failing(job: Job, relation: str, schema: Schema, failing: str) -> str:
    """A query of rows in rejected form; `failing` gives them with `_check`, `_reason`, `_path` and `_pos`."""
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


def orphans(job: Job, newest: Snapshot | None) -> tuple[str, ...]:
    """Files of the newest commit if it was made for a version that was never published, and not for this piece of work."""
    if newest is None or not newest.token.endswith(TOKEN) or newest.token == job.token + TOKEN:
        return ()
    if newest.version == job.base.get("aside"):
        return ()
    return tuple(f.path for f in job.runtime.lake.changes(newest.table, since=newest.parent, until=newest.version).added.files)


def renew(lake: Lake, asset: str, files: Sequence[DataFile], *, token: str) -> str:
    """Puts what a replay leaves in place of all rejected rows; returns the version. Repeat: the same token commits once."""
    summary = {"asset": asset}
    done = lake.commit(draft(lake, asset), files, token=f"{token}:replayed", remove="*", summary=summary, operation="overwrite")
    return done.version


def value_of(column: str, kind: str) -> str:
    """SQL over the rejected table: a column's value in a row that failed a check, read as an engine's type; null if it cannot be."""
    return f"TRY_CAST({text_of(column)} AS {kind})"


def text_of(column: str) -> str:
    """SQL over the rejected table: a column's value, as text, in a row that failed a check."""
    path = '$."' + column.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"json_extract_string(original, {literal(path)})"
