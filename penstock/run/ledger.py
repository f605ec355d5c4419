"""The ledger: what happened to the rows of each step. A row-keeping step that does not balance stops the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from penstock.ground.errors import LedgerImbalance


@dataclass(frozen=True)
class Step:
    """Rows of one step of one asset.

    A step that `keeps` rows obeys in = out + rejected + duplicate + filtered, each number counted on its own. A step that
    shapes rows (joins, aggregates, Python) has no such law; it records the rows of each input.

    Attributes:
        rejected: rows kept aside, by check. A row counts once, under all the checks it failed.
        duplicate: rows that say nothing new: their key exists with the same or a newer row.
        filtered: rows that the asset's own conditions leave out, by condition.
        inputs: rows of each input, for steps that shape.
        note: what else happened to rows that were there before, e.g. replaced ones.
    """

    name: str
    rows_in: int
    rows_out: int
    keeps: bool = True
    rejected: Mapping[str, int] = field(default_factory=dict)
    duplicate: int = 0
    filtered: Mapping[str, int] = field(default_factory=dict)
    inputs: Mapping[str, int] = field(default_factory=dict)
    note: Mapping[str, int] = field(default_factory=dict)

    @property
    def accounted(self) -> int:
        return self.rows_out + sum(self.rejected.values()) + self.duplicate + sum(self.filtered.values())

    @property
    def balanced(self) -> bool:
        return not self.keeps or self.rows_in == self.accounted

    def record(self) -> dict[str, Any]:
        return {**asdict(self), "balanced": self.balanced}


def step_of(record: Mapping[str, Any]) -> Step:
    return Step(**{k: v for k, v in record.items() if k in Step.__dataclass_fields__})


def require_balance(asset: str, steps: Iterable[Step]) -> None:
    """Raises: LedgerImbalance(E3002) for the first step that does not balance, with its figures."""
    for step in steps:
        if not step.balanced:
            parts = [f"{step.rows_out:,} out"]
            parts += [f"{n:,} rejected ({why})" for why, n in step.rejected.items()]
            parts += [f"{step.duplicate:,} duplicate"] if step.duplicate else []
            parts += [f"{n:,} filtered ({why})" for why, n in step.filtered.items()]
            raise LedgerImbalance(
                "rows in are not rows out and accounted for; nothing was published",
                place=f"{asset}.{step.name}",
                expected=f"{step.rows_in:,} rows in",
                got=f"{step.accounted:,} = " + " + ".join(parts),
                hint="a query that is not deterministic, or rows that changed while they were read; run again, and report it if it stays",
            )
