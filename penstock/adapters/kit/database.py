"""What the SQL of records and queue needs of a database, and what differs between databases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Row = tuple[Any, ...]
#: Runs one statement with named values (`:name`) within a transaction; gives its rows.
Run = Callable[..., Sequence[Row]]


@dataclass(frozen=True)
class Dialect:
    """How one database says it.

    Attributes:
        listed: a condition's end that is true for the texts of a JSON list, with `{}` for the name of the value.
        locked, skipped, shared: at the end of a query: locks its rows; locks them and leaves out those locked by others; locks them against
            changes. "" where a writer is alone.
        moment, read: a moment as a value of a statement, and a column's value as a moment.
    """

    listed: str
    locked: str
    skipped: str
    shared: str
    moment: Callable[[datetime], Any]
    read: Callable[[Any], datetime]

    def among(self, name: str) -> str:
        return self.listed.format(name)


class Database(Protocol):
    """Where the tables are. Its errors are ours, of `ground/errors.py`."""

    dialect: Dialect
    #: What a place in an error begins with.
    name: str

    def write(self, work: Callable[[Run], T], *, point: str = "") -> T:
        """One transaction, durable on return, with the failpoints `point.before` and `point.after` around its commit.

        Runs `work` again if the database undid the first one because of others.
        """
        ...

    def read(self, sql: str, **values: Any) -> Sequence[Row]: ...

    def insert(self, run: Run, table: str, columns: Sequence[str], rows: Sequence[Row], *, returned: str = "") -> Sequence[Row]:
        """Adds rows, in order, but for those that break a unique index; gives one column of those that were added, in order."""
        ...

    def lock(self, run: Run, name: str) -> None:
        """Until the end of the transaction nobody else gets the lock of this name."""
        ...
