"""What a leak detector is given and what it says: rows of both sides of a split, and findings that the state keeps as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    import pyarrow as pa

#: copy        the label is an exact function of the columns: equal, affine, monotone, by a threshold or by a set of values
#: pair        the same, of the difference, ratio, sum, product or equality of two columns
#: power       a column alone tells the label far better than all others together
#: presence    whether a column is null tells the label: it is filled in after the outcome
#: own_label   a column is an aggregate of labels that counts the row's own
#: row_id      an identifier tells the label: it follows an order that the outcome made
#: time        a value was known, or happened, after the row's own time
#: lineage     a column is computed from what the label is computed from, or from a model that saw the label
#: duplicate   rows stand on both sides of the split, equal or nearly so
#: group       a group or entity stands on both sides of the split and tells its label
#: key         a key stands on both sides of the split
#: split       a column tells the sides apart, and the label as well
Kind = Literal[
    "copy", "pair", "power", "presence", "own_label", "row_id", "time", "lineage", "duplicate", "group", "key", "split",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)
#: A row by its side and its number there, from 0.
Place = tuple[Literal["train", "test"], int]
#: Rows that a finding shows at most.
SHOWN = 20


@dataclass(frozen=True)
class Finding:
    """One leak.

    Attributes:
        columns: the columns concerned; () for rows that stand on both sides.
        strength: in [0, 1]. Of columns the share of the label's uncertainty that they take away on rows held out; of rows the
            share of rows concerned.
        reason: one sentence with the figures.
        rows: up to 20 rows that show it.
    """

    kind: Kind
    columns: tuple[str, ...]
    strength: float
    reason: str
    rows: tuple[Place, ...] = ()

    def as_record(self) -> dict[str, Any]:
        """JSON-ready; `from_record` reads it."""
        return {
            "kind": self.kind,
            "columns": list(self.columns),
            "strength": self.strength,
            "reason": self.reason,
            "rows": [list(place) for place in self.rows],
        }


def from_record(record: Mapping[str, Any]) -> Finding:
    """What `Finding.as_record` gave; keys it does not know are ignored."""
    rows = tuple((side, int(row)) for side, row in record["rows"])
    return Finding(record["kind"], tuple(record["columns"]), float(record["strength"]), str(record["reason"]), rows)


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows of one side of a split.

    Attributes:
        rows: (n rows) raw columns by name, with the label and, where there are any, key, group and known times among them.
        at: the column of each row's own time; None if rows have none.
    """

    rows: pa.Table
    at: str | None = None
