"""The lake port: versioned tables made of immutable Parquet files.

Protocol. A job asks for a `draft` of a table as it wants it to be (columns, partitions), lets the engine write Parquet files into the
draft's folder with the draft's field ids, audits the files, and then commits once. Nothing is visible to readers before `commit`
returns, everything is after. A commit carries a token; a token is committed at most once, and can be looked up, so that after a crash
or a lost answer the caller finds out what happened instead of guessing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from penstock.spec.partitions import Partition
from penstock.spec.schema import Schema

Operation = Literal["append", "overwrite", "compact"]
EVERYTHING: Literal["*"] = "*"


@dataclass(frozen=True)
class DataFile:
    """One Parquet file of a table.

    Attributes:
        path: absolute local path or object URI, as an engine opens it (no `file:` prefix).
        rows, size_bytes: as written.
        partition: one value per partition field (ints for time transforms, counted as Iceberg counts), () if not partitioned.
        schema_id: the table's schema in whose names the file was written; None if unknown (another engine wrote it), then the
            reader looks into the file's footer.
        deletes: paths of Parquet position delete files that apply to it (written by other engines).
    """

    path: str
    rows: int
    size_bytes: int
    partition: tuple[int | str | bool | float | None, ...] = ()
    schema_id: int | None = None
    deletes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """One version of a table, as recorded in the table itself.

    `version` is opaque text. `summary` is what the committer put in, keys without prefix. `rows` and `files` are totals after it,
    -1 from a lake that does not count.
    `token` is empty for commits of other writers.
    """

    table: str
    version: str
    parent: str | None
    at: datetime
    operation: str
    token: str
    summary: Mapping[str, str]
    schema: Schema
    rows: int
    files: int


@dataclass(frozen=True)
class Scan:
    """What an engine needs to read one version of a table: current columns with ids, files, and the schemas the files were written in."""

    table: str
    version: str
    schema: Schema
    files: tuple[DataFile, ...]
    schemas: Mapping[int, Schema] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(f.rows for f in self.files)


@dataclass(frozen=True)
class Changes:
    """Difference between two versions in files. Rows of `added` that also stand in `removed` did not change.

    Compactions are left out: their files are neither added nor removed. `added` may hold files that later were compacted away
    logically but still exist. `complete` is False when the old version is no longer known; then everything must be read.
    """

    since: str | None
    until: str
    added: Scan
    removed: Scan
    complete: bool = True

    @property
    def only_appends(self) -> bool:
        return self.complete and not self.removed.files


@dataclass(frozen=True)
class Draft:
    """A table as it will be after the commit. Opaque but for its attributes; good for one commit.

    Attributes:
        schema: the columns with the field ids that written files must carry.
        schema_id: goes into the names of written files.
        folder: where the engine writes; exists; files there belong to nobody until the commit.
        base: the version the draft was made on, None for a new table.
    """

    table: str
    schema: Schema
    schema_id: int
    partition: tuple[Partition, ...]
    folder: str
    base: str | None


@dataclass(frozen=True)
class LakeCapabilities:
    """What a lake can do; the defaults are the weakest."""

    concurrent_appends: bool = False
    row_counts: bool = False
    time_travel: bool = False
    schema_evolution: bool = False
    partitions: frozenset[str] = frozenset()
    other_engines: bool = False


class Lake(Protocol):
    """Tables of a lake. Safe to call from several threads and processes at once."""

    capabilities: LakeCapabilities

    def tables(self) -> Sequence[str]:
        """Names of all tables, sorted. Called: by faces and upkeep."""
        ...

    def snapshot(self, table: str, *, version: str | None = None, at: datetime | None = None) -> Snapshot | None:
        """The newest version, or the given one, or the one that was current at a moment; None if the table does not exist.

        Called:  by planning for every asset: must cost one metadata read at most.
        Raises:  VersionNotFound(E4009) if the table exists but the version does not, or did not exist yet at the moment.
        """
        ...

    def history(self, table: str) -> Sequence[Snapshot]:
        """All versions that can still be read, oldest first; () if the table does not exist."""
        ...

    def scan(self, table: str, *, version: str | None = None) -> Scan:
        """The files of a version and the columns it had.

        Raises:  VersionNotFound(E4009), also if the table does not exist. Unsupported(E4007) for deletes it cannot pass on.
        """
        ...

    def changes(self, table: str, *, since: str | None, until: str | None = None) -> Changes:
        """Files that came and went between two versions; `since` None means from the beginning (all files are added)."""
        ...

    def draft(
        self,
        table: str,
        schema: Schema,
        *,
        partition: Sequence[Partition] = (),
        renamed: Mapping[str, str] | None = None,
        exact: bool = False,
    ) -> Draft:
        """Prepares a write. Changes nothing that anybody can see.

        Columns of `schema` that the table lacks are added; types are widened; `renamed` (new -> old) keeps ids. With `exact`
        (the commit will remove all old files) columns that `schema` lacks are dropped and types may change freely: such a
        column gets a new id. Without `exact` columns that `schema` lacks stay, and a type that cannot be widened is refused.
        The draft's schema has the final columns: in the order of `schema`, then those that stay.

        Raises:  SchemaDrift(E2003), Unsupported(E4007) for a transform or type it cannot keep.
        """
        ...

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
        """Publishes: adds files, removes files (by path; "*" = all of the current version), changes the schema, in one step.

        Durable: everything, when it returns.
        Repeat:  the same token on the same table commits once; a repeat returns the snapshot of the first time.
        Checks:  every added file exists, carries the draft's field ids (all of them, nested too), and has the rows it says.
        Order:   an append (nothing removed, no schema change) lands whatever others commit meanwhile. With removals or a
                 schema change on a base that is no longer current it lands only if the files to remove are still there and
                 the schema is still that of the base.
        Raises:  CommitConflict(E4002): certainly not committed. CommitUnknown(E4003): look the token up with `history`.
                 FileIdsWrong(E4008). StorageFull(E4006).
        """
        ...


class LakeUpkeep(Protocol):
    """The part of a lake that upkeep jobs use. Compaction itself is a read, a write and a commit with operation `compact`."""

    def expire(self, table: str, *, keep: int, before: datetime) -> int:
        """Forgets versions older than `before`, but never the newest `keep` nor the current one; returns how many.

        Files stay until `remove_orphans`. Repeat: does nothing more.
        """
        ...

    def remove_orphans(self, table: str, *, older_than: datetime) -> Sequence[str]:
        """Deletes files in the table's folder that no readable version refers to and whose time of change is before a moment.

        The age protects files of writes under way. Returns the paths removed.
        """
        ...

    def drop(self, table: str) -> None:
        """Forgets a table and deletes its folder. Repeat: does nothing."""
        ...
