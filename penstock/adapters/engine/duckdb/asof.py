"""The point-in-time join as SQL for DuckDB's ASOF operator.

With a known time the condition `time <= t AND known <= t` is `available <= t` for `available = greatest(time, known)`. A right row
that was overtaken (another one of its key was available no later and has a newer time, or the same time and was known later) is never
the answer, for whenever it is available the other one is too. Without the overtaken rows time grows with availability, so the row
that became available last is the newest, and one ASOF join on `available` is exact. Cost: O((n + m) log m) with or without known
times.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.ground.errors import QueryError, did_you_mean
from penstock.ground.names import quote
from penstock.spec.schema import Schema


@dataclass(frozen=True)
class AsOfJoin:
    """The arguments of `Session.asof`; names of relations and columns."""

    left: str
    right: str
    by: tuple[str, ...]
    on: str
    right_on: str
    within_s: float | None
    take: tuple[str, ...]
    right_known: str | None
    event_as: str | None = None


def checked(join: AsOfJoin, left: Schema, right: Schema) -> None:
    """Raises: QueryError(E1006) for a column that does not exist, or that both sides would give."""
    needed = [(join.left, left, (*join.by, join.on))]
    needed.append((join.right, right, (*join.by, join.right_on, *join.take, *((join.right_known,) if join.right_known else ()))))
    for relation, schema, columns in needed:
        for column in columns:
            if column not in schema:
                raise QueryError("no such column", place=f"{relation}[{column}]", hint=did_you_mean(column, schema.names))
    lower = {name.lower() for name in left.names}
    added = (*join.take, *([join.event_as] if join.event_as else []))
    if both := [column for column in added if column.lower() in lower]:
        raise QueryError(
            "a column would occur twice", place=f"{join.right}[{both[0]}]", hint="leave it out of `take`, or rename it on one side"
        )


def asof_sql(join: AsOfJoin) -> str:
    """A SELECT with the left columns, then the taken ones; one row for each left row, in no particular order.

    Source: own; equal to a search over all rows by tests/properties/test_asof.py.
    """
    taken = [f"{_aged(join, f'r.c{i}')} AS {quote(column)}" for i, column in enumerate(join.take)]
    taken += [f"r.event AS {quote(join.event_as)}"] if join.event_as else []
    keys = [f"l.{quote(column)} = r.k{i}" for i, column in enumerate(join.by)]
    return (
        f"SELECT {', '.join(['l.*', *taken])} FROM {quote(join.left)} l ASOF LEFT JOIN ({_candidates(join)}) r "
        f"ON {' AND '.join([*keys, f'l.{quote(join.on)} >= r.available'])}"
    )


def _aged(join: AsOfJoin, value: str) -> str:
    """The value, or null where the matched row is older than allowed. Microseconds, so that spans compare exactly."""
    if join.within_s is None:
        return value
    age = f"epoch_us(l.{quote(join.on)}) - epoch_us(r.event)"
    return f"CASE WHEN {age} <= {round(join.within_s * 1_000_000)} THEN {value} END"


def _candidates(join: AsOfJoin) -> str:
    """The right side under plain names: k0.. keys, event, available, c0.. taken."""
    named = [*(f"{quote(c)} AS k{i}" for i, c in enumerate(join.by)), *(f"{quote(c)} AS c{i}" for i, c in enumerate(join.take))]
    event = quote(join.right_on)
    if join.right_known is None:
        return (
            f"SELECT {', '.join([*named, f'{event} AS event', f'{event} AS available'])} FROM {quote(join.right)} WHERE {event} IS NOT NULL"
        )
    known = quote(join.right_known)
    columns = ", ".join([*named, f"{event} AS event", f"{known} AS known", f"greatest({event}, {known}) AS available"])
    rows = f"SELECT {columns} FROM {quote(join.right)} WHERE {event} IS NOT NULL AND {known} IS NOT NULL"
    keys = ", ".join(f"k{i}" for i in range(len(join.by)))
    over = f"({f'PARTITION BY {keys} ' if keys else ''}ORDER BY available, event, known{{}})"
    newest = f"event = max(event) OVER {over.format(' ROWS UNBOUNDED PRECEDING')}"
    return f"SELECT * FROM ({rows}) QUALIFY {newest} AND lead(available) OVER {over.format('')} IS DISTINCT FROM available"
