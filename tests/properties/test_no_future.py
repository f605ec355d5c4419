"""No row sees the future: random point-in-time cases through a whole project, against a search over all rows of an entity.

`make soak` runs 50,000 cases and more; a change needs the first few thousand.
"""

from __future__ import annotations

import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.project.project import Project
from penstock.run.point_in_time import coverage, model_rows
from penstock.run.runtime import snapshot_for
from tests.runs.conftest import Workshop

PIPELINE = """
from penstock.spec.features import distinct, on_demand

asked = ps.files("asked.parquet")
told = ps.files("told.parquet")

@ps.table(key="id", time="at")
def rows(asked):
    return ps.sql('SELECT id, who, "at", good FROM asked')

@ps.table(time="at")
def facts(told):
    return ps.sql('SELECT who, "at", heard, n FROM told WHERE who IS NOT NULL AND heard IS NOT NULL')

@ps.features(entity="who", time="at", known="heard", ttl="2h")
def corrected(facts):
    return ps.sql('SELECT DISTINCT ON (who, "at", heard) who, "at", heard, n FROM facts ORDER BY ALL')

@ps.features(entity="who", time="at", known=ps.after("30m"))
def later(facts):
    return ps.sql('SELECT who, "at", max(n) AS n FROM facts GROUP BY ALL')

hour = ps.features(facts, entity="who", time="at", known="heard", windows=["1h"], n=ps.sum("n"), c=ps.count(), d=distinct("n"))

@ps.model(over=rows, label="good", features=[corrected, later, hour, on_demand(night='hour("at") < 6')], split=ps.by_time(test="1d"))
def unused(train):
    return None
"""
#: Around the hour that Paris has not, and that it has twice; and a plain day in January, without zone.
NIGHTS = {"spring": "2026-03-28T22:00:00+00:00", "autumn": "2026-10-24T22:00:00+00:00", "plain": "2026-01-10T22:00:00+00:00"}
Fact = tuple[datetime, datetime, int]


def made(folder: Path, chance: random.Random, *, cases: int, keys: int, night: str) -> tuple[list[Any], dict[str, list[Fact]]]:
    """Files of cases and facts on a grid of five minutes, so that ties and the edges of ttl and windows are common."""
    start, zone = datetime.fromisoformat(NIGHTS[night]), None if night == "plain" else "Europe/Paris"
    kind = pa.timestamp("us", zone)
    span = 200 if keys < 100 else 60

    def at() -> datetime:
        return start + timedelta(minutes=5 * chance.randrange(span))

    facts, seen = [], set()
    for n in range(cases):
        event = at()
        heard = event + timedelta(minutes=chance.choice([-10, 0, 0, 5, 30, 60, 300]))
        who = f"k{chance.randrange(keys)}" if chance.random() < 0.97 else None
        if (who, event, heard) not in seen:
            seen.add((who, event, heard))
            facts.append((who, event, heard if chance.random() < 0.97 else None, n % 1000))
    asked = [
        (i, f"k{chance.randrange(keys + keys // 10 + 1)}" if chance.random() < 0.97 else None, at(), chance.random() < 0.5)
        for i in range(cases)
    ]

    def column(values: list[Any]) -> pa.Array:
        return pa.array([v if v is None or zone else v.replace(tzinfo=None) for v in values], kind)

    who, events, heards, ns = zip(*facts, strict=True)
    pq.write_table(pa.table({"who": who, "at": column(list(events)), "heard": column(list(heards)), "n": ns}), folder / "told.parquet")
    ids, whos, ats, good = zip(*asked, strict=True)
    pq.write_table(pa.table({"id": ids, "who": whos, "at": column(list(ats)), "good": good}), folder / "asked.parquet")
    by_key = defaultdict(list)
    for key, event, heard, n in facts:
        if key is not None and heard is not None:
            by_key[key].append((event, heard, n))
    return asked, by_key


def wanted(at: datetime, facts: list[Fact]) -> dict[str, Any]:
    """What a case may see, straight from the words."""
    by_now = [f for f in facts if f[0] <= at and f[1] <= at]
    newest = max(by_now, default=None, key=lambda f: (f[0], f[1]))
    fresh = newest if newest is not None and at - newest[0] <= timedelta(hours=2) else None
    settled = [f for f in facts if f[0] + timedelta(minutes=30) <= at]
    last = max((f[0] for f in settled), default=None)
    found = {"corrected_n": fresh[2] if fresh else None, "later_n": max((f[2] for f in settled if f[0] == last), default=None)}
    moment = max((f[0] for f in facts if f[0] <= at), default=None)
    if moment is not None:
        in_window = [f[2] for f in facts if moment - timedelta(hours=1) <= f[0] <= moment and f[1] <= moment]
        found |= {"hour_n_1h": sum(in_window) if in_window else None, "hour_c_1h": len(in_window), "hour_d_1h": len(set(in_window))}
    return {"hour_n_1h": None, "hour_c_1h": None, "hour_d_1h": None} | found


