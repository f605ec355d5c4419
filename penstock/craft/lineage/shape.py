"""Reading a query as a tree: its tables, whether it keeps rows one to one, its normal form, and its tracing form."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import sqlglot
from sqlglot import expressions as exp
from sqlglot.tokens import Token, Tokenizer, TokenType

from penstock.ground.errors import QueryError

DIALECT = "duckdb"
#: Hidden columns of a landed input that tell where a row came from, and the file and position of it in the lake.
ORIGIN = ("_file", "_path", "_pos")


@dataclass(frozen=True)
class Shape:
    """What a query does to rows.

    `keeps`: every row of `base` comes out once or is filtered by `where` (SQL over the base under `alias`, "" if there is no
    filter). Otherwise rows are joined, aggregated or made.
    `left_joins`: it keeps the base's rows but for fan-out, because all joins are LEFT joins.
    """

    keeps: bool
    base: str = ""
    alias: str = ""
    where: str = ""
    left_joins: bool = False


def parsed(text: str, *, place: str = "") -> exp.Expression:
    """One query as a tree.

    Raises: QueryError(E1006) for anything but a single query.
    """
    try:
        trees = [t for t in sqlglot.parse(text, read=DIALECT) if t is not None]
    except sqlglot.errors.SqlglotError as error:
        raise QueryError("cannot be read as SQL", place=place, got=str(error).split("\n", maxsplit=1)[0][:200]) from error
    if len(trees) != 1 or not isinstance(trees[0], exp.Query):
        raise QueryError("expected one SELECT query", place=place, got=f"{len(trees)} statements" if len(trees) != 1 else trees[0].key)
    return trees[0]


def tables_of(tree: exp.Expression) -> tuple[str, ...]:
    """Names of tables a query reads, without those it defines itself, in order of first use."""
    own = {cte.alias_or_name.lower() for cte in tree.find_all(exp.CTE)}
    found = [t.name for t in tree.find_all(exp.Table) if t.name and isinstance(t.this, exp.Identifier)]
    return tuple(dict.fromkeys(name for name in found if name.lower() not in own))


def shape_of(tree: exp.Expression, inputs: Collection[str]) -> Shape:
    """How a query treats rows. Conservative: what is not understood counts as shaping."""
    if not isinstance(tree, exp.Select) or _shapes(tree):
        return Shape(False)
    source = _from(tree)
    if not isinstance(source, exp.Table) or source.name not in inputs or source.args.get("pivots") or source.args.get("sample"):
        return Shape(False)
    joins = tree.args.get("joins") or []
    alias = source.alias_or_name
    if joins:
        return Shape(False, source.name, alias, left_joins=all(j.side == "LEFT" for j in joins) and tree.args.get("where") is None)
    where = tree.args.get("where")
    if where is not None and where.find(exp.Query):
        return Shape(False, source.name, alias)
    return Shape(True, source.name, alias, where.this.sql(dialect=DIALECT, comments=False) if where is not None else "")


def _from(tree: exp.Expression) -> exp.Expression | None:
    clause = tree.args.get("from_") or tree.args.get("from")
    return clause.this if clause is not None else None


def _shapes(tree: exp.Select) -> bool:
    clauses = ("group", "having", "qualify", "distinct", "limit", "offset", "sample", "with_", "with", "laterals", "windows", "pivots")
    if any(tree.args.get(clause) for clause in clauses):
        return True
    made = (exp.AggFunc, exp.Unnest, exp.Explode, exp.Query)
    windows = {id(w.this) for w in tree.find_all(exp.Window)}
    found = [node for projection in tree.expressions for node in projection.find_all(*made) if id(node) not in windows]
    names = {f.name.lower() for p in tree.expressions for f in p.find_all(exp.Anonymous) if id(f) not in windows}
    return bool(found) or bool(names & _MAKES_ROWS)


#: Functions of the engine that make several rows of one or one of several, and that the parser takes for plain functions.
#: A test compares them with those that the engine lists.
_MAKES_ROWS = {
    "unnest", "generate_series", "generate_subscripts", "regexp_split_to_table", "arbitrary", "arg_max_null", "arg_max_nulls_last",
    "arg_min_null", "arg_min_nulls_last", "bitstring_agg", "combine_aggr", "count_star", "decimal_average", "entropy", "favg", "fsum",
    "histogram", "histogram_exact", "kahan_sum", "kurtosis_pop", "lttb", "mad", "mean", "product", "reservoir_quantile", "sem",
    "sum_no_overflow", "sumkahan", "variant_group_object",
}  # fmt: skip


def normal(text: str) -> str:
    """The tokens of a query: comments, spacing, letter case of keywords and a final semicolon gone. Texts and names stay.

    Raises: QueryError(E1006) if it cannot even be split into tokens.
    """
    try:
        tokens = Tokenizer(dialect=DIALECT).tokenize(text)
    except sqlglot.errors.SqlglotError as error:
        raise QueryError("cannot be read as SQL", got=str(error)[:200]) from error
    while tokens and tokens[-1].token_type == TokenType.SEMICOLON:
        tokens.pop()
    after = [*tokens[1:], None]
    return "\x1f".join(_token(token, following) for token, following in zip(tokens, after, strict=True))


_KEPT = {TokenType.STRING, TokenType.IDENTIFIER, TokenType.VAR, TokenType.NUMBER}


def _token(token: Token, following: Token | None) -> str:
    """A name or value as written, a keyword in capitals, a function's name in small letters, as engines call its column."""
    if token.token_type not in _KEPT:
        return str(token.text).upper()
    called = token.token_type == TokenType.VAR and following is not None and following.token_type == TokenType.L_PAREN
    return f"{token.token_type.name}:{token.text.lower() if called else token.text}"


def tracing(tree: exp.Expression, inputs: Mapping[str, str]) -> tuple[str, tuple[str, ...]] | None:
    """The query with hidden columns that tell, per row, where its parts came from; None if rows cannot be told apart any more.

    Args:    inputs: input name -> name of the relation that shows its hidden columns.
    Returns: the query and the traced inputs; input i has columns `_{i}_file`, `_{i}_path`, `_{i}_pos`.
    """
    if not isinstance(tree, exp.Select) or _shapes(tree):
        return None
    query = tree.copy()
    parts = [_from(query), *(j.this for j in query.args.get("joins") or [])]
    tables = [t for t in parts if isinstance(t, exp.Table) and t.name in inputs]
    if not tables:
        return None
    traced = []
    for i, table in enumerate(tables):
        alias = table.alias_or_name
        traced.append(table.name)
        hidden = inputs[table.name]
        table.set("this", exp.to_identifier(hidden, quoted=True))
        if not table.args.get("alias"):
            table.set("alias", exp.TableAlias(this=exp.to_identifier(alias, quoted=True)))
        for column in ORIGIN:
            source = exp.column(column, table=exp.to_identifier(alias, quoted=True))
            query.select(exp.alias_(source, f"_{i}{column}", quoted=True), copy=False)
    return query.sql(dialect=DIALECT), tuple(traced)
