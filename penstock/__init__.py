"""Penstock: from raw data to served, watched predictions in one Python project; nothing lost on the way.

A project is a module of values: `ps.files` and `ps.database` say what others own, `@ps.table` makes tables of it by SQL or Python,
`ps.features` windowed features, `@ps.model` a gated model, `ps.predictions` its scores. `penstock run` makes it all fresh;
`ps.automate` says what runs by itself when, `penstock up` sees to it.

    import penstock as ps

    flights = ps.files("data/flights/*.csv")

    @ps.table(key="flight_id", checks=[ps.not_null("origin")])
    def departures(flights):
        return ps.sql("SELECT ... FROM flights")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.ground.errors import PenstockError
from penstock.spec.automation import arrived, automate, cron, event, every, failed, fresh, updated
from penstock.spec.checks import between, finite, holds, matches, not_null, null_share, one_of, rows, satisfies, unique
from penstock.spec.features import after, count, distinct, expression, features, last, mean, on_demand, quantile
from penstock.spec.features import max_ as max
from penstock.spec.features import min_ as min
from penstock.spec.features import sum_ as sum
from penstock.spec.jobs import branch, command, each, flow, job
from penstock.spec.models import by_group, by_ratio, by_time, import_model, metric, model, no_leakage, predictions
from penstock.spec.partitions import bucket, by, day, hour, month, year
from penstock.spec.sources import database, files, secret
from penstock.spec.tables import append, merge, slices, sql, table

if TYPE_CHECKING:
    from penstock.craft.learning.training import TrainingSet
    from penstock.project.project import Project

__version__ = "0.2.0"

__all__ = [
    "PenstockError", "Project", "TrainingSet", "after", "append", "arrived", "automate", "between", "branch", "bucket", "by",
    "by_group", "by_ratio", "by_time", "command", "count", "cron", "database", "day", "distinct", "each", "event", "every",
    "expression", "failed", "features", "files", "finite", "flow", "fresh", "holds", "hour", "import_model", "job", "last",
    "matches", "max", "mean", "merge", "metric", "min", "model", "month", "no_leakage", "not_null", "null_share", "on_demand",
    "one_of", "open", "predictions", "quantile", "rows", "satisfies", "secret", "slices", "sql", "sum", "table", "unique",
    "updated", "year",
]  # fmt: skip

_LATE = {"Project": "penstock.project.project", "TrainingSet": "penstock.craft.learning.training"}


def __getattr__(name: str) -> Any:
    """Names whose modules load more than the records do."""
    if name in _LATE:
        from importlib import import_module

        return getattr(import_module(_LATE[name]), name)
    raise AttributeError(f"module 'penstock' has no attribute {name!r}")


def open(folder: str = ".", *, level: str | None = None) -> Project:
    """Opens the project in a folder, for notebooks and programs: `ps.open().run("late_risk")`."""
    from penstock.project.project import Project

    return Project.open(folder, level=level)
