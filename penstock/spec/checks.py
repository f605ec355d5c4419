"""Checks: what must hold for a row or for a table, and what happens when it does not.

A row check rejects: the row is kept in the asset's rejected table with its reason and can be replayed. A table check blocks:
the new version is not published. `.warns()` only reports, `.blocks()` blocks, `.rejects()` rejects (row checks only).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from penstock.ground.errors import DefinitionError

Outcome = Literal["reject", "block", "warn"]
Scalar = int | float | str | bool | None


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        kind: which rule; the compiler in `craft/quality` knows each by this name.
        columns: the columns it looks at.
        args: its parameters, in the order of the constructor below.
        outcome: what a failure does.
        label: the name under which results are shown; made from kind, columns and args if empty.
    """

    kind: str
    columns: tuple[str, ...] = ()
    args: tuple[Scalar, ...] = ()
    outcome: Outcome = "reject"
    label: str = ""

    @property
    def name(self) -> str:
        inner = [*self.columns, *(str(a) for a in self.args)]
        return self.label or f"{self.kind}({', '.join(inner)})"

    @property
    def of_rows(self) -> bool:
        """Whether a single row can tell that it fails. `unique` counts: all but one row of each key fail."""
        return self.kind not in TABLE_KINDS

    def rejects(self) -> Check:
        if not self.of_rows:
            raise DefinitionError("a check of the whole table cannot reject rows", place=self.name, hint="use .blocks() or .warns()")
        return replace(self, outcome="reject")

    def blocks(self) -> Check:
        return replace(self, outcome="block")

    def warns(self) -> Check:
        return replace(self, outcome="warn")

    def named(self, label: str) -> Check:
        return replace(self, label=label)


ROW_KINDS = ("not_null", "between", "one_of", "matches", "satisfies", "finite", "unique")
TABLE_KINDS = ("rows", "null_share", "fresh", "holds")


def not_null(*columns: str) -> Check:
    """Each of the columns has a value."""
    return Check("not_null", columns)


def between(column: str, low: float | str | None, high: float | str | None) -> Check:
    """`low <= value <= high`; None leaves a side open, a null value passes, NaN fails. Texts are read as the column's type."""
    return Check("between", (column,), (low, high))


def one_of(column: str, *values: Scalar) -> Check:
    """The value is one of these; null passes."""
    return Check("one_of", (column,), values)


def matches(column: str, pattern: str) -> Check:
    """The whole text matches an RE2 pattern; null passes."""
    return Check("matches", (column,), (pattern,))


def finite(*columns: str) -> Check:
    """Neither NaN nor infinite; null passes."""
    return Check("finite", columns)


def satisfies(condition: str, *, label: str = "") -> Check:
    """An SQL condition over the row's columns; null counts as passed, as in SQL's own CHECK."""
    return Check("satisfies", (), (condition,), label=label)


def unique(*columns: str) -> Check:
    """No two rows have the same values here. As a rejecting check the first row in file order stays."""
    return Check("unique", columns)


def rows(low: int | None = None, high: int | None = None) -> Check:
    """The table has between `low` and `high` rows."""
    return Check("rows", (), (low, high), "block")


def null_share(column: str, at_most: float) -> Check:
    """At most this share of the column is null, within [0, 1]."""
    return Check("null_share", (column,), (at_most,), "block")


def fresh(column: str, within: str) -> Check:
    """The newest value is no older than a span such as `2d` or `6h`, seen from the moment of the run."""
    return Check("fresh", (column,), (within,), "block")


def holds(condition: str, *, label: str = "") -> Check:
    """An SQL condition over aggregates of the table: `holds("sum(amount) > 0")`."""
    return Check("holds", (), (condition,), "block", label)
