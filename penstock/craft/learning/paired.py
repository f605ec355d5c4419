"""Comparisons of two models on the same rows: whether the one is worse by more than allowed, and more than noise explains."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray
from scipy.special import bdtr, ndtr, ndtri, stdtr, stdtrit

from penstock.craft.learning.calibration import calibration_error, top_label
from penstock.craft.learning.influence import DRAWN, deviation, influence
from penstock.craft.learning.losses import row_losses
from penstock.craft.learning.measured import Measured, goodness
from penstock.craft.learning.metrics import values_of
from penstock.craft.learning.outcomes import Outcomes
from penstock.ground.errors import DefinitionError

#: The chance of calling a model worse that is exactly as bad as allowed.
LEVEL = 0.05
#: Draws of a paired bootstrap, and how many rows all of them together may draw.
DRAWS, DRAWN_ROWS = 1000, 50_000_000


@dataclass(frozen=True)
class Comparison:
    """A candidate beside another model on the same rows.

    Attributes:
        difference: by how much the candidate is better, in units of the metric; negative if it is worse.
        low, high: its 90 % interval: `high` is the upper end of the one-sided 95 % interval.
        p: the chance of a difference as low as this or lower, were the candidate worse by exactly what is allowed.
        test: the name of the test.
    """

    difference: float
    low: float
    high: float
    p: float
    test: str

    @property
    def worse(self) -> bool:
        """Whether the candidate is worse by more than allowed, beyond noise."""
        return self.p < LEVEL

    def as_record(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"difference": self.difference, "interval": [self.low, self.high], "p": self.p, "test": self.test}


def compare(metric: str, candidate: Outcomes, other: Outcomes, *, by: float = 0.0, seed: int = 0) -> Comparison | None:
    """The candidate beside the other model by a metric; None where either has no value of it.

    Accuracy of independent rows of equal weight is tested exactly on the rows where one is right and the other wrong if nothing
    is allowed (McNemar); metrics without a derivative by a paired bootstrap; all others by Student's t of the two models'
    influences, row by row, which for the area under the ROC curve is DeLong's test and for a mean the paired t-test. Rows of a
    group count as one.

    Args:    by: how much worse the candidate may be, in units of the metric.
             seed: of the bootstrap.
    Raises:  DefinitionError(E1001) if the two are not about the same rows.
    Source:  DeLong et al., see `influence`; McNemar, Psychometrika 12 (1947), in its exact form, with the interval of Bonett and
             Price, "Adjusted Wald Confidence Interval for a Difference of Binomial Proportions Based on Paired Data", JEBS 37
             (2012); Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    _require_same(candidate, other)
    mine, theirs = values_of(candidate)[0].get(metric), values_of(other)[0].get(metric)
    if mine is None or theirs is None:
        return None
    difference = goodness(metric, mine) - goodness(metric, theirs)
    if metric in DRAWN:
        return _bootstrapped(metric, candidate, other, difference, by, seed)
    if metric == "accuracy" and candidate.weight is None and candidate.group is None and by == 0:
        return _mcnemar(candidate, other, difference)
    moved = _sign(metric, mine) * influence(candidate, metric) - _sign(metric, theirs) * influence(other, metric)
    freedom = max(len(moved) - 1, 1)
    error = deviation(moved)
    name = "DeLong" if metric == "roc_auc" else "paired t"
    if not error > 0:
        return Comparison(difference, difference, difference, float(difference >= -by - 1e-12), name)
    reach = float(stdtrit(freedom, 1 - LEVEL)) * error
    return Comparison(difference, difference - reach, difference + reach, float(stdtr(freedom, (difference + by) / error)), name)


def beside(metric: str, candidate: Measured, other: Measured, *, by: float = 0.0) -> Comparison | None:
    """As `compare` for a model of which only what was measured is known, on rows of its own; None without values or intervals.

    The two intervals are taken as those of independent normal estimates.
    """
    mine, theirs = candidate.values.get(metric), other.values.get(metric)
    ends = [m.intervals.get(metric) for m in (candidate, other)]
    if mine is None or theirs is None or ends[0] is None or ends[1] is None:
        return None
    difference = goodness(metric, mine) - goodness(metric, theirs)
    error = math.hypot(*((high - low) / (2 * float(ndtri(0.975))) for low, high in (ends[0], ends[1])))
    if not error > 0:
        return None
    reach = float(ndtri(1 - LEVEL)) * error
    return Comparison(difference, difference - reach, difference + reach, float(ndtr((difference + by) / error)), "unpaired z")


