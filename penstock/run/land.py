"""Landing a source: raw files or a database become a versioned table; only new input is read, and what cannot be read is kept aside."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from penstock.ground.errors import SchemaDrift, SourceError
from penstock.ground.failpoints import reach
from penstock.ground.names import literal, quote, rejected_name
from penstock.plan.records import FileSeen
from penstock.ports.engine import Loaded, RawFile, RawFiles
from penstock.ports.lake import Draft, Scan
from penstock.run import rejected
from penstock.run.audit import Batch, audited, final_audit, require_passed
from penstock.run.ledger import Step
from penstock.run.publish import published, unchanged
from penstock.run.runtime import Job, Outcome
from penstock.run.standing import moved, standing_rows
from penstock.spec.schema import Field, Schema, common, primitive, schema_from_record, schema_of, schema_record, widened
from penstock.spec.sources import Database, Files, format_by_name

if TYPE_CHECKING:
    import pyarrow as pa

FILE_COLUMN = "_file"
#: Files up to this size are recorded with a digest of their content; of larger ones a new time alone means changed.
DIGEST_LIMIT = 64 << 20


def land(job: Job) -> Outcome:
    """Lands what is new of a source and publishes it."""
    return land_files(job) if isinstance(job.node.asset, Files) else land_database(job)


# -- files ----------------------------------------------------------------------------------------------------------
def land_files(job: Job) -> Outcome:
    """Reads new and changed files, or all; replaces rows of changed files; keeps or drops rows of vanished ones."""
    asset = job.node.asset
    assert isinstance(asset, Files)
    listed = {f.label: f for f in job.runtime.list_files(asset)}
    reach("source.files_listed")
    work = job.action.files
    labels = sorted({*work.new, *work.changed} if job.part else listed)
    taken = [listed[label] for label in labels if label in listed]
    vanished = set(work.gone) - set(listed)
    forgotten = vanished if asset.gone == "drop" else set()
    dropped = (set(work.changed) & set(listed)) | forgotten if job.part else set()
    kept_gone = set() if job.part or not job.base else vanished - forgotten
    columns, options, taken, left_out, headers = crawled(job, asset, taken)
    listing = {f.label: seen(job, f) for f in taken} | {f.label: seen(job, f, "quarantined") for f in left_out}
    listing |= {label: {"gone": True} for label in forgotten}
    if not taken and not dropped and job.base:
        return unchanged(job, extra={"listing": listing, "quarantined": [f.label for f in left_out]})
    current = job.runtime.lake.scan(job.name) if job.base else None
    if kept_gone and current is not None:
        columns = _with_older(columns, current.schema)
    draft = job.runtime.lake.draft(job.name, Schema((*columns.fields, Field(FILE_COLUMN, primitive("string")))), exact=not job.part)
    loaded = _loaded(job, asset, taken, columns, options, draft)
    reach("source.written")
    refused: tuple[str, ...] = ()
    if loaded.rejected.num_rows:
        refused = (rejected.of_parse(job, loaded.rejected),)
    job.steps.append(Step("land", loaded.rows_read, sum(f.rows for f in loaded.files), rejected=_by_check(loaded.rejected)))
    batch = Batch(draft, loaded.files, refused, remove=_replaces(job), whole=not job.part and not kept_gone)
    gone = _from_files(dropped) if job.part else f"NOT ({_from_files(kept_gone)})"
    standing = standing_rows(job, current, gone) if current is not None and (job.part or kept_gone) else ""
    batch, audit = audited(job, batch, asset.checks, (), standing=standing)
    if current is not None and job.part and dropped:
        batch = _without_files(job, batch, current, dropped)
    if kept_gone:
        files = job.session.write(f"SELECT * FROM {standing}", draft)
        batch = replace(batch, kept=files, outdated=f"file IS NULL OR NOT ({_from_files(kept_gone, 'file')})")
    if (whole := final_audit(job, batch, asset.checks, (), current)) is not None:
        audit = replace(audit, results=(*(r for r in audit.results if r.check.of_rows), *whole.results))
    for file in taken:
        listing[file.label]["rows"] = loaded.per_file.get(file.label, 0)
    for label in {str(name) for name in loaded.rejected["file"].to_pylist()} if loaded.rejected.num_rows else ():
        listing[label] |= {"columns": list(headers.get(label, ())), "partition": [list(pair) for pair in listed[label].partition]}
    extra = {
        "listing": listing,
        "crawl": schema_record(columns),
        "options": _plain(options),
        "bytes_in": sum(f.size_bytes for f in taken) + (int(job.base.get("bytes_in", 0)) if job.part else 0),
        "quarantined": [f.label for f in left_out],
    }
    if left_out:
        job.tell("note", f"{len(left_out)} files left out: their columns differ from those recorded", files=[f.label for f in left_out])
    return published(job, batch, audit, extra=extra)


def _loaded(job: Job, asset: Files, files: Sequence[RawFile], columns: Schema, options: Mapping[str, Any], draft: Draft) -> Loaded:
    """Reads files into the draft; nothing at all if only vanished files are to be dropped."""
    if files:
        return job.session.load(RawFiles(tuple(files), format_of(asset, files), columns, options, FILE_COLUMN), draft)
    return Loaded((), 0, _no_rows(schema_of(check="string")), {})


def _no_rows(schema: Schema) -> pa.Table:
    """A table without rows and with columns of texts, whatever their types: nothing is read from it."""
    import pyarrow as pa

    return pa.table({f.name: pa.array([], pa.string()) for f in schema})


def format_of(asset: Files, files: Sequence[RawFile]) -> str:
    """The declared format, or that of the files' endings.

    Raises: SourceError(E2001) if the endings disagree or say nothing.
    """
    if asset.format:
        return asset.format
    found = {kind for f in files if (kind := format_by_name(f.member or f.label))}
    if len(found) != 1:
        raise SourceError(
            "the files' format cannot be told from their names", place=asset.pattern, got=", ".join(sorted(found)) or "no known ending",
            hint='say it: ps.files(..., format="csv")',
        )  # fmt: skip
    return found.pop()


Crawled = tuple[Schema, Mapping[str, Any], list[RawFile], list[RawFile], Mapping[str, Sequence[str]]]


def _header(columns: Schema, file: RawFile) -> tuple[str, ...]:
    """The columns that stand in a file itself, in its order."""
    return tuple(name for name in columns.names if name not in dict(file.partition))


def crawled(job: Job, asset: Files, files: list[RawFile]) -> Crawled:
    """Columns and reader options for a load, the files to take and to leave out by the source's drift policy, each file's own columns.

    Raises: SchemaDrift(E2003) under `freeze`, or when a type cannot be widened.
    """
    declared = dict(asset.options)
    if not files:
        return schema_from_record(list(job.base.get("crawl", []))), declared, [], [], {}
    inferred = job.session.infer(RawFiles(tuple(files), format_of(asset, files), None, declared))
    options = {**inferred.options, **(job.base.get("options", {}) if job.part else {}), **declared}
    headers = {label: _header(schema, listed) for (label, schema), listed in zip(inferred.per_file, files, strict=True)}
    known = asset.schema
    if known is None and job.part:
        known = schema_from_record(list(job.base["crawl"]))
    if known is None:
        return inferred.schema, options, files, [], headers
    declared_types = asset.schema is not None
    if asset.drift == "widen" and not declared_types:
        return _widened(job, known, inferred.per_file), options, files, [], headers
    differing = {label: text for label, schema in inferred.per_file if (text := difference(known, schema, types=not declared_types))}
    if not differing:
        return known, options, files, [], headers
    if asset.drift == "quarantine":
        return known, options, [f for f in files if f.label not in differing], [f for f in files if f.label in differing], headers
    if asset.drift == "widen":
        return known, options, files, [], headers
    label, text = next(iter(differing.items()))
    raise SchemaDrift(
        "a file's columns differ from those recorded, and the source is frozen; nothing was loaded", place=f"{job.name}: {label}",
        expected=", ".join(f"{f.name} {f.type}" for f in known)[:300], got=text,
        hint='accept it with ps.files(..., drift="widen"), or leave such files out with drift="quarantine"',
    )  # fmt: skip


def difference(known: Schema, found: Schema, *, types: bool) -> str:
    """How a file differs from the recorded columns, "" if it does not. Order does not count."""
    here = {f.name: f.type for f in found}
    missing = [f.name for f in known if f.name not in here]
    extra = [n for n in here if n not in known]
    other = [
        f"{f.name} is {here[f.name]}, not {f.type}"
        for f in known
        if types and f.name in here and f.type.name != "string" and widened(f.type, here[f.name]) != f.type
    ]
    parts = [f"without {', '.join(missing)}"] if missing else []
    parts += [f"with {', '.join(extra)}"] if extra else []
    return "; ".join([*parts, *other])


def _widened(job: Job, known: Schema, per_file: Sequence[tuple[str, Schema]]) -> Schema:
    """The recorded columns, wider types where files need and the lake can, and new columns at the end.

    A type that only text could hold stays as it is: its rows that do not fit are rejected, not lost.
    """
    fields = {f.name: f.type for f in known}
    for _, schema in per_file:
        for field in schema:
            was = fields.get(field.name)
            if was is None:
                job.tell("note", f"new column {field.name} {field.type}")
            fields[field.name] = field.type if was is None else (widened(was, field.type) or was)
    return Schema(tuple(Field(name, kind) for name, kind in fields.items()))


def _replaces(job: Job) -> Literal["*"] | tuple[()]:
    """What a load takes out of the current version: all of it if it is made whole again."""
    return "*" if job.base and not job.part else ()


def seen(job: Job, file: RawFile, status: str = "landed", rows: int = 0) -> dict[str, Any]:
    """A file as recorded: size, time, digest (of files not too large), what became of it."""
    digest = job.runtime.digest_file(file) if file.size_bytes <= DIGEST_LIMIT else ""
    loaded = int(job.runtime.clock.now().timestamp() * 1e9)
    return {"size": file.size_bytes, "changed_ns": file.changed_ns, "digest": digest, "loaded_ns": loaded, "status": status, "rows": rows}


def recorded_files(heads: Mapping[str, Any], asset: str) -> dict[str, FileSeen]:
    """Landed files of a source from the state's heads of kind `listing`."""
    start = len(asset) + 1
    return {
        key[start:]: FileSeen(r.body["size"], r.body["changed_ns"], r.body["digest"])
        for key, r in heads.items()
        if key.startswith(f"{asset}/") and not r.body.get("gone")
    }


