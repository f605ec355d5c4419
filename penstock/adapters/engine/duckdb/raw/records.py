"""The exact readers: records of a staged file one by one, each as a row or as rejected with its line and its original text.

They are slower than the engine's own reader and miss nothing: every line of a file belongs to one record or to one rejected row.
A record that is broken costs its first line only; the lines after it are read again as if it had not been there.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

import pyarrow as pa

from penstock.adapters.engine.duckdb.raw.dialect import STAND_IN, Dialect, is_header, unique_names
from penstock.adapters.engine.duckdb.raw.stage import CHUNK, Limits, Staged
from penstock.ground.errors import DriverMissing, SourceError, did_you_mean
from penstock.ground.names import literal

#: Rows of a batch, and bytes after which a batch ends sooner.
BATCH_ROWS = 20_000
BATCH_BYTES = 8 << 20
#: Characters that are kept of a line or value beyond the limit.
KEPT = 10_000

REJECTED = pa.schema(
    [("file", pa.string()), ("position", pa.int64()), ("column", pa.string()), ("check", pa.string()), ("reason", pa.string()), ("original", pa.string())]
)  # fmt: skip


@dataclass(frozen=True)
class Refusal:
    """A record that is no row."""

    number: int
    line: int
    check: str
    reason: str
    original: str
    column: str = ""


@dataclass
class Tally:
    """What exact readers saw: rows given on and refusals, per file number."""

    given: dict[int, int] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)

    def give(self, number: int, rows: int) -> None:
        self.given[number] = self.given.get(number, 0) + rows

    @property
    def records(self) -> int:
        return sum(self.given.values()) + len(self.refusals)


def shown(text: str) -> str:
    """Text of a file as it can be kept: bytes that are no UTF-8 show as `\\xNN`."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def open_text(path: str) -> TextIO:
    """Line ends stay as they are; bytes that are no UTF-8 become surrogates."""
    return open(path, encoding="utf-8-sig", errors="surrogateescape", newline="", buffering=CHUNK)


# -- delimited ------------------------------------------------------------------------------------------------------
class _TooLong(Exception):
    """A record is longer than the limit."""


class _Lines:
    """Lines of a text for a csv reader: remembers those of the record under way, and takes back what was read in vain."""

    def __init__(self, stream: TextIO, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._again: list[str] = []
        self._size = 0
        self.taken: list[str] = []
        self.number = 0
        self.cut = False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if self._again:
            line = self._again.pop()
        else:
            line = self._stream.readline(self._limit)
            if len(line) >= self._limit and line[-1:] != "\n":
                self._skip_rest()
                self.taken.append(line)
                self.cut = True
                raise _TooLong
        if not line:
            raise StopIteration
        self._size += len(line)
        self.taken.append(line)
        if self._size > self._limit:
            raise _TooLong
        return line

    def _skip_rest(self) -> None:
        while (piece := self._stream.readline(CHUNK)) and not piece.endswith(("\n", "\r")):
            pass

    def start(self) -> int:
        """Begins a record; returns the number of its first line, from 1."""
        self.number += len(self.taken)
        self.taken.clear()
        self._size = 0
        self.cut = False
        return self.number + 1

    def keep_first(self) -> None:
        """Gives back all lines of the record but the first."""
        self._again += reversed(self.taken[1:])
        del self.taken[1:]


def delimited(staged: Staged, dialect: Dialect, limits: Limits, tally: Tally) -> Iterator[tuple[int, list[str], str]]:
    """(line, cells, original) of each good record; others go to the tally. A blank line is a record only of a one-column file.

    Delimiters too many at the end of a line are no cells: the engine's reader sees it so, and nothing is in them.
    """
    csv.field_size_limit(max(csv.field_size_limit(), limits.record_bytes))
    width, number = len(dialect.names), staged.number
    head = dialect.header
    with open_text(staged.path) as stream:
        lines = _Lines(stream, limits.record_bytes)
        for _ in range(dialect.skip):
            lines.start()
            next(lines, None)
        reader = dialect.rows(lines)
        while True:
            line = lines.start()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except (_TooLong, csv.Error) as error:
                reader = dialect.rows(lines)
                if dialect.comment and lines.taken[0].startswith(dialect.comment):
                    lines.keep_first()
                    continue
                tally.refusals.append(_broken(lines, error, number, line, limits))
                head = False
                continue
            first = lines.taken[0]
            if dialect.comment and first.startswith(dialect.comment):
                lines.keep_first()
                reader = dialect.rows(lines)
                continue
            if not cells:
                if width != 1 or head:
                    continue
                cells = [""]
            if head:
                head = False
                continue
            original = (first if len(lines.taken) == 1 else "".join(lines.taken)).rstrip("\r\n")
            while len(cells) > width and not cells[-1]:
                cells.pop()
            if len(cells) != width:
                reason = f"expected {width} columns, got {len(cells)}"
                tally.refusals.append(Refusal(number, line, "columns", reason, shown(original)))
            elif not original.isascii() and _not_utf8(original):
                tally.refusals.append(Refusal(number, line, "encoding", "bytes that are no text in the file's encoding", shown(original)))
            else:
                yield line, cells if len(dialect.delimiter) == 1 else [c.replace(STAND_IN, dialect.delimiter) for c in cells], original


def _broken(lines: _Lines, error: Exception, number: int, line: int, limits: Limits) -> Refusal:
    if lines.cut and len(lines.taken) == 1:
        return Refusal(
            number,
            line,
            "length",
            f"a line longer than {limits.record_bytes} characters; only its beginning is kept",
            shown(lines.taken[0][:KEPT]),
        )
    if lines.cut:
        lines.taken.pop()
        lines.number += 1
        return Refusal(
            number, line, "quotes", "a quote that is not closed, then a line beyond the limit", shown("".join(lines.taken))[:KEPT]
        )
    lines.keep_first()
    reason = "a quote that is not closed" if isinstance(error, _TooLong) or "unexpected end" in str(error) else f"quotes: {error}"
    return Refusal(number, line, "quotes", reason, shown(lines.taken[0].rstrip("\r\n")))


def _not_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


# -- documents ------------------------------------------------------------------------------------------------------
def lines_of(staged: Staged, limits: Limits, tally: Tally) -> Iterator[tuple[int, str]]:
    """(line, text) of each line of a file that is not blank."""
    with open_text(staged.path) as stream:
        lines = _Lines(stream, limits.record_bytes)
        while True:
            line = lines.start()
            try:
                text = next(lines)
            except StopIteration:
                return
            except _TooLong:
                reason = f"a line longer than {limits.record_bytes} characters; only its beginning is kept"
                tally.refusals.append(Refusal(staged.number, line, "length", reason, shown(lines.taken[0][:KEPT])))
                continue
            if not text.isspace():
                yield line, text.rstrip("\r\n")


_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},]', re.DOTALL)


