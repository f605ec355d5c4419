"""A deterministic simulation of schedulers and workers on one state: crashes at any call, stopped processes that wake, jumping clocks.

    python -m penstock.testing.simulation SEED        # replays one seed and prints what happened

Everything runs in one thread, and chance comes from the seed, so that a seed is the same story each time. A process reaches the state
through a `Link`. At each call it may die (before or after the call took effect), see an error, or be stopped: then the other processes go
on, perhaps until its leases have ended, before the call is made. After some time the trouble ends, and when all is quiet the records must
tell a story in which

    every tick of a line that catches up was queued once, in order, and none is missing; the same for every event and every new version;
    what is written down as fired is queued, and nothing else is; no two schedulers wrote at the same time;
    no step stands in the journal twice, and the output of every flow is that of calling its steps;
    nothing runs beyond its lease where a scheduler looks, and everything has ended.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from penstock.craft.schedule.cron import between
from penstock.ground.clock import from_iso
from penstock.ground.errors import Busy, Fenced, PenstockError, SourceUnreachable, StorageError
from penstock.plan.retries import retry_at
from penstock.ports.adapters import Context
from penstock.ports.queue import LIVE, Lease, Offers, QueuedJob
from penstock.ports.state import State
from penstock.project.adapters import adapter_class
from penstock.run import flow as flows
from penstock.run.events import raise_event
from penstock.run.journal import stable_id
from penstock.run.scheduler import LEASE_S, Schedule, Scheduler
from penstock.spec.automation import Automation, Cron, OnEvent, Updated
from penstock.spec.jobs import Branch, Each, Flow, Job, Make, step_named
from penstock.testing.clock import START, ManualClock, SeededIds
from penstock.testing.states import MemoryState

T = TypeVar("T")
#: The URL of the state that a project has when it says nothing.
EMBEDDED = "sqlite://"
#: Seconds of a worker's lease.
WORK_S = 15.0
#: How many turns the trouble takes, and how many may pass until all is quiet after it.
TROUBLE, QUIET = 120, 3000


class Broken(AssertionError):
    """What must hold does not."""


class Crash(BaseException):
    """A simulated process dies: nothing of Penstock catches it."""


class Chance:
    """Numbers that follow from a seed. Source: splitmix64 (Steele, Lea, Flood 2014)."""

    def __init__(self, seed: int) -> None:
        self._state = seed * 0x9E3779B97F4A7C15 & (2**64 - 1)

    def below(self, n: int) -> int:
        self._state = (self._state + 0x9E3779B97F4A7C15) & (2**64 - 1)
        z = self._state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & (2**64 - 1)
        return (z ^ (z >> 31)) % n

    def of(self, permille: int) -> bool:
        return self.below(1000) < permille

    def one(self, *choices: T) -> T:
        return choices[self.below(len(choices))]


# -- what is scheduled ----------------------------------------------------------------------------------------------
def _count(given: Any, *, n: int = 2) -> Any:
    return {"items": list(range(n)), "from": given}


def _double(given: Any) -> Any:
    return given * 2


def _size(given: Any) -> str:
    return "some" if len(given) > 1 else "few"


def _note(given: Any) -> Any:
    return given


_COUNT = Job("count", _count, (), True, (("n", 2),))
_DOUBLE = Job("double", _double, (), True, retries=3, backoff="1s")
_NOTE = Job("note", _note, (), True, retries=5, backoff="1s", at_once=2)
_FLOW = Flow(
    "flow",
    (
        _COUNT,
        Each("all", _DOUBLE, "items", 2),
        (_NOTE.named("left"), Flow("inner", (_NOTE.named("a"), _NOTE.named("b")))),
        Branch("size", _size, (("some", _NOTE.named("end")),), Make("asset", "make")),
    ),
)
MINUTE = Cron("* * * * *", "Europe/Vienna", "all")
SCHEDULE = Schedule(
    {
        "minutely": Automation("count", MINUTE, "minutely"),
        "newest": Automation("asset", Cron("*/2 * * * *", "America/New_York"), "newest"),
        "on_event": Automation("flow", OnEvent("go"), "on_event"),
        "on_version": Automation("note", Updated("asset"), "on_version"),
        "both": Automation("count", Updated("asset") & OnEvent("go"), "both"),
    },
    {job.name: job for job in (_COUNT, _DOUBLE, _NOTE)},
    {"flow": _FLOW},
    {"asset": ()},
)


# -- processes ------------------------------------------------------------------------------------------------------
class Link:
    """One process's way to an object of the state; see the module for what may happen on it."""

    def __init__(self, world: World, process: Process, inner: Any, place: str) -> None:
        self._world, self._process, self._inner, self._place = world, process, inner, place

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name == "queue":
            return Link(self._world, self._process, found, "queue")
        if not callable(found):
            return found
        return lambda *args, **named: self._world.called(self._process, f"{self._place}.{name}", lambda: found(*args, **named))


