"""Building a table: bind inputs at fixed versions, compute, and place the rows as the asset's way of writing says."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from penstock.craft.lineage.shape import Shape, parsed, shape_of
from penstock.craft.temporal.clocks import same_clock
from penstock.ground.errors import DefinitionError, PenstockError, QueryError, UserCodeError, did_you_mean
from penstock.ground.failpoints import reach
from penstock.ground.names import literal, quote
from penstock.ports.engine import Session
from penstock.ports.lake import Changes, Scan
from penstock.run import forms, rejected
from penstock.run.audit import Batch, audited, final_audit
from penstock.run.export import write_rows
from penstock.run.land import FILE_COLUMN
from penstock.run.ledger import Step
from penstock.run.publish import published, unchanged
from penstock.run.runtime import Event, Job, Outcome, Runtime, snapshot_for
from penstock.run.standing import moved, standing_rows
from penstock.spec.schema import Schema
from penstock.spec.spans import seconds
from penstock.spec.tables import Merge, Ref, Replace, Slices, Sql, Table

HIDDEN = (FILE_COLUMN,)


def build(job: Job) -> Outcome:
    """Computes a table and publishes it."""
    assert isinstance(job.node.asset, Table)
    return build_table(job, job.node.asset)


#: What more is recorded of a version, told by its batch and the rows of the version before, if they stay.
Extra = Callable[[Batch, Scan | None], Mapping[str, Any]]


def build_table(job: Job, table: Table, *, extra: Extra | None = None, only: Callable[[str], str] | None = None) -> Outcome:
    """Computes all of a table, or what new input rows make of it; or those rows `only` that meet an SQL condition on their time."""
    scans = bind_inputs(job, job.node.inputs)
    part, changes = _part(job, table) if only is None else (True, None)
    current = job.runtime.lake.scan(job.name) if part and job.runtime.lake.snapshot(job.name) is not None else None
    touched = only
    if part and changes is not None:
        if not changes.added.files and not changes.removed.files and not isinstance(table.write, Slices):
            job.steps.append(Step("compute", 0, 0, keeps=False))
            return unchanged(job)
        if isinstance(table.write, Slices):
            touched = _touched(job, table, changes)
        else:
            job.session.bind(_driving(table), changes.added, hidden=HIDDEN)
            scans = {**scans, _driving(table): changes.added}
    schema, shape, params = compute(job, table, scans)
    reach("run.computed")
    draft = job.runtime.lake.draft(
        job.name, schema, partition=table.partition, renamed=_renames(job, table), exact=not part
    )  # fmt: skip
    time = quote(table.time or "_")
    query = "SELECT * FROM _computed" + (f" WHERE {touched(time)}" if touched else "")
    batch = Batch(draft, job.session.write(query, draft), whole=not part)
    written = sum(f.rows for f in batch.files)
    job.steps.append(_step(job, shape, params, scans, written, sliced=bool(touched)))
    _checks_fit(job, table, draft.schema)
    merging = isinstance(table.write, Merge)
    standing = "" if merging or current is None else standing_rows(job, current, touched(time) if touched else "false")
    batch, audit = audited(job, batch, table.checks, () if merging or part else table.key, standing=standing)
    if merging:
        batch = merged(job, table, batch, current)
        if part and not (batch.files or batch.remove or batch.refused):
            return unchanged(job)
    elif touched and current is not None:
        kept, remove, step = moved(job, draft, current, touched(time))
        rejected_time = rejected.value_of(table.time or "", job.session.type_name(draft.schema.field(table.time or "").type))
        batch = replace(batch, kept=kept, remove=remove, outdated=f"stage = 'check' AND {touched(rejected_time)}")
        job.steps += [step] if step else []
    if merging and not part:
        key_audit = final_audit(job, replace(batch, whole=False, remove="*"), table.checks, table.key, None)
    else:
        key_audit = final_audit(job, batch, table.checks, table.key, current)
    if key_audit is not None:
        audit = replace(audit, results=(*(r for r in audit.results if r.check.of_rows and r.check.kind != "key"), *key_audit.results))
    if batch.whole and job.base:
        batch = replace(batch, remove="*")
    more = extra(batch, current) if extra is not None else {}
    return published(job, batch, audit, extra=more, export=exported if table.exports else None)


def exported(job: Job) -> None:
    """Writes a table's copies outside the lake from the version just committed."""
    assert isinstance(job.node.asset, Table)
    export_table(job.node.asset, job.runtime, job.session)


