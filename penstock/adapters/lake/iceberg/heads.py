"""The newest metadata of each table: read through the catalog's row, replaced by swapping that row."""

from __future__ import annotations

import errno
import json
import os
import re
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

from penstock.adapters.lake.iceberg.metadata import Head, Json, logged, milliseconds
from penstock.adapters.lake.iceberg.places import local
from penstock.adapters.lake.iceberg.rows import CatalogRows
from penstock.ground.clock import Clock
from penstock.ground.digest import digest
from penstock.ground.errors import CommitConflict, CommitUnknown, PenstockError, StorageError, StorageFull
from penstock.ground.failpoints import reach
from penstock.ground.ids import Ids
from penstock.ground.paths import sync_folder


class Heads:
    """Heads of a catalog's tables, kept until their row names another file. Safe for several threads and processes."""

    def __init__(self, catalog: Path, clock: Clock, ids: Ids) -> None:
        self._catalog, self._clock, self._ids = catalog, clock, ids
        self._known: dict[str, Head] = {}
        self._lock = threading.Lock()

    @cached_property
    def rows(self) -> CatalogRows:
        return CatalogRows(self._catalog)

    def newest(self, table: str) -> Head | None:
        """None if there is no such table. Costs one row of the catalog, and one file if it changed since the last time."""
        while (place := self.rows.place(table)) is not None:
            known = self._known.get(table)
            if known is not None and known.place == place:
                return known
            try:
                meta = json.loads(Path(local(place)).read_bytes())
            except FileNotFoundError:
                if self.rows.place(table) != place:
                    continue  # others committed so often meanwhile that the file was cleared away
                raise
            return self._keep(Head(table, place, meta))
        return None

    def forget(self, table: str) -> None:
        with self._lock:
            self._known.pop(table, None)

    def _keep(self, head: Head) -> Head:
        with self._lock:
            self._known[head.table] = head
        return head

    def replaced(self, old: Head | None, table: str, meta: Json) -> Head | None:
        """Writes metadata and makes it the table's newest if `old` still is (None: if there is no such table); None if not.

        Durable: on return.
        Raises: CommitUnknown(E4003) if an error hides which of the two it was. After any other error it certainly is not.
        """
        next_ = logged(meta, old, max(self.now_ms(), meta["last-updated-ms"]))
        number = int("".join(re.findall(r"^\d+", os.path.basename(old.place))) or 0) + 1 if old else 0
        place = f"{meta['location']}/metadata/{number:05d}-{self.uuid()}.metadata.json"
        made = Head(table, place, next_.meta)
        try:
            _write_synced(Path(local(place)), made.encoded(old))
            reach("lake.commit.before")
            landed = self._swapped(table, old.place if old else None, place)
        except CommitUnknown:
            raise
        except (PenstockError, OSError, sqlite3.Error):
            _remove(place)
            raise
        if not landed:
            _remove(place)
            return None
        for path in next_.dropped:
            _remove(path)
        return self._keep(made)

    def _swapped(self, table: str, old: str | None, new: str) -> bool:
        try:
            return self.rows.swap(table, old, new, still=lambda: os.path.exists(local(new)))
        except sqlite3.Error as error:
            try:
                now = self.rows.place(table)
            except sqlite3.Error as again:
                raise CommitUnknown(
                    "the commit's answer was lost", place=table, got=error, hint="look the token up in the history"
                ) from again
            if now == new:
                return True
            raise

    def now_ms(self) -> int:
        return milliseconds(self._clock.now())

    def uuid(self) -> str:
        return str(uuid.UUID(hex=digest(self._ids.new()), version=4))

    def snapshot_id(self) -> int:
        """A new positive 63-bit number."""
        return int(digest(self._ids.new())[:16], 16) >> 1 or 1


def _write_synced(path: Path, data: bytes) -> None:
    with open(path, "xb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    sync_folder(path.parent)


def _remove(location: str) -> None:
    with suppress(OSError):
        os.unlink(local(location))


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Errors of the disk and of the catalog as ours."""
    try:
        yield
    except PenstockError:
        raise
    except (OSError, sqlite3.Error) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "disk is full" in str(error):
            raise StorageFull("no space left; nothing was committed", place=place, got=error, hint="free some space and repeat") from error
        if "locked" in str(error):
            raise CommitConflict("the catalog stayed locked; nothing was committed", place=place, got=error, hint="repeat") from error
        raise StorageError("the lake cannot be read or written", place=place, got=error) from error
