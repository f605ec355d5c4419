"""Scoring: a fitted model and its encoder, ready to give scores, and reasons for them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from penstock.craft.learning.encoding import Encoder
from penstock.ground.errors import PenstockError, UserCodeError
from penstock.spec.models import Kind

Matrix: TypeAlias = NDArray[np.float64]
#: How far probabilities of one row may sum from 1: libraries add them in single precision.
_SUM = 1e-4


class Predictor(Protocol):
    """A fitted model as its library runs it.

    Attributes:
        columns: how many it takes.
        outputs: for each column of its answer the place of its class; empty for one column.
        reasons_in: `margin` if contributions add up to what the model sums before it makes a probability of it, else `score`.
    """

    @property
    def columns(self) -> int: ...
    @property
    def outputs(self) -> tuple[int, ...]: ...
    @property
    def reasons_in(self) -> Literal["margin", "score"]: ...

    def predict(self, X: Matrix) -> Matrix:
        """Shapes: X (n rows, d columns) -> (n), or (n, k) for probabilities of k classes."""
        ...

    def margin(self, X: Matrix) -> Matrix:
        """What `reasons_in` names. Shapes: as `predict`."""
        ...

    def contributions(self, X: Matrix) -> tuple[Matrix, Matrix] | None:
        """The library's own exact contributions and their base, None if it has none; see `Scorer.contributions`."""
        ...

    def thresholds(self) -> tuple[NDArray[np.int64], Matrix]:
        """Columns and values at which the answer may jump, where a stored or compiled model must be compared most closely."""
        ...


class Calibrates(Protocol):
    """Scores made probabilities."""

    def apply(self, p: Matrix) -> Matrix: ...
    def as_record(self) -> Any: ...


@dataclass(frozen=True, eq=False)
class Scorer:
    """A model with the encoder of its columns.

    Attributes:
        kind: what its scores are: `binary` the probability of the true class, `multiclass` one probability per class,
            `regression` the number, `ranking` a number that is greater for what should stand higher.
        classes: the labels that scores are of, in order; empty for numbers.
        reference: (d) what reasons compare with; NaN where a column had no value.
    """

    model: Predictor
    encoder: Encoder
    kind: Kind = "binary"
    classes: tuple[bool | int | str, ...] = (False, True)
    calibrator: Calibrates | None = None
    reference: Matrix | None = None
    place: str = ""

    def scores(self, X: Matrix) -> Matrix:
        """The score of each row.

        Shapes:  X (n rows, d columns) float64, encoded -> (n rows) float64; of `multiclass` (n rows, k classes), each row's sum 1.
        Raises:  UserCodeError(E5001) if the model fails on these rows, or its probabilities are none, or a number is not finite.
        """
        several = self.kind == "multiclass"
        if len(X) == 0:
            return np.empty((0, len(self.classes)) if several else 0)
        try:
            p = np.ascontiguousarray(self.model.predict(X), dtype=np.float64)
        except PenstockError:
            raise
        except Exception as error:
            raise UserCodeError(f"the model cannot score: {type(error).__name__}: {error}", place=self.place) from error
        if several:
            p = self._of_all_classes(p)
        self._check(p, len(X))
        return p if self.calibrator is None else np.ascontiguousarray(self.calibrator.apply(p), dtype=np.float64)

    def contributions(self, X: Matrix) -> tuple[Matrix, Matrix]:
        """How much each column moved each row's answer from the base, before calibration.

        LightGBM and XGBoost: their exact Shapley values, which with the base sum to the margin. Every other model: the answer
        less the answer with this one column set to its reference, the median of the rows it was compared on; base is the answer
        at the reference. For an additive model (linear ones, also behind imputers and scalers) these are exact and sum too; for
        others they say what one column alone did, and need not sum.

        Shapes:  X (n, d) -> (n, d) and base (), of `multiclass` (n, k, d) and (k); k as `classes`.
        Units:   `model.reasons_in`: log-odds or the raw number before the link (`margin`), or the score itself (`score`).
        Raises:  UserCodeError(E5001) if the model fails on these rows.
        """
        several = self.kind == "multiclass"
        k = (len(self.classes),) if several else ()
        if len(X) == 0:
            return np.empty((0, *k, self.model.columns)), np.zeros(k)
        try:
            found = self.model.contributions(X) or self._ablated(X)
        except PenstockError:
            raise
        except Exception as error:
            raise UserCodeError(f"the model cannot give reasons: {type(error).__name__}: {error}", place=self.place) from error
        values, base = found
        if not several:
            return values, base
        whole, bases = np.zeros((len(X), *k, self.model.columns)), np.zeros(k)
        whole[:, list(self.model.outputs)], bases[list(self.model.outputs)] = values, base
        return whole, bases

    def _ablated(self, X: Matrix) -> tuple[Matrix, Matrix]:
        at = np.full(self.model.columns, np.nan) if self.reference is None else self.reference
        answer = self.model.margin(X)
        base = self.model.margin(np.ascontiguousarray(at[None, :]))[0]
        values = np.empty((*answer.shape, self.model.columns))
        changed = np.array(X, dtype=np.float64)
        for j in range(self.model.columns):
            kept = changed[:, j].copy()
            changed[:, j] = at[j]
            values[..., j] = answer - self.model.margin(changed)
            changed[:, j] = kept
        return values, np.asarray(base, dtype=np.float64)

    def _of_all_classes(self, p: Matrix) -> Matrix:
        outputs = self.model.outputs
        if outputs == tuple(range(len(self.classes))) or p.ndim != 2 or p.shape[1] != len(outputs):
            return p
        whole = np.zeros((len(p), len(self.classes)))
        whole[:, list(outputs)] = p
        return whole

    def _check(self, p: Matrix, rows: int) -> None:
        shape = (rows, len(self.classes)) if self.kind == "multiclass" else (rows,)
        if p.shape != shape:
            raise UserCodeError("the model's scores are no probabilities" if self.classes else "the model gives no numbers", place=self.place, expected=f"{shape} numbers", got=p.shape)  # fmt: skip
        if not self.classes:
            if not bool(np.all(np.isfinite(p))):
                raise UserCodeError("the model's scores are not finite", place=self.place, got=f"{int(np.sum(~np.isfinite(p)))} of {rows}")
        elif not bool(np.all((p >= 0) & (p <= 1))) or (p.ndim == 2 and not bool(np.all(np.abs(p.sum(axis=1) - 1) <= _SUM))):
            raise UserCodeError("the model's scores are no probabilities", place=self.place, expected=f"{rows} numbers within [0, 1]")


def with_model(scorer: Scorer, model: Predictor) -> Scorer:
    """The same scorer over another runtime of the same model."""
    return replace(scorer, model=model)
