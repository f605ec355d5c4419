"""LightGBM's models as its own text. The library follows a file's indices unchecked, so each is checked here before it sees them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from penstock.craft.learning.artefact.skops_zip import places_of
from penstock.craft.learning.scoring import Matrix
from penstock.ground.errors import ArtefactRefused, DriverMissing, UserCodeError
from penstock.spec.models import Kind

FILE = "model.txt"
TOLERANCE = 1e-12
MOST_BYTES = 1 << 30
#: LightGBM's own greatest number of leaves (its parameter num_leaves).
MOST_LEAVES = 131_072
_CATEGORICAL = 1


@dataclass(frozen=True, eq=False)
class LightgbmPredictor:
    """A LightGBM booster."""

    booster: Any
    kind: Kind
    columns: int
    outputs: tuple[int, ...]
    reasons_in: Literal["margin", "score"] = "margin"

    def predict(self, X: Matrix) -> Matrix:
        return _of_classes(np.asarray(self.booster.predict(X), dtype=np.float64), self.kind)

    def margin(self, X: Matrix) -> Matrix:
        return np.asarray(self.booster.predict(X, raw_score=True), dtype=np.float64)

    def contributions(self, X: Matrix) -> tuple[Matrix, Matrix] | None:
        found = np.asarray(self.booster.predict(X, pred_contrib=True), dtype=np.float64)
        found = found.reshape(len(X), -1, self.columns + 1)
        return split_base(found, self.kind)

    def thresholds(self) -> tuple[NDArray[np.int64], Matrix]:
        return thresholds_in(self.booster.model_to_string())


def split_base(found: Matrix, kind: Kind) -> tuple[Matrix, Matrix]:
    """Shapes: found (n, m, d + 1), the base last -> values and base as `Scorer.contributions` has them."""
    values, base = np.ascontiguousarray(found[..., :-1]), found[0, :, -1].copy()
    if kind == "multiclass":
        if values.shape[1] == 1:  # two of the classes occurred: one margin, for the second of them
            values, base = np.concatenate([-values, values], axis=1), np.concatenate([-base, base])
        return values, base
    return values[:, 0], base[0]


def _of_classes(p: Matrix, kind: Kind) -> Matrix:
    return np.column_stack([1 - p, p]) if kind == "multiclass" and p.ndim == 1 else p


def takes(model: Any) -> bool:
    return type(model).__module__.startswith("lightgbm.")


def predictor(model: Any, kind: Kind, classes: tuple[bool | int | str, ...], columns: int, place: str) -> LightgbmPredictor:
    """A fitted LightGBM model, or a booster; of one that stopped early, its best iteration.

    Raises: UserCodeError(E5001) that says what is missing.
    """
    import lightgbm

    outputs: tuple[int, ...] = ()
    if isinstance(model, lightgbm.Booster):
        booster, learnt = model, list(range(len(classes)))
    else:
        try:
            booster = model.booster_
        except Exception as error:
            hint = "return the result of fit(train.X, train.y)"
            raise UserCodeError("the model is not fitted", place=place, got=type(model).__name__, hint=hint) from error
        learnt = np.asarray(getattr(model, "classes_", ())).tolist()
    if classes:
        if not learnt:
            raise UserCodeError("the model gives no probabilities", place=place, expected="a classifier", got=type(model).__name__)
        outputs = places_of(learnt, kind, classes, place)
        if kind == "binary" and outputs != (1,):
            raise UserCodeError("the model learnt its classes in another order", place=place, expected="[0, 1]", got=learnt)
    elif learnt:
        raise UserCodeError("the model gives no numbers", place=place, expected="a regressor or ranker", got=type(model).__name__)
    if booster.num_feature() != columns:
        hint = "fit on train.X as it is"
        raise UserCodeError("the model was fitted on other columns", place=place, expected=columns, got=booster.num_feature(), hint=hint)
    return LightgbmPredictor(booster, kind, columns, outputs)


def dumped(found: LightgbmPredictor, place: str) -> bytes:
    """The model as text."""
    return str(found.booster.model_to_string()).encode()


def loaded(
    data: bytes, kind: Kind, classes: tuple[bool | int | str, ...], outputs: tuple[int, ...], columns: int, place: str
) -> LightgbmPredictor:
    """The model that `dumped` gave, or LightGBM itself wrote. Raises: ArtefactRefused(E6002) for anything else."""
    text = checked(data, columns, place)
    try:
        import lightgbm
    except ImportError as error:
        raise DriverMissing("the model needs lightgbm", place=place, hint="pip install lightgbm") from error
    try:
        booster = lightgbm.Booster(model_str=text)
    except Exception as error:
        raise ArtefactRefused(f"not a LightGBM model: {error}", place=place) from error
    return LightgbmPredictor(booster, kind, columns, outputs)


def versions() -> dict[str, str]:
    import lightgbm

    return {"lightgbm": lightgbm.__version__}


def check_release(stored: dict[str, str], place: str) -> None:
    """Nothing: LightGBM reads the text of its older releases."""


def thresholds_in(text: str) -> tuple[NDArray[np.int64], Matrix]:
    """Columns and thresholds of all numeric splits of a model's text."""
    columns: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
    values: list[Matrix] = [np.empty(0)]
    for tree in _trees(text):
        if "split_feature" in tree and tree["split_feature"].strip():
            numeric = (_ints(tree, "decision_type") & _CATEGORICAL) == 0
            columns.append(_ints(tree, "split_feature")[numeric])
            values.append(_floats(tree, "threshold")[numeric])
    return np.concatenate(columns), np.concatenate(values)


