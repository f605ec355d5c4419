"""Keeping a project going in one process: its scheduler, and a worker that is there while there is work.

The process holds the scheduler's claim, or stands by until whoever holds it resigns, dies or does not renew it. What fires is queued; a
worker (`run.serve`) starts when something is ready, does each job in a process of its own, and ends when nothing is left. The server that
those processes come from ends by itself some seconds later, so that a project with nothing to do is this process alone, asleep.

It wakes for the next moment of a clock, for the next look at the files of sources, and for news in the state: whoever writes there, in
whatever process, changes its `pulse`, which is asked a few times a second. Nothing is kept in memory but what can be read again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from penstock.ground.errors import PenstockError
from penstock.ports.queue import LOST, QueuedJob
from penstock.project.code import sources
from penstock.project.jobs import worker
from penstock.project.project import Project
from penstock.project.triggers import Triggers
from penstock.run.claims import me
from penstock.run.scheduler import KIND, LEASE_S, POLL_S, Schedule, Scheduler, next_tick, schedule_of
from penstock.run.serve import GRACE_S, Server
from penstock.run.worker import relieve
from penstock.spec.automation import Arrived, Fresh, OnEvent, leaves

#: Seconds between looks at the state's pulse: of a file, and of a server that others use too.
PULSE_S, FAR_PULSE_S = 0.1, 1.0
#: Seconds between two rounds while something is under way or waits for a moment, and the least between any two.
BUSY_S, LEAST_S = 1.0, 0.05
#: Seconds between two looks at files that must be the same to be whole, where only one round is asked for.
SETTLE_S = 1.0
#: How many jobs of a run are told one by one.
TOLD = 100


@dataclass(frozen=True)
class News:
    """Something that happened. `kind`: active, standby, fired, started, made, done, failed, ended, waits, note, loaded, over."""

    kind: str
    name: str = ""
    text: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


Tell = Callable[[News], None]
Outcome = Literal["done", "lost", "standby"]


@dataclass(frozen=True)
class Pace:
    """How quick it is, in seconds: how long the scheduler's claim holds without a sign of life, how often files are looked at, and how long
    running jobs have when the process must end."""

    lease_s: float = LEASE_S
    poll_s: float = POLL_S
    grace_s: float = GRACE_S


class Up:
    """One process that keeps a project going; any number of them on one state.

    Args:
        tell: called for all that happens, from any thread, one call at a time.
        workers: how many jobs at once.
    """

    def __init__(self, project: Project, *, tell: Tell, workers: int = 1, pace: Pace = Pace()) -> None:
        self._project, self._workers, self._pace = project, workers, pace
        self._say, self._saying = tell, threading.Lock()
        self._over, self._wake = threading.Event(), threading.Event()
        self._owner = f"{me()}#{project.ids.new()}"
        self._server: Server | None = None
        self._thread: threading.Thread | None = None
        self._standing: str | None = None
        self._noted: frozenset[str] = frozenset()
        self._lost = self._bursts = self._seen = 0
        self._load()

    def _load(self) -> None:
        """Finds what the project declares. Raises: as `Project.found`."""
        found = self._project.found
        self._schedule: Schedule = schedule_of(self._project.graph, found.automations, found.jobs, found.flows)
        self._scheduler = Scheduler(
            self._schedule, self._project.state, owner=self._owner, list_files=self._project.list_files, lease_s=self._pace.lease_s,
            poll_s=self._pace.poll_s,
        )  # fmt: skip
        self._files = tuple(sources(self._project.root).values())
        self._code = self._signature()

    @property
    def triggers(self) -> Triggers:
        """What may be asked of the project from outside."""
        return Triggers(self._project, self.wake)

    @property
    def active(self) -> bool:
        return self._standing == ""

    @property
    def waits_for_events(self) -> bool:
        return any(isinstance(leaf, OnEvent) for a in self._schedule.automations.values() for leaf in leaves(a.when))

    # -- from outside -----------------------------------------------------------------------------------------------
    def wake(self) -> None:
        """Has the next round begin at once. From any thread, and from a signal's handler."""
        self._wake.set()

    def end(self) -> None:
        """Takes nothing new, and lets what runs end. Called again: gives back what runs, at once. From any thread, and from a handler."""
        self._over.set()
        if (server := self._server) is not None:
            server.end()
        self._wake.set()

    def tell(self, kind: str, text: str, data: Mapping[str, Any]) -> None:
        """Tells of something that happened around it."""
        self._tell(News(kind, "", text, data))

    def keep(self) -> None:
        """Keeps the project going until `end`."""
        try:
            while not self._over.is_set():
                self._sleep(self.round())
        finally:
            self._leave()

    def once(self) -> Outcome:
        """Lets fire what fires now, and does all that can be done now, with what follows from it. For a cron line, and for tests.

        Files are looked at twice, `poll_s` apart. Returns: `standby` if another process keeps the project going, `lost` if a job was lost.
        """
        try:
            looks = (
                2 if any(isinstance(leaf, Arrived | Fresh) for a in self._schedule.automations.values() for leaf in leaves(a.when)) else 1
            )
            while looks and not self._over.is_set():
                bursts = self._bursts
                self.round()
                if not self.active:
                    return "standby"
                if (thread := self._thread) is not None:
                    thread.join()
                if self._bursts > bursts:
                    continue  # what was done may make more fire
                looks -= 1
                if looks:
                    self._project.clock.wait(self._pace.poll_s)
        finally:
            self._leave()
        return "lost" if self._lost else "done"

    # -- a round ----------------------------------------------------------------------------------------------------
    def round(self) -> float:
        """One round: what fires is queued, and a worker is there if something is ready. Returns the seconds until the next one is due.

        Raises: what will not pass. That the state is away is told, once, and the next round tries again.
        """
        try:
            self._seen = self._project.state.pulse()  # before anything is read: what is written after that is news
            return self._round(self._project.clock.now())
        except PenstockError as error:
            if not error.retry:
                raise
            self._note([str(error)])
            return BUSY_S

    def _round(self, now: datetime) -> float:
        self._reload()
        ticked = self._scheduler.tick(now)
        self._stand(ticked.holder if not ticked.active else "")
        if not ticked.active:
            return self._pace.lease_s / 3
        for job in ticked.queued:
            self._fired(job)
        self._note(ticked.notes)
        counts = self._project.state.queue.counts()
        if counts["running"] and self._thread is None:
            relieve(self._project.runtime)
            counts = self._project.state.queue.counts()
        if counts["ready"]:
            self._work()
        return self._due(now, busy=bool(self._thread or counts["ready"] or counts["running"] or counts["waiting"]))

    def _due(self, now: datetime, *, busy: bool) -> float:
        tick = next_tick(self._schedule, now)
        found = [self._pace.lease_s / 3, BUSY_S if busy else self._pace.poll_s]
        found += [(tick - now).total_seconds()] if tick is not None else []
        return max(LEAST_S, min(found))

    def _sleep(self, seconds: float) -> None:
        """Until a moment has come, something woke us, or the state has news, if that is for us."""
        state, clock = self._project.state, self._project.clock
        pulse_s = FAR_PULSE_S if state.capabilities.several_machines else PULSE_S
        until = clock.tick() + seconds
        while not self._over.is_set() and (left := until - clock.tick()) > 0:
            if self._wake.wait(min(left, pulse_s) if self.active else left):
                break
            if self.active:
                try:
                    if state.pulse() != self._seen:
                        break
                except PenstockError:
                    continue  # the next round tells
        self._wake.clear()

    def _stand(self, holder: str) -> None:
        if self._standing == holder:
            return
        self._standing = holder
        if holder:
            if self._server is not None:
                self._server.end()
            self._tell(News("standby", "", f"{holder} keeps this project going; standing by", {"holder": holder}))
        else:
            names = sorted(self._schedule.automations)
            self._tell(
                News("active", "", f"{len(names)} automation{'' if len(names) == 1 else 's'}: {', '.join(names)}", {"automations": names})
            )

    # -- the project's code -----------------------------------------------------------------------------------------
    def _signature(self) -> tuple[Any, ...]:
        """What tells that a source file was edited: names, sizes and times, of one look at each."""
        found = []
        for path in self._files:
            with suppress(OSError):
                told = os.stat(path)
                found.append((path, told.st_size, told.st_mtime_ns))
        return tuple(found)

    def _reload(self) -> None:
        """Loads the project again after an edit. One that cannot be loaded leaves what was loaded before."""
        now = self._signature()
        if now == self._code:
            return
        before: dict[str, Any] = {name: self._project.__dict__.pop(name) for name in ("found", "graph") if name in self._project.__dict__}
        old = self._scheduler
        try:
            self._load()
        except PenstockError as error:
            self._project.__dict__.update(before)
            self._code = now
            self._tell(News("note", "", f"the edited code is not used: {error}", error.as_record()))
            return
        old.resign()
        names = sorted(self._schedule.automations)
        self._tell(News("loaded", "", f"the code changed and was loaded again: {', '.join(names)}", {"automations": names}))

    # -- work -------------------------------------------------------------------------------------------------------
    def _work(self) -> None:
        """Starts a worker unless one is at work."""
        if self._thread is not None or self._over.is_set():
            return
        self._server = server = worker(self._project, at_once=self._workers, tell=self._job, grace_s=self._pace.grace_s)
        self._bursts += 1
        self._thread = threading.Thread(target=self._serve, args=(server,), name="worker")
        self._thread.start()

    def _serve(self, server: Server) -> None:
        try:
            server.serve(until=lambda: True)
        except PenstockError as error:
            self._tell(News("note", "", f"the worker ended: {error}", error.as_record()))
        finally:
            self._server = self._thread = None
            self._wake.set()

    def _leave(self) -> None:
        """Lets what runs end, or gives it back, and gives the scheduler's claim to whoever stands by. A second `end` is heard meanwhile."""
        if not self._over.is_set():
            self.end()
        while (thread := self._thread) is not None:
            thread.join(0.2)
        try:
            self._scheduler.resign()
        except PenstockError as error:
            self._note([str(error)])
        self._tell(News("over"))

    # -- what is told -----------------------------------------------------------------------------------------------
    def _tell(self, news: News) -> None:
        with self._saying:
            self._say(news)

    def _note(self, notes: Any) -> None:
        """Tells what goes wrong when it begins to."""
        now = frozenset(notes)
        for text in sorted(now - self._noted):
            self._tell(News("note", "", text))
        self._noted = now

    def _fired(self, job: QueuedJob) -> None:
        payload = job.payload
        data = {"job": job.id, "run": job.run, "target": job.name, "because": payload.get("because", ""), "input": payload.get("input")}
        name = str(payload.get("automation") or job.name)
        self._tell(News("fired", name, f"{job.name}: {payload.get('because', '')}", data))

    def _job(self, job: QueuedJob, status: str) -> None:
        """Tells of a job as the worker does. Of a run within a job each asset is told, with its rows and cost."""
        if status == "started":
            again = f"attempt {job.attempt}" if job.attempt > 1 else ""
            self._tell(News("started", job.name, again, {"job": job.id, "run": job.run, "attempt": job.attempt}))
            return
        told = {"job": job.id, "run": job.run, "status": status, "cost": dict(job.cost), "result": job.result, "error": job.error}
        if status == "done":
            for made in self._made(job):
                self._tell(made)
            self._tell(News("done", job.name, "", told))
        elif status in LOST:
            self._lost += 1
            self._tell(News("failed", job.name, str((job.error or {}).get("message", status)), told))
        elif status in ("waiting", "ready"):
            at = f"again at {job.not_before:%H:%M:%S} UTC" if job.not_before else "again"
            self._tell(News("waits", job.name, f"{at} after {(job.error or {}).get('message', 'it was given back')}", told))
        else:
            self._tell(News("ended", job.name, status, told))

    def _made(self, job: QueuedJob) -> list[News]:
        """What a run within a job has made, in its order."""
        run = job.result.get("run") if job.kind == "asset" and isinstance(job.result, Mapping) else None
        if not run:
            return []
        found = [made for made in self._project.state.queue.jobs(run=str(run), limit=TOLD) if made.kind == "make"]
        return [
            News(
                "made",
                str(made.payload.get("asset")),
                "",
                {"job": made.id, "run": made.run, "cost": dict(made.cost), "result": made.result},
            )
            for made in reversed(found)
        ]


