"""Conditions: how each kind holds and is used up, how they combine, what is told and remembered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.craft.schedule.conditions import Facts, Fired, Happened, Sight, Version, evaluate, look
from penstock.ground.errors import DefinitionError, NameRefused
from penstock.spec.automation import (
    AllOf,
    AnyOf,
    Arrived,
    Condition,
    Cron,
    Every,
    Failed,
    Fresh,
    Not,
    OnEvent,
    Since,
    Updated,
    as_json,
    cron,
    event,
    every,
    fresh,
    from_json,
    leaves,
)  # fmt: skip
from penstock.spec.checks import Check
from penstock.spec.tables import Sql, Table
from penstock.testing.clock import START


class Looked:
    """An automation looked at again and again, with facts that a test changes."""

    def __init__(self, when: Condition, **facts: Any) -> None:
        self.when = when
        self.facts = Facts(START, **facts)
        self.remembered: Mapping[str, Any] = {}
        self.last: Fired | None = None

    def __call__(self, minutes: float = 0, **facts: Any) -> bool:
        """Whether it fires, so much later and with these facts changed."""
        self.facts = replace(self.facts, now=self.facts.now + timedelta(minutes=minutes), **facts)
        self.last = evaluate(self.when, self.facts, self.remembered)
        self.remembered = json.loads(json.dumps(self.last.remembered))
        assert bool(self.last.cause) == self.last.yes
        return self.last.yes

    @property
    def why(self) -> str:
        assert self.last is not None
        return str(self.last.why)

    @property
    def data(self) -> Any:
        assert self.last is not None
        return self.last.data


def version(name: str, stale: str = "", at: datetime = START) -> Version:
    return Version(name, at, stale, name)


def happened(number: int, data: Any = None) -> Happened:
    return Happened(number, START, data=data)


FIVE = cron("0 5 * * *")


def test_a_tick_fires_once() -> None:
    look = Looked(FIVE)
    assert not look()
    assert look.why == "cron(0 5 * * *) has not ticked since 2026-01-01 00:00Z"
    assert not look(299)
    assert look(1)
    assert look.why == "cron(0 5 * * *) ticked at 2026-01-01 05:00Z"
    assert look.data == {"tick": "2026-01-01T05:00:00.000000Z"}
    assert not look()
    assert not look(60)
    assert look(23 * 60)


@pytest.mark.parametrize(("catch_up", "fired"), [("last", 1), ("all", 3), ("none", 0)])
def test_ticks_of_days_without_a_scheduler(catch_up: Any, fired: int) -> None:
    look = Looked(cron("0 5 * * *", catch_up=catch_up))
    assert not look()
    days = 3 * 24 * 60
    found = [(look.last.cause, look.data) for i in range(5) if look(days if i == 0 else 0) and look.last]
    assert len(found) == fired
    if catch_up == "last":
        assert found[0][1] == {"tick": "2026-01-03T05:00:00.000000Z"}
    if catch_up == "all":
        assert [data["tick"][:10] for _, data in found] == ["2026-01-01", "2026-01-02", "2026-01-03"]
    assert look(5 * 60)  # and goes on at five the next day


def test_a_line_that_does_not_catch_up_still_sees_a_tick_of_a_minute_ago() -> None:
    look = Looked(cron("0 5 * * *", catch_up="none"))
    look()
    assert look(301)
    assert not look()


def test_a_clock_that_jumps_neither_doubles_nor_loses_ticks() -> None:
    look = Looked(FIVE)
    look()
    assert look(300)
    assert not look(-240)
    assert not look(240)
    assert not look(60)
    assert look(23 * 60)


def test_every_comes_round_at_whole_multiples() -> None:
    look = Looked(every("10m"))
    assert not look(3)
    assert not look(6)
    assert look(1)
    assert not look(9)
    assert look(25)  # the newest only
    assert look.data == {"tick": "2026-01-01T00:40:00.000000Z"}
    assert not look(5)


def test_a_fresh_asset_fires_once_for_each_version() -> None:
    look = Looked(Fresh("a"))
    assert not look()
    assert look.why == "a was never made"
    assert look(versions={"a": version("1")})
    assert not look(1)
    assert "it has fired for that" in look.why
    assert not look(versions={"a": version("1", "b has a newer version")})
    assert look.why == "a is not fresh: b has a newer version"
    assert look(versions={"a": version("2")})


def test_a_stale_asset_fires_once_for_each_thing_that_makes_it_stale() -> None:
    look = Looked(~Fresh("a"), versions={"a": version("1")})
    assert not look()
    assert look(versions={"a": Version("1", START, "2 files wait", "1/files2")})
    assert not look(1)
    assert look(versions={"a": Version("1", START, "3 files wait", "1/files3")})
    assert not look(versions={"a": version("2")})


def test_an_update_is_a_change_of_version() -> None:
    look = Looked(Updated("a"), versions={"a": version("1")})
    assert not look()
    assert look(versions={"a": version("2")})
    assert look.data == {"asset": "a", "version": "2"}
    assert not look(1)


def test_the_first_version_is_an_update() -> None:
    look = Looked(Updated("a"))
    assert not look()
    assert look(versions={"a": version("1")})


def test_files_that_were_there_before_have_arrived() -> None:
    look = Looked(Arrived("s"), arrivals={"s": Happened(1, START, "2 new files", {"files": ["a", "b"]})})
    assert look()
    assert look.why == "files came to s at 2026-01-01 00:00Z (2 new files)"
    assert look.data == {"files": ["a", "b"]}
    assert not look(1)
    assert look(arrivals={"s": happened(2)})


def test_failures_of_the_past_do_not_count() -> None:
    look = Looked(Failed("a"), failures={"a": happened(7)})
    assert not look()
    assert look(failures={"a": happened(9)})
    assert not look(1)


def test_each_event_fires_by_itself_with_what_it_carries() -> None:
    look = Looked(event("go"), events={"go": [happened(1)]})
    assert not look()
    look.facts = replace(look.facts, events={"go": [happened(1), happened(2, {"x": 2}), happened(5, [5])]})
    assert look()
    assert look.data == {"x": 2}
    assert look()
    assert look.data == [5]
    assert not look()


# -- combinations ---------------------------------------------------------------------------------------------------
def test_a_tick_waits_for_fresh_data_and_fires_once() -> None:
    look = Looked(FIVE & Fresh("a"), versions={"a": version("1", "late")})
    look()
    assert not look(300)
    assert look.why == "a is not fresh: late"
    assert look(30, versions={"a": version("2")})
    assert look.why == "cron(0 5 * * *) ticked at 2026-01-01 05:00Z and a is fresh since 2026-01-01 00:00Z"
    assert not look(1, versions={"a": version("3")})
    assert look(24 * 60)  # fresh still, by a version that it has fired with: the tick is new


def test_a_happening_is_not_used_up_by_another_branch() -> None:
    look = Looked((FIVE & Fresh("a")) | event("go"))
    look()
    assert not look(300)
    assert look(0, events={"go": [happened(1)]})
    assert look.why == "event go was raised at 2026-01-01 00:00Z"
    assert look(1, versions={"a": version("1")})
    assert "05:00Z" in look.why


def test_two_happenings_wait_for_each_other() -> None:
    look = Looked(Updated("a") & Updated("b"), versions={"a": version("1"), "b": version("1")})
    look()
    assert not look(versions={"a": version("2"), "b": version("1")})
    assert not look(versions={"a": version("3"), "b": version("1")})
    assert look(versions={"a": version("3"), "b": version("2")})
    assert look.data == [{"asset": "a", "version": "3"}, {"asset": "b", "version": "2"}]
    assert not look()


def test_not_failed_lets_a_tick_through_or_not() -> None:
    look = Looked(FIVE & ~Failed("a"))
    look()
    assert not look(300, failures={"a": happened(1)})
    assert look.why == "something failed: a at 2026-01-01 00:00Z"


def test_since_is_a_switch() -> None:
    look = Looked(Updated("a").since(event("reset")), versions={"a": version("1")})
    assert not look()
    later = [Happened(1, START + timedelta(hours=3)), Happened(2, START + timedelta(hours=5))]
    assert look(versions={"a": version("2", at=START + timedelta(hours=2))})
    assert not look(1)
    assert not look(events={"reset": later[:1]})  # off
    assert "has not come to hold since" in look.why
    assert not look(1)
    assert look(versions={"a": version("3", at=START + timedelta(hours=4))})
    assert not look(events={"reset": later})


def test_since_the_later_of_two_wins() -> None:
    for hours, fires in ((1, False), (2, False), (3, True)):
        look = Looked(Updated("a").since(event("reset")))
        look()
        news = {"a": version("1", at=START + timedelta(hours=hours))}
        assert look(versions=news, events={"reset": [Happened(1, START + timedelta(hours=2))]}) is fires


def test_since_with_a_tick_holds_a_state_within_a_day() -> None:
    look = Looked(FIVE & Fresh("a").since(cron("0 0 * * *")))
    look()
    assert not look(300, versions={})
    assert look(10, versions={"a": version("1", at=START + timedelta(hours=5, minutes=10))})
    assert not look(24 * 60)  # not made again since midnight
    assert look(0, versions={"a": version("2", at=START + timedelta(days=1, hours=6))})


def test_another_condition_remembers_nothing_of_the_one_before() -> None:
    look = Looked(FIVE)
    look()
    look(300)
    look.when = cron("0 6 * * *")
    assert not look(200)
    assert look(24 * 60)


def test_the_tree_of_reasons_is_json() -> None:
    look = Looked((FIVE & ~Fresh("a")) | event("go"))
    look()
    assert look.last is not None
    made = json.loads(json.dumps(look.last.why.as_json()))
    assert made["condition"] == "(cron(0 5 * * *) & ~fresh(a)) | event(go)"
    assert made["holds"] is False
    assert [p["condition"] for p in made["parts"][0]["parts"]] == ["cron(0 5 * * *)", "~fresh(a)"]
    assert [p["holds"] for p in made["parts"][0]["parts"]] == [False, True]


# -- laws -----------------------------------------------------------------------------------------------------------
LEAVES = st.sampled_from([Updated("a"), Updated("b"), Fresh("a"), Fresh("b"), Failed("a"), Arrived("s"), OnEvent("go"), Every("10m"),
                          Cron("7,27 * * * *"), Cron("*/15 * * * *", "Europe/Vienna", "all"), Cron("5 * * * *", "UTC", "none")])  # fmt: skip
TREES = st.recursive(
    LEAVES, lambda t: st.one_of(st.builds(lambda a, b: a & b, t, t), st.builds(lambda a, b: a | b, t, t), st.builds(lambda a: ~a, t),
                                st.builds(lambda a, b: a.since(b), t, t)), max_leaves=6,
)  # fmt: skip
STEPS = st.lists(
    st.tuples(
        st.integers(0, 30), st.sampled_from(["", "a", "b", "a stale", "b stale", "fail", "file", "event"]),
    ), max_size=12,
)  # fmt: skip


def told(steps: list[tuple[int, str]]) -> list[Facts]:
    """Facts after each of some steps."""
    facts, made = Facts(START), []
    for number, (minutes, what) in enumerate(steps, 1):
        now = facts.now + timedelta(minutes=minutes)
        name, _, stale = what.partition(" ")
        if name in ("a", "b"):
            facts = replace(facts, versions={**facts.versions, name: version(str(number), stale, now)})
        if what == "fail":
            facts = replace(facts, failures={"a": Happened(number, now)})
        if what == "file":
            facts = replace(facts, arrivals={"s": Happened(number, now)})
        if what == "event":
            facts = replace(facts, events={"go": [*facts.events.get("go", ()), Happened(number, now, data=number)]})
        facts = replace(facts, now=now)
        made.append(facts)
    return made


@settings(max_examples=300, deadline=None)
@given(TREES, STEPS)
def test_no_cause_fires_twice_and_looking_again_changes_nothing(when: Condition, steps: list[tuple[int, str]]) -> None:
    remembered: Mapping[str, Any] = {}
    causes: list[tuple[str, ...]] = []
    for facts in told(steps):
        for _ in range(200):
            found = evaluate(when, facts, remembered)
            again = evaluate(from_json(json.loads(json.dumps(as_json(when)))), facts, json.loads(json.dumps(remembered)))
            assert found == again
            quiet = not found.yes and found.remembered == remembered
            remembered = found.remembered
            if quiet:
                break
            if found.yes:
                causes.append(found.cause)
        else:
            raise AssertionError("it fires without end")
    happenings = [tuple(t for t in cause if not t.startswith(("a@", "b@"))) for cause in causes]
    assert all(cause not in causes[:i] or not happenings[i] for i, cause in enumerate(causes))
    assert all(one != other for one, other in pairwise(causes))


@settings(max_examples=200, deadline=None)
@given(LEAVES, LEAVES, STEPS)
def test_either_fires_when_one_of_both_does(a: Condition, b: Condition, steps: list[tuple[int, str]]) -> None:
    looks = [Looked(when) for when in (a, b, a | b, b | a)]
    for facts in told(steps):
        for looked in looks:
            looked.facts = facts
        one, other, either, same = (looked() for looked in looks)
        if a != b:
            assert either == same == (one or other)


@given(TREES)
def test_a_condition_is_read_back_as_it_was(when: Condition) -> None:
    assert from_json(json.loads(json.dumps(as_json(when)))) == when
    assert list(leaves(~~when)) == list(leaves(when))
    assert ~~when == when
    hash(when)


# -- declarations ---------------------------------------------------------------------------------------------------
def test_operators_make_values() -> None:
    a, b, c = Fresh("a"), Fresh("b"), Fresh("c")
    assert a & b & c == AllOf((a, b, c))
    assert a | (b | c) == AnyOf((a, b, c))
    assert ~a == Not(a)
    assert a.since(b) == Since(a, b)
    assert str((a | b) & ~c) == "(fresh(a) | fresh(b)) & ~fresh(c)"
    assert str((a & b).since(c)) == "(fresh(a) & fresh(b)).since(fresh(c))"


def test_python_s_own_and_is_refused() -> None:
    with pytest.raises(DefinitionError, match="&"):
        _ = Fresh("a") and Fresh("b")
    with pytest.raises(DefinitionError, match="not a condition"):
        _ = Fresh("a") & "b"  # type: ignore[operator]


def test_fresh_is_a_check_or_a_condition() -> None:
    table = Table("a", query=Sql("SELECT 1"))
    assert fresh("time", "2d") == Check("fresh", ("time",), ("2d",), "block")
    assert fresh("time", within="2d") == fresh("time", "2d")
    assert fresh(table) == Fresh(table)
    with pytest.raises(DefinitionError, match="span"):
        fresh("time")  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "data",
    [
        None,
        3,
        [],
        {},
        {"is": "nothing"},
        {"is": []},
        {"is": "cron"},
        {"is": "fresh", "asset": "a", "more": 1},
        {"is": "not", "of": {"is": 1}},
    ],
)
def test_bad_json_is_refused(data: Any) -> None:
    with pytest.raises(DefinitionError):
        from_json(data)


@pytest.mark.parametrize("text", ["0s", "-5m", "1 month", "", "x", "0.5s"])
def test_a_bad_span_is_refused(text: str) -> None:
    with pytest.raises(DefinitionError):
        every(text)


@pytest.mark.parametrize("name", ["", "Go", "a b", "a;b", "x" * 64])
def test_a_bad_name_of_an_event_is_refused(name: str) -> None:
    with pytest.raises(NameRefused):
        event(name)


@dataclass(frozen=True)
class Alarm(Condition):
    """A kind from elsewhere, as monitors add theirs."""

    kind = "test_alarm"
    monitor: str


@dataclass(frozen=True)
class Unknown(Condition):
    kind = "test_unknown"


def test_other_kinds_are_looked_at_by_what_they_register() -> None:
    @look.register
    def _(condition: Alarm, facts: Facts, mark: Any) -> Sight:
        return Sight(facts.more.get("alarm", 0) > (mark or 0), "it rings", "x", mark=mark, spent=facts.more.get("alarm"))

    ringing = Looked(Alarm("drift") | FIVE)
    assert not ringing()
    assert ringing(more={"alarm": 2})
    assert ringing.why == "it rings"
    assert from_json(as_json(Alarm("drift"))) == Alarm("drift")
    with pytest.raises(DefinitionError, match="test_unknown"):
        Looked(Unknown())()
