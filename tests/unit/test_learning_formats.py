"""Each library's models of each kind are stored in its own format and as ONNX, come back equal, and are signed as what they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
import xgboost
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from penstock.craft.learning.artefact import Manifest, import_file, load, manifest_from, store
from penstock.craft.learning.artefact.lightgbm_text import predictor as lightgbm_predictor
from penstock.craft.learning.artefact.lightgbm_text import thresholds_in
from penstock.craft.learning.artefact.onnx_graph import floored
from penstock.craft.learning.artefact.stored import probes
from penstock.craft.learning.calibration import Calibrator, Curve
from penstock.craft.learning.encoding import learn
from penstock.craft.learning.signing import Keys
from penstock.ground.errors import ArtefactRefused, DefinitionError, SignatureRefused, UserCodeError
from penstock.spec.schema import schema_of

Matrix = NDArray[np.float64]
ENCODER = learn(schema_of(a="double", b="double", c="double", kind="string"), ["a", "b", "c", "kind"], {"kind": list("uvwxyz")})
NAMES = ("low", "middle", "high")


def rows(n: int = 900) -> tuple[Matrix, dict[str, NDArray[Any]]]:
    """Columns with missing values and codes; labels of every kind."""
    rng = np.random.default_rng(5)
    X = np.column_stack([rng.normal(size=(n, 3)), rng.integers(0, 6, n)]).astype(np.float64)
    number = X[:, 0] * 2 + X[:, 1] * X[:, 2] + (X[:, 3] == 2) + rng.normal(size=n) * 0.3
    X[::7, 1] = np.nan
    relevance = np.digitize(number, [-1, 1])
    return X, {"binary": (number > 0).astype(np.int8), "multiclass": relevance, "regression": number, "ranking": relevance}


X, Y = rows()
GROUPS = [30] * 30
CLASSES: Mapping[str, tuple[Any, ...]] = {"binary": (False, True), "multiclass": NAMES, "regression": (), "ranking": ()}


def lgbm(kind: str, **options: Any) -> Any:
    made = {"binary": lightgbm.LGBMClassifier, "multiclass": lightgbm.LGBMClassifier, "regression": lightgbm.LGBMRegressor}
    options = {"n_estimators": 12, "verbose": -1, "random_state": 0} | options
    if kind == "ranking":
        return lightgbm.LGBMRanker(**options).fit(X, Y[kind], group=GROUPS)
    return made[kind](**options).fit(X, Y[kind])


def xgb(kind: str, **options: Any) -> Any:
    made = {"binary": xgboost.XGBClassifier, "multiclass": xgboost.XGBClassifier, "regression": xgboost.XGBRegressor}
    options = {"n_estimators": 12, "random_state": 0} | options
    if kind == "ranking":
        return xgboost.XGBRanker(**options).fit(X, Y[kind], group=GROUPS)
    return made[kind](**options).fit(X, Y[kind])


def linear(kind: str) -> Any:
    last = LogisticRegression() if kind in ("binary", "multiclass") else Ridge()
    return make_pipeline(SimpleImputer(), StandardScaler(), last).fit(X, Y[kind])


def hist(kind: str) -> Any:
    made = HistGradientBoostingClassifier if kind in ("binary", "multiclass") else HistGradientBoostingRegressor
    return made(max_iter=6, random_state=0).fit(X, Y[kind])


def forest(kind: str) -> Any:
    made = RandomForestClassifier if kind in ("binary", "multiclass") else RandomForestRegressor
    return made(n_estimators=5, random_state=0).fit(X, Y[kind])


MAKERS: dict[str, Callable[[str], Any]] = {"lightgbm": lgbm, "xgboost": xgb, "linear": linear, "hist": hist, "forest": forest}


def imputed(kind: str) -> Any:
    made = RandomForestClassifier if kind in ("binary", "multiclass") else RandomForestRegressor
    return make_pipeline(SimpleImputer(), made(n_estimators=5, random_state=0)).fit(X, Y[kind])


KINDS = ("binary", "multiclass", "regression", "ranking")


def expected(model: Any, kind: str) -> Matrix:
    if kind == "binary":
        return np.asarray(model.predict_proba(X)[:, 1], dtype=np.float64)
    return np.asarray(model.predict_proba(X) if kind == "multiclass" else model.predict(X), dtype=np.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("maker", MAKERS)
def test_a_model_is_stored_in_its_librarys_own_format(maker: str, kind: Any, tmp_path: Path) -> None:
    model = MAKERS[maker](kind)
    manifest = store(model, ENCODER, tmp_path, sample=X[:200], kind=kind, classes=CLASSES[kind])
    again = manifest_from(json.loads(json.dumps(manifest.as_record())))
    assert again == manifest
    back = load(tmp_path, again)
    assert manifest.format == (maker if maker in ("lightgbm", "xgboost") else "skops")
    assert (manifest.kind, manifest.classes, manifest.difference) == (kind, CLASSES[kind], 0.0)
    assert np.allclose(back.scores(X), expected(model, kind), rtol=0, atol=1e-15)
    assert back.scores(X).shape == ((len(X), 3) if kind == "multiclass" else (len(X),))
    assert manifest.checked_rows > 200


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("maker", ["lightgbm", "xgboost", "linear", "imputed"])
def test_a_model_is_converted_to_onnx_and_scores_alike(maker: str, kind: Any, tmp_path: Path) -> None:
    model = (MAKERS | {"imputed": imputed})[maker](kind)
    manifest = store(model, ENCODER, tmp_path, sample=X[:200], kind=kind, classes=CLASSES[kind], format="onnx")
    assert manifest.format == "onnx"
    assert 0 < manifest.difference <= 1e-5
    single = X.astype(np.float32).astype(np.float64)
    back = load(tmp_path, manifest)
    native = model.predict_proba(single) if kind in ("binary", "multiclass") else model.predict(single)
    native = native[:, 1] if kind == "binary" else native
    assert np.allclose(back.scores(X), native, rtol=1e-5, atol=1e-5)


def test_what_onnx_cannot_hold_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with pytest.raises(ArtefactRefused, match=r"cannot be converted to ONNX.*leave `format` out"):
        store(hist("binary"), ENCODER, folder, sample=X[:100], format="onnx")
    with pytest.raises(ArtefactRefused, match="imputer in front"):
        store(forest("binary"), ENCODER, folder, sample=X[:100], format="onnx")
    moments = X.copy()
    moments[:, 0] = 1.7e9 + np.arange(len(X))
    late = lightgbm.LGBMClassifier(n_estimators=5, verbose=-1).fit(moments, (np.arange(len(X)) % 40 < 20).astype(int))
    with pytest.raises(ArtefactRefused, match="single precision, which is too little"):
        store(late, ENCODER, folder, sample=moments[:300], format="onnx")
    assert not folder.exists()


def test_thresholds_are_floored_so_that_rows_keep_their_side() -> None:
    text = lgbm("regression", n_estimators=40).booster_.model_to_string()
    columns, values = thresholds_in(text)
    _, narrow = thresholds_in(floored(text))
    assert len(values) > 500
    assert np.array_equal(narrow, narrow.astype(np.float32))
    assert bool(np.all(narrow <= values)) and bool(np.any(narrow < values))
    assert bool(np.all(np.nextafter(narrow.astype(np.float32), np.float32(np.inf)).astype(np.float64) > values))
    booster, floor = lightgbm.Booster(model_str=text), lightgbm.Booster(model_str=floored(text))
    near = probes_of(columns, values)
    assert np.array_equal(booster.predict(near), floor.predict(near))


def probes_of(columns: NDArray[np.int64], values: Matrix) -> Matrix:
    made = []
    for towards in (-np.inf, 0.0, np.inf):
        at = X[np.arange(len(values)) % len(X)].astype(np.float32)
        at[np.arange(len(values)), columns] = np.nextafter(values.astype(np.float32), np.float32(towards)) if towards else values
        made.append(at)
    return np.concatenate(made).astype(np.float64)


def test_comparing_looks_at_both_sides_of_thresholds(tmp_path: Path) -> None:
    """A conversion that rounds thresholds to the nearest is found, although the sample's own rows do not show it."""
    model = lightgbm_predictor(lgbm("binary"), "binary", (False, True), 4, "")
    found = probes(model, X[:50])
    columns, values = model.thresholds()
    for j, value in list(zip(columns, values, strict=True))[:20]:
        assert {value, np.nextafter(value, -np.inf), np.nextafter(value, np.inf)} <= set(found[:, j])
    assert np.isnan(found).any(axis=0).all()
    narrow = probes(model, X[:50], single=True)
    assert np.array_equal(narrow[~np.isnan(narrow)], narrow[~np.isnan(narrow)].astype(np.float32))


