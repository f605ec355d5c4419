"""Any text at all as a CSV file: every line ends in one row or one rejected row, as a slow reader of the standard library finds them."""

from __future__ import annotations

import csv
import io
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.ground.errors import SourceError
from penstock.spec.schema import schema_of
from penstock.testing.suites.raw import Reader

SCHEMA = schema_of(n="long", s="string")
OPTIONS: dict[str, Any] = {"delimiter": ",", "quote": '"', "escape": '"', "header": True, "encoding": "utf-8"}


def examples(number: int) -> settings:
    return settings(max_examples=number, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def reference(text: str) -> tuple[list[tuple[int | None, str | None]], list[tuple[int, str]]]:
    """Rows, and number and text of rejected lines. A broken record costs its first line; the lines after it are read again."""
    lines = io.StringIO(text, newline="").readlines()
    rows: list[tuple[int | None, str | None]] = []
    rejected: list[tuple[int, str]] = []
    at, header = 0, True
    while at < len(lines):
        reader = csv.reader(iter(lines[at:]), strict=True)
        try:
            cells = next(reader)
        except csv.Error:
            rejected.append((at + 1, lines[at].rstrip("\r\n")))
            at, header = at + 1, False
            continue
        place, at = at + 1, at + reader.line_num
        if not cells:
            continue
        if header:
            header = False
            continue
        while len(cells) > 2 and not cells[-1]:
            cells.pop()  # delimiters too many at the end of a line say nothing
        try:
            number = float(cells[0]) if len(cells) == 2 and cells[0] else None
            good = len(cells) == 2 and (number is None or number.is_integer())
        except ValueError:
            good = False
        if good:
            rows.append((None if number is None else int(number), cells[1] or None))
        else:
            rejected.append((place, "".join(lines[place - 1 : at]).rstrip("\r\n")))
    return rows, rejected


def agrees(reader: Reader, text: str) -> None:
    found = reader.load(reader.put("a.csv", text), schema=SCHEMA, **OPTIONS)
    rows, rejected = reference(text)
    assert [(r["n"], r["s"]) for r in found.rows] == rows
    assert [r["original"] for r in found.rejected] == [original for _, original in rejected]
    if "\r" not in text.replace("\r\n", ""):  # whether a lone CR within quotes ends a line is a matter of taste
        assert [r["position"] for r in found.rejected] == [place for place, _ in rejected]


CELL = st.one_of(
    st.integers(-999, 999).map(str),
    st.sampled_from(["", "1.0", "1.5", "x", '"q"', '"a,b"', '"a\nb"', '"a\r\nb"', '"d""d"', 'u"v', '"w', 'y"', '"z"z', "\0", "ü"]),
)
ANY_LINE = st.lists(CELL, min_size=1, max_size=3).map(",".join)
GOOD_LINE = st.tuples(st.integers(-999, 999).map(str), st.sampled_from(["", "x", '"a,b"', '"a\nb"', "ü"])).map(",".join)
END = st.sampled_from(["\n"] * 6 + ["\r\n", "\r", "\n\n"])


@examples(150)
@given(st.lists(st.tuples(st.one_of(GOOD_LINE, GOOD_LINE, ANY_LINE), END), max_size=12), st.booleans())
def test_planted_defects(reader: Reader, lines: list[tuple[str, str]], ended: bool) -> None:
    text = "n,s\n" + "".join(line + end for line, end in lines)
    agrees(reader, text if ended else text.rstrip("\r\n"))


@examples(100)
@given(st.text(alphabet='ab1.,"\n\r', max_size=40))
def test_noise(reader: Reader, noise: str) -> None:
    agrees(reader, "n,s\n" + noise)


@examples(60)
@given(st.lists(GOOD_LINE, max_size=10), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
def test_good_files_lose_nothing(reader: Reader, lines: list[str], end: str, ended: bool) -> None:
    text = end.join(["n,s", *lines]) + (end if ended else "")
    agrees(reader, text)


@examples(60)
@given(st.binary(max_size=60))
def test_any_bytes(reader: Reader, data: bytes) -> None:
    """The balance, which `Reader.load` checks, or a clear error: the bytes may be in any encoding, or the head of an archive."""
    reader.load(reader.put("a.csv", b"n,s\n" + data), schema=SCHEMA, delimiter=",", quote='"', header=True)
    with suppress(SourceError):
        reader.both(reader.put("b.csv", data))


@pytest.mark.parametrize("seed", range(3))
def test_quoted_line_ends_between_the_reader_s_threads(reader: Reader, seed: int) -> None:
    """Files larger than what one thread of the engine reads at a time; every third cell has line ends and quotes in it."""
    cells = [["plain", '"two\nlines"', '"a ""quoted""\n\n""word"""'][(i * 7 + seed) % 3] for i in range(1000)]
    text = "n,s\n" + "".join(f"{i},{cells[i % 1000]}\n" for i in range(60_000 + seed))
    found = reader.load(reader.put("a.csv", text), schema=SCHEMA, **OPTIONS)
    assert [r["n"] for r in found.rows] == list(range(60_000 + seed))
    assert [r["s"] for r in found.rows[:1000]] == [c[1:-1].replace('""', '"') if c[0] == '"' else c for c in cells]
