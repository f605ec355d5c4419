"""Rows, keys and groups that stand on both sides of a split, told apart from rows that are alike because columns have few values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray

from penstock.craft.learning.telling import Flags, Floats, Ints

Digests: TypeAlias = NDArray[np.uint64]
#: Rows of the test set, and their share, that must be found again before anything is said.
LEAST_FOUND, LEAST_SHARE = 5, 0.005
#: Of the other rows the share that may agree in all columns but one, as a part of the share that agree in all.
CHANCE = 0.5
#: Columns left out one by one, those of the most values.
LEFT_OUT = 12
#: Nearest neighbours: test rows asked, training rows searched, how near the nearest is beside the fifth, and shares of rows.
ASKED, SEARCHED, NEAR, NEAR_SHARE, BEYOND_CHANCE = 500, 40_000, 0.1, 0.02, 5.0
_FIFTH_TO_TENTH = sum(1 / i for i in range(5, 10))


@dataclass(frozen=True, eq=False)
class Overlap:
    """Rows of the test set that stand among the training rows, as numbers over both sides, and their share of the test set."""

    rows: Ints
    share: float


def mixed(values: Floats | Ints, salt: int) -> Digests:
    """A digest of each value; equal values have equal digests, nulls too.

    Source: the finishing steps of SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
    """
    if values.dtype == np.float64:
        values = np.where(np.isnan(values), np.nan, values + 0.0)
    z = values.view(np.uint64) + np.uint64(0x9E3779B97F4A7C15 * (2 * salt + 1) % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def duplicates(columns: Mapping[str, Floats | Ints], label: Floats | Ints, train: int) -> Overlap | None:
    """Test rows that equal a training row in all columns and the label, if that is not for want of values.

    Where rows are alike by chance, far more rows agree in all columns but one than in all. So rows that agree in all count only
    if, of the remaining rows, at most half that share agrees when any one of the twelve columns of most values is left out.

    Shapes: columns and label (n rows), the first `train` of them the training rows.  Cost: O(n log n) for each column left out.
    """
    digests = {name: mixed(values, i + 1) for i, (name, values) in enumerate(columns.items())}
    whole = mixed(label, 0)
    for digest in digests.values():
        whole = whole + digest
    test = len(whole) - train
    known = np.unique(whole[:train])
    if not test or not train or len(known) < train // 2:
        return None
    found = np.isin(whole[train:], known)
    share = float(found.mean())
    if found.sum() < LEAST_FOUND or share < LEAST_SHARE:
        return None
    others = ~found
    sizes = sorted(digests, key=lambda name: -len(np.unique(columns[name])))[:LEFT_OUT]
    if others.any():
        alike = max(float(np.isin((whole - digests[n])[train:][others], (whole - digests[n])[:train]).mean()) for n in sizes)
        if alike > CHANCE * share:
            return None
    return Overlap(np.flatnonzero(found) + train, share)


def near(columns: Mapping[str, Floats], train: int, seed: int) -> Overlap | None:
    """Test rows whose nearest training row is far nearer than chance leaves it: rows copied with small changes.

    In a cloud of D dimensions the nearest of five neighbours is within a tenth of the fifth's distance in 5 / 10^D of cases.
    D is measured from the fifth and tenth neighbours: the mean of log(tenth / fifth) is (1/5 + ... + 1/9) / D (Levina and Bickel,
    2004), so that curves, as of slow sensors, are told from clouds. Said if at least 2 % of the rows asked, and five times what is expected, are so near.

    Args:   columns: numbers of many values, at least three; (n rows), the first `train` of them the training rows.
    Cost:   500 x 40,000 distances at most.
    """
    n = len(next(iter(columns.values()), np.empty(0)))
    if len(columns) < 3 or train < 50 or n - train < 20:
        return None
    X = np.stack([_scaled(v) for v in columns.values()], axis=1)
    rng = default_rng(seed)
    asked = np.sort(train + rng.permutation(n - train)[:ASKED])
    searched = np.sort(rng.permutation(train)[:SEARCHED])
    R, inner = X[searched], (X[searched] ** 2).sum(1)
    first, fifth, tenth = np.empty(len(asked)), np.empty(len(asked)), np.empty(len(asked))
    for start in range(0, len(asked), 50):
        part = X[asked[start : start + 50]]
        squares = np.maximum(0, (part**2).sum(1)[:, None] + inner - 2 * part @ R.T)
        nearest = np.sort(np.partition(squares, 10, axis=1)[:, :10], axis=1)
        first[start : start + 50], fifth[start : start + 50], tenth[start : start + 50] = np.sqrt(nearest[:, [0, 4, 9]]).T
    usable = fifth > 1e-7
    if usable.sum() < 20:
        return None
    growth = np.log(np.maximum(tenth[usable], 1e-12) / fifth[usable]).mean()
    expected = min(1.0, 5 * NEAR ** (_FIFTH_TO_TENTH / max(growth, 1e-3)))
    hits = usable & (first < NEAR * fifth)
    share = float(hits.sum() / usable.sum())
    if hits.sum() < 8 or share < max(NEAR_SHARE, BEYOND_CHANCE * expected):
        return None
    return Overlap(asked[hits], share)


def _scaled(values: Floats) -> Floats:
    known = values[np.isfinite(values)]
    if not len(known):
        return np.zeros(len(values))
    low, middle, high = np.quantile(known, [0.1, 0.5, 0.9])
    return np.clip((np.where(np.isfinite(values), values, middle) - middle) / ((high - low) or 1.0), -3, 3)


def shared(codes: Ints, train: int) -> Overlap | None:
    """Test rows whose value also occurs among the training rows; 0 is null and never shared."""
    test = codes[train:]
    found = np.isin(test, np.unique(codes[:train])) & (test > 0)
    return Overlap(np.flatnonzero(found) + train, float(found.mean())) if found.any() else None


def several(codes: list[Ints]) -> Ints:
    """One code for several columns together; 0 where any of them is null."""
    null: Flags = np.any([c == 0 for c in codes], axis=0)
    whole: Digests = np.zeros(len(codes[0]), np.uint64)
    for i, c in enumerate(codes):
        whole = whole + mixed(c, i + 1)
    _, place = np.unique(whole, return_inverse=True)
    return np.where(null, 0, place + 1)
