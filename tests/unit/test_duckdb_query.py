"""Where a query ends and where its parameters stand."""

from __future__ import annotations

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.adapters.engine.duckdb.query import replaced, select

CONNECTION = duckdb.connect()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT $a", "SELECT <a>"),
        ("SELECT $a,$b FROM t WHERE x=$a", "SELECT <a>,<b> FROM t WHERE x=<a>"),
        ("SELECT '$a', \"$a\", $$ $a $$, e'\\'$a' -- $a", "SELECT '$a', \"$a\", $$ $a $$, e'\\'$a' -- $a"),
        ("SELECT /* $a */ $select, $at, $Über + 'ü' || $a", "SELECT /* $a */ <select>, <at>, <Über> + 'ü' || <a>"),
        ("SELECT x$a, a$b", "SELECT x$a, a$b"),
        ("SELECT $a::INT, ($b), [$c]", "SELECT <a>::INT, (<b>), [<c>]"),
        ("select 1", "select 1"),
    ],
)
def test_parameters_are_replaced_only_where_they_are_parameters(query: str, expected: str) -> None:
    assert replaced(query, lambda name: f"<{name}>") == expected


VALUES = st.sampled_from(["$a", "$b2", "'$a'", "$$ $a $$", "1", "'ü'", "''''", "($b2)", "$Über"])
BETWEEN = st.sampled_from([" ", "\n", " -- $no\n", " /* $no */ ", " /* ' */ "])


@given(st.lists(st.tuples(BETWEEN, VALUES, BETWEEN), min_size=1, max_size=8))
def test_what_is_replaced_is_what_the_parser_finds(pieces: list[tuple[str, str, str]]) -> None:
    query = "SELECT " + ",".join("".join(piece) for piece in pieces)
    found: list[str] = []

    def note(name: str) -> str:
        found.append(name)
        return "1"

    plain = replaced(query, note)
    assert set(found) == CONNECTION.extract_statements(query)[0].named_parameters
    assert CONNECTION.extract_statements(plain)[0].named_parameters == set()


@pytest.mark.parametrize("end", ["", ";", " ; -- over", "\n/* a */ ; ;", " -- a;b", " -- no newline"])
def test_what_follows_the_query_is_left_out(end: str) -> None:
    text = select(CONNECTION, "SELECT ';' AS a" + end, {}, place="q")
    assert CONNECTION.execute(f"SELECT * FROM ({text})").fetchall() == [(";",)]
