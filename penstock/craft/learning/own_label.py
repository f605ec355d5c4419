"""Aggregates of labels that count the row's own: target means, means without the row, running means, told by what only they do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from penstock.craft.learning.telling import Flags, Floats, Ints, Target

#: Groups, and rows in groups of two or more, below which nothing is said.
LEAST_GROUPS, LEAST_ROWS = 20, 60
#: A row's own share in its aggregate, on average, below which it gives nothing away.
LEAST_SHARE = 0.01
#: Variance between groups that no independent column can have: F of what is left, far below 1.
TOO_GOOD = 0.05
#: Windows of running means that are tried.
LONGEST_WINDOW = 30
#: Rows that running aggregates are looked for in.
MOST_ROWS = 50_000


@dataclass(frozen=True)
class OwnLabel:
    """How a column counts the row's own label, and by which grouping column (None: by its own values)."""

    text: str
    by: str | None = None


def outcomes(of: Target) -> Iterator[tuple[str, Floats]]:
    """What aggregates are made of: the label as a number, or of more than two classes each class as 0 and 1."""
    if not of.of_classes:
        yield "the label", of.values
    elif len(of.names) == 2:
        yield "the label", of.codes.astype(np.float64)
    else:
        for j, name in enumerate(of.names):
            yield f"class {name}", of.Y[:, j]


