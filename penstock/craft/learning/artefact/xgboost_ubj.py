"""XGBoost's models as its own UBJSON (or JSON). The file is read here first, so that the library never follows an index outside."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from penstock.craft.learning.artefact.lightgbm_text import _of_classes, split_base
from penstock.craft.learning.artefact.skops_zip import places_of
from penstock.craft.learning.scoring import Matrix
from penstock.ground.errors import ArtefactRefused, DriverMissing, UserCodeError
from penstock.spec.models import Kind

FILE = "model.ubj"
TOLERANCE = 1e-12
MOST_BYTES = 1 << 30
MOST_DEPTH = 32
#: UBJSON's markers of numbers of one width. Source: ubjson.org, "Type Reference"; numbers are big-endian.
_NUMBERS = {"i": ">i1", "U": ">u1", "I": ">i2", "l": ">i4", "L": ">i8", "d": ">f4", "D": ">f8"}


@dataclass(frozen=True, eq=False)
class XgboostPredictor:
    """An XGBoost booster. It sees columns in single precision, as XGBoost always does."""

    booster: Any
    kind: Kind
    columns: int
    outputs: tuple[int, ...]
    reasons_in: Literal["margin", "score"] = "margin"

    def predict(self, X: Matrix) -> Matrix:
        return _of_classes(np.asarray(self.booster.inplace_predict(X, validate_features=False), dtype=np.float64), self.kind)

    def margin(self, X: Matrix) -> Matrix:
        return np.asarray(self.booster.inplace_predict(X, predict_type="margin", validate_features=False), dtype=np.float64)

    def contributions(self, X: Matrix) -> tuple[Matrix, Matrix] | None:
        import xgboost

        rows = xgboost.DMatrix(X, feature_names=self.booster.feature_names, feature_types=self.booster.feature_types)
        found = np.asarray(self.booster.predict(rows, pred_contribs=True), dtype=np.float64)
        return split_base(found.reshape(len(X), -1, self.columns + 1), self.kind)

    def thresholds(self) -> tuple[NDArray[np.int64], Matrix]:
        return thresholds_in(bytes(self.booster.save_raw("ubj")))


def takes(model: Any) -> bool:
    return type(model).__module__.startswith("xgboost.")


def predictor(model: Any, kind: Kind, classes: tuple[bool | int | str, ...], columns: int, place: str) -> XgboostPredictor:
    """A fitted XGBoost model, or a booster; of one that stopped early, its best iteration.

    Raises: UserCodeError(E5001) that says what is missing.
    """
    import xgboost

    outputs: tuple[int, ...] = ()
    name = type(model).__name__
    if isinstance(model, xgboost.Booster):
        booster, learnt = model, list(range(len(classes)))
    else:
        try:
            booster = model.get_booster()
        except Exception as error:
            hint = "return the result of fit(train.X, train.y)"
            raise UserCodeError("the model is not fitted", place=place, got=name, hint=hint) from error
        learnt = np.asarray(model.classes_).tolist() if isinstance(model, xgboost.XGBClassifier) else []
    if classes:
        if not learnt:
            raise UserCodeError("the model gives no probabilities", place=place, expected="a classifier", got=name)
        outputs = places_of(learnt, kind, classes, place)
    elif learnt:
        raise UserCodeError("the model gives no numbers", place=place, expected="a regressor or ranker", got=name)
    if booster.num_features() != columns:
        hint = "fit on train.X as it is"
        raise UserCodeError("the model was fitted on other columns", place=place, expected=columns, got=booster.num_features(), hint=hint)
    best = booster.attr("best_iteration")
    return XgboostPredictor(booster if best is None else booster[: int(best) + 1], kind, columns, outputs)


def dumped(found: XgboostPredictor, place: str) -> bytes:
    """The model as UBJSON."""
    return bytes(found.booster.save_raw("ubj"))


def loaded(
    data: bytes, kind: Kind, classes: tuple[bool | int | str, ...], outputs: tuple[int, ...], columns: int, place: str
) -> XgboostPredictor:
    """The model that `dumped` gave, or XGBoost itself wrote as UBJSON or JSON. Raises: ArtefactRefused(E6002) for anything else."""
    checked(data, columns, place)
    try:
        import xgboost
    except ImportError as error:
        raise DriverMissing("the model needs xgboost", place=place, hint="pip install xgboost-cpu") from error
    try:
        booster = xgboost.Booster(model_file=bytearray(data))
    except Exception as error:
        raise ArtefactRefused(f"not an XGBoost model: {str(error).splitlines()[0]}"[:300], place=place) from error
    return XgboostPredictor(booster, kind, columns, outputs)


def versions() -> dict[str, str]:
    import xgboost

    return {"xgboost": xgboost.__version__}


def check_release(stored: dict[str, str], place: str) -> None:
    """Nothing: XGBoost reads the UBJSON of its older releases."""


def checked(data: bytes, columns: int, place: str) -> dict[str, Any]:
    """The file as data, if every index of every tree stays within its tree. Raises: ArtefactRefused(E6002)."""
    if len(data) > MOST_BYTES:
        raise ArtefactRefused("the model is too large", place=place, expected=f"at most {MOST_BYTES >> 20} MB", got=f"{len(data) >> 20} MB")
    try:
        record = _decoded(data)
        _check(record, columns)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, RecursionError, struct.error) as error:
        word = f"{error.args[0]} is missing" if isinstance(error, KeyError) and error.args else str(error)
        raise ArtefactRefused(f"not an XGBoost model: {word}"[:300], place=place, hint="train the model again") from error
    return record


def thresholds_in(data: bytes) -> tuple[NDArray[np.int64], Matrix]:
    """Columns and thresholds of all numeric splits."""
    columns: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
    values: list[Matrix] = [np.empty(0)]
    for tree in _model(_decoded(data)).get("trees", ()):
        inner = (_array(tree, "left_children") != -1) & (_array(tree, "split_type") == 0)
        columns.append(_array(tree, "split_indices")[inner].astype(np.int64))
        values.append(np.asarray(tree["split_conditions"], dtype=np.float64)[inner])
    return np.concatenate(columns), np.concatenate(values)


def _model(record: dict[str, Any]) -> dict[str, Any]:
    booster = record["learner"]["gradient_booster"]
    model: dict[str, Any] = (booster["gbtree"] if booster["name"] == "dart" else booster)["model"]
    return model


def _check(record: dict[str, Any], columns: int) -> None:
    learner = record["learner"]
    shape = learner["learner_model_param"]
    if int(shape["num_feature"]) != columns:
        raise ValueError(f"it takes {int(shape['num_feature'])} columns, not {columns}")
    groups = max(int(shape["num_class"]), int(shape.get("num_target", 1)), 1)
    booster, model = learner["gradient_booster"], _model(record)
    if booster["name"] == "gblinear":
        if len(model["weights"]) != (columns + 1) * groups:
            raise ValueError("another number of weights than columns")
        return
    if booster["name"] not in ("gbtree", "dart"):
        raise ValueError("a booster of another kind")
    trees, info = model["trees"], np.asarray(model["tree_info"])
    if int(model["gbtree_model_param"]["num_trees"]) != len(trees) or len(info) != len(trees) or not trees:
        raise ValueError("it has another number of trees than it says")
    if booster["name"] == "dart" and len(booster["weight_drop"]) != len(trees):
        raise ValueError("it has another number of weights than trees")
    if not bool(np.all((info >= 0) & (info < groups))):
        raise ValueError("a tree belongs to a class that is not there")
    steps = np.asarray(model.get("iteration_indptr", [0, len(trees)]))
    if steps[0] != 0 or steps[-1] != len(trees) or not bool(np.all(np.diff(steps) >= 0)):
        raise ValueError("its iterations do not fit its trees")
    for tree in trees:
        _check_tree(tree, columns)


def _check_tree(tree: dict[str, Any], columns: int) -> None:
    nodes = int(tree["tree_param"]["num_nodes"])
    if int(tree["tree_param"].get("size_leaf_vector", 1)) > 1:
        raise ValueError("trees with vectors in their leaves are not read")
    left, right, feature, kind = (_array(tree, name) for name in ("left_children", "right_children", "split_indices", "split_type"))
    lengths = {
        len(left),
        len(right),
        len(feature),
        len(kind),
        len(tree["split_conditions"]),
        len(tree["default_left"]),
        len(tree["base_weights"]),
    }
    if lengths != {nodes} or nodes < 1:
        raise ValueError("a tree has another number of nodes than it says")
    inner = left != -1
    children = np.concatenate([left[inner], right[inner]])
    if not bool(np.all(inner == (right != -1))) or not bool(np.all((children > 0) & (children < nodes))):
        raise ValueError("a tree points outside itself")
    if len(np.unique(children)) != len(children):
        raise ValueError("a tree runs in a circle")
    if not bool(np.all((feature[inner] >= 0) & (feature[inner] < columns))):
        raise ValueError("a tree reads a column that is not there")
    if bool(np.any(kind[inner] != 0)):
        at, starts, sizes, values = (_array(tree, f"categories{part}") for part in ("_nodes", "_segments", "_sizes", ""))
        sound = len(at) == len(starts) == len(sizes) and bool(np.all((at >= 0) & (at < nodes) & (starts >= 0) & (sizes >= 0)))
        if not sound or not bool(np.all(starts + sizes <= len(values))) or set(np.flatnonzero(inner & (kind != 0))) - set(at.tolist()):
            raise ValueError("the categories of a tree point outside it")
        if not bool(np.all((values >= 0) & (values < 1 << 24))):
            raise ValueError("a tree has an absurd category")


def _array(tree: dict[str, Any], name: str) -> NDArray[np.int64]:
    found = np.asarray(tree[name])
    if found.ndim != 1 or (len(found) and found.dtype.kind not in "iub"):
        raise ValueError(f"{name} is no list of whole numbers")
    return found.astype(np.int64)


def _decoded(data: bytes) -> dict[str, Any]:
    if data[:2] == b'{"' or data[:1] in b" \n\t" or data[1:2] in b" \n\t":
        found = json.loads(data.decode())
    else:
        found, end = _Ubjson(data).value(0, 0)
        if end != len(data):
            raise ValueError("there is more after its end")
    if not isinstance(found, dict):
        raise ValueError("it begins otherwise")
    return found


class _Ubjson:
    """The part of UBJSON that XGBoost writes; every length is held against the bytes that are there. Raises: ValueError."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def value(self, at: int, depth: int) -> tuple[Any, int]:
        mark = self._mark(at)
        return self._of(mark, at + 1, depth)

    def _of(self, mark: str, at: int, depth: int) -> tuple[Any, int]:
        if depth > MOST_DEPTH:
            raise ValueError("it is nested too deeply")
        if mark in _NUMBERS:
            kind = np.dtype(_NUMBERS[mark])
            return np.frombuffer(self._bytes(at, kind.itemsize), kind)[0].item(), at + kind.itemsize
        if mark in "TFZ":
            return {"T": True, "F": False, "Z": None}[mark], at
        if mark == "S":
            return self._text(at)
        if mark == "C":
            return self._bytes(at, 1).decode(), at + 1
        if mark == "{":
            return self._object(at, depth)
        if mark == "[":
            return self._list(at, depth)
        raise ValueError(f"a mark {mark!r} that is not known, at byte {at - 1}")

    def _object(self, at: int, depth: int) -> tuple[dict[str, Any], int]:
        made: dict[str, Any] = {}
        while self._mark(at) != "}":
            name, at = self._text(at)
            if name in made:
                raise ValueError(f"{name[:40]} stands twice")
            made[name], at = self.value(at, depth + 1)
        return made, at + 1

    def _list(self, at: int, depth: int) -> tuple[Any, int]:
        kind = ""
        if self._mark(at) == "$":
            kind, at = self._mark(at + 1), at + 2
            if kind not in _NUMBERS or self._mark(at) != "#":
                raise ValueError("a list of another kind")
        if self._mark(at) == "#":
            count, at = self._length(at + 1)
            if kind:
                size = count * np.dtype(_NUMBERS[kind]).itemsize
                return np.frombuffer(self._bytes(at, size), _NUMBERS[kind]), at + size
            if count > len(self.data) - at:
                raise ValueError("a list longer than the file")
            found = []
            for _ in range(count):
                item, at = self.value(at, depth + 1)
                found.append(item)
            return found, at
        found = []
        while self._mark(at) != "]":
            item, at = self.value(at, depth + 1)
            found.append(item)
        return found, at + 1

    def _text(self, at: int) -> tuple[str, int]:
        size, at = self._length(at)
        return self._bytes(at, size).decode(), at + size

    def _length(self, at: int) -> tuple[int, int]:
        mark = self._mark(at)
        if mark not in "iUIlL":
            raise ValueError("a length that is no whole number")
        count, at = self._of(mark, at + 1, 0)
        if count < 0:
            raise ValueError("a length below zero")
        return count, at

    def _mark(self, at: int) -> str:
        return chr(self._bytes(at, 1)[0])

    def _bytes(self, at: int, size: int) -> bytes:
        if at + size > len(self.data):
            raise ValueError("it ends too early")
        return self.data[at : at + size]
