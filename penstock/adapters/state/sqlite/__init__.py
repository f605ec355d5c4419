"""State in one SQLite file: an append-only log of records, the head of each key, claims with epochs, and the queue."""

from penstock.adapters.state.sqlite.state import SqliteState

__all__ = ["SqliteState"]
