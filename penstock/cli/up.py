"""`penstock up`: keeps a project going."""

from __future__ import annotations

import click

from penstock.cli.command import shared
from penstock.cli.screen import Face


@click.command()
@click.argument("part", type=click.Choice(["worker"]))
@click.option("--jobs", "at_once", type=click.IntRange(min=1), metavar="N", help="How many at once; as many as there are processors.")
@click.option("--memory", metavar="SIZE", help="What all jobs together may need, e.g. 8GB; all that the machine has.")
@click.option("--once", is_flag=True, help="End when nothing is left to do now.")
@shared
def up(face: Face, part: str, at_once: int | None, memory: str | None, once: bool) -> None:
    """Do queued jobs, each in its own process.

    It goes on until it is told to end (TERM or Ctrl-C). Several workers may work on the same state, on several machines if the state is a server. Told to end, a worker lets its jobs
    end for 30 seconds and gives back what has not; told again, at once.
    """
    import signal
    import threading

    from penstock.ports.queue import QueuedJob
    from penstock.project.jobs import worker

    lock = threading.Lock()

    def tell(job: QueuedJob, status: str) -> None:
        if not face.json:
            with lock:
                face.line(f"{job.id}  {job.name}  {status}")

    with face.open() as project:
        server = worker(project, tell=tell, at_once=at_once, memory=memory)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: server.end())
        server.serve(until=(lambda: True) if once else None)
