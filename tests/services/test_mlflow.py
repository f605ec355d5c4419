"""A project and a real MLflow server: runs, curves, files and what is live are seen there; models come in; an outage is made up for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.run.outbox import owed
from tests.runs.conftest import Workshop
from tests.runs.test_models import BINARY, HEAD, TREE, declare, result, write
from tests.services.mlflow import Mlflow, MlflowPlace

pytestmark = pytest.mark.service

SETTINGS = """
[project]
name = "{name}"
level = "told"

[level.told]
tracker = "{url}"
"""
#: What somebody else does, with MLflow's own client.
ELSEWHERE = """
import sys
import lightgbm, mlflow, numpy as np

name = sys.argv[1]
chance = np.random.default_rng(5)
X = chance.random((500, 2))
y = (chance.random(500) < 0.15 + 0.7 * (X[:, 0] > 0.5)).astype(int)
booster = lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 1}, lightgbm.Dataset(X, y), 10)
mlflow.set_experiment("elsewhere")
with mlflow.start_run():
    mlflow.lightgbm.log_model(booster, name="model", registered_model_name=name, pip_requirements=["lightgbm"])
mlflow.MlflowClient().set_registered_model_alias(name, "champion", 1)
print(float(booster.predict(np.array([[0.75, 0.25]]))[0]))
"""
#: What somebody sees there, by MLflow's own client, and that the files are whole.
LOOK = """
import hashlib, json, sys
import mlflow

client = mlflow.MlflowClient()
found = client.get_model_version_by_alias(sys.argv[1], "production")
run = client.get_run(found.run_id)
folder = mlflow.artifacts.download_artifacts(artifact_uri=found.source)
manifest = json.load(open(folder + "/manifest.json"))
whole = [hashlib.sha256(open(f"{folder}/{f['name']}", "rb").read()).hexdigest() == f["sha256"] for f in manifest["files"]]
print(json.dumps({"version": found.tags["penstock.version"], "status": run.info.status, "whole": whole}))
"""


@pytest.fixture
def place(mlflow: Mlflow, tmp_path: Path) -> MlflowPlace:
    return MlflowPlace(mlflow, tmp_path)


@pytest.fixture
def shop(place: MlflowPlace, tmp_path: Path) -> Iterator[Workshop]:
    made = Workshop(tmp_path / "shop")
    made.folder.mkdir()
    made.write("penstock.toml", SETTINGS.format(name=place.project, url=place.server.url))
    yield made
    made.close()


def test_a_project_is_seen_in_mlflow_also_what_it_did_while_mlflow_was_down(shop: Any, place: MlflowPlace) -> None:
    write(shop)
    body = "for step in range(3):\n        train.report(step, loss=1 / (1 + step))\n    " + TREE
    declare(shop, BINARY + ', gates=[ps.metric("roc_auc") >= 0.6]', body)
    shop.made()
    (first,) = place.seen("model")
    assert (first.version, first.refused, first.params["depth"]) == ("v1", False, "2")
    with shop.open() as project:
        entry = project.state.history("model", "model@v1", limit=1)[0].body
        stored = project.settings.folder / entry["folder"]
    assert {k: first.metrics[k] for k in entry["metrics"]} == entry["metrics"]
    assert [(p.phase, p.step, p.values["loss"]) for p in sorted(first.curve, key=lambda p: p.step)] == [
        ("fit", 0, 1.0),
        ("fit", 1, 0.5),
        ("fit", 2, 1 / 3),
    ]
    assert first.tags["input.rows"] == entry["inputs"]["rows"]
    assert (first.tags["definition"], first.tags["function"]) == (entry["definition"], entry["function"])
    assert first.files == {f.name: f.read_bytes() for f in stored.iterdir()}
    assert place.live_now("model") == "v1"

    place.server.stop()
    try:
        shop.made("model", params={"model": {"depth": 4}})
        with shop.open() as project:
            project.rollback("model", by="ada", reason="complaints")
            assert len(owed(project.state, "model")) == 3
        assert shop.rows("SELECT count(*) AS n FROM scores") == [{"n": 600}]
    finally:
        place.server.start()
    assert any("tracker was not told" in e.text for e in shop.events if e.kind == "note")
    for _ in range(2):
        shop.run("rows")
    with shop.open() as project:
        assert owed(project.state, "model") == []
    assert [s.version for s in place.seen("model")] == ["v1", "v2"]
    assert place.live_now("model") == "v1"
    with shop.open() as project:
        project.release("model", version="v2", by="ada")
    assert place.live_now("model") == "v2"
    seen = place.server.run(LOOK, f"{place.project}.model")
    assert seen.split("\n")[-2] == '{"version": "v2", "status": "FINISHED", "whole": [true, true]}'

    given = f'given = ps.import_model("{place.server.url}/{place.project}.model@production", over=rows, {BINARY})\n'
    shop.pipeline(HEAD + given + "scores = ps.predictions(given, over=rows)\n")
    shop.made()
    with shop.open() as project:
        taken = project.state.history("model", "given@v1", limit=1)[0].body
        ours = project.state.history("model", "model@v2", limit=1)[0].body
    assert taken["metrics"] == ours["metrics"], "the model that Penstock told is the one that comes back"


def test_a_model_that_was_registered_by_mlflow_is_gated_and_scores(shop: Any, place: MlflowPlace) -> None:
    name = f"{place.project}-late"
    said = float(place.server.run(ELSEWHERE, name).split()[-1])
    write(shop)
    shop.write(
        "data/z.csv",
        "id,ts,query,size,noise,colour,weight,good,amount,grade,wanted\n9999,2026-03-02 00:00:00,q,0.75,0.25,red,1,true,1,low,1\n",
    )
    given = (
        'given = ps.import_model("SOURCE", over=rows, label="good", features=["size", "noise"], split=ps.by_time(test="4d"),\n'
        '                        gates=[ps.metric("roc_auc") >= LEAST])\nscores = ps.predictions(given, over=rows)\n'
    )
    for reference, least, status in ((f"{name}/1", "0.99", "refused"), (f"{name}@champion", "0.7", "made")):
        shop.pipeline(HEAD + given.replace("SOURCE", f"{place.server.url}/{reference}").replace("LEAST", least))
        done = shop.run()
        assert result(done, "given").status == status, result(done, "given").error
    (score,) = shop.rows("SELECT score FROM scores WHERE id = 9999")
    assert abs(score["score"] - said) < 1e-9
    assert [(s.version, s.refused) for s in place.seen("given")] == [("v1", True), ("v2", False)]
    assert place.seen("given")[1].tags["source"].endswith(f"/{name}@champion")
    shop.pipeline(HEAD + given.replace("SOURCE", f"{place.server.url}/{name}@nobody").replace("LEAST", "0.7"))
    assert result(shop.run(), "given").error["code"] == "E6004"