@dataclass
class Process:
    """A scheduler or worker. `offset`: seconds by which its clock is wrong."""

    name: str
    world: World
    offset: float = 0.0
    stopped: bool = False
    lives: int = 0
    born: float = 0.0

    def now(self) -> datetime:
        return self.world.clock.now() + timedelta(seconds=self.offset)

    def start(self) -> None:
        """Begins anew, as a process with another name."""

    def step(self) -> None:
        """Does one thing."""

    @property
    def owner(self) -> str:
        return f"{self.name}/{self.lives}"

    def link(self) -> State:
        linked: Any = Link(self.world, self, self.world.state, "state")
        return linked  # type: ignore[no-any-return]


class Scheduling(Process):
    """A process with a scheduler in it."""

    def start(self) -> None:
        self.scheduler = Scheduler(SCHEDULE, self.link(), owner=self.owner, list_files=lambda source: ())

    def step(self) -> None:
        now = self.now()
        ticked = self.scheduler.tick(now)
        if ticked.notes:
            raise Broken(f"the scheduler notes {ticked.notes}")
        if ticked.active and not self.world.trouble and self.world.clock.tick() > self.world.calm_from + 2 * LEASE_S:
            late = [j.id for j in self.world.state.queue.jobs(status=["running"]) if j.until is not None and j.until <= now]
            if late:
                raise Broken(f"{late} run beyond their leases where a scheduler looked")


class Working(Process):
    """A process with a worker in it: one job at a time, some heartbeats long."""

    def start(self) -> None:
        self.state = self.link()
        self.lease: Lease | None = None
        self.left = 0

    def step(self) -> None:
        try:
            self._step()
        except Fenced:
            self.world.tell(self, "was taken for dead")
            self.lease = None

    def _step(self) -> None:
        if self.lease is None:
            self.lease = self.state.queue.claim(self.owner, Offers(10**9, 4), now=self.now(), lease_s=WORK_S)
            self.left = self.world.chance.one(0, 0, 1, 3) if self.world.trouble else 0
        elif self.left:
            self.left -= 1
            self.lease = self.state.queue.heartbeat(self.lease, now=self.now(), lease_s=WORK_S)
        else:
            self._finish(self.lease)
            self.lease = None

    def _finish(self, lease: Lease) -> None:
        job = lease.job
        try:
            result = self._result(job)
        except Fenced:
            raise
        except (SourceUnreachable, Busy) as error:
            told = error.as_record()
            self.state.queue.fail(lease, told, now=self.now(), retry_at=retry_at(job, self.now(), told))
            return
        self.state.queue.complete(lease, now=self.now(), result=result)

    def _result(self, job: QueuedJob) -> Any:
        if job.kind == "flow":
            return {"left": len(flows.advance(self.state, _FLOW, job, owner=self.owner, now=self.now()).works)}
        if self.world.trouble and self.world.chance.of(60):
            raise SourceUnreachable("it failed by chance", place=job.name)
        if job.kind == "asset":
            return self._made(job)
        step = step_named(_FLOW, job.payload["step"]) if "step" in job.payload else SCHEDULE.jobs[job.payload["job"]]
        if isinstance(step, Branch):
            return step.by(job.payload["input"])
        assert isinstance(step, Job)
        assert step.function is not None
        return step.function(job.payload["input"], **job.payload["params"])

    def _made(self, job: QueuedJob) -> Any:
        """Makes a version of the asset as runs do: under a claim, and none that is there already."""
        claim = self.state.claim("asset:asset", self.owner, now=self.now(), lease_s=WORK_S)
        try:
            made = self.state.history("asset", "asset", limit=10**6)
            if all(record.body["job"] != job.id for record in made):
                self.state.append("asset", "asset", {"version": job.id, "inputs": {}, "job": job.id}, at=self.now(), claim=claim)
        finally:
            self.state.release(claim)
        return {"asset": "asset", "version": job.id}


