"""Lakes for tests: the reference in memory, one with every capability off, and one that fails by a schedule."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from penstock.ground.clock import Clock
from penstock.ground.digest import digest
from penstock.ground.errors import CommitConflict, CommitUnknown, FileIdsWrong, NameRefused, StorageError, Unsupported, VersionNotFound
from penstock.ground.failpoints import reach
from penstock.ports.lake import Changes, DataFile, Draft, Lake, LakeCapabilities, Operation, Scan, Snapshot
from penstock.spec.evolution import Evolution, evolved
from penstock.spec.partitions import Partition
from penstock.spec.schema import Schema, schema_of
from penstock.testing.parquet import ids_in, ids_of, written

#: Transform -> types of columns it is kept for.
_SOURCES = {
    "identity": "boolean int long string date timestamp timestamptz",
    "year": "date timestamp timestamptz",
    "month": "date timestamp timestamptz",
    "day": "date timestamp timestamptz",
    "hour": "timestamp timestamptz",
}


@dataclass(frozen=True)
class _Version:
    """A snapshot with its files, and what it changed."""

    told: Snapshot
    files: tuple[DataFile, ...]
    added: tuple[DataFile, ...]
    removed: tuple[DataFile, ...]


@dataclass
class _Table:
    schemas: list[Schema] = field(default_factory=list)
    last_id: int = 0
    partition: tuple[Partition, ...] = ()
    versions: list[_Version] = field(default_factory=list)
    committed: dict[str, Snapshot] = field(default_factory=dict)
    drafts: set[int] = field(default_factory=set)

    @property
    def schema(self) -> Schema:
        return self.versions[-1].told.schema


@dataclass(frozen=True)
class _Draft(Draft):
    """A draft, and the table as it was then: itself, its columns (None for a new table) and its highest field id."""

    number: int
    table_then: _Table | None
    schema_then: Schema | None
    last_id_then: int
    last_id: int

    @property
    def changes_columns(self) -> bool:
        return self.schema != self.schema_then or (self.table_then is not None and self.partition != self.table_then.partition)

    @property
    def drops(self) -> bool:
        return bool({f.id for f in self.schema_then or ()} - {f.id for f in self.schema})


class MemoryLake:
    """What the port means, in as few lines as it takes. Parquet files are real, all else is forgotten with the process."""

    capabilities = LakeCapabilities(
        concurrent_appends=True,
        row_counts=True,
        time_travel=True,
        schema_evolution=True,
        partitions=frozenset(_SOURCES),
        other_engines=False,
    )

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder, self._clock = folder, clock
        self._tables: dict[str, _Table] = {}
        self._lock = threading.RLock()
        self._made = 0

    # -- reading ----------------------------------------------------------------------------------------------------
    def tables(self) -> Sequence[str]:
        return sorted(self._tables)

    def snapshot(self, table: str, *, version: str | None = None, at: datetime | None = None) -> Snapshot | None:
        with self._lock:
            known = self._tables.get(table)
            return self._find(table, known, version, at).told if known else None

    def history(self, table: str) -> Sequence[Snapshot]:
        with self._lock:
            return tuple(v.told for v in self._tables[table].versions) if table in self._tables else ()

    def scan(self, table: str, *, version: str | None = None) -> Scan:
        with self._lock:
            found = self._find(table, self._tables.get(table), version, None)
            return self._scan(found, found.files)

    def changes(self, table: str, *, since: str | None, until: str | None = None) -> Changes:
        with self._lock:
            newest = self._find(table, self._tables.get(table), until, None)
            versions = self._tables[table].versions
            known = [v.told.version for v in versions]
            end = versions.index(newest)
            if since is None or since not in known[: end + 1]:
                return self._changes(since, newest, newest.files, (), complete=since is None)
            added: list[DataFile] = []
            removed: list[DataFile] = []
            for version in versions[known.index(since) + 1 : end + 1]:
                if version.told.operation != "compact":
                    removed += [f for f in version.removed if f not in added]
                    added = [f for f in added if f not in version.removed] + [*version.added]
            return self._changes(since, newest, tuple(added), tuple(removed), complete=True)

    def _changes(
        self, since: str | None, newest: _Version, added: tuple[DataFile, ...], removed: tuple[DataFile, ...], *, complete: bool
    ) -> Changes:
        return Changes(since, newest.told.version, self._scan(newest, added), self._scan(newest, removed), complete)

    def _scan(self, version: _Version, files: tuple[DataFile, ...]) -> Scan:
        told = version.told
        return Scan(told.table, told.version, told.schema, files, dict(enumerate(self._tables[told.table].schemas)))

    def _find(self, table: str, known: _Table | None, version: str | None, at: datetime | None) -> _Version:
        for found in reversed(known.versions if known else ()):
            if (version is None or found.told.version == version) and (at is None or found.told.at <= at):
                return found
        raise VersionNotFound("this version is not known", place=table, got=version or at or "no table")

    # -- writing ----------------------------------------------------------------------------------------------------
    def draft(
        self,
        table: str,
        schema: Schema,
        *,
        partition: Sequence[Partition] = (),
        renamed: Mapping[str, str] | None = None,
        exact: bool = False,
    ) -> Draft:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", table):
            raise NameRefused("not a name for a table", place=repr(table)[:80])
        with self._lock:
            now = self._tables.get(table)
            current, last_then = (now.schema, now.last_id) if now else (None, 0)
            columns, last = evolved(current, schema, Evolution(table, renamed or {}, exact), last_id=last_then)
            self._require_partition(table, now, columns, tuple(partition), exact)
            folder = self._folder / table
            folder.mkdir(parents=True, exist_ok=True)
            schemas = now.schemas if now else []
            number = schemas.index(columns) if columns in schemas else len(schemas)
            base = now.versions[-1].told.version if now else None
            self._made += 1
            return _Draft(table, columns, number, tuple(partition), str(folder), base, self._made, now, current, last_then, last)

    def _require_partition(self, table: str, now: _Table | None, columns: Schema, partition: tuple[Partition, ...], exact: bool) -> None:
        for part in partition:
            kind = columns.field(part.column, of=table).type.name
            if part.transform not in self.capabilities.partitions:
                raise Unsupported("this transform cannot be kept", place=f"{table}[{part.column}]", got=part.transform)
            if kind not in _SOURCES[part.transform].split():
                raise Unsupported(
                    "this column cannot be partitioned so", place=f"{table}[{part.column}]", got=f"{part.transform} of {kind}"
                )
        if now is not None and partition != now.partition and not exact:
            raise Unsupported("a table's partition can change only when it is written whole", place=table)

    def commit(
        self,
        draft: Draft,
        add: Sequence[DataFile],
        *,
        token: str,
        remove: Sequence[str] | Literal["*"] = (),
        summary: Mapping[str, str] | None = None,
        operation: Operation | None = None,
    ) -> Snapshot:
        assert isinstance(draft, _Draft)
        with self._lock:
            now = self._tables.get(draft.table)
            if now is not None and token in now.committed:
                return now.committed[token]
            if draft.drops and remove != "*":
                raise StorageError("the draft drops columns, so its commit must remove all files", place=draft.table)
            for file in add:
                _require_file(draft, file)
            self._require_base(draft, now, remove)
            reach("lake.commit.before")
            table = now or _Table()
            told = self._told(draft, table, token, summary or {}, operation or ("overwrite" if remove else "append"))
            version = _version(told, table, [f for f in add if f.rows], remove)
            self._record(draft, table, version)
        reach("lake.commit.after")
        return version.told

    def _require_base(self, draft: _Draft, now: _Table | None, remove: Sequence[str] | Literal["*"]) -> None:
        if now is not draft.table_then or (now is not None and draft.number in now.drafts):
            raise CommitConflict("the table was made or dropped, or the draft committed, meanwhile", place=draft.table)
        if now is None:
            return
        moved = now.versions[-1].told.version != draft.base
        if moved and (remove == "*" or not self.capabilities.concurrent_appends):
            raise CommitConflict("another writer committed first", place=draft.table)
        if draft.changes_columns and (now.schema, now.last_id) != (draft.schema_then, draft.last_id_then):
            raise CommitConflict("another writer changed the table's columns first", place=draft.table)
        if not draft.changes_columns and {f.id for f in draft.schema} - {f.id for f in now.schema}:
            raise CommitConflict("another writer dropped columns that the new files have", place=draft.table)
        if remove != "*" and set(remove) - {f.path for f in now.versions[-1].files}:
            raise CommitConflict("files to remove are no longer in the table", place=draft.table)

    def _told(self, draft: _Draft, table: _Table, token: str, summary: Mapping[str, str], operation: str) -> Snapshot:
        self._made += 1
        newest = table.versions[-1].told if table.versions else None
        schema = draft.schema if newest is None or draft.changes_columns else newest.schema
        at = max(self._clock.now(), newest.at) if newest else self._clock.now()
        return Snapshot(draft.table, str(self._made), newest.version if newest else None, at, operation, token, dict(summary), schema, 0, 0)

    def _record(self, draft: _Draft, table: _Table, version: _Version) -> None:
        if draft.schema not in table.schemas:
            table.schemas.append(draft.schema)
        table.last_id = max(table.last_id, draft.last_id)
        table.partition = draft.partition
        table.versions.append(version)
        table.committed[version.told.token] = version.told
        table.drafts.add(draft.number)
        self._tables[draft.table] = table

    # -- upkeep -----------------------------------------------------------------------------------------------------
    def expire(self, table: str, *, keep: int, before: datetime) -> int:
        with self._lock:
            known = self._tables.get(table)
            if known is None:
                return 0
            stays = [v for v in known.versions[: -max(keep, 1)] if v.told.at >= before] + known.versions[-max(keep, 1) :]
            gone = len(known.versions) - len(stays)
            known.versions = stays
            return gone

    def remove_orphans(self, table: str, *, older_than: datetime) -> Sequence[str]:
        with self._lock:
            known = self._tables.get(table)
            used = {f.path for v in known.versions for f in v.files} if known else set()
            files = [str(p) for p in (self._folder / table).glob("**/*") if p.is_file()]
            gone = [p for p in files if p not in used and os.stat(p).st_mtime < older_than.timestamp()]
            for path in gone:
                os.unlink(path)
            return gone

    def drop(self, table: str) -> None:
        with self._lock:
            self._tables.pop(table, None)
            if (self._folder / table).exists():
                shutil.rmtree(self._folder / table)


def _version(told: Snapshot, table: _Table, add: Sequence[DataFile], remove: Sequence[str] | Literal["*"]) -> _Version:
    before = table.versions[-1].files if table.versions else ()
    removed = tuple(f for f in before if remove == "*" or f.path in remove)
    files = (*(f for f in before if f not in removed), *add)
    return _Version(replace(told, rows=sum(f.rows for f in files), files=len(files)), files, tuple(add), removed)


def _require_file(draft: Draft, file: DataFile) -> None:
    """Looks at the rows themselves, where a real lake looks at the footer."""
    place = f"{draft.table}: {os.path.basename(file.path)}"
    if os.path.dirname(file.path) != draft.folder or not os.path.exists(file.path):
        raise StorageError("a file to commit is not in the draft's folder", place=place)
    if ids_in(file.path) != ids_of(draft.schema):
        raise FileIdsWrong("a file does not carry the draft's field ids", place=place, expected=ids_of(draft.schema), got=ids_in(file.path))
    table = pq.ParquetFile(file.path).read()
    if (table.num_rows, os.path.getsize(file.path)) != (file.rows, file.size_bytes) or len(file.partition) != len(draft.partition):
        raise StorageError("a file to commit is not as told", place=place)
    for part, value in zip(draft.partition, file.partition, strict=True):
        seen = {_transformed(part.transform, v) for v in table.column(part.column).to_pylist()}
        if seen - {value}:
            raise StorageError("a file has rows of another partition", place=place, expected=value, got=seen)


def _transformed(transform: str, value: Any) -> Any:
    """A value as a partition value, the long way round."""
    if not isinstance(value, date):
        return value
    moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)  # noqa: DTZ001 - a date has no zone
    since = moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    parts = {"year": moment.year - 1970, "month": (moment.year - 1970) * 12 + moment.month - 1, "day": since.days}
    whole = since // (timedelta(microseconds=1) if isinstance(value, datetime) else timedelta(days=1))
    return {**parts, "hour": since // timedelta(hours=1), "identity": whole}[transform]


class WeakLake(MemoryLake):
    """Keeps the protocol with every capability off, and refuses by name what that leaves out."""

    capabilities = LakeCapabilities()

    def snapshot(self, table: str, *, version: str | None = None, at: datetime | None = None) -> Snapshot | None:
        newest = super().snapshot(table)
        if newest is not None and (at is not None or version not in (None, newest.version)):
            raise Unsupported("this lake keeps no old versions", place=table, got=version or at)
        return replace(newest, rows=-1, files=-1) if newest else None

    def history(self, table: str) -> Sequence[Snapshot]:
        newest = self.snapshot(table)
        return (newest,) if newest else ()

    def scan(self, table: str, *, version: str | None = None) -> Scan:
        newest = super().scan(table)
        if version not in (None, newest.version):
            raise Unsupported("this lake keeps no old versions", place=table, got=version)
        return newest

    def changes(self, table: str, *, since: str | None, until: str | None = None) -> Changes:
        self.scan(table, version=until)
        whole = super().changes(table, since=None)
        same = since == whole.until
        return super().changes(table, since=since) if same else replace(whole, since=since, complete=since is None)

    def draft(
        self,
        table: str,
        schema: Schema,
        *,
        partition: Sequence[Partition] = (),
        renamed: Mapping[str, str] | None = None,
        exact: bool = False,
    ) -> Draft:
        made = super().draft(table, schema, partition=partition, renamed=renamed, exact=exact)
        if made.base is not None and made.schema != super().scan(table).schema:
            raise Unsupported("this lake cannot change a table's columns", place=table)
        return made

    def commit(
        self,
        draft: Draft,
        add: Sequence[DataFile],
        *,
        token: str,
        remove: Sequence[str] | Literal["*"] = (),
        summary: Mapping[str, str] | None = None,
        operation: Operation | None = None,
    ) -> Snapshot:
        made = super().commit(draft, add, token=token, remove=remove, summary=summary, operation=operation)
        return replace(made, rows=-1, files=-1)


Fault = Literal["", "not tried", "answer lost"]


class FaultyLake:
    """A lake whose commits fail by a schedule drawn from a seed; all else is the inner lake's.

    A commit that was `not tried` changed nothing; one whose `answer` is `lost` landed. Both raise CommitUnknown(E4003), so that a caller
    cannot tell them apart but by the token. What was injected stands in `faults`, in order of the commits.
    """

    def __init__(self, inner: Lake, *, seed: int, share: float) -> None:
        """`share` of all commits fail, within [0, 1], half of them either way. The seed decides which."""
        self.capabilities = inner.capabilities
        self.faults: list[Fault] = []
        self._inner, self._seed, self._share = inner, seed, share

    def tables(self) -> Sequence[str]:
        return self._inner.tables()

    def snapshot(self, table: str, *, version: str | None = None, at: datetime | None = None) -> Snapshot | None:
        return self._inner.snapshot(table, version=version, at=at)

    def history(self, table: str) -> Sequence[Snapshot]:
        return self._inner.history(table)

    def scan(self, table: str, *, version: str | None = None) -> Scan:
        return self._inner.scan(table, version=version)

    def changes(self, table: str, *, since: str | None, until: str | None = None) -> Changes:
        return self._inner.changes(table, since=since, until=until)

    def draft(
        self,
        table: str,
        schema: Schema,
        *,
        partition: Sequence[Partition] = (),
        renamed: Mapping[str, str] | None = None,
        exact: bool = False,
    ) -> Draft:
        return self._inner.draft(table, schema, partition=partition, renamed=renamed, exact=exact)

    def commit(
        self,
        draft: Draft,
        add: Sequence[DataFile],
        *,
        token: str,
        remove: Sequence[str] | Literal["*"] = (),
        summary: Mapping[str, str] | None = None,
        operation: Operation | None = None,
    ) -> Snapshot:
        fault = self._draw()
        self.faults.append(fault)
        if fault != "not tried":
            made = self._inner.commit(draft, add, token=token, remove=remove, summary=summary, operation=operation)
            if not fault:
                return made
        raise CommitUnknown("injected fault", place=draft.table, hint=f"seed {self._seed}, commit {len(self.faults)}")

    def expire(self, table: str, *, keep: int, before: datetime) -> int:
        done: int = self._upkeep.expire(table, keep=keep, before=before)
        return done

    def remove_orphans(self, table: str, *, older_than: datetime) -> Sequence[str]:
        gone: Sequence[str] = self._upkeep.remove_orphans(table, older_than=older_than)
        return gone

    def drop(self, table: str) -> None:
        self._upkeep.drop(table)

    @property
    def _upkeep(self) -> Any:
        return self._inner

    def _draw(self) -> Fault:
        drawn = int(digest([self._seed, len(self.faults)]), 16) / 16**32
        if drawn >= self._share:
            return ""
        return "not tried" if drawn < self._share / 2 else "answer lost"


def append_often(opener: Callable[[], Lake], me: int, turns: int) -> list[str]:
    """Appends single-row files to `contended`, with ids from `1000 * me`; returns the tokens then seen. Run in several processes at once."""
    lake = opener()
    for n in range(turns):
        draft = lake.draft("contended", schema_of(id="long"))
        lake.commit(draft, [written(draft, [{"id": 1000 * me + n}])], token=f"{me}/{n}")
    return [s.token for s in lake.history("contended")]


def make_once(opener: Callable[[], Lake], me: int) -> list[str]:
    """Tries to make the table `contended` by one commit; returns the tokens then seen."""
    with suppress(CommitConflict):
        append_often(opener, me, 1)
    return [s.token for s in opener().history("contended")]
