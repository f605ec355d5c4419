"""Time to `import penstock`, and to `penstock --help`, against a bare interpreter."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.measure import emit

COMMANDS = {
    "import": ([sys.executable, "-c", "import penstock"], 0.1),
    "help": ([str(Path(sys.executable).with_name("penstock")), "--help"], 0.2),
}


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    runs = 5 if quick else 15
    nothing = _median([sys.executable, "-c", "pass"], runs)
    lines = []
    for name, (command, goal) in COMMANDS.items():
        took = _median(command, runs)
        over = took - nothing if name == "import" else took
        line = {
            "contest": f"start_{name}",
            "seconds": round(over, 3),
            "goal_s": goal,
            "bare_interpreter_s": round(nothing, 3),
            "runs": runs,
        }
        emit(line)
        lines.append(line)
    return lines


def _median(command: list[str], runs: int) -> float:
    took = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        took.append(time.perf_counter() - began)
    return statistics.median(took[1:])