class Raising(Process):
    """Somebody who raises an event now and then."""

    raised = 0

    def start(self) -> None:
        self.state = self.link()

    def step(self) -> None:
        if self.world.trouble and self.raised < 2 and self.world.chance.of(150):
            self.raised += 1
            data = list(range(self.world.chance.below(5)))
            raise_event(self.state, "go", {"some": data}, known={"go"}, now=self.now(), given="t", expected="t")


# -- the world ------------------------------------------------------------------------------------------------------
@dataclass
class World:
    """All processes, the true clock, and what may go wrong, in thousandths of all calls."""

    seed: int
    state: State
    clock: ManualClock
    chance: Chance
    crash: int = 0
    fault: int = 0
    stop: int = 0
    trouble: bool = True
    calm_from: float = 0.0
    processes: list[Process] = field(default_factory=list)
    story: list[str] = field(default_factory=list)

    def tell(self, process: Process | None, text: str) -> None:
        self.story.append(f"{self.clock.tick():9.1f} {process.owner if process else '':14} {text}")

    def called(self, process: Process, what: str, work: Callable[[], T]) -> T:
        if not self.trouble:
            return work()
        if self.chance.of(self.crash):
            if self.chance.of(500):
                work()
                self.tell(process, f"dies after {what}")
            else:
                self.tell(process, f"dies before {what}")
            raise Crash
        if self.chance.of(self.fault):
            lost = self.chance.of(500)
            self.tell(process, f"sees an error {'after' if lost else 'before'} {what}")
            if lost:
                work()
            raise StorageError("a simulated error", place=what)
        if self.chance.of(self.stop) and sum(p.stopped for p in self.processes) < 2:
            self._stopped(process, what)
        return work()

    def _stopped(self, process: Process, what: str) -> None:
        turns = self.chance.one(1, 5, 30)
        self.tell(process, f"is stopped before {what}")
        process.stopped = True
        for _ in range(turns):
            self.turn()
        process.stopped = False
        self.tell(process, "wakes")

    def turn(self) -> None:
        """One process does one thing, and time passes."""
        self.clock.advance(self.chance.below(1000) / 1000)
        awake = [p for p in self.processes if not p.stopped and p.born <= self.clock.tick()]
        if self.trouble and self.chance.of(25):
            self._jump()
        if not awake:
            return
        process = awake[self.chance.below(len(awake))]
        try:
            process.step()
        except Crash:
            process.lives += 1
            process.born = self.clock.tick() + self.chance.below(20)
            process.start()
        except PenstockError as error:
            if not isinstance(error, StorageError) or not self.trouble:
                raise Broken(f"{process.owner}: {error}") from error
            if isinstance(process, Working):
                process.lease = process.lease if self.chance.of(500) else None  # it may go on, or give up

    def _jump(self) -> None:
        if self.chance.of(300):
            seconds = self.chance.one(30.0, 100.0, 300.0)
            self.clock.advance(seconds)
            self.tell(None, f"{seconds:.0f} s pass in which nothing runs")
        else:
            process = self.chance.one(*self.processes)
            process.offset = self.chance.one(-4.0, 0.0, 4.0)
            self.tell(process, f"has a clock that is {process.offset:+.0f} s wrong")

    def run(self) -> None:
        first = next(p for p in self.processes if isinstance(p, Scheduling))
        self.trouble = False
        first.step()  # so that all automations have been looked at once
        self.trouble = True
        for _ in range(TROUBLE):
            self.turn()
        self.trouble = False
        self.calm_from = self.clock.tick()
        for process in self.processes:
            process.offset = 0.0
        for n in range(QUIET):
            self.turn()
            if n % 20 == 19 and self.clock.tick() > self.calm_from + 3 * LEASE_S and self._all_ended():
                break
        else:
            raise Broken(f"not all has ended: {[(j.name, j.status) for j in self.state.queue.jobs(status=LIVE)]}")
        check(self.state, self.clock.now())

    def _all_ended(self) -> bool:
        """Whether no job is left, also after one more look of every scheduler."""
        if self.state.queue.jobs(status=LIVE, limit=1):
            return False
        for process in self.processes:
            if isinstance(process, Scheduling):
                process.step()
        return not self.state.queue.jobs(status=LIVE, limit=1)


