"""Weak slices: rows on which a model is worse than elsewhere, found by themselves, and not by chance.

Half of the rows, drawn by a seed, is searched: every value and range of one column, and every pair of two, is compared with the
rest by its mean loss. The strongest are then tested on the other half, which had no part in finding them, and
those that remain after the correction for their number (Benjamini and Hochberg) are told. So where a model is equally good
everywhere, something is told in about one of twenty test sets.

Source: Chung, Kraska, Polyzotis, Tae and Whang, "Slice Finder: Automated Data Slicing for Model Validation", ICDE 2019, for the
search, the effect size and the lattice of conditions; Benjamini and Hochberg, JRSS B 57 (1995); the two halves are our own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.random import default_rng
from numpy.typing import NDArray
from scipy.special import stdtr

from penstock.craft.learning.losses import row_losses
from penstock.craft.learning.measured import LEAST_ROWS, WeakSlice
from penstock.craft.learning.metrics import measure
from penstock.craft.learning.outcomes import Outcomes
from penstock.ground.errors import DefinitionError
from penstock.ground.names import literal, quote

#: The share of false ones among the slices told.
RATE = 0.05
#: Values of one text column and bins of one column of numbers that are looked at, by falling number of rows.
MOST_VALUES, BINS = 40, 8
#: Slices of the searched half that are tested on the other, and columns of which pairs are looked at.
TESTED, PAIRED_COLUMNS = 30, 24
#: By how many standard errors a pair of conditions must beat either alone.
BETTER = 3.0
#: No score counts as nearer to 0 or 1, so that a few confident mistakes do not make a slice.
NEAREST = 1e-3
_KEPT = """\
all analyse analyze and anti any array as asc asof asymmetric at authorization binary both by case cast check collate collation column
concurrently constraint create cross current_date current_time current_timestamp current_user date default deferrable delete desc describe
distinct do drop else end except exists false fetch filter for foreign freeze from full function glob grant group having ilike in
initially inner insert intersect interval into is isnull join lambda lateral leading left like limit localtime localtimestamp map natural
not notnull null offset on only or order outer over overlaps pivot pivot_longer pivot_wider placing positional primary qualify range
references returning right row rows select semi session_user show similar some struct summarize symmetric table tablesample then time
timestamp to trailing true try_cast union unique unpack unpivot update user using values variadic verbose when where window with
"""
#: Words that SQL keeps for itself: columns of these names are quoted.
RESERVED = frozenset(_KEPT.split())


def weak(
    outcomes: Outcomes,
    X: pa.Table,
    *,
    rows: NDArray[Any] | None = None,
    least_rows: int = LEAST_ROWS,
    effect: float = 0.2,
    most: int = 10,
    seed: int = 0,
) -> tuple[WeakSlice, ...]:
    """Slices on which a model's loss is greater than elsewhere, the strongest first.

    The loss is that of `losses.TELLING`; rows of a group count as one. A slice that is weak only by the rows of a stronger one is
    not told. Each condition is valid SQL over the columns of X and true for the slice's rows alone.

    Shapes:  outcomes (n rows), X (n rows, c raw columns: numbers, booleans, texts, dates, moments; others are passed over).
    Cost:    for 100,000 rows and 20 columns about a second.
    Args:    rows: the numbers of these rows among all test rows, for `WeakSlice.at`, where they are a sample.
             least_rows: of a slice, half of them in each half.
             effect: the least difference of mean losses, in their standard deviation (Cohen's d); 0.2 is what Cohen calls small.
             most: slices told at most.
             seed: of the halves.
    Raises:  DefinitionError(E1001) if X has another number of rows.
    """
    if X.num_rows != len(outcomes):
        raise DefinitionError("columns and labels have different rows", place="X", expected=len(outcomes), got=X.num_rows)
    if outcomes.strange or len(outcomes) < 2 * least_rows:
        return ()
    loss = row_losses(outcomes, least=NEAREST)
    known = np.isfinite(loss)
    weights = np.where(known, outcomes.weights, 0.0)
    loss = np.where(known, loss, 0.0)
    found_on = _half(outcomes, seed)
    columns = [c for c in (_binned(name, X.column(name), least_rows) for name in X.column_names) if c is not None]
    codes = [c.codes for c in columns]
    searched = _Half(loss[found_on], weights[found_on], [code[found_on] for code in codes])
    candidates = _candidates(columns, searched, least_rows // 2, effect)
    tested = [(c, *_tested(c.rows(codes, columns), ~found_on, loss, weights, outcomes.group, least_rows // 2)) for c in candidates]
    kept = [t for t in _kept(tested) if t[1][2] >= effect]
    told = []
    for candidate, (inside, outside, size), p in sorted(kept, key=lambda t: (t[2], -t[1][2]))[:most]:
        at = np.flatnonzero(candidate.rows(codes, columns))
        told.append(
            WeakSlice(
                candidate.condition(columns),
                tuple(columns[c].name for c, _ in candidate.parts),
                measure(outcomes.take(at)),
                inside,
                outside,
                size,
                p,
                at if rows is None else np.asarray(rows)[at],
            )
        )
    return tuple(told)


def _half(outcomes: Outcomes, seed: int) -> NDArray[np.bool_]:
    """About half of the rows, groups whole."""
    generator = default_rng(seed)
    if outcomes.group is None:
        return generator.permutation(len(outcomes)) % 2 == 0
    known, codes = np.unique(outcomes.group, return_inverse=True)
    return (generator.permutation(len(known)) % 2 == 0)[codes.reshape(-1)]


# -- columns in bins ------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class _Column:
    """A column in b bins, and the m conditions on it: which bins each holds, and how it is written."""

    name: str
    codes: NDArray[np.int64]
    holds: NDArray[np.bool_]
    written: tuple[str, ...]


def _binned(name: str, values: pa.ChunkedArray, least_rows: int) -> _Column | None:
    """None for a column of a type without conditions, or of which all rows are alike."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        values, kind = values.cast(kind.value_type), kind.value_type
    if pa.types.is_boolean(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _values(name, values, least_rows)
    if (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_date(kind)
        or pa.types.is_timestamp(kind)
    ):
        return _ranges(name, values, least_rows)
    return None


def _values(name: str, values: pa.ChunkedArray, least_rows: int) -> _Column | None:
    """Each frequent value a bin with a condition; the others share a bin without one."""
    text = pa.string() if pa.types.is_boolean(values.type) or pa.types.is_string_view(values.type) else values.type
    coded = pc.dictionary_encode(values.cast(text).combine_chunks(), null_encoding="encode")
    codes = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    counts = np.bincount(codes, minlength=len(coded.dictionary))
    frequent = [int(i) for i in np.argsort(-counts, kind="stable")[:MOST_VALUES] if counts[i] >= least_rows and counts[i] < len(codes)]
    if not frequent:
        return None
    place: NDArray[np.int64] = np.full(len(counts), len(frequent), dtype=np.int64)
    place[frequent] = np.arange(len(frequent))
    column = _name(name)
    texts = [coded.dictionary[i].as_py() for i in frequent]
    held = [n for n, text in enumerate(texts) if "\0" not in (text or "")]
    flag = pa.types.is_boolean(values.type)
    told = [None if texts[n] is None else texts[n] if flag else literal(texts[n]) for n in held]
    written = [f"{column} IS NULL" if text is None else f"{column} = {text}" for text in told]
    return _Column(name, place[codes], np.eye(len(frequent), len(frequent) + 1, dtype=bool)[held], tuple(written))


def _ranges(name: str, values: pa.ChunkedArray, least_rows: int) -> _Column | None:
    """Few values each a bin, else bins of about equal count up to round edges; every run of bins has a condition, as have nulls."""
    kind = values.type
    numbers, write = _numbers(values)
    null = values.is_null().to_numpy().astype(bool)
    nan = np.isnan(numbers) & ~null if numbers.dtype.kind == "f" else np.zeros(len(numbers), dtype=bool)
    usable = numbers[~null & ~nan]
    if not len(usable):
        return None
    levels = np.unique(usable)
    alone = len(levels) <= 2 * BINS
    edges = levels[:-1] if alone else _edges(usable, kind)
    with np.errstate(invalid="ignore"):
        codes: NDArray[np.int64] = np.searchsorted(edges, numbers, side="left").astype(np.int64)
    bins = len(edges) + 1
    codes[nan], codes[null] = bins, bins + 1
    runs = [(i, j) for i in range(bins) for j in range(i, bins) if (i, j) != (0, bins - 1) or null.any() or nan.any()]
    holds: NDArray[np.bool_] = np.zeros((len(runs) + 2, bins + 2), dtype=bool)
    for n, (i, j) in enumerate(runs):
        holds[n, i : j + 1] = True
    holds[-2, bins], holds[-1, bins + 1] = True, True
    column, guard = _name(name), " AND NOT isnan({})" if nan.any() else ""
    written = [
        _run(column, levels if alone else edges, i, j, bins, write, alone) + (guard.format(column) if j == bins - 1 else "")
        for i, j in runs
    ]
    counts = np.bincount(codes, minlength=bins + 2)
    full = [n for n, held in enumerate(holds) if least_rows <= counts[held].sum() < len(codes)]
    written += [f"isnan({column})", f"{column} IS NULL"]
    return _Column(name, codes, holds[full], tuple(written[n] for n in full)) if full else None


def _run(column: str, at: NDArray[Any], i: int, j: int, bins: int, write: Any, alone: bool) -> str:
    """The condition for the bins i to j: by values if each bin is one, else by the edges between them."""
    if alone and i == j:
        return f"{column} = {write(at[i])}"
    if (i, j) == (0, bins - 1):
        return f"{column} IS NOT NULL"
    low = [] if i == 0 else [f"{column} >= {write(at[i])}" if alone else f"{column} > {write(at[i - 1])}"]
    return " AND ".join([*low, *([] if j == bins - 1 else [f"{column} <= {write(at[j])}"])])


def _numbers(values: pa.ChunkedArray) -> tuple[NDArray[Any], Any]:
    """A column as numbers in its own order, and how a number of it is written in SQL; what stands for a null does not matter."""
    kind = values.type
    if pa.types.is_date(kind):
        days = values.cast(pa.date32()).cast(pa.int32()).fill_null(0).to_numpy().astype(np.int64)
        return days, lambda d: f"DATE '{(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=int(d))).date()}'"
    if pa.types.is_timestamp(kind):
        micros = values.cast(pa.timestamp("us", kind.tz), safe=False).cast(pa.int64()).fill_null(0).to_numpy()
        return micros, lambda m: _moment(int(m), zoned=kind.tz is not None)
    if pa.types.is_integer(kind):
        return values.fill_null(0).to_numpy(), lambda n: str(int(n))
    if pa.types.is_decimal(kind):
        return values.cast(pa.float64()).fill_null(0.0).to_numpy(), lambda x: f"{x:.15g}"
    short = kind == pa.float32()
    return values.fill_null(float("nan")).to_numpy(), lambda x: _float(float(x), f"{x:.9g}" if short else repr(float(x)))


def _float(value: float, text: str) -> str:
    return text if np.isfinite(value) else f"CAST('{text}' AS DOUBLE)"


def _moment(micros: int, *, zoned: bool) -> str:
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
    text = at.replace(tzinfo=None).isoformat(sep=" ")
    return f"TIMESTAMPTZ '{text}+00'" if zoned else f"TIMESTAMP '{text}'"


def _edges(numbers: NDArray[Any], kind: pa.DataType) -> NDArray[Any]:
    """Upper edges of all bins but the last, at quantiles, rounded as far as the distance between them allows."""
    finite = numbers[np.isfinite(numbers)] if numbers.dtype.kind == "f" else numbers
    if not len(finite):
        return np.unique(numbers)[:-1]
    found = np.unique(np.quantile(finite, np.arange(1, BINS) / BINS, method="inverted_cdf"))
    spread = float(found[-1]) - float(found[0]) or abs(float(found[0])) or 1.0
    if pa.types.is_timestamp(kind):
        unit = next((u for u in (86_400_000_000, 3_600_000_000, 60_000_000, 1_000_000) if spread > 20 * u), 1)
        rounded: NDArray[Any] = found // unit * unit
    elif numbers.dtype.kind in "iu":
        unit = max(1, int(10 ** np.floor(np.log10(spread / 50)))) if spread >= 50 else 1
        rounded = found // unit * unit
    else:
        rounded = np.round(found.astype(np.float64), int(np.ceil(-np.log10(spread / 50)))).astype(numbers.dtype)
    return np.unique(rounded[(rounded >= finite.min()) & (rounded < finite.max())])


def _name(name: str) -> str:
    plain = re.fullmatch(r"[a-z_][a-z0-9_]*", name) and name not in RESERVED
    return name if plain else quote(name)


# -- searching ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class _Half:
    """The searched rows: losses, weights, and the bins of each column."""

    loss: NDArray[np.float64]
    weight: NDArray[np.float64]
    codes: list[NDArray[np.int64]]

    def sums(self, code: NDArray[np.int64], size: int) -> NDArray[np.float64]:
        """Rows, weight, weighted loss and its square by code. Shapes: (4, size)."""
        w, wl = self.weight, self.weight * self.loss
        return np.stack([np.bincount(code, weights=v, minlength=size) for v in (np.ones(len(w)), w, wl, wl * self.loss)])


@dataclass(frozen=True)
class _Candidate:
    """A condition on one column, or on two: the number of each column and of its condition; z and effect on the searched half."""

    parts: tuple[tuple[int, int], ...]
    z: float
    effect: float
    mean: float

    def rows(self, codes: list[NDArray[np.int64]], columns: list[_Column]) -> NDArray[np.bool_]:
        """Which rows it holds, given their bins of each column."""
        (first, *more) = [columns[c].holds[m][codes[c]] for c, m in self.parts]
        for other in more:
            first = first & other
        return first

    def condition(self, columns: list[_Column]) -> str:
        return " AND ".join(columns[c].written[m] for c, m in self.parts)


def _candidates(columns: list[_Column], half: _Half, least: int, effect: float) -> list[_Candidate]:
    """The strongest conditions on the searched half, each beside those before; a pair only if it beats its parts."""
    single: list[_Candidate] = []
    means: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for c, column in enumerate(columns):
        sums = column.holds @ half.sums(half.codes[c], column.holds.shape[1]).T
        z, d, mean, error = _strength(sums.T, half, least)
        means.append((mean, error))
        single += [_Candidate(((c, int(m)),), float(z[m]), float(d[m]), float(mean[m])) for m in np.flatnonzero((d >= effect) & (z > 2))]
    strongest = [max((s.z for s in single if s.parts[0][0] == c), default=0.0) for c in range(len(columns))]
    paired = sorted(sorted(range(len(columns)), key=lambda c: -strongest[c])[:PAIRED_COLUMNS])
    found = [*single, *(pair for a, b in combinations(paired, 2) for pair in _pairs(a, b, columns, half, means, least, effect))]
    return list(_apart(sorted(found, key=lambda c: (-c.z, len(c.parts), c.parts)), columns, half, least, effect))


def _strength(sums: NDArray[np.float64], half: _Half, least: int) -> tuple[NDArray[np.float64], ...]:
    """Welch's z and Cohen's d of each slice against the rest, its mean loss and the error of that; z is 0 without enough rows."""
    n, w, wl, wll = sums
    rows, weight = len(half.loss), half.weight.sum()
    total, squares = float(np.sum(half.weight * half.loss)), float(np.sum(half.weight * half.loss**2))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, rest = wl / w, (total - wl) / (weight - w)
        spread = np.maximum(wll / w - mean**2, 0)
        spread_rest = np.maximum((squares - wll) / (weight - w) - rest**2, 0)
        error = np.sqrt(spread / n)
        z = (mean - rest) / np.sqrt(spread / n + spread_rest / (rows - n))
        d = (mean - rest) / np.sqrt((spread + spread_rest) / 2)
    enough = (n >= least) & (rows - n >= least) & np.isfinite(z) & np.isfinite(d)
    return np.where(enough, z, 0.0), np.where(enough, d, 0.0), mean, error


def _pairs(
    a: int,
    b: int,
    columns: list[_Column],
    half: _Half,
    means: list[tuple[NDArray[np.float64], NDArray[np.float64]]],
    least: int,
    effect: float,
) -> Iterator[_Candidate]:
    """Pairs of conditions on two columns whose mean loss is beyond that of either condition alone; the best 20 of them."""
    one, two = columns[a].holds, columns[b].holds
    code = half.codes[a] * two.shape[1] + half.codes[b]
    cells = half.sums(code, one.shape[1] * two.shape[1]).reshape(4, one.shape[1], two.shape[1])
    sums = np.einsum("mi,sij,nj->smn", one.astype(np.float64), cells, two.astype(np.float64), optimize=True)
    z, d, mean, error = _strength(sums.reshape(4, -1), half, least)
    alone = np.maximum(means[a][0][:, None], means[b][0][None, :]).reshape(-1)
    with np.errstate(invalid="ignore"):
        good = np.flatnonzero((d >= effect) & (z > 2) & (mean - alone > BETTER * error))
    for i in good[np.argsort(-z[good], kind="stable")[:20]]:
        yield _Candidate(((a, int(i // len(two))), (b, int(i % len(two)))), float(z[i]), float(d[i]), float(mean[i]))


def _apart(found: list[_Candidate], columns: list[_Column], half: _Half, least: int, effect: float) -> Iterator[_Candidate]:
    """Candidates in order that are also weak without the rows of those before: neither a part of one, nor weak by one inside."""
    left: NDArray[np.bool_] = np.ones(len(half.loss), dtype=bool)
    taken = 0
    for candidate in found[: 10 * TESTED]:
        rows = candidate.rows(half.codes, columns)
        z, d, _, _ = _strength(half.sums((rows & left).astype(np.int64), 2)[:, 1:], half, least)
        if z[0] > 2 and d[0] >= effect:
            left &= ~rows
            taken += 1
            yield candidate
        if taken == TESTED:
            return


# -- testing --------------------------------------------------------------------------------------------------------
def _tested(
    rows: NDArray[np.bool_],
    half: NDArray[np.bool_],
    loss: NDArray[np.float64],
    weights: NDArray[np.float64],
    group: NDArray[np.int64] | None,
    least: int,
) -> tuple[tuple[float, float, float], float]:
    """Mean losses inside and outside and Cohen's d on the other half, and the p-value of a one-sided Welch test.

    Rows of a group count as one, by the squares of the sums of their influences.
    """
    inside, outside = np.flatnonzero(rows & half & (weights > 0)), np.flatnonzero(~rows & half & (weights > 0))
    if min(len(inside), len(outside)) < max(least, 2):
        return (0.0, 0.0, 0.0), 1.0
    means, spreads, errors, freedoms = [], [], [], []
    for part in (inside, outside):
        w = weights[part]
        mean = float(np.average(loss[part], weights=w))
        off = loss[part] - mean
        moved = w * off / w.sum()
        if group is not None:
            moved = np.bincount(np.unique(group[part], return_inverse=True)[1].reshape(-1), weights=moved)
        units = len(moved)
        means.append(mean)
        spreads.append(float(np.average(off**2, weights=w)))
        errors.append(float(np.sum(moved**2)) * units / max(units - 1, 1))
        freedoms.append(max(units - 1, 1))
    error = sum(errors)
    spread = np.sqrt(sum(spreads) / 2)
    if not error > 0 or not spread > 0:
        return (means[0], means[1], 0.0), 1.0
    freedom = error**2 / sum(e**2 / f for e, f in zip(errors, freedoms, strict=True))
    p = float(stdtr(freedom, -(means[0] - means[1]) / np.sqrt(error)))
    return (means[0], means[1], float((means[0] - means[1]) / spread)), p


def _kept(tested: list[tuple[_Candidate, tuple[float, float, float], float]]) -> list[tuple[_Candidate, tuple[float, float, float], float]]:
    """Those that remain at the rate of false ones, with their p-values corrected for all that were tested."""
    ordered = sorted(tested, key=lambda t: t[2])
    kept, least = [], 1.0
    for rank in range(len(ordered), 0, -1):
        candidate, told, p = ordered[rank - 1]
        least = min(least, p * len(ordered) / rank)
        if least <= RATE:
            kept.append((candidate, told, least))
    return kept
