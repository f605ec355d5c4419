"""Queries as users write them: one SELECT, with parameters `$name` that are bound and never pasted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import duckdb

from penstock.ground.errors import QueryError, did_you_mean
from penstock.ground.names import literal

_NAME = re.compile(r"\w+")


def select(connection: duckdb.DuckDBPyConnection, query: str, params: Mapping[str, Any], *, place: str) -> str:
    """The query without what follows its end, if it is one SELECT with just these parameters.

    Raises: QueryError(E1006). duckdb.Error if it cannot be parsed.
    """
    found = connection.extract_statements(query)
    if len(found) != 1 or found[0].type != duckdb.StatementType.SELECT:
        kinds = ", ".join(str(s.type).rpartition(".")[2] for s in found) or "nothing"
        raise QueryError("a query is one SELECT", place=place, expected="SELECT", got=kinds)
    wanted = set(found[0].named_parameters)
    if missing := sorted(wanted - set(params)):
        hint = "write parameters as `$name` and give each a value: ps.sql(text, name=value)"
        raise QueryError("a parameter has no value", place=place, expected=f"${missing[0]}", got=", ".join(sorted(params)), hint=hint)
    if surplus := sorted(set(params) - wanted):
        raise QueryError("the query has no such parameter", place=place, got=f"${surplus[0]}", hint=did_you_mean(surplus[0], wanted))
    return _trimmed(query)


def relation_of(connection: duckdb.DuckDBPyConnection, query: str, params: Mapping[str, Any]) -> duckdb.DuckDBPyRelation:
    """The query bound but not computed. Raises: duckdb.Error that points into the query's text."""
    try:
        return connection.sql(query, params=dict(params) or None)
    except duckdb.Error:
        connection.execute(f"EXPLAIN {query}", dict(params))  # raises the same, and tells the line
        raise


def _tokens(query: bytes) -> Iterable[tuple[int, int, str]]:
    """(start, end, kind) of each token, in bytes; a token's end takes in the space after it."""
    found = duckdb.tokenize(query.decode())
    ends = [start for start, _ in found[1:]] + [len(query)]
    for (start, kind), end in zip(found, ends, strict=True):
        yield start, end, str(kind).rpartition(".")[2]


def _trimmed(query: str) -> str:
    """The query up to its last token, so that more text can follow."""
    data = query.encode()
    last = 0
    for start, end, kind in _tokens(data):
        if kind != "comment" and data[start:end].strip() != b";":
            last = end
    return data[:last].decode().rstrip()


def replaced(query: str, replacement: Callable[[str], str]) -> str:
    """The query with each `$name` outside of texts, quoted names and comments replaced."""
    data = query.encode()
    out, done, dollar = [], 0, -2
    for start, _, kind in _tokens(data):
        if start == dollar + 1 and kind in ("identifier", "keyword") and (name := _NAME.match(data[start:].decode())):
            out += [data[done:dollar].decode(), replacement(name[0])]
            done = start + len(name[0].encode())
        dollar = start if data[start : start + 1] == b"$" else -2
    return "".join([*out, data[done:].decode()])


class Variables:
    """Values of parameters of named queries. A view cannot hold bound values, so they stand in variables of the connection."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def keep(self, connection: duckdb.DuckDBPyConnection, value: Any) -> str:
        """Binds a value and gives the SQL expression that reads it."""
        name = f"p{len(self._values)}"
        connection.execute(f"SET VARIABLE {name} = $value", {"value": value})
        self._values[name] = value
        return f"getvariable({literal(name)})"

    def copy_to(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Sets all of them on another connection: variables belong to one."""
        for name, value in self._values.items():
            connection.execute(f"SET VARIABLE {name} = $value", {"value": value})
