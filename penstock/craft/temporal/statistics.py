"""What feature columns hold, as one aggregate query: how much is there, how it is spread, how new it is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from math import isfinite
from typing import Any

from penstock.ground.names import quote
from penstock.spec.schema import Schema

#: Shares at which the spread of numbers is told.
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_NUMBERS = ("int", "long", "float", "double", "decimal")


def statistics_query(relation: str, schema: Schema, columns: Sequence[str], time: str) -> str:
    """One row: rows, newest time, then six values a column. Out of core: sketches for distinct values and quantiles.

    Shapes: relation (n rows) -> one row of 2 + 6 * len(columns) values, read by `statistics_record`.
    """
    asked = ["count(*)", f"max({quote(time)})"]
    for name in columns:
        kind = schema.field(name).type
        column = quote(name)
        if kind.fields:
            asked += [f"count({column})", "NULL", "NULL", "NULL", "NULL", "NULL"]
            continue
        finite = f" FILTER (isfinite({column}))" if kind.name in ("float", "double") else ""
        number = kind.name in (*_NUMBERS, "boolean")
        ordered = kind.name not in ("binary", "uuid")
        asked += [
            f"count({column})",
            f"approx_count_distinct({column})",
            f"min({column}){finite}" if ordered else "NULL",
            f"max({column}){finite}" if ordered else "NULL",
            f"avg({column}::DOUBLE){finite}" if number else "NULL",
            f"approx_quantile({column}::DOUBLE, {list(QUANTILES)}){finite}" if kind.name in _NUMBERS else "NULL",
        ]
    return f"SELECT {', '.join(asked)} FROM {quote(relation)}"


def statistics_record(row: Sequence[Any], columns: Sequence[str]) -> dict[str, Any]:
    """The row of `statistics_query` as JSON: `rows`, `newest`, and per column `known` (share, 0 to 1), `distinct` (about), `min`,
    `max`, `mean` and `quantiles` (about)."""
    rows, newest = int(row[0]), row[1]
    found: dict[str, Any] = {}
    for i, name in enumerate(columns):
        known, distinct, low, high, mean, quantiles = row[2 + 6 * i : 8 + 6 * i]
        found[name] = {
            "known": round(known / rows, 6) if rows else None, "distinct": min(int(distinct), int(known)) if distinct is not None else None,
            "min": _plain(low), "max": _plain(high), "mean": _plain(mean),
            "quantiles": {f"{q:g}": _plain(v) for q, v in zip(QUANTILES, quantiles, strict=True)} if quantiles else None,
        }  # fmt: skip
    return {"rows": rows, "newest": _plain(newest), "columns": found}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, float):
        return value if isfinite(value) else None
    return value if isinstance(value, bool | int | None) else str(value)[:100]
