"""Rows of the catalog in SQLite: one per table, which names its newest metadata file. Swapping that name is the commit.

The layout is that of pyiceberg's SqlCatalog and Iceberg's JdbcCatalog (V1), so that all three work on the same rows.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from penstock.ground.paths import private_folder

#: Spark and Trino must use the same name, or they see no tables and say nothing.
CATALOG = "penstock"
NAMESPACE = "main"

_TABLES = (
    "CREATE TABLE IF NOT EXISTS iceberg_tables (catalog_name VARCHAR(255) NOT NULL, table_namespace VARCHAR(255) NOT NULL,"
    " table_name VARCHAR(255) NOT NULL, metadata_location VARCHAR(1000), previous_metadata_location VARCHAR(1000),"
    " iceberg_type VARCHAR(5), PRIMARY KEY (catalog_name, table_namespace, table_name))",
    "CREATE TABLE IF NOT EXISTS iceberg_namespace_properties (catalog_name VARCHAR(255) NOT NULL, namespace VARCHAR(255) NOT NULL,"
    " property_key VARCHAR(255) NOT NULL, property_value VARCHAR(1000) NOT NULL, PRIMARY KEY (catalog_name, namespace, property_key))",
    f"INSERT OR IGNORE INTO iceberg_namespace_properties VALUES ('{CATALOG}', '{NAMESPACE}', 'exists', 'true')",
)
_ONE = f"catalog_name = '{CATALOG}' AND table_namespace = '{NAMESPACE}' AND table_name = ?"
_IS_TABLE = "(iceberg_type = 'TABLE' OR iceberg_type IS NULL)"
#: How long a writer waits for another, in seconds. A swap takes a millisecond; the state shares the file and is as quick.
_WAIT_S = 60.0


class CatalogRows:
    """The catalog's tables in one SQLite file. Safe for several threads and processes; a forked child opens its own."""

    def __init__(self, path: Path) -> None:
        """Raises: sqlite3.Error, OSError."""
        private_folder(path.parent)
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
        if self._db.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            path.chmod(0o600)  # before the WAL is made, which takes it over
            _use_wal(self._db)
        self._db.execute("PRAGMA synchronous = FULL")
        if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'iceberg_namespace_properties'").fetchone():
            self._transact(lambda: [self._db.execute(statement) for statement in _TABLES])

    def names(self) -> list[str]:
        """Tables, sorted."""
        where = f"catalog_name = '{CATALOG}' AND table_namespace = '{NAMESPACE}' AND {_IS_TABLE}"
        with self._lock:
            found = self._db.execute(f"SELECT table_name FROM iceberg_tables WHERE {where} ORDER BY table_name").fetchall()
        return [str(name) for (name,) in found]

    def place(self, table: str) -> str | None:
        """Where a table's newest metadata is, None if there is no such table."""
        with self._lock:
            found = self._db.execute(f"SELECT metadata_location FROM iceberg_tables WHERE {_ONE} AND {_IS_TABLE}", (table,)).fetchone()
        return str(found[0]) if found else None

    def swap(self, table: str, old: str | None, new: str, *, still: Callable[[], bool]) -> bool:
        """Makes `new` the newest metadata if `old` is (None: if there is no such table); False if it is not.

        `still` is asked while the file is locked against other writers; False gives the swap up.
        Durable: on return. Raises: sqlite3.Error; then nothing was changed.
        """

        def change() -> bool:
            if old is None:
                values = "(catalog_name, table_namespace, table_name, metadata_location, iceberg_type) VALUES (?, ?, ?, ?, 'TABLE')"
                done = self._db.execute(f"INSERT OR IGNORE INTO iceberg_tables {values}", (CATALOG, NAMESPACE, table, new))
            else:
                assign = "metadata_location = ?, previous_metadata_location = ?"
                where = f"{_ONE} AND metadata_location = ?"
                done = self._db.execute(f"UPDATE iceberg_tables SET {assign} WHERE {where}", (new, old, table, old))
            return done.rowcount == 1 and still()

        return self._transact(change)

    def remove(self, table: str, then: Callable[[], object]) -> None:
        """Forgets a table and calls `then` while the file is locked against other writers."""

        def change() -> bool:
            self._db.execute(f"DELETE FROM iceberg_tables WHERE {_ONE}", (table,))
            then()
            return True

        self._transact(change)

    def _transact(self, change: Callable[[], bool | Sequence[object]]) -> bool:
        """Runs a change with the write lock; a false answer or an error takes it back."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                if done := bool(change()):
                    self._db.execute("COMMIT")
                return done
            finally:
                if self._db.in_transaction:
                    with suppress(sqlite3.Error):
                        self._db.execute("ROLLBACK")


def _use_wal(db: sqlite3.Connection) -> None:
    """Turns the file to WAL. Another process may be doing the same, and SQLite does not wait for that by itself."""
    for left in range(500, -1, -1):
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if not left:
                raise
            threading.Event().wait(0.01)
        else:
            return
