"""scikit-learn's models as skops stores them: JSON and arrays in a zip, of types we have looked at. Nothing here ever unpickles."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import sklearn
import skops
import skops.io
from numpy.typing import NDArray
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from penstock.craft.learning.scoring import Matrix
from penstock.craft.learning.trees import check_trees, thresholds_of
from penstock.ground.errors import ArtefactRefused, UserCodeError
from penstock.spec.models import Kind

FILE = "model.skops"
TOLERANCE = 1e-9
#: Types that skops leaves to us, each looked at: what its file can hold, and what loading it runs.
ALLOWED = (
    # Trees: arrays of nodes that scikit-learn follows unchecked; `check_trees` looks at every index before the first score.
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
    # The column transformer inside HistGradientBoosting with categorical columns: partial(check_array, ...); what a partial
    # calls is held to the same list.
    "functools.partial",
    "sklearn.utils.validation.check_array",
    # Plain attributes and arrays, no code on loading.
    "numpy.dtype",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.utils._bunch.Bunch",
)
#: What a zip may hold unpacked, and how much more that may be than the zip itself.
MOST_UNPACKED = 2 << 30
MOST_RATIO = 200


@dataclass(frozen=True, eq=False)
class SklearnPredictor:
    """Any model with scikit-learn's methods."""

    model: Any
    kind: Kind
    columns: int
    outputs: tuple[int, ...]

    @property
    def reasons_in(self) -> Literal["margin", "score"]:
        return "margin" if self.kind in ("binary", "multiclass") and self._decides() else "score"

    def predict(self, X: Matrix) -> Matrix:
        if self.kind == "binary":
            found = self.model.predict_proba(X)[:, self.outputs[0]]
        elif self.kind == "multiclass":
            found = self.model.predict_proba(X)
        else:
            found = self.model.predict(X)
        return np.asarray(found, dtype=np.float64)

    def margin(self, X: Matrix) -> Matrix:
        if self.reasons_in == "score":
            return self.predict(X)
        found = np.asarray(self.model.decision_function(X), dtype=np.float64)
        return -found if self.kind == "binary" and self.outputs[0] == 0 else found

    def contributions(self, X: Matrix) -> tuple[Matrix, Matrix] | None:
        return None

    def thresholds(self) -> tuple[NDArray[np.int64], Matrix]:
        return thresholds_of(self.model)

    def _decides(self) -> bool:
        if not callable(getattr(self.model, "decision_function", None)):
            return False
        classes = getattr(self.model, "classes_", ())
        return self.kind == "binary" or len(classes) > 2


def predictor(model: Any, kind: Kind, classes: tuple[bool | int | str, ...], columns: int, place: str) -> SklearnPredictor:
    """A fitted model with scikit-learn's methods.

    Raises: UserCodeError(E5001) that says what is missing.
    """
    name = type(model).__name__
    if kind in ("binary", "multiclass"):
        if not callable(getattr(model, "predict_proba", None)):
            hint = "return a classifier such as HistGradientBoostingClassifier, or wrap one in CalibratedClassifierCV"
            raise UserCodeError("the model gives no probabilities", place=place, expected="a method predict_proba", got=name, hint=hint)
        learnt = getattr(model, "classes_", None)
        if learnt is None:
            raise UserCodeError("the model is not fitted", place=place, got=name, hint="return the result of fit(train.X, train.y)")
        outputs = places_of(np.asarray(learnt).tolist(), kind, classes, place)
    else:
        if not callable(getattr(model, "predict", None)) or hasattr(model, "classes_"):
            hint = "return a regressor such as HistGradientBoostingRegressor"
            raise UserCodeError("the model gives no numbers", place=place, expected="a fitted regressor", got=name, hint=hint)
        try:
            check_is_fitted(model)
        except (NotFittedError, TypeError) as error:
            hint = "return the result of fit(train.X, train.y)"
            raise UserCodeError("the model is not fitted", place=place, got=name, hint=hint) from error
        outputs = ()
    width = getattr(model, "n_features_in_", columns)
    if width != columns:
        raise UserCodeError(
            "the model was fitted on other columns", place=place, expected=columns, got=width, hint="fit on train.X as it is"
        )
    return SklearnPredictor(model, kind, columns, outputs)


