"""Planted leaks: how many are found, by kind, and how often clean data are called leaking; beside one bound on each column's power.

The naive detector is the usual one: a column leaks if it alone has an AUC above 0.95 (any class against the others) or, of a
number, a squared rank correlation above 0.95, on rows held out. The data sets of the seeds in `TUNED` were looked at while the
detectors were made; those of `HELD_OUT` were not, though the same programs make them: they tell of other draws, not of other worlds.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn import datasets as sets
from sklearn.metrics import roc_auc_score

from bench.leaks.challenge import HELD_OUT, TUNED, datasets, found, wrong
from bench.leaks.world import Dataset
from bench.measure import ROOT, emit
from penstock.craft.learning.judged import Judged
from penstock.craft.learning.leakage import Sample, detect, labelled
from penstock.craft.learning.telling import means

NAIVE_BOUND = 0.95
FLIGHTS = ROOT / "examples/flights/data/flights.csv"


def ours(data: Dataset) -> list[tuple[str, tuple[str, ...]]]:
    sides = (Sample(data.train, data.at), Sample(data.test, data.at))
    options: dict[str, Any] = {"group": data.group, "key": data.key, "times": data.times}
    return [(f.kind, f.columns) for f in detect(*sides, kind=data.kind, label=data.label, columns=data.columns, **options)]  # type: ignore[arg-type]


def naive(data: Dataset) -> list[tuple[str, tuple[str, ...]]]:
    rows = labelled(Sample(data.train), Sample(data.test), data.kind, data.label, data.columns, None, 0)  # type: ignore[arg-type]
    judged, train = Judged(rows), np.arange(len(rows.of)) < rows.train
    told = []
    for name, seen in judged.seen.items():
        if not seen or seen[0].view.how:
            continue
        codes = seen[0].view.codes
        guess = means(codes[train], rows.of.Y[train], int(codes.max()) + 1)[codes[~train]]
        test = rows.of.taken(~train)
        if rows.of.of_classes:
            power = max((roc_auc_score(y, g) for y, g in zip(test.Y.T, guess.T, strict=True) if 0 < y.sum() < len(y)), default=0.0)
        else:
            power = np.corrcoef(test.Y[:, 0], guess[:, 0])[0, 1] ** 2 if guess.std() else 0.0
        if power > NAIVE_BOUND:
            told.append(("power", (name,)))
    return told


def figures(seeds: tuple[int, ...], *, tell: bool = False) -> dict[str, Any]:
    """Recall, false alarms and seconds over all data sets of some seeds."""
    counts: Counter[str] = Counter()
    kinds: dict[str, list[int]] = {}
    seconds = 0.0
    missed, alarms = [], []
    for seed in seeds:
        for data in datasets(seed):
            began = time.perf_counter()
            findings, simple = ours(data), naive(data)
            seconds = max(seconds, time.perf_counter() - began)
            if data.leak:
                hit = found(data, findings)
                counts.update(
                    leaking=1,
                    found=hit,
                    naive_found=found(data, simple),
                    beside=len(wrong(data, findings)),
                    naive_beside=len(wrong(data, simple)),
                )
                kinds.setdefault(data.leak, [0, 0])
                kinds[data.leak][0] += hit
                kinds[data.leak][1] += 1
                missed += [] if hit else [f"{data.name}@{seed}"]
            else:
                counts.update(clean=1, called=bool(findings), alarms=len(findings), naive_called=bool(simple), naive_alarms=len(simple))
            alarms += [f"{data.name}@{seed}: {kind} {', '.join(columns)}" for kind, columns in wrong(data, findings)]
    return {
        "contest": "leaks", "seeds": list(seeds), "leaking": counts["leaking"], "clean": counts["clean"],
        "recall": round(counts["found"] / counts["leaking"], 3), "naive_recall": round(counts["naive_found"] / counts["leaking"], 3),
        "clean_called_leaking": round(counts["called"] / counts["clean"], 3), "naive_clean_called_leaking": round(counts["naive_called"] / counts["clean"], 3),
        "alarms_per_clean": round(counts["alarms"] / counts["clean"], 3), "naive_alarms_per_clean": round(counts["naive_alarms"] / counts["clean"], 3),
        "wrong_columns_on_leaking": counts["beside"], "naive_wrong_columns_on_leaking": counts["naive_beside"],
        "by_kind": {kind: f"{hit} of {all_}" for kind, (hit, all_) in sorted(kinds.items())}, "missed": missed, "alarms": alarms,
        "slowest_s": round(seconds, 1),
    }  # fmt: skip


def known_data() -> Iterator[Dataset]:
    """Data that was not made for this: sets that come with scikit-learn, and the flights of 2013 if the example's are there.

    All are clean but the flights with `arr_delay`, of which the label is cut. Rows are in an order of chance, flights in theirs.
    """
    for load, kind in (
        ("breast_cancer", "binary"),
        ("wine", "multiclass"),
        ("iris", "multiclass"),
        ("digits", "multiclass"),
        ("diabetes", "regression"),
    ):
        data = getattr(sets, f"load_{load}")()
        order = np.random.default_rng(1).permutation(len(data.target))
        names = [str(n) for n in data.feature_names]
        table = pa.table({**{n: data.data[order, i] for i, n in enumerate(names)}, "outcome": data.target[order]})
        cut = len(order) * 3 // 4
        yield Dataset(
            load, kind, table.slice(0, cut), table.slice(cut), "outcome", tuple(names), "scikit-learn", "shipped with the package"
        )
    if not FLIGHTS.exists():
        return
    import duckdb

    rows = duckdb.connect().sql(
        f"""SELECT time_hour::TIMESTAMP + to_minutes("minute") AS at, "month", "hour", "minute", flight, carrier, origin, dest, tailnum, distance, dep_delay,
            arr_delay, arr_delay > 15 AS outcome FROM read_csv('{FLIGHTS}', nullstr=['', 'NA']) WHERE arr_delay IS NOT NULL ORDER BY 1"""
    ).to_arrow_table()  # fmt: skip
    cut = int(np.searchsorted(rows["at"].to_numpy(), np.datetime64("2013-12-01")))
    known = ("month", "hour", "minute", "flight", "carrier", "origin", "dest", "tailnum", "distance")
    for name, columns, leaking in (("flights", known, ()), ("flights with arr_delay", (*known, "arr_delay"), ("arr_delay",))):
        yield Dataset(
            name, "binary", rows.slice(0, cut), rows.slice(cut), "outcome", columns, "flights of 2013", "", "copy" if leaking else "", leaking, "at"
        )  # fmt: skip


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    known = {data.name: [f"{kind} {', '.join(columns)}" for kind, columns in ours(data)] for data in known_data()}
    lines: list[dict[str, Any]] = [{"contest": "leaks_known_data", "findings": known}]
    emit(lines[0])
    for seeds, which in ((TUNED, "tuned"), (HELD_OUT, "held out")):
        line = {**figures(seeds[:1] if quick else seeds), "which": which}
        emit(line)
        lines.append(line)
    return lines
