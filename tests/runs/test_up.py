"""`up` in this process: what it does in one go, what it tells, edits of the code, and that it does nothing where another is active."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.ports.queue import NewJob
from penstock.project.project import Project
from penstock.project.up import News, Pace, Up, automations
from penstock.run.scheduler import CLAIM
from penstock.testing.clock import ManualClock

PIPELINE = '''
import penstock as ps

raw = ps.files("raw/*.csv")

@ps.table
def doubled(raw):
    return ps.sql("SELECT x * 2 AS x FROM raw")

@ps.job
def tell(given, *, to: str = "me"):
    """Tells somebody."""
    return {"told": to, "version": given["version"]}

ps.automate(doubled, when=ps.arrived(raw))
ps.automate(tell, when=ps.updated(doubled), params={"to": "you"})
'''
PACE = Pace(poll_s=0.1, lease_s=5.0, grace_s=5.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/a.csv").write_text("x\n1\n2\n")
    return tmp_path


def went(told: list[News]) -> list[tuple[str, str]]:
    return [(news.kind, news.name) for news in told]


def test_a_file_that_came_is_followed_to_the_end_and_told(folder: Path) -> None:
    told: list[News] = []
    with Project.open(folder) as project:
        assert Up(project, tell=told.append, pace=PACE).once() == "done"
        assert went(told) == [
            ("active", ""), ("fired", "doubled"), ("started", "asset:doubled"), ("made", "raw"), ("made", "doubled"), ("done", "asset:doubled"),
            ("fired", "tell"), ("started", "job:tell"), ("done", "job:tell"), ("over", ""),
        ]  # fmt: skip
        assert "files came to raw" in told[1].text
        made, done = told[4], told[8]
        assert made.data["result"]["body"]["rows"] == 2 and made.data["cost"]["seconds"] > 0
        assert done.data["result"] == {"told": "you", "version": project.state.heads("asset")["doubled"].body["version"]}
        assert project.query("SELECT x FROM doubled ORDER BY x").rows() == [{"x": 2}, {"x": 4}]

        told.clear()
        assert Up(project, tell=told.append, pace=PACE).once() == "done"
        assert went(told) == [("active", ""), ("over", "")]
        lines = {line.name: line for line in automations(project)}
        assert [(line.target, line.fired, line.due) for line in lines.values()] == [("doubled", 1, False), ("tell", 1, False)]
        assert lines["doubled"].waits.startswith("no files came to raw")
        assert "files came to raw" in lines["doubled"].last["because"]


def test_a_job_that_fails_is_told_with_its_error(folder: Path) -> None:
    (folder / "pipeline.py").write_text(PIPELINE.replace('given["version"]', 'given["no such key"]'))
    told: list[News] = []
    with Project.open(folder) as project:
        assert Up(project, tell=told.append, pace=PACE).once() == "lost"
    failed = next(news for news in told if news.kind == "failed")
    assert failed.name == "job:tell" and failed.data["error"]["code"] == "E5001" and "KeyError" in failed.text


def test_where_another_is_active_nothing_is_done(folder: Path) -> None:
    told: list[News] = []
    with Project.open(folder) as project:
        project.state.claim(CLAIM, "elsewhere/1/2", now=project.clock.now(), lease_s=60)
        assert Up(project, tell=told.append, pace=PACE).once() == "standby"
        assert went(told) == [("standby", ""), ("over", "")]
        assert told[0].data["holder"] == "elsewhere/1/2"
        assert project.state.queue.jobs() == []


def test_a_clock_that_jumps_loses_no_tick_and_makes_none_twice(folder: Path) -> None:
    (folder / "pipeline.py").write_text(PIPELINE.split("ps.automate")[0] + 'ps.automate(tell, when=ps.cron("0 * * * *"))\n')
    told: list[News] = []
    clock = ManualClock()
    with Project.open(folder, clock=clock) as project:
        project.state.queue.pause()  # what fires is to stay where it is
        up = Up(project, tell=told.append, pace=PACE)

        def fired(seconds: float) -> int:
            before = len(project.state.queue.jobs())
            clock.advance(seconds)
            assert 0 < up.round() <= PACE.lease_s / 3
            return len(project.state.queue.jobs()) - before

        assert [fired(0), fired(1800), fired(1800)] == [0, 0, 1]
        assert [fired(-7200), fired(3600), fired(3600)] == [0, 0, 0]  # back, and there again
        assert [fired(3600), fired(30 * 3600), fired(60)] == [1, 1, 0]  # a day passed in between: the newest tick counts for all
        up.end()
        up.keep()
    assert [news.kind for news in told if news.kind in ("standby", "note")] == []


class Kept:
    """An `up` in a thread, and what it has told."""

    def __init__(self, project: Project) -> None:
        self.told: list[News] = []
        self._changed = threading.Condition()
        self.up = Up(project, tell=self._tell, pace=PACE)
        self._thread = threading.Thread(target=self.up.keep)
        self._thread.start()

    def _tell(self, news: News) -> None:
        with self._changed:
            self.told.append(news)
            self._changed.notify_all()

    def until(self, seen: Callable[[News], bool]) -> News:
        with self._changed:
            assert self._changed.wait_for(lambda: any(map(seen, self.told)), timeout=60), went(self.told)
            return next(filter(seen, self.told))

    def end(self) -> None:
        self.up.end()
        self._thread.join(30)
        assert not self._thread.is_alive()


def test_edits_are_loaded_and_broken_ones_are_not(folder: Path) -> None:
    with Project.open(folder) as project:
        kept = Kept(project)
        try:
            kept.until(lambda news: (news.kind, news.name) == ("done", "job:tell"))
            (folder / "pipeline.py").write_text(PIPELINE + "\nthis is no Python\n")
            assert "SyntaxError" in kept.until(lambda news: news.kind == "note").text
            (folder / "pipeline.py").write_text(PIPELINE + 'ps.automate(tell, when=ps.failed(doubled), name="alarm")\n')
            assert kept.until(lambda news: news.kind == "loaded").data["automations"] == ["alarm", "doubled", "tell"]
            (folder / "raw/b.csv").write_text("x\n5\n")
            kept.until(lambda news: news.kind == "made" and news.name == "doubled" and news.data["result"]["body"]["rows"] == 3)
        finally:
            kept.end()
        assert kept.told[-1].kind == "over"
        assert project.state.claim(CLAIM, "next", now=project.clock.now(), lease_s=1).owner == "next"  # it was given back


def test_what_another_process_queues_is_done_at_once(folder: Path) -> None:
    with Project.open(folder) as project, Project.open(folder) as other:
        kept = Kept(project)
        try:
            kept.until(lambda news: (news.kind, news.name) == ("done", "job:tell"))
            job = other.state.queue.jobs(kind="job")[0]
            new = NewJob(job.name, "job", job.payload, "AGAIN")
            again = other.state.queue.enqueue([new], now=other.clock.now())[0]
            kept.until(lambda news: news.kind == "done" and news.data["job"] == again.id)
        finally:
            kept.end()
