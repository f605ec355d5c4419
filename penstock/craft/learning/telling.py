"""How much one column tells of the label: a column seen in several ways, and the share of uncertainty each way takes away."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.random import default_rng
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from penstock.spec.models import Kind

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]

#: Classes that are looked at one by one; rarer ones count as one more.
MOST_CLASSES = 10
#: Distinct values that a ranking's label may have to be taken for grades.
MOST_GRADES = 10
#: Bins of a number, at most and for how many rows one.
MOST_BINS, ROWS_A_BIN = 64, 20
#: Words of a text column that are looked at, and rows whose words are read to choose them.
MOST_WORDS, WORD_ROWS = 40, 20_000
#: Rows the remaining columns are learnt from.
REST_ROWS = 20_000


# -- the label ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Target:
    """The label of n rows as numbers.

    Attributes:
        Y: (n, k) float64: of classes one column each, 0 or 1; of a number its ranks, scaled to [0, 1], in one column.
        names: the k classes as text; () for a number.
        codes: (n) the class of each row, 0 to k - 1; of a number all 0.
        values: (n) the label as a number; of classes their code.
    """

    Y: Floats
    names: tuple[str, ...]
    codes: Ints
    values: Floats

    @property
    def of_classes(self) -> bool:
        return bool(self.names)

    def __len__(self) -> int:
        return len(self.Y)

    def taken(self, rows: Any) -> Target:
        return Target(self.Y[rows], self.names, self.codes[rows], self.values[rows])


def target(label: pa.ChunkedArray, kind: Kind) -> Target:
    """The label of rows that all have one. Grades of a ranking are classes if there are at most ten."""
    if kind in ("binary", "multiclass") or (kind == "ranking" and pc.count_distinct(label).as_py() <= MOST_GRADES):
        return _classes(label)
    values = numbers(label)
    ranks = ranked(values)
    return Target(ranks[:, None], (), np.zeros(len(values), np.int64), values)


def _classes(label: pa.ChunkedArray) -> Target:
    coded = coded_texts(label.cast(pa.string()))
    frequent = np.argsort(-np.bincount(coded.codes, minlength=len(coded.names)), kind="stable")[:MOST_CLASSES]
    chosen = sorted(frequent.tolist(), key=lambda code: coded.names[code])
    place: Ints = np.full(len(coded.names), len(chosen), np.int64)
    place[chosen] = np.arange(len(chosen))
    names = [coded.names[code] for code in chosen] + (["others"] if len(coded.names) > len(chosen) else [])
    codes = place[coded.codes]
    return Target(np.eye(len(names))[codes], tuple(names), codes, codes.astype(np.float64))


def ranked(values: Floats) -> Floats:
    """Mean ranks scaled to [0, 1]; equal values have equal ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - (counts - 1) / 2 - 1) / max(1, len(values) - 1))[place]


# -- columns as numbers ---------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Coded:
    """A text column as places among its distinct values; -1 for null."""

    codes: Ints
    names: list[str]


def coded_texts(column: pa.ChunkedArray) -> Coded:
    """Codes of a text column's values, by their order; equal values have equal codes in all chunks."""
    whole = column.combine_chunks()
    whole = whole if isinstance(whole, pa.Array) else pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], pa.string())
    coded = whole.dictionary_encode()
    names = [str(n) for n in coded.dictionary.to_pylist()]
    codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    order = np.argsort(np.array(names, dtype=object), kind="stable") if names else np.array([], np.int64)
    place: Ints = np.empty(len(names) + 1, np.int64)
    place[order], place[-1] = np.arange(len(names)), -1
    return Coded(place[codes], [names[i] for i in order])


def sort_of(kind: pa.DataType) -> Literal["number", "flag", "moment", "text", "other"]:
    """How a column is looked at."""
    t = pa.types
    if t.is_boolean(kind):
        return "flag"
    if t.is_integer(kind) or t.is_floating(kind) or t.is_decimal(kind) or t.is_duration(kind):
        return "number"
    if t.is_timestamp(kind) or t.is_date(kind) or t.is_time(kind):
        return "moment"
    if t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind):
        return "text"
    return "other"


def numbers(column: pa.ChunkedArray) -> Floats:
    """A number, flag or moment as float64, NaN for null; moments in seconds since 1970 in UTC, or since midnight."""
    kind = column.type
    if pa.types.is_time(kind):
        column = pc.divide(column.cast(pa.time64("us"), safe=False).cast(pa.int64()).cast(pa.float64(), safe=False), 1e6)
    elif pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        micros = column.cast(pa.timestamp("us", tz=getattr(kind, "tz", None)), safe=False).cast(pa.int64())
        column = pc.divide(micros.cast(pa.float64(), safe=False), 1e6)
    elif pa.types.is_duration(kind):
        column = column.cast(pa.int64()).cast(pa.float64(), safe=False)
    else:
        column = column.cast(pa.float64(), safe=False)
    return column.to_numpy().astype(np.float64)


