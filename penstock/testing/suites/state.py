"""What every state must do.

Use: `from penstock.testing.suites.state import *` in a test module that has a fixture `new_state`: a function that makes a new, empty
state and returns its opener. Each call of an opener gives a handle on that same state; it can be pickled if the state serves
several processes.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from penstock.ground.errors import Busy, Fenced, StorageError
from penstock.ground.failpoints import FailpointError, armed
from penstock.ports.state import Claim, Record, State
from penstock.testing.clock import START
from penstock.testing.states import MemoryState, contend

Opener = Callable[[], State]
NewState = Callable[[], Opener]

TEXT = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=6) | st.sampled_from(
    ["a", "ab", "a%", "a_b", "%", "_", "a\U0010ffff", "\U0010ffff", "Ä", "a\ud7ff", "a'b"]
)
BODIES: st.SearchStrategy[Mapping[str, Any]] = st.dictionaries(
    st.text(max_size=4),
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    max_size=4,
)


@pytest.fixture
def state(new_state: NewState) -> State:
    return new_state()()


def test_an_appended_record_is_the_head_of_its_key(state: State) -> None:
    first = state.append("asset", "flights", {"rows": 1}, at=START)
    second = state.append("asset", "flights", {"rows": 2}, at=START)
    other = state.append("asset", "planes", {"rows": 3}, at=START)
    assert first.seq < second.seq < other.seq
    assert dict(state.heads("asset")) == {"flights": second, "planes": other}
    assert second.body == {"rows": 2}
    assert second.at == START
    assert dict(state.heads("run")) == {}


def test_several_records_are_appended_together_or_not_at_all(state: State) -> None:
    entries = [("asset", "flights", {"n": 1}), ("listing", "flights/a.csv", {}), ("asset", "flights", {"n": 2})]
    made = list(state.append_all(entries, at=START))
    assert [(r.kind, r.key, r.body) for r in made] == entries
    assert made[0].seq < made[1].seq < made[2].seq
    assert state.heads("asset")["flights"] == made[2]
    assert list(state.append_all([], at=START)) == []
    old = state.claim("flights", "a", now=START, lease_s=60)
    state.claim("flights", "b", now=old.until, lease_s=60)
    with pytest.raises(Fenced):
        state.append_all(entries, at=START, claim=old)
    with armed("state.append.before"), pytest.raises(FailpointError):
        state.append_all(entries, at=START)
    with pytest.raises(StorageError):
        state.append_all([*entries, ("asset", "bad", {"x": object()})], at=START)
    assert list(state.history("asset")) == [made[2], made[0]]


def test_history_is_newest_first_and_limited(state: State) -> None:
    made = [state.append("asset", "flights", {"n": n}, at=START) for n in range(5)]
    state.append("run", "flights", {}, at=START)
    assert list(state.history("asset", "flights")) == made[::-1]
    assert list(state.history("asset", "flights", limit=2)) == [made[4], made[3]]
    assert list(state.history("asset", "nothing")) == []


def test_history_at_a_moment_tells_what_was_true_then(state: State) -> None:
    moments = [START + timedelta(hours=n) for n in range(3)]
    made = [state.append("promotion", f"model{n % 2}", {"n": n}, at=at) for n, at in enumerate(moments)]
    assert list(state.history("promotion", before=moments[1])) == [made[1], made[0]]
    assert list(state.history("promotion", "model0", before=moments[2] - timedelta(microseconds=1))) == [made[0]]
    assert list(state.history("promotion", before=START - timedelta(microseconds=1))) == []


def test_another_handle_sees_what_was_appended(new_state: NewState) -> None:
    opener = new_state()
    first = opener()
    record = first.append("asset", "flights", {"rows": 1}, at=START)
    claim = first.claim("flights", "a", now=START, lease_s=60)
    first.close()
    second = opener()
    assert dict(second.heads("asset")) == {"flights": record}
    with pytest.raises(Busy):
        second.claim("flights", "b", now=START, lease_s=60)
    assert second.renew(claim, now=START, lease_s=90).epoch == claim.epoch


def test_the_pulse_tells_that_another_handle_wrote(new_state: NewState) -> None:
    opener = new_state()
    watching, writing = opener(), opener()
    seen = watching.pulse()
    writing.append("asset", "flights", {}, at=START)
    after_one = watching.pulse()
    writing.append("asset", "planes", {}, at=START)
    assert len({seen, after_one, watching.pulse()}) == 3


def test_prefix_is_plain_text(state: State) -> None:
    keys = ["a%b", "a_b", "aXb", "ab", "A%b", "a%", "é%", "a'b", "a\U0010ffffb"]
    for key in keys:
        state.append("listing", key, {}, at=START)
    assert set(state.heads("listing", prefix="a%")) == {"a%b", "a%"}
    assert set(state.heads("listing", prefix="a_")) == {"a_b"}
    assert set(state.heads("listing", prefix="a")) == {key for key in keys if key.startswith("a")}
    assert set(state.heads("listing", prefix="a\U0010ffff")) == {"a\U0010ffffb"}
    assert set(state.heads("listing", prefix="a'")) == {"a'b"}
    assert set(state.heads("listing")) == set(keys)


def test_large_and_odd_bodies_come_back(state: State) -> None:
    body = {"text": "ü\0\n\u2028" * 250_000, "surrogate": "caf\udce9.csv", "big": 2**70, "deep": {"list": [1, None, {"x": 0.1}]}, "": True}
    record = state.append("listing", "größe/日本 🛩", body, at=START)
    assert record.body == body
    assert state.heads("listing")["größe/日本 🛩"].body == body


@pytest.mark.parametrize("body", [{"x": float("nan")}, {"x": object()}, {"x": b"bytes"}], ids=["nan", "object", "bytes"])
def test_what_is_not_json_is_refused(state: State, body: dict[str, Any]) -> None:
    with pytest.raises(StorageError, match="not JSON"):
        state.append("asset", "flights", body, at=START)
    assert not state.history("asset")


def test_a_claim_keeps_others_out_until_its_lease_ends(state: State) -> None:
    claim = state.claim("flights", "a", now=START, lease_s=60)
    assert claim.until == START + timedelta(seconds=60)
    with pytest.raises(Busy) as refused:
        state.claim("flights", "b", now=START + timedelta(seconds=59), lease_s=60)
    assert refused.value.retry
    assert state.claim("planes", "b", now=START, lease_s=60).epoch == 1
    assert state.claim("flights", "b", now=claim.until, lease_s=60).epoch == claim.epoch + 1


def test_the_same_owner_gets_a_new_epoch(state: State) -> None:
    first = state.claim("flights", "a", now=START, lease_s=60)
    second = state.claim("flights", "a", now=START, lease_s=60)
    assert second.epoch == first.epoch + 1
    with pytest.raises(Fenced):
        state.append("asset", "flights", {}, at=START, claim=first)


def test_epochs_survive_release(state: State) -> None:
    first = state.claim("flights", "a", now=START, lease_s=60)
    state.release(first)
    state.release(first)
    assert state.claim("flights", "b", now=START, lease_s=60).epoch == first.epoch + 1


def test_a_release_after_a_takeover_does_nothing(state: State) -> None:
    first = state.claim("flights", "a", now=START, lease_s=60)
    second = state.claim("flights", "b", now=first.until, lease_s=60)
    state.release(first)
    with pytest.raises(Busy):
        state.claim("flights", "c", now=first.until, lease_s=60)
    assert state.renew(second, now=second.until, lease_s=60).until == second.until + timedelta(seconds=60)


def test_renewing_lengthens_the_lease(state: State) -> None:
    claim = state.claim("flights", "a", now=START, lease_s=60)
    longer = state.renew(claim, now=START + timedelta(seconds=50), lease_s=60)
    assert (longer.epoch, longer.until) == (claim.epoch, START + timedelta(seconds=110))
    with pytest.raises(Busy):
        state.claim("flights", "b", now=START + timedelta(seconds=109), lease_s=60)


def test_a_taken_over_or_released_claim_cannot_be_renewed(state: State) -> None:
    first = state.claim("flights", "a", now=START, lease_s=60)
    second = state.claim("flights", "b", now=first.until, lease_s=60)
    with pytest.raises(Fenced):
        state.renew(first, now=first.until, lease_s=60)
    state.release(second)
    with pytest.raises(Fenced):
        state.renew(second, now=first.until, lease_s=60)


def test_a_fenced_append_writes_nothing(state: State) -> None:
    old = state.claim("flights", "a", now=START, lease_s=60)
    kept = state.append("asset", "flights", {"by": "a"}, at=START, claim=old)
    new = state.claim("flights", "b", now=old.until, lease_s=60)
    with pytest.raises(Fenced):
        state.append("asset", "flights", {"by": "a again"}, at=START, claim=old)
    assert list(state.history("asset")) == [kept]
    assert state.heads("asset")["flights"] == kept
    assert state.append("asset", "flights", {"by": "b"}, at=START, claim=new).seq > kept.seq


def test_a_claim_of_another_state_is_fenced(state: State) -> None:
    with pytest.raises(Fenced):
        state.append("asset", "flights", {}, at=START, claim=Claim("flights", "a", 1, START))
    assert not state.history("asset")


def test_a_failure_before_the_commit_leaves_nothing_behind(state: State) -> None:
    state.append("asset", "flights", {"n": 1}, at=START)
    with armed("state.append.before"), pytest.raises(FailpointError):
        state.append("asset", "flights", {"n": 2}, at=START)
    assert [r.body["n"] for r in state.history("asset")] == [1]
    state.append("asset", "flights", {"n": 3}, at=START)
    assert [r.body["n"] for r in state.history("asset")] == [3, 1]


def test_a_failure_after_the_commit_loses_nothing(state: State) -> None:
    with armed("state.append.after"), pytest.raises(FailpointError):
        state.append("asset", "flights", {"n": 1}, at=START)
    assert [r.body["n"] for r in state.history("asset")] == [1]


def test_threads_share_a_handle(state: State) -> None:
    def write(name: str) -> None:
        for n in range(25):
            state.append("asset", name, {"n": n}, at=START)

    threads = [threading.Thread(target=write, args=(f"t{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = state.history("asset", limit=1000)
    assert len({r.seq for r in records}) == 100
    for name, head in state.heads("asset").items():
        assert [r.body["n"] for r in records if r.key == name] == list(range(24, -1, -1))
        assert head.body["n"] == 24


def test_one_holder_at_a_time(new_state: NewState) -> None:
    """Eight contenders, 50 turns each: processes if the state serves several, else threads."""
    opener = new_state()
    state = opener()
    apart = state.capabilities.several_processes
    start: Any = multiprocessing.get_context("spawn").Process if apart else threading.Thread
    workers = [start(target=contend, args=(opener, f"w{n}", 50, START)) for n in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    turns = list(state.history("turn", limit=10_000))[::-1]
    assert len(turns) == 8 * 50 * 2
    for entered, left in zip(turns[::2], turns[1::2], strict=True):
        assert (entered.body["step"], left.body["step"]) == ("in", "out")
        assert (entered.key, entered.body["epoch"]) == (left.key, left.body["epoch"])
    epochs = [turn.body["epoch"] for turn in turns[::2]]
    assert epochs == list(range(1, 401))


def test_agrees_with_the_reference(new_state: NewState) -> None:
    """Any sequence of calls gives what MemoryState gives: records but for their numbers, claims, and errors by kind."""

    class Machine(_Pair):
        def __init__(self) -> None:
            super().__init__(new_state()())

    run_state_machine_as_test(
        Machine,
        settings=settings(max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)),
    )


class _Pair(RuleBasedStateMachine):
    def __init__(self, real: State) -> None:
        super().__init__()
        self.real, self.reference = real, MemoryState()
        self.now = START
        self.claims: list[Claim] = []

    def both(self, call: Callable[[State], Any]) -> Any:
        results = []
        states: tuple[State, State] = (self.real, self.reference)
        for state in states:
            try:
                results.append(_plain(call(state)))
            except StorageError as error:
                results.append(type(error))
        assert results[0] == results[1]
        return results[0]

    @rule(seconds=st.integers(-5, 40))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(kind=st.sampled_from(["asset", "run"]), key=TEXT, body=BODIES)
    def append(self, kind: str, key: str, body: Mapping[str, Any]) -> None:
        self.both(lambda s: s.append(kind, key, body, at=self.now))

    @rule(entries=st.lists(st.tuples(st.sampled_from(["asset", "run"]), TEXT, BODIES), max_size=3))
    def append_all(self, entries: list[tuple[str, str, Mapping[str, Any]]]) -> None:
        self.both(lambda s: s.append_all(entries, at=self.now))

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def append_with_claim(self, data: st.DataObject) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        self.both(lambda s: s.append("asset", claim.name, {"epoch": claim.epoch}, at=self.now, claim=claim))

    @rule(kind=st.sampled_from(["asset", "run"]), prefix=st.just("") | TEXT)
    def heads(self, kind: str, prefix: str) -> None:
        self.both(lambda s: s.heads(kind, prefix=prefix))

    @rule(key=st.none() | TEXT, back=st.none() | st.integers(0, 60), limit=st.integers(0, 5))
    def history(self, key: str | None, back: int | None, limit: int) -> None:
        before = None if back is None else self.now - timedelta(seconds=back)
        self.both(lambda s: s.history("asset", key, before=before, limit=limit))

    @rule(name=st.sampled_from(["x", "y"]), owner=st.sampled_from(["a", "b", "c"]), lease_s=st.sampled_from([0.0, 10.5, 60.0]))
    def claim(self, name: str, owner: str, lease_s: float) -> None:
        result = self.both(lambda s: s.claim(name, owner, now=self.now, lease_s=lease_s))
        if isinstance(result, Claim):
            self.claims.append(result)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        self.both(lambda s: s.renew(claim, now=self.now, lease_s=30))

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        self.both(lambda s: s.release(claim))

    def teardown(self) -> None:
        self.real.close()


def _plain(result: Any) -> Any:
    """A result without record numbers, which may have gaps."""
    if isinstance(result, Record):
        return (result.kind, result.key, result.at, dict(result.body))
    if isinstance(result, Mapping):
        return {key: _plain(value) for key, value in result.items()}
    return [_plain(value) for value in result] if isinstance(result, (list, tuple)) else result
