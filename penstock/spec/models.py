"""Models and predictions: a training function with its data, split and gates, and the table of scores it writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from penstock.ground.errors import DefinitionError
from penstock.spec.features import Features, OnDemand
from penstock.spec.sizes import size
from penstock.spec.spans import span
from penstock.spec.tables import signature_of

Kind = Literal["binary", "multiclass", "regression", "ranking"]
KINDS: tuple[Kind, ...] = ("binary", "multiclass", "regression", "ranking")
Calibration = Literal["isotonic", "sigmoid"]
Format = Literal["onnx", "lightgbm", "xgboost", "skops", "pickle"]
FORMATS: tuple[Format, ...] = ("onnx", "lightgbm", "xgboost", "skops", "pickle")


# -- splits ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class ByTime:
    """The newest rows are the test set: `test` is a span (`30d`), a number of months (`1 month`), or a moment (`2013-12-01`)."""

    test: str


@dataclass(frozen=True)
class ByGroup:
    """All rows of some values of a column are the test set, so that no group stands on both sides; `test` is a share of the groups."""

    column: str
    test: float


@dataclass(frozen=True)
class ByRatio:
    """A share of the rows is the test set, chosen by a digest of each row's key: the same row is always on the same side."""

    test: float


Split = ByTime | ByGroup | ByRatio


def by_time(*, test: str) -> ByTime:
    """The newest rows are the test set; see `ByTime`. Raises: DefinitionError(E1001)."""
    parts = test.split()
    if len(parts) == 2 and parts[1].rstrip("s") == "month" and parts[0].isdigit():
        return ByTime(test)
    if not (len(test) >= 10 and test[4:5] == "-"):
        span(test)
    return ByTime(test)


def by_group(column: str, *, test: float) -> ByGroup:
    """All rows of a share of a column's values are the test set; see `ByGroup`. Raises: DefinitionError(E1001)."""
    return ByGroup(column, _share(test, "by_group"))


def by_ratio(*, test: float) -> ByRatio:
    """A share of the rows is the test set; see `ByRatio`. Raises: DefinitionError(E1001)."""
    return ByRatio(_share(test, "by_ratio"))


def _share(test: float, place: str) -> float:
    if not 0 < test < 1:
        raise DefinitionError("not a share of the rows", place=f"{place}(test=...)", expected="a number between 0 and 1", got=test)
    return float(test)


# -- metrics and gates ----------------------------------------------------------------------------------------------
#: Metrics of the test set by kind of model.
METRICS: Mapping[Kind, tuple[str, ...]] = {
    "binary": ("roc_auc", "average_precision", "log_loss", "brier", "calibration_error", "accuracy"),
    "multiclass": ("roc_auc", "log_loss", "brier", "calibration_error", "accuracy", "balanced_accuracy", "f1_macro"),
    "regression": ("rmse", "mae", "median_error", "mape", "r2", "bias"),
    "ranking": ("ndcg", "ndcg_10", "mean_average_precision", "mean_reciprocal_rank"),
}
#: Figures of the rows a model learns from and is tested on, which gates can hold too: numbers of rows, the share of the rarest
#: class among the training rows, and the greatest drift (PSI) of a feature between training and test rows.
FIGURES = ("train_rows", "test_rows", "least_class", "feature_drift")


@dataclass(frozen=True)
class Gate:
    """A condition on what was measured: overall, in every slice of a column, against production, or that nothing leaks.

    Attributes:
        slice: a column; `*` means every slice that was declared, and the weak ones that were found.
        op: `>=`, `<=` hold a bound; `not_below` compares with production on the same rows, paired; `no_leakage` has no bound.
        allow: for `no_leakage` columns that may tell the label.
    """

    metric: str
    slice: str | None = None
    op: Literal[">=", "<=", "not_below", "no_leakage"] = ">="
    bound: float | str = 0.0
    by: float = 0.0
    allow: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        where = f"[{self.slice}]" if self.slice else ""
        if self.op == "no_leakage":
            return "no leakage" + (f" but {', '.join(self.allow)}" if self.allow else "")
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


