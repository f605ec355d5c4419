"""SQL conditions that users write in checks: read as one boolean expression over known columns, and refused otherwise."""

from __future__ import annotations

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.annotate_types import annotate_types

from penstock.ground.errors import DefinitionError, did_you_mean
from penstock.spec.schema import Schema

_DIALECT = "duckdb"
_SQL = {
    "boolean": "BOOLEAN", "int": "INT", "long": "BIGINT", "float": "FLOAT", "double": "DOUBLE", "decimal": "DECIMAL", "string": "VARCHAR",
    "binary": "BLOB", "date": "DATE", "time": "TIME", "timestamp": "TIMESTAMP", "timestamptz": "TIMESTAMPTZ", "uuid": "UUID",
}  # fmt: skip
_NEVER = (exp.Query, exp.Table, exp.DDL, exp.DML, exp.Command, exp.Alias, exp.Window, exp.Placeholder, exp.Parameter, exp.Columns)


def condition(text: str, schema: Schema, *, place: str, aggregate: bool = False) -> str:
    """The condition itself in brackets, after it has been read.

    `aggregate`: over the table, so every column stands inside an aggregate; else over a row, without any.
    Raises: DefinitionError(E1001) for statements, subqueries, comments, unknown columns, and what is not true or false.
    """
    tree = _read(text, place)
    for node in tree.walk():
        if isinstance(node, _NEVER) or (isinstance(node, exp.Star) and not isinstance(node.parent, exp.Count)):
            raise _refused("only columns, values, operators and functions can stand in a condition", text, place, got=node.key)
        if isinstance(node, exp.AggFunc) and not aggregate:
            raise _refused("a condition of a row cannot aggregate", text, place, got=node.key, hint="ps.holds() is for aggregates")
        if isinstance(node, exp.Column):
            _require_column(node, schema, text, place, aggregate=aggregate)
    _require_boolean(tree, schema, text, place)
    return f"({text.strip()})"


def _read(text: str, place: str) -> exp.Expression:
    try:
        if any(token.comments for token in sqlglot.tokenize(text, read=_DIALECT)):
            raise _refused("a condition cannot hold comments", text, place)
        trees = sqlglot.parse(text, read=_DIALECT)
    except SqlglotError as error:
        raise _refused("cannot be read as SQL", text, place, got=str(error).splitlines()[0]) from error
    if len(trees) != 1 or not isinstance(trees[0], exp.Condition):
        raise _refused("not one SQL condition", text, place)
    return trees[0]


def _require_column(node: exp.Column, schema: Schema, text: str, place: str, *, aggregate: bool) -> None:
    name = node.parts[0].name
    if name.lower() not in {known.lower() for known in schema.names}:
        raise _refused("no such column", text, place, got=name, hint=did_you_mean(name, schema.names))
    if aggregate and node.find_ancestor(exp.AggFunc, exp.Filter, exp.Anonymous) is None:
        raise _refused("a column outside of an aggregate", text, place, got=name, hint="ps.satisfies() is for conditions of a row")


def _require_boolean(tree: exp.Expression, schema: Schema, text: str, place: str) -> None:
    """Refuses what is known to be no truth value; a function whose type is not known is left to the engine."""
    kinds = {f.name.lower(): _SQL[f.type.name] for f in schema if f.type.name in _SQL}

    def typed(node: exp.Expression) -> exp.Expression:
        kind = kinds.get(node.name.lower()) if isinstance(node, exp.Column) and len(node.parts) == 1 else None
        return exp.cast(node, kind) if kind else node

    root = tree.unnest().transform(typed)
    kind = annotate_types(root, dialect=_DIALECT).type
    unknown = kind is None or kind.is_type("unknown")
    if not (isinstance(root, (exp.Func, exp.Column, exp.Dot, exp.Bracket)) if unknown else kind.is_type("boolean")):
        raise _refused("neither true nor false", text, place, hint="compare it with something")


def _refused(message: str, text: str, place: str, *, got: str = "", hint: str = "") -> DefinitionError:
    return DefinitionError(message, place=place, expected="one SQL condition", got=got or text[:80], hint=hint)
