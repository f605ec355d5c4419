"""Runs programs as children, watches time and memory of the whole process tree, and prints one JSON line for each comparison."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("PENSTOCK_BENCH_CACHE", Path.home() / ".cache" / "penstock-bench"))


@dataclass(frozen=True)
class Measured:
    """One run of one program: wall seconds, seconds of the work itself as told by the program, peak MB, and what it printed."""

    wall: float
    work: float
    peak_mb: float
    said: dict[str, Any] = field(default_factory=dict)


def child(code: str, *args: object, env: dict[str, str] | None = None, python: str | Path = sys.executable) -> Measured:
    """Runs Python code as a process of its own; its last line of output is JSON with at least `work` (seconds).

    Args: python: another interpreter than this one.
    Peak: sum of resident memory over the process tree, looked at every 20 ms (shared pages count once per process).
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        [str(python), "-c", code, *map(str, args)],
        stdout=subprocess.PIPE,
        env={**{k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}, **(env or {})},
        cwd=ROOT,
    )
    peak = [0.0]
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(process.pid, peak, over), daemon=True)
    watcher.start()
    out, _ = process.communicate()
    wall = time.perf_counter() - began
    over.set()
    watcher.join()
    if process.returncode != 0:
        raise RuntimeError(f"a measured program failed with {process.returncode}")
    lines = out.decode().strip().splitlines()
    said = json.loads(lines[-1]) if lines else {}
    return Measured(wall, float(said.pop("work", wall)), peak[0] / 1e6, said)


def _watch(pid: int, peak: list[float], over: threading.Event) -> None:
    root = psutil.Process(pid)
    while not over.wait(0.02):
        try:
            family = [root, *root.children(recursive=True)]
            peak[0] = max(peak[0], float(sum(p.memory_info().rss for p in family)))
        except psutil.Error:
            continue


def compare(
    contest: str,
    ours: Callable[[], Measured],
    bare: Callable[[], Measured],
    *,
    runs: int = 3,
    goal: float | None = None,
    warm: bool = True,
    other: str = "bare",
    **more: Any,
) -> dict[str, Any]:
    """Runs both in turn and prints the median ratio of their work; the first pair warms the disk's cache and does not count.

    Args: other: what the columns of the second are called.
    """
    if warm:
        ours(), bare()
    pairs = [(ours(), bare()) for _ in range(runs)]
    ratios = sorted(a.work / b.work for a, b in pairs)
    line = {
        "contest": contest, "ratio": round(statistics.median(ratios), 3), "range": [round(ratios[0], 3), round(ratios[-1], 3)], "goal": goal,
        "penstock_s": round(statistics.median(a.work for a, _ in pairs), 3), f"{other}_s": round(statistics.median(b.work for _, b in pairs), 3),
        "penstock_wall_s": round(statistics.median(a.wall for a, _ in pairs), 3), f"{other}_wall_s": round(statistics.median(b.wall for _, b in pairs), 3),
        "penstock_peak_mb": round(max(a.peak_mb for a, _ in pairs)), f"{other}_peak_mb": round(max(b.peak_mb for _, b in pairs)), "runs": runs,
        "said": pairs[-1][0].said, f"{other}_said": pairs[-1][1].said, **more,
    }  # fmt: skip
    emit(line)
    return line


def emit(line: dict[str, Any]) -> None:
    print(json.dumps(line, default=str), flush=True)


def machine(packages: Sequence[str] = ("duckdb", "pyarrow", "pyiceberg", "scikit-learn", "polars")) -> dict[str, Any]:
    """What the figures were taken on."""
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=False).stdout.strip()
    load = os.getloadavg()[0]
    memory = round(psutil.virtual_memory().total / 1e9)
    return {"machine": platform.machine(), "cores": os.cpu_count(), "memory_gb": memory, "python": platform.python_version(),
            "commit": commit, "load": round(load, 2), "date": time.strftime("%Y-%m-%d"), "versions": versions}  # fmt: skip
