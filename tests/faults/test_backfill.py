"""A backfill that is killed: the next one does what is left, repeats no finished slice, and gives the same table."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from penstock.project.project import Project

pytestmark = pytest.mark.fault
PIPELINE = """
import penstock as ps

raw = ps.files("data/*.csv", columns={"id": "long", "amount": "long", "ts": "timestamp"})

@ps.table(time="month", key="month", write=ps.slices("month", of="raw", on="ts"))
def monthly(raw):
    return ps.sql("SELECT date_trunc('month', ts) AS month, sum(amount) AS total FROM raw GROUP BY 1")
"""
CALL = (
    "import sys; from penstock.ground.failpoints import arm_from_environment as arm; arm()\n"
    "from penstock.cli.command import command; command(sys.argv[1:])"
)


def make(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "pipeline.py").write_text(PIPELINE)
    (folder / "data" / "a.csv").write_text("id,amount,ts\n" + "".join(f"{m},{m},2013-{m:02}-05\n" for m in range(1, 13)))


def fill(folder: Path, failpoints: str = "") -> tuple[int, str]:
    call = [sys.executable, "-c", CALL, "-C", str(folder), "run", "monthly", "--backfill", "2013-01..2013-12"]
    ended = subprocess.run(
        call,
        env={**os.environ, "PENSTOCK_FAILPOINTS": failpoints},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
        check=False,
    )
    return ended.returncode, ended.stdout.decode()


@pytest.mark.parametrize("point", ["worker.claimed", "run.computed", "run.written", "run.published", "run.recorded", "worker.recorded"])
def test_killed_in_the_middle_the_next_backfill_does_what_is_left(tmp_path: Path, point: str) -> None:
    make(tmp_path)
    with Project.open(tmp_path) as project:
        project.run("raw")
    code, out = fill(tmp_path, f"{point}=kill@5")
    assert code == -signal.SIGKILL, out
    with Project.open(tmp_path) as project:
        before = {job.id for job in project.state.queue.jobs(kind="slice", status=("done",), limit=100)}
        commits = len(project.runtime.lake.history("monthly"))
        assert project.query("SELECT count(*) AS n FROM monthly").rows()[0]["n"] == commits
        assert len(before) in (4, 5)
    code, out = fill(tmp_path)
    assert code == 0, out
    assert "monthly is fresh" in out
    with Project.open(tmp_path) as project:
        assert project.run("monthly").nothing
        found = project.query("SELECT month(month) AS month, total FROM monthly ORDER BY 1").rows()
        assert [(r["month"], r["total"]) for r in found] == [(m, m) for m in range(1, 13)]
        assert len(project.runtime.lake.history("monthly")) == 12, "a slice was committed twice"
        made = Counter(job.name for job in project.state.queue.jobs(kind="slice", limit=100) if (job.result or {}).get("status") == "made")
        assert set(made.values()) == {1}
        assert not any(project.state.queue.counts()[status] for status in ("waiting", "ready", "running", "failed", "dead"))
