"""Features made again in parts, over random histories of their table, against one computation of everything."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.run import derive, upkeep
from tests.runs.conftest import Workshop

PIPELINE = """
from penstock.spec.features import distinct, expression, last, quantile

raw = ps.files("data/*.parquet", gone="drop")

@ps.table({options})
def rows(raw):
    return ps.sql("SELECT id, kind, ts, told, n, x, flag FROM raw WHERE n <> 3")

history = ps.features(
    rows, entity="kind", time="ts", known={known}, windows=["5m", "1h"], where={where},
    c=ps.count(), s=ps.sum("n"), m=ps.mean("x"), low=ps.min("n"), end=last("n"), d=distinct("n"), q=quantile("n", 0.5),
    e=expression("sum(n) / nullif(count(*) FILTER (WHERE flag), 0)"),
)
"""
TABLES = {
    "append": 'time="ts", write=ps.append()',
    "replace": 'time="ts"',
    "merge": 'key="id", time="ts", write=ps.merge()',
    "slices": 'time="ts", write=ps.slices("hour", of="raw", on="ts")',
}
EPOCH = datetime.fromisoformat("2026-01-01")


def batch(chance: random.Random, first: int) -> pa.Table:
    """A few rows, some late, some known late, some without entity, time or known time; x are halves, so that sums are exact."""
    middle = chance.randint(0, 40) * 15
    rows = []
    for _ in range(chance.randint(1, 8)):
        at = EPOCH + timedelta(minutes=middle + chance.randint(-20, 20)) if chance.random() < 0.95 else None
        told = at + timedelta(minutes=chance.choice([-5, 0, 2, 30, 70])) if at and chance.random() < 0.9 else None
        kind = chance.choice(["a", "a", "b", None])
        n, x = chance.choice([None, 1, 2, 3, 4]), chance.choice([None, 0.5, -1.5, 2.0])
        rows.append(
            {"id": chance.randint(first, first + 6), "kind": kind, "ts": at, "told": told, "n": n, "x": x, "flag": chance.random() < 0.6}
        )
    times = pa.timestamp("us")
    return pa.Table.from_pylist(rows, pa.schema({
        "id": pa.int64(), "kind": pa.string(), "ts": times, "told": times, "n": pa.int64(), "x": pa.float64(), "flag": pa.bool_(),
    }))  # fmt: skip


def contents(shop: Workshop) -> list[Any]:
    return sorted((tuple(r.values()) for r in shop.rows("SELECT * FROM history")), key=lambda r: r[:2])


KNOWN = {"at once": ('ps.after("0s")', "None"), "with a lag": ('ps.after("7m")', "'flag'"), "by column": ("'told'", "None")}
NOW = {("append", "with a lag"), ("replace", "by column"), ("merge", "at once"), ("slices", "by column")}
CASES = [pytest.param(t, k, marks=() if (t, k) in NOW else pytest.mark.soak, id=f"{t} {k}") for t in TABLES for k in KNOWN]


@pytest.mark.parametrize(("table", "way"), CASES)
def test_touched_times_are_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, way: str) -> None:
    known, where = KNOWN[way]
    monkeypatch.setattr(derive, "MOST_CHANGED", 1e9)
    monkeypatch.setattr(derive, "MOST_SPANS", 3)
    monkeypatch.setattr(upkeep, "ENOUGH", 3)
    chance = random.Random(f"{table} {known}")
    shop = Workshop(tmp_path / "shop")
    shop.folder.mkdir()
    shop.pipeline(PIPELINE.format(options=TABLES[table], known=known, where=where))
    data = shop.folder / "data"
    data.mkdir()
    for step in range(4):
        files = sorted(data.iterdir())
        if table != "append" and len(files) > 2 and chance.random() < 0.3:
            chance.choice(files).unlink()
        else:
            name = f"{step}.parquet" if len(files) < 2 or chance.random() < 0.7 or table == "append" else chance.choice(files).name
            pq.write_table(batch(chance, step * 5), data / name)
        shop.made()
        parts = contents(shop)
        shop.run("history", force=True)
        assert contents(shop) == parts, (step, [e.text for e in shop.events if e.kind == "note"][-4:])
    ways = [e.data.get("mode") for e in shop.events if e.kind == "finished" and e.asset == "history"]
    assert "part" in ways
