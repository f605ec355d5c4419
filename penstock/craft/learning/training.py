"""Training: what a training function is given, how its matrix is filled from a stream, and how the function is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from penstock.ground.errors import DefinitionError, LedgerImbalance, PenstockError, UserCodeError
from penstock.spec.models import Kind

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from penstock.craft.learning.encoding import Encoder


def _nobody(step: int, values: Mapping[str, float]) -> None:
    """Takes progress that nobody wants."""


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """What a training function learns from.

    Attributes:
        X: (n rows, d columns) float64, row by row in memory; nulls and unknown categories are NaN.
        y: (n rows) labels: int8 0 or 1 (binary), int32 codes into `classes` (multiclass), float64 (regression, ranking).
        columns: names of the d columns.
        categorical: for each column whether its numbers are codes of categories, e.g. for `categorical_features=`.
        seed: a number to seed the learner with, so that the same data gives the same model.
        weights: (n rows) weights, or None for equal ones.
        groups: (n rows) int64 codes of the group column, rows of a group together; None without one. `group_sizes` counts them.
        kind: what the label is; `classes` are the labels of a multiclass model as texts.
        threads: how many cores this process was given; more make results depend on the machine.
    """

    X: NDArray[np.float64]
    y: NDArray[Any]
    columns: tuple[str, ...]
    categorical: tuple[bool, ...] = ()
    seed: int = 0
    weights: NDArray[np.float64] | None = None
    groups: NDArray[np.int64] | None = None
    kind: Kind = "binary"
    classes: tuple[str, ...] = ()
    threads: int = 1
    _report: Callable[[int, Mapping[str, float]], None] = field(default=_nobody, repr=False)

    def __len__(self) -> int:
        return len(self.X)

    @property
    def group_sizes(self) -> NDArray[np.int64]:
        """Rows of each group in order, as rankers of LightGBM and XGBoost want them. Raises: DefinitionError(E1001) without groups."""
        import numpy as np

        if self.groups is None:
            raise DefinitionError("the model has no groups", place="train.group_sizes", hint='@ps.model(group="query_id")')
        starts = np.flatnonzero(np.r_[True, self.groups[1:] != self.groups[:-1]]) if len(self.groups) else np.empty(0, dtype=np.int64)
        return np.diff(np.r_[starts, len(self.groups)]).astype(np.int64)

    def report(self, step: int, **values: float) -> None:
        """Tells how training goes, e.g. a loss per iteration: shown while it runs, and kept as the learning curve of the version."""
        self._report(step, values)


@dataclass(frozen=True, eq=False)
class Filled:
    """Rows as a model sees them.

    Attributes:
        X: (n rows, d columns). y: (n rows) labels, empty without a label column. weight, group: (n rows), None without the column.
        kept: `keep` columns as they came.
        low, high, nulls: (d columns) the least and the greatest value of each column, NaN for none, and how many rows have none.
        sampled: row numbers, rising, of which `raw` holds all columns as they came: the model's, those of the target, and `keep`.
    """

    X: NDArray[np.float64]
    y: NDArray[Any]
    kept: pa.Table
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    nulls: NDArray[np.int64]
    weight: NDArray[np.float64] | None = None
    group: NDArray[np.int64] | None = None
    sampled: NDArray[np.int64] | None = None
    raw: pa.Table | None = None

    def __len__(self) -> int:
        return len(self.X)


@dataclass(frozen=True)
class Target:
    """What is learnt: the label column, what kind of label it is, its classes, and the columns of weights and groups."""

    label: str
    kind: Kind = "binary"
    classes: tuple[str, ...] = ()
    weight: str | None = None
    group: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(c for c in (self.label, self.weight, self.group) if c is not None)


Make = Callable[[str, tuple[int, ...], Any], Any]


def _in_memory(name: str, shape: tuple[int, ...], dtype: Any) -> Any:
    import numpy as np

    return np.empty(shape, dtype=dtype)


def fill(
    reader: pa.RecordBatchReader,
    rows: int,
    encoder: Encoder,
    *,
    target: Target | None = None,
    keep: Sequence[str] = (),
    sample: int = 0,
    beside: Sequence[str] = (),
    make: Make = _in_memory,
) -> Filled:
    """Encodes a stream of batches into one matrix, in the order of the stream.

    Shapes:  `rows` in all -> X (rows, d) float64, row by row in memory: the order in which HistGradientBoosting makes no copy
             (column by column it copies all of X once to draw its sample; measured with scikit-learn 1.9).
    Cost:    8 bytes per value, once, and one batch; columns in `keep` are held as Arrow beside it, and `sample` rows of raw columns.
    Args:    target: the columns that are learnt; without one only X is filled.
             keep: columns that are returned as they are, e.g. keys and slice columns.
             sample: about how many rows, evenly spread over the stream, are also returned as they came, with columns `beside` them.
             make: makes an array of a name, shape and type; by default in memory.
    Raises:  LedgerImbalance(E3002) if the stream has another number of rows; SchemaDrift(E2003);
             DefinitionError(E1001) for labels, weights or groups that cannot be learnt from.
    """
    import numpy as np
    import pyarrow as pa

    X: NDArray[np.float64] = make("X", (rows, len(encoder.columns)), np.float64)
    y: NDArray[Any] = make("y", (rows if target else 0,), label_type(target.kind if target else "binary"))
    weight = make("weight", (rows,), np.float64) if target and target.weight else None
    stride = max(1, -(-rows // sample)) if sample else 0
    kept: list[pa.RecordBatch] = []
    grouped: list[pa.Array] = []
    picked: list[NDArray[np.int64]] = []
    raw: list[pa.RecordBatch] = []
    names = list(dict.fromkeys((*encoder.names, *(target.columns if target else ()), *keep, *beside)))
    low, high = np.full(len(encoder.columns), np.nan), np.full(len(encoder.columns), np.nan)
    nulls: NDArray[np.int64] = np.zeros(len(encoder.columns), dtype=np.int64)
    start = 0
    for batch in reader:
        stop = start + batch.num_rows
        if stop > rows:
            raise LedgerImbalance("the stream has more rows than were counted", expected=rows, got=f"at least {stop}")
        part = X[start:stop]
        encoder.write(batch, part)
        if len(part):
            low, high = np.fmin(low, np.fmin.reduce(part)), np.fmax(high, np.fmax.reduce(part))
            nulls += np.count_nonzero(np.isnan(part), axis=0)
        if target:
            y[start:stop] = labels(batch.column(target.label), target)
        if weight is not None and target and target.weight:
            weight[start:stop] = _weights(batch.column(target.weight), target.weight)
        if target and target.group:
            grouped.append(batch.column(target.group))
        kept.append(batch.select(list(keep)))
        if stride:
            at = np.arange(-start % stride, batch.num_rows, stride)
            picked.append(at + start)
            raw.append(batch.select(names).take(pa.array(at)))
        start = stop
    if start < rows:
        raise LedgerImbalance("the stream has fewer rows than were counted", expected=rows, got=start)
    group = _groups(grouped, target.group) if target and target.group else None
    if group is not None:
        group = _into(make("group", (rows,), np.int64), group)
    return Filled(
        X,
        y,
        pa.Table.from_batches(kept, pa.schema([reader.schema.field(name) for name in keep])),
        low,
        high,
        nulls,
        weight,
        group,
        np.concatenate([*picked, np.empty(0, dtype=np.int64)]).astype(np.int64) if stride else None,
        pa.Table.from_batches(raw, pa.schema([reader.schema.field(name) for name in names])) if stride else None,
    )


def _into(array: Any, values: Any) -> Any:
    array[:] = values
    return array


def label_type(kind: Kind) -> str:
    """The numpy type of labels."""
    return {"binary": "int8", "multiclass": "int32"}.get(kind, "float64")


def labels(values: pa.Array, target: Target) -> NDArray[Any]:
    """Labels as a model learns them.

    Shapes:  (n rows) -> (n rows): int8 0 or 1; int32 codes into `target.classes`, -1 for a label that is none of them; or float64.
    Raises:  DefinitionError(E1001) for nulls, for a type that is no label of the kind, for numbers that are not finite.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    name = target.label
    if values.null_count:
        raise DefinitionError(
            "a row without a label", place=name, got=f"{values.null_count} nulls", hint="learn from rows with a label only"
        )
    if target.kind == "multiclass":
        codes = pc.index_in(class_texts(values, name), value_set=pa.array(target.classes, pa.string()))
        return np.asarray(pc.fill_null(codes, -1).to_numpy(zero_copy_only=False), dtype=np.int32)
    if target.kind == "binary":
        return _two_classes(values, name)
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_decimal(values.type)):
        raise DefinitionError(f"the label of a {target.kind} model is a number", place=name, expected="a number", got=values.type)
    numbers = np.asarray(values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    if strange := int(np.count_nonzero(~np.isfinite(numbers))):
        hint = "reject them with a check such as ps.finite, or leave them out in the table"
        raise DefinitionError(
            "labels that are no numbers", place=name, expected="finite numbers", got=f"{strange} NaN or infinite", hint=hint
        )
    return numbers


def class_texts(values: pa.Array, name: str) -> pa.Array:
    """Labels of a multiclass model as texts. Raises: DefinitionError(E1001) for a type that names no class."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = values.type
    if pa.types.is_dictionary(kind):
        values, kind = values.dictionary_decode(), kind.value_type
    if pa.types.is_boolean(kind):
        return pc.if_else(values, "true", "false")
    if pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return values.cast(pa.string())
    raise DefinitionError("a column of this type names no classes", place=name, expected="text, integer or boolean", got=kind)


def _two_classes(values: pa.Array, name: str) -> NDArray[np.int8]:
    import numpy as np
    import pyarrow as pa

    if not (pa.types.is_boolean(values.type) or pa.types.is_integer(values.type)):
        raise DefinitionError(
            "a label is true or false", place=name, expected="boolean", got=values.type,
            hint='other labels need kind="multiclass" or kind="regression"',
        )  # fmt: skip
    found = values.to_numpy(zero_copy_only=False)
    if len(found) and not (found.min() >= 0 and found.max() <= 1):
        raise DefinitionError("a label is 0 or 1", place=name, got=f"{found.min()} to {found.max()}")
    return np.asarray(found, dtype=np.int8)


def _weights(values: pa.Array, name: str) -> NDArray[np.float64]:
    import numpy as np
    import pyarrow as pa

    kind = values.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise DefinitionError("a weight is a number", place=name, expected="a number", got=kind)
    found: NDArray[np.float64] = np.asarray(values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    if wrong := int(np.count_nonzero(~(np.isfinite(found) & (found >= 0)))):
        raise DefinitionError("weights that are none", place=name, expected="finite numbers, 0 or more", got=f"{wrong} others or nulls")
    return found


def _groups(parts: Sequence[pa.Array], name: str) -> NDArray[np.int64]:
    import numpy as np
    import pyarrow as pa

    whole = pa.chunked_array(parts).combine_chunks() if parts else pa.array([], pa.string())
    if whole.null_count:
        raise DefinitionError("rows without a group", place=name, got=f"{whole.null_count} nulls", hint="leave them out in the table")
    coded = whole.dictionary_encode() if not pa.types.is_dictionary(whole.type) else whole
    return np.asarray(coded.indices.to_numpy(zero_copy_only=False), dtype=np.int64)


def train(function: Callable[..., Any], given: TrainingSet, params: Mapping[str, Any], *, place: str) -> Any:
    """What the training function returns.

    Raises: UserCodeError(E5001) if it raises (its own error is the cause) or returns nothing; our errors pass through.
    """
    try:
        model = function(given, **params)
    except (PenstockError, MemoryError):
        raise
    except Exception as error:
        raise UserCodeError(f"the training function failed: {type(error).__name__}: {error}", place=place) from error
    if model is None:
        raise UserCodeError(
            "the training function returned nothing", place=place, expected="a fitted model", hint="end it with `return model`"
        )
    return model
