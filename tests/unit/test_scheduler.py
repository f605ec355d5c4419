"""The scheduler on a state: what it queues, that it queues it once, takeovers, crashes between two writes, files and events."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from penstock.adapters.files.local import list_files
from penstock.adapters.state.sqlite import SqliteState
from penstock.craft.schedule.arrivals import news, token, whole
from penstock.craft.schedule.freshness import versions
from penstock.graph.graph import build
from penstock.ground.errors import DefinitionError, StorageError, TokenRefused, UnknownName, UserCodeError
from penstock.ports.engine import RawFile
from penstock.ports.queue import Offers
from penstock.ports.state import State
from penstock.run import flow as flows
from penstock.run.events import names_waited_for, raise_event
from penstock.run.scheduler import AT_MOST, CLAIM, LEASE_S, Schedule, Scheduler, next_tick, paths, schedule_of
from penstock.spec.automation import Arrived, Automation, Condition, Failed, Fresh, OnEvent, Updated, arrived, cron, every
from penstock.spec.jobs import Flow, Job, job
from penstock.spec.sources import Files, files
from penstock.spec.tables import Sql, Table
from penstock.testing.clock import START, ManualClock
from penstock.testing.states import FaultyState, MemoryState


@job(retries=2, memory="1GB", priority=3)
def tell(given: Any, *, to: str = "me", n: int = 1) -> Any:
    return given


TELL: Job = tell
FLOW = Flow("whole", (TELL,), (("to", "you"),))


class Folder:
    """The files of a source, as a test wants them."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[int, int]] = {}
        self.asked = 0
        self.error: Exception | None = None

    def __call__(self, source: Files) -> tuple[RawFile, ...]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        ending = source.pattern.rpartition("*")[2]
        return tuple(RawFile(f"/x/{n}", n, *v) for n, v in sorted(self.files.items()) if n.endswith(ending))


class Bench:
    """A schedule, a state, a clock, and any number of schedulers on them."""

    def __init__(self, state: State, **automations: Any) -> None:
        made = {name: a if isinstance(a, Automation) else Automation("tell", a, name) for name, a in automations.items()}
        self.state, self.clock, self.folder = state, ManualClock(), Folder()
        self.schedule = Schedule(
            {name: replace(a, name=name) for name, a in made.items()}, {"tell": TELL}, {"whole": FLOW},
            {"raw": (), "a": ("raw",), "b": ("a",)}, {"raw": files("raw/*.csv")},
        )  # fmt: skip
        self.one = self.scheduler("one")

    def scheduler(self, owner: str, state: State | None = None) -> Scheduler:
        return Scheduler(self.schedule, state or self.state, owner=owner, list_files=self.folder)

    def tick(self, minutes: float = 0, scheduler: Scheduler | None = None) -> list[str]:
        """Names of the jobs that are queued, so much later."""
        ticked = (scheduler or self.one).tick(self.clock.advance(minutes * 60))
        assert ticked.active
        assert ticked.notes == ()
        return [j.name for j in ticked.queued]

    def made(self, asset: str, version: str, **inputs: str) -> None:
        self.state.append("asset", asset, {"version": version, "inputs": inputs}, at=self.clock.now())

    @property
    def jobs(self) -> list[Any]:
        return list(self.state.queue.jobs(limit=1000))[::-1]