# -- classes, early stops, other models -------------------------------------------------------------------------------
@pytest.mark.parametrize("maker", ["lightgbm", "linear"])
def test_a_class_without_rows_has_probability_zero(maker: str, tmp_path: Path) -> None:
    labels = np.where(Y["multiclass"] == 2, 3, Y["multiclass"])
    if maker == "linear":
        model: Any = make_pipeline(SimpleImputer(), LogisticRegression()).fit(X, labels)
    else:
        model = lightgbm.LGBMClassifier(n_estimators=5, verbose=-1).fit(X, labels)
    manifest = store(model, ENCODER, tmp_path, sample=X[:50], kind="multiclass", classes=("a", "b", "c", "d"))
    found = load(tmp_path, manifest).scores(X)
    assert manifest.outputs == (0, 1, 3)
    assert found.shape == (len(X), 4)
    assert not found[:, 2].any()
    assert np.allclose(found[:, [0, 1, 3]], model.predict_proba(X))


@pytest.mark.parametrize("maker", ["lightgbm", "xgboost"])
def test_several_classes_of_which_two_occur(maker: str, tmp_path: Path) -> None:
    model = MAKERS[maker]("binary")
    manifest = store(model, ENCODER, tmp_path, sample=X[:50], kind="multiclass", classes=("a", "b", "c"))
    back = load(tmp_path, manifest)
    assert np.allclose(back.scores(X)[:, :2], model.predict_proba(X))
    values, base = back.contributions(X[:5])
    assert (values.shape, base.shape) == ((5, 3, 4), (3,))
    assert np.allclose(values[:, 0], -values[:, 1])


