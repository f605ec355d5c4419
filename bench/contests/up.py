"""What it takes to be there and to begin: `penstock up` with nothing to do, one look at 10,000 files, a file to its table, a warm job.

There is no bare program beside it; the figures stand alone. Latency is from the rename of a file, or the enqueue of a job, to what `up` tells of it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from bench.measure import emit

PENSTOCK = Path(sys.executable).with_name("penstock")
PIPELINE = """
import penstock as ps

raw = ps.files("raw/*.csv", columns={"x": "long"})

@ps.table(write=ps.append())
def log(raw):
    return ps.sql("SELECT x FROM raw")

@ps.job
def nothing(given):
    return None

ps.automate(log, when=ps.arrived(raw))
"""
POLL = """
import json, sys, time
from pathlib import Path
from penstock.project.project import Project
from penstock.run.scheduler import Scheduler, schedule_of
with Project.open(sys.argv[1]) as project:
    found = project.found
    schedule = schedule_of(project.graph, found.automations, found.jobs, found.flows)
    scheduler = Scheduler(schedule, project.state, owner="bench", list_files=project.list_files, poll_s=0.0)
    scheduler.tick(project.clock.now())
    scheduler.tick(project.clock.now())
    taken = []
    for _ in range(int(sys.argv[2])):
        began = time.process_time()
        scheduler.tick(project.clock.now())
        taken.append(time.process_time() - began)
    print(json.dumps(sorted(taken)[len(taken) // 2]))
"""


class Kept:
    """A `penstock up` as a process, and what it tells."""

    def __init__(self, folder: Path) -> None:
        self.began = time.time()
        self.process = subprocess.Popen([PENSTOCK, "-C", folder, "up", "--json", "--poll", "0.5"], stdout=subprocess.PIPE, text=True)
        self.told = self._read()
        self.state = psutil.Process(self.process.pid)

    def _read(self) -> Iterator[dict[str, Any]]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield {**json.loads(line), "seen": time.time()}

    def until(self, kind: str, name: str = "") -> dict[str, Any]:
        return next(news for news in self.told if (news["kind"], news["name"]) == (kind, name))

    def idle(self, seconds: float) -> dict[str, Any]:
        """CPU seconds a minute, resident MB and processes beneath, over a span with nothing to do."""
        before, began = self.state.cpu_times(), time.perf_counter()
        time.sleep(seconds)
        after = self.state.cpu_times()
        spent = after.user + after.system - before.user - before.system
        return {
            "cpu_s_a_minute": round(spent * 60 / (time.perf_counter() - began), 3), "rss_mb": round(self.state.memory_info().rss / 1e6),
            "processes": len(self.state.children(recursive=True)),
        }  # fmt: skip

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()


def _put(folder: Path, name: str) -> float:
    draft = folder / "raw" / f".{name}"
    draft.write_text("x\n1\n")
    draft.rename(folder / "raw" / name)
    return time.time()


def _job(folder: Path) -> float:
    from penstock.ports.queue import NewJob
    from penstock.project.project import Project

    with Project.open(folder) as project:
        payload = {"job": "nothing", "input": None, "params": {}}
        project.state.queue.enqueue([NewJob("job:nothing", "job", payload)], now=project.clock.now())
        return time.time()


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    span, repeats, files = (5.0, 2, 1000) if quick else (60.0, 9, 10_000)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "kept"
        (folder / "raw").mkdir(parents=True)
        (folder / "pipeline.py").write_text(PIPELINE)
        kept = Kept(folder)
        line: dict[str, Any] = {"contest": "up", "start_s": round(kept.until("active")["seen"] - kept.began, 2)}
        line["idle_before_work"] = kept.idle(span)
        moment = _put(folder, "0.csv")
        line["first_file_to_table_s"] = round(kept.until("done", "asset:log")["seen"] - moment, 2)
        warm = []
        for n in range(repeats):
            moment = _put(folder, f"{n + 1}.csv")
            warm.append(kept.until("done", "asset:log")["seen"] - moment)
        line["file_to_table_s"] = round(statistics.median(warm), 2)
        jobs, inside = [], []
        for _ in range(repeats):
            moment = _job(folder)
            done = kept.until("done", "job:nothing")
            jobs.append(done["seen"] - moment)
            inside.append(done["cost"]["seconds"])
        line["job_enqueued_to_done_ms"] = round(statistics.median(jobs) * 1000)
        line["job_itself_ms"] = round(statistics.median(inside) * 1000)
        if not quick:
            time.sleep(65)  # until the server of processes has ended
        line["idle_after_work"] = kept.idle(span)
        kept.end()

        many = Path(place) / "many"
        (many / "raw").mkdir(parents=True)
        (many / "pipeline.py").write_text(PIPELINE)
        for n in range(files):
            (many / "raw" / f"{n}.csv").write_text("x\n1\n")
        told = subprocess.run([sys.executable, "-c", POLL, many, "5"], stdout=subprocess.PIPE, text=True, check=True)
        line[f"tick_with_{files}_files_cpu_ms"] = round(json.loads(told.stdout) * 1000, 1)
    emit(line)
    return [line]
