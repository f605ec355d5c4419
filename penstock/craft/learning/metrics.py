"""Metrics of a binary classifier's scores on labelled rows."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.metrics import average_precision_score, roc_auc_score

from penstock.craft.learning.calibration import calibration_error
from penstock.craft.learning.measured import Measured
from penstock.spec.models import METRICS as BY_KIND

METRICS = BY_KIND["binary"]
_RANKING = ("roc_auc", "average_precision")
_SMALLEST = float(np.finfo(np.float64).eps)


def measure(y: NDArray[np.int8], p: NDArray[np.float64]) -> Measured:
    """Every metric of `spec.models.METRICS["binary"]`.

    Shapes:  y (n rows) of 0 and 1, p (n rows) scores in [0, 1].
    Nulls:   a metric that these rows do not define is None, with a reason: all of them for no rows or scores that are no
             numbers, the ranking ones where only one class occurs.
    """
    rows, positives = len(y), int(np.count_nonzero(y))
    if rows == 0:
        return _without(rows, positives, METRICS, "there are no labelled rows")
    if strange := rows - int(np.count_nonzero((p >= 0) & (p <= 1))):
        return _without(rows, positives, METRICS, f"{strange} scores are not within [0, 1]")
    values: dict[str, float | None] = {
        "log_loss": _log_loss(y, p),
        "brier": float(np.mean((p - y) ** 2)),
        "calibration_error": calibration_error(y, p),
        "accuracy": float(np.mean((p >= 0.5) == (y == 1))),
    }
    if not 0 < positives < rows:
        lone = _without(rows, positives, _RANKING, f"all labels are {'true' if positives else 'false'}")
        return Measured(rows, positives, {**lone.values, **values}, lone.reasons)
    with config_context(assume_finite=True, skip_parameter_validation=True):
        values |= {"roc_auc": float(roc_auc_score(y, p)), "average_precision": float(average_precision_score(y, p))}
    return Measured(rows, positives, values)


def auc_interval(auc: float, positives: int, negatives: int, *, z: float = 1.96) -> tuple[float, float]:
    """The interval of a ROC AUC by its standard error, within [0, 1]; z = 1.96 is about 95 %.

    Source: Hanley and McNeil, "The Meaning and Use of the Area under a ROC Curve", Radiology 143 (1982), equation 1.
    """
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = auc * (1 - auc) + (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)
    error = math.sqrt(max(0.0, spread) / (positives * negatives))
    return max(0.0, auc - z * error), min(1.0, auc + z * error)


def _log_loss(y: NDArray[np.int8], p: NDArray[np.float64]) -> float:
    """Mean negative log likelihood; scores are kept a machine epsilon away from 0 and 1, as scikit-learn does."""
    given = np.clip(np.where(y == 1, p, 1 - p), _SMALLEST, 1 - _SMALLEST)
    return float(-np.mean(np.log(given)))


def _without(rows: int, positives: int, metrics: tuple[str, ...], reason: str) -> Measured:
    return Measured(rows, positives, dict.fromkeys(metrics), dict.fromkeys(metrics, reason))