# -- what must hold -------------------------------------------------------------------------------------------------
def check(state: State, now: datetime) -> None:
    """Raises: Broken, unless the records tell such a story as the module says."""
    queue = state.queue
    jobs: list[QueuedJob] = []
    while page := queue.jobs(below=jobs[-1].seq if jobs else None, limit=500):
        jobs += page
    jobs.reverse()
    by_automation = {name: [j for j in jobs if j.payload.get("automation") == name] for name in SCHEDULE.automations}
    _ticks([j.payload["input"]["tick"] for j in by_automation["minutely"]], now)
    newest = [j.payload["because"] for j in by_automation["newest"]]
    _expect(len(newest) == len(set(newest)), "a tick was queued twice", newest)
    events = [r.body["data"] for r in reversed(state.history("event", "go", limit=10**6))]
    _expect([j.payload["input"] for j in by_automation["on_event"]] == events, "not every event was queued once", events)
    versions = [r.body["version"] for r in reversed(state.history("asset", "asset", limit=10**6))]
    seen = [j.payload["input"]["version"] for j in by_automation["on_version"]]
    _expect(len(seen) == len(set(seen)) and seen == [v for v in versions if v in seen], "a version was queued twice, or out of order", seen)
    _expect(seen[-1:] == versions[-1:], "the newest version was not seen", versions)
    _expect(len(versions) == len(set(versions)), "a version was made twice", versions)
    for name, queued in by_automation.items():
        _firings(state, name, queued)
    _journal(state, jobs)


def _ticks(found: list[str], now: datetime) -> None:
    ticks = [from_iso(text) for text in found]
    expected = list(between(MINUTE.text, MINUTE.tz, START, max([now, *ticks])))
    _expect(ticks == expected[: len(ticks)] and len(expected) - len(ticks) <= (max([now, *ticks]) - now > timedelta(0)), "ticks", found)


def _firings(state: State, name: str, queued: list[QueuedJob]) -> None:
    bodies = [r.body for r in reversed(state.history("automation", name, limit=10**6))]
    counts = [body["count"] for body in bodies]
    _expect(
        all(0 <= after - before <= 1 for before, after in zip([0, *counts], counts, strict=False)), f"{name} was written by two", counts
    )
    runs = list(dict.fromkeys(body["firing"]["run"] for body in bodies if body["firing"]))
    _expect(len(runs) == (counts[-1] if counts else 0), f"{name}: firings are not as many as counted", runs)
    _expect([j.run for j in queued] == runs, f"{name}: what is queued is not what fired", runs)


