"""Judging a table: one aggregate query over it, the verdict on its single row, and the queries that part failing rows from passing ones.

What is looked at. Rejecting row checks see every row. A rejecting `unique` sees the rows that no other rejecting check fails, so that
the first good row of each key stays. All other checks, and the key, see the rows that no rejecting row check fails. Only when a
rejecting `unique` has found rows (then `Audit.final` is False) do the other checks still see those too; audit what was kept once more.

`relation` is the name of a table or view. Queries that a rejecting `unique` is part of need its columns `_path` and `_pos`, which tell
each row's place. Portable SQL but for `isnan`, `isfinite`, `regexp_full_match`, `epoch_us` and DISTINCT over a row of columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from penstock.craft.quality.conditions import condition
from penstock.craft.quality.rules import Fault, any_of, faults, fields
from penstock.ground.errors import DefinitionError
from penstock.ground.names import literal, quote
from penstock.spec.checks import Check, Outcome
from penstock.spec.schema import Schema
from penstock.spec.spans import span

PLACE = ("_path", "_pos")


@dataclass(frozen=True)
class Result:
    """What one check found.

    Attributes:
        failures: rows that fail; for a check of the table 1 or 0.
        measured: the value a table check compares (rows, share of nulls, age in seconds, truth); for a row check the failures.
        text: one line for people.
    """

    check: Check
    passed: bool
    failures: int
    measured: int | float | bool | None
    text: str

    @property
    def outcome(self) -> Outcome:
        return self.check.outcome

    def record(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "check": self.check.name,
            "outcome": self.outcome,
            "passed": self.passed,
            "failures": self.failures,
            "measured": self.measured,
            "text": self.text,
        }


@dataclass(frozen=True)
class Audit:
    """The verdict on a table.

    Attributes:
        rows: all rows, those to be rejected too.
        rejected_rows: rows that at least one rejecting check fails.
        results: one per check, in order, then one of kind `key` if a key was given.
        final: whether the results also hold for the rows that stay; else audit those again.
    """

    rows: int
    rejected_rows: int
    results: tuple[Result, ...]
    final: bool = True

    @property
    def blocking(self) -> tuple[Result, ...]:
        return tuple(r for r in self.results if not r.passed and r.outcome == "block")

    @property
    def warnings(self) -> tuple[Result, ...]:
        return tuple(r for r in self.results if not r.passed and r.outcome == "warn")


@dataclass(frozen=True)
class _Measure:
    """One or more columns of the audit, and how their values are judged (given the number of rows that stay)."""

    sql: tuple[str, ...]
    judge: Callable[[Sequence[Any], int], Result]


def audit_query(relation: str, checks: Sequence[Check], schema: Schema, key: tuple[str, ...] = (), *, now: datetime) -> str:
    """One aggregate over the relation, in one pass, whose single row `verdict` reads.

    A `holds` beside rejecting checks, and a second rejecting `unique`, each cost a further scan of the columns they name.
    Raises: DefinitionError(E1001) for a check that cannot be compiled, with the nearest names for an unknown column.
    """
    job = _Compiler(relation, checks, schema)
    rejected = f"count(CASE WHEN NOT {job.stays} THEN 1 END)"
    if len(job.uniques) > 1:
        rejected = f"(SELECT count(*) FROM ({failing_query(relation, checks, schema)}))"
    columns = [sql for measure in job.measures(key, now) for sql in measure.sql]
    judged = f"SELECT *, {job.row_passes} AS {job.stays} FROM (SELECT *{job.flags()} FROM {quote(relation)})"
    return f"SELECT count(*), {', '.join([rejected, *columns])} FROM ({judged})"


def verdict(row: Sequence[Any], checks: Sequence[Check], schema: Schema, key: tuple[str, ...] = (), *, now: datetime) -> Audit:
    """Reads the row that `audit_query` gave, made with the same arguments."""
    job = _Compiler("_", checks, schema)
    rows, rejected, values = int(row[0]), int(row[1]), list(row[2:])
    parts = []
    for measure in job.measures(key, now):
        parts.append((measure, values[: len(measure.sql)]))
        values = values[len(measure.sql) :]
    repeated = [int(parts[i][1][0]) for i in job.uniques]
    if len(repeated) == 1:
        rejected += repeated[0]
    results = tuple(measure.judge(mine, rows - rejected) for measure, mine in parts)
    return Audit(rows, rejected, results, final=not any(repeated))


def failing_query(relation: str, checks: Sequence[Check], schema: Schema) -> str:
    """The rows to reject: `_check` (names of all rejecting checks that fail), `_reason`, `_path`, `_pos`, then the columns."""
    job = _Compiler(relation, checks, schema)
    names = [f"CASE WHEN {job.flag(i)} THEN {literal(checks[i].name)} END" for i in job.rejecting]
    reasons = [f"CASE WHEN {fault.sql} THEN {literal(fault.reason)} END" for i in job.rejecting for fault in job.faults(i)]
    told = f"concat_ws(', ', {', '.join(names)}) AS _check, concat_ws('; ', {', '.join(reasons)}) AS _reason" if names else _NOTHING
    columns = ", ".join(map(quote, (*PLACE, *schema.names)))
    return f"SELECT {told}, {columns} FROM ({job.parted((*PLACE, *schema.names))}) WHERE {job.fails}"


def passing_query(relation: str, checks: Sequence[Check], schema: Schema) -> str:
    """The rows that stay, in order, with the columns of the schema."""
    job = _Compiler(relation, checks, schema)
    columns = ", ".join(map(quote, schema.names))
    place = PLACE if job.uniques else ()
    query = f"SELECT {columns} FROM ({job.parted((*place, *schema.names))}) WHERE ({job.fails}) IS NOT TRUE"
    return f"{query} ORDER BY {', '.join(map(quote, PLACE))}" if job.uniques else query  # the look-up of repeated rows mixes them up


_NOTHING = "CAST(NULL AS VARCHAR) AS _check, CAST(NULL AS VARCHAR) AS _reason"


class _Compiler:
    """The checks of one relation in SQL. Each row check but `unique` becomes a boolean column, so that it is computed once.

    Attributes:
        rejecting: positions of the checks that reject rows; `uniques` are those of them of kind `unique`.
        stays: name of the column that tells whether no rejecting check of a row's own values fails.
    """

    def __init__(self, relation: str, checks: Sequence[Check], schema: Schema) -> None:
        self._relation, self._checks, self._schema = relation, checks, schema
        self._mark = "_"
        while any(name.lower().startswith((f"{self._mark}check", f"{self._mark}stays")) for name in schema.names):
            self._mark += "_"
        self.stays = quote(f"{self._mark}stays")
        self.rejecting = [i for i, check in enumerate(checks) if check.of_rows and check.outcome == "reject"]
        self.uniques = [i for i in self.rejecting if checks[i].kind == "unique"]
        self._plain = [i for i, check in enumerate(checks) if check.of_rows and check.kind != "unique"]

    def flag(self, i: int) -> str:
        return quote(f"{self._mark}check{i}")

    def faults(self, i: int) -> tuple[Fault, ...]:
        check = self._checks[i]
        if check.kind == "unique":
            return (Fault(self.flag(i), f"an earlier row has the same {', '.join(check.columns)}"),)
        return faults(check, self._schema)

    def flags(self) -> str:
        return "".join(f", {any_of(self.faults(i))} AS {self.flag(i)}" for i in self._plain)

    @property
    def row_passes(self) -> str:
        """Over the flags: no rejecting check of the row's own values fails."""
        failing = " OR ".join(self.flag(i) for i in self.rejecting if i not in self.uniques)
        return f"({failing}) IS NOT TRUE" if failing else "TRUE"

    @property
    def fails(self) -> str:
        return " OR ".join(self.flag(i) for i in self.rejecting) or "FALSE"

    def parted(self, columns: Sequence[str]) -> str:
        """The relation's columns with a flag for each rejecting check, `unique` too."""
        names = ", ".join(map(quote, columns))
        query = f"SELECT {names}{self.flags()} FROM {quote(self._relation)}"
        if not self.uniques:
            return query
        places = f"({', '.join(map(quote, PLACE))})"
        repeated = "".join(f", {places} IN ({self._repeated(i)}) AS {self.flag(i)}" for i in self.uniques)
        return f"SELECT *{repeated} FROM ({query})"

    def _repeated(self, i: int) -> str:
        """Places of the rows whose key an earlier good row has. Only rows of keys that do repeat are sorted."""
        key, place, relation = self._columns(i), ", ".join(map(quote, PLACE)), quote(self._relation)
        wanted = f"{self._good} AND {' AND '.join(f'{c} IS NOT NULL' for c in key)}"
        names = ", ".join(key)
        keys = f"SELECT {names} FROM {relation} WHERE {wanted} GROUP BY {names} HAVING count(*) > 1"
        numbered = (
            f"SELECT {place}, row_number() OVER (PARTITION BY {names} ORDER BY {place}) AS {quote(self._mark + 'stays')}"
            f" FROM {relation} WHERE {wanted} AND ({names}) IN ({keys})"
        )
        return f"SELECT {place} FROM ({numbered}) WHERE {self.stays} > 1"

    @property
    def _good(self) -> str:
        """Over the relation itself: no rejecting check of the row's own values fails."""
        found = " OR ".join(any_of(self.faults(i)) for i in self.rejecting if i not in self.uniques)
        return f"({found}) IS NOT TRUE" if found else "TRUE"

    def _columns(self, i: int) -> list[str]:
        return [quote(field.name) for field in fields(self._checks[i], self._schema)]

    # -- measures ---------------------------------------------------------------------------------------------------
    def measures(self, key: tuple[str, ...], now: datetime) -> list[_Measure]:
        made = [self._measure(i, check, now) for i, check in enumerate(self._checks)]
        return [*made, self._key(key)] if key else made

    def _measure(self, i: int, check: Check, now: datetime) -> _Measure:
        if check.kind == "unique":
            return _Measure((self._repeats(self._columns(i)),), lambda values, _: _of_rows(check, values[0]))
        if check.of_rows:
            seen = self.flag(i) if check.outcome == "reject" else f"{self.stays} AND {self.flag(i)}"
            return _Measure((f"count(CASE WHEN {seen} THEN 1 END)",), lambda values, _: _of_rows(check, values[0]))
        if check.kind == "rows":
            return _Measure((), lambda _, stay: _rows(check, stay))
        if check.kind == "null_share":
            null = f"count(CASE WHEN {self.stays} AND {self._columns(i)[0]} IS NULL THEN 1 END)"
            at_most = _share(check)
            return _Measure((null, f"count(CASE WHEN {self.stays} THEN 1 END)"), lambda values, _: _null_share(check, at_most, *values))
        if check.kind == "fresh":
            newest = f"epoch_us(max(CASE WHEN {self.stays} THEN {self._time(i)} END))"
            within = span(str(check.args[0]))
            return _Measure((newest,), lambda values, _: _fresh(check, within, values[0], now))
        if check.kind == "holds":
            return _Measure((self._holds(check),), lambda values, _: _holds(check, values[0]))
        raise DefinitionError("unknown kind of check", place=check.name, got=check.kind)

    def _repeats(self, key: Sequence[str]) -> str:
        """Rows that stay, have a whole key, and are not the only or first one with it."""
        whole = " AND ".join([self.stays, *(f"{column} IS NOT NULL" for column in key)])
        value = key[0] if len(key) == 1 else f"({', '.join(key)})"
        return f"count(CASE WHEN {whole} THEN 1 END) - count(DISTINCT CASE WHEN {whole} THEN {value} END)"

    def _key(self, names: tuple[str, ...]) -> _Measure:
        check = Check("key", names, outcome="block")
        key = [quote(field.name) for field in fields(check, self._schema)]
        settled = any(set(self._checks[i].columns) <= set(names) for i in self.uniques)
        null = f"count(CASE WHEN {self.stays} AND ({' OR '.join(f'{c} IS NULL' for c in key)}) THEN 1 END)"
        return _Measure(("0" if settled else self._repeats(key), null), lambda values, _: _key(check, *values))

    def _time(self, i: int) -> str:
        field = fields(self._checks[i], self._schema)[0]
        if field.type.name not in ("date", "timestamp", "timestamptz"):
            raise DefinitionError(
                "the column is no time", place=self._checks[i].name, expected="date, timestamp, timestamptz", got=field.type
            )
        return quote(field.name)

    def _holds(self, check: Check) -> str:
        sql = condition(str(check.args[0]), self._schema, place=check.name, aggregate=True)
        return sql if self._good == "TRUE" else f"(SELECT {sql} FROM {quote(self._relation)} WHERE {self._good})"