def metric(name: str, *, slice: str | None = None) -> Metric:
    """A metric of the test set, overall or in every slice of a column (`*`: every slice, found ones too), or a figure of the rows.

    Raises: DefinitionError(E1001) for an unknown one.
    """
    known = tuple(dict.fromkeys((*(m for metrics in METRICS.values() for m in metrics), *FIGURES)))
    if name not in known:
        raise DefinitionError("unknown metric", place=name, expected=", ".join(known), got=name)
    if slice is not None and name in FIGURES:
        raise DefinitionError("a figure of all rows has no slices", place=f"metric({name!r}, slice={slice!r})")
    return Metric(name, slice)


def no_leakage(*, allow: list[str] | None = None) -> Gate:
    """A gate that fails if a feature tells the label too well, was not known in time, or rows stand on both sides of the split."""
    return Gate("leakage", op="no_leakage", allow=tuple(allow or ()))


# -- the model ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Model:
    """A training function with its data, split and gates; or, with `source`, a finished model that is measured and gated alike.

    Attributes:
        over: the table whose rows are learnt from (its name once the project is loaded).
        label: a column of it; rows without a label are left out and counted. Boolean for `binary`, any text, integer or boolean
            for `multiclass`, a number for `regression` and `ranking` (a greater one is more relevant).
        features: feature assets (all their columns), names of columns of `over`, and what is computed of the row (`OnDemand`).
        split: how the test set is taken.
        kind: what the label is.
        gates: conditions; a version that fails one is registered as refused.
        slices: columns by which metrics are also shown.
        weight: a column of row weights, used in training and in metrics.
        group: a column whose rows belong together: the query of a ranking, the entity that must not stand on both sides.
        folds: cross-validation on the training rows; 0 for none.
        calibrate: how scores are made probabilities on rows held back from training; None for not at all.
        format: how the artefact is stored; None lets the model's type decide. `pickle` only on the user's word.
        memory, timeout: limits of the training process, such as `4GB` and `30m`.
        release: `auto`: a version that passes its gates becomes production by that rule; `manual`: a person releases it.
        source: a finished model: a path of a file, or an address in a tracker.
        seed: the seed handed to the training function.
    """

    name: str
    function: Callable[..., Any] | None
    over: Any
    label: str
    features: tuple[Any, ...]
    split: Split
    gates: tuple[Gate, ...] = ()
    slices: tuple[str, ...] = ()
    params: tuple[tuple[str, Any], ...] = ()
    seed: int = 0
    doc: str = ""
    kind: Kind = "binary"
    weight: str | None = None
    group: str | None = None
    folds: int = 0
    calibrate: Calibration | None = None
    format: Format | None = None
    memory: str | None = None
    timeout: str | None = None
    release: Literal["auto", "manual"] = "auto"
    source: str = ""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the plain training function."""
        if self.function is None:
            raise DefinitionError("a finished model has no training function", place=self.name or self.source)
        return self.function(*args, **kwargs)


def model(
    *,
    over: Any,
    label: str,
    features: list[Any],
    split: Split,
    kind: Kind = "binary",
    gates: list[Gate] | None = None,
    slices: list[str] | None = None,
    weight: str | None = None,
    group: str | None = None,
    folds: int = 0,
    calibrate: Calibration | None = None,
    format: Format | None = None,
    memory: str | None = None,
    timeout: str | None = None,
    release: Literal["auto", "manual"] = "auto",
    seed: int = 0,
) -> Callable[[Callable[..., Any]], Model]:
    """Makes a model of a training function with one positional parameter, the training set; see `Model` for the options.

    Raises: DefinitionError(E1001).
    """

    def make(fn: Callable[..., Any]) -> Model:
        inputs, _, params = signature_of(fn)
        if len(inputs) != 1:
            raise DefinitionError(
                "a training function takes one training set", place=fn.__name__, expected="one parameter", got=len(inputs)
            )
        made = Model(
            fn.__name__, fn, over, label, tuple(features), split, tuple(gates or ()), tuple(slices or ()), params, seed,
            (fn.__doc__ or "").strip(), kind, weight, group, folds, calibrate, format, memory, timeout, release,
        )  # fmt: skip
        return validated(made)

    return make


def import_model(
    source: str,
    *,
    over: Any,
    label: str,
    features: list[Any],
    split: Split,
    kind: Kind = "binary",
    gates: list[Gate] | None = None,
    slices: list[str] | None = None,
    weight: str | None = None,
    group: str | None = None,
    release: Literal["auto", "manual"] = "auto",
    doc: str = "",
) -> Model:
    """A finished model: a path such as `models/m.onnx`, or `mlflow+http://host:port/name@alias`. Measured and gated as one that
    was trained here; its inputs are the encoded features in their order.

    Raises: DefinitionError(E1001).
    """
    made = Model(
        "", None, over, label, tuple(features), split, tuple(gates or ()), tuple(slices or ()), (), 0, doc, kind, weight, group,
        release=release, source=source,
    )  # fmt: skip
    return validated(made)


def validated(made: Model) -> Model:
    """The model itself, if its parts fit together. Raises: DefinitionError(E1001)."""
    place = made.name or made.source
    if made.kind not in KINDS:
        raise DefinitionError("not a kind of model", place=f"{place}.kind", expected=", ".join(KINDS), got=made.kind)
    if made.kind == "ranking" and made.group is None:
        raise DefinitionError("a ranking needs the column of its queries", place=f"{place}.group", hint='group="query_id"')
    if made.calibrate is not None and made.kind not in ("binary", "multiclass"):
        raise DefinitionError("only probabilities can be calibrated", place=f"{place}.calibrate", got=made.kind)
    if made.format is not None and made.format not in FORMATS:
        raise DefinitionError("not a format of models", place=f"{place}.format", expected=", ".join(FORMATS), got=made.format)
    if made.folds == 1 or made.folds < 0:
        raise DefinitionError("cross-validation needs two folds or more", place=f"{place}.folds", got=made.folds)
    if made.timeout is not None:
        span(made.timeout)
    if made.memory is not None:
        size(made.memory)
    for gate in made.gates:
        if not isinstance(gate, Gate):
            raise DefinitionError("not a gate", place=place, expected='ps.metric("roc_auc") >= 0.7', got=repr(gate)[:40])
        if gate.op != "no_leakage" and gate.metric not in (*METRICS[made.kind], *FIGURES):
            raise DefinitionError(
                f"not a metric of a {made.kind} model", place=f"{place}.gates", expected=", ".join(METRICS[made.kind]), got=gate.metric
            )
    return made


@dataclass(frozen=True)
class Predictions:
    """Scores that the live version of a model writes for rows it has not scored yet.

    Columns: the key and time of `over`, the model's `slices`, then `score` (of a multiclass model `prediction`, the likeliest
    label as text, and one `score_<class>` per class), the reasons, `model_version`, `scored_at`.

    Attributes:
        where: limits the rows, as an SQL condition.
        reasons: so many columns that moved each row's score most, the strongest first: `reason_1` the column, `reason_1_by` how
            much, in log odds or as `Scorer.contributions` says; null where the model has fewer columns.
    """

    model: Any
    over: Any
    where: str | None = None
    doc: str = ""
    reasons: int = 0


#: Reasons are two columns each.
MOST_REASONS = 20


def predictions(model: Any, *, over: Any, where: str | None = None, reasons: int = 0, doc: str = "") -> Predictions:
    """Scores of a table's rows by the live version of a model; see `Predictions`. Raises: DefinitionError(E1001)."""
    if isinstance(reasons, bool) or not isinstance(reasons, int) or not 0 <= reasons <= MOST_REASONS:
        raise DefinitionError("not a number of reasons", place="predictions(reasons=...)", expected=f"0 to {MOST_REASONS}", got=reasons)
    return Predictions(model, over, where, doc, reasons)


def with_names(asset: Any, name_of: Callable[[Any], str]) -> Any:
    """The same record with references to other assets replaced by their names."""
    if isinstance(asset, Features):
        return replace(asset, over=name_of(asset.over)) if asset.table is None else asset
    if isinstance(asset, Model):
        named = tuple(f if isinstance(f, str | OnDemand) else Feature(name_of(f)) for f in asset.features)
        return replace(asset, over=name_of(asset.over), features=named)
    if isinstance(asset, Predictions):
        return replace(asset, model=name_of(asset.model), over=name_of(asset.over))
    return asset


@dataclass(frozen=True)
class Feature:
    """A feature asset by name, inside `Model.features`, as told from a column's name."""

    asset: str
