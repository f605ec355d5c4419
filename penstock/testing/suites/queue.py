"""What every queue must do.

Use: `from penstock.testing.suites.queue import *` in a test module that has a fixture `new_state`: a function that makes a new, empty
state and returns its opener, as for the state suite; the queue is the state's.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from penstock.ground.errors import CycleError, DefinitionError, DuplicateJob, Fenced, PenstockError, UnknownName
from penstock.ground.failpoints import FailpointError, armed
from penstock.ground.ids import base32
from penstock.ports.queue import LIVE, LOST, STATUSES, Lease, Needs, NewJob, Offers, Queue, QueuedJob, added
from penstock.ports.state import State
from penstock.testing.clock import START
from penstock.testing.queues import MemoryQueue

Opener = Callable[[], State]
NewState = Callable[[], Opener]

SECOND = timedelta(seconds=1)
ERROR = {"code": "E5001", "message": "it broke", "traceback": "Traceback ...\n\0 caf\udce9"}


@pytest.fixture
def queue(new_state: NewState) -> Queue:
    return new_state()().queue


def put(queue: Queue, *names: str, now: datetime = START, **more: Any) -> list[QueuedJob]:
    return list(queue.enqueue([NewJob(name, "k", **more) for name in names], now=now))


def take(queue: Queue, owner: str = "w", now: datetime = START, lease_s: float = 30, offers: Offers = Offers()) -> Lease:  # noqa: B008
    lease = queue.claim(owner, offers, now=now, lease_s=lease_s)
    assert lease is not None
    return lease


def names(jobs: Sequence[QueuedJob]) -> list[str]:
    return [job.name for job in jobs]


def of(queue: Queue, job: QueuedJob) -> QueuedJob:
    return queue.jobs([job.id])[0]


def statuses(queue: Queue) -> dict[str, int]:
    return {status: n for status, n in queue.counts().items() if n}


def test_a_job_comes_back_as_it_was_put_in(queue: Queue) -> None:
    asked = NewJob(
        "größe/日本", "load", {"text": "\0 caf\udce9", "deep": [1, None, {"x": 0.1}]}, run="r1", priority=-3, key="k'%", at_once=2, dedupe='d"',
        not_before=START + SECOND, attempts=4, timeout_s=1.5, needs=Needs(2**33, 0.5, 1), id="a" * 20,
    )  # fmt: skip
    (job,) = queue.enqueue([asked], now=START)
    assert {name: getattr(job, name) for name in asked.__dataclass_fields__} == {
        name: getattr(asked, name) for name in asked.__dataclass_fields__
    }
    assert (job.status, job.created, job.attempt, job.epoch, job.owner) == ("waiting", START, 0, 0, "")
    assert list(queue.jobs()) == [job]
    made = put(queue, "x", "y")
    assert job.seq < made[0].seq < made[1].seq
    assert len({job.id, made[0].id, made[1].id}) == 3


def test_a_job_runs_and_ends_with_its_result(queue: Queue) -> None:
    (job,) = put(queue, "x")
    lease = take(queue, now=START + SECOND)
    assert (lease.job.status, lease.owner, lease.epoch, lease.until) == ("running", "w", 1, START + 31 * SECOND)
    assert (lease.job.attempt, lease.job.started, lease.job.until) == (1, START + SECOND, lease.until)
    assert queue.claim("w", Offers(), now=START, lease_s=30) is None
    done = queue.complete(lease, now=START + 2 * SECOND, result={"rows": [1]}, cost={"cpu_s": 1.5})
    assert (done.status, done.result, done.ended, done.until) == ("done", {"rows": [1]}, START + 2 * SECOND, None)
    assert done.cost == {"cpu_s": 1.5}
    assert of(queue, job) == done
    assert queue.counts() == {status: int(status == "done") for status in STATUSES}


def test_the_highest_priority_goes_first_then_the_oldest(queue: Queue) -> None:
    queue.enqueue([NewJob(f"{p}{n}", "k", priority=p) for n, p in enumerate([0, 5, 5, -1, 0])], now=START)
    assert [take(queue).job.name for _ in range(5)] == ["51", "52", "00", "04", "-13"]


def test_a_repeated_enqueue_finds_its_jobs(queue: Queue) -> None:
    asked = [NewJob("x", "k", id="x" * 20), NewJob("y", "k", after=("x" * 20,), id="y" * 20)]
    first = list(queue.enqueue(asked, now=START))
    assert list(queue.enqueue(asked, now=START + SECOND)) == first
    queue.complete(take(queue), now=START)
    again = queue.enqueue([*asked, NewJob("z", "k", after=("x" * 20, "y" * 20))], now=START)
    assert [job.status for job in again] == ["done", "ready", "waiting"]
    queue.complete(take(queue), now=START)
    assert take(queue).job.name == "z"


def test_all_jobs_of_a_call_are_put_in_or_none(queue: Queue) -> None:
    good = NewJob("x", "k", id="good")
    for bad, error in (
        (NewJob("x", "k", {"x": object()}), DefinitionError),
        (NewJob("x", "k", {"x": float("nan")}), DefinitionError),
        (NewJob("a\0b", "k"), DefinitionError),
        (NewJob("x", "k", attempts=0), DefinitionError),
        (NewJob("x", "k", at_once=1), DefinitionError),
        (NewJob("x", "k", priority=2**63), DefinitionError),
        (NewJob("x", "k", after=("nobody",)), UnknownName),
        (NewJob("x", "k", id="me", after=("me",)), CycleError),
        (NewJob("x", "k", id="good"), DefinitionError),
    ):
        with pytest.raises(error):
            queue.enqueue([good, bad], now=START)
    with armed("queue.write.before"), pytest.raises(FailpointError):
        queue.enqueue([good], now=START)
    assert statuses(queue) == {}
    assert list(queue.enqueue([], now=START)) == []


def test_of_jobs_with_one_dedupe_text_one_has_not_ended(queue: Queue) -> None:
    first, second = put(queue, "x", "y", dedupe="d")
    assert first == second
    lease = take(queue)
    assert put(queue, "z", dedupe="d") == [lease.job]
    with pytest.raises(DuplicateJob) as told:
        put(queue, "other", "z", dedupe="d", on_duplicate="refuse")
    assert told.value.retry
    queue.complete(lease, now=START)
    (third,) = put(queue, "z", dedupe="d", on_duplicate="refuse")
    assert third.id != first.id
    assert statuses(queue) == {"done": 1, "ready": 1}


def test_after_a_duplicate_means_the_job_it_duplicates(queue: Queue) -> None:
    put(queue, "old", dedupe="d")
    made = queue.enqueue([NewJob("new", "k", dedupe="d", id="n"), NewJob("next", "k", after=("n",))], now=START)
    assert names(made) == ["old", "next"]
    assert made[1].after == (made[0].id,)
    queue.complete(take(queue), now=START)
    assert take(queue).job.name == "next"


def test_a_job_waits_for_those_it_comes_after(queue: Queue) -> None:
    a, b = put(queue, "a", "b")
    (c,) = put(queue, "c", after=(a.id, b.id, a.id))
    (d,) = put(queue, "d", after=(c.id,), not_before=START + 60 * SECOND)
    assert [c.status, d.status] == ["waiting", "waiting"]
    queue.complete(take(queue), now=START)
    lease = take(queue)
    assert queue.claim("w", Offers(), now=START, lease_s=30) is None
    queue.complete(lease, now=START)
    queue.complete(take(queue), now=START)
    assert queue.claim("w", Offers(), now=START + 59 * SECOND, lease_s=30) is None
    assert take(queue, now=START + 60 * SECOND).job.name == "d"


@pytest.mark.parametrize("end", ["failed", "dead", "cancelled"])
def test_what_comes_after_a_lost_job_is_cancelled_with_it(queue: Queue, end: str) -> None:
    jobs = [NewJob(n, "k", id=n * 20, after=tuple(a * 20 for a in after)) for n, after in [("d", "cb"), ("c", "ba"), ("b", "a"), ("a", "")]]
    queue.enqueue([*jobs, NewJob("free", "k", priority=-1)], now=START)
    lease = take(queue)
    assert lease.job.name == "a"
    if end == "cancelled":
        queue.cancel(["a" * 20], now=START)
    queue.fail(lease, ERROR, now=START, retry_at=START if end == "dead" else None)
    found = {job.name: job for job in queue.jobs()}
    assert (found["a"].status, found["a"].error) == (end, ERROR)
    assert {n: found[n].status for n in "bcd"} == dict.fromkeys("bcd", "cancelled")
    assert {n: found[n].because[0] for n in "bcd"} == {"b": "a", "c": "a", "d": "c"}
    assert (found["b"].error or {})["message"] == f"a ({'a' * 20}) is {end}"
    assert found["b"].ended == START
    (late,) = put(queue, "late", after=("d" * 20,))
    assert (late.status, late.because) == ("cancelled", "d" * 20)
    assert names([take(queue).job]) == ["free"]
    assert queue.claim("w", Offers(), now=START, lease_s=30) is None


def test_a_failed_attempt_is_repeated_until_none_are_left(queue: Queue) -> None:
    put(queue, "x", attempts=2)
    first = queue.fail(take(queue), ERROR, now=START, retry_at=START + 10 * SECOND, cost={"cpu_s": 1, "peak_bytes": 7})
    assert (first.status, first.attempt, first.not_before, first.error) == ("waiting", 1, START + 10 * SECOND, ERROR)
    assert queue.claim("w", Offers(), now=START + 9 * SECOND, lease_s=30) is None
    lease = take(queue, now=START + 10 * SECOND)
    assert (lease.job.attempt, lease.epoch) == (2, 2)
    dead = queue.fail(lease, ERROR, now=START, retry_at=START, cost={"cpu_s": 2, "peak_bytes": 5})
    assert (dead.status, dead.ended, dead.cost) == ("dead", START, {"cpu_s": 3, "peak_bytes": 7})


def test_a_job_given_back_loses_no_attempt(queue: Queue) -> None:
    put(queue, "x")
    for n in range(3):
        back = queue.fail(take(queue), {"message": "stopping"}, now=START, counted=False)
        assert (back.status, back.attempt, back.epoch) == ("ready", 0, n + 1)
    assert queue.complete(take(queue), now=START).status == "done"


def test_a_lease_that_ran_out_lets_others_have_the_job(queue: Queue) -> None:
    put(queue, "x", attempts=2)
    old = take(queue, "a")
    assert queue.claim("b", Offers(), now=old.until - SECOND, lease_s=30) is None
    new = take(queue, "b", now=old.until)
    assert new.job.id == old.job.id
    assert new.epoch > old.epoch
    assert (new.job.attempt, new.job.vanished) == (2, 1)
    for write in (
        lambda: queue.heartbeat(old, now=old.until, lease_s=30),
        lambda: queue.complete(old, now=old.until, result="zombie"),
        lambda: queue.fail(old, ERROR, now=old.until),
    ):
        with pytest.raises(Fenced):
            write()
    assert of(queue, new.job) == new.job
    (dead,) = queue.advance(now=new.until)
    assert (dead.status, dead.vanished) == ("dead", 2)
    assert (dead.error or {})["message"] == "its worker vanished 2 times"
    with pytest.raises(Fenced):
        queue.complete(new, now=new.until)
    assert queue.advance(now=new.until) == []


def test_a_worker_that_is_late_but_unnoticed_ends_its_job(queue: Queue) -> None:
    put(queue, "x")
    lease = take(queue)
    longer = queue.heartbeat(lease, now=lease.until + SECOND, lease_s=30)
    assert longer.until == lease.until + 31 * SECOND
    assert queue.complete(lease, now=longer.until + SECOND).status == "done"


def test_heartbeats_renew_and_tell_progress_and_cancels(queue: Queue) -> None:
    put(queue, "x", attempts=2)
    lease = take(queue)
    lease = queue.heartbeat(lease, now=START + 20 * SECOND, lease_s=30, progress={"done": 1, "of": 3})
    assert (lease.until, lease.job.progress, lease.cancel_asked) == (START + 50 * SECOND, {"done": 1, "of": 3}, False)
    lease = queue.heartbeat(lease, now=START + 21 * SECOND, lease_s=30)
    assert lease.job.progress == {"done": 1, "of": 3}
    (asked,) = queue.cancel([lease.job.id], now=START)
    assert (asked.status, asked.cancel_asked) == ("running", True)
    assert queue.heartbeat(lease, now=START, lease_s=30).cancel_asked
    ended = queue.fail(lease, ERROR, now=START, retry_at=START)
    assert (ended.status, ended.error) == ("cancelled", ERROR)
    with pytest.raises(Fenced):
        queue.heartbeat(lease, now=START, lease_s=30)


def test_a_cancelled_jobs_worker_may_vanish_or_come_through(queue: Queue) -> None:
    put(queue, "x", "y", attempts=9)
    gone, through = take(queue), take(queue)
    queue.cancel([gone.job.id, through.job.id], now=START)
    assert queue.complete(through, now=START).status == "done"
    assert [job.status for job in queue.advance(now=gone.until)] == ["cancelled"]


def test_writes_of_a_lease_may_be_repeated(queue: Queue) -> None:
    put(queue, "x", "y", attempts=3)
    lease, other = take(queue), take(queue)
    done = queue.complete(lease, now=START, result=1, cost={"s": 1})
    assert queue.complete(lease, now=START + SECOND, result=2, cost={"s": 1}) == done
    assert queue.fail(lease, ERROR, now=START) == done
    back = queue.fail(other, ERROR, now=START, retry_at=START, cost={"s": 1})
    assert queue.fail(other, ERROR, now=START, retry_at=START, cost={"s": 1}) == back


def test_limits_of_a_key_hold(queue: Queue) -> None:
    queue.enqueue([NewJob(f"x{n}", "k", key="db", at_once=2) for n in range(4)], now=START)
    put(queue, "free", "same key", priority=-1, key="db")
    first = [take(queue) for _ in range(4)]
    assert [lease.job.name for lease in first] == ["x0", "x1", "free", "same key"]
    assert queue.claim("w", Offers(), now=START, lease_s=30) is None
    queue.complete(first[0], now=START)
    assert queue.claim("w", Offers(), now=START, lease_s=30) is None
    queue.complete(first[2], now=START)
    queue.complete(first[3], now=START)
    assert take(queue).job.name == "x2"
    assert queue.claim("w", Offers(), now=START, lease_s=30) is None
    assert take(queue, now=first[1].until).job.name == "x3"


def test_a_worker_gets_what_fits_into_what_it_has_left(queue: Queue) -> None:
    queue.enqueue(
        [
            NewJob("huge", "k", needs=Needs(memory_bytes=100)),
            NewJob("gpu", "k", needs=Needs(gpus=1)),
            NewJob("big", "k", needs=Needs(memory_bytes=6, cores=1)),
            NewJob("small", "k", needs=Needs(memory_bytes=3, cores=0.5)),
            NewJob("none", "k"),
        ],
        now=START,
    )
    offers = Offers(memory_bytes=8, cores=2)
    big = take(queue, offers=offers)
    assert big.job.name == "big"
    assert take(queue, offers=offers).job.name == "none"
    assert queue.claim("w", offers, now=START, lease_s=30) is None
    assert take(queue, "other", offers=offers).job.name == "small"
    put(queue, "small", needs=Needs(memory_bytes=3))
    queue.complete(big, now=START)
    assert take(queue, offers=offers).job.name == "small"
    assert take(queue, "third", offers=Offers(gpus=1)).job.name == "gpu"


def test_a_worker_may_ask_for_jobs_of_some_runs(queue: Queue) -> None:
    queue.enqueue([NewJob("first", "job", run="a", priority=9), NewJob("second", "job", run="b"), NewJob("third", "job")], now=START)
    lease = queue.claim("w", Offers(), now=START, lease_s=30, runs={"b", "c"})
    assert lease is not None
    assert lease.job.name == "second"
    assert queue.claim("w", Offers(), now=START, lease_s=30, runs={"b", "c"}) is None
    assert take(queue).job.name == "first"


def test_kinds_are_offered_and_paused(queue: Queue) -> None:
    queue.enqueue([NewJob(kind, kind) for kind in ("load", "train", "score")], now=START)
    assert queue.claim("w", Offers(kinds=("other",)), now=START, lease_s=30) is None
    assert take(queue, offers=Offers(kinds=("other", "train"))).job.name == "train"
    queue.pause("load")
    queue.pause("load")
    assert queue.paused() == {"load"}
    queue.pause()
    assert queue.claim("w", Offers(), now=START, lease_s=30) is None
    queue.pause(paused=False)
    assert take(queue).job.name == "score"
    assert queue.claim("w", Offers(), now=START, lease_s=30) is None
    queue.pause("load", paused=False)
    queue.pause("never", paused=False)
    assert take(queue).job.name == "load"


def test_workers_are_up_for_a_lease(queue: Queue) -> None:
    offers = Offers(8, 2.0, 1, ("load",))
    queue.claim("a", offers, now=START, lease_s=30)
    queue.claim("b", Offers(), now=START, lease_s=60)
    a, b = queue.workers(now=START + SECOND)
    assert (a.owner, a.offers, a.since, a.until) == ("a", offers, START, START + 30 * SECOND)
    assert (b.owner, b.until) == ("b", START + 60 * SECOND)
    assert [w.owner for w in queue.workers(now=START + 30 * SECOND)] == ["b"]
    queue.claim("b", Offers(cores=3), now=START + 40 * SECOND, lease_s=60)
    (b,) = queue.workers(now=START + 99 * SECOND)
    assert (b.offers.cores, b.since) == (3, START)
    queue.leave("b")
    queue.leave("b")
    assert list(queue.workers(now=START)) == []


def test_a_running_job_keeps_its_worker_up(queue: Queue) -> None:
    put(queue, "x")
    lease = take(queue)
    for n in range(1, 5):
        lease = queue.heartbeat(lease, now=START + 20 * n * SECOND, lease_s=30)
        assert len(queue.workers(now=START + 20 * n * SECOND)) == 1


def test_waiting_jobs_are_cancelled_at_once(queue: Queue) -> None:
    a, b = put(queue, "a", "b")
    (c,) = put(queue, "c", after=(a.id,))
    ended = queue.cancel([a.id, b.id, b.id], now=START, reason="not needed")
    assert names(ended) == ["b", "a"]
    assert {job.status for job in ended} == {"cancelled"}
    assert (ended[0].error or {})["message"] == "not needed"
    assert of(queue, c).because == a.id
    assert list(queue.cancel([a.id], now=START + SECOND)) == [ended[1]]
    with pytest.raises(UnknownName):
        queue.cancel([b.id, "nobody"], now=START)
    assert list(queue.cancel([], now=START)) == []


def test_a_retried_job_takes_those_after_it_along(queue: Queue) -> None:
    jobs = [
        NewJob(n, "k", id=n, after=tuple(after), attempts=1) for n, after in [("a", ""), ("x", ""), ("b", "a"), ("c", "b"), ("d", "cx")]
    ]
    queue.enqueue(jobs, now=START)
    queue.fail(take(queue), ERROR, now=START)
    queue.fail(take(queue), ERROR, now=START)
    assert statuses(queue) == {"failed": 2, "cancelled": 3}
    assert names(queue.retry(["b"], now=START)) == ["b"]
    assert statuses(queue) == {"failed": 2, "cancelled": 3}
    (again,) = queue.retry(["a"], now=START)
    assert (again.status, again.attempt, again.error, again.ended) == ("ready", 0, None, None)
    assert {job.id: job.status for job in queue.jobs()} == {"a": "ready", "b": "waiting", "c": "waiting", "d": "cancelled", "x": "failed"}
    queue.retry(["x", "d"], now=START)
    order = []
    while lease := queue.claim("w", Offers(), now=START, lease_s=30):
        order.append(queue.complete(lease, now=START).id)
    assert order == ["a", "x", "b", "c", "d"]
    assert [job.status for job in queue.retry(["a"], now=START)] == ["done"]


def test_a_retry_does_not_make_a_second_of_its_kind(queue: Queue) -> None:
    (first,) = put(queue, "x", dedupe="d")
    queue.fail(take(queue), ERROR, now=START)
    put(queue, "y", dedupe="d")
    with pytest.raises(DuplicateJob):
        queue.retry([first.id], now=START)
    assert of(queue, first).status == "failed"
    queue.cancel([job.id for job in queue.jobs(status=LIVE)], now=START)
    with pytest.raises(DuplicateJob):
        queue.retry([job.id for job in queue.jobs(status=LOST)], now=START)
    queue.retry([first.id], now=START)
    assert statuses(queue) == {"ready": 1, "cancelled": 1}


def test_jobs_are_filtered_and_paged(queue: Queue) -> None:
    made = list(queue.enqueue([NewJob(f"n{n % 3}", f"k{n % 2}", run=f"r{n % 4}", key=f"q{n % 5}") for n in range(60)], now=START))
    lease = take(queue, "me")
    assert list(queue.jobs(limit=1000)) == [*made[:0:-1], lease.job]
    assert list(queue.jobs(limit=7)) == made[:-8:-1]
    assert list(queue.jobs(below=made[10].seq, limit=2)) == [made[9], made[8]]
    for filters in ({"name": "n1"}, {"kind": "k1"}, {"run": "r3"}, {"key": "q2"}, {"name": "n1", "kind": "k0", "run": "r2", "key": "q4"}):
        wanted = [job for job in made[::-1] if all(getattr(job, what) == value for what, value in filters.items())]
        assert list(queue.jobs(**filters)) == wanted  # type: ignore[arg-type]
        assert wanted
    assert list(queue.jobs(status=["running"])) == list(queue.jobs(owner="me")) == [lease.job]
    assert list(queue.jobs([made[3].id, "nobody", made[5].id])) == [made[5], made[3]]
    assert list(queue.jobs([])) == []
    assert queue.counts(run="r0") == {**dict.fromkeys(STATUSES, 0), "ready": 14, "running": 1}
    assert queue.counts(run="none") == dict.fromkeys(STATUSES, 0)


def test_another_handle_sees_the_jobs(new_state: NewState) -> None:
    opener = new_state()
    first = opener()
    (job,) = put(first.queue, "x")
    lease = take(first.queue)
    first.close()
    second = opener()
    assert list(second.queue.jobs()) == [lease.job]
    assert second.queue.complete(lease, now=START).id == job.id


def test_a_lost_answer_is_made_good_by_repeating(queue: Queue) -> None:
    jobs = [NewJob("x", "k", id="x" * 20)]
    with armed("queue.write.after"), pytest.raises(FailpointError):
        queue.enqueue(jobs, now=START)
    queue.enqueue(jobs, now=START)
    with armed("queue.write.after"), pytest.raises(FailpointError):
        queue.claim("w", Offers(), now=START, lease_s=30)
    assert queue.claim("w", Offers(), now=START, lease_s=30) is None
    (dead,) = queue.advance(now=START + 30 * SECOND)
    assert dead.status == "dead"
    queue.retry([dead.id], now=START)
    lease = take(queue)
    with armed("queue.write.after"), pytest.raises(FailpointError):
        queue.complete(lease, now=START, result=1)
    assert queue.complete(lease, now=START, result=1).result == 1
    assert statuses(queue) == {"done": 1}


def test_costs_add_up() -> None:
    assert added({"a": 1, "peak_x": 3}, {"a": 2, "b": 1, "peak_x": 2, "peak_y": 1}) == {"a": 3, "b": 1, "peak_x": 3, "peak_y": 1}
    assert added({"a": 1}, None) == {"a": 1}


def test_many_workers_take_each_job_once(new_state: NewState) -> None:
    """Four workers, 120 jobs in chains of three and a limited key: processes if the state serves several, else threads."""
    opener = new_state()
    state = opener()
    ids = [base32(n, 20) for n in range(120)]
    jobs = [
        NewJob(f"j{n}", "k", {"n": n}, id=id, key="few", at_once=2 if n % 5 == 0 else 0, after=(ids[n - 1],) if n % 3 else ())
        for n, id in enumerate(ids)
    ]
    state.queue.enqueue(jobs, now=START)
    apart = state.capabilities.several_processes
    start: Any = multiprocessing.get_context("spawn").Process if apart else threading.Thread
    workers = [start(target=drain, args=(opener, f"w{n}", START)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    done = {job.id: job for job in state.queue.jobs(limit=1000)}
    assert Counter(job.status for job in done.values()) == {"done": 120}
    assert all((job.attempt, job.epoch, job.vanished) == (1, 1, 0) for job in done.values())
    told = Counter(record.key for record in state.history("ran", limit=1000))
    assert told == Counter(ids)


def drain(opener: Opener, owner: str, at: datetime) -> None:
    """Runs jobs until none is left, and tells of each in a record. Run in several processes at once."""
    state = opener()
    while any(n for status, n in state.queue.counts().items() if status in LIVE):
        if lease := state.queue.claim(owner, Offers(), now=at, lease_s=3600):
            limited = [job for job in state.queue.jobs(key="few", status=["running"]) if job.at_once]
            if len(limited) > 2:
                raise AssertionError(f"{len(limited)} run where 2 may")
            state.append("ran", lease.job.id, {"by": owner}, at=at)
            state.queue.complete(lease, now=at, result=owner)
    state.close()


def test_agrees_with_the_reference(new_state: NewState) -> None:
    """Any sequence of calls gives what MemoryQueue gives: jobs but for their numbers, leases, and errors by kind."""
    run_state_machine_as_test(
        machine(new_state),
        settings=settings(max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)),
    )


def machine(new_state: NewState) -> type[RuleBasedStateMachine]:
    """The state machine that compares a queue with the reference."""

    class Machine(_Pair):
        def __init__(self) -> None:
            super().__init__(new_state()())

    return Machine


class _Pair(RuleBasedStateMachine):
    def __init__(self, state: State) -> None:
        super().__init__()
        self.state, self.reference = state, MemoryQueue()
        self.now = START
        self.ids: list[str] = []
        self.leases: list[Lease] = []

    def both(self, call: Callable[[Queue], Any]) -> Any:
        results: list[Any] = []
        queues: tuple[Queue, Queue] = (self.state.queue, self.reference)
        for queue in queues:
            try:
                results.append(_plain(call(queue)))
            except PenstockError as error:
                results.append(type(error))
        assert results[0] == results[1], f"{results[0]}\nis not\n{results[1]}"
        return results[0]

    @rule(seconds=st.sampled_from([-3600, -5, 1, 10, 30, 31]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(data=st.data())
    def enqueue(self, data: st.DataObject) -> None:
        jobs: list[NewJob] = []
        for _ in range(data.draw(st.integers(1, 4))):
            known = self.ids + [job.id for job in jobs]
            id = f"j{len(known):03}"
            if known and data.draw(st.integers(0, 9)) == 0:
                id = data.draw(st.sampled_from(known))
            jobs.append(self._job(data, id, known))
        if data.draw(st.booleans()):
            jobs = jobs[::-1]
        if isinstance(self.both(lambda q: q.enqueue(jobs, now=self.now)), list):
            known_now = {job.id for job in self.reference.jobs(limit=10_000)}
            self.ids += sorted({job.id for job in jobs if job.id in known_now} - set(self.ids))

    def _job(self, data: st.DataObject, id: str, known: list[str]) -> NewJob:
        limited = data.draw(st.sampled_from([("", 0), ("", 0), ("a", 0), ("a", 1), ("b", 2)]))
        after = (
            data.draw(st.lists(st.sampled_from([*known, "nobody"] if data.draw(st.integers(0, 20)) == 0 else known), max_size=2))
            if known
            else []
        )
        return NewJob(
            f"n-{id}",
            data.draw(st.sampled_from(["load", "train"])),
            {"x": data.draw(st.integers(0, 3))},
            run=data.draw(st.sampled_from(["", "r"])),
            priority=data.draw(st.sampled_from([0, 0, 1])),
            key=limited[0],
            at_once=limited[1],
            dedupe=data.draw(st.sampled_from(["", "", "", "d", "e"])),
            on_duplicate="refuse" if data.draw(st.integers(0, 5)) == 0 else "return",
            after=tuple(after),
            not_before=data.draw(st.sampled_from([None, None, self.now, self.now + 20 * SECOND])),
            attempts=data.draw(st.integers(1, 2)),
            needs=data.draw(st.sampled_from([Needs(), Needs(), Needs(4, 0.1), Needs(7, 0.3, 1)])),
            id=id,
        )

    @rule(owner=st.sampled_from(["v", "w"]), offers=st.sampled_from([Offers(), Offers(8, 0.3), Offers(16, 1.0, 1, ("train",))]))
    def claim(self, owner: str, offers: Offers) -> None:
        lease = self.both(lambda q: q.claim(owner, offers, now=self.now, lease_s=30.5))
        if lease is not None:
            self.leases.append(lease)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), progress=st.none() | st.just({"n": 1}))
    def heartbeat(self, data: st.DataObject, progress: dict[str, int] | None) -> None:
        lease = self._lease(data)
        self.both(lambda q: q.heartbeat(lease, now=self.now, lease_s=30.5, progress=progress))

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        lease = self._lease(data)
        self.both(lambda q: q.complete(lease, now=self.now, result=[lease.epoch], cost={"s": 1.0}))

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), wait=st.none() | st.sampled_from([0, 20]), counted=st.booleans())
    def fail(self, data: st.DataObject, wait: int | None, counted: bool) -> None:
        lease, retry_at = self._lease(data), None if wait is None else self.now + timedelta(seconds=wait)
        self.both(lambda q: q.fail(lease, ERROR, now=self.now, retry_at=retry_at, counted=counted, cost={"s": 1.0}))

    def _lease(self, data: st.DataObject) -> Lease:
        """Most often the newest one: older ones are fenced."""
        return self.leases[-1] if data.draw(st.booleans()) else data.draw(st.sampled_from(self.leases))

    @precondition(lambda self: self.ids)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.sampled_from(self.ids), min_size=1, max_size=3))
        self.both(lambda q: q.cancel(chosen, now=self.now))

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), every=st.booleans())
    def retry(self, data: st.DataObject, every: bool) -> None:
        chosen = self.ids if every else data.draw(st.lists(st.sampled_from(self.ids), min_size=1, max_size=3))
        self.both(lambda q: q.retry(chosen, now=self.now))

    @rule(kind=st.sampled_from(["", "load"]), paused=st.sampled_from([True, False, False]))
    def pause(self, kind: str, paused: bool) -> None:
        self.both(lambda q: q.pause(kind, paused=paused))

    @rule()
    def advance(self) -> None:
        self.both(lambda q: q.advance(now=self.now))

    @rule(owner=st.sampled_from(["v", "w"]))
    def leave(self, owner: str) -> None:
        self.both(lambda q: q.leave(owner))

    @rule(limit=st.integers(0, 3), status=st.lists(st.sampled_from(STATUSES), max_size=2), run=st.sampled_from(["", "r"]))
    def look(self, limit: int, status: list[Any], run: str) -> None:
        self.both(lambda q: q.jobs(status=status, run=run, limit=limit))
        self.both(lambda q: q.counts(run=run))

    @invariant()
    def same(self) -> None:
        jobs = self.both(lambda q: q.jobs(limit=10_000))
        self.both(lambda q: q.workers(now=self.now))
        self.both(lambda q: q.paused())
        live = Counter(job.dedupe for job in jobs if job.dedupe and job.status in LIVE)
        assert not live or max(live.values()) == 1
        by_id = {job.id: job for job in jobs}
        for job in jobs:
            if job.status in ("ready", "running"):
                assert all(by_id[each].status == "done" for each in job.after)
            elif job.status == "waiting":
                assert not any(by_id[each].status in LOST for each in job.after)

    def teardown(self) -> None:
        self.state.close()


def _plain(result: Any) -> Any:
    """A result without the jobs' numbers, which may have gaps."""
    if isinstance(result, QueuedJob):
        return replace(result, seq=0)
    if isinstance(result, Lease):
        return replace(result, job=replace(result.job, seq=0))
    return [_plain(value) for value in result] if isinstance(result, (list, tuple)) else result
