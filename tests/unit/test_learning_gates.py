"""Splits, metrics, slices and gates say what they must, and why."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, brier_score_loss, log_loss, roc_auc_score

from penstock.craft.learning import gates, slices
from penstock.craft.learning.calibration import calibration_error, reliability
from penstock.craft.learning.gates import GateResult, Judged
from penstock.craft.learning.measured import Evaluation, Measured, Slice, from_record
from penstock.craft.learning.metrics import auc_interval, measure
from penstock.craft.learning.outcomes import Outcomes
from penstock.craft.learning.splits import boundary
from penstock.ground.errors import DefinitionError
from penstock.spec.models import METRICS as BY_KIND
from penstock.spec.models import by_time, metric

METRICS = BY_KIND["binary"]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# -- splits ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("test", "newest", "first"),
    [
        ("1 month", "2014-01-01T04:59:00", "2013-12-01T04:59:00"),
        ("1 month", "2013-03-31T12:00:00", "2013-02-28T12:00:00"),
        ("1 month", "2012-03-31T12:00:00", "2012-02-29T12:00:00"),
        ("14 months", "2013-01-15T00:00:00", "2011-11-15T00:00:00"),
        ("30d", "2013-12-31T00:00:00", "2013-12-01T00:00:00"),
        ("36h", "2013-12-31T00:00:00", "2013-12-29T12:00:00"),
        ("2013-12-01", "2013-12-31T00:00:00", "2013-12-01T00:00:00"),
        ("2013-12-01T06:00:00+02:00", "2013-12-31T00:00:00", "2013-12-01T04:00:00"),
    ],
)
def test_the_test_set_begins_where_asked(test: str, newest: str, first: str) -> None:
    assert boundary(by_time(test=test), utc(newest)) == utc(first)
    assert boundary(by_time(test=test), datetime.fromisoformat(newest)) == datetime.fromisoformat(first)


def test_a_moment_after_the_newest_row_leaves_no_test_set() -> None:
    with pytest.raises(DefinitionError, match="test set is empty"):
        boundary(by_time(test="2014-01-01"), utc("2013-12-31T00:00:00"))
    with pytest.raises(DefinitionError, match="not a moment"):
        boundary(by_time(test="2013-13-41"), utc("2013-12-31T00:00:00"))


# -- metrics --------------------------------------------------------------------------------------------------------
def sample(n: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p = np.round(rng.random(n), 2)
    return (rng.random(n) < p).astype(np.int8), p


def binary(y: np.ndarray, p: np.ndarray) -> Outcomes:
    return Outcomes("binary", y, p)


def test_metrics_are_those_of_the_library() -> None:
    y, p = sample(400)
    p[:2] = 0.0, 1.0
    got = measure(binary(y, p))
    assert set(got.values) == set(METRICS)
    assert (got.rows, got.positives, got.reasons) == (400, int(y.sum()), {})
    ours = [got.values[m] for m in ("roc_auc", "average_precision", "log_loss", "brier", "accuracy")]
    theirs = [
        roc_auc_score(y, p),
        average_precision_score(y, p),
        log_loss(y, p),
        brier_score_loss(y, p),
        accuracy_score(y, p >= 0.5),
    ]
    assert ours == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize(("label", "word"), [(0, "false"), (1, "true")])
def test_one_class_has_no_ranking_and_says_so(label: int, word: str) -> None:
    got = measure(binary(np.full(60, label, dtype=np.int8), np.linspace(0, 1, 60)))
    assert set(got.values) == set(METRICS)
    assert [m for m in METRICS if got.values[m] is None] == ["roc_auc", "average_precision"]
    assert got.reasons["roc_auc"] == f"all labels are {word}"
    assert not got.enough


def test_no_rows_and_no_numbers_have_reasons() -> None:
    nothing = measure(binary(np.empty(0, dtype=np.int8), np.empty(0)))
    assert set(nothing.values.values()) == {None}
    assert nothing.reasons["brier"] == "there are no labelled rows"
    assert measure(binary(np.array([0, 1], dtype=np.int8), np.array([math.nan, 1.5]))).reasons["brier"] == "2 scores are not within [0, 1]"


def test_calibration_error_by_hand() -> None:
    p = np.repeat([0.2, 0.6], [5, 5])
    y = np.array([1, 0, 0, 0, 0, 1, 1, 1, 1, 1], dtype=np.int8)
    assert calibration_error(y, p) == pytest.approx(0.5 * 0.0 + 0.5 * 0.4)
    bins = reliability(y, p)
    assert bins.as_record() == {"predicted": [0.2, 0.6], "observed": [0.2, 1.0], "count": [5, 5]}
    assert (bins.score.tolist(), bins.share.tolist(), bins.rows.tolist()) == ([pytest.approx(0.2), pytest.approx(0.6)], [0.2, 1.0], [5, 5])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_calibration_does_not_depend_on_the_order_of_rows(pairs: list[tuple[bool, int]], shuffle: object) -> None:
    def error(rows: list[tuple[bool, int]]) -> float:
        return calibration_error(np.array([y for y, _ in rows], dtype=np.int8), np.array([p / 8 for _, p in rows]))

    mixed = list(pairs)
    shuffle.shuffle(mixed)  # type: ignore[attr-defined]
    assert error(mixed) == pytest.approx(error(pairs), abs=1e-12)
    assert 0 <= error(pairs) <= 1
    y = np.array([y for y, _ in pairs], dtype=np.int8)
    assert int(reliability(y, np.array([p / 8 for _, p in pairs])).rows.sum()) == len(pairs)


def test_bins_have_equal_count_where_scores_differ() -> None:
    y, _ = sample(1000)
    assert reliability(y, np.random.default_rng(3).random(1000)).rows.tolist() == [100] * 10
    assert reliability(y[:0], np.empty(0)).rows.tolist() == []


def test_the_interval_of_an_auc_is_that_of_the_paper() -> None:
    # Hanley and McNeil 1982, table II: 58 normal and 51 abnormal, area 0.893, standard error 0.032
    low, high = auc_interval(0.893, 51, 58, z=1.0)
    assert (high - low) / 2 == pytest.approx(0.032, abs=0.0006)
    assert auc_interval(1.0, 10, 10) == (1.0, 1.0)


# -- slices ---------------------------------------------------------------------------------------------------------
def test_slices_are_measured_by_value() -> None:
    y, p = sample(300)
    where = ["JFK"] * 100 + ["EWR"] * 150 + [None] * 30 + ["LGA"] * 20
    by = pa.table({"origin": pa.chunked_array([where[:120], where[120:]]), "weekend": pa.array([i % 7 > 4 for i in range(300)])})
    found = slices.evaluate(binary(y, p), by)
    assert found.overall == measure(binary(y, p))
    assert [(s.value, s.measured.rows) for s in found.of("origin")] == [("EWR", 150), ("JFK", 100), (None, 30), ("LGA", 20)]
    assert found.of("origin")[1].measured == measure(binary(y[:100], p[:100]))
    assert found.of("origin")[2].measured == measure(binary(y[250:280], p[250:280]))
    assert [s.value for s in found.of("weekend")] == ["false", "true"]
    assert from_record(json.loads(json.dumps(found.as_record()))) == found


def test_slices_of_nothing() -> None:
    found = slices.evaluate(binary(np.empty(0, dtype=np.int8), np.empty(0)), pa.table({"origin": pa.array([], pa.string())}))
    assert (found.overall.rows, found.slices) == (0, ())
    with pytest.raises(DefinitionError, match="different rows"):
        slices.evaluate(binary(*sample(3)), pa.table({"origin": ["a"]}))


def test_slices_are_ranked_from_worst_to_best() -> None:
    found = evaluation(0.7, JFK=0.6, EWR=0.8, LGA=0.65, small=(0.1, 49))
    assert [s.value for s in found.ranked("origin", "roc_auc")] == ["JFK", "LGA", "EWR"]
    assert [s.value for s in found.ranked("origin", "log_loss")] == ["EWR", "LGA", "JFK"]


# -- gates ----------------------------------------------------------------------------------------------------------
def measured(value: float | None, rows: int = 1000) -> Measured:
    return Measured(rows, rows // 3, {"roc_auc": value, "log_loss": value}, {} if value is not None else {"roc_auc": "all labels are true"})


def evaluation(overall: float | None, **origins: float | tuple[float, int]) -> Evaluation:
    parts = (Slice("origin", name, measured(*(v if isinstance(v, tuple) else (v,)))) for name, v in origins.items())
    return Evaluation(measured(overall), tuple(parts))


def judge(gate: object, found: Evaluation, production: Evaluation | None = None) -> GateResult:
    (result,) = gates.evaluate([gate], Judged(None, found), Judged(None, production) if production else None)  # type: ignore[list-item]
    return result


AUC, LOSS = metric("roc_auc"), metric("log_loss")


@pytest.mark.parametrize(
    ("gate", "passed", "margin"),
    [(AUC >= 0.65, True, 0.05), (AUC >= 0.7, True, 0.0), (AUC >= 0.75, False, -0.05), (LOSS <= 0.8, True, 0.1), (LOSS <= 0.5, False, -0.2)],
)
def test_a_bound_is_held_or_not(gate: object, passed: bool, margin: float) -> None:
    result = judge(gate, evaluation(0.7))
    assert (result.passed, result.value) == (passed, 0.7)
    assert result.margin == pytest.approx(margin)
    assert bool(result.reason) is not passed
    assert json.loads(json.dumps(result.as_record()))["passed"] is passed


def test_what_cannot_be_computed_fails_with_its_reason() -> None:
    assert judge(AUC >= 0.0, evaluation(None)) == GateResult("roc_auc >= 0", False, reason="roc_auc has no value: all labels are true")
    empty = judge(metric("brier") <= 1, Evaluation(measure(binary(np.empty(0, dtype=np.int8), np.empty(0)))))
    assert (empty.passed, empty.reason) == (False, "brier has no value: there are no labelled rows")
    assert not judge(AUC >= 0.5, evaluation(math.nan)).passed
    assert not judge(metric("accuracy") >= 0.5, evaluation(0.7)).passed


@pytest.mark.parametrize(
    ("gate", "live", "passed"),
    [
        (AUC.not_below("production", by=0.01), 0.71, True),
        (AUC.not_below("production", by=0.01), 0.72, False),
        (AUC.not_below("production"), 0.6, True),
        (LOSS.not_below("production", by=0.01), 0.68, False),
        (LOSS.not_below("production", by=0.01), 0.695, True),
        (LOSS.not_below("production"), 0.9, True),
    ],
)
def test_production_must_not_be_better_by_more_than_allowed(gate: object, live: float, passed: bool) -> None:
    assert judge(gate, evaluation(0.7), evaluation(live)).passed is passed


def test_comparisons_without_something_to_compare_with() -> None:
    first = judge(AUC.not_below("production"), evaluation(0.7))
    assert (first.passed, first.reason) == (True, "nothing is in production yet")
    assert judge(AUC.not_below("production"), evaluation(0.7), evaluation(None)).reason == "roc_auc of production has no value"
    assert not judge(AUC.not_below("yesterday"), evaluation(0.7)).passed


def test_every_large_slice_must_pass_and_the_worst_is_named() -> None:
    gate = metric("roc_auc", slice="origin") >= 0.6
    found = evaluation(0.9, JFK=0.55, EWR=0.8, LGA=0.58, tiny=(0.1, 49))
    result = judge(gate, found)
    assert (result.passed, result.slice, result.value, result.too_small) == (False, "JFK", 0.55, ("tiny",))
    assert result.margin == pytest.approx(-0.05)
    assert result.reason == "origin JFK: 0.55 is below 0.6 by 0.05; 2 of 3 values fail"
    good = judge(gate, evaluation(0.9, JFK=0.61, EWR=0.8))
    assert (good.passed, good.slice, good.value, good.reason) == (True, "JFK", 0.61, "")
    nobody = judge(gate, evaluation(0.9, tiny=(0.9, 49)))
    assert (nobody.passed, nobody.too_small) == (False, ("tiny",))
    assert "no value of origin has 50" in nobody.reason
    assert not judge(metric("roc_auc", slice="dest") >= 0.6, found).passed


def test_slices_are_compared_with_the_same_slices_of_production() -> None:
    gate = metric("roc_auc", slice="origin").not_below("production", by=0.02)
    live = evaluation(0.9, JFK=0.7, EWR=0.7)
    assert judge(gate, evaluation(0.9, JFK=0.69, EWR=0.9, new=0.1), live).passed
    worse = judge(gate, evaluation(0.9, JFK=0.69, EWR=0.6), live)
    assert (worse.passed, worse.slice, worse.bound) == (False, "EWR", pytest.approx(0.68))


def test_judging_gates_loads_no_heavy_library() -> None:
    code = (
        "import sys, penstock.craft.learning.gates, penstock.craft.learning.training, penstock.craft.learning.splits\n"
        "import penstock.craft.learning.encoding, penstock.craft.temporal.windows\n"
        "print([m for m in ('numpy', 'sklearn', 'skops', 'pyarrow', 'pandas', 'duckdb') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
