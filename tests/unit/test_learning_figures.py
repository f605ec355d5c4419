"""Figures of the rows, drift less what sampling makes of it, and curves that are small and right."""

from __future__ import annotations

import json
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import auc, confusion_matrix, roc_auc_score

from penstock.craft.learning import curves, figures
from penstock.craft.learning.figures import drift, psi
from penstock.craft.learning.outcomes import Outcomes
from penstock.spec.models import FIGURES


def table(n: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "x": pa.array(rng.normal(size=n), mask=rng.uniform(size=n) < 0.1),
            "few": rng.integers(0, 4, n),
            "place": rng.choice(["a", "b", "c"], n),
            "late": rng.uniform(size=n) < 0.2,
            "day": pa.array([date(2020, 1, 1) + timedelta(days=int(d)) for d in rng.integers(0, 90, n)]),
            "list": pa.array([[1]] * n),
        }
    )


# -- drift ----------------------------------------------------------------------------------------------------------
def test_rows_of_the_same_kind_do_not_drift() -> None:
    found = drift(table(2000, 1), table(900, 2))
    assert {d.column for d in found} == {"x", "few", "place", "late", "day"}
    assert found[0].psi < 0.02
    assert min(d.p for d in found) > 0.001


@pytest.mark.parametrize("rows", [60, 300, 3000])
def test_what_sampling_makes_is_taken_off(rows: int) -> None:
    """Without it the index of 60 rows in ten bins is about 0.3, which reads as much drift."""
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        one, two = (pa.table({"x": rng.normal(size=rows)}) for _ in range(2))
        found.append(drift(one, two)[0])
    assert np.mean([d.raw for d in found]) == pytest.approx(9 * 2 / rows, rel=0.35)
    assert np.mean([d.psi for d in found]) < 0.25 * np.mean([d.raw for d in found])
    assert sum(d.p < 0.05 for d in found) <= 10


@pytest.mark.parametrize(
    ("column", "moved"),
    [
        ("x", lambda t: pa.array(t["x"].to_numpy() + 0.7)),
        ("x", lambda t: pa.nulls(len(t), pa.float64())),
        ("x", lambda t: pa.array(np.full(len(t), np.nan))),
        ("few", lambda t: pa.array(np.full(len(t), 99))),
        ("place", lambda t: pa.array(["new"] * len(t))),
        ("late", lambda t: pa.array([True] * len(t))),
        ("day", lambda t: pa.array([date(2020, 6, 1)] * len(t))),
    ],
)
def test_a_column_that_moved_is_the_first(column: str, moved: Any) -> None:
    train, test = table(1000, 1), table(1000, 2)
    test = test.set_column(test.column_names.index(column), column, moved(test))
    found = drift(train, test)
    assert found[0].column == column
    assert found[0].psi > 0.25
    assert found[0].p < 1e-9


def test_an_index_by_hand() -> None:
    found = psi("x", np.array([50, 50, 0]), np.array([80, 20, 0]))
    p, q = np.array([50.5, 50.5]) / 101, np.array([80.5, 20.5]) / 101
    assert found.raw == pytest.approx(float(np.sum((q - p) * np.log(q / p))))
    assert (found.bins, found.psi) == (2, pytest.approx(found.raw - 0.02))
    assert psi("x", np.array([5]), np.array([9])).p == 1.0


# -- all figures ----------------------------------------------------------------------------------------------------
def test_figures_are_those_of_gates_and_json() -> None:
    train, test = table(300, 1), table(100, 2)
    told = figures.of("multiclass", 3000, 1000, np.array([0, 0, 1, 1, 1]), train, test, ("a", "b", "c"))
    assert set(FIGURES) <= set(told)
    assert (told["train_rows"], told["test_rows"], told["least_class"]) == (3000, 1000, 0.0)
    assert json.loads(json.dumps(told)) == told
    assert told["feature_drift"] == pytest.approx(told["drifts"][0]["psi"], rel=1e-3)
    assert figures.of("binary", 4, 1, np.array([0, 1, 1, 1]), train, test)["least_class"] == 0.25
    assert figures.of("regression", 4, 1, np.arange(4.0), train, test)["least_class"] is None


def test_figures_without_columns_or_rows() -> None:
    told = figures.of("binary", 0, 0, np.empty(0), pa.table({}), pa.table({}))
    assert (told["feature_drift"], told["overlap"], told["least_class"], told["drifts"]) == (None, None, None, [])
    none = figures.of("binary", 5, 0, np.zeros(5), table(5, 1), table(0, 1))
    assert (none["feature_drift"], none["overlap"]) == (None, None)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["a", None, ""]), st.sampled_from([0.0, -0.0, None, 1.5])), min_size=1, max_size=30
    ),
    st.integers(1, 29),
)
def test_overlap_is_the_share_of_test_rows_that_were_learnt_from(rows: list[tuple[Any, ...]], cut: int) -> None:
    at = min(cut, len(rows))
    schema = pa.schema([("a", pa.int64()), ("b", pa.string()), ("c", pa.float64())])
    whole = pa.table([pa.array(c, f.type) for c, f in zip(zip(*rows, strict=True), schema, strict=True)], schema=schema)
    told = figures.of("binary", at, len(rows) - at, np.zeros(at), whole[:at], whole[at:])["overlap"]
    if at == len(rows):
        assert told is None
        return
    learnt = set(rows[:at])
    assert told == pytest.approx(np.mean([r in learnt for r in rows[at:]]))


