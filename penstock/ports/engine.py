"""The engine port: runs a relation over table versions, files or Arrow data, into files or batches.

Protocol. A job opens one session, binds its inputs by name, and uses it from one thread. Row data stays inside the engine; only what
is asked for as Arrow leaves it. A session holds nothing that is not given back by `close`; its spill files live in the folder given
when the engine was made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from penstock.ports.lake import DataFile, Draft, Scan
from penstock.spec.schema import Schema, Type

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class RawFile:
    """One input file of a source as listed: `path` opens it, `label` is what users see (relative to the project).

    `partition` are values from folder names `k=v`, in order. `member` is the name inside a zip archive, "" for a plain file.
    """

    path: str
    label: str
    size_bytes: int
    changed_ns: int
    partition: tuple[tuple[str, str], ...] = ()
    member: str = ""


@dataclass(frozen=True)
class RawFiles:
    """Files of one format that are read in the same way.

    Attributes:
        format: csv, tsv, json, ndjson, parquet, arrow or excel.
        schema: columns to read, in order; None while inferring. Names are those of the files.
        options: as `spec.sources.Files.options`.
        file_column: name of a column to add that holds the file's label; "" for none.
    """

    files: tuple[RawFile, ...]
    format: str
    schema: Schema | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    file_column: str = ""


@dataclass(frozen=True)
class Inferred:
    """What a look into files found. `schema` is what all of them can be read as; `differing` names files with other columns or types."""

    schema: Schema
    per_file: tuple[tuple[str, Schema], ...]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Loaded:
    """What loading raw files gave.

    Attributes:
        files: written data files.
        rows_read: rows (lines) the readers took in, good and bad; counted by the reader, not derived from the others.
        rejected: Arrow table with columns `file`, `position` (long: line in the file, from 1), `column`, `check`, `reason`,
            `original` (the line or the record as text); one row per rejected input row.
        per_file: rows written per file label.
    """

    files: tuple[DataFile, ...]
    rows_read: int
    rejected: pa.Table
    per_file: Mapping[str, int]


@dataclass(frozen=True)
class Origin:
    """Where a bound input's rows come from, for tracing a row: names of two hidden columns of the input."""

    file: str = "_file"
    row: str = "_row"


@dataclass(frozen=True)
class EngineCapabilities:
    """What an engine can do; the defaults are the weakest."""

    spills: bool = False
    memory_limit: bool = False
    raw_formats: frozenset[str] = frozenset()
    cores: int = 1


class Session(Protocol):
    """One job's use of an engine."""

    def bind(self, name: str, relation: Scan | pa.Table | pa.RecordBatchReader, *, hidden: Sequence[str] = ()) -> None:
        """Makes an input readable under a name. A Scan is read by field ids; the relation NAME lacks the `hidden` columns.

        A second relation, `NAME__all`, has all columns; that of a Scan also has `_path` and `_pos` (from 0), which tell each
        row's place, unless a column of the table is itself called so. A RecordBatchReader can be read once; what it raises is
        raised by the call that reads it. Binding a name again replaces it.
        """
        ...

    def define(self, name: str, query: str, params: Mapping[str, Any] | None = None) -> Schema:
        """Names a query, so that later queries and writes can use it, and tells its columns. Nothing is computed.

        Raises: QueryError(E1006) with the engine's words, and what is known, for unknown names.
        """
        ...

    def asof(
        self,
        name: str,
        left: str,
        right: str,
        *,
        by: Sequence[str],
        on: str,
        right_on: str,
        within_s: float | None,
        take: Sequence[str],
        right_known: str | None = None,
        event_as: str | None = None,
    ) -> Schema:
        """Names the point-in-time join of two named relations: per left row the newest right row with `right_on <= on`
        (and, if given, `right_known <= on`), equal `by`, no older than `within_s` seconds; columns of left, then `take`, then, if
        it is named, `event_as`: the time of the newest right row, however old it is.

        Shapes:  left (n rows) -> n rows, always; a left row without match keeps nulls; a null key or time matches nothing.
        Ties:    of several right rows with the same key and time the one known last is taken, else any; all columns come from
                 the same row.
        """
        ...

    def write(self, query: str, draft: Draft) -> tuple[DataFile, ...]:
        """Computes a query into Parquet files of a draft: its folder, field ids, partition fields, columns by name.

        The query must give all columns of the draft's schema that it has (others become null); values are cast to the
        draft's types, a value that does not fit is an error. `_path` and `_pos` of a traced relation are left out.
        One partition per file. Order is kept. No rows, no files.
        Raises:  QueryError(E1006), StorageFull(E4006), MemoryLimit(E5003). Files of a failed write are removed.
        Repeat:  writes new files.
        """
        ...

    def read(self, query: str, params: Mapping[str, Any] | None = None) -> pa.RecordBatchReader:
        """The rows of a query as a stream of batches. An ORDER BY is kept. Unread results must be closed before the next call."""
        ...

    def rows(self, query: str, params: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """The rows of a small query (counts, aggregates) as Python values."""
        ...

    def files(self, name: str, files: Sequence[DataFile], schema: Schema) -> None:
        """Binds written but not yet committed files, to audit them; `NAME__all` also has `_path` and `_pos`, as with `bind`.

        Raises: Unsupported(E4007) if a column of the table is called so.
        """
        ...

    def infer(self, raw: RawFiles) -> Inferred:
        """Looks into files (a sample of each) and tells columns, types and reader options. Raises: SourceError(E2001)."""
        ...

    def load(self, raw: RawFiles, draft: Draft) -> Loaded:
        """Reads raw files into a draft's Parquet files in one pass; what does not parse is returned, not raised.

        Order is kept: rows of a file stand in file order. Columns that a file lacks become null.
        Raises: SourceError(E2001) for a file that cannot be read at all, InputRefused(E2004), StorageFull(E4006).
        """
        ...

    def type_name(self, kind: Type) -> str:
        """The engine's own name of a type, as a CAST wants it."""
        ...

    def close(self) -> None:
        """Gives everything back. Repeat: does nothing."""
        ...


class Engine(Protocol):
    """Where sessions come from."""

    capabilities: EngineCapabilities

    def session(self) -> Session:
        """A new session. Sessions of one engine do not see each other; they may be used at the same time from different threads."""
        ...
