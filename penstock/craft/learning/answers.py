"""Answers: scores and reasons of a batch of rows as the columns that predictions have."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.craft.learning.encoding import Encoder
from penstock.craft.learning.scoring import Matrix, Scorer


class Buffers:
    """Matrices to encode into, used again and again; for one thread that takes and one that gives back."""

    def __init__(self, encoder: Encoder) -> None:
        self._columns = len(encoder.columns)
        self._free: list[Matrix] = []

    def take(self, rows: int) -> Matrix:
        """A matrix of (rows, d) float64, row by row in memory, with whatever was in it before."""
        whole = next((b for b in (self._free.pop(),) if len(b) >= rows), None) if self._free else None
        return (np.empty((rows, self._columns)) if whole is None else whole)[:rows]

    def give_back(self, X: Matrix) -> None:
        """Takes a matrix of `take` back; nobody may use it after that."""
        self._free.append(X if X.base is None else X.base)


def fields(scorer: Scorer, reasons: int) -> list[pa.Field]:
    """The columns of the answers, in order: see `spec.models.Predictions`."""
    if scorer.kind == "multiclass":
        found = [pa.field("prediction", pa.string()), *(pa.field(name, pa.float64()) for name in class_columns(scorer.classes))]
    else:
        found = [pa.field("score", pa.float64())]
    for i in range(1, reasons + 1):
        found += [pa.field(f"reason_{i}", pa.string()), pa.field(f"reason_{i}_by", pa.float64())]
    return found


def class_columns(classes: tuple[bool | int | str, ...]) -> list[str]:
    """A column's name for each class: `score_` and the label, with all but letters, digits and `_` replaced; none twice."""
    names: list[str] = []
    for i, label in enumerate(classes):
        name = "score_" + (re.sub(r"\W+", "_", str(label).lower() if isinstance(label, bool) else str(label)) or str(i))
        names.append(f"{name}_{i}" if name.lower() in {n.lower() for n in names} else name)
    return names


def columns(scorer: Scorer, X: Matrix, reasons: int) -> list[pa.Array]:
    """Scores and reasons of rows as `fields` names them.

    Shapes:  X (n rows, d columns) encoded -> columns of n rows.
    Raises:  UserCodeError(E5001) if the model fails on these rows.
    """
    p = scorer.scores(X)
    likeliest: NDArray[np.int64] | None = None
    if scorer.kind == "multiclass":
        likeliest = p.argmax(axis=1)
        labels = pa.array([str(c) for c in scorer.classes], pa.string())
        found: list[pa.Array] = [labels.take(pa.array(likeliest)), *(pa.array(np.ascontiguousarray(p[:, j])) for j in range(p.shape[1]))]
    else:
        found = [pa.array(p)]
    return found + (_reasons(scorer, X, likeliest, reasons) if reasons else [])


def _reasons(scorer: Scorer, X: Matrix, likeliest: Any, reasons: int) -> list[pa.Array]:
    """The columns that moved each row most, of `multiclass` towards or away from its likeliest class; equal ones in their order."""
    values, _ = scorer.contributions(X)
    if likeliest is not None:
        values = values[np.arange(len(X)), likeliest]
    order = np.argsort(-np.abs(values), axis=1, kind="stable")[:, :reasons]
    names = pa.array(scorer.encoder.names, pa.string())
    found: list[pa.Array] = []
    for i in range(reasons):
        if i >= order.shape[1]:
            found += [pa.nulls(len(X), pa.string()), pa.nulls(len(X), pa.float64())]
            continue
        column = order[:, i]
        found += [names.take(pa.array(column)), pa.array(values[np.arange(len(X)), column])]
    return found
