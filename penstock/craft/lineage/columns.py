"""Which columns of its inputs a query computes each of its columns from, as told without running it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlglot import errors
from sqlglot import expressions as exp
from sqlglot.lineage import Node, lineage
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import build_scope

from penstock.craft.lineage.shape import DIALECT, parsed
from penstock.ground.errors import QueryError


@dataclass(frozen=True)
class Read:
    """A column of an input that a column is computed from.

    `row`: whether the value comes from the same row of the input as the others, rather than through an aggregate or a window, or
    from an input that is read more than once.
    """

    table: str
    column: str
    row: bool


def reads(text: str, inputs: Mapping[str, Sequence[str]], *, place: str = "") -> dict[str, frozenset[Read]]:
    """Each column of a query with the columns of its inputs that it is computed from; conditions and joins are not counted.

    What cannot be followed (table functions, columns that no input has) is left out of a column's set, so that a set says what
    is surely read and not all that may be.

    Args:    inputs: name -> its columns.
    Raises:  QueryError(E1006) for anything but a single query.
    """
    tree = parsed(text, place=place)
    schema = {name: dict.fromkeys(columns, "TEXT") for name, columns in inputs.items()}
    try:
        qualified = qualify(tree, schema=schema, dialect=DIALECT, validate_qualify_columns=False, quote_identifiers=False)
        scope = build_scope(qualified)
        names = [p.alias_or_name for p in qualified.selects] if isinstance(qualified, exp.Query) else []
        if scope is None:
            return {}
        uses = Counter(t.name.lower() for t in qualified.find_all(exp.Table))
        found = {name: lineage(name, qualified, schema, scope=scope, dialect=DIALECT) for name in names if name and name != "*"}
        return {name: _leaves(root, inputs, uses) for name, root in found.items()}
    except (errors.SqlglotError, ValueError) as error:
        raise QueryError("its columns cannot be followed", place=place, got=str(error).split("\n", maxsplit=1)[0][:200]) from error


def _leaves(root: Node, inputs: Mapping[str, Sequence[str]], uses: Mapping[str, int]) -> frozenset[Read]:
    known = {name.lower(): name for name in inputs}
    columns = {name: {c.lower(): c for c in of} for name, of in inputs.items()}
    found = set()
    waiting = [(root, True)]
    while waiting:
        node, row = waiting.pop()
        if isinstance(node.expression, exp.Table) and node.expression.name.lower() in known:
            table = known[node.expression.name.lower()]
            column = node.name.rpartition(".")[2].strip('"').lower()
            if column in columns[table]:
                found.add(Read(table, columns[table][column], row and uses[table.lower()] == 1))
            continue
        row = row and node.expression.find(exp.AggFunc, exp.Window) is None
        waiting += [(below, row) for below in node.downstream]
    return frozenset(found)


def columns_in(expression: str, columns: Sequence[str]) -> frozenset[str]:
    """The columns that an SQL expression over one row, or an aggregate's, names. Raises: QueryError(E1006)."""
    tree = parsed(f"SELECT {expression}")
    lower = {c.lower(): c for c in columns}
    return frozenset(lower[c.name.lower()] for c in tree.find_all(exp.Column) if c.name.lower() in lower)
