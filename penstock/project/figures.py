"""Numbers, ages and ledger lines as people read them. Pure; used by every face, so that all say the same."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from penstock.plan.records import Plan

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def plain(text: object) -> str:
    """A text that cannot move a terminal's cursor, change its colours or turn the direction of what follows."""
    return _CONTROL.sub(lambda m: f"\\x{ord(m[0]):02x}" if ord(m[0]) < 256 else f"\\u{ord(m[0]):04x}", str(text))


def one_line(text: object, width: int = 200) -> str:
    """As `plain`, on one line, shortened."""
    line = " ".join(plain(text).split())
    return line if len(line) <= width else line[: width - 1] + "…"


def count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def of(number: int, noun: str, plural: str = "") -> str:
    """`1 file`, `3 files`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def seconds(value: float | None) -> str:
    """`0.04 s`, `1.2 s`, `42 s`, `3 min 20 s`, `2 h 5 min`."""
    if value is None:
        return ""
    if value < 0.1:
        return f"{value:.2f} s"
    if value < 9.95:
        return f"{value:.1f} s"
    if value < 99.5:
        return f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 100:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def size(value: int | None) -> str:
    """Bytes in powers of 1024: `512 B`, `1.4 MiB`."""
    if value is None:
        return ""
    number = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def share(value: float | None) -> str:
    """A share within [0, 1]: nothing for none at all, and what is nearly none or nearly all is said to be so."""
    if not value:
        return ""
    if value == 1:
        return "all"
    return "<0.1%" if value < 0.001 else ">99.9%" if value > 0.999 else f"{value:.1%}"


def age(then: datetime, now: datetime) -> str:
    """`just now`, `4 min`, `3 h`, `12 days`."""
    passed = (now - then).total_seconds()
    if passed < 10:
        return "just now"
    for length, name in ((60, "s"), (3600, "min"), (86400, "h")):
        if passed < length:
            return f"{passed / (length / 60 if name != 'h' else 3600):.0f} {name}"
    return of(round(passed / 86400), "day")


def moment(text: str) -> str:
    """A recorded moment (ISO, UTC) to the second, with its zone: `2026-11-01 12:00:05 UTC`."""
    return text[:19].replace("T", " ") + " UTC" if text else ""


def short(version: str) -> str:
    """The first eight characters of a version or run: enough to tell the versions of one asset apart."""
    return version[:8]


def figure(value: Any) -> str:
    """A metric: four significant digits, `-` for none."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def cell(value: Any, width: int = 60) -> str:
    """A value of a row: null is empty, numbers without separators, times in ISO form, long texts shortened."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        told = f"{value:.12g}"
        return f"{told}.0" if told.lstrip("-").isdigit() else told
    if isinstance(value, bytes):
        return one_line(value.hex(), width)
    return one_line(value, width)


def snake(text: str, *, other: str = "column") -> str:
    """A plain name made of any text: lower case, letters, digits, single underscores, not beginning with a digit."""
    flat = unicodedata.normalize("NFKD", text.replace("ß", "ss")).encode("ascii", "ignore").decode()
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", flat)
    name = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")[:60].strip("_")
    if not name:
        return other
    return name if name[0].isalpha() else f"{other[:1] or 'x'}_{name}"


def step_text(step: Mapping[str, Any]) -> str:
    """One step of a ledger: `336,776 in = 336,770 out + 6 rejected (not_null(origin): 6)`; `->` where rows are shaped anew."""
    if not step.get("keeps", True):
        read = ", ".join(f"{count(n)} {plain(name)}" for name, n in step.get("inputs", {}).items()) or f"{count(step['rows_in'])} in"
        notes = "".join(f"; {count(n)} {plain(what)}" for what, n in step.get("note", {}).items())
        return f"{read} -> {count(step['rows_out'])} out{notes}"
    parts = [f"{count(step['rows_out'])} out"]
    parts += _accounted("rejected", step.get("rejected", {}))
    parts += [f"{count(step['duplicate'])} duplicate"] if step.get("duplicate") else []
    parts += _accounted("filtered", step.get("filtered", {}))
    notes = "".join(f"; {count(n)} {plain(what)}" for what, n in step.get("note", {}).items())
    balance = "" if step.get("balanced", True) else "  DOES NOT BALANCE"
    return f"{count(step['rows_in'])} in = {' + '.join(parts)}{notes}{balance}"


def _accounted(word: str, by: Mapping[str, int]) -> list[str]:
    if not by:
        return []
    inner = ", ".join(one_line(why, 80) if len(by) == 1 else f"{one_line(why, 80)}: {count(n)}" for why, n in by.items())
    return [f"{count(sum(by.values()))} {word} ({inner})"]


def gate_text(gate: Mapping[str, Any]) -> str:
    """One gate: its name, the value, and why it failed if it did."""
    where = f" (worst: {one_line(gate['slice'], 60)})" if gate.get("slice") and "[" in str(gate.get("name", "")) else ""
    reason = f"; {one_line(gate['reason'])}" if gate.get("reason") and not gate.get("passed") else ""
    return f"{one_line(gate['name'], 80)}: {figure(gate.get('value'))}{where} {'passed' if gate.get('passed') else 'FAILED'}{reason}"


#: Metrics by which slices are ranked, the first that a slice has; those in `LESS` are better when smaller.
METRICS = (
    "roc_auc", "rmse", "ndcg", "average_precision", "accuracy", "balanced_accuracy", "f1_macro", "r2", "mae", "median_error", "mape", "ndcg_10",
    "mean_average_precision", "mean_reciprocal_rank", "log_loss", "brier", "calibration_error",
)  # fmt: skip
LESS = frozenset({"rmse", "mae", "median_error", "mape", "log_loss", "brier", "calibration_error"})


def ranked(slices: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, list[Mapping[str, Any]]]]:
    """Per sliced column the metric and the slices that have it, best first."""
    found: dict[str, tuple[str, list[Mapping[str, Any]]]] = {}
    for column in dict.fromkeys(str(s["column"]) for s in slices):
        mine = [s for s in slices if str(s["column"]) == column]
        metric = next((m for m in METRICS if any(s.get(m) is not None for s in mine)), None)
        if metric is not None:
            having = [s for s in mine if s.get(metric) is not None]
            found[column] = (metric, sorted(having, key=lambda s: float(s[metric]), reverse=metric not in LESS))
    return found


def metrics(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """A model's metrics, the most telling first."""
    return sorted(found.items(), key=lambda item: METRICS.index(item[0]) if item[0] in METRICS else len(METRICS))


