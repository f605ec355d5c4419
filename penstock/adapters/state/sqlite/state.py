"""The state in one SQLite file."""

from __future__ import annotations

from pathlib import Path

from penstock.adapters.kit.queue import SqlQueue
from penstock.adapters.kit.records import SqlRecords
from penstock.adapters.state.sqlite.file import StateFile
from penstock.adapters.state.sqlite.tables import Tables
from penstock.ground.clock import Clock
from penstock.ground.ids import Ids, SystemIds
from penstock.ports.adapters import Context
from penstock.ports.queue import Queue
from penstock.ports.state import StateCapabilities


class SqliteState(SqlRecords):
    """The embedded state. Safe to share between threads; other processes open the same file, a forked child too (it may not inherit)."""

    capabilities = StateCapabilities(several_processes=True)

    def __init__(self, path: Path, clock: Clock, ids: Ids | None = None) -> None:
        """Opens or makes the file. Raises: as `StateFile`."""
        self._file = StateFile(path, clock)
        tables = Tables(self._file)
        super().__init__(tables)
        self.queue: Queue = SqlQueue(tables, ids or SystemIds(clock))

    @classmethod
    def open(cls, url: str, context: Context) -> SqliteState:
        """`sqlite://` is `state.db` in the project's own folder; `sqlite:///relative` counts from the folder above it, `sqlite:////abs`."""
        rest = url.removeprefix("sqlite://")
        return cls(context.folder.parent / rest[1:] if rest else context.folder / "state.db", context.clock, context.ids)

    def pulse(self) -> int:
        return int(self._file.read("PRAGMA data_version")[0][0])

    def close(self) -> None:
        """Gives the connection back. Repeat: does nothing."""
        self._file.close()
