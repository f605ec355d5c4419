"""`python -m bench [NAME ...] [--quick]`: runs the contests and prints one JSON line each; `--out FILE` keeps them.

`python -m bench.peers` does the same with the peers.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
from collections.abc import Sequence
from pathlib import Path

from bench.measure import CACHE, emit, machine

NAMES = (
    "start",
    "plan",
    "csv",
    "checks",
    "appends",
    "merge",
    "files",
    "jobs",
    "queue",
    "pit",
    "training",
    "batch",
    "registry",
    "leaks",
    "up",
    "loop",
)


def main(prog: str = "python -m bench", package: str = "bench.contests", known: Sequence[str] = NAMES) -> None:
    parser = argparse.ArgumentParser(prog=prog, description="Runs contests and prints one JSON line for each comparison.")
    parser.add_argument("names", nargs="*", help=f"which contests: {', '.join(known)}")
    parser.add_argument("--quick", action="store_true", help="a tenth of the data and one run: to see that it works, not to quote")
    parser.add_argument("--out", type=Path, help="also write the lines here")
    asked = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    lines = [machine()]
    emit(lines[0])
    for name in asked.names or known:
        lines += importlib.import_module(f"{package}.{name}").main(quick=asked.quick)
    if asked.out:
        asked.out.write_text("".join(json.dumps(line, default=str) + "\n" for line in lines))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
