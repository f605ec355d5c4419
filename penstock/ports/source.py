"""The source port: databases that somebody else owns, read as Arrow. (Files are read by the engine.)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from penstock.spec.schema import Schema

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class SourceCapabilities:
    """What a database can do; the defaults are the weakest."""

    consistent_reads: bool = False
    primary_keys: bool = False


class Database(Protocol):
    """One connection. Called from one thread at a time; batches of a read may be pulled from another. Nothing is ever written.

    A relation is a table's name (`schema.table` outside of the default schema), or a query in brackets: `(SELECT ...)`.
    """

    capabilities: SourceCapabilities

    def tables(self) -> Sequence[str]:
        """Names of tables and views, `schema.table` where it is not the default schema. Called: by crawl."""
        ...

    def describe(self, relation: str) -> Schema:
        """Columns of a relation, without handing out rows. Raises: SourceError(E2001)."""
        ...

    def key(self, table: str) -> tuple[str, ...]:
        """The primary key's columns, () if there is none or it cannot be told."""
        ...

    def read(self, relation: str, *, columns: Schema, above: tuple[str, Any] | None = None) -> pa.RecordBatchReader:
        """All rows, or with `above=(column, value)` those whose column is >= the value (ties included), as a stream.

        The value is bound, never pasted. Types: as `columns`; what cannot be represented comes as text.
        Consistent: one statement, so one moment of the database.
        Raises: SourceUnreachable(E2005), SourceError(E2001), SchemaDrift(E2003) if a column is missing.
        """
        ...

    def close(self) -> None: ...
