"""Labels in an order of chance leak from nothing, whatever the columns are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.craft.learning.leakage import Sample, detect


def columns(rng: np.random.Generator, n: int) -> dict[str, Any]:
    """Columns of all sorts: numbers with ties and tails, counters, texts, codes, moments, nulls."""
    at = np.sort(rng.integers(0, 10**7, n)) * 1_000_000
    return {
        "number": rng.normal(size=n),
        "tailed": np.exp(2 * rng.normal(size=n)),
        "few": rng.integers(0, 5, n),
        "rare": (rng.random(n) < 0.03).astype(np.int64),
        "row_id": np.arange(n),
        "shop": [f"s{i}" for i in rng.integers(0, max(2, n // 8), n)],
        "case": [f"C-{i:07d}" for i in rng.permutation(n * 3)[:n]],
        "notes": [" ".join(rng.choice(["late", "paid", "call", "old", "new", "blue"], 5)) + f" {i}" for i in range(n)],
        "seldom": pa.array(rng.normal(size=n), mask=rng.random(n) < 0.7),
        "score": np.round(rng.random(n), 2),
        "at": pa.array(at, pa.timestamp("us")),
        "due": pa.array(at + rng.integers(0, 40, n) * 86_400_000_000, pa.timestamp("us"), mask=rng.random(n) < 0.2),
    }


def labels(rng: np.random.Generator, n: int, kind: str) -> Any:
    if kind == "binary":
        return rng.random(n) < rng.choice([0.05, 0.3, 0.5, 0.9])
    if kind == "regression":
        return rng.choice([np.exp(rng.normal(size=n)), rng.poisson(2, n) * 1.0, np.where(rng.random(n) < 0.5, 0, rng.random(n))])
    return rng.integers(0, rng.integers(3, 12), n)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression", "ranking"])
@given(seed=st.integers(0, 2**32 - 1), n=st.sampled_from([120, 500, 1500]))
@settings(deadline=None, max_examples=12)
def test_labels_of_chance_leak_from_nothing(kind: Any, seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    made = columns(rng, n)
    table = pa.table({**made, "query": np.arange(n) // 10, "y": labels(rng, n, kind)})
    cut = n * 7 // 10 // 10 * 10
    sides = [Sample(table.slice(0, cut), "at"), Sample(table.slice(cut), "at")]
    assert detect(*sides, kind=kind, label="y", columns=list(made), group="query" if kind == "ranking" else None, seed=seed % 5) == ()
