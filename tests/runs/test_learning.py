"""Features, a gated model and its predictions, end to end on small made data."""

from __future__ import annotations

import random
from typing import Any

PIPELINE = """
events = ps.files("data/*.csv", columns={"id": "long", "user": "string", "ts": "timestamp", "size": "double", "good": "boolean"})

@ps.table(key="id", time="ts")
def rows(events):
    return ps.sql('SELECT id, "user", ts, size, good FROM events')

history = ps.features(rows, entity="user", time="ts", known=ps.after("1h"), windows=["2d"], n=ps.count(), share=ps.mean("good"))

@ps.model(over=rows, label="good", features=[history, "size", "user"], split=ps.by_time(test="3d"), slices=["user"], gates=[GATES])
def chance(train):
    from sklearn.linear_model import LogisticRegression
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline

    return make_pipeline(SimpleImputer(), LogisticRegression()).fit(train.X, train.y)

scores = ps.predictions(chance, over=rows)
"""


def write(shop: Any, name: str, first: int, count: int, *, seed: int = 3) -> None:
    chance = random.Random(seed + first)
    lines = ["id,user,ts,size,good"]
    for i in range(first, first + count):
        size = chance.random()
        good = "" if chance.random() < 0.05 else str(chance.random() < size).lower()
        lines.append(f"{i},u{i % 4},2026-01-{1 + i // 40:02d} {i % 24:02d}:00:00,{size:.4f},{good}")
    shop.write(f"data/{name}.csv", "\n".join(lines) + "\n")


def bodies(report: Any) -> dict[str, Any]:
    return {r.asset: r for r in report.results}


def test_a_model_that_passes_scores_each_row_once(shop: Any) -> None:
    write(shop, "a", 0, 800)
    shop.pipeline(PIPELINE.replace("GATES", 'ps.metric("roc_auc") >= 0.6, ps.metric("roc_auc").not_below("production", by=0.2)'))
    done = bodies(shop.run())
    assert [r.status for r in done.values()] == ["made"] * 5
    assert done["chance"].body["metrics"]["roc_auc"] > 0.7
    assert all(g["passed"] for g in done["chance"].body["gates"])
    split = done["chance"].body["ledger"][0]
    assert split["balanced"]
    assert split["filtered"]["no label"] > 10
    with shop.open() as project:
        [job] = [job for job in project.state.queue.jobs(kind="make") if job.name == "asset:chance"]
        fitted = done["chance"].body["cost"]["cpu_seconds"]
        assert job.cost["cpu_seconds"] > fitted > 0, "the process that fitted is not in the job's cost"
    assert shop.rows("SELECT count(*) AS n, count(DISTINCT id) AS k, min(score) >= 0 AS low, max(score) <= 1 AS high FROM scores") == [
        {"n": 800, "k": 800, "low": True, "high": True}
    ]
    assert shop.run().nothing
    write(shop, "b", 800, 80)
    done = bodies(shop.run())
    assert done["chance"].body["candidate"] == "v2"
    assert shop.rows("SELECT count(*) AS n, count(DISTINCT id) AS k, min(model_version) AS v FROM scores") == [
        {"n": 880, "k": 880, "v": "v2"}
    ]


def test_a_refused_model_is_registered_and_not_used(shop: Any) -> None:
    write(shop, "a", 0, 800)
    shop.pipeline(PIPELINE.replace("GATES", 'ps.metric("roc_auc") >= 0.99'))
    report = shop.run()
    done = bodies(report)
    assert not report.ok
    assert (done["chance"].status, done["scores"].status) == ("refused", "skipped")
    assert done["chance"].body["gates"][0]["passed"] is False
    again = bodies(shop.run())
    assert again["chance"].status == "fresh", "a refused version is not trained again until something changes"
    shop.pipeline(PIPELINE.replace("GATES", 'ps.metric("roc_auc") >= 0.6'))
    done = bodies(shop.run())
    assert (done["chance"].status, done["scores"].status) == ("made", "made")


