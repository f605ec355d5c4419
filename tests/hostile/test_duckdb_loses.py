"""What the engine's own reader does, and why it is not believed alone. A test that fails here means DuckDB got better: take out a guard.

Each is a reason for a guard in `adapters/engine/duckdb/raw`, with what Penstock makes of the same file.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import duckdb
import pytest

from penstock.ground.names import literal
from penstock.spec.schema import schema_of
from penstock.testing.suites.raw import Reader

OPTIONS: dict[str, Any] = {"delimiter": ",", "quote": '"', "escape": '"', "header": True, "encoding": "utf-8"}


def by_duckdb(path: Path, types: str, more: str = "") -> tuple[list[Any], int]:
    """Rows, and how many lines the reader says it rejected."""
    with duckdb.connect(config={"threads": "4"}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        given = f"auto_detect=false, header=true, delim=',', quote='\"', escape='\"', store_rejects=true, rejects_limit=0, columns={types}{more}"
        rows = connection.execute(f"FROM read_csv({literal(str(path))}, {given})").fetchall()
        rejected = connection.execute("SELECT count(DISTINCT (line, line_byte_position)) FROM reject_errors").fetchall()
        return rows, rejected[0][0]


def test_a_line_beyond_its_limit_vanishes(reader: Reader) -> None:
    text = "n,s\n1,x\n2," + "q" * (40 << 20) + "\n3,y\n"
    file = reader.put("a.csv", text)
    assert by_duckdb(Path(file.path), "{'n': 'BIGINT', 's': 'VARCHAR'}") == ([(1, "x"), (3, "y")], 0)
    found = reader.load(file, schema=schema_of(n="long", s="string"), **OPTIONS)
    assert [r["n"] for r in found.rows] == [1, 3]
    assert found.places == [(3, "length")]


@pytest.mark.parametrize(("text", "made"), [("1.5", 2), ("1e-05", 0), ("15e-1", 2)])
def test_whole_numbers_are_rounded(reader: Reader, text: str, made: int) -> None:
    file = reader.put("a.csv", f"n,s\n1,x\n{text},y\n")
    assert by_duckdb(Path(file.path), "{'n': 'BIGINT', 's': 'VARCHAR'}")[0] == [(1, "x"), (made, "y")]
    found = reader.load(file, schema=schema_of(n="long", s="string"), **OPTIONS)
    assert found.rows == [{"n": 1, "s": "x"}]
    assert [r["original"] for r in found.rejected] == [f"{text},y"]


def test_offsets_and_times_of_day_are_dropped(reader: Reader) -> None:
    file = reader.put("a.csv", "d,t\n2013-01-01 10:00:00,2013-01-01T10:00:00+02:00\n2013-01-02,2013-01-01T10:00:00+02:00\n")
    rows, _ = by_duckdb(Path(file.path), "{'d': 'DATE', 't': 'TIMESTAMP'}")
    assert [(str(d), str(t)) for d, t in rows] == [("2013-01-01", "2013-01-01 10:00:00"), ("2013-01-02", "2013-01-01 10:00:00")]
    found = reader.load(file, schema=schema_of(d="date", t="timestamp"), **OPTIONS)
    assert [(str(r["d"]), str(r["t"])) for r in found.rows] == [("2013-01-02", "2013-01-01 08:00:00")]
    assert found.places == [(2, "type")]


def test_too_large_numbers_become_infinite(reader: Reader) -> None:
    file = reader.put("a.csv", "x,s\n1e400,a\n1.5,b\n")
    assert by_duckdb(Path(file.path), "{'x': 'DOUBLE', 's': 'VARCHAR'}")[0] == [(float("inf"), "a"), (1.5, "b")]
    assert reader.load(file, schema=schema_of(x="double", s="string"), **OPTIONS).places == [(2, "type")]


def test_a_file_with_other_line_ends_than_told_is_empty(reader: Reader) -> None:
    file = reader.put("a.csv", "n,s\r\n1,x\r\n2,y\n")
    assert by_duckdb(Path(file.path), "{'n': 'BIGINT', 's': 'VARCHAR'}", ", new_line='\\n'") == ([], 0)
    found = reader.load(file, schema=schema_of(n="long", s="string"), **OPTIONS)
    assert found.rows == [{"n": 1, "s": "x"}, {"n": 2, "s": "y"}]


def test_mixed_line_ends_stop_it(reader: Reader) -> None:
    file = reader.put("a.csv", "n,s\n1,x\r\n2,y\n")
    with pytest.raises(duckdb.Error, match="invalid state"):
        by_duckdb(Path(file.path), "{'n': 'BIGINT', 's': 'VARCHAR'}")
    found = reader.load(file, schema=schema_of(n="long", s="string"), **OPTIONS)
    assert found.rows == [{"n": 1, "s": "x"}, {"n": 2, "s": "y"}]


def test_quotes_in_wrong_places_cost_good_lines(reader: Reader) -> None:
    file = reader.put("a.csv", 'n,s\n3,4\n"z"z,1,"z"z\n5,6\n')
    rows, rejected = by_duckdb(Path(file.path), "{'n': 'BIGINT', 's': 'VARCHAR'}")
    assert (len(rows), rejected) == (2, 2)
    found = reader.load(file, schema=schema_of(n="long", s="string"), **OPTIONS)
    assert [r["n"] for r in found.rows] == [3, 5]
    assert found.places == [(3, "quotes")]


def test_quoted_line_ends_are_split_between_threads(reader: Reader) -> None:
    """Small buffers stand for a large file: what happens at the edge of a buffer is the same."""
    wrong = 0
    for seed in range(30, 33):
        draw = random.Random(seed)
        cells = ["".join(draw.choices('abc ,"\n', k=draw.randint(0, 40))) for _ in range(60_000)]
        text = "n,s,m\n" + "".join('{},"{}",{}\n'.format(i, cell.replace('"', '""'), i % 7) for i, cell in enumerate(cells))
        file = reader.put("a.csv", text)
        types = "{'n': 'BIGINT', 's': 'VARCHAR', 'm': 'BIGINT'}"
        try:
            rows, rejected = by_duckdb(Path(file.path), types, ", buffer_size=65536, max_line_size=16384")
            wrong += len(rows) != 60_000 or rejected > 0
        except duckdb.Error:
            wrong += 1
    assert wrong
    found = reader.load(file, schema=schema_of(n="long", s="string", m="long"), **OPTIONS)
    assert [(r["n"], r["s"]) for r in found.rows] == [(i, cell or None) for i, cell in enumerate(cells)]
