"""Flows: what comes next, the journal, and whole runs on a queue with crashes, failures, resuming and forking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.ground.errors import Busy, DefinitionError, Fenced, PenstockError, UnknownName, UserCodeError
from penstock.plan.flows import Journal, following, input_digest, list_at
from penstock.plan.retries import LONGEST_S, VANISHING, attempts, retry_at
from penstock.ports.queue import Lease, Offers
from penstock.project.discover import found_in
from penstock.run import flow as flows
from penstock.run.journal import entries, idempotency_key
from penstock.spec.jobs import Branch, Flow, Job, Make, argv, branch, command, each, flow, job, step_named
from penstock.spec.tables import Sql, Table
from penstock.testing.clock import START, ManualClock
from penstock.testing.states import MemoryState

departures = Table("departures", query=Sql("SELECT 1 AS x"))


@job
def one(given: Any, *, by: int = 1) -> Any:
    return given + by


@job
def months(given: Any, *, n: int = 3) -> Any:
    return {"months": [{"month": m} for m in range(n)]}


@job(retries=1, backoff="10s", key="at {where}", at_once=3)
def load(given: Any, *, where: str = "here") -> Any:
    return {**given, "where": where}


@job
def total(given: Any) -> Any:
    return given


def parity(given: Any) -> str:
    return "even" if given % 2 == 0 else "odd"


def resolved(made: Flow, **values: Any) -> Flow:
    module = ModuleType("pipeline")
    vars(module).update({"whole": made, "departures": departures, **values})
    return found_in([module]).flows["whole"]


class Worker:
    """Runs the jobs of a queue one after the other, in this process, with the rules that workers keep."""

    def __init__(self, state: MemoryState, flow: Flow, clock: ManualClock, owner: str = "w") -> None:
        self.state, self.flow, self.clock, self.owner = state, flow, clock, owner
        self.ran: list[str] = []
        self.most: Counter[str] = Counter()
        self.breaks: Callable[[str], bool] = lambda step: False

    def claim(self) -> Lease | None:
        return self.state.queue.claim(self.owner, Offers(10**12, 64), now=self.clock.now(), lease_s=15)

    def work(self, lease: Lease) -> None:
        now, queued = self.clock.now(), lease.job
        try:
            if queued.kind == "flow":
                result: Any = {"left": len(flows.advance(self.state, self.flow, queued, owner=self.owner, now=now).works)}
            else:
                self.ran.append(queued.payload["step"])
                if self.breaks(queued.payload["step"]):
                    raise UserCodeError("broken", place=queued.payload["step"])
                result = self.call(queued.kind, queued.payload)
        except PenstockError as error:
            at = retry_at(queued, now, error.as_record())
            self.state.queue.fail(lease, error.as_record(), now=now, retry_at=at)
            return
        self.state.queue.complete(lease, now=now, result=result)

    def call(self, kind: str, payload: Any) -> Any:
        step = step_named(self.flow, payload["step"])
        if isinstance(step, Make):
            return {"asset": step.asset, "version": "1"}
        if isinstance(step, Branch):
            return step.by(payload["input"])
        assert isinstance(step, Job)
        if step.command:
            return list(argv(step, payload["params"]))
        return step(*([payload["input"]] if step.takes_input else []), **payload["params"])

    def run(self) -> None:
        for _ in range(10_000):
            lease = self.claim()
            if lease is not None:
                self.work(lease)
            elif any(self.state.queue.jobs(status=["waiting"])):
                self.clock.advance(30)
                if not self.state.queue.advance(now=self.clock.now()) and not self.state.queue.jobs(status=["ready", "waiting"]):
                    return
            else:
                return
        raise AssertionError("it does not end")


def started(made: Flow, given: Any = None, **params: Any) -> tuple[MemoryState, Worker]:
    state, clock = MemoryState(), ManualClock()
    state.queue.enqueue([flows.flow_job("whole", "r", given, params)], now=clock.now())
    return state, Worker(state, made, clock)


def output(state: MemoryState, run: str = "r") -> Any:
    return state.heads("flow")[run].body["output"]


def test_each_step_gets_what_the_one_before_gave() -> None:
    state, worker = started(resolved(flow(one, one.named("two"), one.named("three"))), 5, by=10)
    worker.run()
    assert output(state) == 35
    assert worker.ran == ["one", "two", "three"]
    assert [(e.step, e.output) for e in entries(state, "r")] == [("one", 15), ("three", 35), ("two", 25)]


def test_map_runs_over_a_list_and_keeps_its_order() -> None:
    made = resolved(flow(months, each(load, over="months", at_once=2), total))
    state, worker = started(made, None, n=5)
    leases = []
    worker.work(worker.claim() or pytest.fail("nothing to do"))
    worker.work(worker.claim() or pytest.fail("nothing to do"))
    worker.work(worker.claim() or pytest.fail("nothing to do"))
    while (lease := worker.claim()) is not None:
        leases.append(lease)
    assert [x.job.payload["step"] for x in leases] == ["each_load[0]/load", "each_load[1]/load"]  # two at once
    for lease in leases[::-1]:
        worker.work(lease)
    worker.run()
    assert output(state) == [{"month": m, "where": "here"} for m in range(5)]
    assert len(worker.ran) == 7


def test_a_map_over_nothing_is_an_empty_list() -> None:
    state, worker = started(resolved(flow(months, each(load, over="months"), total)), None, n=0)
    worker.run()
    assert output(state) == []


def test_a_branch_is_chosen_once_and_written_down() -> None:
    made = resolved(flow(branch(by=parity, cases={"even": one.named("e"), "odd": flow(one.named("o"), one.named("p"))}), total))
    for given_, found in ((4, 5), (5, 7)):
        state, worker = started(made, given_)
        worker.run()
        assert output(state) == found
    assert worker.ran == ["parity", "o", "p", "total"]


def test_a_case_that_is_not_there_fails_the_flow() -> None:
    state, worker = started(resolved(flow(branch(by=parity, cases={"even": one}))), 5)
    worker.run()
    assert "flow" not in {r.kind for r in state.history("flow")}
    (failed,) = state.queue.jobs(status=["failed"])
    assert (failed.name, failed.attempt) == ("flow:whole", 1)
    assert failed.error is not None and "odd" in failed.error["got"]


def test_otherwise_takes_every_other_case() -> None:
    state, worker = started(resolved(flow(branch(by=parity, cases={"even": one}, otherwise=one.named("other")))), 5)
    worker.run()
    assert output(state) == 6


def test_arms_go_on_by_themselves() -> None:
    arms = (flow(one, one.named("b"), one.named("c")), flow(one.named("x"), one.named("y")))
    state, worker = started(resolved(flow(arms, total)), 0)
    worker.work(worker.claim() or pytest.fail("nothing to do"))
    held = [worker.claim(), worker.claim()]
    slow = next(x for x in held if x and x.job.payload["step"] == "x")
    worker.work(next(x for x in held if x and x.job.payload["step"] == "one"))
    while (lease := worker.claim()) is not None:
        worker.work(lease)
    assert worker.ran == ["one", "b", "c"]  # x is still at work
    worker.work(slow)
    worker.run()
    assert output(state) == [3, 2]


def test_an_asset_and_a_command_are_steps() -> None:
    made = resolved(flow(departures, command("echo {x}", params={"x": 1}, name="say")))
    state, worker = started(made, None, x="a b")
    worker.run()
    assert output(state) == ["echo", "a b"]
    (asset,) = state.queue.jobs(kind="asset")
    assert (asset.payload["asset"], asset.key, asset.at_once) == ("departures", "asset:departures", 1)
    assert (asset.payload["retries"], asset.payload["transient_only"], asset.payload["step"]) == (2, True, "departures")


def test_a_step_has_the_limits_of_its_job() -> None:
    state, worker = started(resolved(flow(load.named("get"))), {}, where="there")
    worker.work(worker.claim() or pytest.fail("nothing to do"))
    (queued,) = state.queue.jobs(kind="job")
    assert (queued.key, queued.at_once, queued.attempts, queued.needs.cores) == ("at there", 3, 2 + VANISHING, 1)
    assert queued.payload["idempotency_key"] == idempotency_key("r", "get", input_digest({}, {"where": "there"}))


# -- failure --------------------------------------------------------------------------------------------------------
def test_a_step_is_retried_and_then_the_flow_has_failed() -> None:
    state, worker = started(resolved(flow(months, each(load, over="months"), total)))
    worker.breaks = lambda step: step == "each_load[1]/load"
    worker.run()
    assert worker.ran.count("each_load[1]/load") == 2
    assert "total" not in worker.ran
    (lost,) = [j for j in state.queue.jobs(status=["cancelled"]) if j.kind == "flow"]
    assert lost.error is not None and "each_load[1]/load" in lost.error["message"]


def test_resuming_repeats_no_finished_step() -> None:
    state, worker = started(resolved(flow(months, each(load, over="months"), total)))
    worker.breaks = lambda step: step == "each_load[1]/load"
    worker.run()
    keys = {j.payload["idempotency_key"] for j in state.queue.jobs(kind="job")}
    worker.ran.clear()
    worker.breaks = lambda step: False
    assert [j.status for j in flows.resume(state, "r", now=worker.clock.now())] != []
    worker.run()
    assert worker.ran == ["each_load[1]/load", "total"]
    assert output(state) == [{"month": m, "where": "here"} for m in range(3)]
    assert keys < {j.payload["idempotency_key"] for j in state.queue.jobs(kind="job")}
    assert flows.resume(state, "r", now=worker.clock.now()) == []


def test_cancelling_ends_all_that_waits() -> None:
    state, worker = started(resolved(flow(months, each(load, over="months"), total)))
    worker.work(worker.claim() or pytest.fail("nothing to do"))
    flows.cancel(state, "r", now=worker.clock.now(), reason="not needed")
    worker.run()
    assert worker.ran == []
    assert state.queue.counts()["cancelled"] == 2


def test_a_fork_takes_over_what_stands_before_its_step() -> None:
    made = resolved(flow(months, each(load, over="months"), total, one.named("last")))
    state, worker = started(made, None, n=2)
    worker.breaks = lambda step: step == "last"
    worker.run()
    worker.ran.clear()
    now = worker.clock.now()
    for _ in range(2):
        forked = flows.fork(state, made, "r", "s", step="total", owner="me", now=now, params={"n": 9})
    assert forked.run == "s"
    worker.breaks = lambda step: False
    replaced = replace(made, steps=(*made.steps[:3], total.named("last")))
    worker.flow = replaced
    worker.run()
    assert worker.ran == ["total", "last"]
    assert output(state, "s") == [{"month": 0, "where": "here"}, {"month": 1, "where": "here"}]
    assert {e.digest for e in entries(state, "s") if e.step == "months"} == {"*"}


def test_a_fork_from_nowhere_is_refused() -> None:
    made = resolved(flow(one))
    state, _ = started(made, 1)
    for run, step, error in (("r", "ona", UnknownName), ("x", "one", UnknownName)):
        with pytest.raises(error):
            flows.fork(state, made, run, "s", step=step, owner="me", now=START)
    with pytest.raises(DefinitionError):
        flows.fork(state, replace(made, name="other"), "r", "s", step="one", owner="me", now=START)


# -- crashes and takeovers ------------------------------------------------------------------------------------------
def test_going_on_twice_changes_nothing() -> None:
    made = resolved(flow(months, each(load, over="months"), total))
    state, worker = started(made)
    for _ in range(4):
        lease = worker.claim() or pytest.fail("nothing to do")
        if lease.job.kind == "flow":
            flows.advance(state, made, lease.job, owner="a", now=START)
            count = len(state.queue.jobs()), len(state.history("journal"))
            flows.advance(state, made, lease.job, owner="b", now=START)
            assert (len(state.queue.jobs()), len(state.history("journal"))) == count
        worker.work(lease)
    worker.run()
    assert len(worker.ran) == len(set(worker.ran)) == 5
    assert len(state.history("flow")) == 1


def test_two_processes_do_not_go_on_at_once() -> None:
    made = resolved(flow(one))
    state, worker = started(made, 1)
    lease = worker.claim() or pytest.fail("nothing to do")
    claim = state.claim("flow:r", "another", now=START, lease_s=flows.LEASE_S)
    with pytest.raises(Busy):
        flows.advance(state, made, lease.job, owner="me", now=START)
    flows.advance(state, made, lease.job, owner="me", now=START + timedelta(seconds=flows.LEASE_S))
    with pytest.raises(Fenced):
        state.append("journal", "r/one@x", {}, at=START, claim=claim)


# -- laws -----------------------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(st.recursive(st.just("one"), lambda s: st.one_of(
    st.lists(s, min_size=1, max_size=3).map(lambda steps: ("then", steps)), st.lists(s, min_size=1, max_size=3).map(lambda steps: ("side", steps)),
    s.map(lambda step: ("each", step))), max_leaves=7))  # fmt: skip
def test_any_order_of_finishing_gives_the_same(shape: Any) -> None:
    """Whatever steps finish first, each is asked for once, and the output is that of calling the steps one in another."""
    count = iter(range(1000))

    def made(part: Any) -> Any:
        if part == "one":
            return one.named(f"s{next(count)}")
        kind, inner = part
        if kind == "each":
            return each(flow(made("one"), made(inner)), name=f"m{next(count)}")
        steps = tuple(made(p) for p in inner)
        return flow(*steps) if kind == "then" else steps

    def called(part: Any, value: Any) -> Any:
        if part == "one":
            return [value]
        kind, inner = part
        if kind == "each":
            return [called(inner, [item]) for item in value]
        if kind == "side":
            return [called(p, value) for p in inner]
        for p in inner:
            value = called(p, value)
        return value

    whole = resolved(flow(made(shape)))
    expected = called(shape, [1, 2])
    for reverse in (False, True):
        finished: dict[tuple[str, str], Any] = {}
        while not (found := following(whole, [1, 2], {}, Journal(finished))).done:
            work = found.works[-1 if reverse else 0]
            assert (work.step, work.digest) not in finished
            finished[work.step, work.digest] = [work.given]
        assert found.output == expected


@pytest.mark.parametrize(("path", "found"), [("", [1]), ("a", [2]), ("b.0.c", [3]), ("b.1", [4])])
def test_a_path_leads_to_a_list(path: str, found: list[int]) -> None:
    given_ = {"a": [2], "b": [{"c": [3]}, [4]], "n": None, "": 3}
    assert list_at([1] if path == "" else given_, path, "x") == found


@pytest.mark.parametrize("path", ["", "c", "b.2", "b.x", "a.0", "n", "n.0", "b.-1", "a.\u0660"])
def test_a_path_that_leads_nowhere_is_refused(path: str) -> None:
    with pytest.raises(UserCodeError):
        list_at({"a": [2], "b": [[3], [4]], "n": None}, path, "x")


def test_waits_grow_and_end() -> None:
    state = MemoryState()
    queued = state.queue.enqueue([flows.flow_job("f", "r", None, {})], now=START)[0]
    queued = replace(queued, payload={"retries": 12, "backoff_s": 10.0})
    waits = []
    for attempt in range(1, 14):
        at = retry_at(replace(queued, attempt=attempt + 1, vanished=1), START, {})
        waits.append(None if at is None else (at - START).total_seconds())
    assert waits[12] is None
    assert [w is not None and 10 * 2**i <= w <= 12.5 * 2**i for i, w in enumerate(waits[:8])] == [True] * 8
    assert all(w is not None and w <= LONGEST_S * 1.25 for w in waits[:12])
    assert attempts(0) == 1 + VANISHING
    assert retry_at(replace(queued, payload={}, attempt=3, vanished=2), START, {}) is None
    picky = replace(queued, payload={**queued.payload, "transient_only": True}, attempt=1)
    assert retry_at(picky, START, UserCodeError("x").as_record()) is None
    assert retry_at(picky, START, Busy("x").as_record()) is not None
