"""The queue's tables in the file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from penstock.adapters.kit.queue import NEW, Dialect, Row, Run
from penstock.adapters.state.sqlite.file import StateFile, translated
from penstock.ground.clock import from_iso, iso
from penstock.ground.failpoints import reach

T = TypeVar("T")

_INSERT = f"INSERT INTO queue_jobs ({', '.join(NEW)}) VALUES ({', '.join('?' * len(NEW))}) ON CONFLICT DO NOTHING"


class QueueTables:
    """A writer is alone in the file, so no row needs a lock."""

    dialect = Dialect("SELECT value FROM json_each(:{})", "", "", "", iso, from_iso)

    def __init__(self, file: StateFile) -> None:
        self._file = file

    def write(self, work: Callable[[Run], T]) -> T:
        with self._file.writing() as connection:

            def run(sql: str, **values: Any) -> Sequence[Row]:
                return connection.execute(sql, values).fetchall()

            result = work(run)
            reach("queue.write.before")
        with translated(self._file.path):
            reach("queue.write.after")
        return result

    def read(self, sql: str, **values: Any) -> Sequence[Row]:
        return self._file.read(sql, values)

    def insert_jobs(self, run: Run, rows: Sequence[Row]) -> Collection[str]:
        before = run("SELECT coalesce(max(seq), 0) FROM queue_jobs")[0][0]
        connection = self._connection()
        if connection.executemany(_INSERT, rows).rowcount == len(rows):
            return {row[0] for row in rows}
        return {row[0] for row in run("SELECT id FROM queue_jobs WHERE seq > :before", before=before)}

    def insert_links(self, run: Run, links: Sequence[tuple[str, str]]) -> None:
        self._connection().executemany("INSERT INTO queue_after (blocker, job) VALUES (?, ?) ON CONFLICT DO NOTHING", links)

    def lock_key(self, run: Run, key: str) -> None:
        """Nothing to do."""

    def _connection(self) -> sqlite3.Connection:
        """The one that a transaction is under way on."""
        return self._file.connection
