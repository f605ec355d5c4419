"""One commit: new manifests on top of the newest version, until one of them is the newest itself."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pyiceberg.manifest import DataFile as IcebergFile
from pyiceberg.manifest import ManifestEntry, ManifestFile

from penstock.adapters.lake.iceberg import manifests
from penstock.adapters.lake.iceberg.columns import schema_json
from penstock.adapters.lake.iceberg.drafts import IcebergDraft
from penstock.adapters.lake.iceberg.heads import Heads
from penstock.adapters.lake.iceberg.manifests import Writer
from penstock.adapters.lake.iceberg.metadata import PREFIX, Head, Json, empty, with_columns, with_partition, with_snapshot
from penstock.adapters.lake.iceberg.places import local
from penstock.adapters.lake.iceberg.written import checked
from penstock.ground.errors import CommitConflict, CommitUnknown, PenstockError, StorageError
from penstock.ground.paths import sync_folder
from penstock.ports.lake import DataFile, Operation, Snapshot

#: How often an append tries again after others committed first. Each time one of the others has got on, so this bounds no progress.
TRIES = 200
_ICEBERG_NAMES = {"append": "append", "overwrite": "overwrite", "compact": "replace"}


@dataclass(frozen=True)
class Request:
    """What a commit was asked for; see `Lake.commit`."""

    draft: IcebergDraft
    add: Sequence[DataFile]
    token: str
    remove: Sequence[str] | Literal["*"]
    summary: Mapping[str, str]
    operation: Operation


def committed(heads: Heads, request: Request) -> Snapshot:
    """See `Lake.commit`."""
    draft = request.draft
    head = heads.newest(draft.table)
    if head is not None and (done := head.by_token(request.token)) is not None:
        return done
    if draft.drops and request.remove != "*":
        hint = "an exact draft is for a table that is written whole"
        raise StorageError(
            "the draft drops columns, so its commit must remove all files", place=draft.table, expected='remove="*"', hint=hint
        )
    files = _checked(draft, request.add)
    attempt = _Attempt(heads, request, files, heads.snapshot_id())
    for _ in range(TRIES):
        if (done := attempt.on(heads.newest(draft.table))) is not None:
            return done
    raise CommitConflict("others kept committing first; nothing was committed", place=draft.table, got=f"{TRIES} tries", hint="repeat")


def _checked(draft: IcebergDraft, add: Sequence[DataFile]) -> list[IcebergFile]:
    """Files to add, checked and durable."""
    if len({f.path for f in add}) != len(add):
        raise StorageError("a file to commit is named twice", place=draft.table)
    made = [checked(draft, file, draft.spec["spec-id"]) for file in add]
    if add:
        sync_folder(Path(draft.folder))
    return [file for file in made if file is not None]


@dataclass(frozen=True)
class _Attempt:
    """One commit, to be tried on one head after another."""

    heads: Heads
    request: Request
    files: Sequence[IcebergFile]
    number: int

    def on(self, head: Head | None) -> Snapshot | None:
        """The snapshot if the commit landed on this head; None if others were first and it may land on the next one.

        Raises: CommitConflict(E4002) if it may not.
        """
        if head is not None and (done := head.by_token(self.request.token)) is not None:
            return done
        self._require_base(head)
        folder = os.path.join(local(self.request.draft.location), "metadata")
        if head is None:
            os.makedirs(folder, exist_ok=True)
            for parent in list(Path(folder).parents)[:3]:
                sync_folder(parent)
        base = self._prepared(head)
        writer = Writer(folder, self.number, self.heads.uuid, base.meta)
        try:
            made = self.heads.replaced(head, base.table, with_snapshot(base.meta, self._snapshot(base, writer)))
        except CommitUnknown:
            raise
        except (PenstockError, OSError, sqlite3.Error):
            writer.drop()
            raise
        if made is None:
            writer.drop()
            return None
        return made.told(made.find(str(self.number)))

    def _require_base(self, head: Head | None) -> None:
        """Raises: CommitConflict(E4002) if the table is no longer as the draft needs it."""
        draft = self.request.draft
        if (head.meta["table-uuid"] if head else None) != (None if draft.base_schema_id is None else draft.uuid):
            raise self._conflict("the table was made or dropped meanwhile")
        if head is None:
            return
        if any(s.get("summary", {}).get(PREFIX + "draft") == draft.id for s in head.meta["snapshots"]):
            raise self._conflict("the draft was committed already, under another token")
        if head.version != draft.base and self.request.remove == "*":
            raise self._conflict("another writer committed first")
        base_columns = (head.schema_id, head.meta["last-column-id"], head.meta["default-spec-id"])
        if draft.changes_columns and base_columns != (draft.base_schema_id, draft.base_column_id, draft.base_spec_id):
            raise self._conflict("another writer changed the table's columns first")
        if not draft.changes_columns and {f.id for f in draft.schema} - {f.id for f in head.schema}:
            raise self._conflict("another writer dropped columns that the new files have")

    def _conflict(self, why: str) -> CommitConflict:
        return CommitConflict(f"{why}; nothing was committed", place=self.request.draft.table, hint="read again and repeat the step")

    def _prepared(self, head: Head | None) -> Head:
        """The table as it is, with the draft's columns and partition."""
        draft = self.request.draft
        if head is not None and not draft.changes_columns:
            return head
        meta = head.meta if head else empty(draft.uuid, draft.location, self.heads.now_ms())
        meta = with_columns(meta, schema_json(draft.schema, draft.schema_id), draft.last_column_id)
        return Head(draft.table, head.place if head else "", with_partition(meta, draft.spec))

    def _snapshot(self, base: Head, writer: Writer) -> Json:
        """Writes manifests and their list; returns the snapshot that names them."""
        found = manifests.of(base.current) if base.current else []
        kept, deletes, gone = self._split(base, found, writer)
        own = [*writer.added(self.request.draft.spec["spec-id"], self.files), *writer.removed(gone)]
        every = [*own, *writer.merged(kept), *deletes]
        sequence = base.meta["last-sequence-number"] + 1
        parent = base.current["snapshot-id"] if base.current else None
        made = {
            "snapshot-id": self.number,
            "sequence-number": sequence,
            "timestamp-ms": max(self.heads.now_ms(), base.meta["last-updated-ms"]),
            "manifest-list": writer.list(every, parent, sequence),
            "schema-id": base.schema_id,
            "summary": self._summary(base, [e.data_file for e in gone], every),
        }
        return made if parent is None else {**made, "parent-snapshot-id": parent}

    def _split(
        self, base: Head, found: Sequence[ManifestFile], writer: Writer
    ) -> tuple[list[ManifestFile], list[ManifestFile], list[ManifestEntry]]:
        """Manifests of files that stay, manifests of deletes that apply to them, and the entries of files that go."""
        remove = self.request.remove
        data, deletes = manifests.data(found), manifests.deletes(found)
        if remove == "*":
            return [], [], [e for m in data for e in manifests.entries(m)]
        if not remove:
            return data, deletes, []
        self._require_no_new_deletes(base, deletes)
        paths = set(remove)
        split = [writer.without(m, paths) for m in data]
        gone = [e for _, hit in split for e in hit]
        manifests.require_all({local(e.data_file.file_path) for e in gone}, paths, base.table)
        kept = [m for stays, _ in split for m in stays]
        return kept, manifests.still_needed(deletes, kept), gone

    def _require_no_new_deletes(self, base: Head, deletes: Sequence[ManifestFile]) -> None:
        """Rows that another engine deleted since the draft would come back with the files that replace theirs."""
        drafted = base.snapshots.get(int(self.request.draft.base or 0))
        known = {m.manifest_path for m in manifests.of(drafted)} if drafted else set()
        if any(m.manifest_path not in known for m in deletes):
            raise self._conflict("another writer deleted rows first")

    def _summary(self, base: Head, gone: Sequence[IcebergFile], every: Sequence[ManifestFile]) -> dict[str, str]:
        """Iceberg's counts of the change and of the table after it, and what the committer said."""
        request = self.request
        own = {"token": request.token, "operation": request.operation, "draft": request.draft.id}
        return {
            "operation": _ICEBERG_NAMES[request.operation],
            **_counts("added", "added", self.files),
            **_counts("deleted", "removed", gone),
            **manifests.totals(every, _sizes(base) + _size(self.files) - _size(gone)),
            **{PREFIX + key: value for key, value in {**request.summary, **own}.items()},
        }


def _counts(verb: str, size_verb: str, files: Sequence[IcebergFile]) -> dict[str, str]:
    if not files:
        return {}
    rows = sum(f.record_count for f in files)
    return {f"{verb}-data-files": str(len(files)), f"{verb}-records": str(rows), f"{size_verb}-files-size": str(_size(files))}


def _size(files: Sequence[IcebergFile]) -> int:
    return sum(f.file_size_in_bytes for f in files)


def _sizes(base: Head) -> int:
    summary: Mapping[str, Any] = base.current.get("summary", {}) if base.current else {}
    return int(summary.get("total-files-size", 0))
