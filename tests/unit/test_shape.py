"""What a query does to rows, as told without running it."""

from __future__ import annotations

import duckdb
import pytest

from penstock.craft.lineage.shape import parsed, shape_of
from penstock.ground.errors import QueryError


def aggregates() -> list[str]:
    query = "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type = 'aggregate' ORDER BY 1"
    return [str(name) for (name,) in duckdb.connect().execute(query).fetchall() if str(name).isidentifier()]


@pytest.mark.parametrize("arguments", ["x", "x, 2", "x, y"])
def test_no_aggregate_of_the_engine_counts_as_keeping_rows(arguments: str) -> None:
    keeps = []
    for name in aggregates():
        try:
            keeps += [name] if shape_of(parsed(f"SELECT {name}({arguments}) AS v FROM raw"), ["raw"]).keeps else []
        except QueryError:
            continue  # the parser wants other arguments
    assert keeps == []


@pytest.mark.parametrize("query", ["SELECT mean(x) OVER () FROM raw", "SELECT upper(x) FROM raw WHERE y > 1", "SELECT * FROM raw AS r"])
def test_rows_are_kept(query: str) -> None:
    assert shape_of(parsed(query), ["raw"]).keeps