def test_of_a_model_that_stopped_early_the_best_iteration_is_stored(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 2, len(X))
    early = lightgbm.LGBMClassifier(n_estimators=60, verbose=-1)
    early.fit(X, noise, eval_X=X[:300], eval_y=1 - noise[:300], callbacks=[lightgbm.early_stopping(3, verbose=False)])
    other = xgboost.XGBClassifier(n_estimators=60, early_stopping_rounds=3)
    other.fit(X, noise, eval_set=[(X[:300], 1 - noise[:300])], verbose=False)
    for model in (early, other):
        manifest = store(model, ENCODER, tmp_path / model.__class__.__name__, sample=X[:50])
        back = load(tmp_path / model.__class__.__name__, manifest)
        assert np.allclose(back.scores(X), model.predict_proba(X)[:, 1], atol=1e-7, rtol=0)


def test_boosters_without_their_wrappers(tmp_path: Path) -> None:
    plain = lightgbm.train({"objective": "binary", "verbose": -1}, lightgbm.Dataset(X, Y["binary"]), 5)
    other = xgboost.train({"objective": "binary:logistic", "booster": "dart"}, xgboost.DMatrix(X, Y["binary"]), 5)
    for name, booster, scores in (("lightgbm", plain, plain.predict(X)), ("xgboost", other, other.inplace_predict(X))):
        manifest = store(booster, ENCODER, tmp_path / name, sample=X[:50])
        assert manifest.format == name
        assert np.array_equal(load(tmp_path / name, manifest).scores(X), np.asarray(scores, dtype=np.float64))


