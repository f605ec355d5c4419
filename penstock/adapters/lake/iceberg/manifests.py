"""Manifests and manifest lists: which files a version has, which it added and which it removed.

Manifests never change. Every commit adds one; so that a version of a thousand commits does not have a thousand of them, those of one
size class (1-15 files, 16-255, ...) are merged when a class has `FAN` of them.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, cast

from pyiceberg.io import FileIO, InputFile, InputStream, OutputFile, OutputStream
from pyiceberg.manifest import DataFile as IcebergFile
from pyiceberg.manifest import (
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    read_manifest_list,
    write_manifest,
    write_manifest_list,
)
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema as IcebergSchema

from penstock.adapters.lake.iceberg.places import local, schema_id_of, uri
from penstock.ground.errors import CommitConflict, Unsupported
from penstock.ports.lake import DataFile

FAN = 16


# -- files ----------------------------------------------------------------------------------------------------------
class _SyncedOutput(OutputFile):  # type: ignore[misc]
    """A local file that is on disk when its stream is closed."""

    def __len__(self) -> int:
        return os.path.getsize(local(self.location))

    def exists(self) -> bool:
        return os.path.exists(local(self.location))

    def to_input_file(self) -> InputFile:
        return _LocalInput(self.location)

    def create(self, overwrite: bool = False) -> OutputStream:
        return cast(OutputStream, _Synced(local(self.location), "wb" if overwrite else "xb"))


class _Synced:
    def __init__(self, path: str, mode: str) -> None:
        self._file: BinaryIO = cast(BinaryIO, open(path, mode))  # noqa: SIM115 - closed by `close`

    def write(self, data: bytes) -> int:
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> _Synced:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _LocalInput(InputFile):  # type: ignore[misc]
    def __len__(self) -> int:
        return os.path.getsize(local(self.location))

    def exists(self) -> bool:
        return os.path.exists(local(self.location))

    def open(self, seekable: bool = True) -> InputStream:
        return cast(InputStream, open(local(self.location), "rb"))


class _LocalFiles(FileIO):  # type: ignore[misc]
    """Local files for pyiceberg, without its own Arrow file system: that one costs two seconds of imports and syncs nothing."""

    def new_input(self, location: str) -> InputFile:
        return _LocalInput(location)

    def new_output(self, location: str) -> OutputFile:
        return _SyncedOutput(location)

    def delete(self, location: str | InputFile | OutputFile) -> None:
        os.unlink(local(location if isinstance(location, str) else location.location))


FILES = _LocalFiles()


# -- reading --------------------------------------------------------------------------------------------------------
def of(snapshot: Mapping[str, Any]) -> list[ManifestFile]:
    """The manifests of a version."""
    return list(read_manifest_list(FILES.new_input(snapshot["manifest-list"])))


def entries(manifest: ManifestFile, *, removed_too: bool = False) -> list[ManifestEntry]:
    """The files a manifest names; `removed_too` gives also those it only remembers as removed."""
    return list(manifest.fetch_manifest_entry(FILES, discard_deleted=not removed_too))


def data(manifests: Iterable[ManifestFile]) -> list[ManifestFile]:
    return [m for m in manifests if m.content == ManifestContent.DATA]


def deletes(manifests: Iterable[ManifestFile]) -> list[ManifestFile]:
    return [m for m in manifests if m.content == ManifestContent.DELETES]


def files(manifests: Sequence[ManifestFile], schemas: Collection[int], place: str) -> tuple[DataFile, ...]:
    """The files of a version: in the order they were committed in, with the position deletes that apply to them.

    Raises: Unsupported(E4007) for files and deletes that no engine here can read.
    """
    live = [e for m in data(manifests) for e in entries(m)]
    gone = [e for m in deletes(manifests) for e in entries(m)]
    for entry in (*live, *gone):
        _require_readable(entry.data_file, place)
    live.sort(key=lambda e: e.sequence_number or 0)
    return tuple(port_file(e, schemas, _deletes_of(e, gone)) for e in live)


def _require_readable(file: IcebergFile, place: str) -> None:
    if file.content == DataFileContent.EQUALITY_DELETES:
        raise Unsupported(
            "the table has equality deletes", place=place, got=file.file_path, hint="compact the table with the engine it came from"
        )
    if file.file_format != FileFormat.PARQUET:
        kind = "deletion vectors (puffin)" if file.file_format == FileFormat.PUFFIN else f"{file.file_format} files"
        raise Unsupported(f"the table has {kind}", place=place, expected="Parquet", got=file.file_path)


def _deletes_of(entry: ManifestEntry, gone: Sequence[ManifestEntry]) -> tuple[str, ...]:
    """Position deletes that may hold positions of a file. Source: Iceberg specification v2, "Scan Planning"."""
    return tuple(
        local(d.data_file.file_path)
        for d in gone
        if (d.sequence_number or 0) >= (entry.sequence_number or 0)
        and d.data_file.spec_id == entry.data_file.spec_id
        and d.data_file.partition == entry.data_file.partition
    )


def port_file(entry: ManifestEntry, schemas: Collection[int], deletes: tuple[str, ...] = ()) -> DataFile:
    file = entry.data_file
    path = local(file.file_path)
    number = schema_id_of(path)
    values = tuple(v if v is None or isinstance(v, int | str | float) else str(v) for v in _values(file))
    return DataFile(path, file.record_count, file.file_size_in_bytes, values, number if number in schemas else None, deletes)


def _values(file: IcebergFile) -> list[Any]:
    return [file.partition[i] for i in range(len(file.partition))]


def added_and_removed(
    snapshot: Mapping[str, Any], found: Sequence[ManifestFile], schemas: Collection[int]
) -> tuple[list[DataFile], list[DataFile]]:
    """Files that one version added, and files it removed."""
    number = snapshot["snapshot-id"]
    own = [e for m in data(found) if m.added_snapshot_id == number for e in entries(m, removed_too=True) if e.snapshot_id == number]
    own.sort(key=lambda e: e.sequence_number or 0)
    added, removed = (
        [port_file(e, schemas) for e in own if e.status == status] for status in (ManifestEntryStatus.ADDED, ManifestEntryStatus.DELETED)
    )
    return added, removed


def added_by(snapshots: Collection[int], found: Sequence[ManifestFile], schemas: Collection[int]) -> tuple[DataFile, ...]:
    """Files of a version that some earlier versions added, in their order; for versions that only added files."""
    made = [e for m in data(found) if m.added_snapshot_id in snapshots for e in entries(m) if e.snapshot_id in snapshots]
    return tuple(port_file(e, schemas) for e in sorted(made, key=lambda e: e.sequence_number or 0))


def still_needed(gone: Sequence[ManifestFile], kept: Sequence[ManifestFile]) -> list[ManifestFile]:
    """Manifests of deletes that apply to at least one file of the kept manifests."""
    if not gone:
        return []
    live = [e for m in kept for e in entries(m)]
    return [m for m in gone if any(_deletes_of(e, entries(m)) for e in live)]


def totals(found: Sequence[ManifestFile], size_bytes: int) -> dict[str, str]:
    """Iceberg's counts of a version, from its manifests."""
    live, gone = data(found), deletes(found)
    positions = sum(_rows(m) for m in gone)
    return {
        "total-data-files": str(sum(_files(m) for m in live)),
        "total-records": str(sum(_rows(m) for m in live)),
        "total-files-size": str(size_bytes),
        "total-delete-files": str(sum(_files(m) for m in gone)),
        "total-position-deletes": str(positions),
        "total-equality-deletes": "0",
    }


