"""Why a job does not run, as a pure function."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from penstock.ports.queue import LIVE, Needs, Offers, QueuedJob, Worker


def why(job: QueuedJob, others: Collection[QueuedJob], workers: Sequence[Worker], now: datetime, *, paused: Collection[str] = ()) -> str:
    """What keeps a job from running, in a few words; "" if it runs, or ended as done.

    Args:
        others: at least the jobs it comes after, the running ones of its key, and the running ones of the workers; others do no harm.
        workers: those that are up.
        paused: kinds that are paused; "" is all.
    """
    if job.status not in LIVE:
        return str((job.error or {}).get("message", "")) if job.status != "done" else ""
    if job.status == "running":
        return _vanished(job, now)
    before = [other for other in others if other.id in job.after and other.status != "done"]
    if before:
        shown = ", ".join(f"{other.name} ({_stands(other, now)})" for other in sorted(before, key=lambda other: other.seq)[:3])
        return f"waits for {shown}" + (f" and {len(before) - 3} more" if len(before) > 3 else "")
    if job.not_before is not None and job.not_before > now:
        return f"not before {_moment(job.not_before, now)}" + (f", after {_attempts(job.attempt)}" if job.attempt else "")
    if "" in paused or job.kind in paused:
        return "paused" if "" in paused else f"jobs of kind {job.kind} are paused"
    running = [other for other in others if other.status == "running"]
    of_key = sum(other.key == job.key for other in running)
    if job.at_once and of_key >= job.at_once:
        return f"{of_key} of {job.at_once} running with key {job.key}"
    return _workers(job, running, workers)


def _workers(job: QueuedJob, running: Sequence[QueuedJob], workers: Sequence[Worker]) -> str:
    """What the workers lack, or have given to others."""
    if not workers:
        return "no worker is up"
    able = [worker for worker in workers if not worker.offers.kinds or job.kind in worker.offers.kinds]
    if not able:
        return f"no worker takes jobs of kind {job.kind}"
    needs = _amounts(job.needs)
    most = {what: max(_amounts(worker.offers)[what] for worker in able) for what in needs}
    for what, needed in needs.items():
        if needed > most[what]:
            return f"needs {_said(what, needed)}, largest worker offers {_said(what, most[what])}"
    fit = [worker for worker in able if all(needed <= _amounts(worker.offers)[what] for what, needed in needs.items())]
    if not fit:
        return "needs " + ", ".join(_said(what, needed) for what, needed in needs.items() if needed) + "; no worker offers all of it"
    for what, needed in needs.items():
        left = max(_amounts(w.offers)[what] - sum(_amounts(other.needs)[what] for other in running if other.owner == w.owner) for w in fit)
        if needed and needed > left:
            return f"needs {_said(what, needed)}, of {_said(what, most[what])} {_said(what, max(0.0, left))} are free"
    return "ready; it is taken by the next free worker, after those before it"


def _amounts(of: Needs | Offers) -> dict[str, float]:
    return {"memory": float(of.memory_bytes), "core": float(of.cores), "GPU": float(of.gpus)}


def _said(what: str, value: float) -> str:
    if what == "memory":
        for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
            if value >= size:
                return f"{value / size:.3g} {unit}"
        return f"{value:.0f} bytes"
    return f"{value:.3g} {what}{'' if value == 1 else 's'}"


def _stands(job: QueuedJob, now: datetime) -> str:
    if job.status == "running" and job.started is not None:
        return f"running since {_span((now - job.started).total_seconds())}"
    return job.status


def _vanished(job: QueuedJob, now: datetime) -> str:
    if job.until is not None and job.until <= now:
        return f"its worker {job.owner} has not been heard of since its lease ended, {_span((now - job.until).total_seconds())} ago"
    return ""


def _attempts(count: int) -> str:
    return "1 attempt" if count == 1 else f"{count} attempts"


def _span(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size or (size < 86400 and seconds >= size):
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def _moment(at: datetime, now: datetime) -> str:
    """The time alone if it is within a day; UTC."""
    within = abs((at - now).total_seconds()) < 86400 and at.date() == now.date()
    return f"{at:%H:%M:%S}".removesuffix(":00") + " UTC" if within else f"{at:%Y-%m-%d %H:%M} UTC"
