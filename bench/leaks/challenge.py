"""The challenge set by seed, and what counts as found."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from bench.leaks import clean, leaky
from bench.leaks.world import Dataset

#: Seeds that the detectors were made with, and seeds that were looked at only for the figures.
TUNED, HELD_OUT = (1, 2, 3), (101, 102, 103)
#: Kinds of findings that name rows rather than columns.
OF_ROWS = ("duplicate", "group", "key")
LICENCE = "These data are made, describe nobody, and are free for any use: CC0 1.0 (public domain). They carry no warranty.\n"


def datasets(seed: int) -> Iterator[Dataset]:
    """All data sets of a seed, the leaking ones first."""
    for name, made in (*leaky.makers(), *clean.makers()):
        yield made(seed, name)


def found(data: Dataset, findings: Sequence[tuple[str, Sequence[str]]]) -> bool:
    """Whether one finding names the leak: a leaking column; of rows on both sides a finding of rows."""
    if not data.leak:
        return False
    of_rows = data.leak in OF_ROWS
    return any(set(columns) & set(data.leaking) or (of_rows and kind in OF_ROWS) for kind, columns in findings)


def wrong(data: Dataset, findings: Sequence[tuple[str, Sequence[str]]]) -> list[tuple[str, Sequence[str]]]:
    """Findings that name neither the leak nor a column of it."""
    of_rows = data.leak in OF_ROWS
    return [(k, c) for k, c in findings if not (set(c) & set(data.leaking) or (of_rows and k in OF_ROWS))]


def write(out: Path, seed: int) -> list[dict[str, Any]]:
    """Two Parquet files for each data set, `truth.json` and LICENSE.txt."""
    truth = []
    for data in datasets(seed):
        folder = out / data.name
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(data.train, folder / "train.parquet")
        pq.write_table(data.test, folder / "test.parquet")
        truth.append(data.truth())
    (out / "truth.json").write_text(json.dumps({"seed": seed, "datasets": truth}, indent=1) + "\n")
    (out / "LICENSE.txt").write_text(LICENCE)
    return truth