# -- curves ---------------------------------------------------------------------------------------------------------
def longest(told: Any) -> int:
    if isinstance(told, dict):
        return max((longest(v) for v in told.values()), default=0)
    return max(len(told), *(longest(v) for v in told)) if isinstance(told, list) and told else 0


def test_curves_of_a_binary_model() -> None:
    rng = np.random.default_rng(1)
    p = rng.uniform(size=20_000)
    o = Outcomes("binary", rng.uniform(size=20_000) < p, p, weight=rng.integers(1, 3, 20_000))
    told = curves.of(o)
    assert json.loads(json.dumps(told)) == told
    assert longest(told) <= curves.POINTS
    assert auc(told["roc"]["x"], told["roc"]["y"]) == pytest.approx(roc_auc_score(o.y, p, sample_weight=o.weight), abs=2e-3)
    assert (told["roc"]["x"][0], told["roc"]["y"][0], told["roc"]["x"][-1], told["roc"]["y"][-1]) == (0, 0, 1, 1)
    assert np.diff(told["precision_recall"]["x"]).min() >= 0
    assert told["confusion"]["counts"] == confusion_matrix(o.y, p >= 0.5, sample_weight=o.weight).tolist()
    assert sum(told["scores"]["true"]) == pytest.approx(np.sum(o.weights * o.y), rel=1e-5)


def test_curves_of_many_classes_are_folded() -> None:
    rng = np.random.default_rng(1)
    k = 20
    y = np.minimum(rng.geometric(0.15, 4000) - 1, k - 1)
    o = Outcomes("multiclass", y, rng.dirichlet(np.ones(k), 4000), tuple(f"c{i}" for i in range(k)))
    told = curves.of(o)
    assert len(told["roc"]) == curves.MOST_CLASSES
    assert told["confusion"]["classes"][-1] == "9 others"
    assert np.shape(told["confusion"]["counts"]) == (12, 12)
    assert np.sum(told["confusion"]["counts"]) == 4000
    assert longest(told) <= curves.POINTS_OF_MANY
    few = Outcomes("multiclass", y[y < 3], rng.dirichlet(np.ones(3), int((y < 3).sum())), ("a", "b", "c"))
    assert curves.of(few)["confusion"]["counts"] == confusion_matrix(few.y, few.p.argmax(axis=1)).tolist()


def test_curves_of_the_other_kinds() -> None:
    y = np.random.default_rng(1).normal(size=5000)
    told = curves.of(Outcomes("regression", y, y * 0.5))
    assert sum(told["residuals"]["count"]) == 5000
    assert len(told["reliability"]["predicted"]) == 10
    assert curves.of(Outcomes("regression", np.ones(5), np.ones(5)))["residuals"]["count"][15] == 5
    told = curves.of(Outcomes("ranking", y > 0, y, group=np.arange(5000) // 10))
    assert told["queries"]["count"][-1] == sum(told["queries"]["count"])


def test_curves_of_what_defines_none() -> None:
    assert curves.of(Outcomes("binary", np.empty(0), np.empty(0))) == {"kind": "binary"}
    lone = curves.of(Outcomes("binary", np.zeros(5), np.full(5, 0.5)))
    assert "roc" not in lone
    assert "precision_recall" not in lone
    assert "roc" not in curves.of(Outcomes("multiclass", np.zeros(5), np.full((5, 2), 0.5), ("a", "b")))
    assert curves.of(Outcomes("ranking", np.zeros(5), np.zeros(5), group=np.zeros(5, dtype=int))) == {"kind": "ranking"}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=400))
def test_every_curve_is_short_and_within_its_square(rows: list[tuple[bool, float]]) -> None:
    y, p = (np.array(c, dtype=float) for c in zip(*rows, strict=True))
    told = curves.of(Outcomes("binary", y, p))
    assert longest(told) <= curves.POINTS
    for name in ("roc", "precision_recall"):
        for axis in ("x", "y"):
            values = told.get(name, {"x": [0], "y": [0]})[axis]
            assert 0 <= min(values) <= max(values) <= 1


def test_a_learning_curve_keeps_its_ends() -> None:
    told = curves.learning([(i, 1 / (i + 1), None if i % 2 else 0.5) for i in range(1000)], "log_loss")
    assert (len(told["x"]), told["x"][0], told["x"][-1]) == (200, 0, 999)
    assert curves.learning([], "log_loss") == {"metric": "log_loss", "x": [], "train": [], "held": []}
