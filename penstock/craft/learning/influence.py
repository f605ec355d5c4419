"""Influence: how much each row, or each group of rows, moves a metric; the root of intervals and of paired comparisons.

A metric of n rows is a function of their weights. Its derivative by a row's weight, times that weight, is the row's influence;
influences add up to 0, and the sum of their squares is the metric's variance (the infinitesimal jackknife). Where groups are
given, the influences of a group's rows are added first, so that rows which are not independent are not counted as if they were.

Source: Efron, "The Jackknife, the Bootstrap and Other Resampling Plans", SIAM 1982, chapter 6. For the area under the ROC curve
these are the components of DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.craft.learning.losses import predicted, row_losses
from penstock.craft.learning.outcomes import Outcomes
from penstock.craft.learning.queries import by_query

#: Metrics that are means over rows.
MEANS = frozenset({"log_loss", "brier", "accuracy", "mae", "mape", "bias"})
#: Metrics without a derivative worth the name: their noise is drawn.
DRAWN = frozenset({"median_error", "calibration_error"})


def influence(outcomes: Outcomes, metric: str) -> NDArray[np.float64]:
    """How much each unit moves a metric that these rows define and that is not in `DRAWN`.

    Shapes:  (u units): the n rows, or the groups in the order of their codes where the outcomes have groups.
    Cost:    O(n log n).
    """
    if outcomes.kind == "ranking":
        return _of_queries(outcomes, metric)
    found = _of_rows(outcomes, metric)
    if outcomes.group is None:
        return found
    _, codes = np.unique(outcomes.group, return_inverse=True)
    return np.bincount(codes.reshape(-1), weights=found)


def deviation(influences: NDArray[np.float64]) -> float:
    """The standard error of what these influences belong to; NaN for fewer than two units."""
    units = len(influences)
    return float(np.sqrt(np.sum(influences**2) * units / (units - 1))) if units > 1 else float("nan")


def _of_queries(outcomes: Outcomes, metric: str) -> NDArray[np.float64]:
    found = by_query(outcomes)
    values, weight = found.of(metric), np.where(np.isnan(found.ndcg), 0.0, found.weight)
    share = weight / weight.sum()
    known = np.where(weight > 0, values, 0.0)
    return share * (known - np.sum(share * known)) * (weight > 0)


def _of_rows(outcomes: Outcomes, metric: str) -> NDArray[np.float64]:
    w = outcomes.weights
    if metric in MEANS:
        return _of_mean(row_losses(outcomes, metric), w)
    if metric == "rmse":
        squares = row_losses(outcomes, "mse")
        root = float(np.sqrt(np.average(squares, weights=w)))
        return _of_mean(squares, w) / (2 * root) if root else np.zeros(len(w))
    if metric == "r2":
        return _of_r2(outcomes, w)
    if metric in ("balanced_accuracy", "f1_macro"):
        return _of_classes(outcomes, w, f1=metric == "f1_macro")
    of_scores = _of_auc if metric == "roc_auc" else _of_precision
    if outcomes.kind == "binary":
        return of_scores(outcomes.y == 1, outcomes.p, w)
    parts = [of_scores(outcomes.y == c, outcomes.p[:, c], w) for c in np.unique(outcomes.y[w > 0])]
    return np.mean(parts, axis=0)


def _of_mean(values: NDArray[np.float64], w: NDArray[np.float64]) -> NDArray[np.float64]:
    return w * (values - np.average(values, weights=w)) / w.sum()


def _of_r2(outcomes: Outcomes, w: NDArray[np.float64]) -> NDArray[np.float64]:
    left = row_losses(outcomes, "mse")
    spread = (outcomes.y - np.average(outcomes.y, weights=w)) ** 2
    total = float(np.sum(w * spread))
    return -w * (left - float(np.sum(w * left)) / total * spread) / total


def _of_classes(outcomes: Outcomes, w: NDArray[np.float64], *, f1: bool) -> NDArray[np.float64]:
    """Influence on the mean over classes of recall, or of F1 = 2 hits / (labelled + predicted)."""
    y, said = outcomes.y, predicted(outcomes)
    k = len(outcomes.classes)
    labelled = np.bincount(y, weights=w, minlength=k)
    called = np.bincount(said, weights=w, minlength=k)
    hits = np.bincount(y[said == y], weights=w[said == y], minlength=k)
    hit = (said == y).astype(np.float64)
    of_label = np.where(labelled > 0, labelled, 1.0)
    if not f1:
        return w * (hit - (hits / of_label)[y]) / of_label[y] / np.count_nonzero(labelled)
    either = np.where(labelled + called > 0, labelled + called, 1.0)
    score = 2 * hits / either
    told = 2 * hit / either[y] - (score / either)[y] - (score / either)[said]
    return w * told / np.count_nonzero(labelled + called)


def _of_auc(true: NDArray[np.bool_], p: NDArray[np.float64], w: NDArray[np.float64]) -> NDArray[np.float64]:
    """A true row's influence is the share of false rows that it stands above, less the mean; and the other way round."""
    _, level = np.unique(p, return_inverse=True)
    level = level.reshape(-1)
    up, down = np.bincount(level, weights=w * true), np.bincount(level, weights=w * ~true)
    positives, negatives = up.sum(), down.sum()
    below = (np.cumsum(down) - down / 2) / negatives
    above = (positives - np.cumsum(up) + up / 2) / positives
    auc = float(np.sum(up * below) / positives)
    return w * np.where(true, (below[level] - auc) / positives, (above[level] - auc) / negatives)


def _of_precision(true: NDArray[np.bool_], p: NDArray[np.float64], w: NDArray[np.float64]) -> NDArray[np.float64]:
    """Influence on average precision, the mean over true rows of hits / called at each one's score."""
    _, level = np.unique(-p, return_inverse=True)
    level = level.reshape(-1)
    up, every = np.bincount(level, weights=w * true), np.bincount(level, weights=w)
    hits, called = np.cumsum(up), np.cumsum(every)
    called = np.where(called > 0, called, 1.0)
    positives = hits[-1]
    average = float(np.sum(up * hits / called) / positives)
    one = np.cumsum((up / called)[::-1])[::-1]
    two = np.cumsum((up * hits / called**2)[::-1])[::-1]
    own = np.where(true, (hits / called)[level] - average, 0.0)
    return w * (own + np.where(true, one[level], 0.0) - two[level]) / positives
