"""Writing a query into Parquet files of a draft."""

from __future__ import annotations

import duckdb

from penstock.ground.ids import Ids
from penstock.ports.lake import DataFile, Draft


def write(connection: duckdb.DuckDBPyConnection, query: str, draft: Draft, *, ids: Ids) -> tuple[DataFile, ...]:
    """Computes a query into Parquet files; see `Session.write`. File names hold a fresh id."""
    raise NotImplementedError
