"""Delimited text by the engine's own reader: fast, in one pass, on all cores, and believed only when its rows add up.

DuckDB drops lines without a word (a line beyond its limit), splits quoted line ends wrongly between threads, stops at mixed line ends,
and rounds numbers. So whole numbers are read as doubles and checked, the lines of each file are counted on the side, and when
anything does not add up the written files are thrown away and the exact reader takes over.
Measured with DuckDB 2.0.0: tests/hostile/test_duckdb_loses.py shows each of these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import duckdb

from penstock.adapters.engine.duckdb.raw.dialect import Dialect
from penstock.adapters.engine.duckdb.raw.records import Refusal, shown
from penstock.adapters.engine.duckdb.raw.stage import CHUNK, Staged
from penstock.adapters.engine.duckdb.raw.texts import EXACT, Formats, reading
from penstock.adapters.engine.duckdb.types import to_duck
from penstock.ground.names import literal, quote
from penstock.spec.schema import Type

REJECTS, SCANS = "_penstock_rejects", "_penstock_scans"
#: The text of the error by which a query ends itself at a value that the engine's reader would change.
CHANGED = "penstock: a value would change"
#: What DuckDB reads at a time, and its longest line; longer ones are for the exact reader. Source: measured on a CSV of 1 GB, rows in
#: order: with DuckDB's own 32 MB and 2 MB the process peaks at 750 to 880 MB, with these at 290 to 410 MB, in the same time.
BUFFER_BYTES, LINE_BYTES = 4_000_000, 1_000_000
_BLOCK = 1 << 18


@dataclass(frozen=True)
class Group:
    """Files that one query of the engine's reader can take: same columns and dialect."""

    files: tuple[Staged, ...]
    dialect: Dialect

    @property
    def fast(self) -> bool:
        """Whether the engine's reader can be tried: it knows no comments, and one kind of line ends only."""
        d = self.dialect
        return bool(d.names and d.newline) and not d.comment and len(d.delimiter.encode()) <= 4 and len(d.quote) <= 1


def groups(files: Sequence[tuple[Staged, Dialect]]) -> list[Group]:
    """Files by dialect, in the order of each group's first file."""
    by: dict[Dialect, list[Staged]] = {}
    for staged, dialect in files:
        by.setdefault(dialect, []).append(staged)
    return [Group(tuple(found), dialect) for dialect, found in by.items()]


# -- the query ------------------------------------------------------------------------------------------------------
def source(group: Group, types: Mapping[str, str], nulls: Sequence[str], formats: Formats) -> str:
    """The engine's reader over a group's files; columns without a type are text."""
    d = group.dialect
    options = {
        "auto_detect": "false",
        "header": str(d.header).lower(),
        "skip": str(d.skip),
        "delim": literal(d.delimiter),
        "quote": literal(d.quote),
        "escape": literal(d.escape),
        "new_line": literal({"\n": "\\n", "\r\n": "\\r\\n", "\r": "\\r"}[d.newline]),
        "nullstr": "[" + ", ".join(literal(n) for n in nulls) + "]",
        "columns": "{" + ", ".join(f"{literal(f'c{i}')}: {literal(types.get(name, 'VARCHAR'))}" for i, name in enumerate(d.names)) + "}",
        "decimal_separator": literal(formats.decimal),
        "dateformat": literal(formats.date) if formats.date else "",
        "timestampformat": literal(formats.timestamp) if formats.timestamp else "",
        "parallel": str(not d.multiline).lower(),
        "buffer_size": str(BUFFER_BYTES),
        "max_line_size": str(LINE_BYTES),
        "store_rejects": "true",
        "rejects_limit": "0",
        "rejects_table": literal(REJECTS),
        "rejects_scan": literal(SCANS),
    }
    given = ", ".join(f"{name}={value}" for name, value in options.items() if value)
    return f"read_csv([{', '.join(literal(f.path) for f in group.files)}], {given})"


