"""Metrics by slices: the values of columns by which a model may be better or worse."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock.craft.learning.measured import Evaluation, Slice
from penstock.craft.learning.metrics import measure
from penstock.craft.learning.outcomes import Outcomes
from penstock.craft.learning.weak import weak as weak
from penstock.ground.errors import DefinitionError


def evaluate(outcomes: Outcomes, by: pa.Table) -> Evaluation:
    """Metrics of all rows, and of the rows with each value of each column of `by`.

    Shapes:  outcomes (n rows), by (n rows, c columns).  Cost: O(n log n) and some milliseconds per value.
    Nulls:   rows without a value form a slice of their own.
    Raises:  DefinitionError(E1001) if `by` has another number of rows.
    """
    if by.num_columns and by.num_rows != len(outcomes):
        raise DefinitionError("slice columns and labels have different rows", expected=len(outcomes), got=by.num_rows)
    slices = [Slice(column, value, measure(outcomes.take(rows))) for column in by.column_names for value, rows in groups(by.column(column))]
    return Evaluation(measure(outcomes), tuple(slices))


def groups(column: pa.ChunkedArray) -> Iterator[tuple[str | None, NDArray[np.int64]]]:
    """Each value as text with the numbers of its rows, values with more rows first."""
    coded = pc.dictionary_encode(column.combine_chunks(), null_encoding="encode")
    texts = [None if v is None else _text(v) for v in coded.dictionary.to_pylist()]
    codes = coded.indices.to_numpy(zero_copy_only=False)
    counts = np.bincount(codes, minlength=len(texts))
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(counts)
    for i in sorted(range(len(texts)), key=lambda i: (-counts[i], texts[i] or "")):
        yield texts[i], order[ends[i] - counts[i] : ends[i]]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
