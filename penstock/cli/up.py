"""`penstock up`: keeps a project going."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import click

from penstock.cli.command import shared
from penstock.cli.screen import Face
from penstock.ground.clock import Clock, iso
from penstock.ground.errors import DriverMissing
from penstock.project.figures import of, one_line, seconds, size

if TYPE_CHECKING:
    from penstock.project.up import News, Outcome, Up
    from penstock.run.serve import Server

#: Where HTTP is answered if an automation waits for events and no port was named.
PORT = 8420
#: The exit code of each way that `--once` ends.
_CODES: dict[Outcome, int] = {"done": 0, "lost": 1, "standby": 3}
_STYLES = {
    "fired": "bold",
    "made": "green",
    "done": "green",
    "failed": "bold red",
    "waits": "yellow",
    "note": "yellow",
    "standby": "yellow",
}


@click.group(invoke_without_command=True)
@click.option("--port", type=click.IntRange(0, 65535), help=f"Answer HTTP on 127.0.0.1; {PORT} if an automation waits for events.")
@click.option("--workers", type=click.IntRange(min=1), default=1, metavar="N", show_default=True, help="How many jobs at once.")
@click.option("--once", is_flag=True, help="Let fire what fires now, do what can be done now, and end; for a cron line.")
@click.option(
    "--poll", type=click.FloatRange(min=0.05), metavar="SECONDS", help="How often files are looked at.  [default: 5; with --once 1]"
)
@click.option(
    "--lease",
    type=click.FloatRange(min=0.5),
    default=15.0,
    metavar="SECONDS",
    show_default=True,
    help="How long without a sign of life until another takes over.",
)
@shared
@click.pass_context
def up(ctx: click.Context, face: Face, port: int | None, workers: int, once: bool, poll: float | None, lease: float) -> int:
    """Keep a project going.

    What `ps.automate` says runs by itself, until told to end (TERM or Ctrl-C).

    Any number of processes may do so on one state: one is active, the others stand by and take over. Told to end, it lets its jobs end
    for 30 seconds and gives back what has not; told again, at once. With --json a JSON document a line.

    `penstock up worker` does what is queued, and fires nothing.
    """
    if ctx.invoked_subcommand is not None:
        return 0
    from penstock.project.up import SETTLE_S, Pace, Up
    from penstock.run.scheduler import POLL_S

    pace = Pace(lease_s=lease, poll_s=poll if poll is not None else SETTLE_S if once else POLL_S)
    with face.open() as project:
        kept = Up(project, tell=_Lines(face, project.clock), workers=workers, pace=pace)
        with _signals(kept):
            if once:
                return _CODES[kept.once()]
            with ExitStack() as stack:
                if port is not None or kept.waits_for_events:
                    stack.enter_context(_http(face, kept, PORT if port is None else port))
                kept.keep()
    return 0


@contextmanager
def _signals(kept: Up | Server) -> Iterator[None]:
    """TERM and Ctrl-C end it in order, for the length of a block."""
    before = {number: signal.signal(number, lambda *_: kept.end()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _http(face: Face, kept: Up, port: int) -> Iterator[None]:
    """Raises: DriverMissing(E7002), SettingsError(E7001)."""
    try:
        from penstock.web.triggers import app_of, listening
    except ImportError as error:
        raise DriverMissing("HTTP needs more", place="penstock up", got=str(error), hint="pip install 'penstock[up]'") from error
    with listening(app_of(kept.triggers, lambda: kept.active), port) as got:
        kept.tell("http", f"answers at http://127.0.0.1:{got}", {"port": got})
        yield


class _Lines:
    """Prints what happens, a line each."""

    def __init__(self, face: Face, clock: Clock) -> None:
        self._face, self._clock = face, clock

    def __call__(self, news: News) -> None:
        at = self._clock.now()
        if self._face.json:
            self._face.document("up", at=iso(at), kind=news.kind, name=news.name, text=news.text, **dict(news.data))
            return
        if news.kind == "over":
            return
        told = "  ".join(part for part in (news.name, one_line(_text(news), 240)) if part)
        self._face.line(f"{at.astimezone():%H:%M:%S}  {news.kind:<8} {told}", _STYLES.get(news.kind, ""))
        if news.kind == "failed":
            self._failed(news.data)

    def _failed(self, data: Mapping[str, Any]) -> None:
        from penstock.cli.failure import print_record, recorded_lines

        error = data.get("error")
        if error:
            print_record(
                self._face, error, list(recorded_lines(str(error.get("traceback", "")))), indent="          ", console=self._face.out
            )


def _text(news: News) -> str:
    cost = news.data.get("cost") or {}
    if news.kind == "made":
        result = news.data.get("result") or {}
        rows = (result.get("body") or {}).get("rows")
        told = [
            "" if result.get("status") == "made" else str(result.get("status", "")),
            of(int(rows), "row") if rows is not None else "",
            spent(cost),
        ]
        return "  ".join([*filter(None, told), f"({'; '.join(result.get('reasons', ()))})"])
    if news.kind == "done":
        rows = cost.get("rows")
        return "  ".join(filter(None, [of(int(rows), "row") if rows else "", spent(cost)]))
    return news.text


def spent(cost: Mapping[str, float]) -> str:
    """`1.2 s, 0.9 s CPU, 210 MB`, as far as it is known."""
    told: list[str] = [
        seconds(cost["seconds"]) if "seconds" in cost else "",
        f"{seconds(cost['cpu_seconds'])} CPU" if "cpu_seconds" in cost else "",
    ]
    return ", ".join(filter(None, [*told, size(int(cost["peak_memory_bytes"])) if cost.get("peak_memory_bytes") else ""]))


@up.command()
@click.option("--jobs", "at_once", type=click.IntRange(min=1), metavar="N", help="How many at once; as many as there are processors.")
@click.option("--memory", metavar="SIZE", help="What all jobs together may need, e.g. 8GB; all that the machine has.")
@click.option("--once", is_flag=True, help="End when nothing is left to do now.")
@shared
def worker(face: Face, at_once: int | None, memory: str | None, once: bool) -> None:
    """Do queued jobs, each in a process of its own.

    It goes on until it is told to end (TERM or Ctrl-C). Several workers may work on the same state, on several machines if the state is a
    server. Told to end, a worker lets its jobs end for 30 seconds and gives back what has not; told again, at once.
    """
    from penstock.ports.queue import QueuedJob
    from penstock.project.jobs import worker as made

    lock = threading.Lock()

    def tell(job: QueuedJob, status: str) -> None:
        if not face.json:
            with lock:
                face.line(f"{job.id}  {job.name}  {status}")

    with face.open() as project:
        server = made(project, at_once=at_once, memory=memory, tell=tell)
        with _signals(server):
            server.serve(until=(lambda: True) if once else None)
