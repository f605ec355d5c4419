"""How a delimited text file is written: delimiter, quotes, header and its names, found in the file's first lines.

Names: as in the header, without spaces around them. An empty cell becomes `column_<n>`, n from 1; of names that differ in nothing but
case the second becomes `<name>_2`, the third `<name>_3`. Without a header all columns are `column_<n>`.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.adapters.engine.duckdb.raw.kinds import NULLS, kind_of

DELIMITERS = (",", "\t", ";", "|")
#: Stands for a delimiter of several characters where a reader takes only one. Source: Unicode's private use area.
STAND_IN = "\uf8ff"
_LINES = 200
_NEWLINE = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True)
class Dialect:
    """Of one file. `newline` is "" if its first lines end in different ways. `names` are unique, one per column."""

    delimiter: str = ","
    quote: str = '"'
    escape: str = '"'
    header: bool = True
    skip: int = 0
    comment: str = ""
    newline: str = "\n"
    multiline: bool = False
    names: tuple[str, ...] = ()

    def rows(self, lines: Iterator[str], *, strict: bool = True) -> Any:
        """A reader of the standard library over lines, in this dialect."""
        doubled = self.escape == self.quote
        one = self.delimiter if len(self.delimiter) == 1 else STAND_IN
        given = lines if one == self.delimiter else (line.replace(self.delimiter, STAND_IN) for line in lines)
        return csv.reader(
            given, delimiter=one, quotechar=self.quote or None, quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            doublequote=doubled, escapechar=None if doubled or not self.escape else self.escape, strict=strict,
        )  # fmt: skip


def dialect_of(text: str, format: str, options: Mapping[str, Any]) -> Dialect:
    """The dialect of a file that begins with `text` (whole lines); what `options` say is taken as it is."""
    skip, comment = int(options.get("skip") or 0), str(options.get("comment") or "")
    quote = str(options["quote"] or "") if "quote" in options else '"'
    escape = str(options.get("escape") or "") or (_escape(text, quote))
    lines = [line for line in _lines(text)[skip:] if not (comment and line.startswith(comment))]
    delimiter = str(options.get("delimiter") or "") or ("\t" if format == "tsv" else _delimiter(lines, quote, escape))
    plain = Dialect(delimiter, quote, escape, True, skip, comment)
    seen = list(_some(plain, lines))
    rows = [row for row, _ in seen]
    first = next((row for row in rows if row), [])
    given = options.get("header")
    header = bool(given) if given is not None else is_header(first, rows)
    names = unique_names(first) if header else tuple(f"column_{i + 1}" for i in range(len(first)))
    ends = {match[0] for _, last in seen if (match := _NEWLINE.search(last))}
    multiline = any(_NEWLINE.search(cell) for row in rows for cell in row)
    newline = "" if len(ends) > 1 else next(iter(ends), "\n")
    return Dialect(delimiter, quote, escape, header, skip, comment, newline, multiline, names)


def _lines(text: str) -> list[str]:
    return io.StringIO(text, newline="").readlines()


def unique_names(cells: Sequence[str]) -> tuple[str, ...]:
    """Column names made of a header's cells."""
    seen: Counter[str] = Counter()
    taken = {cell.strip().lower() for cell in cells}
    names = []
    for i, cell in enumerate(cells):
        name = cell.strip().replace("\0", "") or f"column_{i + 1}"
        seen[name.lower()] += 1
        if (n := seen[name.lower()]) > 1:
            while f"{name}_{n}".lower() in taken:
                n += 1
            name = f"{name}_{n}"
            taken.add(name.lower())
        names.append(name)
    return tuple(names)


class _Last:
    """Lines, and the one given last."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = iter(lines)
        self.line = ""

    def __iter__(self) -> _Last:
        return self

    def __next__(self) -> str:
        self.line = next(self._lines)
        return self.line


def _some(dialect: Dialect, lines: Sequence[str]) -> Iterator[tuple[list[str], str]]:
    """The first rows, each with its last line; a broken one is passed over."""
    last = _Last(lines)
    reader = dialect.rows(last)
    for _ in range(_LINES):
        try:
            yield next(reader), last.line
        except csv.Error:
            continue
        except StopIteration:
            return


def _delimiter(lines: Sequence[str], quote: str, escape: str) -> str:
    """The candidate that splits most rows into the same number (> 1) of cells; more cells win a tie; a comma if none splits."""
    best = (0.0, 0, ",")
    for candidate in DELIMITERS:
        widths = Counter(len(row) for row, _ in _some(Dialect(candidate, quote, escape), lines[:_LINES]) if row)
        widths.pop(1, None)
        if widths:
            width, times = widths.most_common(1)[0]
            best = max(best, (round(times / max(1, len(lines[:_LINES])), 2), width, candidate), key=lambda b: b[:2])
    return best[2]


def _escape(text: str, quote: str) -> str:
    """A backslash if quotes are escaped by it and never doubled inside; else the quote itself."""
    if quote and f"\\{quote}" in text and not re.search(rf"[^{re.escape(quote)},;|\t\r\n]{re.escape(quote)}{{2}}", text):
        return "\\"
    return quote


def is_header(first: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row holds names: each cell is text, no two are equal, and not all are empty.

    A cell that is a number, a time or a sign for "no value" is no name. In a table of text alone the first row is taken for names.
    """
    cells = [cell.strip() for cell in first]
    named = [c for c in cells if c]
    if not named:
        return False
    if any(kind_of(c) != "string" or c in NULLS for c in named):
        below = [row for row in rows[1:] if len(row) == len(first)]
        years = all(kind_of(c) == "long" and len(c) == 4 for c in named if kind_of(c) != "string")
        return years and bool(below) and len(set(cells)) == len(cells) and any(kind_of(c) == "string" for c in named)
    return True
