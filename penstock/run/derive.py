"""Making features: whole, only new columns, or only the times that changed rows can reach; and what their columns hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from penstock.craft.temporal.expressions import of_row, of_window
from penstock.craft.temporal.statistics import statistics_query, statistics_record
from penstock.craft.temporal.windows import feature_query
from penstock.ground.errors import DefinitionError
from penstock.ground.failpoints import reach
from penstock.ground.names import quote
from penstock.plan.decide import columns_moved
from penstock.ports.lake import Changes, Scan
from penstock.run.audit import Batch, audited
from penstock.run.build import bind_inputs, build_table, visible
from penstock.run.ledger import Step
from penstock.run.point_in_time import feature_columns
from penstock.run.publish import published, unchanged
from penstock.run.runtime import Job, Outcome, snapshot_for
from penstock.run.standing import moved
from penstock.spec.features import Features, KnownAt
from penstock.spec.schema import Schema
from penstock.spec.spans import span

#: Spans of time that are computed again one by one; if there are more, the nearest are taken together.
MOST_SPANS = 50
#: The share of a table's rows in changed files above which all is computed.
MOST_CHANGED = 0.5


def derive(job: Job) -> Outcome:
    """Makes features and publishes them, with statistics of their columns in the record."""
    asset = job.node.asset
    assert isinstance(asset, Features)
    if asset.table is not None:
        return build_table(job, asset.table, extra=lambda batch, current: _statistics(job, asset, batch, current))
    scans = bind_inputs(job, job.node.inputs)
    if job.part:
        current = job.runtime.lake.scan(job.name)
        if job.base.get("parts") != dict(job.declared.parts):
            return _columns(job, asset, scans[asset.over], current)
        changes = _changes(job, asset, scans[asset.over])
        if changes is not None:
            return _touched(job, asset, scans[asset.over], current, changes)
    return _whole(job, asset, scans[asset.over])


def _whole(job: Job, asset: Features, scan: Scan) -> Outcome:
    schema = job.session.define("_computed", feature_query(asset, asset.over, visible(scan.schema)))
    reach("run.computed")
    draft = job.runtime.lake.draft(job.name, schema, exact=True)
    batch = Batch(draft, job.session.write("SELECT * FROM _computed", draft), remove="*" if job.base else ())
    job.steps.append(Step("aggregate", scan.rows, sum(f.rows for f in batch.files), keeps=False, inputs={asset.over: scan.rows}))
    batch, audit = audited(job, batch, (), (*asset.entity, asset.time))
    return published(job, batch, audit, extra=_statistics(job, asset, batch, None))


# -- columns --------------------------------------------------------------------------------------------------------
def _columns(job: Job, asset: Features, scan: Scan, current: Scan) -> Outcome:
    """Computes new and changed columns and puts them beside the others, over the same version of the table: the same rows."""
    new, changed, gone = columns_moved(job.base.get("parts", {}), job.declared.parts)
    computed = (*new, *changed)
    keys = (*asset.entity, asset.time)
    job.session.bind("_before", current)
    if computed:
        job.session.define("_fresh", feature_query(asset, asset.over, visible(scan.schema), only=computed))
    picked = [*(f"b.{quote(k)}" for k in keys), *(f"{'f' if c in computed else 'b'}.{quote(c)}" for c in asset.columns)]
    same = " AND ".join(f"b.{quote(k)} = f.{quote(k)}" for k in keys)
    joined = f" LEFT JOIN _fresh f ON {same}" if computed else ""
    schema = job.session.define("_computed", f"SELECT {', '.join(picked)} FROM _before b{joined}")
    reach("run.computed")
    draft = job.runtime.lake.draft(job.name, schema, exact=True)
    batch = Batch(draft, job.session.write("SELECT * FROM _computed", draft), remove="*")
    if computed:
        met = int(job.session.rows("SELECT count(*) FROM _fresh")[0][0])
        if met != current.rows:  # never, unless the table is not what the record says
            job.tell("note", "computed whole: the rows are not those that the columns were made for")
            return _whole(job, asset, scan)
    note = {"columns computed": len(computed), "columns kept": len(asset.columns) - len(computed), "columns dropped": len(gone)}
    job.steps.append(Step("columns", current.rows, sum(f.rows for f in batch.files), note=note))
    job.tell("note", f"computed {', '.join(computed) or 'nothing'}; {len(asset.columns) - len(computed)} columns are kept as they are")
    batch, audit = audited(job, batch, (), keys)
    return published(job, batch, audit, extra=_statistics(job, asset, batch, None))


# -- rows -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Span:
    """Times from `low` to `high`, both in, in microseconds since 1970."""

    low: int
    high: int

    def holds(self, time: str, *, back: int = 0) -> str:
        """An SQL condition on a time column: in the span, or up to `back` before it."""
        return f"(epoch_us({time}) BETWEEN {self.low - back} AND {self.high})"


def _changes(job: Job, asset: Features, scan: Scan) -> Changes | None:
    """What changed in the table since the features were made; None, with a note, if all must be computed."""
    until = snapshot_for(job.runtime, asset.over, job.versions[asset.over])
    changes = job.runtime.lake.changes(asset.over, since=job.base["inputs"].get(asset.over), until=until)
    why = ""
    if not changes.complete:
        why = "the version they were made of is forgotten"
    elif changes.added.rows + changes.removed.rows > MOST_CHANGED * scan.rows:
        why = f"most of {asset.over} changed"
    elif _read(asset, visible(scan.schema)) is None:
        why = "`where` is no condition of a row alone"
    elif changes.removed.files and not set(_read(asset, visible(scan.schema)) or ()) <= set(changes.removed.schema.names):
        why = f"{asset.over} had other columns"
    if why:
        job.tell("note", f"computed whole: {why}")
    return None if why else changes


def _read(asset: Features, schema: Schema) -> tuple[str, ...] | None:
    """The columns that the features depend on; None if `where` depends on more than a row."""
    found = [*asset.entity, asset.time, *([asset.known.column] if isinstance(asset.known, KnownAt) else [])]
    try:
        found += of_row(asset.where, schema.names, place=asset.over) if asset.where else ()
    except DefinitionError:
        return None
    for _, aggregate in asset.aggregates:
        found += [aggregate.column] if aggregate.column is not None else []
        found += of_window(aggregate.sql, schema.names, place=asset.over) if aggregate.sql else ()
    return tuple(dict.fromkeys(found))


def _reach(asset: Features) -> int:
    """How long after its event a row can count, in microseconds: lag and longest window."""
    lag = "0s" if isinstance(asset.known, KnownAt) else asset.known.lag
    return round((span(lag) + max(span(w) for w in asset.windows)).total_seconds() * 1_000_000)


def _touched(job: Job, asset: Features, scan: Scan, current: Scan, changes: Changes) -> Outcome:
    """Computes the times again that changed rows reach.

    A row with event time u, added, removed or known later, can change features at the times from u to u + lag + longest window,
    at no others: with known time k those from k on, and u itself, which may come or go. They depend on rows up to lag + window
    before them. So exactly these times are computed, from exactly the rows they depend on.
    """
    spans = _spans(job, asset, changes, _read(asset, visible(scan.schema)) or ())
    if not spans:
        job.steps.append(Step("aggregate", 0, 0, keeps=False))
        return unchanged(job)
    time, reach_us = quote(asset.time), _reach(asset)
    near = " OR ".join(s.holds(time, back=reach_us) for s in spans)
    condition = f"({' OR '.join(s.holds(time) for s in spans)})"
    job.session.define("_near", f"SELECT * FROM {quote(asset.over)} WHERE {near}")
    job.session.define("_made", feature_query(asset, "_near", visible(scan.schema)))
    schema = job.session.define("_computed", f"SELECT * FROM _made WHERE {condition}")
    reach("run.computed")
    read = int(job.session.rows("SELECT count(*) FROM _near")[0][0])
    draft = job.runtime.lake.draft(job.name, schema)
    batch = Batch(draft, job.session.write("SELECT * FROM _computed", draft), whole=False)
    job.steps.append(Step("aggregate", read, sum(f.rows for f in batch.files), keeps=False, inputs={asset.over: scan.rows}))
    job.tell("note", f"{len(spans)} span{'s' if len(spans) > 1 else ''} of time computed, from {read:,} of {scan.rows:,} rows")
    batch, audit = audited(job, batch, (), (*asset.entity, asset.time))
    kept, remove, step = moved(job, draft, current, condition)
    batch = replace(batch, kept=kept, remove=remove)
    job.steps += [step] if step else []
    return published(job, batch, audit, extra=_statistics(job, asset, batch, current))


def _spans(job: Job, asset: Features, changes: Changes, read: Sequence[str]) -> list[_Span]:
    """The times that changed rows reach, in order, apart from each other. A row that only moved between files did not change."""
    session = job.session
    columns = ", ".join(quote(c) for c in read)
    session.bind("_came", changes.added)
    query = f"SELECT {columns} FROM _came"
    if changes.removed.files:
        session.bind("_went", changes.removed)
        came, went = query, f"SELECT {columns} FROM _went"
        query = f"({came} EXCEPT ALL {went}) UNION ALL ({went} EXCEPT ALL {came})"
    dated = " AND ".join(f"{quote(c)} IS NOT NULL" for c in (*asset.entity, asset.time))
    at = f"epoch_us({quote(asset.time)})"
    session.define("_changed", f"SELECT DISTINCT {at} AS low, {at} + {_reach(asset)} AS high FROM ({query}) WHERE {dated}")
    least, greatest, count = session.rows("SELECT min(low), max(high), count(*) FROM _changed")[0]
    if not count:
        return []
    slack = (int(greatest) - int(least)) // MOST_SPANS
    before = "max(high) OVER (ORDER BY low ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
    begins = f"SELECT low, high, coalesce(low > {before} + {slack}, true)::INT AS begins FROM _changed"
    groups = f"SELECT low, high, sum(begins) OVER (ORDER BY low ROWS UNBOUNDED PRECEDING) AS number FROM ({begins})"
    found = session.rows(f"SELECT min(low), max(high) FROM ({groups}) GROUP BY number ORDER BY 1")
    return [_Span(int(low), int(high)) for low, high in found]


# -- what they hold -------------------------------------------------------------------------------------------------
def _statistics(job: Job, asset: Features, batch: Batch, current: Scan | None) -> dict[str, Any]:
    """For the record: what the columns of the whole version hold."""
    gone = set(batch.remove)
    stays = tuple(f for f in current.files if f.path not in gone) if current and not batch.whole and batch.remove != "*" else ()
    schema = batch.draft.schema
    scan = Scan(
        job.name, "", schema, (*stays, *batch.kept, *batch.files),
        {**(current.schemas if current else {}), batch.draft.schema_id: schema},
    )  # fmt: skip
    columns = feature_columns(asset, schema)
    job.session.bind("_version", scan)
    row = job.session.rows(statistics_query("_version", schema, columns, asset.time))[0]
    return {"statistics": statistics_record(row, columns)}