def plan_counts(plan: Plan) -> dict[str, int]:
    """How many assets have each status, those that have none left out."""
    found = {status: plan.count(status) for status in ("fresh", "stale", "waiting", "look")}
    return {status: n for status, n in found.items() if n}


def plan_text(plan: Plan) -> str:
    """The first line of a plan: `7 assets: 2 fresh, 3 stale, 2 waiting; about 336,776 rows, 4 s`."""
    told = ", ".join(f"{n} {status}" for status, n in plan_counts(plan).items())
    cost = ", ".join(p for p in (f"{count(plan.rows)} rows" if plan.rows is not None else "", seconds(plan.seconds)) if p)
    return f"{of(len(plan.actions), 'asset')}: {told or 'none'}" + (f"; about {cost}" if cost else "")


_ARROW = {
    "bool": "boolean", "int8": "int", "int16": "int", "int32": "int", "uint8": "int", "uint16": "int", "int64": "long", "uint32": "long",
    "halffloat": "float", "date32[day]": "date", "large_string": "string", "string_view": "string", "large_binary": "binary",
    "binary_view": "binary", "time64[us]": "time",
}  # fmt: skip


def type_name(arrow: Any) -> str:
    """Our name of an Arrow type, or Arrow's own where we have none."""
    text = str(arrow)
    if text.startswith("timestamp["):
        return "timestamptz" if "tz=" in text else "timestamp"
    if match := re.fullmatch(r"decimal\d+\((\d+), (\d+)\)", text):
        return f"decimal({match[1]},{match[2]})"
    return _ARROW.get(text, text)
