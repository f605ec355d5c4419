"""Compiled code is used only where it pays, answers alike and is the code that we signed; answers are columns; working ahead keeps order."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from penstock.craft.learning import answers, runtimes
from penstock.craft.learning.ahead import ahead
from penstock.craft.learning.artefact import load, store
from penstock.craft.learning.encoding import learn
from penstock.craft.learning.scoring import Scorer
from penstock.craft.learning.signing import Keys
from penstock.spec.schema import schema_of

ENCODER = learn(schema_of(a="double", b="double", c="double"), ["a", "b", "c"], {})
RNG = np.random.default_rng(11)
X = RNG.normal(size=(600, 3))
NUMBER = X[:, 0] * 2 + X[:, 1] * X[:, 2]
MANY = 10**9


def scorer(kind: str, folder: Path, model: Any = None) -> Scorer:
    options: dict[str, Any] = {"n_estimators": 8, "num_leaves": 7, "verbose": -1, "random_state": 0}
    classes: tuple[Any, ...] = ()
    if kind == "binary":
        model, classes = model or lightgbm.LGBMClassifier(**options).fit(X, NUMBER > 0), (False, True)
    elif kind == "multiclass":
        model, classes = lightgbm.LGBMClassifier(**options).fit(X, np.digitize(NUMBER, [-1, 1])), ("low", "so so", "so-so")
    else:
        model = lightgbm.LGBMRegressor(**options).fit(X, NUMBER)
    manifest = store(model, ENCODER, folder, sample=X[:100], kind=kind, classes=classes)  # type: ignore[arg-type]
    return load(folder, manifest)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_compiled_scores_are_those_of_the_library(kind: str, tmp_path: Path) -> None:
    native = scorer(kind, tmp_path)
    found = runtimes.fastest(native, X, rows=MANY)
    assert (found.runtime, found.cached) == ("compiled", False)
    rows = X.copy()
    rows[::5, 1] = np.nan
    assert np.allclose(found.scorer.scores(rows), native.scores(rows), rtol=0, atol=1e-12)
    assert found.difference <= 1e-12
    assert np.array_equal(found.scorer.contributions(X[:5])[0], native.contributions(X[:5])[0])


def test_compiling_must_pay(tmp_path: Path) -> None:
    found = runtimes.fastest(scorer("binary", tmp_path), X, rows=1000)
    assert found.runtime == "native"
    assert "would not pay for 1,000 rows" in found.note


def test_other_libraries_stay_as_they_are(tmp_path: Path) -> None:
    model = HistGradientBoostingClassifier(max_iter=3).fit(X, NUMBER > 0)
    found = runtimes.fastest(scorer("binary", tmp_path, model), X, rows=MANY)
    assert (found.runtime, found.note) == ("native", "its library's own runtime is the fastest known")


def test_code_is_found_again_and_only_as_it_was_signed(tmp_path: Path) -> None:
    native, cache, keys = scorer("binary", tmp_path / "m"), tmp_path / "cache", Keys(tmp_path / "keys")
    first = runtimes.fastest(native, X, rows=MANY, cache=cache, keys=keys)
    (code,) = cache.glob("*.o")
    assert (first.cached, runtimes.fastest(native, X, rows=MANY, cache=cache, keys=keys).cached) == (False, True)
    assert cache.stat().st_mode & 0o777 == 0o700
    sound = code.read_bytes()
    code.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    again = runtimes.fastest(native, X, rows=MANY, cache=cache, keys=keys)
    assert (again.runtime, again.cached, code.read_bytes() == sound or not again.cached) == ("compiled", False, True)
    record = json.loads(code.with_suffix(".json").read_text())
    other = Keys(tmp_path / "other").sign({k: v for k, v in record.items() if k != "signature"}, purpose=runtimes.PURPOSE)
    code.with_suffix(".json").write_text(json.dumps(other))
    assert not runtimes.fastest(native, X, rows=MANY, cache=cache, keys=keys).cached
    cache.chmod(0o777)
    assert not runtimes.fastest(native, X, rows=MANY, cache=cache, keys=keys).cached
    cache.chmod(0o700)


def test_a_compiler_that_is_missing_or_wrong_leaves_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lleaves

    native = scorer("regression", tmp_path)
    predict = lleaves.Model.predict
    monkeypatch.setattr(lleaves.Model, "predict", lambda self, *given, **more: predict(self, *given, **more) + 1e-9)
    found = runtimes.fastest(native, X, rows=MANY)
    assert found.runtime == "native"
    assert "differs by" in found.note
    assert found.scorer is native
    monkeypatch.setitem(__import__("sys").modules, "lleaves", None)
    found = runtimes.fastest(native, X, rows=MANY)
    assert found.runtime == "native"
    assert "penstock[fast]" in found.note


# -- answers ----------------------------------------------------------------------------------------------------------
def test_columns_of_each_kind(tmp_path: Path) -> None:
    for kind, names in {
        "binary": ["score"],
        "regression": ["score"],
        "multiclass": ["prediction", "score_low", "score_so_so", "score_so_so_2"],
    }.items():
        found = scorer(kind, tmp_path / kind)
        assert [f.name for f in answers.fields(found, 0)] == names
        columns = answers.columns(found, X, 0)
        assert [c.type for c in columns] == [f.type for f in answers.fields(found, 0)]
        scores = found.scores(X)
        if kind == "multiclass":
            assert columns[0].to_pylist() == [found.classes[i] for i in scores.argmax(axis=1)]
            assert np.array_equal(columns[2].to_numpy(), scores[:, 1])
        else:
            assert np.array_equal(columns[0].to_numpy(), scores)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_reasons_are_the_strongest_contributions(kind: str, tmp_path: Path) -> None:
    found = scorer(kind, tmp_path)
    columns = dict(zip([f.name for f in answers.fields(found, 4)], answers.columns(found, X[:50], 4), strict=True))
    values, _ = found.contributions(X[:50])
    chosen = values if kind == "binary" else values[np.arange(50), found.scores(X[:50]).argmax(axis=1)]
    for row in range(50):
        order = sorted(range(3), key=lambda j: -abs(chosen[row, j]))
        assert [columns[f"reason_{i + 1}"][row].as_py() for i in range(3)] == [("a", "b", "c")[j] for j in order]
        assert [columns[f"reason_{i + 1}_by"][row].as_py() for i in range(3)] == [chosen[row, j] for j in order]
    assert columns["reason_4"].null_count == columns["reason_4_by"].null_count == 50


def test_buffers_are_used_again() -> None:
    buffers = answers.Buffers(ENCODER)
    first = buffers.take(100)
    buffers.give_back(first)
    second = buffers.take(60)
    assert second.base is first.base or second.base is first
    assert buffers.take(60).base is not second.base
    buffers.give_back(second)
    assert buffers.take(5000).shape == (5000, 3)


# -- working ahead ----------------------------------------------------------------------------------------------------
def test_items_come_in_order_and_from_another_thread() -> None:
    threads = set()

    def items() -> Iterator[int]:
        for i in range(100):
            threads.add(threading.current_thread())
            yield i

    assert list(ahead(items(), 3)) == list(range(100))
    assert threading.current_thread() not in threads


def test_an_error_comes_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("third")

    found = ahead(items(), 1)
    assert [next(found), next(found)] == [1, 2]
    with pytest.raises(ValueError, match="third"):
        next(found)


def test_no_more_is_made_than_asked_and_stopping_ends_the_thread() -> None:
    made: list[int] = []
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            for i in range(1000):
                made.append(i)
                yield i
        finally:
            closed.set()

    found = ahead(items(), 2)
    assert next(found) == 0
    found.close()
    assert closed.wait(10)
    assert len(made) <= 5
    assert all(t.name != "ahead" for t in threading.enumerate())
