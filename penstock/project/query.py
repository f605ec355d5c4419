"""SQL over everything: any assets of the project, now or as they were at a moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.craft.lineage.shape import parsed, tables_of
from penstock.ground.errors import DefinitionError, DriverMissing, UnknownName, VersionNotFound, did_you_mean
from penstock.ground.names import REJECTED_SUFFIX
from penstock.ports.engine import Session
from penstock.run.build import HIDDEN
from penstock.run.runtime import Runtime

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass
class Result:
    """The rows of a query, read when asked for. Close it, or read it to the end, or use it as a context manager."""

    session: Session
    sql: str
    params: Mapping[str, Any]
    versions: Mapping[str, str]

    def __enter__(self) -> Result:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.session.close()

    def reader(self) -> pa.RecordBatchReader:
        """The rows as a stream of Arrow batches; the session stays open until `close`."""
        return self.session.read(self.sql, self.params)

    def arrow(self) -> pa.Table:
        """All rows as an Arrow table."""
        try:
            return self.reader().read_all()
        finally:
            self.close()

    def polars(self) -> Any:
        """All rows as a Polars frame. Raises: DriverMissing(E7002)."""
        return _library("polars").from_arrow(self.arrow())

    def pandas(self) -> Any:
        """All rows as a pandas frame. Raises: DriverMissing(E7002)."""
        _library("pandas")
        return self.arrow().to_pandas()

    def rows(self) -> list[dict[str, Any]]:
        """All rows as Python values, for small results."""
        return list(self.arrow().to_pylist())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows())

    def write(self, path: Path) -> int:
        """Writes the rows to a file whose ending says the format: .parquet, .csv, .json, .ndjson, .arrow. Returns how many.

        The file appears whole or not at all. Raises: DefinitionError(E1001) for another ending.
        """
        from penstock.run.export import write_rows

        try:
            return write_rows(self.reader(), path)
        finally:
            self.close()

    def _repr_html_(self) -> str:
        from penstock.project.report import rows_html

        return rows_html(self.arrow())


def query(runtime: Runtime, sql: str, *, as_of: datetime | None = None, params: Mapping[str, Any] | None = None) -> Result:
    """Binds the tables a query names, at their newest versions or those of a moment.

    Raises: QueryError(E1006), UnknownName(E1003) for a table that is not there, VersionNotFound(E4009) for one that was not yet.
    """
    tree = parsed(sql)
    session = runtime.engine.session()
    versions: dict[str, str] = {}
    try:
        known = set(runtime.lake.tables())
        for name in tables_of(tree):
            if name not in known:
                visible = sorted(n for n in known if not n.endswith(REJECTED_SUFFIX))
                if name.endswith(REJECTED_SUFFIX) and name.removesuffix(REJECTED_SUFFIX) in known:
                    raise UnknownName("no row of this table was ever rejected", place=name)
                raise UnknownName("no table has this name", place=name, hint=did_you_mean(name, visible) + "; `penstock run` makes them")
            snapshot = runtime.lake.snapshot(name, at=as_of) if as_of else runtime.lake.snapshot(name)
            if snapshot is None:
                raise VersionNotFound("the table has no version", place=name)
            scan = runtime.lake.scan(name, version=snapshot.version)
            session.bind(name, scan, hidden=[h for h in HIDDEN if h in scan.schema])
            versions[name] = snapshot.version
        session.define("query", sql, params)
    except BaseException:
        session.close()
        raise
    return Result(session, sql.strip().rstrip(";"), params or {}, versions)


def _library(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise DriverMissing(f"{name} is not installed", place="query", hint=f"pip install 'penstock[{name}]'") from error


def moment(text: str) -> datetime:
    """A moment as a user types it. Raises: DefinitionError(E1001)."""
    from penstock.ground.clock import from_iso

    try:
        return from_iso(text)
    except ValueError as error:
        raise DefinitionError("not a moment", place=text[:40], expected="ISO 8601, e.g. 2026-11-01T12:00", got=text[:40]) from error
