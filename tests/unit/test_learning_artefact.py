"""Models are stored as data, come back equal, and nothing else is loaded."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier, VotingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from penstock.craft.learning.artefact import Manifest, StoredFile, load, manifest_from, skops_zip, store
from penstock.craft.learning.artefact import stored as storing
from penstock.craft.learning.encoding import Encoder, learn
from penstock.craft.learning.training import TrainingSet, train
from penstock.ground.errors import ArtefactRefused, UserCodeError
from penstock.spec.schema import schema_of

ENCODER = learn(schema_of(a="double", b="long", kind="string"), ["a", "b", "kind"], {"kind": ["x", "y", "z"]})
Matrix = NDArray[np.float64]


@pytest.fixture(scope="module")
def data() -> tuple[Matrix, NDArray[np.int8]]:
    rng = np.random.default_rng(7)
    X = np.asfortranarray(np.column_stack([rng.normal(size=600), rng.integers(0, 50, 600), rng.integers(0, 3, 600)]).astype(np.float64))
    y = (X[:, 0] + 0.05 * X[:, 1] + (X[:, 2] == 1) + rng.normal(size=600) > 1.5).astype(np.int8)
    return X, y


MODELS = {
    "hist": HistGradientBoostingClassifier(max_iter=5, random_state=0),
    "hist_categorical": HistGradientBoostingClassifier(max_iter=5, categorical_features=ENCODER.categorical, random_state=0),
    "boosting": GradientBoostingClassifier(n_estimators=3, random_state=0),
    "forest": RandomForestClassifier(n_estimators=3, max_depth=4, random_state=0),
    "tree": DecisionTreeClassifier(max_depth=3, random_state=0),
    "pipeline": make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()),
    "wider_inside": make_pipeline(SimpleImputer(add_indicator=True), HistGradientBoostingClassifier(max_iter=2, random_state=0)),
    "calibrated": CalibratedClassifierCV(HistGradientBoostingClassifier(max_iter=2, random_state=0), cv=2),
    "voting": VotingClassifier([("a", LogisticRegression()), ("b", GaussianNB())], voting="soft"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_comes_back_as_it_was(name: str, data: tuple[Matrix, NDArray[np.int8]], tmp_path: Path) -> None:
    X, y = data
    X = X.copy()
    if name in ("hist", "hist_categorical", "pipeline", "wider_inside"):
        X[::7, 0] = np.nan
    model = MODELS[name].fit(X, y)
    manifest = store(model, ENCODER, tmp_path, sample=X[:100])
    back = load(tmp_path, manifest_from(json.loads(json.dumps(manifest.as_record()))))
    assert np.array_equal(back.scores(X), model.predict_proba(X)[:, 1])
    assert back.encoder == ENCODER
    assert manifest.difference == 0.0
    assert manifest.columns == ("a", "b", "kind")
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest.as_record()


@pytest.fixture
def stored(data: tuple[Matrix, NDArray[np.int8]], tmp_path: Path) -> tuple[Path, Manifest]:
    X, y = data
    return tmp_path, store(HistGradientBoostingClassifier(max_iter=3).fit(X, y), ENCODER, tmp_path, sample=X[:50])


def test_scores_of_no_rows_are_no_scores(stored: tuple[Path, Manifest]) -> None:
    assert load(*stored).scores(np.empty((0, 3))).shape == (0,)


@pytest.mark.parametrize("name", ["model.skops", "encoder.json"])
def test_a_changed_byte_is_refused(stored: tuple[Path, Manifest], name: str) -> None:
    path = stored[0] / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtefactRefused, match="not the one stored"):
        load(*stored)


def test_a_missing_file_is_refused(stored: tuple[Path, Manifest]) -> None:
    (stored[0] / "model.skops").unlink()
    with pytest.raises(ArtefactRefused, match="cannot be read"):
        load(*stored)


def test_another_release_of_the_library_is_refused(stored: tuple[Path, Manifest]) -> None:
    folder, manifest = stored
    with pytest.raises(ArtefactRefused, match=r"install scikit-learn 0\.1"):
        load(folder, replace(manifest, versions={**manifest.versions, "scikit-learn": "0.1.2"}))


def planted(folder: Path, manifest: Manifest, data: bytes) -> Manifest:
    """The manifest of a folder whose model file was replaced by somebody who could also write the manifest."""
    (folder / "model.skops").write_bytes(data)
    mine = StoredFile("model.skops", len(data), storing._sha256(data))
    return replace(manifest, files=(mine, *(f for f in manifest.files if f.name != "model.skops")))


class Trap:
    """Leaves a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (Path(self.path),)


def test_a_pickle_in_disguise_is_refused_and_not_run(stored: tuple[Path, Manifest]) -> None:
    folder, manifest = stored
    sprung = folder / "sprung"
    trap = pickle.dumps(Trap(sprung))
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as out:
        out.writestr("schema.json", json.dumps(npy_schema()))
        out.writestr("1.npy", npy_of_pickle(trap))
    for data, words in ((trap, "not a zip file"), (held.getvalue(), "allow_pickle=False")):
        with pytest.raises(ArtefactRefused, match=f"not a model stored as data.*{words}"):
            load(folder, planted(folder, manifest, data))
    assert not sprung.exists()


