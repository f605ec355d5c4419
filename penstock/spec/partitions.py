"""How a table's files are split: transforms of a column, by the names Iceberg gives them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Transform = Literal["identity", "year", "month", "day", "hour", "bucket"]


@dataclass(frozen=True)
class Partition:
    """One partition field. `n` is the number of buckets, for `bucket` only."""

    column: str
    transform: Transform = "identity"
    n: int = 0


def by(column: str) -> Partition:
    """One partition for each value."""
    return Partition(column)


def year(column: str) -> Partition:
    """One partition for each year of a date or time, in UTC."""
    return Partition(column, "year")


def month(column: str) -> Partition:
    """One partition for each month of a date or time, in UTC."""
    return Partition(column, "month")


def day(column: str) -> Partition:
    """One partition for each day of a date or time, in UTC."""
    return Partition(column, "day")


def hour(column: str) -> Partition:
    """One partition for each hour of a time, in UTC."""
    return Partition(column, "hour")


def bucket(n: int, column: str) -> Partition:
    """`n` partitions by a hash of the value."""
    return Partition(column, "bucket", n)
