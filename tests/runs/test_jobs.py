"""Jobs and flows of a project: done, failed, tried again, cancelled, resumed, forked; what is recorded of each."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from penstock.ground.errors import Busy, UnknownName, UserCodeError
from penstock.ports.queue import NewJob, Offers, QueuedJob
from penstock.project import jobs
from penstock.project.project import Project
from penstock.run.worker import LEASE_S, Attempt, relieve, work
from penstock.testing.clock import ManualClock

PIPELINE = """
import os, pathlib, time

raw = ps.files("data/*.csv")

@ps.table(key="id")
def doubled(raw):
    return ps.sql("SELECT id, amount * 2 AS amount FROM raw")

@ps.job
def numbers(*, n=2):
    print("counting", os.environ["PENSTOCK_IDEMPOTENCY_KEY"])
    return list(range(n))

@ps.job
def twice(given):
    return given * 2

@ps.job
def needs_a_file(given):
    if not pathlib.Path(FOLDER, "there").exists():
        raise ValueError("no file")
    return given

@ps.job(memory="200MB")
def hog():
    bytearray(900_000_000)

@ps.job(timeout="1s")
def loop():
    while True:
        pass

@ps.job
def leaves():
    os._exit(3)

@ps.job
def segfault():
    import ctypes
    ctypes.string_at(0)

@ps.job
def hangs():
    pathlib.Path(FOLDER, "hangs").touch()
    time.sleep(600)