def test_a_score_is_traced_back_to_its_line(shop: Any) -> None:
    write(shop, "a", 0, 400)
    write(shop, "b", 400, 400)
    shop.pipeline(PIPELINE.replace("GATES", ""))
    shop.made()
    with shop.open() as project:
        step = project.trace("scores", {"id": 523})
    model, *_, scored = step.inputs
    assert (model.asset, scored.asset) == ("chance", "rows")
    source = scored.inputs[0]
    assert source.asset == "events"
    assert source.origin == ({"file": "data/b.csv", "row": 124},)
    assert (shop.folder / "data/b.csv").read_text().splitlines()[124].startswith("523,")


def test_the_same_data_gives_the_same_model(shop: Any) -> None:
    write(shop, "a", 0, 800)
    shop.pipeline(PIPELINE.replace("GATES", ""))
    shop.made()
    first = shop.rows("SELECT id, score FROM scores ORDER BY id")
    assert bodies(shop.run("chance", force=True))["chance"].status == "made"
    shop.made()
    assert shop.rows("SELECT id, score FROM scores ORDER BY id") == first


def test_a_training_function_that_fails(shop: Any) -> None:
    write(shop, "a", 0, 400)
    for body, code in (("return None", "E5001"), ("raise ValueError('no')", "E5001"), ("return object()", "E5001")):
        start = PIPELINE.index("    from sklearn.linear_model")
        end = PIPELINE.index("scores = ")
        shop.pipeline(PIPELINE[:start].replace("GATES", "") + f"    {body}\n\n" + PIPELINE[end:])
        done = bodies(shop.run())
        assert done["chance"].error["code"] == code
        assert done["scores"].status == "skipped"


def test_no_future_is_seen(shop: Any) -> None:
    """Each row's features against the slow, obvious computation over all rows known at its time."""
    from datetime import timedelta

    write(shop, "a", 0, 400)
    shop.pipeline(PIPELINE.replace("GATES", ""))
    shop.made("history")
    rows = shop.rows('SELECT id, "user", ts, good FROM rows')
    got = {(r["user"], r["ts"]): r for r in shop.rows("SELECT * FROM history")}
    for row in rows:
        known = [
            o for o in rows if o["user"] == row["user"] and row["ts"] - timedelta(hours=49) <= o["ts"] <= row["ts"] - timedelta(hours=1)
        ]
        labelled = [o["good"] for o in known if o["good"] is not None]
        found = got[(row["user"], row["ts"])]
        assert found["n_2d"] == len(known)
        assert (found["share_2d"] is None) == (not labelled)
        if labelled:
            assert abs(found["share_2d"] - sum(labelled) / len(labelled)) < 1e-9


def test_a_refused_version_leaves_the_live_one_described_and_scoring(shop: Any) -> None:
    write(shop, "a", 0, 800)
    gate = 'ps.metric("roc_auc").not_below("production", by=0.01)'
    shop.pipeline(PIPELINE.replace("GATES", gate))
    shop.made()
    with shop.open() as project:
        live = dict(project.state.heads("asset")["chance"].body["metrics"])
    shop.pipeline(PIPELINE.replace("GATES", gate).replace('[history, "size", "user"]', '["user"]'))
    write(shop, "b", 800, 40)
    done = bodies(shop.run())
    assert done["chance"].status == "refused"
    assert done["chance"].body["metrics"]["roc_auc"] < live["roc_auc"] - 0.01
    with shop.open() as project:
        head = project.state.heads("asset")["chance"].body
    assert (head["version"], head["candidate"], head["metrics"]) == ("v1", "v2", live)
    assert done["scores"].status == "made"
    assert shop.rows("SELECT count(*) AS n, min(model_version) AS low, max(model_version) AS high FROM scores") == [
        {"n": 840, "low": "v1", "high": "v1"}
    ]


def test_reasons_stand_beside_each_score(shop: Any) -> None:
    write(shop, "a", 0, 800)
    shop.pipeline(
        PIPELINE.replace("GATES", "").replace("ps.predictions(chance, over=rows)", "ps.predictions(chance, over=rows, reasons=2)")
    )
    shop.made()
    found = shop.rows("SELECT reason_1, reason_1_by AS first, reason_2_by AS second FROM scores")
    assert len(found) == 800
    assert all(abs(r["first"]) >= abs(r["second"]) for r in found)
    assert sum(r["reason_1"] == "size" for r in found) > 400, "what the label was made of"
