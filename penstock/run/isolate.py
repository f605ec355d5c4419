"""A queued job in a process of its own: its limits, its log, its cost; ended when it is cancelled or its lease is lost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock.ground.errors import from_record
from penstock.ground.paths import private_folder
from penstock.ports.compute import Limits, Task
from penstock.ports.queue import QueuedJob
from penstock.run.cost import of_process
from penstock.run.runtime import Runtime
from penstock.run.worker import Attempt

#: Seconds between looks whether the job is to end.
LOOK_S = 0.5


def isolated(attempt: Attempt, *, level: str) -> Any:
    """What the job gives, done by `project.isolated` in a process of its own with the job's limits.

    Its output is in the job's log. What its process took is the attempt's cost.
    Raises: what the job raised, MemoryLimit(E5003), TimeLimit(E5004), JobCrashed(E5005), JobCancelled(E5006).
    """
    job, runtime = attempt.job, attempt.runtime
    handle = runtime.compute.start(_task(job, runtime, level))
    while (ended := handle.wait(LOOK_S)) is None:
        if attempt.stop.is_set() or attempt.leaving.is_set():
            handle.cancel()
    attempt.cost.update(of_process(ended.cost))
    if ended.status != "done":
        raise from_record(ended.error or {})
    told: Mapping[str, Any] = ended.result
    attempt.cost.update(told["cost"])
    attempt.more.update(told["more"])
    return told["result"]


def _task(job: QueuedJob, runtime: Runtime, level: str) -> Task:
    needs = job.needs if job.kind in ("job", "branch") else None
    limits = Limits(
        memory_bytes=needs.memory_bytes or None if needs else None,
        seconds=job.timeout_s,
        cores=math.ceil(needs.cores) or None if needs else None,
        gpus=needs.gpus if needs else 0,
    )
    payload = {"root": str(runtime.root), "level": level, "job": job.id, "epoch": job.epoch}
    told = {"PENSTOCK_RUN": job.run, "PENSTOCK_JOB": job.id, "PENSTOCK_IDEMPOTENCY_KEY": str(job.payload.get("idempotency_key", ""))}
    return Task(f"{job.id}-{job.epoch}", runtime.code.calls["job"], payload, limits, (runtime.root,), log_of(runtime, job.id), told)


def log_of(runtime: Runtime, job: str) -> Path:
    """Where a job's output is, whether it has printed anything or not."""
    return private_folder(runtime.folder / "logs") / f"{job}.log"
