"""When a failed attempt is tried again: as often as was declared, later each time, and not all at the same moment."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from penstock.ground.digest import digest
from penstock.ports.queue import QueuedJob

#: Attempts beyond those that errors may use up, for workers that vanish through no fault of the job.
VANISHING = 2
#: How often making an asset is tried again after an error that a retry may help.
OF_ASSETS = 2
#: No wait between two attempts is longer, in seconds.
LONGEST_S = 3600.0


def attempts(retries: int) -> int:
    """`NewJob.attempts` of a job with so many retries."""
    return retries + 1 + VANISHING


def retry_at(job: QueuedJob, now: datetime, error: Mapping[str, Any]) -> datetime | None:
    """When a job whose attempt failed is tried again; None if its retries are used up, or no repeat helps.

    `error` is a record as of `PenstockError.as_record`. A job of the user's is tried again after any error, one whose payload says
    `transient_only` after those that a retry may help. Attempts whose worker vanished do not count.

    Reads `retries` and `backoff_s` of the payload: the first wait is `backoff_s`, each further one twice as long, at most an hour, each
    longer by up to a quarter that differs from job to job and is the same when it is asked again.
    """
    if job.payload.get("transient_only") and not error.get("retry"):
        return None
    failures = job.attempt - job.vanished
    if failures > int(job.payload.get("retries", 0)):
        return None
    wait = min(float(job.payload.get("backoff_s", 10.0)) * 2.0 ** min(max(failures - 1, 0), 32), LONGEST_S)
    share = int(digest([job.id, failures]), 16) / 16**32
    return now + timedelta(seconds=wait * (1 + share / 4))
