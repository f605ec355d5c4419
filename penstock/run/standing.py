"""Rows that were published before: which of them stay, and how they move when others of their file go."""

from __future__ import annotations

from dataclasses import replace

from penstock.ports.lake import DataFile, Draft, Scan
from penstock.run.ledger import Step
from penstock.run.runtime import Job


def standing_rows(job: Job, current: Scan, gone: str) -> str:
    """Names the rows of the current version that stay: those that do not meet a condition."""
    job.session.bind("_before", current)
    job.session.define("_standing", f"SELECT * FROM _before WHERE ({gone}) IS NOT TRUE")
    return "_standing"


def moved(job: Job, draft: Draft, current: Scan, condition: str) -> tuple[tuple[DataFile, ...], tuple[str, ...], Step | None]:
    """Takes rows that meet a condition out of the current version, by writing the other rows of their files again.

    Returns: files with the rows that stay, paths to remove, and the ledger's step; None if no row meets the condition.
    """
    session = job.session
    session.bind("_current", current)
    met = f"count(*) FILTER (WHERE {condition})"
    hit = session.rows(f"SELECT _path, count(*), {met} FROM _current__all GROUP BY 1 HAVING {met} > 0 ORDER BY 1")
    if not hit:
        return (), (), None
    paths = [str(path) for path, _, _ in hit]
    here = set(paths)
    session.bind("_moving", replace(current, files=tuple(f for f in current.files if f.path in here)))
    kept = session.write(f"SELECT * FROM _moving WHERE ({condition}) IS NOT TRUE", draft)
    rows, gone = (sum(int(row[i]) for row in hit) for i in (1, 2))
    return kept, tuple(paths), Step("replace", rows, sum(f.rows for f in kept), filtered={"made again or gone": gone})