def _without_files(job: Job, batch: Batch, current: Scan, labels: set[str]) -> Batch:
    """Adds to a batch the removal of rows that came from some input files, rejected ones too."""
    kept, remove, step = moved(job, batch.draft, current, _from_files(labels))
    job.steps += [step] if step else []
    return replace(batch, kept=kept, remove=remove, outdated=_from_files(labels, "file"))


def _from_files(labels: Collection[str], column: str = FILE_COLUMN) -> str:
    """An SQL condition: a row came from one of these input files."""
    return f"{quote(column)} IN ({', '.join(literal(label) for label in sorted(labels))})" if labels else "false"


def _with_older(columns: Schema, recorded: Schema) -> Schema:
    """Columns of a load, and those that only rows of vanished files have."""
    older = [Field(f.name, f.type) for f in recorded if f.name != FILE_COLUMN and f.name.lower() not in {c.name.lower() for c in columns}]
    return Schema((*columns.fields, *older))


def _by_check(found: pa.Table) -> dict[str, int]:
    counted = found.group_by("check").aggregate([([], "count_all")]).to_pylist() if found.num_rows else []
    return {str(r["check"]): int(r["count_all"]) for r in counted}


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}


# -- databases ------------------------------------------------------------------------------------------------------
def land_database(job: Job) -> Outcome:
    """Reads a table or query in full, or the rows at or above the cursor's last value."""
    asset = job.node.asset
    assert isinstance(asset, Database)
    database = job.runtime.open_database(asset)
    try:
        relation = asset.table or f"({asset.query})"
        found = database.describe(relation)
        columns = _database_columns(job, asset, found)
        reader = database.read(relation, columns=columns, above=_above(job, asset, columns))
        job.session.bind("_read", reader)
        draft = job.runtime.lake.draft(job.name, columns, exact=not job.part)
        files = job.session.write("SELECT * FROM _read", draft)
    finally:
        database.close()
    reach("source.written")
    read = sum(f.rows for f in files)
    batch = Batch(draft, files, remove=_replaces(job), whole=not job.part)
    current = job.runtime.lake.scan(job.name) if job.base else None
    if job.part and current is not None:
        batch, again = _new_rows(job, asset, batch, current)
        written = sum(f.rows for f in batch.files)
        job.steps.append(Step("land", read, written, duplicate=again))
        if not batch.files:
            return unchanged(job)
    else:
        job.steps.append(Step("land", read, read))
    extra = {"crawl": schema_record(columns), "cursor": _newest(job, asset, batch)}
    standing = standing_rows(job, current, "false") if job.part and current is not None else ""
    batch, audit = audited(job, batch, asset.checks, (), standing=standing)
    if not job.part and current is not None and _same(job, batch, current):
        require_passed(job, audit)
        job.steps[:] = [Step("land", read, 0, duplicate=read)]
        return unchanged(job, [r.record() for r in audit.results], extra=extra)
    if (whole := final_audit(job, batch, asset.checks, (), current)) is not None:
        audit = replace(audit, results=(*(r for r in audit.results if r.check.of_rows), *whole.results))
    return published(job, batch, audit, extra=extra)