def places_of(learnt: list[Any], kind: Kind, classes: tuple[bool | int | str, ...], place: str) -> tuple[int, ...]:
    """For each class that a model learnt its place among `classes`: as the code it was trained with, or as the label itself.

    Of a binary model: the one place of the true class among those it learnt.
    Raises: UserCodeError(E5001).
    """
    if kind == "binary":
        known = [bool(c) for c in learnt]
        if len(known) != 2 or sorted(known) != [False, True]:
            raise UserCodeError("the model did not learn two classes", place=place, expected="0 and 1", got=learnt)
        return (known.index(True),)
    for known_as in (range(len(classes)), classes):
        codes = {value: i for i, value in enumerate(known_as)}
        if len(learnt) > 1 and all(value in codes for value in learnt):
            return tuple(codes[value] for value in learnt)
    raise UserCodeError("the model learnt other classes", place=place, expected=f"codes 0 to {len(classes) - 1}", got=learnt)


def dumped(found: SklearnPredictor, place: str) -> bytes:
    """The model as bytes. Raises: ArtefactRefused(E6002) if it has parts that are not plain data."""
    try:
        data = skops.io.dumps(found.model)
    except Exception as error:
        raise ArtefactRefused(f"the model cannot be stored as data: {error}", place=place, got=type(found.model).__name__) from error
    if unknown := sorted(set(skops.io.get_untrusted_types(data=data)) - set(ALLOWED)):
        hint = "build the model from scikit-learn's own estimators, without functions or classes of the project"
        raise ArtefactRefused("the model has parts that are not plain data", place=place, got=", ".join(unknown), hint=hint)
    return bytes(data)


def loaded(
    data: bytes, kind: Kind, classes: tuple[bool | int | str, ...], outputs: tuple[int, ...], columns: int, place: str
) -> SklearnPredictor:
    """The model that `dumped` gave. Raises: ArtefactRefused(E6002) for anything else."""
    _check_zip(data, place)
    try:
        model = skops.io.loads(data, trusted=list(ALLOWED))
    except Exception as error:
        raise ArtefactRefused(f"not a model stored as data: {type(error).__name__}: {error}", place=place) from error
    check_trees(model)
    return predictor(model, kind, classes, columns, place)


def _check_zip(data: bytes, place: str) -> None:
    """Nothing, if it is a zip whose members stay within it and within reason."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as held:
            members = held.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise ArtefactRefused(f"not a model stored as data: {type(error).__name__}: {error}", place=place) from error
    for member in members:
        parts = member.filename.replace("\\", "/").split("/")
        if member.filename.startswith(("/", "\\")) or ".." in parts or (member.external_attr >> 16) & 0o170000 == 0o120000:
            raise ArtefactRefused("not a model stored as data: a member leaves the zip", place=place, got=member.filename[:80])
    size = sum(m.file_size for m in members)
    if size > MOST_UNPACKED or size > MOST_RATIO * max(len(data), 1 << 16):
        raise ArtefactRefused(
            "not a model stored as data: it unpacks to too much",
            place=place,
            expected=f"at most {MOST_RATIO} times its size, and {MOST_UNPACKED >> 20} MB",
            got=f"{size >> 20} MB from {len(data)} bytes",
        )


def versions() -> dict[str, str]:
    return {"scikit-learn": sklearn.__version__, "skops": skops.__version__}


def check_release(stored: dict[str, str], place: str) -> None:
    """Nothing, if the library is of the release that stored the model; scikit-learn promises nothing across releases."""
    was, here = _release(stored.get("scikit-learn", "none")), _release(sklearn.__version__)
    if was != here:
        hint = f"train again, or install scikit-learn {was}"
        raise ArtefactRefused("the model was stored by another release of scikit-learn", place=place, expected=was, got=here, hint=hint)


def _release(version: str) -> str:
    return ".".join(version.split(".")[:2])
