"""Metrics of a model's scores on labelled rows, each with its interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray
from scipy.special import stdtrit
from sklearn import config_context
from sklearn.metrics import average_precision_score, roc_auc_score

from penstock.craft.learning.calibration import bins_of, calibration_error, top_label
from penstock.craft.learning.influence import deviation, influence
from penstock.craft.learning.losses import predicted, row_losses
from penstock.craft.learning.measured import Measured
from penstock.craft.learning.outcomes import Outcomes
from penstock.craft.learning.queries import by_query
from penstock.spec.models import METRICS

#: What metrics cannot be below and above; those not named have no bounds.
BOUNDS = {
    **dict.fromkeys(("log_loss", "rmse", "mae", "median_error", "mape"), (0.0, math.inf)),
    **dict.fromkeys(("bias",), (-math.inf, math.inf)),
    **dict.fromkeys(("r2",), (-math.inf, 1.0)),
}
#: Draws behind the interval of a calibration error.
DRAWS = 1000
_Z = NormalDist().inv_cdf(0.975)


def measure(outcomes: Outcomes, *, seed: int = 0) -> Measured:
    """Every metric of `spec.models.METRICS` of the outcomes' kind, weighted if they have weights, with 95 % intervals.

    Nulls:   a metric that these rows do not define is None, with a reason: all of them for no rows or scores that are none,
             the ranking ones where only one class occurs. An interval is missing where two units do not give one. Queries
             without a relevant row are left out of the means of a ranking.
    Units:   those of the label for rmse, mae, median_error and bias; the others have none. `mape` is a share, not a percentage.
    Args:    seed: of the draws for the interval of a calibration error.
    Source:  of the intervals, see `interval`.
    """
    values, reasons = values_of(outcomes)
    intervals = {}
    for name, value in values.items():
        if value is not None and (found := interval(outcomes, name, value, seed=seed)) is not None:
            intervals[name] = found
    return Measured(len(outcomes), outcomes.positives, values, reasons, intervals, outcomes.kind)


def values_of(outcomes: Outcomes) -> tuple[dict[str, float | None], dict[str, str]]:
    """The values of `measure` and the reasons of those that are None, without intervals."""
    names = METRICS[outcomes.kind]
    if reason := outcomes.strange:
        return dict.fromkeys(names), dict.fromkeys(names, reason)
    values, reasons = {"binary": _binary, "multiclass": _multiclass, "regression": _regression, "ranking": _ranking}[outcomes.kind](
        outcomes
    )
    return {n: values.get(n) for n in names}, reasons


# -- values ---------------------------------------------------------------------------------------------------------
def _binary(o: Outcomes) -> tuple[dict[str, float | None], dict[str, str]]:
    w = o.weight
    values: dict[str, float | None] = {m: _mean(o, m) for m in ("log_loss", "brier", "accuracy")}
    values["calibration_error"] = calibration_error(o.y, o.p, weight=w)
    with_weight = o.y if w is None else o.y[w > 0]
    if len(with_weight) == 0 or with_weight.min() == with_weight.max():
        reason = f"all labels are {'true' if with_weight.max(initial=0) else 'false'}"
        return values | dict.fromkeys(("roc_auc", "average_precision")), dict.fromkeys(("roc_auc", "average_precision"), reason)
    with config_context(assume_finite=True, skip_parameter_validation=True):
        values["roc_auc"] = float(roc_auc_score(o.y, o.p, sample_weight=w))
        values["average_precision"] = float(average_precision_score(o.y, o.p, sample_weight=w))
    return values, {}


def _multiclass(o: Outcomes) -> tuple[dict[str, float | None], dict[str, str]]:
    """Means over classes are over those that occur: among the labels, for F1 also among the predictions."""
    w, k = o.weights, len(o.classes)
    values: dict[str, float | None] = {m: _mean(o, m) for m in ("log_loss", "brier", "accuracy")}
    top = top_label(o)
    values["calibration_error"] = calibration_error(top.y, top.p, weight=top.weight)
    said = predicted(o)
    right = said == o.y
    hits = np.bincount(o.y[right], weights=w[right], minlength=k)
    labelled, called = np.bincount(o.y, weights=w, minlength=k), np.bincount(said, weights=w, minlength=k)
    values["balanced_accuracy"] = float(np.mean(hits[labelled > 0] / labelled[labelled > 0]))
    either = labelled + called
    values["f1_macro"] = float(np.mean(2 * hits[either > 0] / either[either > 0]))
    present = np.flatnonzero(labelled)
    if len(present) < 2:
        return values | {"roc_auc": None}, {"roc_auc": f"all labels are {o.classes[present[0]]}"}
    with config_context(assume_finite=True, skip_parameter_validation=True):
        values["roc_auc"] = float(np.mean([roc_auc_score(o.y == c, o.p[:, c], sample_weight=o.weight) for c in present]))
    return values, {}


def _regression(o: Outcomes) -> tuple[dict[str, float | None], dict[str, str]]:
    w = o.weights
    squares = row_losses(o, "mse")
    values: dict[str, float | None] = {
        "rmse": float(np.sqrt(np.average(squares, weights=w))),
        "mae": _mean(o, "mae"),
        "median_error": _quantile(row_losses(o, "mae"), w, 0.5),
        "bias": _mean(o, "bias"),
    }
    reasons = {}
    if zeros := int(np.count_nonzero(o.y == 0)):
        reasons["mape"] = f"{zeros} labels are 0"
    else:
        values["mape"] = _mean(o, "mape")
    spread = float(np.sum(w * (o.y - np.average(o.y, weights=w)) ** 2))
    if o.y.min() == o.y.max() or spread == 0:
        reasons["r2"] = "all labels are equal"
    else:
        values["r2"] = 1 - float(np.sum(w * squares)) / spread
    return values, reasons


def _ranking(o: Outcomes) -> tuple[dict[str, float | None], dict[str, str]]:
    names = METRICS["ranking"]
    found = by_query(o)
    weight = np.where(np.isnan(found.ndcg), 0.0, found.weight)
    if not weight.any():
        return dict.fromkeys(names), dict.fromkeys(names, "no query has a relevant row")
    values: dict[str, float | None] = {n: float(np.average(np.nan_to_num(found.of(n)), weights=weight)) for n in names}
    if o.y.min() < 0:
        gains = ("ndcg", "ndcg_10")
        return values | dict.fromkeys(gains), dict.fromkeys(gains, "a relevance below 0 is no gain")
    return values, {}


def _mean(outcomes: Outcomes, metric: str) -> float:
    return float(np.average(row_losses(outcomes, metric), weights=outcomes.weight))


def _quantile(values: NDArray[np.float64], w: NDArray[np.float64], share: float) -> float:
    """A weighted quantile: the middle of the two values between which the share of the weight lies."""
    order = np.argsort(values)
    passed = np.cumsum(w[order])
    wanted = share * passed[-1]
    at = np.searchsorted(passed, [wanted * (1 - 1e-12), wanted * (1 + 1e-12)]).clip(0, len(values) - 1)
    return float(np.mean(values[order][at]))


# -- intervals ------------------------------------------------------------------------------------------------------
def interval(outcomes: Outcomes, metric: str, value: float, *, seed: int = 0) -> tuple[float, float] | None:
    """The ends of a metric's 95 % interval, None for fewer than two units.

    Accuracy of independent rows has Wilson's interval and average precision the logit one; a median lies between two ranks;
    the error of calibration is held against `DRAWS` draws of the gaps of its bins, a test turned round; all others have Student's interval by their `influence`. Rows of a group count as one unit, but for the calibration error.

    Source:  Wilson, JASA 22 (1927), with Kish's effective number of rows for weights; Boyd, Eng and Page, "Area under the
             Precision-Recall Curve", ECML 2013, section 3; Efron, see `influence`.
    """
    low, high = BOUNDS.get(metric, (0.0, 1.0))
    if metric == "calibration_error":
        found = _drawn(outcomes if outcomes.kind == "binary" else top_label(outcomes), value, seed)
    elif metric == "median_error":
        found = _between_ranks(outcomes)
    elif metric == "accuracy" and outcomes.group is None:
        found = _wilson(value, effective(outcomes.weights))
    elif metric == "average_precision" and outcomes.group is None and 0 < value < 1:
        found = _logit(value, effective(outcomes.weights[outcomes.y == 1]))
    else:
        influences = influence(outcomes, metric)
        reach = float(stdtrit(max(len(influences) - 1, 1), 0.975)) * deviation(influences)
        found = value - reach, value + reach
    if not all(math.isfinite(end) for end in found):
        return None
    return max(low, found[0]), min(high, found[1])


def auc_interval(auc: float, positives: int, negatives: int, *, z: float = 1.96) -> tuple[float, float]:
    """The interval of a ROC AUC of which only the numbers of rows are known, within [0, 1]; z = 1.96 is about 95 %.

    Source: Hanley and McNeil, "The Meaning and Use of the Area under a ROC Curve", Radiology 143 (1982), equation 1.
    """
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = auc * (1 - auc) + (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)
    error = math.sqrt(max(0.0, spread) / (positives * negatives))
    return max(0.0, auc - z * error), min(1.0, auc + z * error)


def effective(weights: NDArray[np.float64]) -> float:
    """How many rows of equal weight say as much. Source: Kish, "Survey Sampling", Wiley 1965, section 11.7."""
    squares = float(np.sum(weights**2))
    return float(weights.sum()) ** 2 / squares if squares else 0.0


def _wilson(share: float, n: float) -> tuple[float, float]:
    middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    reach = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return middle - reach, middle + reach


def _logit(value: float, positives: float) -> tuple[float, float]:
    middle, reach = math.log(value / (1 - value)), _Z / math.sqrt(positives * value * (1 - value))
    return _unlogit(middle - reach), _unlogit(middle + reach)


def _unlogit(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def _between_ranks(outcomes: Outcomes) -> tuple[float, float]:
    """Errors at the ranks half of n, less and more 1.96 standard errors of a share of one half."""
    w = outcomes.weights
    n = effective(w) if outcomes.group is None else effective(np.bincount(outcomes.group, weights=w))
    if n < 2:
        return math.nan, math.nan
    reach = _Z * 0.5 / math.sqrt(n)
    errors = row_losses(outcomes, "mae")
    return _quantile(errors, w, max(0.0, 0.5 - reach)), _quantile(errors, w, min(1.0, 0.5 + reach))


def _drawn(outcomes: Outcomes, value: float, seed: int) -> tuple[float, float]:
    """True errors under which a measured one this small, or this great, is drawn in one of forty cases.

    The gaps of the bins are taken to be those measured, scaled to the error in question.
    """
    if len(outcomes) < 2:
        return math.nan, math.nan
    w, bin_of = outcomes.weights, bins_of(outcomes.p)
    gap = outcomes.p - outcomes.y
    weight = np.bincount(bin_of, weights=w)
    share = weight / weight.sum()
    with np.errstate(invalid="ignore"):
        mean = np.nan_to_num(np.bincount(bin_of, weights=w * gap) / weight)
        error = np.nan_to_num(np.sqrt(np.bincount(bin_of, weights=(w * (gap - mean[bin_of])) ** 2)) / weight)
    noise = default_rng(seed).normal(size=(DRAWS, len(share))) * error
    direction = mean / value if value > 0 else np.ones(len(share))

    def drawn(error: float, quantile: float) -> float:
        return float(np.quantile(np.abs(error * direction + noise) @ share, quantile))

    return min(value, _root(lambda e: drawn(e, 0.975), value)), max(value, _root(lambda e: drawn(e, 0.025), value))


def _root(rising: Callable[[float], float], value: float) -> float:
    """Where a rising function within [0, 1] passes a value, to a thousandth; an end if it does not."""
    low, high = 0.0, 1.0
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < value else (low, middle)
    return low if low == 0.0 else high
