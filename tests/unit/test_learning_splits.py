"""The same rows are on the same side and in the same fold, whatever else there is; groups and queries are never cut."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.craft.learning import splits
from penstock.craft.learning.splits import bound, folds, learning_rows, no_side_condition, require_sides, side
from penstock.ground.errors import DefinitionError
from penstock.spec.models import ByGroup, ByRatio, by_group, by_ratio, by_time

condition = splits.test_condition


def chosen(table: pa.Table, sql: str) -> list[bool | None]:
    rows = duckdb.from_arrow(table).project(sql).fetchall()
    return [row[0] for row in rows]


# -- sides ----------------------------------------------------------------------------------------------------------
def test_the_newest_rows_are_for_testing() -> None:
    newest = datetime.fromisoformat("2013-12-31T00:00:00")
    moments = [datetime.fromisoformat("2013-11-30T23:59:00"), datetime.fromisoformat("2013-12-01T00:00:00"), newest, None]
    at = pa.array(moments, pa.timestamp("us"))
    sql = condition(by_time(test="2013-12-01"), newest=newest, key=(), time="at")
    assert chosen(pa.table({"at": at}), sql) == [False, True, True, None]
    zoned = condition(by_time(test="2013-12-01"), newest=datetime(2013, 12, 31, tzinfo=UTC), key=(), time="at")
    assert "TIMESTAMPTZ" in zoned


def test_groups_and_rows_are_divided_as_the_docs_say() -> None:
    table = pa.table({"shop": ["a", "b", "é", "", None, "o'x"], "n": pa.array([1, 2, 3, 40, 5, -6], pa.int64())})
    by_shop = chosen(table, condition(by_group("shop", test=0.5), newest=None, key=(), time=""))
    assert by_shop == [None if v is None else side(v, 0.5) for v in table["shop"].to_pylist()]
    by_key = chosen(table, condition(by_ratio(test=0.5), newest=None, key=("n", "shop"), time=""))
    texts = [None if s is None else f"{n}|{s}" for n, s in zip(table["n"].to_pylist(), table["shop"].to_pylist(), strict=True)]
    assert by_key == [None if t is None else side(t, 0.5) for t in texts]
    assert side("a", 0.5) == (hashlib.md5(b"a").hexdigest() < "8" + "0" * 31)


def test_known_values_stay_on_their_side() -> None:
    """Changing these would move rows of every project from one side to the other."""
    assert [n for n in range(40) if side(str(n), 0.2)] == [6, 19, 24, 27, 33, 35, 36]
    assert bound(0.2) == "33333333333334000000000000000000"


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.99])
def test_the_share_is_about_kept(share: float) -> None:
    n = 20_000
    found = sum(side(str(i), share) for i in range(n))
    assert abs(found - n * share) < 4 * (n * share * (1 - share)) ** 0.5


@given(st.floats(1e-9, 1 - 1e-9), st.floats(1e-9, 1 - 1e-9), st.text())
def test_a_greater_share_only_adds(one: float, two: float, text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    assert len(bound(one)) == 32
    assert side(text, min(one, two)) <= side(text, max(one, two))


def test_rows_on_neither_side_are_told() -> None:
    table = pa.table({"a": [1, None, 3], "b": ["x", "y", None]})
    assert chosen(table, no_side_condition(by_ratio(test=0.5), key=("a", "b"))) == [False, True, True]
    assert chosen(table, no_side_condition(by_group("b", test=0.5))) == [False, False, True]
    require_sides(by_group("b", test=0.5), 0)
    require_sides(by_time(test="30d"), 3)
    with pytest.raises(DefinitionError, match=r"by_group\('b'\).*got 3 nulls"):
        require_sides(by_group("b", test=0.5), 3)


def test_what_a_split_needs_is_asked_for() -> None:
    with pytest.raises(DefinitionError, match="needs the key"):
        condition(by_ratio(test=0.5), newest=None, key=(), time="")
    with pytest.raises(DefinitionError, match="rows with a moment"):
        condition(by_time(test="30d"), newest=None, key=(), time="at")


# -- folds ----------------------------------------------------------------------------------------------------------
def keys(n: int) -> pa.Table:
    return pa.table({"id": np.arange(n)})


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=12, max_size=60), st.integers(2, 5))
def test_windows_grow_and_no_moment_is_cut(moments: list[int], k: int) -> None:
    at = np.array(moments)
    if len(set(moments)) <= k:
        with pytest.raises(DefinitionError, match="too few moments"):
            folds(by_time(test="30d"), k, kind="binary", y=at, time=at)
        return
    found = folds(by_time(test="30d"), k, kind="binary", y=at, time=at)
    assert set(found.tolist()) == set(range(-1, k))
    for fold in range(k):
        before = at[learning_rows(by_time(test="30d"), found, fold)]
        assert before.size
        assert before.max() < at[found == fold].min()


def test_windows_are_about_equal() -> None:
    at = np.arange(1000).astype("datetime64[h]")
    found = folds(
        by_time(test="30d"), 4, kind="regression", y=np.zeros(1000), time=pa.chunked_array([pa.array(at.astype("datetime64[us]"))])
    )
    assert np.bincount(found + 1).tolist() == [200] * 5
    at[3] = np.datetime64("NaT")
    with pytest.raises(DefinitionError, match="without a moment"):
        folds(by_time(test="30d"), 4, kind="regression", y=np.zeros(1000), time=at)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=30, max_size=120), st.integers(2, 4), st.sampled_from(["time", "ratio", "group"]))
def test_queries_are_never_cut(queries: list[int], k: int, how: str) -> None:
    codes = np.array(queries)
    split = {"time": by_time(test="30d"), "ratio": by_ratio(test=0.2), "group": by_group("query", test=0.2)}[how]
    at = np.arange(len(codes))
    told = {"kind": "ranking", "y": at % 3, "key": keys(len(codes)), "time": at, "group": codes, "queries": codes}
    if len(set(queries)) < k + (how == "time"):
        with pytest.raises(DefinitionError, match="too few"):
            folds(split, k, **told)  # type: ignore[arg-type]
        return
    found = folds(split, k, **told)  # type: ignore[arg-type]
    assert all(len(set(found[codes == q].tolist())) == 1 for q in set(queries))
    assert set(range(k)) <= set(found.tolist())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abcdefghij"), min_size=10, max_size=80), st.integers(2, 5))
def test_groups_stay_whole(groups: list[str], k: int) -> None:
    y = np.arange(len(groups)) % 2
    if len(set(groups)) < k:
        with pytest.raises(DefinitionError, match="too few groups"):
            folds(ByGroup("g", 0.2), k, kind="binary", y=y, group=pa.chunked_array([groups]))
        return
    found = folds(ByGroup("g", 0.2), k, kind="binary", y=y, group=pa.chunked_array([groups[:5], groups[5:]]))
    assert set(found.tolist()) == set(range(k))
    assert all(len({f for f, h in zip(found.tolist(), groups, strict=True) if h == g}) == 1 for g in set(groups))


def test_a_query_in_two_groups_is_told() -> None:
    at = np.arange(12)
    with pytest.raises(DefinitionError, match="a query is in two groups"):
        folds(by_group("g", test=0.2), 3, kind="ranking", y=at, group=at % 6, queries=at // 4)


def test_groups_are_balanced_by_rows_and_rare_classes() -> None:
    rng = np.random.default_rng(5)
    group = rng.integers(0, 200, 4000)
    y = (rng.uniform(size=200) < 0.1)[group].astype(np.int8)
    found = folds(ByGroup("g", 0.2), 5, kind="binary", y=y, group=group)
    shares = [y[found == f].mean() for f in range(5)]
    assert max(shares) - min(shares) < 0.02
    assert np.bincount(found).max() < 1.15 * np.bincount(found).min()
    with pytest.raises(DefinitionError, match="without a group"):
        folds(ByGroup("g", 0.2), 5, kind="binary", y=y[:2], group=pa.chunked_array([pa.array([None, "a"])]))


def test_very_many_groups_balance_themselves() -> None:
    group = np.repeat(np.arange(30_000), 2)
    found = folds(ByGroup("g", 0.2), 5, kind="regression", y=np.zeros(60_000), group=group)
    assert np.bincount(found).tolist() == [12_000] * 5
    assert np.array_equal(found[::2], found[1::2])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0, 0, 0, 0, 1]), min_size=20, max_size=80), st.integers(2, 4), st.randoms(use_true_random=False))
def test_rare_classes_are_in_every_fold_and_order_does_not_matter(labels: list[int], k: int, shuffle: object) -> None:
    y = np.array(labels)
    found = folds(ByRatio(0.2), k, kind="binary", y=y, key=keys(len(y)))
    for label in set(labels):
        counts = np.bincount(found[y == label], minlength=k)
        assert counts.max() - counts.min() <= 1
    order = list(range(len(y)))
    shuffle.shuffle(order)  # type: ignore[attr-defined]
    again = folds(ByRatio(0.2), k, kind="binary", y=y[order], key=keys(len(y)).take(order))
    assert again.tolist() == found[order].tolist()
    assert all((learning_rows(ByRatio(0.2), found, f) == (found != f)).all() for f in range(k))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"k": 1}, "not a number of folds"),
        ({"k": 5, "key": None}, "keys of the rows"),
        ({"k": 5, "split": by_group("g", test=0.2)}, "groups of the rows"),
        ({"k": 5, "split": by_time(test="30d")}, "moments of the rows"),
        ({"k": 5, "kind": "ranking"}, "a ranking has queries"),
        ({"k": 5, "key": pa.table({"id": pa.array([1, None, 3, 4])})}, "without a key"),
        ({"k": 5}, "too few rows"),
    ],
)
def test_folds_that_cannot_be_are_refused(given: dict[str, object], words: str) -> None:
    told = {"split": by_ratio(test=0.2), "key": keys(4), "kind": "binary", "y": np.array([0, 1, 0, 1]), **given}
    with pytest.raises(DefinitionError, match=words):
        folds(told.pop("split"), told.pop("k"), **told)  # type: ignore[arg-type]