def test_categories_of_the_libraries_themselves(tmp_path: Path) -> None:
    odd = (X[:, 3] % 2 == 1) ^ (X[:, 0] > 1)
    model = lightgbm.LGBMClassifier(n_estimators=10, verbose=-1, min_data_per_group=5, cat_smooth=1).fit(X, odd, categorical_feature=[3])
    assert "cat_boundaries" in model.booster_.model_to_string()
    for format in (None, "onnx"):
        manifest = store(model, ENCODER, tmp_path / str(format), sample=X[:100], format=format)
        assert np.allclose(load(tmp_path / str(format), manifest).scores(X), model.predict_proba(X)[:, 1], atol=1e-5)
    linear_leaves = lightgbm.LGBMRegressor(n_estimators=5, verbose=-1, linear_tree=True).fit(X, Y["regression"])
    manifest = store(linear_leaves, ENCODER, tmp_path / "leaves", sample=X[:100], kind="regression")
    assert np.array_equal(load(tmp_path / "leaves", manifest).scores(X), linear_leaves.predict(X))


@pytest.mark.parametrize(
    ("model", "kind", "words"),
    [
        (lambda: lightgbm.LGBMClassifier(), "binary", "not fitted"),
        (lambda: xgboost.XGBClassifier(), "binary", "not fitted"),
        (lambda: Ridge(), "regression", "not fitted"),
        (lambda: lgbm("regression"), "binary", "no probabilities"),
        (lambda: xgb("regression"), "multiclass", "no probabilities"),
        (lambda: lgbm("binary"), "regression", "gives no numbers"),
        (lambda: linear("binary"), "ranking", "gives no numbers"),
        (lambda: lightgbm.LGBMRegressor(verbose=-1).fit(X[:, :2], Y["regression"]), "regression", "other columns.*expected 4, got 2"),
        (lambda: xgboost.XGBRegressor(n_estimators=2).fit(X[:, :2], Y["regression"]), "regression", "other columns.*expected 4, got 2"),
        (lambda: linear("multiclass"), "binary", "two classes"),
        (lambda: lightgbm.train({"objective": "regression", "verbose": -1}, lightgbm.Dataset(X, Y["regression"]), 3), "binary", "no probabilities"),
        (lambda: xgboost.train({"objective": "multi:softmax", "num_class": 3}, xgboost.DMatrix(X, Y["multiclass"]), 2), "multiclass", "no probabilities"),
    ],
)  # fmt: skip
def test_what_is_no_fitted_model_of_the_kind_is_told(model: Any, kind: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserCodeError, match=words):
        store(model(), ENCODER, tmp_path / "model", sample=X[:50], kind=kind, classes=CLASSES[kind])
    assert not (tmp_path / "model").exists()


# -- signatures -------------------------------------------------------------------------------------------------------
@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


def signed(folder: Path, keys: Keys, version: str, **options: Any) -> Manifest:
    return store(
        linear("binary"),
        ENCODER,
        folder / version,
        sample=X[:50],
        keys=keys,
        name=f"m@{version}",
        created="2026-01-01T00:00:00Z",
        **options,
    )


def test_a_signed_model_is_loaded_by_its_name(tmp_path: Path, keys: Keys) -> None:
    manifest = manifest_from(json.loads(json.dumps(signed(tmp_path, keys, "v1").as_record())))
    assert np.array_equal(load(tmp_path / "v1", manifest, keys=keys, place="m@v1").scores(X), expected(linear("binary"), "binary"))
    assert np.array_equal(load(tmp_path / "v1", manifest).scores(X), load(tmp_path / "v1", manifest, keys=keys, name="m@v1").scores(X))
    keys.rotate()
    load(tmp_path / "v1", manifest, keys=keys, name="m@v1")


