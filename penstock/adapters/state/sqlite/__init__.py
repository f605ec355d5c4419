"""State in one SQLite file: an append-only log of records, the head of each key, claims with epochs, and the queue."""

from penstock.adapters.state.sqlite.records import SqliteState

__all__ = ["SqliteState"]
