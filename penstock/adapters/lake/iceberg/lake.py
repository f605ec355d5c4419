"""The lake port over Iceberg tables in a local folder. The package's docstring tells why and within which limits."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from penstock.adapters.lake.iceberg.columns import TRANSFORMS
from penstock.adapters.lake.iceberg.drafts import IcebergDraft, drafted
from penstock.adapters.lake.iceberg.heads import Heads, translated
from penstock.adapters.lake.iceberg.metadata import Head, Json, milliseconds, operation_of, without_snapshots
from penstock.adapters.lake.iceberg.places import local, root_of, uri
from penstock.adapters.lake.iceberg.rows import NAMESPACE
from penstock.ground.errors import CommitConflict, NameRefused, SettingsError, StorageError, VersionNotFound
from penstock.ground.failpoints import reach
from penstock.ground.ids import Ids
from penstock.ground.paths import inside
from penstock.ports.adapters import Context
from penstock.ports.lake import Changes, DataFile, Draft, LakeCapabilities, Operation, Scan, Snapshot
from penstock.spec.evolution import Evolution
from penstock.spec.partitions import Partition
from penstock.spec.schema import Schema

# `manifests` and `commit` import pyiceberg, which takes a second; planning needs neither, so they are imported where they are used.

_TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


class IcebergLake:
    """Tables under one folder; see the port. Safe for several threads and processes."""

    capabilities = LakeCapabilities(
        concurrent_appends=True, row_counts=True, time_travel=True, schema_evolution=True, partitions=TRANSFORMS, other_engines=True
    )

    def __init__(self, root: Path, heads: Heads, ids: Ids) -> None:
        self._root, self._heads, self._ids = root, heads, ids

    @classmethod
    def open(cls, url: str, context: Context) -> IcebergLake:
        """`file:///abs/folder`; option `catalog` is `sqlite:///...`, by default the state's file. Touches nothing yet.

        Raises: SettingsError(E7001).
        """
        catalog = str(context.options.get("catalog", f"sqlite:///{context.folder}/state.db"))
        if not catalog.startswith("sqlite:///"):
            raise SettingsError(
                "not a catalog for this lake", place="lake.catalog", expected="sqlite:///path", got=catalog.partition(":")[0]
            )
        file = context.folder.parent / catalog.removeprefix("sqlite:///")
        return cls(root_of(url), Heads(file, context.clock, context.ids), context.ids)

    # -- reading ----------------------------------------------------------------------------------------------------
    def tables(self) -> Sequence[str]:
        with translated("catalog"):
            return self._heads.rows.names()

    def snapshot(self, table: str, *, version: str | None = None, at: datetime | None = None) -> Snapshot | None:
        head = self._head(table)
        if head is None or (head.current is None and version is None and at is None):
            return None
        return head.told(head.find(version, at))

    def history(self, table: str) -> Sequence[Snapshot]:
        head = self._head(table)
        return tuple(head.told(s) for s in reversed(head.chain())) if head else ()

    def scan(self, table: str, *, version: str | None = None) -> Scan:
        head = self._known(table)
        return self._scan(head, head.find(version))

    def changes(self, table: str, *, since: str | None, until: str | None = None) -> Changes:
        head = self._known(table)
        newest = head.find(until)
        if since is None:
            return _changes(head, None, newest, self._scan(head, newest).files, ())
        chain = head.chain(newest)
        at = next((i for i, s in enumerate(chain) if str(s["snapshot-id"]) == since), None)
        if at is None:
            return replace(_changes(head, since, newest, self._scan(head, newest).files, ()), complete=False)
        with translated(table):
            return self._walked(head, chain[: at + 1])

    def _walked(self, head: Head, chain: Sequence[Json]) -> Changes:
        """Differences from the last version of a chain to its first. Files that came and went in between are left out."""
        from penstock.adapters.lake.iceberg import manifests

        if all(operation_of(s) == "append" for s in chain[:-1]):
            came = manifests.added_by({s["snapshot-id"] for s in chain[:-1]}, manifests.of(chain[0]), head.schemas)
            return _changes(head, str(chain[-1]["snapshot-id"]), chain[0], came, ())
        lists = {s["snapshot-id"]: manifests.of(s) for s in chain}
        if any(manifests.deletes(found) for found in lists.values()):
            return self._compared(head, chain[-1], chain[0])
        added: dict[str, DataFile] = {}
        removed: dict[str, DataFile] = {}
        for snapshot in reversed(chain[:-1]):
            if operation_of(snapshot) != "compact":
                new, old = manifests.added_and_removed(snapshot, lists[snapshot["snapshot-id"]], head.schemas)
                removed.update((f.path, f) for f in old if added.pop(f.path, None) is None)
                added.update((f.path, f) for f in new)
        return _changes(head, str(chain[-1]["snapshot-id"]), chain[0], (*added.values(),), (*removed.values(),))

    def _compared(self, head: Head, old: Json, new: Json) -> Changes:
        """Differences by file and its position deletes; used once other engines have deleted rows in place. Compactions show."""
        before, after = ({(f.path, f.deletes): f for f in self._scan(head, s).files} for s in (old, new))
        added = tuple(f for key, f in after.items() if key not in before)
        return _changes(head, str(old["snapshot-id"]), new, added, tuple(f for key, f in before.items() if key not in after))

    def _scan(self, head: Head, snapshot: Json) -> Scan:
        from penstock.adapters.lake.iceberg import manifests

        with translated(head.table):
            files = manifests.files(manifests.of(snapshot), head.schemas, head.table)
        return Scan(head.table, str(snapshot["snapshot-id"]), head.schema_of(snapshot), files, head.schemas)

    def _head(self, table: str) -> Head | None:
        with translated(table):
            return self._heads.newest(table)

    def _known(self, table: str) -> Head:
        if (head := self._head(table)) is None:
            raise VersionNotFound("there is no such table", place=table)
        return head

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
        head, folder = self._head(table), self._folder(table)
        with translated(table):
            location = head.location if head else uri(str(folder))
            return drafted(self._heads, head, location, schema, partition, Evolution(table, renamed or {}, exact))

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
        from penstock.adapters.lake.iceberg.commit import Request, committed

        if not isinstance(draft, IcebergDraft):
            raise StorageError("a draft of another lake", place=draft.table, hint="make drafts with the lake that commits them")
        with translated(draft.table):
            request = Request(draft, add, token, remove, summary or {}, operation or ("overwrite" if remove else "append"))
            done = committed(self._heads, request)
        reach("lake.commit.after")
        return done

    # -- upkeep -----------------------------------------------------------------------------------------------------
    def expire(self, table: str, *, keep: int, before: datetime) -> int:
        """See `LakeUpkeep`. Versions that tags or branches of other engines name stay too."""
        from penstock.adapters.lake.iceberg.commit import TRIES

        for _ in range(TRIES):
            head = self._head(table)
            gone = _expirable(head, keep, milliseconds(before)) if head else set()
            if head is None or not gone:
                return 0
            with translated(table):
                if self._heads.replaced(head, table, without_snapshots(head, gone)) is not None:
                    return len(gone)
        raise CommitConflict("others kept committing first", place=table, got=f"{TRIES} tries", hint="repeat")

    def remove_orphans(self, table: str, *, older_than: datetime) -> Sequence[str]:
        """See `LakeUpkeep`. Files are listed before the metadata is read, so that what is committed meanwhile is known to be in use."""
        limit_ns = milliseconds(older_than) * 1_000_000
        with translated(table):
            old = [path for path in _files_under(self._folder(table)) if os.stat(path).st_mtime_ns < limit_ns]
            used = self._used(self._heads.newest(table)) if old else set()
            gone = [path for path in old if path not in used and os.stat(path).st_mtime_ns < limit_ns]
            for path in gone:
                os.unlink(path)
        return gone

    def _used(self, head: Head | None) -> set[str]:
        """Every file that a readable version needs."""
        from penstock.adapters.lake.iceberg import manifests

        if head is None:
            return set()
        snapshots = head.snapshots.values()
        known = {m.manifest_path: m for s in snapshots for m in manifests.of(s)}
        files = {e.data_file.file_path for m in known.values() for e in manifests.entries(m)}
        logs = {entry["metadata-file"] for entry in head.meta.get("metadata-log", ())}
        statistics = {e["statistics-path"] for kind in ("statistics", "partition-statistics") for e in head.meta.get(kind, ())}
        return {local(path) for path in {head.place, *(s["manifest-list"] for s in snapshots), *known, *files, *logs, *statistics}}

    def drop(self, table: str) -> None:
        """See `LakeUpkeep`. The folder moves aside while the catalog is locked, so that a table of that name made meanwhile is not hurt."""
        folder = self._folder(table)
        aside = folder.with_name(f".{folder.name}.{self._ids.new()}.dropped")
        with translated(table):
            self._heads.rows.remove(table, lambda: folder.exists() and folder.rename(aside))
            self._heads.forget(table)
            for left in folder.parent.glob(f".{folder.name}.*.dropped"):
                shutil.rmtree(left)

    def _folder(self, table: str) -> Path:
        if not _TABLE.fullmatch(table):
            raise NameRefused("not a name for a table", place=repr(table)[:80], expected="letters, digits and _")
        return inside(self._root, f"{NAMESPACE}/{table}")


def _changes(head: Head, since: str | None, newest: Json, added: tuple[DataFile, ...], removed: tuple[DataFile, ...]) -> Changes:
    until, schema = str(newest["snapshot-id"]), head.schema_of(newest)
    came, went = (Scan(head.table, until, schema, files, head.schemas) for files in (added, removed))
    return Changes(since, until, came, went)


def _expirable(head: Head, keep: int, before_ms: int) -> set[int]:
    stays = {s["snapshot-id"] for s in head.chain()[: max(keep, 1)]} | {r["snapshot-id"] for r in head.meta.get("refs", {}).values()}
    return {number for number, s in head.snapshots.items() if number not in stays and s["timestamp-ms"] < before_ms}


def _files_under(folder: Path) -> Iterator[str]:
    for at, _, names in os.walk(folder):
        yield from (os.path.join(at, name) for name in names)