def export_table(table: Table, runtime: Runtime, session: Session) -> None:
    """Writes a table's copies outside the lake from its newest version."""
    scan = runtime.lake.scan(table.name)
    for export in table.exports:
        session.bind("_exported", scan)
        rows = write_rows(session.read("SELECT * FROM _exported"), runtime.root / export.to)
        runtime.tell(Event("note", table.name, f"{rows:,} rows written to {export.to}"))


# -- inputs ---------------------------------------------------------------------------------------------------------
def bind_inputs(job: Job, inputs: Sequence[str]) -> dict[str, Scan]:
    """Binds each input at the version this run uses."""
    scans = {}
    for name in inputs:
        scans[name] = job.runtime.lake.scan(name, version=snapshot_for(job.runtime, name, job.versions[name]))
        job.session.bind(name, scans[name], hidden=[h for h in HIDDEN if h in scans[name].schema])
    return scans


def visible(schema: Schema) -> Schema:
    """A landed input's columns as queries see them."""
    return Schema(tuple(f for f in schema if f.name not in HIDDEN))


def _driving(table: Table) -> str:
    return getattr(table.write, "of", "") or table.inputs[0]


def _part(job: Job, table: Table) -> tuple[bool, Changes | None]:
    """Whether to work on changes only, and the changes.

    Append and merge can take added rows only; if rows were taken out or the old version is forgotten, all is computed again.
    If another input than the driving one moved, append and merge go on with new rows (that is their meaning); slices compute all.
    """
    if not job.part or isinstance(table.write, Replace) or not job.base:
        return False, None
    driving = _driving(table)
    since = job.base["inputs"].get(driving)
    changes = job.runtime.lake.changes(driving, since=since, until=snapshot_for(job.runtime, driving, job.versions[driving]))
    if isinstance(table.write, Slices):
        others = [n for n in table.inputs if n != driving and job.base["inputs"].get(n) != job.versions[n]]
        whole = bool(others) or not changes.complete
    else:
        whole = not changes.only_appends
    if whole:
        job.tell("note", "computed whole: an input changed in a way that new rows alone cannot follow")
        return False, None
    return True, changes


def _touched(job: Job, table: Table, changes: Changes) -> Callable[[str], str]:
    """An SQL condition on a time (an expression): the slices that changed input rows fall into, and those that look back on them."""
    write = table.write
    assert isinstance(write, Slices) and table.time is not None
    on = write.on or table.time
    job.session.bind("_added", changes.added)
    job.session.bind("_removed", changes.removed)
    begins: set[str] = set()
    undated = False
    for relation in ("_added", "_removed"):
        start = f"CAST(date_trunc({literal(write.every)}, {quote(on)}) AS TIMESTAMP)"
        found = [row[0] for row in job.session.rows(f"SELECT DISTINCT CAST({start} AS VARCHAR) FROM {relation}")]
        begins |= {str(b) for b in found if b is not None}
        undated |= None in found
    job.tell("note", f"{len(begins)} slices touched", slices=sorted(begins))
    length = f"INTERVAL {write.lookback + 1} {write.every.upper()}"

    def condition(of: str) -> str:
        time = f"CAST({of} AS TIMESTAMP)"
        tests = [f"({time} >= TIMESTAMP {literal(b)} AND {time} < TIMESTAMP {literal(b)} + {length})" for b in sorted(begins)]
        tests += [f"{time} IS NULL"] if undated else []
        return f"({' OR '.join(tests) or 'false'})"

    return condition


# -- computing ------------------------------------------------------------------------------------------------------
def compute(job: Job, table: Table, scans: Mapping[str, Scan]) -> tuple[Schema, Shape, Mapping[str, Any]]:
    """Names the table's rows `_computed`; tells their columns, what the computation does to rows, and its query's parameters."""
    made = call(job, table, scans)
    if isinstance(made, Sql):
        return _from_query(job, made, scans)
    job.session.bind("_returned", forms.watched(forms.taken(made, asset=job.name), asset=job.name))
    return job.session.define("_computed", "SELECT * FROM _returned"), Shape(False), {}


