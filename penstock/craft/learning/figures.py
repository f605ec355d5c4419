"""Figures of the rows a model learns from and is tested on: how many, how rare the rarest class, how far features have drifted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.special import chdtrc

from penstock.spec.models import Kind

#: Bins of a column of numbers, and categories that have a bin of their own.
BINS, MOST_VALUES = 10, 30


@dataclass(frozen=True)
class Drift:
    """How far a column's values in the test rows are from those in the training rows.

    Attributes:
        psi: the population stability index less what sampling alone makes of it, at least 0. Usual reading: up to 0.1 none to
            speak of, above 0.25 much.
        raw: the index as it is.
        p: the chance of a raw index as great as this if both sides were drawn from the same rows.
        bins: bins that have rows; nulls, and NaN, are bins of their own.
    """

    column: str
    psi: float
    raw: float
    p: float
    bins: int

    def as_record(self) -> dict[str, Any]:
        """JSON-ready, to four significant digits."""
        return {"column": self.column, **{n: float(f"{getattr(self, n):.4g}") for n in ("psi", "raw", "p")}, "bins": self.bins}


def of(
    kind: Kind, train_rows: int, test_rows: int, y: NDArray[Any], train: pa.Table, test: pa.Table, classes: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The figures of `spec.models.FIGURES`, with the drift of each column, the greatest first, and `overlap`.

    `least_class` is the share of the rarest class among the labels, 0 for a class without any; None where there are no classes.
    `overlap` is the share of the given test rows of which an equal row is among the given training rows; None without columns.

    Shapes:  y (n labels of training rows), train and test (feature columns of some or all rows of both sides) -> JSON-ready.
    """
    drifts = drift(train, test)
    return {
        "train_rows": train_rows,
        "test_rows": test_rows,
        "least_class": _least_class(kind, y, classes),
        "feature_drift": drifts[0].psi if drifts else None,
        "overlap": _overlap(train, test),
        "drifts": [d.as_record() for d in drifts],
    }


def drift(train: pa.Table, test: pa.Table) -> tuple[Drift, ...]:
    """The drift of every column that both have and whose values can be counted, the greatest first.

    Cost:    O(n log n) per column.
    """
    columns = [c for c in train.column_names if c in test.column_names]
    found = (_drift(c, train.column(c), test.column(c)) for c in columns)
    return tuple(sorted((d for d in found if d is not None), key=lambda d: (-d.psi, d.column)))


def _drift(name: str, train: pa.ChunkedArray, test: pa.ChunkedArray) -> Drift | None:
    counted = _counted(train, test) if len(train) and len(test) else None
    return None if counted is None else psi(name, *counted)


def psi(name: str, expected: NDArray[np.int64], found: NDArray[np.int64]) -> Drift:
    """The population stability index of two histograms over the same bins: the sum of (q - p) log(q / p) over their shares.

    Half a row is added to every bin, so that an empty one does not make it endless. Drawn from the same rows the index is about
    (1/n + 1/m) times a chi-square number of bins - 1 degrees of freedom: its mean is taken off.

    Shapes:  expected and found (b bins).
    Source:  Yurdakul and Naranjo, "Statistical properties of the population stability index", Journal of Risk Model Validation
             14 (2020), section 3.
    """
    used = (expected + found) > 0
    n, m, bins = int(expected.sum()), int(found.sum()), int(np.count_nonzero(used))
    p = (expected[used] + 0.5) / (n + bins / 2)
    q = (found[used] + 0.5) / (m + bins / 2)
    raw = float(np.sum((q - p) * np.log(q / p)))
    scale = 1 / n + 1 / m
    return Drift(name, max(0.0, raw - (bins - 1) * scale), raw, float(chdtrc(bins - 1, raw / scale)) if bins > 1 else 1.0, bins)


