"""Why a job does not run: each reason, in the order they are looked for."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from penstock.plan.waiting import why
from penstock.ports.queue import Needs, Offers, QueuedJob, Worker
from penstock.testing.clock import START

MINUTE = timedelta(minutes=1)


def job(id: str = "me", **more: Any) -> QueuedJob:
    given = {"kind": "table", "status": "ready", "seq": 1, "created": START, "name": f"asset:{id}", **more}
    return QueuedJob(id=id, **given)


def worker(owner: str = "w", **offers: Any) -> Worker:
    return Worker(owner, Offers(**offers), START, START + MINUTE)


RUNNING = job("departures", status="running", started=START - 3 * MINUTE, owner="w", key="x", until=START + MINUTE)
EIGHT = Needs(memory_bytes=8 * 10**9)


@pytest.mark.parametrize(
    ("asked", "others", "workers", "reason"),
    [
        ({"after": ("departures",), "status": "waiting"}, [RUNNING], [], "waits for asset:departures (running since 3 min)"),
        (
            {"after": tuple("abcdef"), "status": "waiting"},
            [job(id, seq=n, status="done" if id == "a" else "ready") for n, id in enumerate("fedcba")],
            [worker()],
            "waits for asset:f (ready), asset:e (ready), asset:d (ready) and 2 more",
        ),
        ({"not_before": START + 5 * 60 * MINUTE, "status": "waiting"}, [], [], "not before 05:00 UTC"),
        ({"not_before": START + 10 * timedelta(seconds=1), "attempt": 2}, [], [], "not before 00:00:10 UTC, after 2 attempts"),
        ({"not_before": START + timedelta(days=40)}, [], [], "not before 2026-02-10 00:00 UTC"),
        ({"key": "x", "at_once": 1}, [RUNNING], [worker()], "1 of 1 running with key x"),
        ({"key": "x", "at_once": 2}, [RUNNING], [worker()], "ready; it is taken by the next free worker, after those before it"),
        ({}, [], [], "no worker is up"),
        ({}, [], [worker(kinds=("train",))], "no worker takes jobs of kind table"),
        ({"needs": EIGHT}, [], [worker(memory_bytes=6 * 10**9), worker("v")], "needs 8 GB, largest worker offers 6 GB"),
        ({"needs": Needs(gpus=1)}, [], [worker(cores=2)], "needs 1 GPU, largest worker offers 0 GPUs"),
        (
            {"needs": Needs(memory_bytes=8 * 10**9, cores=2)},
            [],
            [worker(memory_bytes=9 * 10**9, cores=1), worker("v", memory_bytes=10**6, cores=4)],
            "needs 8 GB, 2 cores; no worker offers all of it",
        ),
        (
            {"needs": EIGHT},
            [replace(RUNNING, needs=Needs(memory_bytes=4 * 10**9))],
            [worker(memory_bytes=9 * 10**9)],
            "needs 8 GB, of 9 GB 5 GB are free",
        ),
        ({"status": "running", "until": START + MINUTE}, [], [], ""),
        (
            {"status": "running", "owner": "w", "until": START - 5 * MINUTE},
            [],
            [],
            "its worker w has not been heard of since its lease ended, 5 min ago",
        ),
        ({"status": "dead", "error": {"message": "its worker vanished 2 times"}}, [], [], "its worker vanished 2 times"),
        ({"status": "done", "error": None}, [], [], ""),
    ],
)
def test_the_reason_is_told(asked: dict[str, Any], others: list[QueuedJob], workers: list[Worker], reason: str) -> None:
    assert why(job(**asked), others, workers, START) == reason


def test_what_is_paused_is_told() -> None:
    assert why(job(), [], [worker()], START, paused={"table"}) == "jobs of kind table are paused"
    assert why(job(), [], [worker()], START, paused={""}) == "paused"
    assert why(job(), [], [worker()], START, paused={"train"}).startswith("ready")