def npy_schema() -> dict[str, Any]:
    node = {"__class__": "ndarray", "__module__": "numpy", "__loader__": "NdArrayNode", "type": "numpy", "file": "1.npy", "__id__": 1}
    return {**node, "protocol": json.loads(zipfile.ZipFile(io.BytesIO(skops.io.dumps(1))).read("schema.json"))["protocol"]}


def npy_of_pickle(trap: bytes) -> bytes:
    held = io.BytesIO()
    np.lib.format.write_array_header_1_0(held, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    return held.getvalue() + trap


def test_a_function_of_the_system_is_refused(stored: tuple[Path, Manifest]) -> None:
    node = {
        "__class__": "system",
        "__module__": "posix",
        "__loader__": "FunctionNode",
        "content": {"module_path": "posix", "function": "system"},
    }
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as out:
        out.writestr("schema.json", json.dumps({**node, "protocol": npy_schema()["protocol"]}))
    with pytest.raises(ArtefactRefused, match=r"posix\.system"):
        load(stored[0], planted(*stored, held.getvalue()))


@pytest.mark.parametrize("field", ["left", "feature_idx"])
def test_a_tree_that_points_outside_is_refused_before_it_scores(data: Any, stored: tuple[Path, Manifest], field: str) -> None:
    X, y = data
    model = HistGradientBoostingClassifier(max_iter=3).fit(X, y)
    model._predictors[1][0].nodes[field][0] = 3 if field == "feature_idx" else 10**6
    with pytest.raises(ArtefactRefused, match="points outside"):
        load(stored[0], planted(*stored, skops.io.dumps(model)))


def test_trees_that_end_nowhere_or_read_other_columns_are_refused(data: Any, stored: tuple[Path, Manifest]) -> None:
    X, y = data
    round_trip = HistGradientBoostingClassifier(max_iter=3).fit(X, y)
    round_trip._predictors[0][0].nodes["left"][0] = 0
    narrow = RandomForestClassifier(n_estimators=2, max_depth=3, random_state=0).fit(X, y)
    narrow.n_features_in_ = 2
    narrowed = replace(stored[1], files=stored[1].files)
    for model in (round_trip, narrow):
        with pytest.raises(ArtefactRefused, match="points outside"):
            load(stored[0], planted(stored[0], narrowed, skops.io.dumps(model)))


class Own(ClassifierMixin, BaseEstimator):
    """A classifier of the project, as a user may write it."""

    def fit(self, X: Matrix, y: NDArray[np.int8]) -> Own:
        self.classes_ = np.array([0, 1])
        return self

    def predict_proba(self, X: Matrix) -> Matrix:
        return np.full((len(X), 2), 0.5)


class Noisy(Own):
    def predict_proba(self, X: Matrix) -> Matrix:
        high = np.random.default_rng().random(len(X))
        return np.column_stack([1 - high, high])


@pytest.mark.parametrize(
    "model",
    [Own(), make_pipeline(FunctionTransformer(np.nan_to_num), LogisticRegression()), KNeighborsClassifier()],
    ids=["own", "function", "index"],
)
def test_parts_that_are_no_data_are_refused_by_name(data: Any, tmp_path: Path, model: Any) -> None:
    X, y = data
    with pytest.raises(ArtefactRefused, match=r"not plain data.*(test_learning_artefact\.Own|nan_to_num|KDTree).*scikit-learn's own"):
        store(model.fit(X, y), ENCODER, tmp_path / "model", sample=X[:10])
    assert not (tmp_path / "model").exists()


def test_a_model_that_scores_otherwise_after_loading_is_refused(data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = data
    monkeypatch.setattr(skops_zip, "ALLOWED", (*skops_zip.ALLOWED, f"{Noisy.__module__}.Noisy"))
    with pytest.raises(ArtefactRefused, match="scores differently"):
        store(Noisy().fit(X, y), ENCODER, tmp_path / "model", sample=X[:10])


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (LinearSVC, "predict_proba.*got LinearSVC"),
        (HistGradientBoostingClassifier, "not fitted"),
        (lambda: LogisticRegression().fit([[0.0], [1.0]], [0, 1]), "other columns.*expected 3, got 1"),
        (lambda: GaussianNB().fit(np.zeros((4, 3)), [1, 1, 1, 1]), "two classes"),
        (lambda: GaussianNB().fit(np.eye(3), [0, 1, 2]), "two classes"),
    ],
)
def test_what_is_no_fitted_classifier_is_told(model: Any, words: str, tmp_path: Path) -> None:
    with warnings.catch_warnings(), pytest.raises(UserCodeError, match=words):
        store(model(), ENCODER, tmp_path, sample=np.zeros((1, 3)))


def test_a_training_function_that_fails_or_returns_nothing_is_told() -> None:
    given = TrainingSet(np.zeros((2, 1)), np.array([0, 1], dtype=np.int8), ("a",))
    with pytest.raises(UserCodeError, match="late: the training function returned nothing") as none:
        train(lambda _: None, given, {}, place="late")
    assert "return model" in none.value.hint
    with pytest.raises(UserCodeError, match="ZeroDivisionError") as failed:
        train(lambda g, share: share / 0, given, {"share": 1}, place="late")
    assert isinstance(failed.value.__cause__, ZeroDivisionError)


def test_the_encoder_is_readable_data(stored: tuple[Path, Manifest]) -> None:
    record = json.loads((stored[0] / "encoder.json").read_text())
    assert record["columns"][2] == {"name": "kind", "kind": "category", "categories": ["x", "y", "z"]}
    assert isinstance(load(*stored).encoder, Encoder)
