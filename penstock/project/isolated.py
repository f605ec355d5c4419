"""What runs in a process of its own: finds the user's code again by the project's folder and a name, and hands it to `run`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock.ground.errors import CodeChanged, Fenced
from penstock.project.code import CodeReader
from penstock.project.discover import assets_of, load_modules
from penstock.project.jobs import works
from penstock.project.project import Project
from penstock.run.fit import from_payload, work
from penstock.run.worker import Attempt
from penstock.spec.models import Model


def fit(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Fits a model of a project's folder; see `run.fit`.

    Raises: CodeChanged(E5007) if the training function is not the one that was planned with; UserCodeError(E5001) and others.
    """
    order = from_payload(payload)
    model = assets_of(load_modules(Path(order.source), order.modules)).get(order.model)
    found = CodeReader(Path(order.source)).digest(model.function) if isinstance(model, Model) and model.function else ""
    if not isinstance(model, Model) or found != order.digest:
        raise CodeChanged("the code changed while it was used", place=order.model, hint="run again")
    return work(model, order)


def job(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Does one queued job of a project's folder in this process; gives its result and what it cost besides what is measured.

    Raises: Fenced(E4004) if another worker has the job by now; what the job raises.
    """
    with Project.open(str(payload["root"]), level=payload["level"]) as project:
        found = project.state.queue.jobs([str(payload["job"])])
        if not found or found[0].epoch != payload["epoch"]:
            raise Fenced("the job was taken over", place=str(payload["job"]), expected=f"epoch {payload['epoch']}")
        attempt = Attempt(found[0], project.runtime)
        result = works(project)[found[0].kind](attempt)
        return {"result": result, "cost": attempt.cost, "more": attempt.more}
