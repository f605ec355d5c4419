"""Metrics of every kind are those of the library, weighted too; intervals cover; influences are derivatives."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from penstock.craft.learning.influence import deviation, influence
from penstock.craft.learning.measured import Evaluation, Measured, from_record, goodness
from penstock.craft.learning.metrics import measure
from penstock.craft.learning.outcomes import Outcomes
from penstock.craft.learning.queries import by_query
from penstock.ground.errors import DefinitionError
from penstock.spec.models import KINDS, METRICS, Kind

CLASSES = ("a", "b", "c", "d")


def outcomes(kind: Kind, n: int = 400, seed: int = 1, *, weighted: bool = False, grouped: bool = False, ties: int = 2) -> Outcomes:
    rng = np.random.default_rng(seed)
    weight = rng.integers(1, 4, n).astype(float) if weighted else None
    group = np.arange(n) // 8 if grouped or kind == "ranking" else None
    if kind == "binary":
        p = np.round(rng.uniform(size=n), ties)
        return Outcomes(kind, rng.uniform(size=n) < p, p, weight=weight, group=group)
    if kind == "multiclass":
        p = rng.dirichlet(np.ones(len(CLASSES)), n)
        y = (p.cumsum(axis=1)[:, :-1] < rng.uniform(size=(n, 1))).sum(axis=1)
        return Outcomes(kind, y, p, CLASSES, weight, group)
    if kind == "regression":
        y = rng.gamma(2, 3, n) + 0.1
        return Outcomes(kind, y, np.round(y * 0.8 + rng.normal(size=n), ties), weight=weight, group=group)
    return Outcomes(kind, rng.integers(0, 4, n), np.round(rng.normal(size=n), 1), weight=weight, group=group)


def values(o: Outcomes) -> dict[str, Any]:
    found = measure(o)
    assert set(found.values) == set(METRICS[o.kind])
    assert found.reasons == {}
    return dict(found.values)


# -- values ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_binary_metrics_are_those_of_the_library(seed: int, weighted: bool) -> None:
    o = outcomes("binary", seed=seed, weighted=weighted)
    w, got = o.weight, values(o)
    assert [got[m] for m in ("roc_auc", "average_precision", "log_loss", "brier", "accuracy")] == pytest.approx(
        [
            sk.roc_auc_score(o.y, o.p, sample_weight=w),
            sk.average_precision_score(o.y, o.p, sample_weight=w),
            sk.log_loss(o.y, o.p, sample_weight=w),
            sk.brier_score_loss(o.y, o.p, sample_weight=w),
            sk.accuracy_score(o.y, o.p >= 0.5, sample_weight=w),
        ],
        rel=1e-9,
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_multiclass_metrics_are_those_of_the_library(seed: int, weighted: bool) -> None:
    o = outcomes("multiclass", seed=seed, weighted=weighted)
    w, got, said = o.weight, values(o), o.p.argmax(axis=1)
    labels = np.eye(len(CLASSES))[o.y]
    assert [got[m] for m in ("roc_auc", "log_loss", "brier", "accuracy", "balanced_accuracy", "f1_macro")] == pytest.approx(
        [
            sk.roc_auc_score(o.y, o.p, sample_weight=w, multi_class="ovr"),
            sk.log_loss(o.y, o.p, sample_weight=w),
            np.average(((o.p - labels) ** 2).sum(axis=1), weights=w),
            sk.accuracy_score(o.y, said, sample_weight=w),
            sk.balanced_accuracy_score(o.y, said, sample_weight=w),
            sk.f1_score(o.y, said, sample_weight=w, average="macro"),
        ],
        rel=1e-9,
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_regression_metrics_are_those_of_the_library(seed: int, weighted: bool) -> None:
    o = outcomes("regression", seed=seed, weighted=weighted, ties=8)
    w, got = o.weight, values(o)
    assert [got[m] for m in ("rmse", "mae", "mape", "r2", "bias")] == pytest.approx(
        [
            sk.root_mean_squared_error(o.y, o.p, sample_weight=w),
            sk.mean_absolute_error(o.y, o.p, sample_weight=w),
            sk.mean_absolute_percentage_error(o.y, o.p, sample_weight=w),
            sk.r2_score(o.y, o.p, sample_weight=w),
            np.average(o.p - o.y, weights=w),
        ],
        rel=1e-9,
    )
    repeated = np.repeat(np.abs(o.y - o.p), 1 if w is None else w.astype(int))
    assert got["median_error"] == pytest.approx(np.median(repeated))


def slow_query(y: np.ndarray, p: np.ndarray) -> dict[str, float]:
    """One query by the definitions."""
    relevant = y > 0
    at_least = [[int(np.sum(p >= p[i])), int(np.sum(relevant[p >= p[i]]))] for i in np.flatnonzero(relevant)]
    return {
        "ndcg": sk.ndcg_score([y], [p]),
        "ndcg_10": sk.ndcg_score([y], [p], k=10),
        "mean_average_precision": float(np.mean([hits / rank for rank, hits in at_least])),
        "mean_reciprocal_rank": 1 / min(rank for rank, _ in at_least),
    }


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=80))
def test_rankings_are_measured_query_by_query(rows: list[tuple[int, int, int]]) -> None:
    group, y, p = (np.array(column) for column in zip(*rows, strict=True))
    found = measure(Outcomes("ranking", y.astype(float), p.astype(float), group=group))
    queries = [group == g for g in np.unique(group)]
    told = [slow_query(y[q], p[q]) for q in queries if y[q].max() > 0 and q.sum() > 1]
    told += [dict.fromkeys(METRICS["ranking"], 1.0) for q in queries if y[q].max() > 0 and q.sum() == 1]
    if not told:
        assert set(found.reasons.values()) == {"no query has a relevant row"}
        return
    for metric in METRICS["ranking"]:
        assert found.values[metric] == pytest.approx(np.mean([t[metric] for t in told])), metric


def test_a_query_weighs_as_the_mean_of_its_rows() -> None:
    o = Outcomes("ranking", np.array([1, 0, 1, 0]), np.array([2.0, 1, 1, 2]), weight=np.array([3.0, 3, 1, 1]), group=np.array([7, 7, 2, 2]))
    assert by_query(o).weight.tolist() == [1.0, 3.0]
    assert measure(o).values["mean_reciprocal_rank"] == pytest.approx((0.5 + 3 * 1) / 4)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 50))
def test_a_weight_is_as_many_rows(kind: Kind, seed: int) -> None:
    o = outcomes(kind, 60, seed, weighted=kind != "ranking")
    assert o.weight is None or o.weight.max() > 1
    again = o.take(np.repeat(np.arange(60), 1 if o.weight is None else o.weight.astype(int)))
    one, many = measure(o), measure(Outcomes(o.kind, again.y, again.p, o.classes, group=again.group))
    for metric in METRICS[kind]:
        if metric != "calibration_error":  # its bins hold about equally many rows, whatever these weigh
            assert one.values[metric] == pytest.approx(many.values[metric]), metric


# -- what has no value ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_have_no_metric(kind: Kind) -> None:
    none = outcomes(kind, 24).take(np.zeros(24, dtype=bool))
    found = measure(none)
    assert set(found.values.values()) == {None}
    assert set(found.reasons) == set(METRICS[kind])
    assert (found.intervals, found.rows) == ({}, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_one_row_has_no_interval_but_values(kind: Kind) -> None:
    found = measure(outcomes(kind, 24).take(np.array([3])))
    assert set(found.values) == set(METRICS[kind])
    assert all(math.isfinite(low) and math.isfinite(high) for low, high in found.intervals.values())
    assert "rmse" not in found.intervals
    assert "log_loss" not in found.intervals


def test_what_these_rows_do_not_define_has_a_reason() -> None:
    lone = Outcomes("multiclass", np.zeros(9), np.full((9, 2), 0.5), ("cat", "dog"))
    assert measure(lone).reasons == {"roc_auc": "all labels are cat"}
    assert measure(lone).values["balanced_accuracy"] == 1.0
    flat = measure(Outcomes("regression", np.full(5, 2.0), np.arange(5.0)))
    assert flat.reasons == {"r2": "all labels are equal"}
    assert measure(Outcomes("regression", np.array([0.0, 1, 0]), np.zeros(3))).reasons == {"mape": "2 labels are 0"}
    negative = measure(Outcomes("ranking", np.array([-1, 2]), np.zeros(2), group=np.zeros(2, dtype=int)))
    assert negative.reasons["ndcg"] == "a relevance below 0 is no gain"
    assert negative.values["mean_reciprocal_rank"] == 0.5


def test_constant_scores_are_measured() -> None:
    y = np.array([0, 1] * 40)
    found = measure(Outcomes("binary", y, np.full(80, 0.5)))
    assert (found.values["roc_auc"], found.values["average_precision"], found.values["calibration_error"]) == (0.5, 0.5, 0.0)
    assert found.intervals["roc_auc"] == (0.5, 0.5)
    assert measure(Outcomes("regression", np.arange(9.0) + 1, np.full(9, 5.0))).values["r2"] == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("kind", "p", "reason"),
    [
        ("binary", [0.1, np.nan], "1 scores are not within [0, 1]"),
        ("multiclass", [[0.5, 0.6], [0.5, 0.5]], "the scores of 1 rows do not add up to 1"),
        ("multiclass", [[0.5, np.nan], [0.5, 0.5]], "1 scores are not within [0, 1]"),
        ("regression", [np.inf, 1], "1 scores are no finite numbers"),
        ("ranking", [np.nan, np.nan], "2 scores are no finite numbers"),
    ],
)
def test_scores_that_are_none_are_the_reason(kind: Kind, p: Any, reason: str) -> None:
    o = Outcomes(kind, np.array([0, 1]), np.array(p), ("a", "b") if kind == "multiclass" else (), group=np.array([0, 0]))
    assert set(measure(o).reasons.values()) == {reason}
    assert set(measure(o).values.values()) == {None}


def test_weights_of_nothing_are_the_reason() -> None:
    o = Outcomes("binary", np.array([0, 1]), np.array([0.1, 0.2]), weight=np.zeros(2))
    assert measure(o).reasons["brier"] == "all weights are 0"


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"kind": "clusters"}, "not a kind of model"),
        ({"y": [0, 2]}, "a label is no class.*0 to 1"),
        ({"y": [0.5, 1]}, "a label is no class"),
        ({"y": [np.nan, 1]}, "a label is no class"),
        ({"y": [[0, 1]]}, "one number per row"),
        ({"p": [0.5]}, r"shape \(2,\), got shape \(1,\)"),
        ({"kind": "multiclass", "classes": ("a",)}, "two classes or more"),
        ({"kind": "multiclass", "classes": ("a", "b")}, r"shape \(2, 2\)"),
        ({"kind": "regression", "y": [np.inf, 1]}, "no finite number.*1 of 2"),
        ({"kind": "regression", "y": [np.nan, np.nan]}, "no finite number.*2 of 2"),
        ({"kind": "ranking"}, "without their queries"),
        ({"weight": [1]}, "different rows"),
        ({"weight": [1, -1]}, "no number of 0 or more"),
        ({"weight": [1, np.nan]}, "no number of 0 or more"),
        ({"group": [1]}, "codes per row"),
        ({"group": [1.0, 2.0]}, "codes per row"),
        ({"group": [0, -1]}, "without a group"),
    ],
)
def test_rows_that_are_no_outcomes_are_refused(told: dict[str, Any], words: str) -> None:
    made = {"kind": "binary", "y": [0, 1], "p": [0.2, 0.3], **told}
    with pytest.raises(DefinitionError, match=words):
        Outcomes(**{k: np.array(v) if k in ("y", "p", "weight", "group") else v for k, v in made.items()})


# -- intervals ------------------------------------------------------------------------------------------------------
SMOOTH = [(k, m) for k in KINDS for m in METRICS[k] if m not in ("median_error", "calibration_error")]


@pytest.mark.parametrize(("kind", "metric"), SMOOTH)
@pytest.mark.parametrize("weighted", [False, True])
def test_an_influence_is_the_derivative_by_a_weight(kind: Kind, metric: str, weighted: bool) -> None:
    o = outcomes(kind, 48, seed=4, weighted=weighted)
    found = influence(o, metric)
    step, units = 1e-6, np.arange(48) if o.group is None else o.group
    slow = []
    for unit in np.unique(units):
        moved = np.where(units == unit, o.weights * (1 + step), o.weights)
        less = np.where(units == unit, o.weights * (1 - step), o.weights)
        ends = [measure(Outcomes(o.kind, o.y, o.p, o.classes, w, o.group)).values[metric] for w in (moved, less)]
        slow.append((ends[0] - ends[1]) / (2 * step))  # type: ignore[operator]
    np.testing.assert_allclose(found, slow, atol=1e-7)
    assert abs(found.sum()) < 1e-9


def test_influences_of_a_group_are_added() -> None:
    o = outcomes("binary", 80, grouped=True, weighted=True)
    alone = influence(Outcomes("binary", o.y, o.p, weight=o.weight), "roc_auc")
    assert influence(o, "roc_auc") == pytest.approx(np.bincount(o.group, weights=alone))  # type: ignore[arg-type]
    assert deviation(np.ones(1)) != deviation(np.ones(1))


def delong_variance(y: np.ndarray, p: np.ndarray) -> float:
    above = (p[y == 1][:, None] > p[y == 0][None, :]) + 0.5 * (p[y == 1][:, None] == p[y == 0][None, :])
    return float(np.var(above.mean(axis=1), ddof=1) / (y == 1).sum() + np.var(above.mean(axis=0), ddof=1) / (y == 0).sum())


def test_the_error_of_an_auc_is_that_of_delong() -> None:
    o = outcomes("binary", 3000)
    assert deviation(influence(o, "roc_auc")) ** 2 == pytest.approx(delong_variance(o.y, o.p), rel=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_hold_the_true_value_about_as_often_as_they_say(kind: Kind) -> None:
    """The truth is what a very large sample has, and 0 for the error of these calibrated models; 200 samples of 320 rows."""
    truth = {**measure(outcomes(kind, 80_000, seed=99, ties=6)).values, "calibration_error": 0.0}
    held = dict.fromkeys(METRICS[kind], 0)
    for seed in range(200):
        for metric, (low, high) in measure(outcomes(kind, 320, seed=seed, ties=6)).intervals.items():
            held[metric] += low <= truth[metric] <= high  # type: ignore[operator]
    assert {m: n for m, n in held.items() if n < 178} == {}


@pytest.mark.parametrize("sharper", [0.5, 2.0])
def test_the_interval_of_a_real_calibration_error_holds_it(sharper: float) -> None:
    def distorted(n: int, seed: int) -> Outcomes:
        o = outcomes("binary", n, seed, ties=6)
        odds = (o.p / (1 - o.p + 1e-9)) ** sharper
        return Outcomes("binary", o.y, odds / (1 + odds))

    truth = measure(distorted(200_000, 99)).values["calibration_error"]
    found = [measure(distorted(500, seed)).intervals["calibration_error"] for seed in range(200)]
    assert sum(low <= truth <= high for low, high in found) >= 178  # type: ignore[operator]
    assert np.mean([high - low for low, high in found]) < 0.12


def test_rows_of_a_group_do_not_count_as_independent() -> None:
    o = outcomes("regression", 400)
    twice = o.take(np.repeat(np.arange(400), 4))
    alone, naive = measure(o).intervals["mae"], measure(twice).intervals["mae"]
    grouped = measure(Outcomes("regression", twice.y, twice.p, group=np.repeat(np.arange(400), 4))).intervals["mae"]
    assert naive[1] - naive[0] == pytest.approx((alone[1] - alone[0]) / 2, rel=0.02)
    assert grouped == pytest.approx(alone)


def test_intervals_stay_within_what_a_metric_can_be() -> None:
    y = np.array([0, 1] * 30)
    found = measure(Outcomes("binary", y, y * 0.98 + 0.01))
    assert all(0 <= low <= high <= 1 for low, high in found.intervals.values())
    assert found.intervals["accuracy"][0] < 1.0


# -- records --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_measured_survives_json(kind: Kind) -> None:
    found = Evaluation(measure(outcomes(kind)))
    assert from_record(json.loads(json.dumps(found.as_record()))) == found


def test_records_of_before_intervals_are_read() -> None:
    old = {"overall": {"rows": 60, "positives": 30, "values": {"roc_auc": 0.7}, "reasons": {}}, "slices": []}
    assert from_record(old).overall == Measured(60, 30, {"roc_auc": 0.7}, {}, {}, "binary")


def test_more_is_better_or_not() -> None:
    assert goodness("roc_auc", 0.8) > goodness("roc_auc", 0.7)
    assert goodness("rmse", 0.7) > goodness("rmse", 0.8)
    assert goodness("bias", -0.1) > goodness("bias", 0.3)
    assert not Measured(100, 0, kind="binary").enough
    assert Measured(100, 0, kind="regression").enough
    assert not Measured(49, 0, kind="regression").enough