program = ps.command(
    ["python3", "-c", "import json,os,sys; json.dump([sys.argv[1], json.load(sys.stdin)], open(os.environ['PENSTOCK_OUTPUT'], 'w'))", "{text}"],
    params={"text": "a b; $(c)"},
)
whole = ps.flow(numbers, ps.each(twice), doubled)
fragile = ps.flow(numbers, needs_a_file, ps.each(twice))
"""


@pytest.fixture
def project(shop: Any) -> Project:
    shop.write("data/a.csv", "id,amount\n1,10\n2,20\n")
    shop.pipeline(f"FOLDER = {str(shop.folder)!r}\n" + PIPELINE)
    opened: Project = shop.open()
    return opened


def ran(project: Project, name: str, given: Any = None, **params: Any) -> tuple[str, list[QueuedJob]]:
    run = jobs.put_in(project, name, given, params)
    return run, jobs.carry(project, run, lambda job, status: None)


# -- jobs and flows -------------------------------------------------------------------------------------------------
def test_a_flow_gives_its_output_and_makes_its_asset(project: Project) -> None:
    run, done = ran(project, "whole", n=3)
    assert {job.status for job in done} == {"done"}
    assert jobs.output_of(project, run, done)["asset"] == "doubled"
    outputs = [job.result for job in done if job.name.startswith("whole/each")]
    assert sorted(outputs) == [0, 2, 4]
    assert project.query("SELECT sum(amount) AS s FROM doubled").rows() == [{"s": 60}]
    counting = next(job for job in done if job.name == "whole/numbers")
    log = (project.settings.folder / "logs" / f"{counting.id}.log").read_text()
    assert log == f"counting {counting.payload['idempotency_key']}\n"
    assert counting.cost["cpu_seconds"] > 0


def test_a_command_gets_its_arguments_as_they_are(project: Project) -> None:
    run, done = ran(project, "program", {"x": 1})
    assert jobs.output_of(project, run, done) == ["a b; $(c)", {"x": 1}]


@pytest.mark.parametrize(("name", "code"), [("hog", "E5001 E5003"), ("loop", "E5004"), ("leaves", "E5005"), ("segfault", "E5005")])
def test_what_a_job_does_to_its_process_is_its_own(project: Project, name: str, code: str) -> None:
    _, [job] = ran(project, name)
    assert job.status in ("failed", "dead")
    assert job.error is not None
    assert job.error["code"] in code.split()


def test_a_flow_goes_on_from_the_step_that_failed(project: Project, shop: Any) -> None:
    run, done = ran(project, "fragile")
    assert [job.status for job in done if job.name == "fragile/needs_a_file"] == ["failed"]
    began = {job.id: job.started for job in done if job.name == "fragile/numbers"}
    shop.write("there", "")
    assert jobs.again(project, run) == run
    again = jobs.carry(project, run, lambda job, status: None)
    assert {job.status for job in again} == {"done"}
    assert {job.id: job.started for job in again if job.name == "fragile/numbers"} == began, "a finished step was repeated"
    forked = jobs.forked(project, run, "needs_a_file")
    names = {job.name for job in jobs.carry(project, forked, lambda job, status: None)}
    assert "fragile/needs_a_file" in names
    assert "fragile/numbers" not in names


def test_a_running_job_is_cancelled(project: Project, shop: Any) -> None:
    run = jobs.put_in(project, "hangs")
    other: Project = shop.open()

    def stop() -> None:
        while not (shop.folder / "hangs").exists():
            other.clock.wait(0.05)
        jobs.stop(other, run)

    thread = threading.Thread(target=stop)
    thread.start()
    [job] = jobs.carry(project, run, lambda job, status: None)
    thread.join()
    assert job.status == "cancelled"


def test_unknown_names_are_told(project: Project) -> None:
    for call in (
        lambda: jobs.put_in(project, "twic"), lambda: jobs.put_in(project, "numbers", None, {"m": 1}), lambda: jobs.stop(project, "x"),
        lambda: jobs.again(project, "x"), lambda: jobs.forked(project, "x", "numbers"),
    ):  # fmt: skip
        with pytest.raises(UnknownName):
            call()
    with pytest.raises(UserCodeError):
        jobs.put_in(project, "twice", float("nan"))


def test_a_worker_makes_assets_apart_and_says_what_they_cost(project: Project) -> None:
    project.state.queue.enqueue([NewJob("asset:doubled", "asset", {"asset": "doubled"}, id=project.ids.new())], now=project.clock.now())
    told: list[str] = []
    jobs.worker(project, tell=lambda job, status: told.append(status), at_once=1).serve(until=lambda: True)
    assert told == ["started", "done"]
    assert project.run().nothing
    made = {spent.name: spent for spent in jobs.costs(project)}
    assert made["asset:doubled"].cost["rows"] == 2
    assert made["asset:doubled"].cost["cpu_seconds"] > 0


# -- a run is jobs --------------------------------------------------------------------------------------------------
def test_fresh_assets_are_no_jobs(project: Project) -> None:
    report = project.run()
    assert report.ok
    before = [job.id for job in project.state.queue.jobs()]
    assert len(before) == 2
    assert project.run().nothing
    assert [job.id for job in project.state.queue.jobs()] == before


def test_the_jobs_of_a_dead_command_are_taken_on(project: Project, shop: Any) -> None:
    """Its finished job is not done again; the one it died in is given back at once, whatever its lease says."""
    dead = _half_done(project)
    report = project.run()
    assert {r.asset: r.status for r in report.results} == {"raw": "fresh", "doubled": "made"}
    found = {job.name: job for job in project.state.queue.jobs(run="dead")}
    assert found["asset:doubled"].id == dead
    assert found["asset:doubled"].status == "done"
    assert found["asset:doubled"].attempt == 2
    assert not project.state.queue.jobs(run=report.run), "the run had jobs of its own"


def _half_done(project: Project) -> str:
    """A run as a killed process leaves it: raw is made, doubled is running under an owner that is gone."""
    project.run("raw")
    run, queue = project.run("doubled"), project.state.queue
    model = queue.jobs(run=run.run)[0]
    [put] = queue.enqueue([NewJob(**{**vars_of(model), "run": "dead", "id": project.ids.new()})], now=project.clock.now())
    import socket

    owner = f"{socket.gethostname()}/{2**22 - 1}/1#dead"
    lease = queue.claim(owner, Offers(cores=9), now=project.clock.now(), lease_s=3600, runs={"dead"})
    assert lease is not None
    assert lease.job.id == put.id
    head = project.state.heads("asset", prefix="doubled")["doubled"].body
    project.state.append("asset", "doubled", {**head, "inputs": {"raw": "older"}}, at=project.clock.now())
    return put.id


def vars_of(job: QueuedJob) -> dict[str, Any]:
    return {name: getattr(job, name) for name in NewJob.__dataclass_fields__}


# -- one attempt ----------------------------------------------------------------------------------------------------
def attempt(project: Project, does: Any, **more: Any) -> QueuedJob | None:
    """One attempt at a job whose kind is `does`."""
    queue = project.state.queue
    if not queue.jobs(kind="test"):
        queue.enqueue([NewJob("it", "test", {"retries": 1, "backoff_s": 10}, attempts=4, **more)], now=project.clock.now())
    lease = queue.claim("w", Offers(), now=project.clock.now(), lease_s=LEASE_S)
    assert lease is not None
    return work(lease, project.runtime, {"test": does})


def raising(error: Exception) -> Any:
    def does(attempt: Attempt) -> Any:
        raise error

    return does


def test_attempts_follow_the_class_of_the_error(shop: Any) -> None:
    shop.pipeline("raw = ps.files('data/*.csv')")
    clock = ManualClock()
    with shop.open(clock=clock) as project:
        for error, expected in ((Busy("x"), "waiting"), (UserCodeError("y"), "failed")):
            job = attempt(project, raising(error))
            assert job is not None
            assert job.status == expected
            clock.advance(3600)


def test_a_defect_ends_the_job_and_is_told(shop: Any) -> None:
    shop.pipeline("raw = ps.files('data/*.csv')")
    with shop.open() as project:
        with pytest.raises(ZeroDivisionError):
            attempt(project, lambda attempt: 1 / 0)
        [job] = project.state.queue.jobs(kind="test")
        assert job.error is not None
        assert "ZeroDivisionError" in job.error["traceback"]


def test_an_interrupt_gives_the_job_back(shop: Any) -> None:
    shop.pipeline("raw = ps.files('data/*.csv')")

    def interrupted(attempt: Attempt) -> Any:
        raise KeyboardInterrupt

    with shop.open() as project:
        with pytest.raises(KeyboardInterrupt):
            attempt(project, interrupted)
        [job] = project.state.queue.jobs(kind="test")
        assert (job.status, job.attempt) in (("waiting", 0), ("ready", 0))


@pytest.mark.parametrize("ahead", [LEASE_S + 1, 86400.0])
def test_a_worker_that_was_taken_for_dead_records_nothing(shop: Any, ahead: float) -> None:
    """It stands still for longer than its lease, or the clock jumps; another one does the job; what the first gives is refused."""
    shop.pipeline("raw = ps.files('data/*.csv')")
    clock = ManualClock()
    with shop.open(clock=clock) as project:
        queue = project.state.queue

        def slow(attempt: Attempt) -> str:
            clock.advance(ahead)
            other = queue.claim("v", Offers(), now=clock.now(), lease_s=LEASE_S)
            assert other is not None
            queue.complete(other, now=clock.now(), result="the other's")
            return "mine"

        assert attempt(project, slow) is None
        [job] = queue.jobs(kind="test")
        assert (job.status, job.result, job.vanished) == ("done", "the other's", 1)


def test_a_clock_that_goes_back_stops_nothing(shop: Any) -> None:
    shop.write("data/a.csv", "id\n1\n")
    shop.pipeline("raw = ps.files('data/*.csv')")
    clock = ManualClock()
    with shop.open(clock=clock) as project:
        assert project.run().ok
        clock.advance(-86400)
        shop.write("data/b.csv", "id\n2\n")
        assert project.run().ok
        assert project.query("SELECT count(*) AS n FROM raw").rows() == [{"n": 2}]


def test_only_dead_workers_of_this_machine_are_relieved(shop: Any) -> None:
    shop.pipeline("raw = ps.files('data/*.csv')")
    with shop.open() as project:
        queue, now = project.state.queue, project.clock.now()
        queue.enqueue([NewJob("a", "test"), NewJob("b", "test")], now=now)
        queue.claim("elsewhere/1/1#x", Offers(), now=now, lease_s=60)
        assert relieve(project.runtime) == []
        assert [job.status for job in queue.jobs(kind="test")] == ["ready", "running"]


def test_a_payload_is_all_that_another_process_needs(project: Project) -> None:
    project.run()
    for job in project.state.queue.jobs():
        assert set(job.payload) == {"asset", "params", "force", "look", "retries", "backoff_s", "transient_only"}
        assert json.loads(json.dumps(job.payload)) == job.payload