def _of_rows(check: Check, failures: int) -> Result:
    return Result(check, failures == 0, failures, failures, f"{check.name}: {_count(failures)}")


def _count(failures: int) -> str:
    return "no row fails" if not failures else f"{failures:,} row{'s fail' if failures > 1 else ' fails'}"


def _key(check: Check, repeats: int, nulls: int) -> Result:
    parts = [f"{repeats:,} repeat it"] if repeats else []
    parts += [f"{nulls:,} have a null in it"] if nulls else []
    text = f"key({', '.join(check.columns)}): " + (" and ".join(parts) + " (rows)" if parts else "each key once")
    return Result(check, not parts, repeats + nulls, repeats + nulls, text)


def _rows(check: Check, stay: int) -> Result:
    low, high = check.args
    passed = (low is None or stay >= float(low)) and (high is None or stay <= float(high))
    return _of_table(check, passed, stay, f"{stay:,} rows")


def _share(check: Check) -> float:
    share = check.args[0]
    if not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise DefinitionError("not a share", place=check.name, expected="[0, 1]", got=share)
    return float(share)


def _null_share(check: Check, at_most: float, nulls: int, rows: int) -> Result:
    share = nulls / rows if rows else 0.0
    return _of_table(check, share <= at_most, share, f"{share:.4g} of {check.columns[0]} is null")


def _fresh(check: Check, within: timedelta, newest_us: int | None, now: datetime) -> Result:
    if newest_us is None:
        return _of_table(check, False, None, f"no value in {check.columns[0]}")
    newest = _EPOCH + timedelta(microseconds=newest_us)
    return _of_table(check, now - newest <= within, (now - newest).total_seconds(), f"the newest is of {newest:%Y-%m-%d %H:%M:%S} UTC")


def _holds(check: Check, value: bool | None) -> Result:
    """A null does not hold: an empty table must not pass what was meant to guard it."""
    return _of_table(check, value is True, value, {True: "holds", False: "does not hold", None: "is null, so it does not hold"}[value])


def _of_table(check: Check, passed: bool, measured: int | float | bool | None, text: str) -> Result:
    return Result(check, passed, int(not passed), measured, f"{check.name}: {text}")


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