def native(column: str, kind: Type, formats: Formats, *, whole: str) -> tuple[str, str]:
    """The type to read a column as, and the expression that makes the value of it, or ends the query where it would change.

    `whole` tells how integers are read: as `double`, exact up to 2^53, or as `text`, slower and exact.
    """
    name = kind.name
    if name in ("int", "long") and whole == "double":
        most = EXACT if name == "long" else 2**31 - 1
        wrong = f"{column} <> trunc({column}) OR abs({column}) > {most}"
        return "DOUBLE", _unless(wrong, f"CAST({column} AS {to_duck(kind)})", kind)
    if name in ("float", "double"):
        return to_duck(kind), _unless(f"isinf({column})", column, kind)
    if name == "date" and not formats.date:
        wrong = f"NOT isfinite({column}) OR epoch_us({column}) % 86400000000 <> 0"
        return "TIMESTAMPTZ", _unless(wrong, f"CAST(make_timestamp(epoch_us({column})) AS DATE)", kind)
    if name in ("timestamp", "timestamptz") and not formats.timestamp:
        value = column if name == "timestamptz" else f"make_timestamp(epoch_us({column}))"
        return "TIMESTAMPTZ", _unless(f"NOT isfinite({column})", value, kind)
    if name in ("string", "boolean", "uuid", "binary", "date") or (name == "timestamp" and "%z" not in formats.timestamp.lower()):
        return to_duck(kind), column
    found = reading(column, kind, formats)
    return "VARCHAR", _unless(found.bad, found.value, kind)


def _unless(wrong: str, value: str, kind: Type) -> str:
    return f"CASE WHEN {wrong} THEN CAST(error({literal(CHANGED)}) AS {to_duck(kind)}) ELSE {value} END"


# -- lines counted on the side --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Count:
    """Line ends of a file, whether its last line has one, and whether all are of the same kind."""

    lines: int
    ended: bool
    alike: bool

    def records(self, dialect: Dialect) -> int:
        """Records, if no line is blank and no line end is quoted."""
        return max(0, self.lines + (not self.ended) - dialect.skip - dialect.header)


def count_lines(files: Sequence[Staged], dialect: Dialect) -> list[Count]:
    """Line ends of each file, nothing else looked at. Cost: 0.6 s/GB of one core."""
    return [_count(staged.path, dialect.newline) for staged in files]


def _count(path: str, newline: str) -> Count:
    end, other = (b"\r", b"\n") if newline == "\r" else (b"\n", b"\r")
    lines, others, last = 0, 0, end
    buffer = bytearray(_BLOCK)
    with open(path, "rb", buffering=0) as stream:
        while size := stream.readinto(buffer):
            lines += buffer.count(end, 0, size)
            others += buffer.count(other, 0, size)
            last = bytes(buffer[size - 1 : size])
    return Count(lines, last == end, others == (lines if newline == "\r\n" else 0))


def count_records(staged: Staged, dialect: Dialect) -> int | None:
    """Records of a file, told by line ends outside of quotes; blank lines are none, except in a file of one column.

    None if a line end of another kind stands outside of quotes. Right for files whose quotes stand around cells; for others it
    differs from what a reader sees, and then the exact reader decides.
    """
    end, mark = dialect.newline.encode(), dialect.quote.encode()
    escaped = dialect.escape.encode() + mark if dialect.escape != dialect.quote else b""
    single = len(dialect.names) == 1
    records, held, skip = -int(dialect.header), False, dialect.skip
    for line in _whole_lines(staged.path, end):
        if skip:
            skip -= 1
            continue
        blank = not held and line == b""
        parts = (line.replace(b"\\\\", b"").replace(escaped, b"") if escaped else line).split(mark) if mark else [line]
        if any(b"\r" in part or b"\n" in part for part in parts[int(held) :: 2]):
            return None
        held ^= len(parts) % 2 == 0
        records += not held and not (blank and not single)
    return max(0, records + held)


def _whole_lines(path: str, end: bytes) -> Iterator[bytes]:
    rest = b""
    with open(path, "rb", buffering=0) as stream:
        while piece := stream.read(CHUNK):
            *whole, rest = (rest + piece).split(end)
            yield from whole
    if rest:
        yield rest