def joined(project: Project) -> tuple[pa.Table, Any, list[dict[str, Any]]]:
    runtime, graph = project.runtime, project.graph
    session = runtime.engine.session()
    try:
        heads = runtime.state.heads("asset")
        scans = {
            name: runtime.lake.scan(name, version=snapshot_for(runtime, name, str(heads[name].body["version"])))
            for name in graph.node("unused").inputs
        }
        for name, scan in scans.items():
            session.bind(name, scan)
        rows = model_rows(session, graph, graph.node("unused").asset, scans, "rows")  # type: ignore[arg-type]
        step, covered = coverage(session, rows, "rows")
        return session.read(f"SELECT * FROM {rows.relation} ORDER BY id").read_all(), step, covered
    finally:
        session.close()


FIRST = [(0, 1500, 8, "spring"), (1, 1500, 600, "plain")]
MORE = [(10 + i, 4200, keys, night) for i, (keys, night) in enumerate((k, n) for n in NIGHTS for k in (5, 40, 400, 3000))]
CASES = [*FIRST, *(pytest.param(*one, marks=pytest.mark.soak) for one in MORE)]


@pytest.mark.parametrize(("seed", "cases", "keys", "night"), CASES)
def test_no_case_sees_the_future(tmp_path: Path, seed: int, cases: int, keys: int, night: str) -> None:
    shop = Workshop(tmp_path / "shop")
    shop.folder.mkdir()
    shop.pipeline(PIPELINE)
    asked, facts = made(shop.folder, random.Random(seed), cases=cases, keys=keys, night=night)
    shop.made("corrected", "later", "hour", "rows")
    with shop.open() as project:
        table, step, covered = joined(project)
    assert step.balanced
    assert table.num_rows == cases
    columns = ["corrected_n", "later_n", "hour_n_1h", "hour_c_1h", "hour_d_1h"]
    times = ["_corrected_event", "_corrected_known", "_later_event", "_later_known", "_hour_event", "_hour_known"]
    fresh = 0
    for case, found in zip(asked, table.select([*columns, *times, "night"]).to_pylist(), strict=True):
        _, who, at, _ = case
        for name in times:
            then = found[name]
            assert then is None or (then if then.tzinfo else then.replace(tzinfo=UTC)) <= at, (case, name, then)
        expected = wanted(at, facts.get(who, []))
        assert {name: found[name] for name in columns} == expected, case
        assert found["night"] == (at.astimezone(UTC).hour < 6)
        fresh += expected["corrected_n"] is not None
    assert (covered[0]["asset"], covered[0]["found"], covered[0]["rows"]) == ("corrected", fresh, cases)


def test_cases_that_other_joins_lose(tmp_path: Path) -> None:
    """Fresh, older than the ttl, unknown, only known later: four rows in, four rows out."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    facts = [("k1", 9, 1), ("k2", 0, 2), ("k4", 14, 4)]
    shop = Workshop(tmp_path / "shop")
    shop.folder.mkdir()
    shop.pipeline(PIPELINE.replace("2h", "7d"))
    at = [start + timedelta(days=day) for _, day, _ in facts]
    pq.write_table(
        pa.table({"who": [w for w, _, _ in facts], "at": at, "heard": at, "n": [n for *_, n in facts]}), shop.folder / "told.parquet"
    )
    asked = pa.table({"id": [1, 2, 3, 4], "who": ["k1", "k2", "k3", "k4"], "at": [start + timedelta(days=11)] * 4, "good": [True] * 4})
    pq.write_table(asked, shop.folder / "asked.parquet")
    shop.made("corrected", "later", "hour", "rows")
    with shop.open() as project:
        table, _, covered = joined(project)
    assert table["corrected_n"].to_pylist() == [1, None, None, None]
    assert covered[0] == {"asset": "corrected", "rows": 4, "found": 1, "older": 1, "share": 0.25, "older_share": 0.25}
