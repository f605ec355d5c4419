"""What is asked of a project from outside: events, starts of jobs and flows, how a run stands. Each needs a token; nothing is kept here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from penstock.ground.clock import iso
from penstock.ground.environ import environment
from penstock.ground.errors import RequestRefused, TokenRefused, TooMuchWaits, UnknownName, did_you_mean
from penstock.ports.queue import LIVE, LOST, QueuedJob
from penstock.project.jobs import output_of, put_in
from penstock.project.project import Project
from penstock.run import events
from penstock.run.flow import jobs_of
from penstock.run.journal import stable_id

#: How many jobs may wait before nothing more is taken from outside.
MOST = 100_000
_FORM = frozenset({"input", "params"})


class Triggers:
    """Called from any thread. `wake` is called after something was written that a scheduler should see soon."""

    def __init__(self, project: Project, wake: Callable[[], None]) -> None:
        self._project = project
        self._wake = wake

    def admit(self, given: str, event: str = "") -> None:
        """What is looked at before anything else is read. Raises: TokenRefused(E5010), TooMuchWaits(E5011)."""
        self._allowed(given, event)
        counts = self._project.state.queue.counts()
        waiting = counts["waiting"] + counts["ready"]
        if waiting >= MOST:
            raise TooMuchWaits("too many jobs wait", expected=f"fewer than {MOST:,}", got=f"{waiting:,}", hint="send it again later")

    def event(self, name: str, data: Any, *, given: str, delivery: str = "") -> dict[str, Any]:
        """Writes an event down. A `delivery` that is known gives the event that is there.

        Raises: TokenRefused(E5010), UnknownName(E1003), UserCodeError(E5001) for data that is too great.
        """
        expected = self._allowed(given, name)
        known = events.names_waited_for(self._project.found.automations.values())
        record = events.raise_event(
            self._project.state, name, data, known=known, now=self._project.clock.now(), given=given, expected=expected, delivery=delivery
        )
        self._wake()
        return {"event": name, "number": record.seq, "at": iso(record.at)}

    def start(self, kind: str, name: str, form: Any, *, given: str, delivery: str = "") -> dict[str, Any]:
        """Queues a job or flow with `{"input": ..., "params": {...}}`, each of which may be left out. The same `delivery` gives the same run.

        Raises: TokenRefused(E5010), UnknownName(E1003), RequestRefused(E5012), UserCodeError(E5001).
        """
        self._allowed(given)
        found = self._project.found
        declared: Mapping[str, Any] = found.jobs if kind == "job" else found.flows
        if name not in declared:
            raise UnknownName(f"the project has no such {kind}", place=name[:80], hint=did_you_mean(name[:80], declared))
        given_input, params = _read(form, name)
        run = stable_id("http", kind, name, delivery) if delivery else ""
        try:
            run = put_in(self._project, name, given_input, params, run=run)
        except UnknownName as error:
            raise RequestRefused(error.message, place=error.place, got=error.got, hint=error.hint) from error
        self._wake()
        return {"run": run, kind: name}

    def run(self, run: str, *, given: str) -> dict[str, Any]:
        """How a run stands: its jobs with costs and errors, and what came out of it. Raises: TokenRefused(E5010), UnknownName(E1003)."""
        self._allowed(given)
        state = self._project.state
        jobs = jobs_of(state, run) if run else []
        if not jobs:
            raise UnknownName("there is no such run", place=run[:80])
        return {
            "run": run,
            "status": _status(jobs),
            "output": output_of(self._project, run, jobs),
            "jobs": [_told(job) for job in reversed(jobs)],
        }

    def _allowed(self, given: str, event: str = "") -> str:
        """The token that is expected, if it was given. Raises: TokenRefused(E5010), which tells a project without one what to set."""
        tokens = self._project.settings.tokens
        name = tokens.get(event, tokens[""])
        expected = environment().get(name, "")
        if not expected:
            raise TokenRefused(
                "no token is set, so nobody is let in", place="up", hint=f"set the environment variable {name} for `penstock up`"
            )
        events.check_token(given, expected, place="up")
        return expected


def _read(form: Any, place: str) -> tuple[Any, dict[str, Any]]:
    told = {} if form is None else form
    if not isinstance(told, dict) or set(told) - _FORM or not isinstance(told.get("params", {}), dict):
        raise RequestRefused("not how a job is started", place=place, expected='{"input": ..., "params": {...}}')
    return told.get("input"), dict(told.get("params", {}))


def _status(jobs: list[QueuedJob]) -> str:
    if any(job.status in LIVE for job in jobs):
        return "running" if any(job.status == "running" or job.attempt for job in jobs) else "waiting"
    return "failed" if any(job.status in LOST for job in jobs) else "done"


def _told(job: QueuedJob) -> dict[str, Any]:
    error = {k: v for k, v in (job.error or {}).items() if k != "traceback"} or None
    return {
        "id": job.id, "name": job.name, "status": job.status, "attempts": job.attempt, "created": iso(job.created),
        "ended": iso(job.ended) if job.ended else None, "cost": dict(job.cost), "error": error, "because": job.payload.get("because", ""),
        "input": job.payload.get("input"), "output": job.result,
    }  # fmt: skip