def _database_columns(job: Job, asset: Database, found: Schema) -> Schema:
    if asset.schema is not None:
        return asset.schema
    if not job.base.get("crawl"):
        return found
    known = schema_from_record(list(job.base["crawl"]))
    if asset.drift == "freeze" and (text := difference(known, found, types=True)):
        raise SchemaDrift(
            "the database's columns differ from those recorded, and the source is frozen", place=job.name,
            expected=", ".join(f"{f.name} {f.type}" for f in known)[:300], got=text, hint='accept it with drift="widen"',
        )  # fmt: skip
    if not job.part:
        return found
    fields = {f.name: f.type for f in known}
    for field in found:
        was = fields.get(field.name)
        fields[field.name] = field.type if was is None else (widened(was, field.type) or common(was, field.type) or was)
    return Schema(tuple(Field(name, kind) for name, kind in fields.items() if name in found))


def _above(job: Job, asset: Database, columns: Schema) -> tuple[str, Any] | None:
    """The cursor's last value as text, read back in the column's own type by the adapter."""
    if not (job.part and asset.cursor) or job.base.get("cursor") is None:
        return None
    columns.field(asset.cursor, of=job.name)
    return asset.cursor, job.base["cursor"]


def _new_rows(job: Job, asset: Database, batch: Batch, current: Scan) -> tuple[Batch, int]:
    """Of the rows read at or above the cursor, those that are not there yet: the cursor's last value is read again, ties included.

    Rows are told apart by the columns that the table has had so far. Returns the new rows, and how many were there (or rejected).
    """
    session, schema = job.session, batch.draft.schema
    session.files("_again", batch.files, schema)
    session.bind("_current", current)
    aside = job.runtime.lake.snapshot(rejected_name(job.name))
    session.bind("_aside", job.runtime.lake.scan(rejected_name(job.name)) if aside else _no_rows(rejected.COLUMNS))
    kinds = {f.name: session.type_name(f.type) for f in schema}
    known = [f.name for f in schema if f.name in current.schema]
    values = {name: rejected.value_of(name, kinds[name]) for name in known}
    cursor, last = asset.cursor or "", job.base.get("cursor")
    of_last = f"TRY_CAST({literal(str(last))} AS {kinds[cursor]})"
    near = f"({quote(cursor)} = {of_last}) IS TRUE" if last is not None else "true"
    near_aside = f"({values[cursor]} = {of_last}) IS TRUE" if last is not None and cursor in values else "true"
    names = ", ".join(quote(n) for n in known)
    columns = ", ".join(quote(n) for n in schema.names)
    numbered = f"row_number() OVER (PARTITION BY {names}) AS _again_n"
    were = f"SELECT {names} FROM _current WHERE {near} UNION ALL SELECT {', '.join(values.values())} FROM _aside WHERE stage = 'check' AND {near_aside}"
    session.define("_were", f"SELECT *, {numbered} FROM ({were})")
    session.define("_tied", f"SELECT *, {numbered} FROM _again WHERE {near}")
    same = " AND ".join(f"a.{quote(n)} IS NOT DISTINCT FROM w.{quote(n)}" for n in (*known, "_again_n"))
    new = f"SELECT {columns} FROM _tied a ANTI JOIN _were w ON {same} UNION ALL SELECT {columns} FROM _again WHERE NOT ({near})"
    again = int(session.rows(f"SELECT count(*) FROM _tied a SEMI JOIN _were w ON {same}")[0][0])
    return replace(batch, files=session.write(new, batch.draft)), again


