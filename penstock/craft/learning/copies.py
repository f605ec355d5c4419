"""Labels that are an exact function of a column or of two: by steps, by a set of values, equal, proportional or monotone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from penstock.craft.learning.telling import Coded, Flags, Floats, Ints, Target, ranked

#: Rows of the rarest class, and rows in all, below which nothing is called exact.
LEAST_MINORITY, LEAST_ROWS = 20, 100
#: Rows that may differ, as a share of the rarest class.
EXCEPTIONS = 0.002
#: Steps of the label along a column that still are a definition; each one more wants so many rows of the rarest class more.
MOST_STEPS, ROWS_A_STEP = 3, 50
#: A gap at a step that is so many times the median distance of neighbours lies between clusters, not at a threshold; of values on
#: a grid, and of others, whose gap around a threshold is longer than twelve medians by chance in one case of 500.
WIDE_ON_GRID, WIDE_GAP = 6.0, 12.0
#: Squared rank correlation above which a number is a monotone copy.
MONOTONE = 0.9998
#: Share of rows on which a column and the label are equal or in one proportion, where both have many values.
SAME_ROWS, COMMON_VALUE = 0.3, 0.03
#: Pairs are tried on so many rows and columns; so many tries want at least so many rows.
PAIR_ROWS, PAIR_COLUMNS, LEAST_PAIR_ROWS = 3000, 40, 300


@dataclass(frozen=True, eq=False)
class Exact:
    """An exact function: how it reads, whether neighbours lie dense where the label changes, and the rows it holds for."""

    text: str
    dense: bool
    rows: Flags


def exact(x: Floats, of: Target) -> Exact | None:
    """How the label is an exact function of a number, for at least half of the rows; None if it is not."""
    known = np.isfinite(x)
    if known.sum() < max(LEAST_ROWS, len(x) // 2):
        return None
    found = _steps(x[known], of.taken(known)) if of.of_classes else _same(x[known], of.values[known])
    if found is None:
        return None
    rows = known.copy()
    rows[known] = found.rows
    return Exact(found.text, found.dense, rows)


def _steps(x: Floats, of: Target) -> Exact | None:
    """The label as steps along the order of a number of many values."""
    counts = np.bincount(of.codes, minlength=len(of.names))
    least = int(counts[counts > 0].min())
    if least < LEAST_MINORITY or np.count_nonzero(counts) < 2:
        return None
    distinct, place = np.unique(x, return_inverse=True)
    if len(distinct) < 15:
        return None
    table: Ints = np.zeros((len(distinct), len(of.names)), np.int64)
    np.add.at(table, (place, of.codes), 1)
    if len(of.names) == 2:
        labels, wrong = _one_threshold(table)
        if wrong <= EXCEPTIONS * least:
            return _described(x, distinct, labels, of, place)
    labels = table.argmax(1)
    wrong = len(x) - int(table.max(1).sum())
    if wrong > EXCEPTIONS * least or np.count_nonzero(np.diff(labels)) > max(min(MOST_STEPS, 1 + least // ROWS_A_STEP), len(of.names) - 1):
        return None
    return _described(x, distinct, labels, of, place)


def _one_threshold(table: Ints) -> tuple[Ints, int]:
    """The best single threshold over distinct values of two classes: the class on each side, and the rows it gets wrong."""
    below = np.cumsum(table, axis=0)[:-1]
    total = table.sum(0)
    rising = below[:, 1] + total[0] - below[:, 0]
    falling = below[:, 0] + total[1] - below[:, 1]
    best = int(np.argmin(np.minimum(rising, falling)))
    up = rising[best] <= falling[best]
    labels = np.full(len(table), 1 if up else 0)
    labels[: best + 1] = 0 if up else 1
    return labels, int(min(rising[best], falling[best]))


def _described(x: Floats, distinct: Floats, labels: Ints, of: Target, place: Ints) -> Exact:
    at = np.flatnonzero(np.diff(labels))
    gaps = np.diff(distinct)
    dense = all(_narrow(gaps, i) for i in at)
    cuts = ", ".join(f"{distinct[i + 1]:.6g}" for i in at)
    words = f"the label is {of.names[labels[0]]} below {cuts}" + (f" and {of.names[labels[-1]]} from there" if len(at) == 1 else "")
    return Exact(words, dense and min(at[0] + 1, len(distinct) - at[-1] - 1) >= 8, labels[place] == of.codes)


def _narrow(gaps: Floats, at: Any) -> bool:
    """Whether a gap is like those around it."""
    quarter, median = np.quantile(gaps[max(0, at - 10) : at + 11], [0.25, 0.5])
    return bool(gaps[at] <= (WIDE_ON_GRID if median < 1.01 * quarter else WIDE_GAP) * median)


def _same(x: Floats, y: Floats) -> Exact | None:
    """A number that equals the label, is in one proportion to it, or rises or falls with it without exception."""
    if len(np.unique(y)) < 15 or len(np.unique(x)) < 15:
        return None
    if np.corrcoef(ranked(x), ranked(y))[0, 1] ** 2 >= MONOTONE:
        equal = np.isclose(x, y, rtol=1e-9, atol=0)
        return Exact(
            "the label equals it" if equal.mean() > 0.99 else "the label rises or falls with it without exception",
            True,
            np.ones(len(x), bool),
        )
    if max(_commonest(x), _commonest(y)) > COMMON_VALUE:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        for text, z in (("in one proportion to it", y / x), ("at one distance from it", y - x)):
            fine = np.isfinite(z)
            rounded = np.round(z[fine] / max(1e-300, float(np.median(np.abs(z[fine])) or 1)), 7)
            values, counts = np.unique(rounded, return_counts=True)
            if len(counts) and counts.max() >= SAME_ROWS * len(x):
                rows: Flags = np.zeros(len(x), bool)
                rows[fine] = rounded == values[counts.argmax()]
                return Exact(f"the label is {text} in {rows.mean():.0%} of the rows", True, rows)
    return None


def _commonest(values: Floats) -> float:
    return float(np.unique(values, return_counts=True)[1].max() / len(values))


# -- pairs ----------------------------------------------------------------------------------------------------------
Pair = tuple[str, str]
_OPERATIONS: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "difference": np.subtract,
    "sum": np.add,
    "ratio": np.divide,
    "product": np.multiply,
}


def pairs(found: Mapping[str, tuple[str, Floats]], of: Target, order: Ints) -> Iterator[tuple[Pair, str, Exact]]:
    """Pairs of columns whose difference, sum, ratio or product the label is an exact and dense function of.

    Args:    found: column -> its sort (`number` or `moment`) and values; only columns of one sort are paired.
             order: rows in an order of chance; the first 3,000 of them are tried before all are looked at.
    Cost:    O(columns^2) sorts of 3,000 numbers, for at most 40 columns, those of the most values.
    """
    ranked_columns = sorted(found, key=lambda name: -len(np.unique(found[name][1])))[:PAIR_COLUMNS]
    if len(of) < LEAST_PAIR_ROWS:
        return
    few = order[:PAIR_ROWS]
    tried = of.taken(few)
    for a, b in combinations(ranked_columns, 2):
        if found[a][0] != found[b][0]:
            continue
        for how in ("difference",) if found[a][0] == "moment" else tuple(_OPERATIONS):
            with np.errstate(all="ignore"):
                if not _promising(_OPERATIONS[how](found[a][1][few], found[b][1][few]), tried):
                    continue
                sure = exact(_OPERATIONS[how](found[a][1], found[b][1]), of)
            if sure is not None and sure.dense and sure.rows.mean() > 0.45:
                yield (a, b), how, sure


def _promising(z: Floats, of: Target) -> bool:
    """Whether the label hardly changes along the order of these numbers."""
    known = np.isfinite(z)
    if known.sum() < len(z) // 2:
        return False
    z, part = z[known], of.taken(known)
    order = np.lexsort((part.codes, z))
    if of.of_classes:
        return int(np.count_nonzero(np.diff(part.codes[order]))) <= 2 * max(MOST_STEPS, len(of.names) - 1) + len(z) // 500
    if z.min() == z.max():
        return False
    y = ranked(part.values)
    places = np.empty(len(z))
    places[order] = np.arange(len(z))
    return float(np.corrcoef(places, y)[0, 1] ** 2) >= 0.99


def equal_texts(found: Mapping[str, Coded], of: Target) -> Iterator[tuple[Pair, str, Exact]]:
    """Pairs of text columns that are equal exactly where the label is one class."""
    if len(of.names) != 2:
        return
    for a, b in combinations(sorted(found)[:PAIR_COLUMNS], 2):
        names: Sequence[str] = sorted(set(found[a].names) & set(found[b].names))
        if len(names) < 2:
            continue
        same = _common(found[a], names) == _common(found[b], names)
        for labels in (same, ~same):
            right = of.codes == labels
            least = int(np.bincount(of.codes, minlength=2).min())
            if least >= LEAST_MINORITY and np.count_nonzero(~right) <= EXCEPTIONS * least:
                yield (a, b), "equality", Exact("whether they are equal is the label", True, right)


def _common(coded: Coded, names: Sequence[str]) -> Ints:
    """Codes over names that two columns share; values of their own differ from all."""
    place = {name: i for i, name in enumerate(names)}
    own = id(coded) % 1000 + 1
    table = np.array([place.get(n, -own * 1_000_000 - i) for i, n in enumerate(coded.names)] + [-own * 1_000_000 - 999_999])
    return table[coded.codes]
