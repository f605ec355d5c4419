"""One job's use of DuckDB: a database in memory of its own, which spills into a folder of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from penstock.adapters.engine.duckdb.asof import AsOfJoin, asof_sql, checked
from penstock.adapters.engine.duckdb.errors import engine_errors, translated
from penstock.adapters.engine.duckdb.query import Variables, relation_of, replaced, select
from penstock.adapters.engine.duckdb.raw import infer, load
from penstock.adapters.engine.duckdb.scan import PATH, POSITION, scan_sql, traceable
from penstock.adapters.engine.duckdb.types import schema_from_duck, to_duck
from penstock.adapters.engine.duckdb.write import write
from penstock.ground.errors import PenstockError, Unsupported
from penstock.ground.ids import Ids
from penstock.ground.names import literal, quote
from penstock.ports.engine import Inferred, Loaded, RawFiles
from penstock.ports.lake import DataFile, Draft, Scan
from penstock.spec.schema import Schema, Type

T = TypeVar("T")

#: Ends the name under which all columns of an input can be read, hidden ones and the row's place too.
ALL = "__all"
#: Rows of a batch that leaves the engine: small enough for wide rows, large enough that the cost per batch does not show.
BATCH_ROWS = 100_000


@dataclass(frozen=True)
class Limits:
    """What a session may use; texts as DuckDB writes sizes, e.g. `2GB`. `spill` "" leaves the choice to DuckDB."""

    memory: str
    threads: int
    spill: str = ""


class DuckSession:
    """See `ports.engine.Session`.

    Attributes:
        connection: where names are bound; used by one thread.
        folder: for spill files; removed by `close`.
        ids: for names of written files.
    """

    def __init__(self, folder: Path, limits: Limits, ids: Ids) -> None:
        self.folder = folder
        self.ids = ids
        self.connection = duckdb.connect(":memory:", config=_config(folder, limits))
        self.connection.execute("SET GLOBAL TimeZone = 'UTC'; SET GLOBAL preserve_insertion_order = true; SET enable_progress_bar = false")
        if limits.spill:  # DuckDB passes over this one when it is given at connecting, together with the folder
            self.connection.execute(f"SET GLOBAL max_temp_directory_size = {literal(limits.spill)}")
        self._arrow: dict[str, Any] = {}
        self._schemas: dict[str, Schema] = {}
        self._variables = Variables()
        self._raised: BaseException | None = None

    # -- naming -----------------------------------------------------------------------------------------------------
    def bind(self, name: str, relation: Scan | pa.Table | pa.RecordBatchReader, *, hidden: Sequence[str] = ()) -> None:
        if isinstance(relation, Scan):
            self._bind_files(name, relation.schema, relation.files, relation.schemas, hidden)
            return
        self._forget(name)
        self._arrow[name + ALL] = self._watched(relation) if isinstance(relation, pa.RecordBatchReader) else relation
        with self._errors(name):
            self.connection.register(name + ALL, self._arrow[name + ALL])
            found = self.connection.sql(f"FROM {quote(name + ALL)}")
            shown = [c for c in found.columns if c not in hidden]
            self._view(name, f"SELECT {', '.join(map(quote, shown))} FROM {quote(name + ALL)}")
            self._schemas[name] = schema_from_duck((c, t) for c, t in zip(found.columns, found.types, strict=True) if c in shown)

    def files(self, name: str, files: Sequence[DataFile], schema: Schema) -> None:
        if not traceable(schema):
            raise Unsupported(
                "a column's name is in the way of telling rows by their place", place=name, hint=f"rename {PATH} or {POSITION}"
            )
        self._bind_files(name, schema, files, {f.schema_id: schema for f in files if f.schema_id is not None}, ())

    def _bind_files(
        self, name: str, schema: Schema, files: Sequence[DataFile], schemas: Mapping[int, Schema], hidden: Sequence[str]
    ) -> None:
        self._forget(name)
        with self._errors(name):
            self._view(name + ALL, scan_sql(self.connection, schema, files, schemas, traced=traceable(schema)))
            shown = Schema(tuple(f for f in schema if f.name not in hidden))
            self._view(name, f"SELECT {', '.join(map(quote, shown.names))} FROM {quote(name + ALL)}")
        self._schemas[name] = shown

    def define(self, name: str, query: str, params: Mapping[str, Any] | None = None) -> Schema:
        values = dict(params or {})
        with self._errors(name):
            text = select(self.connection, query, values, place=name)
            found = relation_of(self.connection, text, values)
            schema = schema_from_duck(zip(found.columns, found.types, strict=True))
            kept = {key: self._variables.keep(self.connection, value) for key, value in values.items()}
            self._forget(name)
            self._view(name, replaced(text, kept.__getitem__))
        self._schemas[name] = schema
        return schema

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
        join = AsOfJoin(left, right, tuple(by), on, right_on, within_s, tuple(take), right_known, event_as)
        checked(join, self._columns(left), self._columns(right))
        return self.define(name, asof_sql(join))

    def _columns(self, name: str) -> Schema:
        """The columns of a bound or defined name. Raises: QueryError(E1006)."""
        if name not in self._schemas:
            with self._errors(name):
                found = self.connection.sql(f"FROM {quote(name)}")
                return schema_from_duck(zip(found.columns, found.types, strict=True))
        return self._schemas[name]

    def _view(self, name: str, text: str) -> None:
        self.connection.execute(f"CREATE OR REPLACE VIEW {quote(name)} AS {text}")

    def _forget(self, name: str) -> None:
        """Frees a name and what was bound under it."""
        self._schemas.pop(name, None)
        for each in (name, name + ALL):
            if self._arrow.pop(each, None) is not None:
                self.connection.unregister(each)
            self.connection.execute(f"DROP VIEW IF EXISTS {quote(each)}")

    # -- computing --------------------------------------------------------------------------------------------------
    def write(self, query: str, draft: Draft) -> tuple[DataFile, ...]:
        with self._errors(draft.table):
            text = select(self.connection, query, {}, place=draft.table)
            return write(self.connection, text, draft, ids=self.ids, known=self._known)

    def read(self, query: str, params: Mapping[str, Any] | None = None) -> pa.RecordBatchReader:
        with self._errors("query"):
            values = dict(params or {})
            text = select(self.connection, query, values, place="query")
            worker = Worker(self._other_connection())
            stream = worker(lambda: relation_of(worker.connection, text, values).to_arrow_reader(BATCH_ROWS))
        return pa.RecordBatchReader.from_batches(stream.schema, self._streamed(stream, worker))

    def _streamed(self, stream: pa.RecordBatchReader, worker: Worker) -> Iterator[pa.RecordBatch]:
        with self._errors("query"):
            try:
                while (batch := worker(lambda: next(stream, None))) is not None:
                    yield batch
            except OSError as error:  # pyarrow's class for most errors of a stream; the text is the engine's
                raise translated(error, "query", self._known) from error
            finally:
                stream.close()

    def rows(self, query: str, params: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        with self._errors("query"):
            values = dict(params or {})
            found = relation_of(self.connection, select(self.connection, query, values, place="query"), values)
            whole = [str(kind) in ("HUGEINT", "UHUGEINT") for kind in found.types]
            columns = [column.to_pylist() for column in found.to_arrow_table().columns]
        for i, column in enumerate(columns):
            if whole[i]:
                columns[i] = [None if value is None else int(value) for value in column]
        return list(zip(*columns, strict=True))

    def _other_connection(self) -> duckdb.DuckDBPyConnection:
        """A connection to the same database, so that a stream may stay open while this session goes on."""
        other = self.connection.cursor()
        for name, source in self._arrow.items():
            other.register(name, source)
        self._variables.copy_to(other)
        return other

    # -- raw files --------------------------------------------------------------------------------------------------
    def infer(self, raw: RawFiles) -> Inferred:
        return infer(self.connection, raw)

    def load(self, raw: RawFiles, draft: Draft) -> Loaded:
        return load(self, raw, draft)

    # -- errors and end ---------------------------------------------------------------------------------------------
    @contextmanager
    def _errors(self, place: str) -> Iterator[None]:
        """Raises the engine's errors as ours; an error that came from a bound reader is raised as it was."""
        try:
            with engine_errors(place, self._known):
                yield
        except PenstockError:
            if self._raised is None:
                raise
            raised, self._raised = self._raised, None
            raise raised from None

    def _known(self) -> tuple[Sequence[str], Sequence[str]]:
        return list(self._schemas), sorted({column for schema in self._schemas.values() for column in schema.names})

    def _watched(self, reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
        """The same batches; an error of theirs is kept, since the engine would only pass its text on."""

        def batches() -> Iterator[pa.RecordBatch]:
            try:
                yield from reader
            except Exception as error:
                self._raised = error
                raise

        return pa.RecordBatchReader.from_batches(reader.schema, batches())

    def type_name(self, kind: Type) -> str:
        return to_duck(kind)

    def close(self) -> None:
        self.connection.close()
        self._arrow.clear()
        shutil.rmtree(self.folder, ignore_errors=True)


class Worker:
    """Runs the calls of one connection in a thread of its own: DuckDB misses a signal while it streams, the thread that waits does not."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection = connection
        self._thread = ThreadPoolExecutor(1)

    def __call__(self, call: Callable[[], T]) -> T:
        """What the call returns. Raises: KeyboardInterrupt, after the connection's query has been stopped."""
        try:
            return self._thread.submit(call).result()
        except KeyboardInterrupt:
            last = self._thread.submit(int)
            while not last.done():  # again and again, because it is lost on a query that is about to begin
                self.connection.interrupt()
                wait([last], timeout=0.02)
            raise


def _config(folder: Path, limits: Limits) -> dict[str, str]:
    """Nothing is downloaded, no Python variable can be read by its name, and spill files stay in the session's folder."""
    return {
        "memory_limit": limits.memory,
        "threads": str(limits.threads),
        # With them DuckDB 2.0.0 now and then never returns from a COPY whose query fails; on local disks they gain nothing.
        "async_threads": "0",
        "temp_directory": str(folder),
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "allow_community_extensions": "false",
        "python_enable_replacements": "false",
    }