def checked(data: bytes, columns: int, place: str) -> str:
    """The text without the byte offsets by which LightGBM would jump in it, if every index of every tree stays within its tree.

    Raises: ArtefactRefused(E6002).
    """
    if len(data) > MOST_BYTES:
        raise ArtefactRefused("the model is too large", place=place, expected=f"at most {MOST_BYTES >> 20} MB", got=f"{len(data) >> 20} MB")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ArtefactRefused("not a LightGBM model: it is not text", place=place) from error
    if not text.startswith("tree\n") or "\0" in text or "\nend of trees" not in text:
        raise ArtefactRefused("not a LightGBM model: its text begins or ends otherwise", place=place, expected="tree ... end of trees")
    try:
        _check(text, columns)
    except (KeyError, ValueError, OverflowError, RecursionError) as error:
        word = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise ArtefactRefused(f"not a LightGBM model: {word}"[:300], place=place, hint="train the model again") from error
    return re.sub(r"^tree_sizes=.*\n", "", text, flags=re.MULTILINE)


def _check(text: str, columns: int) -> None:
    head = _fields(text.split("\nTree=", 1)[0].split("\nend of trees", 1)[0])
    if int(head["max_feature_idx"]) != columns - 1:
        raise ValueError(f"it takes {int(head['max_feature_idx']) + 1} columns, not {columns}")
    for name in ("feature_names", "feature_infos"):
        if len(head[name].split()) != columns:
            raise ValueError(f"{name} tells of other columns")
    if not 1 <= int(head["num_class"]) <= 10_000 or not 1 <= int(head["num_tree_per_iteration"]) <= 10_000:
        raise ValueError("it has an absurd number of classes")
    found = 0
    for found, tree in enumerate(_trees(text), 1):  # noqa: B007 - the number of trees is needed after the loop
        _check_tree(tree, columns)
    if not found or found % int(head["num_tree_per_iteration"]):
        raise ValueError("trees are missing")
    if len(head.get("tree_sizes", "").split()) not in (0, found):
        raise ValueError("it has another number of trees than it says")


def _check_tree(tree: dict[str, str], columns: int) -> None:
    leaves, categories = int(tree["num_leaves"]), int(tree["num_cat"])
    if not 1 <= leaves <= MOST_LEAVES or not 0 <= categories < max(leaves, 1):
        raise ValueError(f"a tree has {leaves} leaves and {categories} categories")
    if len(_floats(tree, "leaf_value")) != leaves:
        raise ValueError("a tree has another number of leaves than it says")
    if int(tree.get("is_linear", "0")):
        _check_linear(tree, leaves, columns)
    if leaves == 1:
        return
    inner = np.arange(leaves - 1)
    left, right, feature = (_ints(tree, name) for name in ("left_child", "right_child", "split_feature"))
    thresholds, decisions = _floats(tree, "threshold"), _ints(tree, "decision_type")
    if {len(left), len(right), len(feature), len(thresholds), len(decisions)} != {leaves - 1}:
        raise ValueError("a tree has another number of splits than leaves")
    for child in (left, right):
        if not bool(np.all(np.where(child >= 0, (child > inner) & (child < leaves - 1), ~child < leaves))):
            raise ValueError("a tree points outside itself")
    if not bool(np.all((feature >= 0) & (feature < columns))):
        raise ValueError("a tree reads a column that is not there")
    if bool(np.any(chosen := (decisions & _CATEGORICAL) != 0)):
        which = thresholds[chosen]
        bounds = _ints(tree, "cat_boundaries")
        sound = len(bounds) == categories + 1 and bounds[0] == 0 and bool(np.all(np.diff(bounds) >= 0))
        if not sound or bounds[-1] != len(_ints(tree, "cat_threshold")) or not bool(np.all((which >= 0) & (which < categories))):
            raise ValueError("the categories of a tree point outside it")


def _check_linear(tree: dict[str, str], leaves: int, columns: int) -> None:
    numbers, features = _ints(tree, "num_features"), _ints(tree, "leaf_features")
    sound = len(numbers) == leaves == len(_floats(tree, "leaf_const")) and bool(np.all(numbers >= 0))
    if not sound or numbers.sum() != len(features) or len(features) != len(_floats(tree, "leaf_coeff")):
        raise ValueError("the linear leaves of a tree do not fit together")
    if not bool(np.all((features >= 0) & (features < columns))):
        raise ValueError("a leaf reads a column that is not there")


def _trees(text: str) -> Iterator[dict[str, str]]:
    for part in text.split("\nend of trees", 1)[0].split("\nTree=")[1:]:
        yield _fields(part)


def _fields(part: str) -> dict[str, str]:
    pairs = [line.partition("=") for line in part.splitlines()]
    if len(names := [name for name, mark, _ in pairs if mark]) != len(set(names)):
        raise ValueError("a field stands twice")
    return {name: value for name, mark, value in pairs if mark}


def _ints(tree: dict[str, str], name: str) -> NDArray[np.int64]:
    return np.array(tree[name].split(), dtype=np.int64)


def _floats(tree: dict[str, str], name: str) -> Matrix:
    found = np.array(tree[name].split(), dtype=np.float64)
    if bool(np.any(np.isnan(found))):
        raise ValueError(f"{name} holds what is no number")
    return found
