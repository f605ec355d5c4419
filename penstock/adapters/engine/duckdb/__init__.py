"""DuckDB as engine: in this process, on all cores, out of core. Tested with 2.0.

Options: `memory_limit` (half of the machine's memory), `threads` (all cores), `spill_limit` (most of the free disk).
Limits: no bucket partitions (DuckDB has not got Iceberg's hash); object stores are reached through a local copy only.
"""

from __future__ import annotations

import os
from pathlib import Path

from penstock.adapters.engine.duckdb.session import DuckSession, Limits
from penstock.ground.ids import Ids
from penstock.ground.paths import private_folder
from penstock.ports.adapters import Context
from penstock.ports.engine import EngineCapabilities

__all__ = ["DuckEngine"]

RAW_FORMATS = frozenset({"csv", "tsv", "json", "ndjson", "parquet", "arrow", "excel"})


class DuckEngine:
    """See `ports.engine.Engine`. Each session is a database in memory of its own."""

    def __init__(self, spill: Path, limits: Limits, ids: Ids) -> None:
        self._spill = spill
        self._limits = limits
        self._ids = ids
        self.capabilities = EngineCapabilities(spills=True, memory_limit=True, raw_formats=RAW_FORMATS, cores=limits.threads)

    @classmethod
    def open(cls, url: str, context: Context) -> DuckEngine:
        options = context.options
        limits = Limits(
            memory=str(options.get("memory_limit") or f"{memory_bytes() // 2}B"),
            threads=int(options.get("threads") or len(os.sched_getaffinity(0))),
            spill=str(options.get("spill_limit") or ""),
        )
        return cls(context.folder / "spill", limits, context.ids)

    def session(self) -> DuckSession:
        return DuckSession(private_folder(self._spill / self._ids.new()), self._limits, self._ids)


def memory_bytes() -> int:
    """The memory this process may use: the machine's, or its control group's if that is less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        group = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return machine
    return min(machine, int(group)) if group.isdigit() else machine
