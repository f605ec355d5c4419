"""Where this process runs tasks in processes of their own: one server for each way, kept for all projects that are opened here."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from penstock.ports.adapters import Context
from penstock.ports.compute import Compute
from penstock.project.adapters import opened

#: What every task needs, and what a training function needs besides; loaded once, before the first task.
ALWAYS = ("numpy", "pyarrow", "pyarrow.compute", "pyarrow.parquet", "duckdb")
LEARNING = ("sklearn.ensemble", "sklearn.linear_model", "skops.io")
#: Libraries that are loaded before the first task if a source file of the project names them.
NAMED = ("lightgbm", "xgboost", "polars", "pandas")

_open: dict[tuple[str, tuple[tuple[str, str], ...]], Compute] = {}
_lock = threading.Lock()


def shared(url: str, context: Context) -> Compute:
    """The compute of a URL, opened once in this process and closed at its end."""
    key = (url, tuple(sorted((k, str(v)) for k, v in context.options.items())))
    with _lock:
        if key not in _open:
            made = cast("Compute", opened("compute", url, context))
            atexit.register(made.close)
            _open[key] = made
        return _open[key]


def default_url(sources: Mapping[str, Path], *, learns: bool, own: Sequence[str] = ()) -> str:
    """Processes of this machine, with the modules loaded that the project's tasks will need; `own` are modules of Penstock."""
    named = [m for m in NAMED if find_spec(m) is not None and any(m.encode() in path.read_bytes() for path in sources.values())]
    wanted = [*ALWAYS, *own, *(m for m in LEARNING if learns and find_spec(m.partition(".")[0]) is not None), *named]
    return f"process://?preload={','.join(wanted)}"