# -- ways to see a column -------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class View:
    """One way to see a column: a bin or category for each row.

    Attributes:
        how: "" for its values, else what is looked at, e.g. `presence`, `length`, `word refund`.
        codes: (n) from 0; 0 is null.
        graded: whether the codes are bins of an order, rather than values of their own.
    """

    column: str
    how: str
    codes: Ints
    graded: bool

    @property
    def text(self) -> str:
        return f"{self.column} ({self.how})" if self.how else self.column


def views(name: str, column: pa.ChunkedArray) -> Iterator[View]:
    """A column's values and what can be told of them: nulls, frequent values, parts of dates, lengths, beginnings and words."""
    sort = sort_of(column.type)
    null = column.is_null().to_numpy().astype(bool)
    if sort in ("number", "flag", "moment"):
        values = numbers(column)
        null |= ~np.isfinite(values)
        yield from of_numbers(name, values)
        if sort == "moment" and not pa.types.is_time(column.type):
            yield from _of_moments(name, column, null)
    elif sort == "text":
        yield from _of_texts(name, column)
    if null.any() and not null.all():
        yield View(name, "presence", null.astype(np.int64) + 1, False)


def of_numbers(name: str, values: Floats, how: str = "") -> Iterator[View]:
    """Bins, frequent values, and single values where they repeat."""
    binned = bins(values)
    yield View(name, how, binned, True)
    distinct, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    frequent = (counts >= max(10, len(values) // 200)) & np.isfinite(distinct)
    if len(distinct) > binned.max() + 2 and frequent.any():
        codes = np.where(frequent, np.cumsum(frequent), 0) + 1
        codes[~np.isfinite(distinct)] = 0
        yield View(name, " ".join(filter(None, (how, "frequent values"))), codes[place], False)
    if MOST_BINS < len(distinct) <= len(values) // 3:
        yield View(name, " ".join(filter(None, (how, "single values"))), np.where(np.isfinite(values), place + 1, 0), False)


def bins(values: Floats, most: int = MOST_BINS) -> Ints:
    """Quantile bins from 1; 0 for what is no finite number. Values that are few have a bin each."""
    finite = np.isfinite(values)
    codes: Ints = np.zeros(len(values), np.int64)
    known = values[finite]
    if not len(known):
        return codes
    distinct = np.unique(known)
    count = max(2, min(most, len(known) // ROWS_A_BIN))
    edges = distinct[1:] if len(distinct) <= most else np.unique(np.quantile(known, np.linspace(0, 1, count + 1)[1:-1], method="nearest"))
    codes[finite] = np.searchsorted(edges, known, side="right") + 1
    return codes


def _of_moments(name: str, column: pa.ChunkedArray, null: Flags) -> Iterator[View]:
    moments = column.cast(pa.timestamp("us"), safe=False)
    for how, part in (("hour", pc.hour), ("weekday", pc.day_of_week), ("day", pc.day), ("month", pc.month), ("second", pc.second)):
        codes = part(moments).fill_null(-1).to_numpy().astype(np.int64) + 1
        if len(np.unique(codes)) > 1:
            yield View(name, how, np.where(null, 0, codes), False)


def _of_texts(name: str, column: pa.ChunkedArray) -> Iterator[View]:
    coded = coded_texts(column)
    n, d = len(coded.codes), len(coded.names)
    if not d:
        return
    if d <= max(MOST_BINS, n // 3):
        yield View(name, "", coded.codes + 1, False)
    if d <= MOST_BINS:
        return
    lengths = np.array([len(t) for t in coded.names] + [-1], np.float64)
    if len(np.unique(lengths)) > 2:
        yield View(name, "length", bins(np.where(coded.codes < 0, np.nan, lengths[coded.codes])), True)
    for long in (1, 2, 3):
        for how, cut in ((f"first {long}", slice(0, long)), (f"last {long}", slice(-long, None))):
            parts, place = np.unique(np.array([t[cut] for t in coded.names]), return_inverse=True)
            if 1 < len(parts) <= n // 20:
                yield View(name, how, np.append(place + 1, 0)[coded.codes], False)
    if (digits := numbered(coded)) is not None:
        yield View(name, "number", bins(digits), True)
    yield from _words(name, coded)


def numbered(coded: Coded) -> Floats | None:
    """The number within each text of the kind `C-00412`; None if fewer than nine in ten have one."""
    found = [re.search(r"(\d{1,15})\D*$", text) for text in coded.names]
    if sum(f is not None for f in found) < 0.9 * len(found):
        return None
    values = np.array([float(f.group(1)) if f else np.nan for f in found] + [np.nan])
    return values[coded.codes]


def _words(name: str, coded: Coded) -> Iterator[View]:
    """Whether a text holds a word, for words in at least one of fifty texts, the most frequent first."""
    split = [frozenset(re.findall(r"[^\W\d_]{2,}", text.lower())) for text in coded.names]
    if sum(len(s) > 1 for s in split) < len(split) // 4:
        return
    counts: dict[str, int] = {}
    uses = np.bincount(coded.codes[coded.codes >= 0], minlength=len(coded.names))
    for words, times in zip(split[:WORD_ROWS], uses.tolist(), strict=False):
        for word in words:
            counts[word] = counts.get(word, 0) + times
    total = int(uses[:WORD_ROWS].sum())
    chosen = sorted((w for w, c in counts.items() if total // 50 < c < total), key=lambda w: (-counts[w], w))[:MOST_WORDS]
    for word in chosen:
        has = np.array([word in s for s in split] + [False])[coded.codes]
        yield View(name, f"word {word}", np.where(coded.codes < 0, 0, has + 1), False)


# -- what a view tells ----------------------------------------------------------------------------------------------
def halves(n: int, seed: int) -> Flags:
    """Half of the rows by chance; the seed alone decides."""
    return default_rng(seed).permutation(n) < n // 2


def told(codes: Ints, of: Target, half: Flags) -> float:
    """The share of the label's variance that a view takes away from rows it was not learnt from, in [0, 1].

    Each half of the rows is told by the means of the other half per code; for classes this is Brier's skill. One row of the
    overall mean is added to each code, so that codes seen once tell little.
    """
    guess = np.empty_like(of.Y)
    for learnt in (half, ~half):
        guess[~learnt] = means(codes[learnt], of.Y[learnt], int(codes.max()) + 1)[codes[~learnt]]
    return skill(guess, of)


def told_onward(codes: Ints, of: Target, learnt: Flags, asked: Flags) -> float:
    """The same, learnt on some rows and asked on others."""
    guess = means(codes[learnt], of.Y[learnt], int(codes.max()) + 1)[codes[asked]]
    return skill(guess, of.taken(asked))


def skill(guess: Floats, of: Target) -> float:
    """One minus the squared error over that of the mean, in [0, 1]."""
    spread = float(np.sum((of.Y - of.Y.mean(0)) ** 2))
    return max(0.0, 1 - float(np.sum((of.Y - guess) ** 2)) / spread) if spread > 0 else 0.0


def means(codes: Ints, Y: Floats, size: int) -> Floats:
    """The mean label of each code, (size, k), with one row of the overall mean added to each."""
    counts = np.bincount(codes, minlength=size)
    sums = np.stack([np.bincount(codes, weights=Y[:, j], minlength=size) for j in range(Y.shape[1])], axis=1)
    return (sums + Y.mean(0)) / (counts + 1)[:, None]


@dataclass(frozen=True, eq=False)
class Rest:
    """What the columns that are not suspected tell together.

    Attributes:
        rows: (m) the rows asked.
        guess: (m, k) their labels as told by a model that learnt from the other half.
        told: the share of uncertainty taken away.
    """

    rows: Ints
    guess: Floats
    told: float


def rest(found: Sequence[View], of: Target, half: Flags, seed: int) -> Rest:
    """Boosted trees over one view a column, learnt on one half and asked on the other, both ways, on at most 20,000 rows.

    Threads: one, which for so few rows is faster than several that wait for each other on a busy machine.
    """
    rows = np.sort(default_rng(seed + 1).permutation(len(of))[:REST_ROWS])
    chosen, split = of.taken(rows), half[rows]
    guess = np.tile(chosen.Y.mean(0), (len(rows), 1))
    if found:
        with threadpool_limits(1):
            for learnt in (split, ~split):
                X = np.stack([_column(v, rows, learnt, chosen) for v in found], axis=1)
                guess[~learnt] = _boosted(X[learnt], chosen.taken(learnt), X[~learnt], seed)
    return Rest(rows, guess, skill(guess, chosen))


def _column(view: View, rows: Ints, learnt: Flags, of: Target) -> Floats:
    """Bins as they are; categories as the mean label of the rows learnt from."""
    codes = view.codes[rows]
    if view.graded:
        return np.where(codes == 0, np.nan, codes.astype(np.float64))
    by_code = means(codes[learnt], of.Y[learnt], int(view.codes.max()) + 1)
    return by_code[codes] @ np.arange(1, of.Y.shape[1] + 1)


def _boosted(X: Floats, of: Target, asked: Floats, seed: int) -> Floats:
    options: dict[str, Any] = {"max_iter": 60, "early_stopping": False, "random_state": seed, "min_samples_leaf": 10}
    if not of.of_classes:
        return HistGradientBoostingRegressor(**options).fit(X, of.Y[:, 0]).predict(asked)[:, None]
    guess = np.zeros((len(asked), len(of.names)))
    if len(np.unique(of.codes)) < 2:
        guess[:, of.codes[0]] = 1.0
        return guess
    model = HistGradientBoostingClassifier(**options).fit(X, of.codes)
    guess[:, model.classes_] = model.predict_proba(asked)
    return guess
