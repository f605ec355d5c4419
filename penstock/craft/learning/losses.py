"""Losses of rows: what most metrics are means of, by which weak slices are found and the worst rows are shown."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from penstock.craft.learning.outcomes import Outcomes
from penstock.craft.learning.queries import by_query
from penstock.spec.models import Kind

#: The loss that tells most of a row, by kind.
TELLING: Mapping[Kind, str] = {"binary": "log_loss", "multiclass": "log_loss", "regression": "mae", "ranking": "ndcg"}
_SMALLEST = float(np.finfo(np.float64).eps)


def row_losses(outcomes: Outcomes, metric: str = "", *, least: float = _SMALLEST) -> NDArray[np.float64]:
    """What a metric is the mean of, per row; without a metric the loss that tells most (`TELLING`).

    `accuracy` gives 1 where the prediction is right, `bias` and the errors keep the unit of the label, `ndcg` gives what each
    row's query lacks of 1.

    Shapes:  (n rows) float64.
    Args:    metric: log_loss, brier, accuracy, mae, mape, bias, mse, or ndcg, as far as the kind has it.
             least: scores nearer to 0 or 1 are taken as this near, so that no row counts without bound.
    """
    metric = metric or TELLING[outcomes.kind]
    y, p = outcomes.y, outcomes.p
    if outcomes.kind == "ranking":
        found = by_query(outcomes)
        return (1 - found.ndcg)[found.query_of_row]
    if outcomes.kind == "regression":
        error = p - y
        if metric == "mape":
            return np.abs(error) / np.abs(y)
        return {"bias": lambda: error, "mse": lambda: error**2, "mae": lambda: np.abs(error)}[metric]()
    if metric == "accuracy":
        return (predicted(outcomes) == y).astype(np.float64)
    if metric == "brier":
        return (p - y) ** 2 if p.ndim == 1 else np.sum(p**2, axis=1) - 2 * _given(outcomes) + 1
    return -np.log(np.clip(_given(outcomes), least, 1 - least))


def predicted(outcomes: Outcomes) -> NDArray[np.int32]:
    """The likelier class per row, of two equal ones the first for multiclass and true for binary."""
    if outcomes.p.ndim == 1:
        return (outcomes.p >= 0.5).astype(np.int32)
    return np.argmax(outcomes.p, axis=1).astype(np.int32)


def _given(outcomes: Outcomes) -> NDArray[np.float64]:
    """The probability that the model gave to what came true."""
    p, y = outcomes.p, outcomes.y
    return np.where(y == 1, p, 1 - p) if p.ndim == 1 else p[np.arange(len(y)), y]
