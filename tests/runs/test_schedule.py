"""A project's own modules, scheduled: what is declared is found, and files and versions of the project make its automations fire."""

from __future__ import annotations

from pathlib import Path

from penstock.project.project import Project
from penstock.run.scheduler import Scheduler, schedule_of
from penstock.testing.clock import START, ManualClock, SeededIds

PIPELINE = '''
import penstock as ps
from penstock.spec.automation import arrived, automate, cron
from penstock.spec.jobs import command, flow, job

raw = ps.files("raw/*.csv")

@ps.table
def doubled(raw):
    return ps.sql("SELECT x * 2 AS x FROM raw")

@job(retries=2)
def tell(given, *, to: str = "me"):
    """Tells somebody."""
    return {"told": to}

mail = command("mail {to}", params={"to": "me"})
nightly = flow(doubled, tell, mail, params={"to": "you"})

automate(doubled, when=arrived(raw))
automate(nightly, when=cron("0 5 * * *", tz="Europe/Vienna") & ps.fresh(doubled))
'''


def test_a_project_runs_by_itself_when_files_come(tmp_path: Path) -> None:
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/a.csv").write_text("x\n1\n")
    clock = ManualClock()
    with Project.open(tmp_path, clock=clock, ids=SeededIds()) as project:
        found = project.found
        assert sorted(found.assets) == ["doubled", "raw"] == sorted(project.graph.nodes)
        assert sorted(found.jobs) == ["mail", "tell"]
        assert [getattr(s, "name", "") for s in found.flows["nightly"].steps] == ["doubled", "tell", "mail"]
        schedule = schedule_of(project.graph, found.automations, found.jobs, found.flows)
        scheduler = Scheduler(schedule, project.state, owner="me", list_files=project.list_files)

        def tick(seconds: float) -> list[str]:
            ticked = scheduler.tick(clock.advance(seconds))
            assert ticked.notes == ()
            return [job.name for job in ticked.queued]

        assert tick(0) == []
        assert tick(10) == ["asset:doubled"]
        assert tick(4 * 3600) == []  # five in Vienna has come, but the file is not loaded
        assert str(scheduler.explain(clock.now())["nightly"].why) == "doubled was never made"
        assert project.run("doubled").ok
        assert tick(10) == ["flow:nightly"]
        assert tick(10) == []
        (tmp_path / "raw/b.csv").write_text("x\n2\n")
        assert [tick(10), tick(10), tick(10)] == [[], ["asset:doubled"], []]
        assert "raw is not fresh: 1 file waits to be loaded" in str(scheduler.explain(clock.now())["nightly"].why)
        queued = project.state.queue.jobs(kind="asset")
        assert queued[0].payload["because"].startswith("files came to raw at 2026-01-01 04:00Z (1 new or changed file)")
        assert clock.now() > START


def test_edits_are_seen_by_the_next_load(tmp_path: Path) -> None:
    for name in ("early", "late"):
        (tmp_path / "pipeline.py").write_text(PIPELINE + f'automate(tell, when=cron("0 1 * * *"), name="{name}")\n')
        with Project.open(tmp_path) as project:
            assert sorted(project.found.automations) == sorted(["doubled", "nightly", name])