def _same(job: Job, batch: Batch, current: Scan) -> bool:
    """Whether the rows read, good and rejected, are exactly those of the current version."""
    if [f.name for f in batch.draft.schema] != list(current.schema.names) or sum(f.rows for f in batch.files) != current.rows:
        return False
    aside = job.runtime.lake.snapshot(rejected_name(job.name))
    if bool(aside and aside.rows) != bool(batch.refused):
        return False
    session = job.session
    if aside is not None and batch.refused:
        session.bind("_aside", job.runtime.lake.scan(rejected_name(job.name)))
        now = " UNION ALL BY NAME ".join(batch.refused)
        if _differ(job, f"SELECT original, reason FROM ({now})", "SELECT original, reason FROM _aside"):
            return False
    session.files("_again", batch.files, batch.draft.schema)
    session.bind("_current", current)
    names = ", ".join(quote(n) for n in current.schema.names)
    return not _differ(job, f"SELECT {names} FROM _again", f"SELECT {names} FROM _current")


def _differ(job: Job, left: str, right: str) -> bool:
    query = f"SELECT count(*) FROM (({left} EXCEPT ALL {right}) UNION ALL ({right} EXCEPT ALL {left}))"
    return int(job.session.rows(query)[0][0]) > 0


def _newest(job: Job, asset: Database, batch: Batch) -> str | None:
    if not asset.cursor:
        return None
    job.session.files("_landed", batch.files, batch.draft.schema)
    found = job.session.rows(f"SELECT CAST(max({quote(asset.cursor)}) AS VARCHAR) FROM _landed")[0][0]
    return str(found) if found is not None else job.base.get("cursor")