def call(job: Job, table: Table, scans: Mapping[str, Scan]) -> Any:
    """What the table's function gives for its inputs: a query or rows.

    Raises: UserCodeError(E5001) with the function's own error as cause.
    """
    if table.function is None:
        return table.query
    wanted = forms.names_of(table.forms, table.function)
    args: list[Any] = []
    for name, form in zip(table.inputs, wanted, strict=True):
        args.append(Ref(name) if form is None else forms.given(job.session, name, scans.get(name), form))
    return called(table, args, job.declared.params, place=job.name)


def called(table: Table, args: Sequence[Any], params: Mapping[str, Any], *, place: str) -> Any:
    """Calls the user's function; its exceptions are told apart from ours."""
    assert table.function is not None
    try:
        return table.function(*args, **params)
    except PenstockError:
        raise
    except Exception as error:
        where = _line(error, table)
        raise UserCodeError(f"the function raised {type(error).__name__}: {error}", place=place, got=where) from error


def _line(error: BaseException, table: Table) -> str:
    """File and line of the user's code nearest to the error."""
    code = table.function.__code__ if table.function else None
    found = ""
    step = error.__traceback__
    while step is not None:
        if code and step.tb_frame.f_code.co_filename == code.co_filename:
            found = f"{step.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{step.tb_lineno}"
        step = step.tb_next
    return found


def _from_query(job: Job, made: Sql, scans: Mapping[str, Scan]) -> tuple[Schema, Shape, Mapping[str, Any]]:
    tree = parsed(made.text, place=job.name)
    first = "_computed" if not made.asofs else "_step0"
    try:
        schema = job.session.define(first, made.text, dict(made.params))
    except QueryError as error:
        raise QueryError(error.message, place=job.name, expected=error.expected, got=error.got, hint=error.hint) from error
    left = first
    for i, join in enumerate(made.asofs, start=1):
        if join.right not in job.node.inputs:
            raise DefinitionError(
                "an as-of join needs an input of the table",
                place=f"{job.name}.asof({join.right})",
                hint=did_you_mean(join.right, job.node.inputs),
            )
        right = visible(scans[join.right].schema)
        take = join.take if join.take is not None else tuple(n for n in right.names if n not in schema and n != join.right_on)
        name = "_computed" if i == len(made.asofs) else f"_step{i}"
        if join.on in schema and join.right_on in right:
            same_clock(schema.field(join.on), right.field(join.right_on), place=f"{job.name}.asof({join.right})", dates=True)
        within = float(seconds(join.within)) if join.within else None
        schema = job.session.asof(name, left, join.right, by=join.by, on=join.on, right_on=join.right_on, within_s=within, take=take)
        left = name
    return schema, shape_of(tree, job.node.inputs), dict(made.params)


def _step(job: Job, shape: Shape, params: Mapping[str, Any], scans: Mapping[str, Scan], written: int, *, sliced: bool) -> Step:
    """The ledger's line for the computation. A one-table query must account for each row of its base."""
    inputs = {name: scan.rows for name, scan in scans.items()}
    if not shape.keeps or sliced:
        return Step("compute", max(inputs.values(), default=0), written, keeps=False, inputs=inputs)
    if not shape.where:
        return Step("compute", inputs[shape.base], written)
    count = f"SELECT count(*) FROM {quote(shape.base)} AS {quote(shape.alias)} WHERE ({shape.where}) IS NOT TRUE"
    used = set(re.findall(r"\$(\w+)", shape.where))
    try:
        left_out = int(job.session.rows(count, {k: v for k, v in params.items() if k in used})[0][0])
    except QueryError:  # the condition uses names that only the query itself gives, e.g. those of its results
        return Step("compute", inputs[shape.base], written, keeps=False, inputs=inputs)
    return Step("compute", inputs[shape.base], written, filtered={shape.where: left_out} if left_out else {})


def _renames(job: Job, table: Table) -> dict[str, str]:
    """Renames that the table has not seen yet."""
    current = job.runtime.lake.snapshot(job.name)
    have = set(current.schema.names) if current else set()
    return {new: old for new, old in table.renamed if new not in have and old in have}


def _checks_fit(job: Job, table: Table, schema: Schema) -> None:
    """Raises: DefinitionError(E1001) if the key or time of a table is no column of it."""
    for column in (*table.key, *((table.time,) if table.time else ())):
        schema.field(column, of=job.name)


