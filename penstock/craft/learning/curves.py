"""Curves of a model as data: what a plot needs and no more, at most 200 points each, JSON-ready."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.metrics import precision_recall_curve, roc_curve

from penstock.craft.learning.calibration import reliability_of
from penstock.craft.learning.losses import predicted
from penstock.craft.learning.outcomes import Outcomes
from penstock.craft.learning.queries import by_query

#: Points of a curve, points of each of several in one plot, bins of a histogram, and classes that are drawn apart.
POINTS, POINTS_OF_MANY, HISTOGRAM, MOST_CLASSES = 200, 60, 30, 12


def of(outcomes: Outcomes) -> dict[str, Any]:
    """The curves of a kind; what these rows do not define is not there.

    binary      `roc` and `precision_recall` (x, y), `reliability`, `scores` (histogram by label), `confusion` at 0.5
    multiclass  `roc` (name, x, y) of each of the most frequent classes against the rest, `reliability` of the chosen class,
                `confusion` (rows: labels, columns: predictions; rare classes together)
    regression  `reliability` (means of predictions and labels, with quantiles of residuals), `residuals` (histogram of
                label less prediction)
    ranking     `queries` (histogram of NDCG)

    Units:   numbers are rounded to six significant digits; those of regression have the label's unit.
    """
    if outcomes.strange:
        return {"kind": outcomes.kind}
    made = {"binary": _binary, "multiclass": _multiclass, "regression": _regression, "ranking": _ranking}[outcomes.kind](outcomes)
    return {"kind": outcomes.kind, **made}


def learning(points: Sequence[tuple[int, float, float | None]], metric: str) -> dict[str, Any]:
    """A learning curve from (step or rows, value on training rows, value on rows held back): thinned, the last point kept."""
    kept = [points[i] for i in _thinned(len(points), POINTS)]
    x, train, held = (list(column) for column in zip(*kept, strict=True)) if kept else ([], [], [])
    return {"metric": metric, "x": x, "train": [_short(v) for v in train], "held": [None if v is None else _short(v) for v in held]}


def _binary(o: Outcomes) -> dict[str, Any]:
    told: dict[str, Any] = {"reliability": reliability_of(o), "confusion": _confusion(o, ("false", "true")), "scores": _scores(o)}
    if 0 < np.count_nonzero(o.weights * o.y) < np.count_nonzero(o.weights):
        told["roc"] = _roc(o.y == 1, o.p, o.weight, POINTS)
        with config_context(assume_finite=True, skip_parameter_validation=True):
            precision, recall, _ = precision_recall_curve(o.y, o.p, sample_weight=o.weight)
        told["precision_recall"] = _line(recall[::-1], precision[::-1], POINTS)
    return told


def _multiclass(o: Outcomes) -> dict[str, Any]:
    labelled = np.bincount(o.y, weights=o.weights, minlength=len(o.classes))
    frequent = [int(c) for c in np.argsort(-labelled, kind="stable")[:MOST_CLASSES] if 0 < labelled[c] < labelled.sum()]
    curves = [{"name": o.classes[c], **_roc(o.y == c, o.p[:, c], o.weight, POINTS_OF_MANY)} for c in frequent]
    return {"reliability": reliability_of(o), "confusion": _confusion(o, o.classes), **({"roc": curves} if curves else {})}


def _regression(o: Outcomes) -> dict[str, Any]:
    residuals = o.y - o.p
    return {"reliability": reliability_of(o), "residuals": _histogram(residuals, o.weights)}


def _ranking(o: Outcomes) -> dict[str, Any]:
    found = by_query(o)
    known = ~np.isnan(found.ndcg)
    return {"queries": _histogram(found.ndcg[known], found.weight[known], between=(0.0, 1.0))} if known.any() else {}


def _roc(true: NDArray[np.bool_], p: NDArray[np.float64], weight: NDArray[np.float64] | None, points: int) -> dict[str, list[float]]:
    with config_context(assume_finite=True, skip_parameter_validation=True):
        x, y, _ = roc_curve(true, p, sample_weight=weight)
    return _line(x, y, points)


def _line(x: NDArray[np.float64], y: NDArray[np.float64], points: int) -> dict[str, list[float]]:
    """A curve through at most so many of its points, about equally far from each other along it; both ends are kept."""
    if len(x) > points:
        passed = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
        kept = np.unique(np.append(np.searchsorted(passed, np.linspace(0, passed[-1], points - 1)), len(x) - 1).clip(0, len(x) - 1))
        x, y = x[kept], y[kept]
    return {"x": [_short(v) for v in x], "y": [_short(v) for v in y]}


def _scores(o: Outcomes) -> dict[str, Any]:
    """The weight of rows by score and label; bins of equal width over [0, 1]."""
    bin_of = np.minimum((o.p * HISTOGRAM).astype(np.int64), HISTOGRAM - 1)
    sides = {
        name: np.bincount(bin_of, weights=o.weights * (o.y == label), minlength=HISTOGRAM) for label, name in ((0, "false"), (1, "true"))
    }
    return {
        "edges": [_short(v) for v in np.linspace(0, 1, HISTOGRAM + 1)],
        **{name: [_short(v) for v in found] for name, found in sides.items()},
    }


def _histogram(values: NDArray[np.float64], w: NDArray[np.float64], *, between: tuple[float, float] | None = None) -> dict[str, Any]:
    """Weights by bins of equal width; the outermost bins also hold the half percent of rows beyond either end."""
    low, high = between or (float(np.quantile(values, 0.005)), float(np.quantile(values, 0.995)))
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, HISTOGRAM + 1)
    counts, _ = np.histogram(np.clip(values, low, high), bins=edges, weights=w)
    return {"edges": [_short(v) for v in edges], "count": [_short(v) for v in counts]}


def _confusion(o: Outcomes, classes: tuple[str, ...]) -> dict[str, Any]:
    k = len(classes)
    counts = np.bincount(o.y.astype(np.int64) * k + predicted(o), weights=o.weights, minlength=k * k).reshape(k, k)
    names = list(classes)
    if k > MOST_CLASSES:
        order = np.argsort(-counts.sum(axis=1), kind="stable")
        own, rare = np.sort(order[: MOST_CLASSES - 1]), order[MOST_CLASSES - 1 :]
        folded = np.zeros((MOST_CLASSES, k))
        folded[:-1], folded[-1] = counts[own], counts[rare].sum(axis=0)
        counts = np.column_stack([folded[:, own], folded[:, rare].sum(axis=1)])
        names = [classes[c] for c in own] + [f"{len(rare)} others"]
    return {"classes": names, "counts": [[_short(v) for v in row] for row in counts]}


def _thinned(n: int, most: int) -> list[int]:
    return list(range(n)) if n <= most else np.unique(np.linspace(0, n - 1, most).astype(np.int64)).tolist()


def _short(value: float) -> float:
    return float(f"{value:.6g}")
