"""State in a PostgreSQL database, shared by many machines."""

from penstock.adapters.state.postgresql.state import PostgresqlState

__all__ = ["PostgresqlState"]