# -- merging --------------------------------------------------------------------------------------------------------
def merged(job: Job, table: Table, batch: Batch, current: Scan | None) -> Batch:
    """Of the batch's rows and the current rows with the same keys, the newest by time stay, one for each key."""
    session, draft = job.session, batch.draft
    names = [f.name for f in draft.schema]
    columns = ", ".join(quote(n) for n in names)
    key = ", ".join(quote(k) for k in table.key)
    ranked = [quote(table.time or "")] + [quote(f.name) for f in draft.schema if f.type.name != "map"]
    order = ", ".join(f"{c} DESC NULLS LAST" for c in ranked)
    session.files("_batch", batch.files, draft.schema)
    read = sum(f.rows for f in batch.files)
    same_key = " AND ".join(f"b.{quote(k)} IS NOT DISTINCT FROM o.{quote(k)}" for k in table.key)
    if current is None or not current.files:
        session.define("_winners", f"SELECT {columns} FROM _batch QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {order}) = 1")
        files = session.write("SELECT * FROM _winners", draft)
        job.steps.append(
            Step("merge", read, sum(f.rows for f in files), duplicate=read - int(_count(job, f"SELECT DISTINCT {key} FROM _batch")))
        )
        return replace(batch, files=files)
    session.bind("_current", replace(current, schema=current.schema))
    have = set(current.schema.names)
    old = ", ".join(f"o.{quote(n)}" if n in have else f"NULL AS {quote(n)}" for n in names)
    met = session.read(f"SELECT {old}, o._path FROM _current__all o SEMI JOIN _batch b ON {same_key}").read_all()
    session.bind("_met", met)
    both = f"SELECT {columns} FROM _batch UNION ALL SELECT {columns} FROM _met"
    session.define("_winners", f"SELECT * FROM ({both}) QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {order}) = 1")
    changed = session.read(f"SELECT {columns} FROM _winners EXCEPT SELECT {columns} FROM _met").read_all()
    session.bind("_changed", changed)
    join = " AND ".join(f"c.{quote(k)} IS NOT DISTINCT FROM m.{quote(k)}" for k in table.key)
    paths = [str(p) for (p,) in session.rows(f"SELECT DISTINCT m._path FROM _met m SEMI JOIN _changed c ON {join} ORDER BY 1")]
    updated = int(_count(job, f"SELECT 1 FROM _met m SEMI JOIN _changed c ON {join}"))
    inserted = changed.num_rows - updated
    files = session.write(f"SELECT {columns} FROM _changed", draft) if changed.num_rows else ()
    stays = _others(job, table, draft.schema, current, paths) if paths else None
    kept = session.write(stays, draft) if stays else ()
    keys = f"SELECT DISTINCT {key} FROM _batch"
    with_b = [" AND ".join(f"{t}.{quote(k)} IS NOT DISTINCT FROM b.{quote(k)}" for k in table.key) for t in "cm"]
    older = int(_count(job, f"SELECT 1 FROM ({keys}) b ANTI JOIN _changed c ON {with_b[0]} SEMI JOIN _met m ON {with_b[1]}"))
    note = {"inserted": inserted, "updated": updated}
    duplicate = read - int(_count(job, keys)) + older
    job.steps.append(Step("merge", read, sum(f.rows for f in files), duplicate=duplicate, note=note))
    if stays:
        rows = int(_count(job, "SELECT 1 FROM _moving"))
        job.steps.append(Step("replace", rows, sum(f.rows for f in kept), filtered={"updated": updated} if updated else {}))
    return replace(batch, files=files, kept=kept, remove=tuple(paths))


def _others(job: Job, table: Table, schema: Schema, current: Scan, paths: Sequence[str]) -> str:
    """A query of the rows of some files whose key did not change."""
    here = set(paths)
    job.session.bind("_moving", replace(current, files=tuple(f for f in current.files if f.path in here)))
    join = " AND ".join(f"c.{quote(k)} IS NOT DISTINCT FROM o.{quote(k)}" for k in table.key)
    return f"SELECT o.* FROM _moving o ANTI JOIN _changed c ON {join}"


def _count(job: Job, query: str) -> Any:
    return job.session.rows(f"SELECT count(*) FROM ({query})")[0][0]
