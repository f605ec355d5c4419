"""Trivial isolated tasks, many and in a chain, against a bare forkserver: what a process for each costs, with limits, logs and a cost record.

Both load the same modules ahead, and the first task, which waits for that, does not count. The bare program knows no limits, kills nothing
that a job leaves behind, tells no cost, and keeps no log; and its job stands in the program itself, which is loaded ahead, while ours is
imported by each task anew.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.measure import ROOT, emit

OURS = """
import json, sys, time
from collections import deque
from pathlib import Path
from penstock.adapters.compute.process import ProcessCompute
from penstock.ground.clock import SystemClock
from penstock.ports.compute import Limits, Task
how, count, logs = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
compute = ProcessCompute(SystemClock())
limits = Limits(memory_bytes=1 << 30, seconds=60)
def start(n, x):
    log = logs / f"{n % 100}.log"
    return compute.start(Task(str(n), "penstock.testing.jobs:add", {"a": x, "b": 1}, limits, log=log))
def end(handle):
    ended = handle.wait()
    assert ended.status == "done", ended.error
    return ended.result
first = time.perf_counter()
end(start(0, 0))
began = time.perf_counter()
if how == "many":
    live, total = deque(), 0
    for x in range(count):
        live.append(start(x, x))
        if len(live) == 2:
            total += end(live.popleft())
    total += sum(end(handle) for handle in live)
    assert total == count * (count + 1) // 2
else:
    x = 0
    for n in range(count):
        x = end(start(n, x))
    assert x == count
took = time.perf_counter() - began
compute.close()
print(json.dumps({"work": took, "ms_each": round(took / count * 1000, 2), "first_s": round(began - first, 2)}))
"""


def _run(*command: object) -> dict[str, Any]:
    """Not looked at while it runs: to find the memory of a tree of short processes costs as much as they do."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, *map(str, command)], stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True, env=environment)
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    lines = []
    with tempfile.TemporaryDirectory() as logs:
        program = Path(logs) / "ours.py"
        program.write_text(OURS)
        for how, count in (("many", 100 if quick else 1000), ("chain", 20 if quick else 100)):
            pairs = [
                (_run(program, how, count, logs), _run(ROOT / "bench" / "bare" / "jobs.py", how, count)) for _ in range(1 if quick else 5)
            ]
            ratios = sorted(ours["work"] / bare["work"] for ours, bare in pairs)
            middle = {
                f"{name}_{what}": statistics.median(pair[side][what] for pair in pairs)
                for side, name in enumerate(("penstock", "bare"))
                for what in ("ms_each", "first_s")
            }
            line = {"contest": f"jobs_{how}", "ratio": round(statistics.median(ratios), 3), "range": [round(ratios[0], 3), round(ratios[-1], 3)],
                    "goal_ms": 25, "jobs": count, **middle, "runs": len(pairs)}  # fmt: skip
            emit(line)
            lines.append(line)
    return lines
