"""The tables in the file, as the SQL of records and queue wants them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from penstock.adapters.kit.database import Dialect, Row, Run
from penstock.adapters.state.sqlite.file import StateFile, translated
from penstock.ground.clock import from_iso, iso
from penstock.ground.failpoints import reach

T = TypeVar("T")


class Tables:
    """A writer is alone in the file, so nothing needs a lock."""

    dialect = Dialect("IN (SELECT value FROM json_each(:{}))", "", "", "", iso, from_iso)

    def __init__(self, file: StateFile) -> None:
        self._file = file
        self.name = file.path.name

    def write(self, work: Callable[[Run], T], *, point: str = "") -> T:
        with self._file.writing() as connection:
            result = work(_runner(connection))
            if point:
                reach(f"{point}.before")
        if point:
            with translated(self._file.path):
                reach(f"{point}.after")
        return result

    def read(self, sql: str, **values: Any) -> Sequence[Row]:
        return self._file.read(sql, values)

    def insert(self, run: Run, table: str, columns: Sequence[str], rows: Sequence[Row], *, returned: str = "") -> Sequence[Row]:
        before = run(f"SELECT max(rowid) FROM {table}")[0][0] or 0 if returned else 0
        marks = ", ".join("?" * len(columns))
        self._file.connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks}) ON CONFLICT DO NOTHING", rows)
        return run(f"SELECT {returned} FROM {table} WHERE rowid > :before ORDER BY rowid", before=before) if returned else []

    def lock(self, run: Run, name: str) -> None:
        """Nothing to do."""


def _runner(connection: sqlite3.Connection) -> Run:
    def run(sql: str, **values: Any) -> Sequence[Row]:
        return connection.execute(sql, values).fetchall()

    return run