def too_calibrated(x: Floats, y: Floats, group: Ints | None = None) -> OwnLabel | None:
    """Whether the mean label of rows with equal values, or of a group, follows the value more closely than independent labels can.

    For an honest column the means of groups of n rows scatter by (variance within groups) / n around any smooth function of the
    value. A mean that counts the row itself does not scatter at all, whatever smoothing by group size was added to it.
    The scatter is compared with the variance within groups: below a twentieth of it, with 20 groups or more, chance is out.

    Args: group: codes of groups within which `x` has one value; None: rows with equal values are a group.
    """
    known = np.isfinite(x) if group is None else np.isfinite(x) & (group > 0)
    _, first, place, counts = np.unique((x if group is None else group)[known], return_index=True, return_inverse=True, return_counts=True)
    values, label = x[known][first], y[known]
    large = counts >= 2
    rows = int(counts[large].sum())
    if np.count_nonzero(large) < LEAST_GROUPS or rows < max(LEAST_ROWS, len(x) // 4):
        return None
    if group is not None and not np.array_equal(values[place], x[known]):
        return None
    sums = np.bincount(place, weights=label)
    means = sums / counts
    squares = np.bincount(place, weights=(label - means[place]) ** 2)[large]
    within = float(squares.sum()) / max(1, rows - int(np.count_nonzero(large)))
    total = float(label.var())
    if within <= 0.02 * total or np.count_nonzero(large) / rows < LEAST_SHARE:
        return None
    n, v, m = counts[large].astype(np.float64), values[large], means[large]
    v = (v - v.mean()) / (v.std() or 1)
    X = np.stack([np.ones_like(v), v, 1 / n, v / n], axis=1) * np.sqrt(n)[:, None]
    left = m * np.sqrt(n) - X @ np.linalg.lstsq(X, m * np.sqrt(n), rcond=None)[0]
    freedom = len(v) - 4
    if float(np.sum(left**2)) / freedom > TOO_GOOD * within or m.std() < 1e-3 * total**0.5:
        return None
    alike = "rows with equal values" if group is None else "the group"
    return OwnLabel(f"the mean label of {alike} follows it without the scatter that {rows:,} labels have")


def by_group(x: Floats, y: Floats, group: Ints) -> OwnLabel | None:
    """Whether a column is the group's sum, mean or extreme of the label, or the mean of the group's other rows."""
    order = np.argsort(group, kind="stable")
    x, y, group = x[order], y[order], group[order]
    fine = np.isfinite(x) & (group > 0)
    x, y, group = x[fine], y[fine], group[fine]
    if len(x) < LEAST_ROWS:
        return None
    _, place, counts = np.unique(group, return_inverse=True, return_counts=True)
    large = counts >= 2
    if np.count_nonzero(large) < LEAST_GROUPS or np.count_nonzero(large) / counts[large].sum() < LEAST_SHARE:
        return None
    sums = np.bincount(place, weights=y)
    mixed = _mixed(y, place, len(counts)) & large
    if np.count_nonzero(mixed) < LEAST_GROUPS:
        return None
    rows = mixed[place]
    size = counts[place]
    for text, made in (("mean", sums[place] / size), ("sum", sums[place])):
        if _equal(x, made, rows):
            return OwnLabel(f"it is the {text} of the label over the rows of its group, the row itself among them")
    return _without_row(x, y, place, mixed)


def _without_row(x: Floats, y: Floats, place: Ints, mixed: Flags) -> OwnLabel | None:
    """The mean of the other rows falls exactly with the row's own label, group by group."""
    counts = np.bincount(place)
    dx = x - (np.bincount(place, weights=x) / counts)[place]
    dy = y - (np.bincount(place, weights=y) / counts)[place]
    xx, yy, xy = (np.bincount(place, weights=w) for w in (dx * dx, dy * dy, dx * dy))
    usable = mixed & (counts >= 3) & (xx > 1e-18 * max(1e-300, float((x * x).mean())) * counts) & (yy > 0)
    if np.count_nonzero(usable) < LEAST_GROUPS:
        return None
    exact = np.abs(xy[usable] ** 2 / (xx[usable] * yy[usable]) - 1) < 1e-6
    if exact.mean() < 0.95:
        return None
    return OwnLabel("within each group it moves exactly with the row's own label, as a mean over the other rows does")


def running(x: Floats, y: Floats, group: Ints | None, time: Floats | None) -> OwnLabel | None:
    """Whether a column is a running mean, sum or exponential mean over a group's rows in time order that counts the row itself."""
    key = np.zeros(len(x), np.int64) if group is None else group
    order = np.lexsort((np.arange(len(x)), time if time is not None else np.zeros(len(x)), key))[:MOST_ROWS]
    x, y, key = x[order], y[order], key[order]
    starts = np.flatnonzero(np.append(True, key[1:] != key[:-1]))
    nth = np.arange(len(x)) - np.repeat(starts, np.diff(np.append(starts, len(x))))
    total = np.cumsum(y) - np.repeat((np.cumsum(y) - y)[starts], np.diff(np.append(starts, len(x))))
    fine = np.isfinite(x)
    later = fine & (nth >= 1) & (y != 0)
    if np.count_nonzero(later) < LEAST_ROWS:
        return None
    for text, made in (("mean", total / (nth + 1)), ("sum", total)):
        if _equal(x, made, later) and not _equal(x, np.where(nth > 0, total - y, np.nan), later):
            return OwnLabel(f"it is the running {text} of the label, the row itself among them")
    return _windowed(x, y, nth)


def _windowed(x: Floats, y: Floats, nth: Ints) -> OwnLabel | None:
    step: Floats = np.append(np.nan, np.diff(x))
    for k in range(2, LONGEST_WINDOW + 1):
        change = np.full(len(y), np.nan)
        change[k:] = y[k:] - y[:-k]
        rows = np.isfinite(step) & np.isfinite(change) & (nth >= k) & (change != 0)
        if np.count_nonzero(rows) < LEAST_ROWS:
            continue
        for text, made in (("mean", change / k), ("sum", change)):
            if _equal(step, made, rows):
                return OwnLabel(f"it is the {text} of the label over {k} rows, the row itself among them")
    rows = np.isfinite(step) & (nth >= 1)
    if np.count_nonzero(rows) >= LEAST_ROWS:
        before = x - step
        A = np.stack([before[rows], y[rows]], axis=1)
        (old, own), *_ = np.linalg.lstsq(A, x[rows], rcond=None)
        if own > LEAST_SHARE and abs(old + own - 1) < 1e-3 and 0.01 < old < 0.99 and _equal(x[rows], A @ (old, own), np.ones(len(A), bool)):
            return OwnLabel(f"it is the exponential mean of the label, of which the row's own is {own:.2g}")
    return None


def _mixed(y: Floats, place: Ints, groups: int) -> Flags:
    """Groups with more than one label."""
    low, high = np.full(groups, np.inf), np.full(groups, -np.inf)
    np.minimum.at(low, place, y)
    np.maximum.at(high, place, y)
    return high > low


def _equal(x: Floats, made: Floats, rows: Flags) -> bool:
    """Whether two columns are equal to six figures on nearly all of these rows, which are not all alike."""
    a, b = x[rows], made[rows]
    fine = np.isfinite(b)
    a, b = a[fine], b[fine]
    if len(a) < LEAST_ROWS or np.ptp(b) == 0:
        return False
    return float(np.mean(np.abs(a - b) <= 1e-6 * np.maximum(np.abs(b), float(np.abs(b).mean())) + 5e-7)) >= 0.9


def search(columns: Mapping[str, Floats], groups: Mapping[str, Ints], of: Target, time: Floats | None) -> Iterator[tuple[str, OwnLabel]]:
    """The first way found for each numeric column. Groups have codes from 1; 0 is no group."""
    for name, x in columns.items():
        if len(np.unique(x[np.isfinite(x)])) < 5:
            continue
        found = next(_ways(x, groups, of, time), None)
        if found is not None:
            yield name, found


def _ways(x: Floats, groups: Mapping[str, Ints], of: Target, time: Floats | None) -> Iterator[OwnLabel]:
    for what, y in outcomes(of):
        found = too_calibrated(x, y)
        ways = [found] if found else []
        for name, group in groups.items():
            for way in (by_group(x, y, group) or too_calibrated(x, y, group), running(x, y, group, time)) if not ways else ():
                ways += [OwnLabel(f"by {name}: {way.text}", name)] if way else []
        if not ways and (way := running(x, y, None, time)):
            ways.append(way)
        for way in ways:
            yield way if what == "the label" else OwnLabel(f"of {what}: {way.text}", way.by)
