"""Calibration: whether scores can be read as probabilities, and how they are made to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.craft.learning.losses import predicted
from penstock.craft.learning.outcomes import Outcomes
from penstock.ground.errors import ArtefactRefused, DefinitionError
from penstock.spec.models import Calibration


# -- looking --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Reliability:
    """Points of a reliability plot, by rising score: per bin the mean score, the share of true labels, and the rows."""

    score: NDArray[np.float64]
    share: NDArray[np.float64]
    rows: NDArray[np.int64]

    def as_record(self) -> dict[str, list[float]]:
        """JSON-ready, to six decimal places: predicted, observed, count."""
        return {"predicted": np.round(self.score, 6).tolist(), "observed": np.round(self.share, 6).tolist(), "count": self.rows.tolist()}


def bins_of(p: NDArray[np.float64], bins: int = 10) -> NDArray[np.int64]:
    """The bin of each score: bins of about equal count by rising score, equal scores in one, so that some may be empty."""
    ordered = np.sort(p)
    edges = ordered[[len(p) * i // bins for i in range(1, bins)]] if len(p) else ordered
    return np.searchsorted(edges, p, side="right")


def reliability(y: NDArray[Any], p: NDArray[np.float64], *, bins: int = 10, weight: NDArray[np.float64] | None = None) -> Reliability:
    """Scores in bins of about equal count, with what came true in each. For regression the same with means of labels.

    Equal scores share a bin, so the order of rows does not matter; there are fewer bins than asked for where scores tie.

    Shapes:  y and p (n rows) -> at most `bins` bins, none empty or without weight.
    """
    if len(p) == 0:
        return Reliability(np.empty(0), np.empty(0), np.empty(0, dtype=np.int64))
    bin_of = bins_of(p, bins)
    rows = np.bincount(bin_of, minlength=bins)
    total = rows if weight is None else np.bincount(bin_of, weights=weight, minlength=bins)
    used = total > 0
    score = np.bincount(bin_of, weights=p if weight is None else p * weight, minlength=bins)[used] / total[used]
    share = np.bincount(bin_of, weights=y if weight is None else y * weight, minlength=bins)[used] / total[used]
    return Reliability(score, share, rows[used])


def reliability_of(outcomes: Outcomes) -> dict[str, Any]:
    """The record of a model's reliability: of the class it chose for multiclass; empty for a ranking.

    For regression the mean of predictions and labels per bin, and of the residuals, label less prediction, the 10 %, 50 % and
    90 % quantiles.
    """
    if outcomes.kind == "ranking" or outcomes.strange:
        return {}
    o = top_label(outcomes) if outcomes.kind == "multiclass" else outcomes
    told: dict[str, Any] = reliability(o.y, o.p, weight=o.weight).as_record()
    if o.kind == "regression":
        bin_of = bins_of(o.p)
        found = [np.quantile((o.y - o.p)[bin_of == b], [0.1, 0.5, 0.9]) for b in np.unique(bin_of[o.weights > 0])]
        told["residuals"] = [[float(f"{v:.6g}") for v in quantiles.tolist()] for quantiles in found]
    return told


def top_label(outcomes: Outcomes) -> Outcomes:
    """A multiclass model as a binary one: the chance it gave to the class it chose, and whether that class came true.

    Source: Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, section 2.
    """
    right = (predicted(outcomes) == outcomes.y).astype(np.int8)
    return Outcomes("binary", right, outcomes.p.max(axis=1, initial=0.0), weight=outcomes.weight, group=outcomes.group)


def calibration_error(y: NDArray[Any], p: NDArray[np.float64], *, bins: int = 10, weight: NDArray[np.float64] | None = None) -> float:
    """Expected calibration error: the mean distance of score and share over bins of equal count, weighted by rows; in [0, 1].

    Source: Naeini, Cooper and Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015, ECE;
    bins of equal count after Nguyen and O'Connor, "Posterior Calibration and Exploratory Analysis", EMNLP 2015, section 3.
    """
    if len(p) == 0:
        return 0.0
    bin_of = bins_of(p, bins)
    gap = p - y if weight is None else (p - y) * weight
    return float(np.sum(np.abs(np.bincount(bin_of, weights=gap))) / (len(p) if weight is None else weight.sum()))


# -- making ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Curve:
    """A rising map of scores to probabilities: straight lines between points for isotonic, or a logistic line over log odds."""

    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    slope: float = 1.0
    intercept: float = 0.0

    def apply(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        """Shapes: p (n) within [0, 1] -> (n) within [0, 1]."""
        if self.x:
            return np.interp(p, self.x, self.y)
        return 1 / (1 + np.exp(-np.clip(self.slope * _log_odds(p) + self.intercept, -500, 500)))


@dataclass(frozen=True)
class Calibrator:
    """What makes a model's scores probabilities; plain data. One curve for a binary model, one per class for multiclass."""

    how: Calibration
    curves: tuple[Curve, ...]

    def apply(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        """Calibrated scores.

        Shapes:  (n) -> (n) with one curve; (n, k) -> (n, k) with k, each row divided by its sum; a row that no class is left of
                 keeps its scores.
        Raises:  DefinitionError(E1001) for scores of another number of classes.
        """
        p = np.asarray(p, dtype=np.float64)
        if (1 if p.ndim == 1 else p.shape[1]) != len(self.curves):
            raise DefinitionError("the calibration is of another model", expected=f"{len(self.curves)} curves", got=f"shape {p.shape}")
        if p.ndim == 1:
            return self.curves[0].apply(p)
        made = np.column_stack([curve.apply(p[:, c]) for c, curve in enumerate(self.curves)])
        total = made.sum(axis=1, keepdims=True)
        return np.where(total > 0, made / np.where(total > 0, total, 1.0), p)

    def as_record(self) -> dict[str, Any]:
        """JSON-ready; `from_record` reads it, and the numbers come back bit by bit."""
        isotonic = self.how == "isotonic"
        curves = [{"x": list(c.x), "y": list(c.y)} if isotonic else {"slope": c.slope, "intercept": c.intercept} for c in self.curves]
        return {"how": self.how, "curves": curves}


def from_record(record: Mapping[str, Any]) -> Calibrator:
    """What `Calibrator.as_record` gave. Raises: ArtefactRefused(E6002) for anything else."""
    try:
        how = record["how"]
        if how == "isotonic":
            curves = tuple(Curve(tuple(map(float, c["x"])), tuple(map(float, c["y"]))) for c in record["curves"])
        else:
            curves = tuple(Curve(slope=float(c["slope"]), intercept=float(c["intercept"])) for c in record["curves"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtefactRefused(f"not a calibration: {type(error).__name__}: {error}") from error
    if how not in ("isotonic", "sigmoid") or not curves or not all(_sound(how, c) for c in curves):
        raise ArtefactRefused("not a calibration", expected="curves that rise within [0, 1]", got=how)
    return Calibrator(how, curves)


def fit(outcomes: Outcomes, how: Calibration = "isotonic") -> Calibrator:
    """A calibration learnt from scores and labels of rows that the model did not learn from.

    `sigmoid` has two numbers per class and needs few rows; `isotonic` may take any rising shape and wants a thousand or more.
    Neither says 0 or 1: a class of which no row came true in n is as likely as one row in n + 2. Multiclass scores are calibrated
    class by class against the rest.

    Raises:  DefinitionError(E1001) if these rows do not have both classes, or every class, or hold scores that are none.
    Source:  Zadrozny and Elkan, KDD 2002, for isotonic and for one against the rest; Platt, "Probabilistic Outputs for Support
             Vector Machines", 1999, with its targets (n + 1) / (n + 2), over the log odds of the score, so that a calibrated
             model is left as it is.
    """
    if outcomes.kind not in ("binary", "multiclass"):
        raise DefinitionError("only probabilities can be calibrated", got=outcomes.kind)
    if how not in ("isotonic", "sigmoid"):
        raise DefinitionError("not a way to calibrate", expected="isotonic, sigmoid", got=how)
    if reason := outcomes.strange:
        raise DefinitionError("scores cannot be calibrated", got=reason)
    one = _isotonic if how == "isotonic" else _sigmoid
    w = outcomes.weights
    columns = [(outcomes.y == 1, outcomes.p, "true")] if outcomes.kind == "binary" else [
        (outcomes.y == c, outcomes.p[:, c], name) for c, name in enumerate(outcomes.classes)
    ]  # fmt: skip
    for true, _, name in columns:
        if not true[w > 0].any() or true[w > 0].all():
            what = "no" if not true[w > 0].any() else "every"
            raise DefinitionError("a calibration needs rows of every class", got=f"{what} label is {name}", hint="hold back more rows")
    return Calibrator(how, tuple(one(true, p, w) for true, p, _ in columns))


def _isotonic(true: NDArray[np.bool_], p: NDArray[np.float64], w: NDArray[np.float64]) -> Curve:
    from sklearn.isotonic import IsotonicRegression

    kept = w > 0
    fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(
        p[kept], true[kept].astype(np.float64), sample_weight=w[kept]
    )
    least = 1 / (np.count_nonzero(kept) + 2)
    y = np.clip(fitted.y_thresholds_, least, 1 - least)
    return Curve(tuple(np.asarray(fitted.X_thresholds_, dtype=np.float64).tolist()), tuple(y.tolist()))


def _sigmoid(true: NDArray[np.bool_], p: NDArray[np.float64], w: NDArray[np.float64]) -> Curve:
    from scipy.optimize import minimize

    kept = w > 0
    x, w, true = _log_odds(p[kept]), w[kept] / w[kept].mean(), true[kept]
    up, down = float(np.sum(w[true])), float(np.sum(w[~true]))
    target = np.where(true, (up + 1) / (up + 2), 1 / (down + 2))

    def loss(line: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = line[0] * x + line[1]
        off = w * (1 / (1 + np.exp(-np.clip(z, -500, 500))) - target)
        return float(np.sum(w * (np.logaddexp(0, z) - target * z)) / len(x)), np.array([np.sum(off * x), np.sum(off)]) / len(x)

    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0.0, None), (None, None)])
    return Curve(slope=float(found.x[0]), intercept=float(found.x[1]))


def _log_odds(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores are kept 1e-12 away from 0 and 1."""
    near = np.clip(p, 1e-12, 1 - 1e-12)
    return np.log(near / (1 - near))


def _sound(how: str, curve: Curve) -> bool:
    if how == "sigmoid":
        return bool(np.isfinite(curve.slope) and np.isfinite(curve.intercept) and curve.slope >= 0)
    x, y = np.array(curve.x), np.array(curve.y)
    rises = len(x) == len(y) > 0 and bool(np.all(np.diff(x) >= 0) and np.all(np.diff(y) >= 0))
    return rises and bool(np.all((y >= 0) & (y <= 1)) and np.all(np.isfinite(x)))
