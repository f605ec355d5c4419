"""Calibration: whether scores can be read as probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Reliability:
    """Points of a reliability plot, by rising score: per bin the mean score, the share of true labels, and the rows."""

    score: NDArray[np.float64]
    share: NDArray[np.float64]
    rows: NDArray[np.int64]

    def as_record(self) -> dict[str, list[float]]:
        """JSON-ready, to six decimal places: predicted, observed, count."""
        return {"predicted": np.round(self.score, 6).tolist(), "observed": np.round(self.share, 6).tolist(), "count": self.rows.tolist()}


def reliability(y: NDArray[np.int8], p: NDArray[np.float64], *, bins: int = 10) -> Reliability:
    """Scores in bins of about equal count, with what came true in each.

    Equal scores share a bin, so the order of rows does not matter; there are fewer bins than asked for where scores tie.

    Shapes:  y and p (n rows) -> at most `bins` bins, none empty.
    """
    if len(p) == 0:
        return Reliability(np.empty(0), np.empty(0), np.empty(0, dtype=np.int64))
    ordered = np.sort(p)
    edges = ordered[[len(p) * i // bins for i in range(1, bins)]]
    bin_of = np.searchsorted(edges, p, side="right")
    rows = np.bincount(bin_of, minlength=bins)
    used = rows > 0
    score = np.bincount(bin_of, weights=p, minlength=bins)[used] / rows[used]
    share = np.bincount(bin_of, weights=y, minlength=bins)[used] / rows[used]
    return Reliability(score, share, rows[used])


def calibration_error(y: NDArray[np.int8], p: NDArray[np.float64], *, bins: int = 10) -> float:
    """Expected calibration error: the mean distance of score and share over bins of equal count, weighted by rows; in [0, 1].

    Source: Naeini, Cooper and Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015, ECE;
    bins of equal count after Nguyen and O'Connor, "Posterior Calibration and Exploratory Analysis", EMNLP 2015, section 3.
    """
    found = reliability(y, p, bins=bins)
    return float(np.sum(found.rows * np.abs(found.score - found.share)) / len(p)) if len(p) else 0.0