def losses_apart(candidate: Outcomes, other: Outcomes, most: int = 20) -> tuple[int, ...]:
    """Numbers of the rows on which the candidate loses most against the other model, the worst first."""
    apart = row_losses(candidate) - row_losses(other)
    order = np.argsort(-apart, kind="stable")[:most]
    return tuple(int(i) for i in order if apart[i] > 0)


def worst(outcomes: Outcomes, most: int = 20) -> tuple[int, ...]:
    """Numbers of the rows with the greatest loss, the worst first."""
    return tuple(int(i) for i in np.argsort(-row_losses(outcomes), kind="stable")[:most])


def _require_same(candidate: Outcomes, other: Outcomes) -> None:
    if len(candidate) != len(other) or candidate.kind != other.kind:
        raise DefinitionError("models are compared on the same rows", expected=f"{len(candidate)} rows", got=f"{len(other)} rows")
    if candidate.classes == other.classes and not np.array_equal(candidate.y, other.y):
        raise DefinitionError("models are compared on the same rows", expected="equal labels", got="other labels")


def _sign(metric: str, value: float) -> float:
    """How goodness changes with the metric."""
    return (-1.0 if value > 0 else 1.0) if metric == "bias" else goodness(metric, 1.0)


def _mcnemar(candidate: Outcomes, other: Outcomes, difference: float) -> Comparison:
    mine, theirs = row_losses(candidate, "accuracy") > 0, row_losses(other, "accuracy") > 0
    won, lost, n = int(np.count_nonzero(mine & ~theirs)), int(np.count_nonzero(~mine & theirs)), len(mine)
    a, b = (won + 1) / (n + 2), (lost + 1) / (n + 2)
    reach = float(ndtri(1 - LEVEL)) * math.sqrt((a + b - (a - b) ** 2) / (n + 2))
    p = float(bdtr(won, won + lost, 0.5)) if won + lost else 1.0
    return Comparison(difference, a - b - reach, a - b + reach, p, "McNemar")


def _bootstrapped(metric: str, candidate: Outcomes, other: Outcomes, difference: float, by: float, seed: int) -> Comparison:
    """The share of draws beyond what is allowed, each draw a weight per unit; the interval by their quantiles."""
    pairs = [o if o.kind != "multiclass" else top_label(o) for o in (candidate, other)]
    draws = max(100, min(DRAWS, DRAWN_ROWS // max(len(candidate), 1)))
    found = np.array(
        [
            goodness(metric, _value(metric, pairs[0], weight)) - goodness(metric, _value(metric, pairs[1], weight))
            for weight in _draws(pairs[0], draws, seed)
        ]
    )
    low, high = float(np.quantile(found, LEVEL)), float(np.quantile(found, 1 - LEVEL))
    beyond = (np.count_nonzero(found >= -by - 1e-12) + 1) / (draws + 1)
    return Comparison(difference, low, high, float(beyond), "paired bootstrap")


def _value(metric: str, outcomes: Outcomes, weight: NDArray[np.float64]) -> float:
    if metric == "calibration_error":
        return calibration_error(outcomes.y, outcomes.p, weight=weight)
    drawn = weight > 0
    errors, weight = row_losses(outcomes, "mae")[drawn], weight[drawn]
    order = np.argsort(errors)
    passed = np.cumsum(weight[order])
    return float(errors[order][np.searchsorted(passed, passed[-1] / 2)])


def _draws(outcomes: Outcomes, draws: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Weights of the rows in one resample of the units after the other."""
    generator = default_rng(seed)
    weights, codes = outcomes.weights, None
    units = len(outcomes)
    if outcomes.group is not None:
        known, codes = np.unique(outcomes.group, return_inverse=True)
        units, codes = len(known), codes.reshape(-1)
    for _ in range(draws):
        times = np.bincount(generator.integers(0, units, units), minlength=units)
        yield weights * (times if codes is None else times[codes])