# -- looking ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class AutomationLine:
    """One automation, for people.

    Attributes:
        when: its condition, as it is declared. `fired`: how often.
        last: when it fired last, with the reason and the run; {} if it never did.
        now: what a look at it gives now, as a tree of reasons. `due`: whether it would fire.
    """

    name: str
    target: str
    when: str
    fired: int
    last: Mapping[str, Any]
    due: bool
    waits: str
    now: Mapping[str, Any]


def automations(project: Project) -> list[AutomationLine]:
    """Every automation of a project as it stands, by name. Changes nothing."""
    found, now = project.found, project.clock.now()
    schedule = schedule_of(project.graph, found.automations, found.jobs, found.flows)
    looks = Scheduler(schedule, project.state, owner="", list_files=project.list_files).explain(now)
    heads = project.state.heads(KIND)
    lines = []
    for name, automation in sorted(found.automations.items()):
        body = heads[name].body if name in heads else {}
        firing = body.get("firing") or {}
        last = {"at": firing["at"], "because": firing["text"], "run": firing["run"], "input": firing["data"]} if firing else {}
        look = looks[name]
        lines.append(
            AutomationLine(
                name, automation.target, str(automation.when), int(body.get("count", 0)), last, look.yes, str(look.why), look.why.as_json()
            )
        )
    return lines
