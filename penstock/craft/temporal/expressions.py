"""SQL expressions that users write for features: read before they are used, and fitted to a window without being rewritten."""

from __future__ import annotations

from collections.abc import Collection

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.tokens import Token, TokenType

from penstock.ground.errors import DefinitionError, did_you_mean

_DIALECT = "duckdb"
_NEVER = (exp.Query, exp.Table, exp.DDL, exp.DML, exp.Command, exp.Alias, exp.Window, exp.WithinGroup, exp.Placeholder, exp.Parameter)
#: What aggregates are called; a test compares them with those that the engine lists.
AGGREGATES = frozenset(
    [
        "any_value",
        "approx_count_distinct",
        "approx_quantile",
        "approx_top_k",
        "arbitrary",
        "arg_max",
        "arg_max_null",
        "arg_max_nulls_last",
        "arg_min",
        "arg_min_null",
        "arg_min_nulls_last",
        "argmax",
        "argmin",
        "array_agg",
        "avg",
        "bit_and",
        "bit_or",
        "bit_xor",
        "bitstring_agg",
        "bool_and",
        "bool_or",
        "combine_aggr",
        "corr",
        "count",
        "count_if",
        "count_star",
        "countif",
        "covar_pop",
        "covar_samp",
        "decimal_average",
        "entropy",
        "favg",
        "first",
        "fsum",
        "group_concat",
        "histogram",
        "histogram_exact",
        "kahan_sum",
        "kurtosis",
        "kurtosis_pop",
        "last",
        "list",
        "listagg",
        "lttb",
        "mad",
        "max",
        "max_by",
        "mean",
        "median",
        "min",
        "min_by",
        "mode",
        "product",
        "quantile",
        "quantile_cont",
        "quantile_disc",
        "regr_avgx",
        "regr_avgy",
        "regr_count",
        "regr_intercept",
        "regr_r2",
        "regr_slope",
        "regr_sxx",
        "regr_sxy",
        "regr_syy",
        "reservoir_quantile",
        "sem",
        "skewness",
        "stddev",
        "stddev_pop",
        "stddev_samp",
        "string_agg",
        "sum",
        "sum_no_overflow",
        "sumkahan",
        "var_pop",
        "var_samp",
        "variance",
        "variant_group_object",
    ]
)
#: What gives another value at another time or place, so that a row could not be computed again.
_CALLED = frozenset(
    [
        "now",
        "get_current_timestamp",
        "get_current_time",
        "today",
        "current_localtime",
        "current_localtimestamp",
        "transaction_timestamp",
        "random",
        "uuid",
        "uuidv4",
        "uuidv7",
        "gen_random_uuid",
        "nextval",
        "currval",
        "getvariable",
        "current_setting",
        "getenv",
        "txid_current",
        "current_query",
    ]
)
_NAMED = frozenset(["current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"])


def of_row(text: str, columns: Collection[str], *, place: str) -> tuple[str, ...]:
    """The columns that an expression over one row reads, as they are called there, each once.

    Raises: DefinitionError(E1001) for anything but one expression of columns, values, operators and functions of the row alone:
    statements, subqueries, aggregates, windows, unknown columns, the time of day, chance.
    """
    tokens, tree = _read(text, place)
    if found := next((t for t, _ in _calls(tokens)), None):
        raise _refused("an expression of a row cannot aggregate", text, place, got=found.text)
    return _columns(tree, text, columns, place)


def of_window(text: str, columns: Collection[str], *, place: str) -> tuple[str, ...]:
    """As `of_row`, for an expression in which each column stands inside an aggregate."""
    tokens, tree = _read(text, place)
    if not _calls(tokens):
        raise _refused("an expression over a window needs an aggregate", text, place, hint="such as sum(x) / nullif(sum(y), 0)")
    for node in tree.find_all(exp.Column):
        if node.find_ancestor(exp.AggFunc, exp.Filter, exp.Anonymous) is None:
            raise _refused("a column outside of an aggregate", text, place, got=node.name)
    return _columns(tree, text, columns, place)


