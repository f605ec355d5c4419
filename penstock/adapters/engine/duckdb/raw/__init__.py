"""Raw files: crawled for columns and types, and loaded so that each line ends as a row or as a rejected row."""

from penstock.adapters.engine.duckdb.raw.infer import infer
from penstock.adapters.engine.duckdb.raw.load import load

__all__ = ["infer", "load"]
