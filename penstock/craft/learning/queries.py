"""Metrics of rankings, per query: all queries at once, in arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.craft.learning.outcomes import Outcomes


@dataclass(frozen=True, eq=False)
class Queries:
    """Metrics of each of q queries, in the order of their codes; NaN for a query without any relevant row.

    Shapes:  ndcg, ndcg_10, average_precision, reciprocal_rank, weight (q) float64; query_of_row (n) int64.
    Attributes:
        weight: the mean weight of a query's rows.
    """

    ndcg: NDArray[np.float64]
    ndcg_10: NDArray[np.float64]
    average_precision: NDArray[np.float64]
    reciprocal_rank: NDArray[np.float64]
    weight: NDArray[np.float64]
    query_of_row: NDArray[np.int64]

    def of(self, metric: str) -> NDArray[np.float64]:
        """The values behind a metric of `spec.models.METRICS["ranking"]`."""
        return {
            "ndcg": self.ndcg,
            "ndcg_10": self.ndcg_10,
            "mean_average_precision": self.average_precision,
            "mean_reciprocal_rank": self.reciprocal_rank,
        }[metric]


def by_query(outcomes: Outcomes) -> Queries:
    """The metrics of each query of a ranking.

    A row is relevant if its label is above 0; the gain of NDCG is the label itself. Rows of equal score share the discounts of
    their places; average precision and reciprocal rank count all of them as standing at the last of these places.

    Cost:    O(n log n).
    Source:  Järvelin and Kekäläinen, "Cumulated Gain-Based Evaluation of IR Techniques", TOIS 20 (2002); equal scores after
             McSherry and Najork, "Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied
             Scores", ECIR 2008, as scikit-learn's `ndcg_score`.
    """
    assert outcomes.group is not None
    _, codes = np.unique(outcomes.group, return_inverse=True)
    codes = codes.reshape(-1)
    order = np.lexsort((-outcomes.p, codes))
    q, p, y = codes[order], outcomes.p[order], outcomes.y[order]
    sizes = np.bincount(q) if len(q) else np.zeros(0, dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    place = np.arange(len(q)) - starts[q]
    tie = np.cumsum(np.concatenate([[True], (q[1:] != q[:-1]) | (p[1:] != p[:-1])])[: len(q)]) - 1
    last = np.cumsum(np.bincount(tie)) - 1 if len(q) else np.zeros(0, dtype=np.int64)
    relevant = y > 0
    seen = np.cumsum(relevant)
    found = seen[last][tie] - (seen[starts] - relevant[starts])[q]
    rank = place[last][tie] + 1
    total = np.bincount(q, weights=relevant, minlength=len(sizes))
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.bincount(q, weights=np.where(relevant, found / rank, 0.0), minlength=len(sizes)) / total
    first = np.minimum.reduceat(np.where(relevant, rank, np.inf), starts) if len(sizes) else np.zeros(0)
    ideal = outcomes.y[np.lexsort((-outcomes.y, codes))]
    weight = np.bincount(codes, weights=outcomes.weights, minlength=len(sizes)) / sizes
    return Queries(
        _ndcg(q, y, ideal, place, tie, total, None),
        _ndcg(q, y, ideal, place, tie, total, 10),
        precision,
        np.where(total > 0, 1 / first, np.nan),
        weight,
        codes,
    )


def _ndcg(
    q: NDArray[np.int64],
    y: NDArray[np.float64],
    ideal: NDArray[np.float64],
    place: NDArray[np.int64],
    tie: NDArray[np.int64],
    total: NDArray[np.float64],
    most: int | None,
) -> NDArray[np.float64]:
    discount = 1 / np.log2(place + 2.0)
    if most is not None:
        discount = np.where(place < most, discount, 0.0)
    shared = (np.bincount(tie, weights=discount) / np.bincount(tie))[tie] if len(tie) else discount
    best = np.bincount(q, weights=ideal * discount, minlength=len(total))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, np.bincount(q, weights=y * shared, minlength=len(total)) / best, np.nan)
