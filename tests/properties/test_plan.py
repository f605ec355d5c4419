"""Planning against brute force: an asset works exactly if something it was made of, directly or not, differs from what is recorded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.plan.decide import PENDING, decide, differs, file_work, needs_digest, plan
from penstock.plan.records import Declared, FileSeen, Made


@st.composite
def worlds(draw: st.DrawFn):
    size = draw(st.integers(1, 7))
    names = [f"a{i}" for i in range(size)]
    inputs = {n: tuple(draw(st.sets(st.sampled_from(names[:i])))) if i else () for i, n in enumerate(names)}
    declared = {n: Declared(n, "table", tuple(sorted(inputs[n])), draw(st.sampled_from("xy")), draw(st.sampled_from("cd"))) for n in names}
    versions = {n: draw(st.sampled_from(["1", "2"])) for n in names}
    made = {}
    for n in names:
        if draw(st.booleans()) or draw(st.booleans()):
            read = {i: draw(st.sampled_from(["1", "2"])) for i in inputs[n]}
            made[n] = Made(versions[n], draw(st.sampled_from("xy")), draw(st.sampled_from("cd")), {}, read, 10, 1.0)
    chosen = draw(st.sets(st.sampled_from(names)))
    forced = draw(st.sets(st.sampled_from(names)))
    return declared, made, chosen, forced


def brute_force(declared, made, chosen, forced) -> set[str]:
    """Repeats until nothing changes: an asset works if it, or an input of it, is not as recorded."""
    working: set[str] = set()
    while True:
        more = set(working)
        for name in chosen:
            asset, record = declared[name], made.get(name)
            stale = (
                record is None
                or name in forced
                or record.definition != asset.definition
                or record.contract != asset.contract
                or any(i in working for i in asset.inputs)
                or any(i not in made for i in asset.inputs)
                or any(record.inputs.get(i) != made[i].version for i in asset.inputs)
            )
            if stale:
                more.add(name)
        if more == working:
            return working
        working = more


@given(worlds())
def test_plan_is_brute_force(world) -> None:
    declared, made, chosen, forced = world
    actions = plan(declared, made, {}, chosen=chosen, force=forced)
    assert {a.asset for a in actions if a.works} == brute_force(declared, made, chosen, forced)
    assert [a.asset for a in actions] == [n for n in declared if n in chosen]
    assert all(a.reasons for a in actions if a.works)


@given(worlds())
def test_nothing_is_left_after_it_was_done(world) -> None:
    declared, _, _, _ = world
    made: dict[str, Made] = {}
    for name, asset in declared.items():
        versions = {n: m.version for n, m in made.items()}
        assert decide(asset, None, None, versions).status == "stale"
        made[name] = Made("1", asset.definition, asset.contract, {}, dict.fromkeys(asset.inputs, "1"), 1, 1.0)
    assert plan(declared, made, {}, chosen=set(declared)).nothing


files_now = st.dictionaries(
    st.sampled_from("abcd"), st.builds(FileSeen, st.integers(0, 2), st.integers(0, 2), st.sampled_from(["", "p", "q"]))
)


@given(files_now, files_now)
def test_each_file_is_in_one_class(was, now) -> None:
    work = file_work(was, now)
    assert set(work.new) == set(now) - set(was)
    assert set(work.gone) == set(was) - set(now)
    assert set(work.changed) == {n for n in set(was) & set(now) if differs(was[n], now[n])}


def test_a_touched_file_is_told_by_its_content() -> None:
    was = FileSeen(10, 1_000, "d1")
    assert needs_digest(was, FileSeen(10, 2_000), loaded_ns=10**12)
    assert not differs(was, FileSeen(10, 2_000, "d1"))
    assert differs(was, FileSeen(10, 2_000, "d2"))
    assert differs(was, FileSeen(11, 1_000, ""))
    assert not needs_digest(was, FileSeen(11, 2_000), loaded_ns=10**12)


def test_a_file_written_just_before_it_was_loaded_is_looked_into() -> None:
    at = 5_000_000_000
    assert needs_digest(FileSeen(10, at, "d"), FileSeen(10, at), loaded_ns=at + 1)
    assert not needs_digest(FileSeen(10, at, "d"), FileSeen(10, at), loaded_ns=at + 3_000_000_000)


def test_a_waiting_asset_says_for_what() -> None:
    asset = Declared("b", "table", ("a",), "x")
    action = decide(asset, Made("1", "x", "", {}, {"a": "1"}, 1, 1.0), None, {"a": PENDING, "b": "1"})
    assert action.status == "waiting"
    assert action.reasons[-1].text == "waits for a"
