"""Scoring: a fitted model and its encoder, ready to give scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.craft.learning.encoding import Encoder
from penstock.ground.errors import UserCodeError


@dataclass(frozen=True, eq=False)
class Scorer:
    """A binary classifier with the encoder of its columns.

    Attributes:
        positive: the place of the true class among the model's classes.
    """

    model: Any
    encoder: Encoder
    positive: int
    place: str = ""

    def scores(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        """The probability of the true class per row.

        Shapes:  X (n rows, d columns) float64, encoded -> (n rows) float64 within [0, 1].
        Raises:  UserCodeError(E5001) if the model fails on these rows or answers with anything else.
        """
        if len(X) == 0:
            return np.empty(0)
        try:
            p = np.ascontiguousarray(self.model.predict_proba(X)[:, self.positive], dtype=np.float64)
        except Exception as error:
            raise UserCodeError(f"the model cannot score: {type(error).__name__}: {error}", place=self.place) from error
        if p.shape != (len(X),) or not bool(np.all((p >= 0) & (p <= 1))):
            raise UserCodeError("the model's scores are no probabilities", place=self.place, expected=f"{len(X)} numbers within [0, 1]")
        return p


def scorer_of(model: Any, encoder: Encoder, *, place: str = "") -> Scorer:
    """A model as a scorer, if it is a fitted classifier of two classes over the encoder's columns.

    Raises: UserCodeError(E5001) that says what is missing.
    """
    name = type(model).__name__
    if not callable(getattr(model, "predict_proba", None)):
        hint = "return a classifier such as HistGradientBoostingClassifier, or wrap one in CalibratedClassifierCV"
        raise UserCodeError("the model gives no probabilities", place=place, expected="a method predict_proba", got=name, hint=hint)
    classes = getattr(model, "classes_", None)
    if classes is None:
        raise UserCodeError("the model is not fitted", place=place, got=name, hint="return the result of fit(train.X, train.y)")
    known = [bool(c) for c in np.asarray(classes).tolist()]
    if sorted(known) != [False, True]:
        raise UserCodeError("the model did not learn two classes", place=place, expected="0 and 1", got=list(classes))
    width = getattr(model, "n_features_in_", len(encoder.columns))
    if width != len(encoder.columns):
        raise UserCodeError(
            "the model was fitted on other columns", place=place, expected=len(encoder.columns), got=width, hint="fit on train.X as it is"
        )
    return Scorer(model, encoder, known.index(True), place)