def test_every_field_that_loading_goes_by_is_signed(tmp_path: Path, keys: Keys) -> None:
    manifest = signed(tmp_path, keys, "v1")
    changes: dict[str, Any] = {
        "format": "pickle", "model": "x", "columns": ("a",), "versions": {}, "checked_rows": 1, "difference": 1.0, "kind": "regression",
        "classes": (True, False), "outputs": (0,), "reference": (), "name": "m@v2", "created": "", "source": "x", "files": manifest.files[:1],
    }  # fmt: skip
    assert set(changes) | {"signature"} == set(vars(manifest))
    for name, value in changes.items():
        with pytest.raises(SignatureRefused, match="not of this record"):
            load(tmp_path / "v1", replace(manifest, **{name: value}), keys=keys, name="m@v1")


def test_unsigned_foreign_and_older_versions_are_refused(tmp_path: Path, keys: Keys) -> None:
    first = signed(tmp_path, keys, "v1")
    with pytest.raises(SignatureRefused, match="not signed"):
        load(tmp_path / "v1", replace(first, signature=None), keys=keys, name="m@v1")
    with pytest.raises(SignatureRefused, match=r"signed as another one.*expected m@v2, got m@v1"):
        load(tmp_path / "v1", first, keys=keys, name="m@v2")
    other = Keys(tmp_path / "other")
    foreign = signed(tmp_path / "elsewhere", other, "v1")
    with pytest.raises(SignatureRefused, match="not trusted here"):
        load(tmp_path / "elsewhere" / "v1", foreign, keys=keys, name="m@v1")
    keys.rotate()
    keys.revoke(str(first.signature and first.signature["key"]), reason="lost")
    with pytest.raises(SignatureRefused, match="revoked"):
        load(tmp_path / "v1", first, keys=keys, name="m@v1")
    with pytest.raises(DefinitionError, match="needs a name"):
        store(linear("binary"), ENCODER, tmp_path / "x", sample=X[:50], keys=keys)


# -- pickles ----------------------------------------------------------------------------------------------------------
class Own(RegressorMixin, BaseEstimator):
    """A regressor of the project's own, which no data format holds."""

    def fit(self, X: Matrix, y: NDArray[Any]) -> Own:
        self.mean_ = float(np.mean(y))
        return self

    def predict(self, X: Matrix) -> Matrix:
        return np.full(len(X), self.mean_)


def test_a_pickle_is_stored_on_the_users_word_and_read_with_our_signature_only(tmp_path: Path, keys: Keys) -> None:
    own = Own().fit(X, Y["regression"])
    with pytest.raises(ArtefactRefused, match="not plain data"):
        store(own, ENCODER, tmp_path / "v1", sample=X[:50], kind="regression", keys=keys, name="m@v1")
    with pytest.raises(ArtefactRefused, match="only with a signature"):
        store(own, ENCODER, tmp_path / "v1", sample=X[:50], kind="regression", format="pickle")
    manifest = store(own, ENCODER, tmp_path / "v1", sample=X[:50], kind="regression", format="pickle", keys=keys, name="m@v1")
    assert load(tmp_path / "v1", manifest, keys=keys, name="m@v1").scores(X)[0] == own.mean_
    with pytest.raises(ArtefactRefused, match="without our own signature"):
        load(tmp_path / "v1", manifest)
    with pytest.raises(SignatureRefused):
        load(tmp_path / "v1", replace(manifest, signature=None), keys=keys, name="m@v1")


# -- calibrators and reasons ------------------------------------------------------------------------------------------
def test_a_calibrator_is_part_of_the_artefact(tmp_path: Path, keys: Keys) -> None:
    calibrator = Calibrator("sigmoid", (Curve(slope=0.5, intercept=0.25),))
    manifest = signed(tmp_path, keys, "v1", calibrator=calibrator)
    assert [f.name for f in manifest.files] == ["model.skops", "encoder.json", "calibrator.json"]
    back = load(tmp_path / "v1", manifest, keys=keys, name="m@v1")
    assert np.array_equal(back.scores(X), calibrator.apply(expected(linear("binary"), "binary")))
    assert not np.allclose(back.scores(X), expected(linear("binary"), "binary"), atol=0.05)
    (tmp_path / "v1" / "calibrator.json").write_text('{"how": "isotonic", "curves": []}')
    with pytest.raises(ArtefactRefused, match="not the one stored"):
        load(tmp_path / "v1", manifest, keys=keys, name="m@v1")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("maker", ["lightgbm", "xgboost", "linear"])
