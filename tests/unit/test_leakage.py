"""Each leak detector finds its planted leak, and passes the honest twin of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn import datasets

from penstock.craft.learning.leakage import KINDS, Finding, Sample, detect, from_record
from penstock.ground.errors import DefinitionError

N = 2000
RNG = np.random.default_rng(7)
A, B, C = RNG.normal(size=(3, N))
NOISE = RNG.normal(size=N)
Y = A + 0.5 * B + NOISE > 0.6
AMOUNT = np.exp(A + 0.5 * B + 0.7 * RNG.normal(size=N))
DAY = 86_400_000_000
AT = np.arange(N, dtype=np.int64) * 3_600_000_000 + 16_000 * DAY


def moments(micros: Any, null: Any = None) -> pa.Array:
    return pa.array(np.asarray(micros, np.int64), pa.timestamp("us"), mask=null)


def found(label: Any, more: dict[str, Any] | None = None, *, kind: Any = "binary", at: Any = None, **options: Any) -> tuple[Finding, ...]:
    """Findings over three honest columns and some more; every fourth row is a test row."""
    columns = {"a": A, "b": B, "c": C, **(more or {})}
    extra = options.pop("extra", {})
    table = pa.table({**columns, **extra, "y": label, **({"at": at} if at is not None else {})})
    test = options.pop("test", np.arange(N) % 4 == 3)
    sides = [Sample(table.filter(pa.array(part)), "at" if at is not None else None) for part in (~test, test)]
    return detect(*sides, kind=kind, label="y", columns=list(columns), **options)


def named(findings: Sequence[Finding]) -> list[tuple[str, tuple[str, ...]]]:
    return [(f.kind, f.columns) for f in findings]


# -- copies ---------------------------------------------------------------------------------------------------------
Z = A + 0.5 * B + NOISE
LETTERS = np.array(["p", "q", "r", "s"])
CASES = {
    "a threshold": (Y, Z, "binary"),
    "a threshold in whole numbers": (Y, np.floor((Z - 0.6) * 40), "binary"),
    "a set of values": (Y, np.where(Y, RNG.choice(["p", "q"], N), RNG.choice(["r", "s"], N)), "binary"),
    "equal to the label": (Y, Y.astype(np.int64), "binary"),
    "equal to a number": (AMOUNT, AMOUNT, "regression"),
    "in another unit": (AMOUNT, AMOUNT * 100 + 3, "regression"),
    "monotone": (AMOUNT, np.log(AMOUNT), "regression"),
    "equal in half of the rows": (AMOUNT, np.where(NOISE > 0, AMOUNT, RNG.permutation(AMOUNT)), "regression"),
    "three classes in order": (np.digitize(Z, [0, 1]), Z, "multiclass"),
    "three classes by code": (LETTERS[np.digitize(Z, [0, 1])], np.digitize(Z, [0, 1]) * 7 % 5, "multiclass"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_copy_of_the_label_is_found(case: str) -> None:
    label, column, kind = CASES[case]
    findings = found(label, {"x": column}, kind=kind)
    assert named(findings) == [("copy", ("x",))]
    assert findings[0].strength > 0.3
    assert 0 < len(findings[0].rows) <= 20


@pytest.mark.parametrize("case", CASES)
def test_a_noisy_measure_of_the_same_is_honest(case: str) -> None:
    label, column, kind = CASES[case]
    values = column.astype(np.float64) if column.dtype.kind != "U" else np.searchsorted(LETTERS, column).astype(np.float64)
    assert found(label, {"x": values + values.std() * RNG.normal(size=N)}, kind=kind) == ()


def test_pairs_whose_difference_ratio_or_equality_is_the_label_are_found() -> None:
    base = 50 + 5 * RNG.normal(size=N)
    assert named(found(Y, {"planned": base, "real": base + Z})) == [("pair", ("planned", "real"))]
    price = np.exp(RNG.normal(size=N))
    assert named(found(AMOUNT, {"price": price, "paid": price * AMOUNT}, kind="regression")) == [("pair", ("price", "paid"))]
    spot = RNG.choice(LETTERS, N)
    other = LETTERS[(np.searchsorted(LETTERS, spot) + RNG.integers(1, 4, N)) % 4]
    assert named(found(Y, {"home": spot, "place": np.where(Y, spot, other)})) == [("pair", ("home", "place"))]


def test_pairs_of_noisy_measures_are_honest() -> None:
    base = 50 + 5 * RNG.normal(size=N)
    assert found(Y, {"planned": base, "real": base + Z + 0.5 * RNG.normal(size=N)}) == ()
    assert found(AMOUNT, {"price": base, "paid": base * AMOUNT * np.exp(0.2 * RNG.normal(size=N))}, kind="regression") == ()


# -- nulls and values that stand for a class ------------------------------------------------------------------------
def test_a_column_filled_in_after_the_outcome_is_found() -> None:
    late = RNG.random(N)
    assert named(found(Y, {"closed": pa.array(late, mask=~Y)})) == [("presence", ("closed",))]
    half = Y & (RNG.random(N) < 0.5)
    assert named(found(Y, {"refund": pa.array(late, mask=~half)})) == [("presence", ("refund",))]
    cost = np.where(Y, AMOUNT, 0.0)
    assert named(found(cost, {"billed": pa.array(late, mask=~Y)}, kind="regression")) == [("presence", ("billed",))]


def test_nulls_that_follow_the_label_somewhat_are_honest() -> None:
    null = RNG.random(N) < np.where(Y, 0.6, 0.15)
    assert found(Y, {"income": pa.array(C, mask=null)}) == ()


def test_a_word_written_after_the_outcome_is_found() -> None:
    told = np.where(Y & (RNG.random(N) < 0.6), " refund was sent", "")
    words = np.array(["late", "broken", "parcel", "called", "wrong", "colour"])
    notes = [" ".join(RNG.choice(words, 4)) + f" {i}" + end for i, end in enumerate(told)]
    assert named(found(Y, {"notes": notes})) == [("power", ("notes",))]
    assert found(Y, {"notes": [n.removesuffix(" refund was sent") for n in notes]}) == ()


def test_a_column_far_better_than_all_others_is_found() -> None:
    close = np.where(RNG.random(N) < 0.02, ~Y, Y) + 0.1 * RNG.normal(size=N)
    assert named(found(Y, {"x": close})) == [("power", ("x",))]
    assert found(Y, {"x": close}, allow=["x"]) == ()


# -- own labels -----------------------------------------------------------------------------------------------------
G = RNG.integers(0, 250, N)
SIZE = np.bincount(G, minlength=250)
SHOP = np.array([f"s{g}" for g in G])


def means(label: Any, rows: Any = slice(None)) -> Any:
    return np.bincount(G[rows], weights=label[rows], minlength=250) / np.maximum(1, np.bincount(G[rows], minlength=250))


def own(label: Any) -> dict[str, Any]:
    y = np.asarray(label, np.float64)
    mean = means(y)[G]
    order = np.argsort(G, kind="stable")
    total = np.cumsum(y[order]) - np.repeat((np.cumsum(y[order]) - y[order])[np.append(0, np.cumsum(SIZE)[:-1])], SIZE)
    nth = np.concatenate([np.arange(size) for size in SIZE])
    running = np.empty(N)
    running[order] = total / (nth + 1)
    window = np.convolve(y, np.ones(7) / 7)[:N]
    average = np.empty(N)
    kept = 0.2
    for i, value in enumerate(y):
        kept = average[i] = 0.8 * kept + 0.2 * value
    return {
        "the mean": mean,
        "the smoothed mean": (mean * SIZE[G] + 5 * y.mean()) / (SIZE[G] + 5),
        "the mean of the others": (mean * SIZE[G] - y) / np.maximum(1, SIZE[G] - 1),
        "the sum": np.bincount(G, weights=y)[G],
        "the running mean": running,
        "the mean of seven rows": window,
        "the exponential mean": average,
    }


@pytest.mark.parametrize("case", list(own(Y)))
@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_aggregates_that_count_the_own_label_are_found(case: str, kind: Any) -> None:
    label = Y if kind == "binary" else AMOUNT
    assert named(found(label, {"shop": SHOP, "x": own(label)[case]}, kind=kind, at=moments(AT))) == [("own_label", ("x",))]


def test_the_same_aggregates_of_other_rows_are_honest() -> None:
    other = {name: np.append(np.nan, values[:-1]) for name, values in own(Y).items()}
    assert found(Y, {"shop": SHOP, **other}, at=moments(AT)) == ()


def test_a_mean_over_training_rows_that_counts_their_own_labels_is_found() -> None:
    train = np.arange(N) % 4 != 3
    assert named(found(Y, {"x": means(Y.astype(float), train)[G]})) == [("own_label", ("x",))]


def test_a_calibrated_score_is_honest() -> None:
    p = np.round(1 / (1 + np.exp(-(A + 0.5 * B))), 2)
    y = RNG.random(N) < p
    assert found(y, {"score": p}) == ()


# -- identifiers, time ----------------------------------------------------------------------------------------------
def test_row_numbers_in_the_order_of_the_outcome_are_found() -> None:
    number = np.empty(N, np.int64)
    number[np.lexsort((RNG.random(N), Y + 0.4 * RNG.normal(size=N)))] = np.arange(N)
    assert named(found(Y, {"row_id": number})) == [("row_id", ("row_id",))]
    coded = [f"C-{n:06d}" for n in number]
    assert named(found(Y, {"case": coded})) == [("row_id", ("case",))]
    assert found(Y, {"row_id": np.arange(N)}, at=moments(AT)) == ()


def test_a_moment_after_the_outcome_is_found_and_a_plan_is_not() -> None:
    wait = np.where(Y, RNG.integers(20, 60, N), RNG.integers(1, 25, N))
    assert named(found(Y, {"returned": moments(AT + wait * DAY)}, at=moments(AT))) == [("time", ("returned",))]
    plan = RNG.integers(1, 40, N) + np.where(Y, 5, 0)
    assert found(Y, {"planned": moments(AT + plan * DAY)}, at=moments(AT)) == ()


def test_values_known_after_the_row_are_found_whatever_they_tell() -> None:
    told = moments(AT + np.where(np.arange(N) % 50 == 0, DAY, -DAY))
    findings = found(Y, {"x": C}, at=moments(AT), extra={"told": told}, times={"x": "told", "a": None})
    assert named(findings) == [("time", ("x",))]
    assert findings[0].strength == pytest.approx(0.02)
    assert found(Y, {"x": C}, at=moments(AT), extra={"told": moments(AT)}, times={"x": "told"}) == ()


# -- both sides -----------------------------------------------------------------------------------------------------
def test_copied_rows_are_found_also_under_other_numbers() -> None:
    test = np.arange(N) >= 1500
    again = np.arange(N)
    again[1900:] = np.arange(100)
    label = Y[again]
    more = {"a": A[again], "b": B[again], "c": C[again], "row_id": np.arange(N)}
    findings = found(label, more, test=test)
    assert named(findings) == [("duplicate", ())]
    assert findings[0].strength == pytest.approx(0.2)
    assert {place for place, _ in findings[0].rows} == {"test"}
    near = {name: more[name] + 1e-4 * RNG.normal(size=N) for name in ("a", "b", "c")} | {"d": C[again] * A[again]}
    assert named(found(label, near, test=test)) == [("duplicate", ())]


def test_rows_alike_for_want_of_values_are_honest() -> None:
    few = {name: RNG.integers(0, 4, N) for name in ("a", "b", "c", "d")}
    assert found(Y, few) == ()


def test_keys_and_groups_on_both_sides_are_found() -> None:
    assert named(found(Y, extra={"id": np.arange(N) // 2}, key=["id"])) == [("key", ("id",))]
    assert found(Y, extra={"id": np.arange(N)}, key=["id"]) == ()
    assert named(found(Y, extra={"user": SHOP}, group="user")) == [("group", ("user",))]
    assert found(Y, extra={"user": np.arange(N) % 4}, group="user") == ()


def test_an_entity_that_keeps_its_label_is_found() -> None:
    sick = RNG.random(250) < 0.4
    assert named(found(sick[G], {"patient": SHOP})) == [("group", ("patient",))]
    assert found(RNG.random(N) < np.where(sick, 0.6, 0.2)[G], {"shop": SHOP}) == ()


def test_a_column_that_tells_both_the_sides_and_the_label_is_found() -> None:
    test = np.arange(N) % 4 == 3
    source = np.where(RNG.random(N) < 0.85, Y, ~Y) + np.where(test, 10, 0)
    assert named(found(Y, {"batch": source})) == [("split", ("batch",))]
    assert found(Y, {"batch": np.where(test, 10, 0) + RNG.integers(0, 2, N)}) == ()


# -- all of it ------------------------------------------------------------------------------------------------------
def test_a_ranking_is_judged_by_its_grades() -> None:
    grade = np.digitize(Z, [0, 1, 2])
    query = np.arange(N) // 10
    honest = found(grade, extra={"query": query}, kind="ranking", group="query", test=query >= 150)
    assert honest == ()
    clicks = grade * 3 + RNG.integers(0, 2, N)
    assert named(found(grade, {"clicks": clicks}, extra={"query": query}, kind="ranking", group="query", test=query >= 150)) == [
        ("copy", ("clicks",))
    ]


@pytest.mark.parametrize(
    ("load", "kind"),
    [
        ("load_breast_cancer", "binary"),
        ("load_wine", "multiclass"),
        ("load_iris", "multiclass"),
        ("load_diabetes", "regression"),
        ("load_digits", "multiclass"),
    ],
)
def test_known_data_sets_are_honest(load: str, kind: Any) -> None:
    data = getattr(datasets, load)()
    order = np.random.default_rng(1).permutation(len(data.target))
    names = [str(n) for n in data.feature_names]
    table = pa.table({**{n: data.data[order, i] for i, n in enumerate(names)}, "y": data.target[order]})
    cut = len(order) * 3 // 4
    assert detect(Sample(table.slice(0, cut)), Sample(table.slice(cut)), kind=kind, label="y", columns=names) == ()


def test_the_same_seed_gives_the_same_findings_and_records_come_back() -> None:
    findings = found(Y, {"x": Z, "closed": pa.array(C, mask=~Y)})
    assert len(findings) == 2
    assert findings == found(Y, {"x": Z, "closed": pa.array(C, mask=~Y)})
    assert tuple(from_record(json.loads(json.dumps(f.as_record()))) for f in findings) == findings
    assert all(f.kind in KINDS and 0 <= f.strength <= 1 for f in findings)


def test_odd_columns_are_passed_over() -> None:
    odd = {
        "nothing": pa.nulls(N),
        "empty": pa.nulls(N, pa.string()),
        "constant": np.ones(N),
        "infinite": np.where(np.arange(N) % 2, np.inf, np.nan),
        "lists": pa.array([[i % 3] for i in range(N)]),
        "bytes": pa.array([b"x"] * N),
        "clock": pa.array((np.arange(N) % 86_400).astype(np.int32), pa.time32("s")),
        "coded": pa.array(RNG.choice(LETTERS, N)).dictionary_encode(),
        "money": pa.array([str(i) for i in range(N)]).cast(pa.decimal128(10, 2)),
    }
    assert found(Y, odd) == ()
    assert found(pa.array(Y, mask=np.arange(N) % 5 == 0), odd) == ()


def test_few_rows_or_one_class_are_not_judged() -> None:
    assert found(np.ones(N, bool)) == ()
    table = pa.table({"x": [1.0, 2.0], "y": [True, False]})
    assert detect(Sample(table), Sample(table.slice(0, 0)), kind="binary", label="y", columns=["x"]) == ()


def test_a_column_that_is_not_there_is_named() -> None:
    table = pa.table({"x": [1.0], "y": [True]})
    with pytest.raises(DefinitionError, match="z: no such column"):
        detect(Sample(table), Sample(table), kind="binary", label="y", columns=["z"])
