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
#: Rows of whole groups that aggregates are looked for in, and rows on which a guess is tried before.
MOST_ROWS, TRIED = 20_000, 200


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
    if group is None and len(x) > 1000 and len(np.unique(x[:: len(x) // 1000])) > 990 and len(np.unique(x)) > 0.9 * len(x):
        return None
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


@dataclass(frozen=True, eq=False)
class Grouped:
    """Rows group by group, in time order within each; whole groups, up to about 20,000 rows.

    Attributes:
        rows: (m) row numbers.
        place: (m) each row's group, from 0, not falling.
        counts: rows of each group.
        nth: (m) each row's number within its group, from 0.
    """

    rows: Ints
    place: Ints
    counts: Ints
    nth: Ints

    def sums(self, values: Floats) -> Floats:
        return np.bincount(self.place, weights=values, minlength=len(self.counts))


def grouped(group: Ints | None, time: Floats | None, n: int) -> Grouped | None:
    """The rows in groups (codes from 1; 0 is none), or all in one; None if there are none."""
    key = np.ones(n, np.int64) if group is None else group
    order = np.lexsort((np.arange(n), time if time is not None else np.zeros(n), key))
    order = order[np.searchsorted(key[order], 1) :]
    if len(order) > MOST_ROWS:
        last = int(np.searchsorted(key[order], key[order[MOST_ROWS]])) if group is not None else MOST_ROWS
        order = order[: last or MOST_ROWS]
    if not len(order):
        return None
    _, place, counts = np.unique(key[order], return_inverse=True, return_counts=True)
    return Grouped(order, place, counts, np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts))


def by_group(x: Floats, y: Floats, of: Grouped) -> OwnLabel | None:
    """Whether a column is the group's sum or mean of the label, or the mean of the group's other rows. Shapes: x, y (m rows)."""
    large = of.counts >= 2
    if np.count_nonzero(large) < LEAST_GROUPS or np.count_nonzero(large) / of.counts[large].sum() < LEAST_SHARE or not np.isfinite(x).all():
        return None
    low, high = np.full(len(of.counts), np.inf), np.full(len(of.counts), -np.inf)
    np.minimum.at(low, of.place, y)
    np.maximum.at(high, of.place, y)
    mixed = (high > low) & large
    if np.count_nonzero(mixed) < LEAST_GROUPS:
        return None
    sums = of.sums(y)
    for text, made in (("mean", sums / of.counts), ("sum", sums)):
        if _equal(x, made[of.place], mixed[of.place]):
            return OwnLabel(f"it is the {text} of the label over the rows of its group, the row itself among them")
    return _without_row(x, y, of, mixed)


def _without_row(x: Floats, y: Floats, of: Grouped, mixed: Flags) -> OwnLabel | None:
    """The mean of the other rows moves exactly with the row's own label, group by group."""
    dx, dy = x - (of.sums(x) / of.counts)[of.place], y - (of.sums(y) / of.counts)[of.place]
    xx, yy, xy = of.sums(dx * dx), of.sums(dy * dy), of.sums(dx * dy)
    usable = mixed & (of.counts >= 3) & (xx > 1e-18 * max(1e-300, float((x * x).mean())) * of.counts) & (yy > 0)
    if np.count_nonzero(usable) < LEAST_GROUPS or (np.abs(xy[usable] ** 2 / (xx[usable] * yy[usable]) - 1) < 1e-6).mean() < 0.95:
        return None
    return OwnLabel("within each group it moves exactly with the row's own label, as a mean over the other rows does")


def running(x: Floats, y: Floats, of: Grouped) -> OwnLabel | None:
    """Whether a column is a running mean, sum or exponential mean over a group's rows in time order that counts the row itself."""
    before = np.cumsum(y) - y
    total = before + y - np.repeat(before[np.cumsum(of.counts) - of.counts], of.counts)
    later = np.isfinite(x) & (of.nth >= 1) & (y != 0)
    if np.count_nonzero(later) < LEAST_ROWS:
        return None
    for text, made in (("mean", total / (of.nth + 1)), ("sum", total)):
        if _equal(x, made, later):
            return OwnLabel(f"it is the running {text} of the label, the row itself among them")
    return _windowed(x, y, of.nth)


def _windowed(x: Floats, y: Floats, nth: Ints) -> OwnLabel | None:
    step: Floats = np.append(np.nan, np.diff(x))
    moved = np.isfinite(step)
    for k in range(2, min(LONGEST_WINDOW, int(nth.max())) + 1):
        change = np.zeros(len(y))
        change[k:] = y[k:] - y[:-k]
        rows = moved & (nth >= k) & (change != 0)
        for text, made in (("mean", change / k), ("sum", change)):
            if _equal(step, made, rows):
                return OwnLabel(f"it is the {text} of the label over {k} rows, the row itself among them")
    rows = moved & (nth >= 1)
    if np.count_nonzero(rows) < LEAST_ROWS:
        return None
    A = np.stack([(x - step)[rows], y[rows]], axis=1)
    (old, own), *_ = np.linalg.lstsq(A, x[rows], rcond=None)
    if own > LEAST_SHARE and abs(old + own - 1) < 1e-3 and 0.01 < old < 0.99 and _equal(x[rows], A @ (old, own), np.ones(len(A), bool)):
        return OwnLabel(f"it is the exponential mean of the label, of which the row's own is {own:.2g}")
    return None


def _equal(x: Floats, made: Floats, rows: Flags) -> bool:
    """Whether two columns are equal to six figures on nearly all of these rows, which are not all alike."""
    at = np.flatnonzero(rows)
    if len(at) < LEAST_ROWS or not (_close(x[at[:TRIED]], made[at[:TRIED]]) > 0.5):
        return False
    return bool(np.ptp(made[at]) > 0 and _close(x[at], made[at]) >= 0.9)


def _close(a: Floats, b: Floats) -> float:
    return float(np.mean(np.abs(a - b) <= 1e-6 * np.maximum(np.abs(b), float(np.abs(b).mean())) + 5e-7))


def search(columns: Mapping[str, Floats], groups: Mapping[str, Ints], of: Target, time: Floats | None) -> Iterator[tuple[str, OwnLabel]]:
    """The first way found for each numeric column. Groups have codes from 1; 0 is no group.

    Cost: for each column and each of at most six groups passes over 20,000 rows; for 50,000 values the column is sorted.
    """
    made = {name: in_groups for name, codes in groups.items() if (in_groups := grouped(codes, time, len(of))) is not None}
    whole = grouped(None, time, len(of))
    for name, x in columns.items():
        finite = x[np.isfinite(x)]
        if len(finite) >= LEAST_ROWS and len(np.unique(finite[:1000])) >= 5 and whole is not None:
            found = next(_ways(x, made, whole, of), None)
            if found is not None:
                yield name, found


def _ways(x: Floats, made: Mapping[str, Grouped], whole: Grouped, of: Target) -> Iterator[OwnLabel]:
    for what, y in outcomes(of):
        told = "" if what == "the label" else f"of {what}: "
        if way := too_calibrated(x, y):
            yield OwnLabel(told + way.text)
        for name, part in made.items():
            xs, ys = x[part.rows], y[part.rows]
            if way := by_group(xs, ys, part) or too_calibrated(xs, ys, part.place + 1) or running(xs, ys, part):
                yield OwnLabel(f"{told}by {name}: {way.text}", name)
        if way := running(x[whole.rows], y[whole.rows], whole):
            yield OwnLabel(told + way.text)