def framed(text: str, window: str, condition: str | None) -> str:
    """The expression with each aggregate over a named window, and over the rows that meet a condition. The text stays as it is."""
    out, done = [], 0
    tokens = sqlglot.tokenize(text, read=_DIALECT)
    for call, end in _calls(tokens):
        stop = tokens.index(end)
        following = tokens[stop + 1 : stop + 3]
        filtered = len(following) == 2 and following[0].text.upper() == "FILTER" and following[1].token_type == TokenType.L_PAREN
        if filtered:
            last = tokens[_closing(tokens, stop + 2)]
            more = f" AND {condition})" if condition else ")"
            inner = text[tokens[stop + 3].end + 1 : last.start]  # what follows FILTER (WHERE
            out.append(f"{text[done : end.end + 1]} FILTER (WHERE ({inner}){more} OVER {window}")
            done = last.end + 1
        else:
            filter_ = f" FILTER (WHERE {condition})" if condition else ""
            out.append(f"{text[done : end.end + 1]}{filter_} OVER {window}")
            done = end.end + 1
        assert call.start < done
    return f"({''.join([*out, text[done:]])})"


def _read(text: str, place: str) -> tuple[list[Token], exp.Expression]:
    try:
        tokens = sqlglot.tokenize(text, read=_DIALECT)
        trees = sqlglot.parse(text, read=_DIALECT)
    except SqlglotError as error:
        raise _refused("cannot be read as SQL", text, place, got=str(error).splitlines()[0]) from error
    if any(token.comments for token in tokens):
        raise _refused("an expression cannot hold comments", text, place)
    tree = trees[0] if len(trees) == 1 else None
    if not isinstance(tree, (exp.Condition, exp.Filter)):
        raise _refused("not one SQL expression", text, place)
    for node in tree.walk():
        if isinstance(node, (*_NEVER, exp.Columns)) or (isinstance(node, exp.Star) and not isinstance(node.parent, exp.Count)):
            raise _refused("only columns, values, operators and functions can stand in an expression", text, place, got=node.key)
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        called = following is not None and following.token_type == TokenType.L_PAREN
        name = token.text.lower()
        if token.token_type not in (TokenType.IDENTIFIER, TokenType.STRING) and (name in _NAMED or (called and name in _CALLED)):
            raise _refused("gives another value each time", text, place, got=token.text, hint="use a time column of the row")
    return tokens, tree


def _columns(tree: exp.Expression, text: str, columns: Collection[str], place: str) -> tuple[str, ...]:
    known = {name.lower(): name for name in columns}
    found = []
    for node in tree.find_all(exp.Column):
        name = node.parts[0].name
        if name.lower() not in known:
            if node.find_ancestor(exp.Lambda) is not None:
                continue
            raise _refused("no such column", text, place, got=name, hint=did_you_mean(name, columns))
        found.append(known[name.lower()])
    return tuple(dict.fromkeys(found))


def _calls(tokens: list[Token]) -> list[tuple[Token, Token]]:
    """The outermost calls of aggregates: the token of the name and that of the closing bracket."""
    found, i = [], 0
    while i < len(tokens) - 1:
        named = tokens[i].token_type not in (TokenType.IDENTIFIER, TokenType.STRING) and tokens[i].text.lower() in AGGREGATES
        member = i > 0 and tokens[i - 1].token_type == TokenType.DOT
        if named and not member and tokens[i + 1].token_type == TokenType.L_PAREN:
            end = _closing(tokens, i + 1)
            found.append((tokens[i], tokens[end]))
            i = end
        i += 1
    return found


def _closing(tokens: list[Token], opening: int) -> int:
    """The place of the bracket that closes the one at a place."""
    depth = 0
    for i in range(opening, len(tokens)):
        depth += {TokenType.L_PAREN: 1, TokenType.R_PAREN: -1}.get(tokens[i].token_type, 0)
        if depth == 0:
            return i
    return len(tokens) - 1


def _refused(message: str, text: str, place: str, *, got: str = "", hint: str = "") -> DefinitionError:
    return DefinitionError(message, place=place, expected="one SQL expression", got=got or text[:80], hint=hint)