# -- what was rejected, and whether it adds up -----------------------------------------------------------------------
def refusals_of(connection: duckdb.DuckDBPyConnection, group: Group) -> tuple[Refusal, ...] | None:
    """The lines that the engine's reader rejected, one refusal per line; None if the exact reader can tell more about one."""
    found = connection.execute(
        f"""SELECT file_path, line_byte_position, any_value(csv_line), list(DISTINCT error_type), list(DISTINCT column_idx),
                   string_agg(DISTINCT error_message, '; ')
            FROM {REJECTS} JOIN {SCANS} USING (scan_id, file_id) GROUP BY ALL ORDER BY ALL"""
    ).fetchall()
    by_path: dict[str, list[tuple[Any, ...]]] = {}
    for path, *rest in found:
        by_path.setdefault(path, []).append(tuple(rest))
    numbered = {f.path: f for f in group.files}
    refusals: list[Refusal] = []
    for path, rows in by_path.items():
        made = list(_placed(numbered[path], rows, group.dialect))
        if None in made:
            return None
        refusals += [m for m in made if m]
    return tuple(refusals)


#: Kinds of errors whose lines can be believed. After a quote in a wrong place DuckDB may take one line for two, or two for one.
_CHECKS = {
    "CAST": "type", "MISSING COLUMNS": "columns", "TOO MANY COLUMNS": "columns", "INVALID ENCODING": "encoding",
}  # fmt: skip


def _placed(staged: Staged, rows: list[tuple[Any, ...]], dialect: Dialect) -> Iterator[Refusal | None]:
    """Refusals with their line, counted up to their place in the file, and the file's own bytes."""
    end = dialect.newline[-1:].encode()
    with open(staged.path, "rb") as stream:
        at, line = 0, 1
        for position, text, kinds, columns, message in rows:
            if position is None or text is None or not set(kinds) <= set(_CHECKS):
                yield None
                return
            stream.seek(at)
            while at < position - 1:
                piece = stream.read(min(CHUNK, position - 1 - at))
                if not piece:
                    yield None
                    return
                line, at = line + piece.count(end), at + len(piece)
            original = stream.read(len(text.encode("utf-8", "surrogatepass")))
            bare = original.lstrip(b"\r\n")
            before = original[: len(original) - len(bare)].count(end)
            bare = bare.rstrip(b"\r\n")
            names = [dialect.names[i - 1] for i in sorted(c for c in columns if c) if i <= len(dialect.names)] if "CAST" in kinds else []
            check = next(_CHECKS[k] for k in _CHECKS if k in kinds)
            yield Refusal(
                staged.number,
                line + before,
                check,
                _named(message, dialect),
                shown(bare.decode("utf-8", "surrogateescape")),
                ", ".join(names),
            )


def _named(message: str, dialect: Dialect) -> str:
    """The engine's words with the columns' own names."""
    for i in range(len(dialect.names) - 1, -1, -1):
        message = message.replace(f'column "c{i}"', f"column {quote(dialect.names[i])}")
    return message


def drop_rejects(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute(f"DROP TABLE IF EXISTS {REJECTS}; DROP TABLE IF EXISTS {SCANS}")


def balanced(group: Group, counts: Sequence[Count], written: int, refusals: Sequence[Refusal]) -> dict[int, int] | None:
    """Records per file number if they add up with rows written and refused; else None."""
    seen = written + len(refusals)
    quick = {f.number: c.records(group.dialect) for f, c in zip(group.files, counts, strict=True)}
    if sum(quick.values()) == seen and all(c.alike for c in counts) and not group.dialect.multiline:
        return quick
    careful: dict[int, int] = {}
    for staged in group.files:
        if (found := count_records(staged, group.dialect)) is None:
            return None
        careful[staged.number] = found
    return careful if sum(careful.values()) == seen else None


def counting(group: Group) -> Future[list[Count]]:
    """Counts a group's lines beside the engine's work; `.result()` waits for it."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(count_lines, group.files, group.dialect)
    finally:
        pool.shutdown(wait=False)