@pytest.fixture(params=["memory", "sqlite"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> State:
    return MemoryState() if request.param == "memory" else SqliteState(tmp_path / "state.db", ManualClock())


FIVE = cron("0 5 * * *")


def test_a_job_is_queued_at_its_tick_with_why_and_what(state: State) -> None:
    bench = Bench(state, nightly=Automation("tell", FIVE, params=(("to", "us"),)))
    assert bench.tick() == bench.tick(299) == []
    assert bench.tick(1) == ["job:tell"]
    assert bench.tick() == bench.tick(60) == []
    (queued,) = bench.jobs
    assert queued.payload["params"] == {"to": "us", "n": 1}
    assert queued.payload["input"] == {"tick": "2026-01-01T05:00:00.000000Z"}
    assert queued.payload["because"] == "cron(0 5 * * *) ticked at 2026-01-01 05:00Z"
    assert (queued.priority, queued.needs.memory_bytes, queued.payload["retries"], queued.run) == (3, 10**9, 2, queued.id)
    firing = state.heads("automation")["nightly"].body["firing"]
    assert firing["run"] == queued.run
    assert firing["why"]["condition"] == "cron(0 5 * * *)"


def test_a_tick_without_news_writes_nothing(state: State) -> None:
    bench = Bench(state, a=FIVE, b=Fresh("b"), c=Arrived("raw"), d=OnEvent("go"), e=Failed("tell"), f=Updated("a"), g=~Fresh("a"))
    bench.folder.files = {"x.csv": (1, 1)}
    for _ in range(4):
        bench.tick(0.1)
    before = state.append("probe", "x", {}, at=START).seq
    for _ in range(20):
        bench.tick(0.02)
    assert state.append("probe", "x", {}, at=START).seq == before + 1


def test_assets_and_flows_are_queued_too(state: State) -> None:
    bench = Bench(state, x=Automation("a", every("1h")), y=Automation("whole", every("1h"), params=(("n", 4),)))
    bench.tick()
    assert bench.tick(60) == ["asset:a", "flow:whole"]
    asset, flow = bench.jobs
    assert (asset.kind, asset.payload["asset"], asset.key, asset.at_once) == ("asset", "a", "asset:a", 1)
    assert flow.payload["params"] == {"n": 4}
    lease = state.queue.claim("w", Offers(10**12, 8, kinds=("flow",)), now=bench.clock.now(), lease_s=9)
    assert lease is not None
    found = flows.advance(state, FLOW, lease.job, owner="w", now=bench.clock.now())
    assert [w.params for w in found.works] == [{"to": "you", "n": 4}]


def test_every_missed_tick_fires_if_it_shall(state: State) -> None:
    bench = Bench(state, all=cron("0 * * * *", catch_up="all"), last=cron("0 * * * *"), none=cron("0 * * * *", catch_up="none"))
    bench.tick()
    assert len(bench.tick(60 * 24 + 2)) == 24 + 1
    ticks = [j.payload["input"]["tick"] for j in bench.jobs if j.payload["automation"] == "all"]
    assert ticks == sorted(set(ticks))
    assert len({j.id for j in bench.jobs}) == 25


def test_a_great_many_missed_ticks_come_in_several_turns(state: State) -> None:
    bench = Bench(state, all=every("1m") | cron("* * * * *", catch_up="all"))
    bench.tick()
    assert [len(bench.tick(m)) for m in (AT_MOST + 30, 0, 0)] == [AT_MOST, 30, 0]


# -- one scheduler --------------------------------------------------------------------------------------------------
def test_only_one_is_active_and_the_next_takes_over(state: State) -> None:
    bench = Bench(state, nightly=FIVE)
    two = bench.scheduler("two")
    bench.tick()
    ticked = two.tick(bench.clock.now())
    assert (ticked.active, ticked.holder) == (False, "one")
    now = bench.clock.advance(300 * 60)  # the first is dead for long: the tick came and went
    assert [j.name for j in two.tick(now).queued] == ["job:tell"]
    ticked = bench.one.tick(now)
    assert (ticked.active, ticked.queued) == (False, ())
    assert len(bench.jobs) == 1


def test_one_that_resigns_makes_room_at_once(state: State) -> None:
    bench = Bench(state, nightly=FIVE)
    bench.tick()
    bench.one.resign()
    bench.one.resign()
    assert bench.tick(300, bench.scheduler("two")) == ["job:tell"]


def test_the_claim_is_renewed_before_it_ends(state: State) -> None:
    bench = Bench(state, nightly=FIVE)
    two = bench.scheduler("two")
    for _ in range(100):
        bench.clock.advance(LEASE_S / 4)
        assert bench.one.tick(bench.clock.now()).active
        assert not two.tick(bench.clock.now()).active


def test_a_clock_that_jumps_back_keeps_the_claim_short(state: State) -> None:
    bench = Bench(state, nightly=FIVE)
    bench.tick(600)
    bench.tick(-600)
    bench.clock.advance(LEASE_S + 1)
    assert bench.tick(0, bench.scheduler("two")) == []


class Woken:
    """A state whose owner was stopped in the middle of a write: something else happens before it goes on."""

    def __init__(self, inner: State, before: Callable[[], None]) -> None:
        self.inner, self.before, self.queue, self.capabilities = inner, before, inner.queue, inner.capabilities

    def append_all(self, *args: Any, **named: Any) -> Any:
        before, self.before = self.before, lambda: None
        before()
        return self.inner.append_all(*args, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def test_one_that_wakes_after_takeover_cannot_fire(state: State) -> None:
    bench = Bench(state, nightly=FIVE)
    two = bench.scheduler("two")

    def taken_over() -> None:
        assert len(two.tick(bench.clock.advance(LEASE_S + 1)).queued) == 1

    bench.tick(1)
    bench.one.resign()
    sleeper = bench.scheduler("sleeper", Woken(state, taken_over))  # type: ignore[arg-type]
    ticked = sleeper.tick(bench.clock.advance(300 * 60))
    assert (ticked.active, ticked.queued) == (False, ())
    assert len(bench.jobs) == len([r for r in state.history("automation") if r.body["firing"]]) == 1


def test_a_firing_that_was_not_queued_is_queued_by_the_next(state: State) -> None:
    bench = Bench(state, nightly=FIVE)

    class Dies:
        def __getattr__(self, name: str) -> Any:
            if name == "enqueue":
                raise KeyboardInterrupt
            return getattr(state.queue, name)

    bench.tick()
    bench.one.resign()
    dying = Woken(state, lambda: None)
    dying.queue = Dies()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        bench.scheduler("dying", dying).tick(bench.clock.advance(301 * 60))  # type: ignore[arg-type]
    assert bench.jobs == []
    bench.clock.advance(LEASE_S)
    assert bench.tick(0, bench.scheduler("next")) == ["job:tell"]
    assert bench.tick(LEASE_S, bench.scheduler("third")) == []
    assert len(bench.jobs) == 1


@pytest.mark.parametrize("seed", range(20))
def test_a_state_that_fails_now_and_then_loses_and_doubles_nothing(seed: int) -> None:
    inner = MemoryState()
    bench = Bench(FaultyState(inner, seed=seed, share=0.2), hourly=cron("0 * * * *", catch_up="all"))
    for minutes in [6] * 400 + [0] * 20:
        with suppress(StorageError):
            bench.one.tick(bench.clock.advance(minutes * 60))
    ticks = [j.payload["input"]["tick"] for j in bench.jobs]
    assert len(ticks) == len(set(ticks)) >= 39
    assert ticks == sorted(ticks)


def test_a_target_that_is_gone_is_told_and_the_rest_goes_on(state: State) -> None:
    bench = Bench(state, gone=Automation("nothing", FIVE), there=FIVE)
    bench.tick()
    ticked = bench.one.tick(bench.clock.advance(300 * 60))
    assert [j.name for j in ticked.queued] == ["job:tell"]
    assert "E1003" in ticked.notes[0]
    assert bench.one.tick(bench.clock.now()).notes == ()


@dataclass(frozen=True)
class Odd(Condition):
    kind = "test_odd"


def test_a_condition_that_nothing_tells_of_is_told_and_the_rest_goes_on(state: State) -> None:
    bench = Bench(state, odd=Odd(), there=FIVE)
    bench.one.tick(bench.clock.now())
    ticked = bench.one.tick(bench.clock.advance(300 * 60))
    assert [j.name for j in ticked.queued] == ["job:tell"]
    assert "test_odd" in ticked.notes[0]


# -- assets ---------------------------------------------------------------------------------------------------------
def test_an_asset_is_fresh_if_all_it_stands_on_is(state: State) -> None:
    bench = Bench(state, x=Fresh("b"))
    bench.folder.files = {"x.csv": (1, 1)}
    bench.made("raw", "1")
    state.append("listing", "raw/x.csv", {"size": 1, "changed_ns": 1, "digest": ""}, at=START)
    bench.made("a", "1", raw="1")
    bench.made("b", "1", a="1")
    assert bench.tick() == []
    assert (
        str(bench.one.tick(bench.clock.now()).looks["x"].why)
        == "b is not fresh: a is not fresh: raw is not fresh: its files were not looked at yet"
    )
    assert bench.tick(1) == ["job:tell"]
    bench.made("a", "2", raw="1")
    assert bench.tick(1) == []
    bench.made("b", "2", a="2")
    assert bench.tick(1) == ["job:tell"]
    bench.folder.files["y.csv"] = (1, 1)
    assert bench.tick(1) == bench.tick(1) == []
    why = str(bench.one.tick(bench.clock.now()).looks["x"].why)
    assert "1 file waits to be loaded" in why
    assert "1 file waits to be loaded" in str(bench.scheduler("asker").explain(bench.clock.now())["x"].why)


def test_versions_tell_why_they_are_not_fresh() -> None:
    inputs = {"raw": (), "a": ("raw",), "b": ("a",)}
    made = {"raw": ({"version": "1"}, START), "b": ({"version": "1", "inputs": {"a": "1"}}, START)}
    assert versions(inputs, made, {})["b"].stale == "a was never made"
    assert "a" not in versions(inputs, made, {})
    both = {**made, "a": ({"version": "2", "inputs": {"raw": "1"}}, START)}
    assert versions(inputs, both, {})["a"].stale == ""
    assert versions(inputs, both, {})["b"].stale == "a has a newer version"
    tokens = {versions(inputs, both, {"raw": text})["b"].token for text in ("", "1 file", "2 files")}
    assert len(tokens) == 3


def test_a_failure_fires_whatever_waits_for_it(state: State) -> None:
    bench = Bench(state, alarm=Failed("a"), flows=Failed("whole"), other=Failed("b"), go=Automation("a", every("1h")))
    bench.tick()
    assert bench.tick(60) == ["asset:a"]
    lease = state.queue.claim("w", Offers(), now=bench.clock.now(), lease_s=9)
    assert lease is not None
    state.queue.fail(lease, {"message": "too few rows"}, now=bench.clock.now())
    assert bench.tick(1) == ["job:tell"]
    assert bench.jobs[-1].payload["input"]["error"]["message"] == "too few rows"
    assert bench.tick(1) == []
    state.queue.retry([lease.job.id], now=bench.clock.now())
    again = state.queue.claim("w", Offers(kinds=("asset",)), now=bench.clock.now(), lease_s=9)
    assert again is not None
    state.queue.fail(again, {"message": "again"}, now=bench.clock.now())
    assert bench.tick(1) == ["job:tell"]


def test_what_somebody_cancelled_has_not_failed(state: State) -> None:
    bench = Bench(state, alarm=Failed("a"), go=Automation("a", every("1h")))
    bench.tick()
    bench.tick(60)
    state.queue.cancel([bench.jobs[-1].id], now=bench.clock.now())
    assert bench.tick(1) == []


# -- files ----------------------------------------------------------------------------------------------------------
def test_files_arrive_when_they_stay_as_they_are(state: State) -> None:
    bench = Bench(state, x=Arrived("raw"))
    bench.folder.files = {"a.csv": (5, 5)}
    assert bench.tick() == []
    assert bench.tick(1) == ["job:tell"]
    assert bench.jobs[0].payload["input"] == {"source": "raw", "count": 1, "files": ["a.csv"]}
    assert bench.tick(1) == []
    bench.folder.files["b.csv"] = (1, 1)
    assert bench.tick(1) == []
    bench.folder.files["b.csv"] = (2, 2)
    assert bench.tick(1) == []
    assert bench.tick(1) == ["job:tell"]
    assert bench.jobs[1].payload["input"]["files"] == ["b.csv"]
    bench.folder.files["a.csv"] = (6, 6)
    assert [bench.tick(1), bench.tick(1), bench.tick(1)] == [[], ["job:tell"], []]
    del bench.folder.files["a.csv"]
    assert bench.tick(1) == bench.tick(1) == []


def test_files_that_were_loaded_have_not_arrived(state: State) -> None:
    bench = Bench(state, x=Arrived("raw"))
    bench.folder.files = {"a.csv": (5, 5), "b.csv": (6, 6)}
    state.append("listing", "raw/a.csv", {"size": 5, "changed_ns": 5}, at=START)
    bench.tick()
    assert bench.tick(1) == ["job:tell"]
    assert bench.jobs[0].payload["input"]["files"] == ["b.csv"]


def test_the_next_scheduler_does_not_tell_of_them_again(state: State) -> None:
    bench = Bench(state, x=Arrived("raw"))
    bench.folder.files = {"a.csv": (5, 5)}
    bench.tick()
    assert bench.tick(1) == ["job:tell"]
    two = bench.scheduler("two")
    bench.one.resign()
    assert [bench.tick(1, two) for _ in range(3)] == [[], [], []]
    bench.folder.files["b.csv"] = (5, 5)
    two.resign()
    three = bench.scheduler("three")
    assert [bench.tick(1, three) for _ in range(3)] == [[], ["job:tell"], []]


def test_with_a_marker_a_file_counts_once_that_is_there(state: State) -> None:
    bench = Bench(state, x=Arrived("raw", ".done"))
    bench.folder.files = {"a.csv": (5, 5), "b.csv": (1, 1)}
    assert [bench.tick(1), bench.tick(1)] == [[], []]
    bench.folder.files["a.csv.done"] = (0, 0)
    assert bench.tick(1) == ["job:tell"]
    assert bench.jobs[0].payload["input"]["files"] == ["a.csv"]
    assert bench.tick(1) == []


def test_real_files_with_a_marker(tmp_path: Path, state: State) -> None:
    def listed(source: Files) -> tuple[RawFile, ...]:
        return list_files(tmp_path, source.pattern, format=source.format, hive=None)

    (tmp_path / "raw").mkdir()
    bench = Bench(state, x=Arrived("raw", ".done"), y=Arrived("raw"))
    scheduler = Scheduler(bench.schedule, state, owner="real", list_files=listed)
    assert "no file matches" in scheduler.tick(bench.clock.now()).notes[0]
    (tmp_path / "raw/a.csv").write_text("x\n1\n")
    (tmp_path / "raw/b.csv.tmp").write_text("x\n1\n")
    scheduler.tick(bench.clock.advance(60))
    scheduler.tick(bench.clock.advance(60))
    assert [j.payload["automation"] for j in bench.jobs] == ["y"]
    (tmp_path / "raw/a.csv.done").touch()
    scheduler.tick(bench.clock.advance(60))
    assert [j.payload["input"]["files"] for j in bench.jobs] == [["raw/a.csv"]] * 2


def test_a_source_is_listed_once_for_all_who_wait(state: State) -> None:
    bench = Bench(state, **{f"x{i}": Arrived("raw") for i in range(10)}, y=Fresh("b"))
    bench.tick()
    bench.tick(0.01)
    assert bench.folder.asked == 1
    bench.tick(1)
    assert bench.folder.asked == 2


def test_a_source_that_cannot_be_looked_at_is_told(state: State) -> None:
    bench = Bench(state, x=Arrived("raw"), there=FIVE)
    bench.tick()
    bench.folder.error = PermissionError(13, "no")
    ticked = bench.one.tick(bench.clock.advance(300 * 60))
    assert "raw could not be looked at" in ticked.notes[0]
    assert len(ticked.queued) == 1


def test_what_is_whole_and_new() -> None:
    known = {"a": (1, 1), "b": (2, 2)}
    now = {"a": (1, 1), "b": (3, 3), "c": (4, 4), "d": (5, 5)}
    found = whole({"a": (1, 1), "b": (2, 2), "c": (4, 4)}, now, known)
    assert found == {"a": (1, 1), "b": (2, 2), "c": (4, 4)}
    assert news(known, found) == ["c"]
    assert whole({}, now, known, {"d"}) == {"a": (1, 1), "b": (2, 2), "d": (5, 5)}
    assert token(found) == token(dict(reversed(found.items()))) != token(known)


@pytest.mark.parametrize("marker", ["done", "*", "/x", ".", "../x", ".a b"])
def test_a_marker_is_an_ending(marker: str) -> None:
    if marker == ".":
        assert arrived("raw", marker=marker).marker == "."
        return
    with pytest.raises(DefinitionError):
        arrived("raw", marker=marker)


# -- events ---------------------------------------------------------------------------------------------------------
SECRET = "s3cret"


def raised(bench: Bench, data: Any = None, name: str = "go", given: str = SECRET, **more: Any) -> Any:
    known = names_waited_for(bench.schedule.automations.values())
    return raise_event(bench.state, name, data, known=known, now=bench.clock.now(), given=given, expected=SECRET, **more)


def test_each_event_fires_once_with_its_data(state: State) -> None:
    bench = Bench(state, x=OnEvent("go"), y=OnEvent("go") & Fresh("b"))
    bench.tick()
    for n in range(120):
        raised(bench, {"n": n})
    got = [bench.tick(1) for _ in range(3)]
    assert [len(g) for g in got] == [AT_MOST, 20, 0]
    assert [j.payload["input"]["n"] for j in bench.jobs] == list(range(120))


def test_events_before_the_first_look_do_not_count(state: State) -> None:
    bench = Bench(state, x=OnEvent("go"))
    raised(bench)
    assert bench.tick() == []
    raised(bench)
    assert bench.tick() == ["job:tell"]


def test_a_delivery_that_comes_again_is_the_same_event(state: State) -> None:
    bench = Bench(state, x=OnEvent("go"))
    bench.tick()
    assert raised(bench, 1, delivery="d1") == raised(bench, 1, delivery="d1")
    assert raised(bench, 1, delivery="d2").seq != raised(bench, 1).seq
    assert len(bench.tick(1)) == 3


@pytest.mark.parametrize("given", ["", "s3cre", "s3cret ", "S3cret", "\ud800", "s3cret\0"])
def test_a_wrong_token_is_refused_before_anything_else(state: State, given: str) -> None:
    bench = Bench(state, x=OnEvent("go"))
    with pytest.raises(TokenRefused) as caught:
        raised(bench, object(), "unknown", given)
    assert SECRET not in str(caught.value)
    with pytest.raises(TokenRefused):
        raise_event(state, "go", known={"go"}, now=START, given="", expected="")


def test_a_bad_event_is_refused(state: State) -> None:
    bench = Bench(state, x=OnEvent("go"))
    with pytest.raises(UnknownName, match="go"):
        raised(bench, None, "gone")
    for data in (object(), {1: 2}, float("nan"), "x" * 1_000_001):
        with pytest.raises(UserCodeError):
            raised(bench, data)
    assert state.history("event") == []


# -- parts ----------------------------------------------------------------------------------------------------------
def test_when_time_alone_may_fire() -> None:
    bench = Bench(MemoryState(), a=FIVE & Fresh("b"), b=every("7h"))
    assert next_tick(bench.schedule, START) == START + timedelta(hours=5)
    assert next_tick(Bench(MemoryState(), a=Fresh("b")).schedule, START) is None
    assert next_tick(Bench(MemoryState(), b=every("7m")).schedule, START) is not None


def test_paths_are_those_under_which_leaves_are_remembered(state: State) -> None:
    when = (FIVE & ~OnEvent("a")) | Updated("b").since(OnEvent("c"))
    assert paths(when) == [("0.0.0", FIVE), ("0.0.1.0", OnEvent("a")), ("0.1.0", Updated("b")), ("0.1.1", OnEvent("c"))]
    bench = Bench(state, x=when)
    bench.tick()
    assert {p for p, _ in paths(when)} <= set(state.heads("automation")["x"].body["remembered"]["marks"])


def test_a_schedule_is_made_of_a_graph() -> None:
    made = schedule_of(build({"raw": files("x.csv"), "a": Table("a", query=Sql("SELECT 1"), inputs=("raw",))}), {}, {}, {})
    assert made.inputs == {"raw": (), "a": ("raw",)}
    assert list(made.sources) == ["raw"]
    assert CLAIM == "scheduler"