def _files(manifest: ManifestFile) -> int:
    return (manifest.added_files_count or 0) + (manifest.existing_files_count or 0)


def _rows(manifest: ManifestFile) -> int:
    return (manifest.added_rows_count or 0) + (manifest.existing_rows_count or 0)


# -- writing --------------------------------------------------------------------------------------------------------
class Writer:
    """Writes the manifests of one snapshot into a table's metadata folder; `written` are the paths so far."""

    def __init__(self, folder: str, snapshot_id: int, name: Callable[[], str], meta: Mapping[str, Any]) -> None:
        self._folder, self._snapshot, self._name = folder, snapshot_id, name
        self._schemas = [IcebergSchema.model_validate(s) for s in meta["schemas"]]
        self._specs = {s["spec-id"]: PartitionSpec.model_validate(s) for s in meta["partition-specs"]}
        self.written: list[str] = []

    def manifest(self, spec_id: int, found: Iterable[ManifestEntry]) -> ManifestFile:
        """Writes entries as they are; there must be at least one."""
        spec = self._specs[spec_id]
        made = write_manifest(2, spec, self._schema_of(spec), self._new(f"{self._name()}-m.avro"), self._snapshot, "deflate")
        with made as out:
            for entry in found:
                out.add_entry(entry)
        return made.to_manifest_file()

    def added(self, spec_id: int, files: Sequence[IcebergFile]) -> list[ManifestFile]:
        """The manifest of new files."""
        made = [_entry(ManifestEntryStatus.ADDED, self._snapshot, None, file) for file in files]
        return [self.manifest(spec_id, made)] if made else []

    def removed(self, found: Sequence[ManifestEntry]) -> list[ManifestFile]:
        """Manifests that tell which files this snapshot removes."""
        by_spec: dict[int, list[ManifestEntry]] = defaultdict(list)
        for e in found:
            by_spec[e.data_file.spec_id].append(_entry(ManifestEntryStatus.DELETED, self._snapshot, e, e.data_file))
        return [self.manifest(spec_id, gone) for spec_id, gone in by_spec.items()]

    def without(self, manifest: ManifestFile, gone: Collection[str]) -> tuple[list[ManifestFile], list[ManifestEntry]]:
        """What stays of a manifest when files are removed, and the entries of those it had."""
        found = entries(manifest)
        hit = [e for e in found if local(e.data_file.file_path) in gone]
        if not hit:
            return [manifest], []
        stays = [_existing(e) for e in found if local(e.data_file.file_path) not in gone]
        return [self.manifest(manifest.partition_spec_id, stays)] if stays else [], hit

    def merged(self, manifests: Sequence[ManifestFile]) -> list[ManifestFile]:
        """The same files in fewer manifests, if there are too many of one size class and partition spec."""
        classes: dict[tuple[int, int], list[ManifestFile]] = defaultdict(list)
        for m in filter(_files, manifests):
            classes[m.partition_spec_id, _size_class(_files(m))].append(m)
        made: list[ManifestFile] = []
        for (spec_id, _), alike in classes.items():
            full = len(alike) >= FAN
            made += [self.manifest(spec_id, [_existing(e) for m in alike for e in entries(m)])] if full else alike
        return made

    def list(self, manifests: Sequence[ManifestFile], parent: int | None, sequence_number: int) -> str:
        """Writes the manifest list and returns its location."""
        output = self._new(f"snap-{self._snapshot}-{self._name()}.avro")
        with write_manifest_list(2, output, self._snapshot, parent, sequence_number, "deflate") as out:
            out.add_manifests([*manifests])
        return str(output.location)

    def drop(self) -> None:
        """Removes what was written; for a commit that certainly did not land."""
        for path in self.written:
            with suppress(OSError):
                os.unlink(path)
        self.written.clear()

    def _schema_of(self, spec: PartitionSpec) -> IcebergSchema:
        """The newest schema that has all columns of a spec."""
        sources = {f.source_id for f in spec.fields}
        return next(s for s in reversed(self._schemas) if sources <= set(s.field_ids))

    def _new(self, name: str) -> OutputFile:
        path = os.path.join(self._folder, name)
        self.written.append(path)
        return FILES.new_output(uri(path))


def _size_class(files: int) -> int:
    size = 0
    while files >= FAN:
        files, size = files // FAN, size + 1
    return size


def _existing(entry: ManifestEntry) -> ManifestEntry:
    return _entry(ManifestEntryStatus.EXISTING, entry.snapshot_id, entry, entry.data_file)


def _entry(status: ManifestEntryStatus, snapshot_id: int | None, was: ManifestEntry | None, file: IcebergFile) -> ManifestEntry:
    return ManifestEntry.from_args(
        status=status,
        snapshot_id=snapshot_id,
        sequence_number=was.sequence_number if was else None,
        file_sequence_number=was.file_sequence_number if was else None,
        data_file=file,
    )


def require_all(found: Collection[str], wanted: Collection[str], place: str) -> None:
    """Raises: CommitConflict(E4002) if files to remove are not there (any more)."""
    if missing := sorted(set(wanted) - set(found)):
        raise CommitConflict(
            "files to remove are no longer in the table", place=place, expected=missing[0], got="gone", hint="read again and repeat"
        )
