"""Plans and reports that a notebook shows as tables."""

from __future__ import annotations

from penstock.plan.records import Plan
from penstock.run.execute import RunReport


class ShownPlan(Plan):
    """A plan with a rich display."""

    def _repr_html_(self) -> str:
        from penstock.project.report import plan_html

        return plan_html(self)


class ShownReport(RunReport):
    """A report of a run with a rich display."""

    def _repr_html_(self) -> str:
        from penstock.project.report import run_html

        return run_html(self)