def values_of(staged: Staged, limits: Limits, tally: Tally) -> Iterator[tuple[int, str]]:
    """(line, text) of each element of a JSON array, or of each value of a file that holds one or several.

    Elements are told apart by brackets, commas and strings alone, so that a bad one costs only itself.
    """
    with open_text(staged.path) as stream:
        yield from _Values(stream, limits.record_bytes).found(staged.number, tally)


class _Values:
    """Cuts a stream of JSON text into values. `_text[_start:]` is what no value has taken yet."""

    def __init__(self, stream: TextIO, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._text = ""
        self._start = 0
        self._line = 1

    def found(self, number: int, tally: Tally) -> Iterator[tuple[int, str]]:
        base = 0
        while self._more():
            if opening := self._text.strip()[:1]:
                base = int(opening == "[")
                break
        self._pass(self._text.index("[") + 1 if base else 0)
        depth, at = base, self._start
        while True:
            token = _TOKEN.search(self._text, at)
            if token is None or token[0] == '"':
                at -= self._start
                if len(self._text) - self._start > self._limit or not self._more():
                    break
                continue
            at = token.end()
            depth += (token[0] in "[{") - (token[0] in "]}")
            if depth < base or (depth == base and token[0] == ","):
                yield from self._value(token.start())
                self._pass(at)
            elif depth == base == 0 and token[0] in "]}":
                yield from self._value(at)
            if depth < base:
                base = depth = 0
        left = self._text[self._start :]
        rest = left.strip()
        while self._stream.read(CHUNK):
            pass
        if rest:
            cut = "; only its beginning is kept" if len(rest) > KEPT else ""
            line = self._line + left.count("\n", 0, len(left) - len(left.lstrip()))
            tally.refusals.append(Refusal(number, line, "json", f"a value that does not end{cut}", shown(rest[:KEPT])))

    def _more(self) -> bool:
        """Reads on; twice as much each time, so that a long value is not searched too often."""
        rest = self._text[self._start :]
        piece = self._stream.read(max(CHUNK, len(rest)))
        self._text, self._start = rest + piece, 0
        return bool(piece)

    def _value(self, end: int) -> Iterator[tuple[int, str]]:
        text = self._text[self._start : end]
        line = self._line + text.count("\n", 0, len(text) - len(text.lstrip()))
        self._pass(end)
        if text.strip():
            yield line, text.strip()

    def _pass(self, end: int) -> None:
        self._line += self._text.count("\n", self._start, end)
        self._start = end


def readable(values: Iterator[tuple[int, str]], number: int, tally: Tally) -> Iterator[tuple[int, str]]:
    """The values whose bytes are text; others go to the tally."""
    for line, text in values:
        if not text.isascii() and _not_utf8(text):
            tally.refusals.append(Refusal(number, line, "encoding", "bytes that are no text in the file's encoding", shown(text)))
        else:
            yield line, text


def sample_values(text: str, *, by_line: bool) -> list[str]:
    """The whole values in the beginning of a file."""
    opening = text.lstrip("\ufeff \t\r\n")
    if not opening.startswith("[") and (by_line or is_lines(text)):
        return text.splitlines()
    return [value for _, value in _Values(io.StringIO(text), len(text) + 1).found(0, Tally())]


def is_lines(head: str) -> bool:
    """Whether a file that begins like this holds one JSON object per line."""
    first, _, rest = head.lstrip("\ufeff \r\n\t").partition("\n")
    return first.startswith("{") and first.rstrip().endswith("}") and (not rest.strip() or rest.lstrip().startswith("{"))


# -- sheets ---------------------------------------------------------------------------------------------------------
def sheet_rows(staged: Staged, sheet: Any) -> list[list[str]]:
    """A sheet's cells as texts, "" for an empty one; times in ISO 8601, whole numbers without point.

    Raises: SourceError(E2001) for a broken file or a sheet that is not there. DriverMissing(E7002).
    """
    try:
        from python_calamine import CalamineError, CalamineWorkbook
    except ImportError as error:
        raise DriverMissing(
            "a library for Excel files is missing", place=staged.file.label, hint='pip install "penstock[excel]"'
        ) from error
    try:
        return _sheet(CalamineWorkbook.from_path(staged.path), staged, sheet)
    except CalamineError as error:
        raise SourceError("not an Excel file, or a broken one", place=staged.file.label, got=error) from error


def _sheet(workbook: Any, staged: Staged, sheet: Any) -> list[list[str]]:
    with workbook as book:
        names = list(book.sheet_names)
        if isinstance(sheet, str) and sheet not in names:
            raise SourceError("no such sheet", place=staged.file.label, got=sheet, hint=did_you_mean(sheet, names))
        if not names or (isinstance(sheet, int) and not 0 <= sheet < len(names)):
            raise SourceError("no such sheet", place=staged.file.label, got=sheet, expected=f"0 to {len(names) - 1}")
        found = book.get_sheet_by_name(sheet) if isinstance(sheet, str) else book.get_sheet_by_index(sheet or 0)
        return [[_cell(value) for value in row] for row in found.to_python(skip_empty_area=False)]


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


# -- batches --------------------------------------------------------------------------------------------------------
def batches(rows: Iterator[tuple[int, int, Sequence[str | None], str]], width: int) -> pa.RecordBatchReader:
    """(file number, line, cells, original) as batches with columns `_file`, `_line`, `_original`, `c0` ... of text."""
    names = ["_file", "_line", "_original", *(f"c{i}" for i in range(width))]
    schema = pa.schema([pa.field(n, pa.int64() if i < 2 else pa.string()) for i, n in enumerate(names)])

    def made() -> Iterator[pa.RecordBatch]:
        held: list[Any] = []
        size = 0
        for number, line, cells, original in rows:
            held.append((number, line, original, *cells))
            size += len(original)
            if len(held) >= BATCH_ROWS or size >= BATCH_BYTES:
                yield _batch(held, schema)
                held, size = [], 0
        if held:
            yield _batch(held, schema)

    return pa.RecordBatchReader.from_batches(schema, made())


def _batch(rows: list[Any], schema: pa.Schema) -> pa.RecordBatch:
    arrays = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def refused_table(refusals: Sequence[Refusal], label: Callable[[int], str]) -> pa.Table:
    """Refusals as the port wants them, ordered by file and position."""
    if not refusals:
        return REJECTED.empty_table()
    ordered = sorted(refusals, key=lambda r: (r.number, r.line))
    columns: list[list[Any]] = [
        [label(r.number) for r in ordered], [r.line for r in ordered], [r.column for r in ordered],
        [r.check for r in ordered], [r.reason for r in ordered], [r.original for r in ordered],
    ]  # fmt: skip
    return pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, REJECTED, strict=True)], schema=REJECTED)


def shape(names: Sequence[str]) -> str:
    """The SQL text that tells from_json to give these members as texts."""
    return literal(json.dumps(dict.fromkeys(names, "VARCHAR")))


def sheet_body(table: list[list[str]], options: Mapping[str, Any]) -> tuple[tuple[str, ...], int, list[list[str]]]:
    """Names of a sheet's columns, the number of its first row of values (from 1), and those rows.

    The header is the first row with a cell in it, after `skip` rows.
    """
    first = next((i for i, row in enumerate(table) if i >= int(options.get("skip") or 0) and any(row)), None)
    if first is None:
        return (), 1, []
    given = options.get("header")
    header = bool(given) if given is not None else is_header(table[first], table[first : first + 100])
    names = unique_names(table[first] if header else [""] * len(table[first]))
    start = first + header
    return names, start + 1, table[start:]
