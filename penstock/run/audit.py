"""The audit of written files before anybody sees them: checks in one pass, rejected rows taken out, the whole table judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from penstock.craft.quality.checks import Audit, Result, audit_query, passing_query, verdict
from penstock.ground.errors import CheckFailed, GrainError
from penstock.ground.failpoints import reach
from penstock.ground.names import literal, quote
from penstock.ports.lake import DataFile, Draft, Scan
from penstock.run import rejected
from penstock.run.ledger import Step
from penstock.run.runtime import Job
from penstock.spec.checks import Check


@dataclass(frozen=True)
class Batch:
    """Rows of one job in files that nobody can see yet.

    Attributes:
        files: the new rows. `refused`: queries of rejected rows so far, in rejected form.
        kept: files with rows that were published before and only moved; not audited again.
        remove: files of the current version that the commit takes out.
        whole: the version consists of `files` alone.
        outdated: SQL over the rejected table, true for rows that this batch judges anew; "" if there are none.
    """

    draft: Draft
    files: tuple[DataFile, ...]
    refused: tuple[str, ...] = ()
    kept: tuple[DataFile, ...] = ()
    remove: Sequence[str] | Literal["*"] = ()
    whole: bool = True
    outdated: str = ""


def audited(job: Job, batch: Batch, checks: Sequence[Check], key: Sequence[str], *, standing: str = "") -> tuple[Batch, Audit]:
    """Runs all checks over the new rows in one pass, and takes the rejected rows out of the files.

    `standing` names the relation of published rows that stay beside the new ones: a rejecting `unique` minds them too. Only when a row is rejected are its file's other rows written again.
    Raises: CheckFailed(E3001), GrainError(E3003) for blocking checks; nothing has been published then.
    """
    reach("run.written")
    now = job.runtime.clock.now()
    job.session.files("_written", batch.files, batch.draft.schema)
    measured = job.session.rows(audit_query("_written", checks, batch.draft.schema, tuple(key), now=now))[0]
    audit = verdict(measured, checks, batch.draft.schema, tuple(key), now=now)
    for result in audit.results:
        job.tell("check", result.text, passed=result.passed, outcome=result.outcome, failures=result.failures)
    if audit.rejected_rows:
        batch = _without_rejected(job, batch, checks, audit)
        if not audit.final:
            audit = _audited_again(job, batch, checks, key, audit)
    if standing:
        batch, audit = _without_known(job, batch, checks, audit, standing)
    reach("run.audited")
    return batch, audit


def require_passed(job: Job, audit: Audit) -> None:
    """Raises: CheckFailed(E3001) for the first failed blocking check, GrainError(E3003) for a key that repeats."""
    for result in audit.results:
        if result.outcome == "block" and not result.passed:
            if result.check.kind == "key":
                raise GrainError(
                    "the declared key is not unique; the new version was not published",
                    place=f"{job.name}[{', '.join(result.check.columns)}]",
                    expected="each key once, none null",
                    got=result.text,
                    hint="a join that fans out, or a key that is too small; look at it with `penstock query`",
                )
            raise CheckFailed(
                "a check failed; the new version was not published, readers stay on the old one",
                place=f"{job.name}.{result.check.name}",
                expected=result.check.name,
                got=result.text,
                hint="mend the input or the query; .rejects() keeps the bad rows aside instead, .warns() only tells",
            )


def _audited_again(job: Job, batch: Batch, checks: Sequence[Check], key: Sequence[str], first: Audit) -> Audit:
    """The results of rejecting checks as first found, all others as found on the rows that stay."""
    now = job.runtime.clock.now()
    others = [c for c in checks if c.outcome != "reject"]
    job.session.files("_written", batch.files, batch.draft.schema)
    row = job.session.rows(audit_query("_written", others, batch.draft.schema, tuple(key), now=now))[0]
    again = verdict(row, others, batch.draft.schema, tuple(key), now=now)
    return replace(first, results=(*(r for r in first.results if r.outcome == "reject"), *again.results), final=True)


def _without_rejected(job: Job, batch: Batch, checks: Sequence[Check], audit: Audit) -> Batch:
    session, schema = job.session, batch.draft.schema
    query = rejected.of_checks(job, "_written__all", schema, checks)
    session.bind("_failing", session.read(query).read_all())
    counts = {str(name): int(n) for name, n in session.rows('SELECT "check", count(*) FROM _failing GROUP BY 1 ORDER BY 1')}
    files = session.write(passing_query("_written__all", checks, schema), batch.draft)
    job.steps.append(Step("check", audit.rows, sum(f.rows for f in files), rejected=counts))
    return replace(batch, files=files, refused=(*batch.refused, "SELECT * FROM _failing"))


def _without_known(job: Job, batch: Batch, checks: Sequence[Check], audit: Audit, standing: str) -> tuple[Batch, Audit]:
    """Rejects rows whose values a rejecting `unique` finds among the rows that were there before."""
    uniques = [c for c in checks if c.kind == "unique" and c.outcome == "reject"]
    if not uniques or not batch.files:
        return batch, audit
    session, schema = job.session, batch.draft.schema
    session.files("_written", batch.files, schema)
    meets = [
        f"EXISTS (SELECT 1 FROM {standing} s WHERE {' AND '.join(f's.{quote(k)} = w.{quote(k)}' for k in c.columns)})" for c in uniques
    ]
    flags = ", ".join(f"{sql} AS _meets{i}" for i, sql in enumerate(meets))
    session.define("_judged", f"SELECT w.*, {flags} FROM _written__all w")
    fails = " OR ".join(f"_meets{i}" for i in range(len(uniques)))
    names = ", ".join(f"CASE WHEN _meets{i} THEN {literal(c.name)} END" for i, c in enumerate(uniques))
    told = [literal("an earlier row has the same " + ", ".join(c.columns)) for c in uniques]
    reasons = ", ".join(f"CASE WHEN _meets{i} THEN {text} END" for i, text in enumerate(told))
    columns = ", ".join(quote(n) for n in schema.names)
    failing = f"SELECT concat_ws(', ', {names}) AS _check, concat_ws('; ', {reasons}) AS _reason, _path, _pos, {columns} FROM _judged WHERE {fails}"
    session.bind("_known", session.read(rejected.of_failing(job, "_written__all", schema, failing)).read_all())
    counts = {str(name): int(n) for name, n in session.rows('SELECT "check", count(*) FROM _known GROUP BY 1 ORDER BY 1')}
    if not counts:
        return batch, audit
    files = session.write(f"SELECT {columns} FROM _judged WHERE NOT ({fails}) ORDER BY _path, _pos", batch.draft)
    job.steps.append(Step("unique", sum(f.rows for f in batch.files), sum(f.rows for f in files), rejected=counts))
    found = [
        int(n) for n in session.rows(f"SELECT {', '.join(f'count(*) FILTER (_meets{i})' for i in range(len(uniques)))} FROM _judged")[0]
    ]
    more = {c.name: n for c, n in zip(uniques, found, strict=True) if n}
    results = tuple(_with_failures(r, more.get(r.check.name, 0)) for r in audit.results)
    return replace(batch, files=files, refused=(*batch.refused, "SELECT * FROM _known")), replace(audit, results=results)


def _with_failures(result: Result, more: int) -> Result:
    failures = result.failures + more
    text = f"{result.check.name}: {failures:,} row{'s fail' if failures > 1 else ' fails'}"
    return replace(result, passed=False, failures=failures, measured=failures, text=text) if more else result


def final_audit(job: Job, batch: Batch, checks: Sequence[Check], key: Sequence[str], current: Scan | None) -> Audit | None:
    """Checks that speak of the whole table, over what it will be after the commit. None if the batch is the whole table."""
    wide = [c for c in checks if not c.of_rows or (c.kind == "unique" and c.outcome != "reject")]
    if batch.whole or not (wide or key):
        return None
    gone = set(batch.remove)
    stays = tuple(f for f in current.files if f.path not in gone) if current and batch.remove != "*" else ()
    scan = Scan(
        batch.draft.table, "", batch.draft.schema, (*stays, *batch.kept, *batch.files),
        {**(current.schemas if current else {}), batch.draft.schema_id: batch.draft.schema},
    )  # fmt: skip
    job.session.bind("_whole", scan)
    now = job.runtime.clock.now()
    row = job.session.rows(audit_query("_whole", wide, batch.draft.schema, tuple(key), now=now))[0]
    return verdict(row, wide, batch.draft.schema, tuple(key), now=now)
