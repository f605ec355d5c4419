"""Trees that came from a file: their indices are checked, because scikit-learn follows them without looking."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble._forest import BaseForest
from sklearn.ensemble._gb import BaseGradientBoosting
from sklearn.ensemble._hist_gradient_boosting.gradient_boosting import BaseHistGradientBoosting
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.tree import BaseDecisionTree
from sklearn.tree._tree import Tree

from penstock.ground.errors import ArtefactRefused


def check_trees(model: Any) -> None:
    """Nothing, if every tree inside the model stays within its own nodes and its owner's columns.

    Children come after their parent, so following them also ends.

    Raises: ArtefactRefused(E6002).
    Source: skops.io.exceptions.UNTRUSTED_TYPE_REASONS names the two classes and why their content must be looked at.
    """
    for tree, columns in _trees(model, columns=None, seen=set()):
        if not (_sound_predictor(tree, columns) if isinstance(tree, TreePredictor) else _sound_tree(tree, columns)):
            raise ArtefactRefused("a tree of the model points outside itself", place=type(tree).__name__, hint="train the model again")


def _trees(value: Any, *, columns: int | None, seen: set[int], shared: bool = False) -> Iterator[tuple[Any, int | None]]:
    """Every tree within a value, with the number of columns that the model which feeds it has.

    That is the nearest model around it, but forests and gradient boosting (`shared`) hand their own rows to the trees of their parts.
    """
    if id(value) in seen or isinstance(value, str | bytes | int | float | bool | type(None)):
        return
    seen.add(id(value))
    if isinstance(value, TreePredictor | Tree):
        yield value, columns
        return
    own = getattr(value, "__dict__", {})
    inner = columns if shared else own.get("n_features_in_", columns)
    for part in _parts(value, own):
        yield from _trees(part, columns=inner, seen=seen, shared=shared or isinstance(value, BaseForest | BaseGradientBoosting))


def _parts(value: Any, own: dict[str, Any]) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list | tuple | set):
        return list(value)
    if isinstance(value, np.ndarray):
        return list(value.flat) if value.dtype == object else []
    return list(own.values())


def _sound_predictor(tree: TreePredictor, columns: int | None) -> bool:
    nodes = tree.nodes
    inner = np.flatnonzero(nodes["is_leaf"] == 0)
    split = nodes[inner]
    sound = len(nodes) > 0 and _children(inner, split["left"], len(nodes)) and _children(inner, split["right"], len(nodes))
    sound = sound and _within(split["feature_idx"], columns)
    return sound and _within(split["bitset_idx"][split["is_categorical"] != 0], len(tree.raw_left_cat_bitsets))


def _sound_tree(tree: Tree, columns: int | None) -> bool:
    inner = np.flatnonzero(tree.children_left != -1)
    left, right = tree.children_left[inner], tree.children_right[inner]
    sound = tree.node_count > 0 and _children(inner, left, tree.node_count) and _children(inner, right, tree.node_count)
    return bool(sound and _within(tree.feature[inner], columns) and tree.n_features == columns)


def _children(parents: np.ndarray[Any, Any], children: np.ndarray[Any, Any], nodes: int) -> bool:
    return bool(np.all(children.astype(np.int64) > parents)) and _within(children, nodes)


def _within(indices: np.ndarray[Any, Any], end: int | None) -> bool:
    return end is not None and bool(np.all((indices >= 0) & (indices < end)))


def thresholds_of(model: Any) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Columns and thresholds of a model that is itself trees over its own columns; none of any other, such as a pipeline."""
    if not isinstance(model, BaseForest | BaseGradientBoosting | BaseHistGradientBoosting | BaseDecisionTree):
        return np.empty(0, dtype=np.int64), np.empty(0)
    columns, values = [], []
    for tree, _ in _trees(model, columns=None, seen=set()):
        if isinstance(tree, TreePredictor):
            split = tree.nodes[(tree.nodes["is_leaf"] == 0) & (tree.nodes["is_categorical"] == 0)]
            columns.append(split["feature_idx"].astype(np.int64))
            values.append(split["num_threshold"])
        else:
            inner = tree.children_left != -1
            columns.append(tree.feature[inner].astype(np.int64))
            values.append(tree.threshold[inner])
    if not columns:
        return np.empty(0, dtype=np.int64), np.empty(0)
    return np.concatenate(columns), np.concatenate(values).astype(np.float64)
