"""Models of every kind, from declaration to release: trained in a process of its own, registered, released, rolled back, rebuilt, swept."""

from __future__ import annotations

import json
import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from penstock.ground.errors import GateFailed, SignatureRefused, UnknownName
from penstock.testing.clock import ManualClock

HEAD = """
raw = ps.files("data/*.csv")

@ps.table(key="id", time="ts")
def rows(raw):
    return ps.sql("SELECT * FROM raw")
"""

MODEL = """
@ps.model(over=rows, OPTIONS)
def model(train, *, depth=2):
    BODY

scores = ps.predictions(model, over=rows)
"""

BINARY = 'label="good", features=["size", "noise", "colour"], split=ps.by_time(test="4d")'
TREE = """from sklearn.tree import DecisionTreeClassifier
    return DecisionTreeClassifier(max_depth=depth, random_state=train.seed).fit(train.X[:, :2], train.y) if False else \\
        DecisionTreeClassifier(max_depth=depth, random_state=train.seed).fit(train.X, train.y)"""


def write(shop: Any, count: int = 600, *, name: str = "a", first: int = 0) -> None:
    """Rows over 20 days: `good` follows `size`, `colour` is a category, `amount` a number, `grade` one of three, `wanted` a relevance."""
    chance = random.Random(11 + first)
    lines = ["id,ts,query,size,noise,colour,weight,good,amount,grade,wanted"]
    for i in range(first, first + count):
        size, noise = chance.random(), chance.random()
        colour = chance.choice(["red", "green", "blue"])
        good = str(chance.random() < 0.15 + 0.7 * (size > 0.5)).lower()
        grade = ["low", "mid", "high"][min(2, int(size * 3))] if chance.random() < 0.9 else "mid"
        amount = 10 * size + (3 if colour == "red" else 0) + chance.gauss(0, 0.3)
        day, hour = divmod(i * 480 // 600, 24)
        lines.append(
            f"{i},2026-03-{1 + day:02d} {hour:02d}:{i % 60:02d}:00,q{i // 6},{size:.4f},{noise:.4f},{colour},{1 + i % 3},"
            f"{good},{amount:.4f},{grade},{int(size * 4)}"
        )
    shop.write(f"data/{name}.csv", "\n".join(lines) + "\n")


def declare(shop: Any, options: str = BINARY, body: str = TREE, *, model: str = MODEL) -> None:
    shop.pipeline(HEAD + model.replace("OPTIONS", options).replace("BODY", body))


def result(report: Any, asset: str = "model") -> Any:
    return next(r for r in report.results if r.asset == asset)


def entry(shop: Any, version: str = "v1") -> dict[str, Any]:
    with shop.open() as project:
        return dict(project.state.history("model", f"model@{version}", limit=1)[0].body)


# -- kinds ----------------------------------------------------------------------------------------------------------
KINDS = {
    "multiclass": (
        'label="grade", kind="multiclass", features=["size", "colour"], split=ps.by_ratio(test=0.3)',
        "from sklearn.tree import DecisionTreeClassifier\n    return DecisionTreeClassifier(max_depth=4, random_state=0).fit(train.X, train.y)",
        "accuracy",
        0.8,
    ),
    "regression": (
        'label="amount", kind="regression", features=["size", "colour"], split=ps.by_time(test="4d"), weight="weight"',
        "from sklearn.tree import DecisionTreeRegressor\n"
        "    return DecisionTreeRegressor(max_depth=6, random_state=0).fit(train.X, train.y, sample_weight=train.weights)",
        "r2",
        0.9,
    ),
    "ranking": (
        'label="wanted", kind="ranking", group="query", features=["size", "noise"], split=ps.by_group("query", test=0.3)',
        "import lightgbm\n    assert train.group_sizes.sum() == len(train)\n"
        "    return lightgbm.LGBMRanker(n_estimators=20, min_child_samples=5, verbose=-1, n_jobs=1).fit(train.X, train.y, group=train.group_sizes)",
        "ndcg",
        0.9,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_trained_measured_and_scores(shop: Any, kind: str) -> None:
    options, body, metric, least = KINDS[kind]
    write(shop)
    declare(shop, options + f', gates=[ps.metric("{metric}") >= {least}]', body)
    done = shop.run()
    assert result(done).status == "made", result(done).error or result(done).body["gates"]
    told = entry(shop)
    assert told["metrics"][metric] >= least
    low, high = told["evaluation"]["overall"]["intervals"][metric]
    assert low <= told["metrics"][metric] <= high
    assert told["train_rows"] + told["test_rows"] == 600
    assert shop.rows("SELECT count(*) AS n, count(DISTINCT id) AS k FROM scores") == [{"n": 600, "k": 600}]


def test_a_group_stands_on_one_side_only(shop: Any) -> None:
    write(shop)
    options = BINARY.replace('ps.by_time(test="4d")', 'ps.by_group("query", test=0.3)')
    declare(shop, options.replace('"colour"', '"query"'), TREE)
    shop.made("model")
    train = set(entry(shop)["features"])
    assert train == {"size", "noise", "query"}
    with shop.open() as project:
        files = project.state.history("model", "model@v1", limit=1)[0].body
        encoder = json.loads((project.settings.folder / files["folder"] / "encoder.json").read_text())
    learnt = {c["name"]: c["categories"] for c in encoder["columns"]}["query"]
    assert 55 <= len(learnt) <= 85, "about seven in ten of the hundred queries"
    assert files["train_rows"] == 6 * len(learnt)


# -- cross-validation, calibration, weights -------------------------------------------------------------------------
def test_folds_and_calibration_are_part_of_a_version(shop: Any) -> None:
    write(shop)
    declare(shop, BINARY + ', folds=4, calibrate="sigmoid"', TREE.replace("depth,", "12,"))
    shop.made()
    told = entry(shop)
    assert told["cross"]["rows"] < told["train_rows"], "the oldest window is never validated"
    assert 0.5 < told["cross"]["values"]["roc_auc"] < 1
    assert "calibrator.json" in {f["name"] for f in told["manifest"]["files"]}
    found = shop.rows("SELECT min(score) AS low, max(score) AS high FROM scores")[0]
    assert 0 < found["low"] < found["high"] < 1, "a deep tree says 0 and 1, its calibrator does not"


def test_training_tells_how_it_goes(shop: Any) -> None:
    write(shop)
    declare(shop, body="for step in range(300):\n        train.report(step, loss=1 / (step + 1))\n    " + TREE)
    shop.made()
    curve = entry(shop)["curve"]
    assert 100 <= len(curve) <= 200
    assert curve[0] == {"phase": "fit", "step": 0, "values": {"loss": 1.0}}


# -- training that goes wrong ---------------------------------------------------------------------------------------
def test_training_that_hangs_is_ended(shop: Any) -> None:
    write(shop, 200)
    declare(shop, BINARY + ', timeout="2s"', "while True:\n        pass")
    assert result(shop.run()).error["code"] == "E5004"
    assert not list((shop.folder / ".penstock/models").rglob("manifest.json"))


def test_training_that_eats_memory_is_ended(shop: Any) -> None:
    write(shop, 200)
    declare(shop, BINARY + ', memory="200MB"', "import numpy\n    return numpy.ones(500_000_000)")
    assert result(shop.run()).error["code"] == "E5003"


@pytest.mark.parametrize("body", ["import os\n    os._exit(3)", "import os, signal\n    os.kill(os.getpid(), signal.SIGSEGV)"])
def test_training_that_crashes_is_an_error(shop: Any, body: str) -> None:
    write(shop, 200)
    declare(shop, body=body)
    error = result(shop.run()).error
    assert error["code"] == "E5001"
    assert error["place"] == "model"


def test_the_line_that_failed_is_told(shop: Any) -> None:
    write(shop, 200)
    declare(shop, body="values = [1]\n    return values[7]")
    error = result(shop.run()).error
    assert "IndexError" in error["message"]
    assert "return values[7]" in error["traceback"]


SHIFTY = """
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression


class Shifty(LogisticRegression):
    def predict_proba(self, X):
        p = super().predict_proba(X)
        return p if hasattr(self, "shift_") else p[:, ::-1]
"""


def test_a_model_that_cannot_be_stored_as_data_is_refused(shop: Any) -> None:
    write(shop, 200)
    declare(shop, BINARY.replace(', "colour"', ""), "return Shifty().fit(train.X, train.y)")
    shop.write("pipeline.py", SHIFTY + (shop.folder / "pipeline.py").read_text())
    assert result(shop.run()).error["code"] == "E6002"
    with shop.open() as project:
        assert not project.state.heads("model")


LABELS = {
    "one class only in the training rows": ("SELECT * REPLACE (id > 500 AS good) FROM raw", BINARY, "one class"),
    "no label at all": ("SELECT * REPLACE (NULL::BOOLEAN AS good) FROM raw", BINARY, "no row has a label"),
    "a number where a class is wanted": ("SELECT * REPLACE (size AS good) FROM raw", BINARY, "true or false"),
    "labels that are not finite": (
        "SELECT * REPLACE (CASE WHEN id = 7 THEN 'nan'::DOUBLE ELSE amount END AS amount) FROM raw",
        'label="amount", kind="regression", features=["size"], split=ps.by_time(test="4d")',
        "no numbers",
    ),
    "negative weights": ("SELECT * REPLACE (CASE WHEN id = 7 THEN -1 ELSE weight END AS weight) FROM raw", BINARY + ', weight="weight"', "weights"),
    "a time that is a text": ("SELECT * REPLACE (ts::VARCHAR AS ts) FROM raw", BINARY, "is no time"),
    "a group without a value": (
        "SELECT * REPLACE (nullif(query, 'q3') AS query) FROM raw",
        BINARY.replace('ps.by_time(test="4d")', 'ps.by_group("query", test=0.3)'),
        "neither side",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LABELS)
def test_rows_that_cannot_be_learnt_from(shop: Any, case: str) -> None:
    query, options, told = LABELS[case]
    write(shop)
    shop.pipeline(HEAD.replace("SELECT * FROM raw", query) + MODEL.replace("OPTIONS", options).replace("BODY", TREE))
    error = result(shop.run()).error
    assert error["code"] == "E1001", error
    assert told in error["message"], error


def test_columns_that_say_nothing_are_noted(shop: Any) -> None:
    write(shop)
    query = "SELECT *, 1.5 AS same, NULL::DOUBLE AS empty FROM raw"
    options = BINARY.replace('"noise"', '"same", "empty"')
    shop.pipeline(
        HEAD.replace("SELECT * FROM raw", query)
        + MODEL.replace("OPTIONS", options).replace("BODY", TREE.replace("Decision", "Decision"))
    )  # fmt: skip
    shop.made("model")
    assert entry(shop)["notes"] == ["same has one value only in all training rows", "empty has no value in any training row"]


def test_a_class_that_was_never_learnt_is_counted(shop: Any) -> None:
    write(shop)
    query = "SELECT * REPLACE (CASE WHEN id = 590 THEN 'new' ELSE grade END AS grade) FROM raw"
    options, body, _, _ = KINDS["multiclass"]
    options = options.replace("ps.by_ratio(test=0.3)", 'ps.by_time(test="4d")')
    shop.pipeline(HEAD.replace("SELECT * FROM raw", query) + MODEL.replace("OPTIONS", options).replace("BODY", body))
    done = result(shop.run())
    assert done.status == "made"
    assert {"a class that was not learnt": 1} in [s["filtered"] for s in done.body["ledger"]]


def test_a_schema_that_changed_between_training_and_scoring(shop: Any) -> None:
    write(shop)
    declare(shop, BINARY + ', release="manual"')
    shop.made("model")
    with shop.open() as project:
        project.release("model", by="ada")
    declare(shop, BINARY + ', release="manual"')
    text = (shop.folder / "pipeline.py").read_text().replace("SELECT * FROM raw", "SELECT * REPLACE (colour = 'red' AS colour) FROM raw")
    shop.write("pipeline.py", text)
    done = shop.run("rows")
    assert done.ok
    error = result(shop.run("scores"), "scores").error
    assert error is not None
    assert (error["code"], error["place"]) == ("E2003", "colour")


def test_a_column_made_of_the_label_is_found_by_lineage(shop: Any) -> None:
    write(shop)
    query = "SELECT *, CASE WHEN good THEN noise ELSE noise + 0.02 END AS hint FROM raw"
    options = BINARY.replace('"noise"', '"hint"') + ", gates=[ps.no_leakage()]"
    shop.pipeline(HEAD.replace("SELECT * FROM raw", query) + MODEL.replace("OPTIONS", options).replace("BODY", TREE))
    done = result(shop.run("model"))
    assert done.status == "refused"
    assert [f["columns"] for f in entry(shop)["leaks"]] == [["hint"]]
    allowed = options.replace("no_leakage()", 'no_leakage(allow=["hint"])')
    shop.pipeline(HEAD.replace("SELECT * FROM raw", query) + MODEL.replace("OPTIONS", allowed).replace("BODY", TREE))
    assert result(shop.run("model")).status == "made"


# -- releases -------------------------------------------------------------------------------------------------------
def test_what_is_live_when_is_one_signed_record(shop: Any) -> None:
    write(shop)
    declare(shop)
    clock = ManualClock()
    with shop.open(clock=clock) as project:
        assert project.live_at("model", clock.now()) is None
        project.run()
        first = clock.now()
        clock.advance(3600)
        project.run("model", params={"model": {"depth": 4}})
        clock.advance(3600)
        back = project.rollback("model", by="ada", reason="complaints")
        assert (back.version, back.replaced, back.how, back.by) == ("v1", "v2", "rollback", "ada")
        with pytest.raises(UnknownName):
            project.rollback("model", by="ada")
        clock.advance(3600)
        again = project.release("model", version="v2", by="bob")
        assert (again.version, again.replaced, again.how) == ("v2", "v1", "release")
        assert {b["name"] for b in again.evidence["gates"]} == set()
        assert again.evidence["replaced"].keys() == again.evidence["metrics"].keys()
        found = [project.live_at("model", first + timedelta(minutes=30 + 60 * i)) for i in range(4)]
    assert [p and p.version for p in found] == ["v1", "v2", "v1", "v2"]
    assert [p and p.how for p in found] == ["rule", "rule", "rollback", "release"]


def test_scores_follow_what_is_live(shop: Any) -> None:
    write(shop)
    declare(shop)
    shop.made()
    shop.made("model", params={"model": {"depth": 4}})
    with shop.open() as project:
        project.rollback("model", by="ada")
        assert project.run("scores", params={"model": {"depth": 4}}).ok
    assert shop.rows("SELECT DISTINCT model_version AS v FROM scores") == [{"v": "v1"}]
    with shop.open() as project:
        project.release("model", version="v2", by="ada")
        assert project.run("scores", params={"model": {"depth": 4}}).ok
    assert shop.rows("SELECT DISTINCT model_version AS v FROM scores") == [{"v": "v2"}]


def test_a_roll_back_holds_until_a_person_releases(shop: Any) -> None:
    write(shop)
    declare(shop)
    shop.made("model")
    shop.made("model", params={"model": {"depth": 4}})
    with shop.open() as project:
        project.rollback("model", by="ada")
    shop.made("model", params={"model": {"depth": 3}})
    assert any("since ada rolled back to v1" in e.text for e in shop.events if e.kind == "note")
    with shop.open() as project:
        assert project.state.heads("asset")["model"].body["version"] == "v1"
        assert project.release("model", by="bob").version == "v3"
    shop.made("model", params={"model": {"depth": 2}})
    with shop.open() as project:
        assert project.state.heads("asset")["model"].body["version"] == "v4", "the rule counts again"


def test_a_person_decides_where_the_project_says_so(shop: Any) -> None:
    write(shop)
    declare(shop, BINARY + ', release="manual"')
    done = shop.run()
    assert (result(done).status, result(done, "scores").status) == ("made", "skipped")
    assert shop.plan()["model"].status == "fresh", "a version that waits is not trained again"
    with shop.open() as project:
        made = project.release("model", by="ada", reason="looked at it")
    assert (made.version, made.by, made.how) == ("v1", "ada", "release")
    assert shop.made()["scores"] == "made"


def test_a_refused_version_needs_a_person_and_a_reason(shop: Any) -> None:
    write(shop)
    declare(shop, BINARY + ', gates=[ps.metric("roc_auc") >= 0.999]')
    assert result(shop.run()).status == "refused"
    with shop.open() as project:
        with pytest.raises(GateFailed):
            project.release("model", version="v1", by="ada")
        made = project.release("model", version="v1", by="ada", reason="the only one we have", despite_gates=True)
    assert [g["passed"] for g in made.evidence["gates"]] == [False]
    assert shop.made()["scores"] == "made"


def test_an_altered_promotion_is_told(shop: Any) -> None:
    write(shop)
    declare(shop)
    shop.made("model")
    with shop.open() as project:
        body = dict(project.state.heads("promotion")["model"].body)
        project.state.append("promotion", "model", {**body, "by": "somebody else"}, at=project.clock.now())
        with pytest.raises(SignatureRefused):
            project.live_at("model", project.clock.now())


def test_an_altered_model_scores_nothing(shop: Any) -> None:
    write(shop)
    declare(shop)
    shop.made("model")
    stored = next((shop.folder / ".penstock/models/model/v1").glob("model.*"))
    data = bytearray(stored.read_bytes())
    data[len(data) // 2] ^= 1
    stored.write_bytes(bytes(data))
    assert result(shop.run("scores"), "scores").error["code"] == "E6002"


def test_another_version_in_its_place_is_refused(shop: Any) -> None:
    """A manifest is signed for its own version: the files of v1 cannot stand for v2."""
    write(shop)
    declare(shop)
    shop.made("model")
    shop.made("model", params={"model": {"depth": 4}})
    with shop.open() as project:
        old = project.state.history("model", "model@v1", limit=1)[0].body
        new = project.state.history("model", "model@v2", limit=1)[0].body
        forged = {**new, "folder": old["folder"], "manifest": old["manifest"]}
        project.state.append("model", "model@v2", forged, at=project.clock.now())
    assert result(shop.run("scores", params={"model": {"depth": 4}}), "scores").error["code"] == "E6003"


# -- experiments ----------------------------------------------------------------------------------------------------
def test_a_sweep_looks_at_training_rows_only_and_goes_on(shop: Any) -> None:
    write(shop)
    declare(shop, BINARY + ', gates=[ps.metric("roc_auc") >= 0.6], folds=3')
    with shop.open() as project:
        found = project.sweep("model", {"depth": [1, 2, 9]})
    assert [t.params["depth"] for t in found.trials] == [1, 2, 9]
    assert found.metric == "roc_auc"
    assert found.best is not None
    assert found.best.params["depth"] in (1, 2), "a deep tree learns the noise"
    assert not any(t.again for t in found.trials)
    assert entry(shop)["params"] == dict(found.best.params)
    assert shop.plan("model")["model"].status == "fresh", "the best parameters are adopted"
    with shop.open() as project:
        more = project.sweep("model", {"depth": [1, 2, 3, 9]})
    assert [t.again for t in more.trials] == [True, True, False, True]


def test_a_failing_trial_is_recorded_and_the_others_go_on(shop: Any) -> None:
    write(shop)
    declare(shop, body="if depth == 2:\n        raise ValueError('not two')\n    " + TREE)
    with shop.open() as project:
        found = project.sweep("model", {"depth": [1, 2, 3]})
    assert [t.measured is None for t in found.trials] == [False, True, False]
    assert "not two" in found.trials[1].error["message"]


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_ranges_are_searched_the_same_way_twice(shop: Any, search: Any) -> None:
    from penstock.run.sweep import Range

    write(shop, 300)
    declare(shop)
    with shop.open() as project:
        first = project.sweep("model", {"depth": Range(1, 6)}, search=search, trials=4)
        again = project.sweep("model", {"depth": Range(1, 6)}, search=search, trials=4)
    assert [t.params for t in first.trials] == [t.params for t in again.trials]
    assert all(t.again for t in again.trials)


def test_versions_are_compared(shop: Any) -> None:
    from penstock.project.comparison import write_page
    from penstock.project.experiments import card, compared, differing

    write(shop)
    declare(shop, body="for step in range(5):\n        train.report(step, loss=1 / (step + 1))\n    " + TREE)
    shop.made("model")
    shop.made("model", params={"model": {"depth": 4}})
    with shop.open() as project:
        found = compared(project, "model")
        text = card(project, "model")
        page = write_page(project, "model", found).read_text()
    assert all(f">{word}</h3>" in page for word in ("roc_auc", "roc_auc by depth", "roc", "precision and recall", "Learning"))
    assert page.count("<svg") >= 6
    assert "<script" not in page
    assert [(v["version"], v["live"]) for v in found] == [("v2", True), ("v1", False)]
    assert differing(found) == ["depth"]
    assert "# model v2" in text
    assert "released by passes its gates (rule)" in text


# -- rebuild --------------------------------------------------------------------------------------------------------
def test_a_version_is_rebuilt_from_what_was_recorded(shop: Any) -> None:
    write(shop)
    declare(shop, BINARY + ', calibrate="sigmoid"')
    shop.made()
    write(shop, 60, name="b", first=600)
    declare(shop, BINARY.replace('"noise", ', ""), TREE.replace("max_depth=depth", "max_depth=depth + 1"))
    shop.made()
    with shop.open() as project:
        found = project.rebuild("model", "v1")
    assert found.same, found
    assert found.difference == 0
    assert found.changed == ()
    assert found.rows == entry(shop, "v1")["test_rows"]


def test_a_rebuild_without_its_code_says_so(shop: Any) -> None:
    write(shop, 200)
    declare(shop)
    shop.made("model")
    for file in (shop.folder / ".penstock/code").iterdir():
        file.unlink()
    from penstock.ground.errors import VersionNotFound

    with shop.open() as project, pytest.raises(VersionNotFound):
        project.rebuild("model", "v1")


# -- finished models ------------------------------------------------------------------------------------------------
def test_a_finished_model_is_gated_like_any_other(shop: Any, tmp_path: Path) -> None:
    import lightgbm
    import numpy as np

    write(shop)
    chance = random.Random(5)
    X = np.array([[chance.random(), chance.random()] for _ in range(500)])
    y = np.array([chance.random() < 0.15 + 0.7 * (s > 0.5) for s, _ in X], dtype=int)
    booster = lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 1}, lightgbm.Dataset(X, y), 10)
    (shop.folder / "given.txt").write_text(booster.model_to_string())
    shop.pipeline(
        HEAD
        + 'given = ps.import_model("given.txt", over=rows, label="good", features=["size", "noise"], split=ps.by_time(test="4d"),\n'
        + '                        gates=[ps.metric("roc_auc") >= 0.7])\n'
        + "scores = ps.predictions(given, over=rows)\n"
    )
    assert shop.made()["scores"] == "made"
    score = shop.rows("SELECT size, noise, score FROM scores JOIN rows USING (id) WHERE id = 17")[0]
    assert abs(booster.predict([[score["size"], score["noise"]]])[0] - score["score"]) < 1e-12
    assert shop.run().nothing
    (shop.folder / "given.txt").write_text(booster.model_to_string(num_iteration=5))
    assert shop.plan("given")["given"].status == "stale", "another file is another model"


# -- from a score back, and two versions beside each other ----------------------------------------------------------
HISTORY = """
history = ps.features(rows, entity="colour", time="ts", known=ps.after("1h"), windows=["3d"], n=ps.count(), size=ps.mean("size"))
"""


def test_a_score_tells_what_the_model_saw(shop: Any) -> None:
    write(shop)
    declare(shop, BINARY.replace('"noise"', "history"))
    text = (shop.folder / "pipeline.py").read_text()
    shop.write("pipeline.py", text.replace("@ps.model", HISTORY + "\n@ps.model", 1))
    shop.made()
    with shop.open() as project:
        step = project.trace("scores", {"id": 500})
    model, features, columns, scored = step.inputs
    assert (model.kind, features.kind, columns.kind, scored.kind) == ("model", "features", "columns", "table")
    (seen,) = features.rows
    assert seen["event_time"] <= scored.rows[0]["ts"]
    assert seen["known_time"] <= scored.rows[0]["ts"]
    colour, at = scored.rows[0]["colour"], scored.rows[0]["ts"]
    rows = shop.rows(
        f"SELECT count(*) AS n FROM rows WHERE colour = '{colour}' AND ts <= TIMESTAMP '{seen['event_time']}' - INTERVAL 1 HOUR "
        f"AND ts >= TIMESTAMP '{seen['event_time']}' - INTERVAL 73 HOUR"
    )
    assert seen["history_n_3d"] == rows[0]["n"]
    assert at == scored.rows[0]["ts"]
    assert columns.rows[0]["colour"] == colour
    assert columns.note.startswith("what moved the score most: size")


def test_two_versions_beside_each_other(shop: Any) -> None:
    write(shop)
    declare(shop, BINARY + ', slices=["colour"]')
    shop.made()
    scores = {r["id"]: r["score"] for r in shop.rows("SELECT id, score FROM scores")}
    shop.made(params={"model": {"depth": 5}})
    newer = {r["id"]: r["score"] for r in shop.rows("SELECT id, score FROM scores")}
    gaps = {i: abs(newer[i] - scores[i]) for i in scores}
    with shop.open() as project:
        found = project.difference("scores", "v1", "v2")
        same = project.difference("scores", "v2", "v2")
        with pytest.raises(UnknownName):
            project.difference("scores", "v1", "v9")
    assert (found.rows, found.equal) == (600, sum(g == 0 for g in gaps.values()))
    assert found.quantiles["max"] == pytest.approx(max(gaps.values()))
    assert found.flips == sum((newer[i] >= 0.5) != (scores[i] >= 0.5) for i in scores)
    assert found.most[0]["difference"] == pytest.approx(max(gaps.values()))
    assert sum(s["rows"] for s in found.slices) == 600
    assert (same.equal, same.flips) == (600, 0)
