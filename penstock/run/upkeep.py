"""Upkeep of tables: small files made into larger ones, old versions forgotten, files that nobody refers to removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from penstock.ground.digest import digest
from penstock.ground.errors import Busy
from penstock.ground.names import rejected_name
from penstock.ports.lake import DataFile, LakeUpkeep, Scan
from penstock.run.claims import claimed
from penstock.run.runtime import Runtime, snapshot_of
from penstock.spec.partitions import Partition
from penstock.spec.schema import Field, Schema

#: Files below this size are small; enough of them in one partition are written again as one.
SMALL_BYTES = 16 << 20
ENOUGH = 16
#: A file that nobody refers to may belong to a write under way; after a day it does not.
ORPHAN_AGE = timedelta(days=1)


@dataclass(frozen=True)
class Keep:
    """Which old versions stay readable: the newest `versions`, and all younger than `age`."""

    versions: int = 100
    age: timedelta = timedelta(days=7)


@dataclass(frozen=True)
class UpkeepResult:
    """What was done to one table."""

    table: str
    files_before: int
    files_after: int
    versions_forgotten: int
    orphans_removed: int

    def record(self) -> dict[str, Any]:
        return dict(vars(self))


def upkeep(
    runtime: Runtime,
    partitions: Mapping[str, Sequence[Partition]],
    *,
    keep: Keep = Keep(),
    orphan_age: timedelta = ORPHAN_AGE,
) -> list[UpkeepResult]:
    """Takes care of the tables of some assets. Readers see the same rows before, meanwhile and after.

    Args: partitions: the assets to care for, with how their tables are partitioned.

    An asset that another process works on is left for the next time. A kill at any point leaves at most orphans.
    """
    results = []
    tables = set(runtime.lake.tables())
    for name, partition in partitions.items():
        try:
            with claimed(runtime, f"asset:{name}", runtime.ids.new()):
                for table, split in ((name, partition), (rejected_name(name), ())):
                    if table in tables:
                        results.append(_one(runtime, name, table, split, keep, orphan_age))
        except Busy:
            continue
    return results


def needs_upkeep(files: int) -> bool:
    """Whether a table has so many files that it is worth a look; cheap enough to ask after each commit."""
    return files >= 2 * ENOUGH


def _one(runtime: Runtime, asset: str, table: str, partition: Sequence[Partition], keep: Keep, orphan_age: timedelta) -> UpkeepResult:
    before = runtime.lake.scan(table)
    after = compact(runtime, asset, table, before, partition)
    store: LakeUpkeep = runtime.lake  # type: ignore[assignment]
    now = runtime.clock.now()
    forgotten = store.expire(table, keep=keep.versions, before=min(now - keep.age, _oldest_in_use(runtime, table, now)))
    orphans = store.remove_orphans(table, older_than=now - orphan_age)
    return UpkeepResult(table, len(before.files), after, forgotten, len(orphans))


def _oldest_in_use(runtime: Runtime, table: str, now: datetime) -> datetime:
    """The moment of the oldest version that another asset's newest version was made of: its new rows are told from there."""
    heads = runtime.state.heads("asset")
    used = {str(r.body["inputs"][table]) for r in heads.values() if table in r.body.get("inputs", {})}
    used |= {snapshot_of(heads[table].body)} if table in heads else set()
    return min((s.at for s in runtime.lake.history(table) if s.version in used), default=now)


def compact(runtime: Runtime, asset: str, table: str, scan: Scan, partition: Sequence[Partition]) -> int:
    """Writes a table's small files again as larger ones, one partition at a time; returns the number of files after it.

    The asset's version stays what it was, because its rows did; only the snapshot that holds them is another.
    """
    small = [f for f in scan.files if f.size_bytes < SMALL_BYTES or f.deletes]
    by_partition: dict[tuple[Any, ...], list[DataFile]] = {}
    for file in small:
        by_partition.setdefault(file.partition, []).append(file)
    chosen = [f for files in by_partition.values() if len(files) >= ENOUGH for f in files]
    if not chosen:
        return len(scan.files)
    session = runtime.engine.session()
    try:
        draft = runtime.lake.draft(table, Schema(tuple(Field(f.name, f.type) for f in scan.schema)), partition=partition)
        session.bind("_small", Scan(scan.table, scan.version, scan.schema, tuple(chosen), scan.schemas))
        files = session.write("SELECT * FROM _small", draft)
    finally:
        session.close()
    paths = [f.path for f in chosen]
    snapshot = runtime.lake.commit(
        draft, files, token=f"{table}:{digest(sorted(paths))}:compact", remove=paths, summary={"asset": asset}, operation="compact"
    )
    if table == asset:
        _same_version(runtime, asset, scan.version, snapshot.version, snapshot.files)
    return snapshot.files


def _same_version(runtime: Runtime, asset: str, old: str, new: str, files: int) -> None:
    head = runtime.state.heads("asset", prefix=asset).get(asset)
    if head is not None and snapshot_of(head.body) == old:
        runtime.state.append("asset", asset, {**head.body, "snapshot": new, "files": files}, at=runtime.clock.now())
