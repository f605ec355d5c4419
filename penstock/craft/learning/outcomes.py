"""What a model said of rows and what came true: the one thing that metrics, curves, slices and comparisons are computed from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.ground.errors import DefinitionError
from penstock.spec.models import KINDS, Kind

#: How far the scores of a row's classes may be off one in sum: what float32 leaves over some thousand classes.
_SUM = 1e-3


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Labels and scores of n rows.

    Labels that are no labels and shapes that do not fit are refused here; scores that are no scores are kept, and told as the
    reason for metrics without a value (`strange`).

    Shapes:  y (n rows): binary int8 of 0 and 1, multiclass int32 codes within [0, k), regression float64, ranking float64
             relevance, greater is more relevant. p (n rows) float64, probabilities of true within [0, 1] for binary; (n rows,
             k classes) for multiclass. weight (n rows) float64 of 0 or more, or None for equal ones. group (n rows) codes of 0 or
             more, or None: the query of a ranking; otherwise what rows that are not independent have in common.
    Attributes:
        classes: names of the k classes of a multiclass model, in the order of its scores.
    Raises:  DefinitionError(E1001).
    """

    kind: Kind
    y: NDArray[Any]
    p: NDArray[np.float64]
    classes: tuple[str, ...] = ()
    weight: NDArray[np.float64] | None = None
    group: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DefinitionError("not a kind of model", expected=", ".join(KINDS), got=self.kind)
        p = np.asarray(self.p, dtype=np.float64)
        y = _labels(self.kind, np.asarray(self.y), self.classes)
        wanted = (len(y), len(self.classes)) if self.kind == "multiclass" else (len(y),)
        if p.shape != wanted:
            raise DefinitionError("scores and labels do not fit", place="scores", expected=f"shape {wanted}", got=f"shape {p.shape}")
        object.__setattr__(self, "y", y)
        object.__setattr__(self, "p", p)
        if self.weight is not None:
            object.__setattr__(self, "weight", _weights(np.asarray(self.weight, dtype=np.float64), len(y)))
        if self.group is not None:
            object.__setattr__(self, "group", _groups(np.asarray(self.group), len(y)))
        elif self.kind == "ranking":
            raise DefinitionError("rows of a ranking without their queries", place="group", expected="a code per row", got=None)

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: NDArray[Any]) -> Outcomes:
        """The same of some rows, by numbers or as a mask."""
        weight = None if self.weight is None else self.weight[rows]
        group = None if self.group is None else self.group[rows]
        return replace(self, y=self.y[rows], p=self.p[rows], weight=weight, group=group)

    @property
    def positives(self) -> int:
        """Rows whose label is true; 0 for other kinds than binary."""
        return int(np.count_nonzero(self.y)) if self.kind == "binary" else 0

    @property
    def weights(self) -> NDArray[np.float64]:
        """The weights, ones if there are none."""
        return np.ones(len(self)) if self.weight is None else self.weight

    @property
    def strange(self) -> str:
        """Why no metric can be computed of these rows; empty if it can."""
        if not len(self):
            return "there are no labelled rows"
        if self.weight is not None and not self.weight.any():
            return "all weights are 0"
        if self.kind in ("binary", "multiclass"):
            if odd := self.p.size - int(np.count_nonzero((self.p >= 0) & (self.p <= 1))):
                return f"{odd} scores are not within [0, 1]"
            if self.kind == "multiclass" and (odd := int(np.count_nonzero(np.abs(self.p.sum(axis=1) - 1) > _SUM))):
                return f"the scores of {odd} rows do not add up to 1"
        elif odd := len(self) - int(np.count_nonzero(np.isfinite(self.p))):
            return f"{odd} scores are no finite numbers"
        return ""


def _labels(kind: Kind, y: NDArray[Any], classes: tuple[str, ...]) -> NDArray[Any]:
    if y.ndim != 1:
        raise DefinitionError("labels are one number per row", place="labels", expected="one dimension", got=f"shape {y.shape}")
    if kind in ("regression", "ranking"):
        y = y.astype(np.float64)
        if odd := len(y) - int(np.count_nonzero(np.isfinite(y))):
            raise DefinitionError("a label is no finite number", place="labels", got=f"{odd} of {len(y)} rows", hint="leave such rows out")
        return y
    if kind == "multiclass" and len(classes) < 2:
        raise DefinitionError("a multiclass model has two classes or more", place="classes", got=classes)
    most = len(classes) - 1 if kind == "multiclass" else 1
    with np.errstate(invalid="ignore"):
        codes = y.astype(np.int32 if kind == "multiclass" else np.int8)
    if len(y) and not (bool(np.all(codes == y)) and codes.min() >= 0 and codes.max() <= most):
        raise DefinitionError(
            "a label is no class", place="labels", expected=f"whole numbers within 0 to {most}", got=f"{y.min()} to {y.max()}"
        )
    return codes


def _weights(weight: NDArray[np.float64], rows: int) -> NDArray[np.float64]:
    if weight.shape != (rows,):
        raise DefinitionError("weights and labels have different rows", place="weights", expected=rows, got=f"shape {weight.shape}")
    if odd := rows - int(np.count_nonzero(np.isfinite(weight) & (weight >= 0))):
        raise DefinitionError("a weight is no number of 0 or more", place="weights", got=f"{odd} of {rows} rows")
    return weight


def _groups(group: NDArray[Any], rows: int) -> NDArray[np.int64]:
    if group.shape != (rows,) or not np.issubdtype(group.dtype, np.integer):
        raise DefinitionError(
            "groups are codes per row", place="group", expected=f"{rows} whole numbers", got=f"{group.dtype}, shape {group.shape}"
        )
    if rows and group.min() < 0:
        raise DefinitionError("a row without a group", place="group", got=f"{int(np.count_nonzero(group < 0))} of {rows} rows")
    return group.astype(np.int64)
