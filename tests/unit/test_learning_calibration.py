"""Calibrations are data, rise, and make scores probabilities; reliability of every kind."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from penstock.craft.learning.calibration import Calibrator, Curve, bins_of, calibration_error, fit, from_record, reliability, reliability_of
from penstock.craft.learning.metrics import measure
from penstock.craft.learning.outcomes import Outcomes
from penstock.ground.errors import ArtefactRefused, DefinitionError
from penstock.spec.models import Calibration

HOWS: tuple[Calibration, ...] = ("isotonic", "sigmoid")


def distorted(n: int, seed: int, sharper: float = 3.0, shift: float = 1.0) -> Outcomes:
    rng = np.random.default_rng(seed)
    truth = rng.beta(2, 3, n)
    odds = sharper * np.log(truth / (1 - truth)) + shift
    return Outcomes("binary", rng.uniform(size=n) < truth, 1 / (1 + np.exp(-odds)))


def distorted_classes(n: int, seed: int) -> Outcomes:
    rng = np.random.default_rng(seed)
    truth = rng.dirichlet([1, 2, 3], n)
    y = (truth.cumsum(axis=1)[:, :-1] < rng.uniform(size=(n, 1))).sum(axis=1)
    sharp = truth**3
    return Outcomes("multiclass", y, sharp / sharp.sum(axis=1, keepdims=True), ("a", "b", "c"))


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("make", [distorted, distorted_classes])
def test_scores_become_probabilities_of_rows_not_seen(how: Calibration, make: Any) -> None:
    calibrator, other = fit(make(5000, 1), how), make(5000, 2)
    before = measure(other)
    after = measure(Outcomes(other.kind, other.y, calibrator.apply(other.p), other.classes))
    for metric, most in (("calibration_error", 0.5), ("log_loss", 0.95), ("brier", 1.0)):
        assert after.values[metric] < most * before.values[metric], metric  # type: ignore[operator]
    assert calibrator.apply(other.p).shape == other.p.shape


@pytest.mark.parametrize("how", HOWS)
def test_a_calibrated_model_is_left_about_as_it_is(how: Calibration) -> None:
    o = distorted(20_000, 3, sharper=1.0, shift=0.0)
    assert np.mean(np.abs(fit(o, how).apply(o.p) - o.p)) < 0.02
    if how == "sigmoid":
        (curve,) = fit(o, how).curves
        assert (curve.slope, curve.intercept) == (pytest.approx(1, abs=0.06), pytest.approx(0, abs=0.06))


def test_isotonic_is_that_of_the_library() -> None:
    o = distorted(500, 4)
    fitted = IsotonicRegression(out_of_bounds="clip").fit(o.p, o.y)
    p = np.linspace(0, 1, 101)
    np.testing.assert_allclose(fit(o).apply(p), np.clip(fitted.predict(p), 1 / 502, 501 / 502), atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1), st.integers(0, 3)), min_size=2, max_size=50), st.sampled_from(HOWS))
def test_a_calibration_rises_says_neither_never_nor_always_and_survives_json(rows: list[tuple[bool, float, int]], how: Calibration) -> None:
    y, p, w = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    o = Outcomes("binary", y, p, weight=w)
    if not w.any() or y[w > 0].min() == y[w > 0].max():
        with pytest.raises(DefinitionError):
            fit(o, how)
        return
    calibrator = fit(o, how)
    back = from_record(json.loads(json.dumps(calibrator.as_record())))
    assert back == calibrator
    found = back.apply(np.linspace(0, 1, 33))
    assert np.all(np.diff(found) >= 0)
    assert found.min() >= 0
    assert found.max() <= 1
    if how == "isotonic":
        assert 0 < found.min() <= found.max() < 1


def test_perfectly_separated_scores_do_not_run_away() -> None:
    o = Outcomes("binary", np.repeat([0, 1], 50), np.repeat([0.1, 0.9], 50))
    found = fit(o, "sigmoid").apply(np.array([0.1, 0.9]))
    assert found == pytest.approx([1 / 52, 51 / 52], abs=1e-3)


def test_rows_of_multiclass_scores_add_up_and_a_row_of_nothing_keeps_its_scores() -> None:
    made = fit(distorted_classes(800, 1)).apply(distorted_classes(50, 2).p)
    np.testing.assert_allclose(made.sum(axis=1), 1)
    nothing = Calibrator("isotonic", (Curve((0.0,), (0.0,)), Curve((0.0,), (0.0,))))
    assert nothing.apply(np.array([[0.3, 0.7]])).tolist() == [[0.3, 0.7]]


def test_what_cannot_be_calibrated_is_refused() -> None:
    with pytest.raises(DefinitionError, match="only probabilities"):
        fit(Outcomes("regression", np.arange(3.0), np.arange(3.0)))
    with pytest.raises(DefinitionError, match="every label is true"):
        fit(Outcomes("binary", np.ones(5), np.full(5, 0.5)))
    with pytest.raises(DefinitionError, match="no label is c"):
        fit(Outcomes("multiclass", np.array([0, 1]), np.full((2, 3), 1 / 3), ("a", "b", "c")))
    with pytest.raises(DefinitionError, match="no labelled rows"):
        fit(Outcomes("binary", np.empty(0), np.empty(0)))
    with pytest.raises(DefinitionError, match="isotonic, sigmoid"):
        fit(distorted(50, 1), "beta")  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="another model"):
        fit(distorted(50, 1)).apply(np.full((2, 3), 1 / 3))


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"how": "isotonic", "curves": []},
        {"how": "isotonic", "curves": [{"x": [0, 1], "y": [1, 0]}]},
        {"how": "isotonic", "curves": [{"x": [0], "y": [0, 1]}]},
        {"how": "isotonic", "curves": [{"x": [0, 1], "y": [0, 1.5]}]},
        {"how": "isotonic", "curves": [{"x": [], "y": []}]},
        {"how": "sigmoid", "curves": [{"slope": -1, "intercept": 0}]},
        {"how": "sigmoid", "curves": [{"slope": "nan", "intercept": 0}]},
        {"how": "os.system", "curves": [{"slope": 1, "intercept": 0}]},
        {"how": "isotonic", "curves": 5},
    ],
)
def test_what_is_no_calibration_is_refused(record: dict[str, Any]) -> None:
    with pytest.raises(ArtefactRefused, match="not a calibration"):
        from_record(record)


# -- reliability ----------------------------------------------------------------------------------------------------
def test_a_weight_is_as_many_rows_in_a_bin() -> None:
    y, p = np.array([1, 0, 1, 0]), np.array([0.2, 0.2, 0.8, 0.8])
    weighted = reliability(y, p, weight=np.array([3.0, 1, 1, 0]))
    assert (weighted.share.tolist(), weighted.rows.tolist()) == ([0.75, 1.0], [2, 2])
    assert calibration_error(y, p, weight=np.array([3.0, 1, 1, 0])) == pytest.approx((abs(4 * 0.2 - 3) + 0.2) / 5)
    assert reliability(y, p, weight=np.array([0.0, 0, 1, 1])).score.tolist() == [0.8]
    assert set(bins_of(np.full(9, 0.5))) == {9}


def test_reliability_of_every_kind() -> None:
    binary = distorted(1000, 1)
    assert reliability_of(binary) == reliability(binary.y, binary.p).as_record()
    many = distorted_classes(1000, 1)
    told = reliability_of(many)
    assert np.average(told["observed"], weights=told["count"]) == pytest.approx(measure(many).values["accuracy"], abs=1e-6)
    y = np.random.default_rng(1).normal(size=1000)
    told = reliability_of(Outcomes("regression", y + np.random.default_rng(2).normal(size=1000), y))
    assert len(told["residuals"]) == 10
    assert np.mean(told["residuals"], axis=0) == pytest.approx([-1.28, 0, 1.28], abs=0.12)
    assert reliability_of(Outcomes("ranking", y, y, group=np.zeros(1000, dtype=int))) == {}