def _journal(state: State, jobs: list[QueuedJob]) -> None:
    keys = Counter(r.key for r in state.history("journal", limit=10**6))
    _expect(max(keys.values(), default=1) == 1, "a step stands in the journal twice", keys.most_common(1))
    ended = {r.key: r.body["output"] for r in state.history("flow", limit=10**6)}
    by_run: dict[str, list[QueuedJob]] = {}
    for job in jobs:
        by_run.setdefault(job.run, []).append(job)
    for run, mine in by_run.items():
        started = next((j for j in mine if j.id == stable_id("flow", run)), None)
        if started is None:
            continue
        doubled = [2 * n for n in range(2)]
        expected: Any = [doubled, doubled]
        if run in ended:
            _expect(ended[run] == expected or ended[run]["asset"] == "asset", f"flow {run} gave something else", ended[run])
        else:
            lost = [j for j in mine if j.status in ("failed", "dead")]
            _expect(bool(lost), f"flow {run} neither ended nor failed", [(j.name, j.status) for j in mine])


def _expect(holds: bool, what: str, got: Any) -> None:
    if not holds:
        raise Broken(f"{what}: {got}")


# -- running it -----------------------------------------------------------------------------------------------------
@contextmanager
def states(kind: str) -> Iterator[Callable[[int], State]]:
    """Makes a new state for a seed: the one in memory for `memory`, else what a URL such as EMBEDDED opens.

    Files are in a memory-backed folder where there is one, so that a sync costs nothing.
    """
    if kind == "memory":
        yield lambda seed: MemoryState()
        return
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=shared if shared.is_dir() else None))
    adapter = adapter_class("state", kind)
    context = Context(folder / "project", ManualClock(), SeededIds(), lambda name: "")
    try:
        yield lambda seed: adapter.open(f"{kind}/{seed}.db", context)
    finally:
        shutil.rmtree(folder)


def simulate(seed: int, state: State) -> World:
    """One story on a new state. Raises: Broken with the seed and the end of the story."""
    chance = Chance(seed)
    world = World(seed, state, ManualClock(), chance, chance.one(0, 5, 15), chance.one(0, 5, 15), chance.one(0, 4, 12))
    kinds: list[tuple[str, type[Process]]] = [(f"scheduler{i}", Scheduling) for i in range(chance.one(1, 2, 3))]
    kinds += [(f"worker{i}", Working) for i in range(chance.one(1, 2, 4))]
    kinds.append(("user", Raising))
    world.processes = [kind(name, world) for name, kind in kinds]
    for process in world.processes:
        process.start()
    try:
        world.run()
    except Exception as error:
        story = "\n".join(world.story[-40:])
        raise Broken(f"seed {seed}: {error}\n{story}\nreplay: python -m penstock.testing.simulation {seed}") from error
    return world


def run_seeds(seeds: Iterable[int], *, kind: str = EMBEDDED) -> Counter[str]:
    """Simulates seeds one after the other; gives how often what happened, over all. Raises: Broken."""
    told: Counter[str] = Counter()
    with states(kind) as new:
        for seed in seeds:
            state = new(seed)
            try:
                world = simulate(seed, state)
                told["fires"] += sum(int(r.body["count"]) for r in state.heads("automation").values())
                told.update({status: n for status, n in state.queue.counts().items() if n})
            finally:
                state.close()
            told.update(line[25:].split(" ")[0] for line in world.story)
    return told


def main(arguments: list[str]) -> None:
    """Replays a seed and prints its story."""
    seed, kind = int(arguments[0]), (arguments[1] if len(arguments) > 1 else EMBEDDED)
    with states(kind) as new:
        state = new(seed)
        try:
            world = simulate(seed, state)
            jobs = state.queue.counts()
        finally:
            state.close()
    sys.stdout.write("\n".join(world.story) + f"\nseed {seed}: all holds; {dict(jobs)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