def test_contributions_and_their_base_sum_to_the_margin(maker: str, kind: Any, tmp_path: Path) -> None:
    manifest = store(MAKERS[maker](kind), ENCODER, tmp_path, sample=X[:200], kind=kind, classes=CLASSES[kind])
    back = load(tmp_path, manifest)
    values, base = back.contributions(X)
    assert values.shape == ((len(X), 3, 4) if kind == "multiclass" else (len(X), 4))
    assert np.allclose(values.sum(axis=-1) + base, back.model.margin(X), atol=1e-4)
    if kind == "binary":
        assert np.allclose(1 / (1 + np.exp(-back.model.margin(X))), back.scores(X), atol=1e-6)
    assert back.contributions(X[:0])[0].shape[0] == 0


def test_contributions_without_a_librarys_own_say_what_one_column_did(tmp_path: Path) -> None:
    model = forest("regression")
    reference = np.array([0.0, 0.5, -0.5, 2.0])
    back = load(tmp_path, store(model, ENCODER, tmp_path, sample=X[:200], kind="regression", reference=reference))
    values, base = back.contributions(X[:20])
    assert base == model.predict(reference[None])[0]
    for j in range(4):
        changed = X[:20].copy()
        changed[:, j] = reference[j]
        assert np.array_equal(values[:, j], model.predict(X[:20]) - model.predict(changed))


def test_the_reference_is_the_samples_medians(tmp_path: Path) -> None:
    sample = np.array([[1.0, np.nan, 5.0, 0.0], [2.0, np.nan, 7.0, 1.0], [9.0, np.nan, 6.0, 1.0]])
    manifest = store(hist("binary"), ENCODER, tmp_path, sample=sample)
    assert manifest.reference == (2.0, None, 6.0, 1.0)
    assert np.array_equal(np.isnan(load(tmp_path, manifest).reference), [False, True, False, False])


# -- finished models --------------------------------------------------------------------------------------------------
def finished(folder: Path, name: str) -> Path:
    path = folder / name
    if name.endswith(".onnx"):
        from skl2onnx import to_onnx

        path.write_bytes(
            to_onnx(
                make_pipeline(StandardScaler(), LogisticRegression()).fit(np.nan_to_num(X), Y["binary"]), X[:1].astype(np.float32)
            ).SerializeToString()
        )
    elif name.endswith(".txt"):
        lgbm("binary").booster_.save_model(path)
    else:
        xgb("binary").save_model(path)
    return path


@pytest.mark.parametrize("name", ["m.onnx", "m.txt", "m.ubj", "m.json"])
def test_a_finished_model_is_taken_in(name: str, tmp_path: Path, keys: Keys) -> None:
    sample = np.nan_to_num(X[:100])
    manifest = import_file(finished(tmp_path, name), ENCODER, tmp_path / "v1", sample=sample, keys=keys, name="m@v1")
    assert manifest.source == name
    scores = load(tmp_path / "v1", manifest, keys=keys, name="m@v1").scores(sample)
    if name.endswith("onnx"):  # its classes came in a map
        want = make_pipeline(StandardScaler(), LogisticRegression()).fit(np.nan_to_num(X), Y["binary"]).predict_proba(sample)[:, 1]
    else:
        want = (lgbm if name == "m.txt" else xgb)("binary").predict_proba(sample)[:, 1]
    assert np.allclose(scores, want, atol=1e-5)


def test_a_graph_that_a_training_function_made(tmp_path: Path) -> None:
    import onnx

    manifest = store(onnx.load(finished(tmp_path, "m.onnx")), ENCODER, tmp_path / "v1", sample=np.nan_to_num(X[:100]))
    assert manifest.format == "onnx"
    assert load(tmp_path / "v1", manifest).scores(np.nan_to_num(X)).shape == (len(X),)
