"""Models and predictions: a training function with its data, split and gates, and the table of scores it writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from penstock.ground.errors import DefinitionError
from penstock.spec.features import Features
from penstock.spec.spans import span
from penstock.spec.tables import signature_of


@dataclass(frozen=True)
class ByTime:
    """The newest rows are the test set: `test` is a span (`30d`), a number of months (`1 month`), or a moment (`2013-12-01`)."""

    test: str


def by_time(*, test: str) -> ByTime:
    """The newest rows are the test set; see `ByTime`. Raises: DefinitionError(E1001)."""
    parts = test.split()
    if len(parts) == 2 and parts[1].rstrip("s") == "month" and parts[0].isdigit():
        return ByTime(test)
    if not (len(test) >= 10 and test[4:5] == "-"):
        span(test)
    return ByTime(test)


@dataclass(frozen=True)
class Gate:
    """A condition on a metric of the test set: overall, in every slice of a column, or against production."""

    metric: str
    slice: str | None = None
    op: Literal[">=", "<=", "not_below"] = ">="
    bound: float | str = 0.0
    by: float = 0.0

    @property
    def name(self) -> str:
        where = f"[{self.slice}]" if self.slice else ""
        if self.op == "not_below":
            return f"{self.metric}{where} not below {self.bound} by {self.by:g}"
        return f"{self.metric}{where} {self.op} {self.bound:g}"


@dataclass(frozen=True)
class Metric:
    """A metric to build gates from: `ps.metric("roc_auc") >= 0.65`."""

    name: str
    slice: str | None = None

    def __ge__(self, bound: float) -> Gate:
        return Gate(self.name, self.slice, ">=", float(bound))

    def __le__(self, bound: float) -> Gate:
        return Gate(self.name, self.slice, "<=", float(bound))

    def not_below(self, what: str, *, by: float = 0.0) -> Gate:
        return Gate(self.name, self.slice, "not_below", what, by)


METRICS = ("roc_auc", "average_precision", "log_loss", "brier", "calibration_error", "accuracy")


def metric(name: str, *, slice: str | None = None) -> Metric:
    """A metric of the test set, overall or in every slice of a column. Raises: DefinitionError(E1001) for an unknown one."""
    if name not in METRICS:
        raise DefinitionError("unknown metric", place=name, expected=", ".join(METRICS), got=name)
    return Metric(name, slice)


@dataclass(frozen=True)
class Model:
    """A binary classifier for now; other kinds follow.

    Attributes:
        over: the table whose rows are learnt from (its name once the project is loaded).
        label: a boolean column of it; rows without a label are left out and counted.
        features: feature assets (all their columns), and names of columns of `over`.
        split: how the test set is taken.
        gates: conditions; a version that fails one is registered as refused.
        slices: columns by which metrics are also shown.
        seed: the seed handed to the training function.
    """

    name: str
    function: Callable[..., Any]
    over: Any
    label: str
    features: tuple[Any, ...]
    split: ByTime
    gates: tuple[Gate, ...] = ()
    slices: tuple[str, ...] = ()
    params: tuple[tuple[str, Any], ...] = ()
    seed: int = 0
    doc: str = ""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the plain training function."""
        return self.function(*args, **kwargs)


def model(
    *,
    over: Any,
    label: str,
    features: list[Any],
    split: ByTime,
    gates: list[Gate] | None = None,
    slices: list[str] | None = None,
    seed: int = 0,
) -> Callable[[Callable[..., Any]], Model]:
    """Makes a model of a training function with one positional parameter, the training set.

    Raises: DefinitionError(E1001).
    """

    def make(fn: Callable[..., Any]) -> Model:
        inputs, _, params = signature_of(fn)
        if len(inputs) != 1:
            raise DefinitionError(
                "a training function takes one training set", place=fn.__name__, expected="one parameter", got=len(inputs)
            )
        for gate in gates or ():
            if not isinstance(gate, Gate):
                raise DefinitionError("not a gate", place=fn.__name__, expected='ps.metric("roc_auc") >= 0.7', got=repr(gate)[:40])
        return Model(
            fn.__name__,
            fn,
            over,
            label,
            tuple(features),
            split,
            tuple(gates or ()),
            tuple(slices or ()),
            params,
            seed,
            (fn.__doc__ or "").strip(),
        )

    return make


@dataclass(frozen=True)
class Predictions:
    """Scores that the newest passing version of a model writes for rows it has not scored yet.

    Columns: the key and time of `over`, `score`, `model_version`, `scored_at`. `where` limits the rows, as an SQL condition.
    """

    model: Any
    over: Any
    where: str | None = None
    doc: str = ""


def predictions(model: Any, *, over: Any, where: str | None = None, doc: str = "") -> Predictions:
    """Scores of a table's rows by the newest passing version of a model; see `Predictions`."""
    return Predictions(model, over, where, doc)


def with_names(asset: Any, name_of: Callable[[Any], str]) -> Any:
    """The same record with references to other assets replaced by their names."""
    if isinstance(asset, Features):
        return replace(asset, over=name_of(asset.over))
    if isinstance(asset, Model):
        named = tuple(f if isinstance(f, str) else Feature(name_of(f)) for f in asset.features)
        return replace(asset, over=name_of(asset.over), features=named)
    if isinstance(asset, Predictions):
        return replace(asset, model=name_of(asset.model), over=name_of(asset.over))
    return asset


@dataclass(frozen=True)
class Feature:
    """A feature asset by name, inside `Model.features`, as told from a column's name."""

    asset: str
