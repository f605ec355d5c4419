"""Whole projects over random histories of their input files: what came in parts is what a project made at once has."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from penstock.run import upkeep
from tests.runs.conftest import Workshop

PIPELINE = """
raw = ps.files(
    "data/*.csv", columns={"id": "long", "amount": "long", "ts": "timestamp"}, gone="drop", checks=[ps.between("amount", -5, 1000)]
)

@ps.table(partition=ps.day("ts"), write=ps.append(), checks=[ps.between("amount", 0, 800), ps.rows(low=0)])
def log(raw):
    return ps.sql("SELECT id, amount, ts FROM raw WHERE amount <> 13")

@ps.table(key="id", time="ts", partition=ps.day("ts"), write=ps.merge(), checks=[ps.between("amount", 0, 900)])
def newest(raw):
    return ps.sql("SELECT id, amount, ts FROM raw")

@ps.table(time="day", key="day", partition=ps.month("day"), write=ps.slices("day", of="raw", on="ts", lookback=1), checks=[ps.between("n", 2, 100)])
def daily(raw):
    return ps.sql(
        "SELECT day, n, total, sum(total) OVER (ORDER BY day RANGE BETWEEN INTERVAL 1 DAY PRECEDING AND CURRENT ROW) AS two "
        "FROM (SELECT date_trunc('day', ts) AS day, count(*) AS n, sum(amount) AS total FROM raw GROUP BY 1)"
    )

@ps.table(write=ps.append())
def after(log):
    return ps.sql("SELECT id + 1 AS id, amount FROM log")

@ps.table(key="id", time="ts", write=ps.merge())
def again(newest):
    return ps.sql("SELECT id, ts, amount FROM newest")
"""
TABLES = {
    "raw": "id, amount, ts", "raw__rejected": 'stage, "check", original, file', "log": "id, amount, ts", "log__rejected": "original",
    "newest": "id, amount, ts", "newest__rejected": "original", "daily": "day, n, total, two", "daily__rejected": "original",
    "after": "id, amount", "again": "id, ts, amount",
}  # fmt: skip


def workshop(folder: Path) -> Workshop:
    shop = Workshop(folder)
    folder.mkdir()
    shop.pipeline(PIPELINE)
    return shop


def contents(shop: Workshop) -> dict[str, Counter[Any]]:
    with shop.open() as project:
        known = set(project.runtime.lake.tables())
        return {
            name: Counter(tuple(r.values()) for r in project.query(f"SELECT {columns} FROM {name}")) if name in known else Counter()
            for name, columns in TABLES.items()
        }


def lines(chance: random.Random) -> str:
    amounts = [13, 5, 50, 700, 850, 950, 1200, -2, "x"]
    rows = [
        f"{chance.randint(1, 8)},{chance.choice(amounts)},2026-01-0{chance.randint(1, 4)}T0{chance.randint(0, 9)}:00:00\n"
        for _ in range(chance.randint(0, 6))
    ]
    return "id,amount,ts\n" + "".join(rows)


@pytest.mark.parametrize(("seed", "only_new"), [(1, False), (2, True)])
def test_parts_are_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, only_new: bool) -> None:
    monkeypatch.setattr(upkeep, "ENOUGH", 2)
    chance, files = random.Random(seed), dict[str, str]()
    parts = workshop(tmp_path / "parts")
    for step in range(4):
        name = f"data/{step}.csv" if only_new or len(files) < 2 or chance.random() < 0.5 else chance.choice(sorted(files))
        if name in files and chance.random() < 0.4:
            del files[name]
            (parts.folder / name).unlink()
        else:
            files[name] = lines(chance)
            parts.write(name, files[name])
        parts.made()
        if chance.random() < 0.4:
            with parts.open() as project:
                project.upkeep()
        whole = workshop(tmp_path / f"whole{step}")
        for file, text in files.items():
            whole.write(file, text)
        whole.made()
        assert contents(parts) == contents(whole)
        assert parts.run().nothing
