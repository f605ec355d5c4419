"""Sources: data that somebody else owns. A source is landed as a versioned table before anything reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from penstock.ground.errors import DefinitionError
from penstock.spec.checks import Check
from penstock.spec.schema import Schema, schema_of

FileFormat = Literal["csv", "tsv", "json", "ndjson", "parquet", "arrow", "excel"]
Drift = Literal["widen", "freeze", "quarantine"]
Gone = Literal["keep", "drop"]
_DRIFTS = ("widen", "freeze", "quarantine")


@dataclass(frozen=True)
class Secret:
    """The name of a secret; its value is looked up when a connection is opened and never stored or printed."""

    name: str


def secret(name: str) -> Secret:
    """A secret by name, looked up in the environment when it is needed."""
    return Secret(name)


@dataclass(frozen=True)
class Files:
    """Files matching a glob.

    Attributes:
        pattern: a path or glob, relative to the project's folder; `**` crosses folders.
        format: None means: by the name's ending, before a compression's ending.
        schema: the declared columns; None means: as crawled (recorded at first load).
        drift: what happens when a file has other columns or types than recorded. `widen`: new columns are added, types
            widened where the lake can, files that lack a column give nulls. `freeze`: an error, nothing is loaded.
            `quarantine`: the differing file is left out, recorded and shown; the others are loaded.
        hive: whether folder names `k=v` are columns; None means: if the pattern's matches have them.
        options: reader options, sorted by name: delimiter, quote, escape, header, nulls (texts read as null), encoding,
            date_format, timestamp_format, decimal, comment, skip, sheet.
        checks: row checks on the landed rows; rows that do not parse are rejected in any case.
        gone: what happens to the rows of a file that vanished: `keep` them (and say so in the plan), or `drop` them.
    """

    pattern: str
    format: FileFormat | None = None
    schema: Schema | None = None
    drift: Drift = "widen"
    hive: bool | None = None
    options: tuple[tuple[str, Any], ...] = ()
    checks: tuple[Check, ...] = ()
    gone: Gone = "keep"
    doc: str = ""


@dataclass(frozen=True)
class Database:
    """A table or query of a database.

    Attributes:
        url: `sqlite:///path` or `postgresql://user@host:port/database`, without a password.
        table, query: exactly one of them.
        cursor: a column that only grows; each load reads rows above the greatest value seen, and ties are read again
            and told apart by `key`. None means: every load reads all and replaces.
        key: columns that tell rows apart, needed with a cursor that can tie.
    """

    url: str
    table: str | None = None
    query: str | None = None
    cursor: str | None = None
    key: tuple[str, ...] = ()
    password: Secret | None = None
    schema: Schema | None = None
    drift: Drift = "widen"
    checks: tuple[Check, ...] = ()
    doc: str = ""


Source = Files | Database


def files(
    pattern: str,
    *,
    format: FileFormat | None = None,
    columns: Mapping[str, str] | None = None,
    drift: Drift = "widen",
    hive: bool | None = None,
    checks: list[Check] | tuple[Check, ...] = (),
    gone: Gone = "keep",
    doc: str = "",
    **options: Any,
) -> Files:
    """Files matching a glob: CSV, TSV, JSON, NDJSON, Parquet, Arrow, Excel; plain, gzip, zstd or zip.

    Args:
        columns: names and types, e.g. `{"id": "long", "at": "timestamp"}`; None infers them.
        options: see `Files.options`.
    Raises: DefinitionError(E1001) for an unknown option or drift policy.
    """
    _drift(drift, pattern)
    if unknown := sorted(set(options) - set(FILE_OPTIONS)):
        raise DefinitionError("unknown option of ps.files", place=unknown[0], expected=", ".join(FILE_OPTIONS), got=unknown[0])
    clean = tuple(sorted((k, tuple(v) if isinstance(v, list) else v) for k, v in options.items()))
    return Files(pattern, format, schema_of(**columns) if columns else None, drift, hive, clean, tuple(checks), gone, doc)


FILE_OPTIONS = (
    "comment",
    "date_format",
    "decimal",
    "delimiter",
    "encoding",
    "escape",
    "header",
    "nulls",
    "quote",
    "sheet",
    "skip",
    "timestamp_format",
)


def database(
    url: str,
    *,
    table: str | None = None,
    query: str | None = None,
    cursor: str | None = None,
    key: str | list[str] | tuple[str, ...] = (),
    password: Secret | None = None,
    columns: Mapping[str, str] | None = None,
    drift: Drift = "widen",
    checks: list[Check] | tuple[Check, ...] = (),
    doc: str = "",
) -> Database:
    """A table or a query of a database, read in full or by a cursor column.

    Raises: DefinitionError(E1001).
    """
    if (table is None) == (query is None):
        raise DefinitionError("a database source has either a table or a query", place=url.split("@")[-1])
    _drift(drift, url.split("@")[-1])
    return Database(url, table, query, cursor, names(key), password, schema_of(**columns) if columns else None, drift, tuple(checks), doc)


def names(value: str | list[str] | tuple[str, ...] | None) -> tuple[str, ...]:
    """One name or several, as a tuple."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def _drift(policy: str, place: str) -> None:
    if policy not in _DRIFTS:
        raise DefinitionError("unknown drift policy", place=place, expected=", ".join(_DRIFTS), got=policy)


#: Ending -> format. Endings of compressions come after it and do not count.
FORMATS: dict[str, FileFormat] = {
    "csv": "csv", "txt": "csv", "tsv": "tsv", "tab": "tsv", "json": "json", "ndjson": "ndjson", "jsonl": "ndjson", "parquet": "parquet",
    "pq": "parquet", "arrow": "arrow", "feather": "arrow", "ipc": "arrow", "xlsx": "excel", "xls": "excel",
}  # fmt: skip
COMPRESSIONS = ("gz", "gzip", "zst", "zstd", "zip")


def format_by_name(name: str) -> FileFormat | None:
    """The format that a file name's ending means, None if none; `.gz`, `.zst` and `.zip` are passed over."""
    parts = name.lower().split(".")
    while len(parts) > 1 and parts[-1] in COMPRESSIONS:
        parts.pop()
    return FORMATS.get(parts[-1]) if len(parts) > 1 else None
