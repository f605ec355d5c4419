"""DuckDB's errors as ours: the engine's words, the line, and what is known instead of what was asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import duckdb

from penstock.ground.errors import MemoryLimit, PenstockError, QueryError, StorageError, StorageFull, did_you_mean

_MISFIT, _END = "penstock misfit\x1f", "\x1f"
_FULL = ("No space left on device", "Disk quota exceeded", "File too large")
_UNKNOWN_TABLE = re.compile(r'Table with name "?(.+?)"? does not exist|Referenced table "(.+?)" not found')
_UNKNOWN_COLUMN = re.compile(r'Referenced column "(.+?)" not found|does not have a column named "(.+?)"')
_SUGGESTED = re.compile(r"Did you mean (.+?)\?")
_PREFIX = re.compile(r"^(?:[A-Z][A-Za-z-]+ )+Error: ")

#: Names of relations and names of columns that a query could have used.
Known = Callable[[], tuple[Sequence[str], Sequence[str]]]


@contextmanager
def engine_errors(place: str, known: Known | None = None) -> Iterator[None]:
    """Raises DuckDB's errors as StorageFull(E4006), MemoryLimit(E5003), StorageError(E4001) or QueryError(E1006)."""
    try:
        yield
    except duckdb.Error as error:
        raise translated(error, place, known) from error
    except RuntimeError as error:  # how DuckDB tells that a signal's handler raised while a query ran
        if str(error) == "Query interrupted":
            raise KeyboardInterrupt from error
        raise


def translated(error: Exception, place: str, known: Known | None = None) -> PenstockError:
    """Our error for one of DuckDB's, or for one that a stream of DuckDB's raised, which has its text but not its class."""
    text = str(error)
    if any(sign in text for sign in _FULL):
        return StorageFull(_said(text), place=place, hint="free some space; what was written of this step is removed")
    if text.startswith("Out of Memory Error"):
        hint = "raise the engine's memory_limit, lower threads, or split the work by partition"
        return MemoryLimit(_said(text), place=place, hint=hint)
    if isinstance(error, duckdb.ResourceInUseException):
        return QueryError("an earlier result is still open", place=place, hint="read it to its end, or close it, first")
    if text.startswith(("IO Error", "FATAL Error")):
        return StorageError(_said(text), place=place)
    if _MISFIT in text:
        column, reason = text.partition(_MISFIT)[2].split(_END, 1)
        return QueryError(reason, place=f"{place}[{column}]" if place else column, hint="cast it in the query to say what shall be kept")
    return QueryError(_said(text), place=place, hint=_hint(text, known))


def misfit_head(column: str) -> str:
    """Begins the text that `write` lets DuckDB raise for a value that does not fit; the value and the reason follow."""
    return f"{_MISFIT}{column}{_END}the value "


def _said(text: str) -> str:
    """The engine's sentence without its kind, and where in the query it points."""
    paragraphs = [part for part in text.split("\n\n") if part.strip()] or ["no reason given"]
    said = _PREFIX.sub("", paragraphs[0].split("\n")[0]).rstrip(" !.")
    line = next((p for p in paragraphs[1:] if p.startswith("LINE ")), "")
    return f"{said} ({_pointed(line)})" if line else said


def _pointed(paragraph: str) -> str:
    """`line 2, at "vendr": SELECT vendr` from the engine's two lines, the second of which underlines."""
    first, _, under = paragraph.partition("\n")
    number, _, code = first.removeprefix("LINE ").partition(": ")
    start, length = under.find("^"), under.count("^")
    mark = first[start : start + length] if length else ""
    return f"line {number}, at `{mark.strip()}`" if mark.strip() else f"line {number}: {code.strip()}"


def _hint(text: str, known: Known | None) -> str:
    tables, columns = known() if known else ((), ())
    if match := _UNKNOWN_TABLE.search(text):
        return did_you_mean(match[1] or match[2], tables)
    if match := _UNKNOWN_COLUMN.search(text):
        return did_you_mean(match[1] or match[2], columns)
    if match := _SUGGESTED.search(text):
        return f"did you mean {match[1]}?"
    return ""