def _counted(train: pa.ChunkedArray, test: pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Rows of both sides by bins that the training rows make: tenths of numbers, the most frequent of other values."""
    kind = train.type
    if pa.types.is_dictionary(kind):
        train, test, kind = train.cast(kind.value_type), test.cast(kind.value_type), kind.value_type
    if test.type != kind:
        return None
    if pa.types.is_boolean(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _by_value(train, test)
    numbers = [as_numbers(c) for c in (train, test)]
    if numbers[0] is None or numbers[1] is None:
        return None
    return _by_tenths(numbers[0], numbers[1])


def as_numbers(column: pa.ChunkedArray) -> tuple[NDArray[np.float64], NDArray[np.bool_]] | None:
    """Numbers, dates and moments as float64, and which are null; None for other types."""
    kind = column.type
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind) or pa.types.is_time(kind):
        column = (
            column.cast(pa.date32()).cast(pa.int32())
            if pa.types.is_date(kind)
            else column.cast(pa.int32() if kind.bit_width == 32 else pa.int64())
        )
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        return None
    null = column.is_null().to_numpy().astype(bool)
    return column.cast(pa.float64(), safe=False).fill_null(0.0).to_numpy(), null


def _by_value(train: pa.ChunkedArray, test: pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    text = [c.cast(pa.large_string()) for c in (train, test)]
    coded = pc.dictionary_encode(pa.chunked_array([*text[0].chunks, *text[1].chunks]).combine_chunks(), null_encoding="encode")
    codes = coded.indices.to_numpy(zero_copy_only=False)
    sides = [np.bincount(part, minlength=len(coded.dictionary)) for part in (codes[: len(train)], codes[len(train) :])]
    order = np.argsort(-sides[0], kind="stable")
    own, others = order[:MOST_VALUES], order[MOST_VALUES:]
    return np.append(sides[0][own], sides[0][others].sum()), np.append(sides[1][own], sides[1][others].sum())


def _by_tenths(
    train: tuple[NDArray[np.float64], NDArray[np.bool_]], test: tuple[NDArray[np.float64], NDArray[np.bool_]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    known = train[0][~train[1] & ~np.isnan(train[0])]
    levels = np.unique(known)
    edges = levels[:-1] if len(levels) <= BINS else np.unique(np.quantile(known, np.arange(1, BINS) / BINS, method="inverted_cdf"))
    bins = len(edges) + 1
    counts = []
    for numbers, null in (train, test):
        codes: NDArray[np.int64] = np.searchsorted(edges, numbers, side="left").astype(np.int64)
        codes[np.isnan(numbers)], codes[null] = bins, bins + 1
        counts.append(np.bincount(codes, minlength=bins + 2))
    return counts[0], counts[1]


def _least_class(kind: Kind, y: NDArray[Any], classes: tuple[str, ...]) -> float | None:
    if kind not in ("binary", "multiclass") or not len(y):
        return None
    counts = np.bincount(y.astype(np.int64), minlength=2 if kind == "binary" else len(classes))
    return float(counts.min() / len(y))


def _overlap(train: pa.Table, test: pa.Table) -> float | None:
    """Rows are compared by 64 bits of all their values; two that differ look equal about once in 10^19 pairs."""
    columns = [c for c in train.column_names if c in test.column_names]
    if not columns or not len(train) or not len(test):
        return None
    mixed: NDArray[np.uint64] = np.zeros(len(train) + len(test), dtype=np.uint64)
    for name in columns:
        both = pa.chunked_array(
            [*train.column(name).chunks, *test.column(name).cast(train.column(name).type).chunks], train.column(name).type
        )
        mixed = _stirred(mixed ^ _codes(both))
    return float(np.mean(np.isin(mixed[len(train) :], mixed[: len(train)])))


def _codes(column: pa.ChunkedArray) -> NDArray[np.uint64]:
    """A number per value, equal for equal ones."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    found = as_numbers(column)
    if found is not None:
        numbers, null = found
        bits = (numbers + 0.0).view(np.uint64).copy()
        bits[null] = np.uint64(0x7FF8DEAD00000001)
        return bits
    if pa.types.is_nested(column.type):
        return np.unique(np.array([str(v) for v in column.to_pylist()]), return_inverse=True)[1].reshape(-1).astype(np.uint64)
    coded = pc.dictionary_encode(column.combine_chunks(), null_encoding="encode")
    return coded.indices.to_numpy(zero_copy_only=False).astype(np.uint64)


def _stirred(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Source: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014, mix64."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
