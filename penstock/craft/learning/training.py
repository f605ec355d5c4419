"""Training: what a training function is given, how its matrix is filled from a stream, and how the function is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock.ground.errors import DefinitionError, LedgerImbalance, PenstockError, UserCodeError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from penstock.craft.learning.encoding import Encoder


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """What a training function learns from.

    Attributes:
        X: (n rows, d columns) float64, row by row in memory; nulls and unknown categories are NaN.
        y: (n rows) int8 labels, 0 or 1.
        columns: names of the d columns.
        categorical: for each column whether its numbers are codes of categories, e.g. for `categorical_features=`.
        seed: a number to seed the learner with, so that the same data gives the same model.
        weights: (n rows) weights, or None for equal ones.
    """

    X: NDArray[np.float64]
    y: NDArray[np.int8]
    columns: tuple[str, ...]
    categorical: tuple[bool, ...] = ()
    seed: int = 0
    weights: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.X)


@dataclass(frozen=True, eq=False)
class Filled:
    """Rows as a model sees them: X (n rows, d columns), y (n rows; empty without a label column), and `kept` columns as they came."""

    X: NDArray[np.float64]
    y: NDArray[np.int8]
    kept: pa.Table


def fill(reader: pa.RecordBatchReader, rows: int, encoder: Encoder, *, label: str | None = None, keep: Sequence[str] = ()) -> Filled:
    """Encodes a stream of batches into one matrix, in the order of the stream.

    Shapes:  `rows` in all -> X (rows, d) float64, row by row in memory: the order in which HistGradientBoosting makes no copy
             (column by column it copies all of X once to draw its sample; measured with scikit-learn 1.9).
    Cost:    8 bytes per value, once, and one batch; columns in `keep` are held as Arrow beside it.
    Args:    label: a boolean or 0/1 column without nulls.
             keep: columns that are returned as they are, e.g. keys and slice columns.
    Raises:  LedgerImbalance(E3002) if the stream has another number of rows; SchemaDrift(E2003);
             DefinitionError(E1001) for a label that is null or not of two values.
    """
    import numpy as np
    import pyarrow as pa

    X: NDArray[np.float64] = np.empty((rows, len(encoder.columns)), dtype=np.float64)
    y: NDArray[np.int8] = np.empty(rows if label else 0, dtype=np.int8)
    kept = []
    start = 0
    for batch in reader:
        stop = start + batch.num_rows
        if stop > rows:
            raise LedgerImbalance("the stream has more rows than were counted", expected=rows, got=f"at least {stop}")
        encoder.write(batch, X[start:stop])
        if label:
            y[start:stop] = _labels(batch.column(label), label)
        kept.append(batch.select(list(keep)))
        start = stop
    if start < rows:
        raise LedgerImbalance("the stream has fewer rows than were counted", expected=rows, got=start)
    return Filled(X, y, pa.Table.from_batches(kept, pa.schema([reader.schema.field(name) for name in keep])))


def _labels(values: pa.Array, name: str) -> NDArray[np.int8]:
    import numpy as np
    import pyarrow as pa

    if values.null_count:
        raise DefinitionError(
            "a row without a label", place=name, got=f"{values.null_count} nulls", hint="learn from rows with a label only"
        )
    if not (pa.types.is_boolean(values.type) or pa.types.is_integer(values.type)):
        raise DefinitionError("a label is true or false", place=name, expected="boolean", got=values.type)
    labels = values.to_numpy(zero_copy_only=False)
    if len(labels) and not (labels.min() >= 0 and labels.max() <= 1):
        raise DefinitionError("a label is 0 or 1", place=name, got=f"{labels.min()} to {labels.max()}")
    return labels.astype(np.int8)


def train(function: Callable[..., Any], given: TrainingSet, params: Mapping[str, Any], *, place: str) -> Any:
    """What the training function returns.

    Raises: UserCodeError(E5001) if it raises (its own error is the cause) or returns nothing; our errors pass through.
    """
    try:
        model = function(given, **params)
    except PenstockError:
        raise
    except Exception as error:
        raise UserCodeError(f"the training function failed: {type(error).__name__}: {error}", place=place) from error
    if model is None:
        raise UserCodeError(
            "the training function returned nothing", place=place, expected="a fitted model", hint="end it with `return model`"
        )
    return model
