"""Tables and queries of a SQLite file, read with the standard library. Tested with SQLite 3.40.

The file is opened read-only. Each read is one SELECT, which SQLite runs on one moment of the file.

Types. SQLite lets any value stand in any column, so `describe` looks at the storage class of every value, in one pass inside SQLite:
the declared type holds if all values fit it, else the column gets the narrowest type that they do fit, and text when they are mixed.

| declared as contains | type, if all values fit |
|---|---|
| INT | long |
| BOOL | boolean (0 and 1) |
| DECIMAL(p,s), NUMERIC(p,s) | decimal(p,s), if no value has more digits |
| DATETIME, TIMESTAMP | timestamp; timestamptz if every value has an offset |
| DATE | date |
| anything else, or nothing | by values: long, double, string or binary |

Text comes as it is; bytes that are no UTF-8 are shown as `\\xff`. A blob in a text column comes as `X'00ff'`. When a value does not
fit the type it is to be read as, the read fails with its column and value: no row is left out or changed.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from penstock.ground.errors import SchemaDrift, SettingsError, SourceError, SourceUnreachable, did_you_mean
from penstock.ground.names import quote
from penstock.ports.adapters import Context
from penstock.ports.source import SourceCapabilities
from penstock.spec.schema import Field, Schema, Type, decimal, primitive

_BATCH = 50_000
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)([ T]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d(:?\d\d)?)?)?")
#: How long a read waits for a writer, in seconds.
_WAIT_S = 30.0


class SqliteDatabase:
    """One read-only connection to a file."""

    capabilities = SourceCapabilities(consistent_reads=True, primary_keys=True)

    def __init__(self, path: Path) -> None:
        """Raises: SourceError(E2001) if there is no such file."""
        self._path = path
        if not path.is_file():
            raise SourceError("no such SQLite file", place=str(path), hint="an absolute path has four slashes: sqlite:////data/my.db")
        # an engine may pull the batches of a read from a thread of its own
        self._connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_WAIT_S, isolation_level=None, check_same_thread=False
        )
        self._connection.text_factory = partial(str, encoding="utf-8", errors="backslashreplace")
        self._connection.create_function("penstock_fits", 2, _fits, deterministic=True)

    @classmethod
    def open(cls, url: str, context: Context, *, password: str | None = None) -> SqliteDatabase:
        """`sqlite:///relative` counts from the folder above the project's own, `sqlite:////absolute`.

        Raises: SourceError(E2001), SettingsError(E7001) for a password.
        """
        if password is not None:
            raise SettingsError("a SQLite file has no password", place=url, hint="leave password= away")
        return cls(context.folder.parent / url.removeprefix("sqlite:///"))

    def tables(self) -> Sequence[str]:
        query = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
        return [str(row[0]) for row in self._rows(query)]

    def describe(self, relation: str) -> Schema:
        """Reads no row into Python, but SQLite looks at every value (see the module)."""
        source = self._from(relation)
        with self._told(relation):
            names = [str(column[0]) for column in self._connection.execute(f"SELECT * FROM {source} LIMIT 0").description]
        declared = {} if relation.startswith("(") else self._declared(relation)
        wishes = [declared.get(name, "") for name in names]
        asked = [sql for name, wish in zip(names, wishes, strict=True) for sql in _asked(quote(name), wish)]
        found = list(self._rows(f"SELECT {', '.join(asked)} FROM {source}", place=relation)[0])
        step = len(found) // len(names)
        kinds = [_type_of(wish, *found[i * step : (i + 1) * step]) for i, wish in enumerate(wishes)]
        return Schema(tuple(Field(name, kind) for name, kind in zip(names, kinds, strict=True)))

    def key(self, table: str) -> tuple[str, ...]:
        found = [(row[5], str(row[1])) for row in self._rows(f"PRAGMA table_info({self._from(table)})") if row[5]]
        return tuple(name for _, name in sorted(found))

    def read(self, relation: str, *, columns: Schema, above: tuple[str, Any] | None = None) -> pa.RecordBatchReader:
        source = self._from(relation)
        with self._told(relation):
            known = [str(column[0]) for column in self._connection.execute(f"SELECT * FROM {source} LIMIT 0").description]
        for name in columns.names:
            if name not in known:
                raise SchemaDrift(
                    "the column is gone", place=f"{self._place(relation)}[{name}]", got="none", hint=did_you_mean(name, known)
                )
        limit = _Above(columns.field(above[0]), above[1], self._place(relation)) if above else None
        query = f"SELECT {', '.join(map(quote, columns.names))} FROM {source}{limit.sql if limit else ''}"
        with self._told(relation):
            cursor = self._connection.execute(query, limit.values if limit else ())
        schema = pa.schema([(f.name, _arrow(f.type, self._place(relation))) for f in columns])
        return pa.RecordBatchReader.from_batches(schema, self._batches(cursor, columns, schema, relation, limit))

    def close(self) -> None:
        self._connection.close()

    def _batches(
        self, cursor: sqlite3.Cursor, columns: Schema, schema: pa.Schema, relation: str, limit: _Above | None
    ) -> Iterator[pa.RecordBatch]:
        place = self._place(relation)
        while True:
            with self._told(relation):
                rows = cursor.fetchmany(_BATCH)
            if not rows:
                return
            arrays = [
                _array(field, kind, values, place)
                for field, kind, values in zip(columns, schema.types, zip(*rows, strict=True), strict=True)
            ]
            batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
            yield limit.of(batch) if limit else batch

    def _declared(self, table: str) -> dict[str, str]:
        return {str(row[1]): str(row[2]).upper() for row in self._rows(f"PRAGMA table_info({self._from(table)})")}

    def _from(self, relation: str) -> str:
        """A table's name quoted, a query in brackets as it is."""
        if relation.startswith("("):
            return f"(\n{relation[1:-1].strip().rstrip(';')}\n)"
        known = {name.lower(): name for name in self.tables()}
        name = relation if relation.lower() in known else relation.removeprefix("main.")
        if name.lower() not in known:
            raise SourceError("no such table", place=self._place(relation), hint=did_you_mean(relation, self.tables()))
        return quote(known[name.lower()])

    def _rows(self, query: str, *, place: str = "") -> list[tuple[Any, ...]]:
        with self._told(place):
            return self._connection.execute(query).fetchall()

    def _place(self, relation: str) -> str:
        return f"{self._path.name}:{relation[:60]}" if relation else str(self._path)

    @contextmanager
    def _told(self, relation: str) -> Iterator[None]:
        """SQLite's errors as ours."""
        try:
            yield
        except sqlite3.Error as error:
            if (error.sqlite_errorcode or 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise SourceUnreachable("the file is locked by a writer", place=self._place(relation), got=str(error)) from error
            damaged = (error.sqlite_errorcode or 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
            hint = "is it a SQLite file, and whole?" if damaged else "the query runs in SQLite, in its dialect"
            raise SourceError("SQLite cannot read it", place=self._place(relation), got=str(error), hint=hint) from error


class _Above:
    """A lower bound: in SQL for numbers, where it can only let too much through, and exactly on the batches."""

    def __init__(self, field: Field, value: Any, place: str) -> None:
        self._name = field.name
        self._bound = _array(field, _arrow(field.type, place), [value], place)[0]
        number = field.type.name in ("int", "long", "float", "double")
        self.sql = f" WHERE {quote(field.name)} >= ? OR typeof({quote(field.name)}) IN ('text', 'blob')" if number else ""
        self.values = (self._bound.as_py(),) if number else ()

    def of(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.filter(pc.greater_equal(batch.column(self._name), self._bound))


# -- what a column holds --------------------------------------------------------------------------------------------
def _asked(column: str, declared: str) -> tuple[str, ...]:
    """Aggregates over a column: whether it holds integers, reals, texts, blobs; how it fits its declared type at worst and at best;
    whether an integer is beyond what a double holds."""
    wish = _wish(declared)
    fits = f"CASE WHEN {_plainly(column, wish)} THEN 1 ELSE penstock_fits({column}, '{wish}') END" if wish else "0"
    kinds = [f"coalesce(max(typeof({column}) = '{kind}'), 0)" for kind in ("integer", "real", "text", "blob")]
    exact = f"coalesce(max(typeof({column}) = 'integer' AND abs({column} / 2) >= {2**52}), 0)"
    return (*kinds, f"min(CASE WHEN {column} IS NOT NULL THEN {fits} END)", f"max({fits})", exact)


def _plainly(column: str, wish: str) -> str:
    """A condition under which a value surely fits, in SQLite's own words: the usual forms need no call into Python."""
    if wish == "moment":
        return f"datetime({column}, '+0 days') = {column} AND {column} NOT GLOB '0000*'"  # with a modifier, or the 31st of February passes
    if wish == "date":
        return f"date({column}, '+0 days') = {column} AND {column} NOT GLOB '0000*'"
    if wish.startswith("decimal"):
        _, precision, scale = wish.split(" ")
        small = f"typeof({column}) IN ('integer', 'real') AND abs({column}) < 1e{int(precision) - int(scale)}"
        return f"{small} AND round({column}, {scale}) = {column}" if int(precision) <= 15 else "FALSE"
    return "FALSE"


def _wish(declared: str) -> str:
    """What a declared type asks for beyond SQLite's own storage classes."""
    if match := re.fullmatch(r"(?:DECIMAL|NUMERIC)\s*\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\)", declared):
        return f"decimal {match[1]} {match[2] or 0}" if int(match[1]) <= 38 else ""
    if "BOOL" in declared:
        return "boolean"
    if "DATETIME" in declared or "TIMESTAMP" in declared:
        return "moment"
    return "date" if declared == "DATE" else ""


def _fits(value: Any, wish: str) -> int:
    """0: does not fit; 1: fits; 2: a moment with an offset. Null fits."""
    if value is None:
        return 1
    if wish == "boolean":
        return int(value in (0, 1) and isinstance(value, int))
    if wish.startswith("decimal"):
        _, precision, scale = wish.split(" ")
        return int(_decimal(value, int(precision), int(scale)) is not None)
    match = _MOMENT.fullmatch(value) if isinstance(value, str) else None
    if match is None or not _is_moment(value) or (wish == "date" and match[2]):
        return 0
    return 2 if match[5] else 1


def _is_moment(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _decimal(value: Any, precision: int, scale: int) -> Decimal | None:
    """The value with `scale` digits if it has no more, and no more than `precision` in all; else None."""
    if isinstance(value, bytes):
        return None
    try:
        number = Decimal(repr(value) if isinstance(value, float) else value)
        exact = number.quantize(Decimal(1).scaleb(-scale))
    except InvalidOperation:
        return None
    return exact if number == exact and exact.is_finite() and len(exact.as_tuple().digits) <= precision else None


def _type_of(declared: str, integer: int, real: int, text: int, blob: int, least: int | None, most: int | None, large: int) -> Type:
    """The type of a column from its declaration and what `_asked` found. `least` is None if it holds nothing."""
    wish = _wish(declared)
    if wish and (least is None or least >= 1):
        return _wished(wish, least or 1, most or 1)
    held = (bool(integer), bool(real), bool(text), bool(blob))
    if held == (True, False, False, False) or (not any(held) and "INT" in declared):
        return primitive("long")
    if held == (False, True, False, False) or (held == (True, True, False, False) and not large):
        return primitive("double")
    if not any(held) and any(part in declared for part in ("REAL", "FLOA", "DOUB")):
        return primitive("double")
    if held == (False, False, False, True) or (not any(held) and "BLOB" in declared):
        return primitive("binary")
    return primitive("string")


def _wished(wish: str, least: int, most: int) -> Type:
    if wish.startswith("decimal"):
        _, precision, scale = wish.split(" ")
        return decimal(int(precision), int(scale))
    if wish != "moment":
        return primitive(wish)
    if least != most:
        return primitive("string")
    return primitive("timestamp" if least == 1 else "timestamptz")


# -- values ---------------------------------------------------------------------------------------------------------
_ARROW: dict[str, pa.DataType] = {
    "boolean": pa.bool_(), "int": pa.int32(), "long": pa.int64(), "float": pa.float32(), "double": pa.float64(), "string": pa.string(),
    "binary": pa.binary(), "date": pa.date32(), "time": pa.time64("us"), "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", "UTC"), "uuid": pa.string(),
}  # fmt: skip


def _arrow(kind: Type, place: str) -> pa.DataType:
    if kind.name == "decimal":
        return pa.decimal128(kind.precision, kind.scale)
    if kind.name not in _ARROW:
        raise SourceError("SQLite has no such values", place=place, expected="plain types", got=kind, hint='declare the column as "string"')
    return _ARROW[kind.name]


def _array(field: Field, kind: pa.DataType, values: Sequence[Any], place: str) -> pa.Array:
    """The values as the column's type; quickly if Arrow by itself sees that type in them (told the type, it would cut 1.5 down to 1)."""
    with suppress(pa.ArrowInvalid, pa.ArrowTypeError):
        made = pa.array(values)
        if made.type == kind:
            return made
        if field.type.name in ("date", "timestamp") and made.type == pa.string():
            return pc.cast(made, kind)
    convert, converted = _CONVERT[field.type.name], []
    for value in values:
        try:
            converted.append(None if value is None else convert(value, field.type))
        except (ValueError, TypeError) as error:
            raise _misfit(field, place, f"{type(value).__name__} {str(value)[:60]!r}") from error
    try:
        return pa.array(converted, kind)
    except (pa.ArrowInvalid, OverflowError) as error:
        raise _misfit(field, place, str(error)) from error


def _misfit(field: Field, place: str, got: str) -> SourceError:
    hint = f'declare it as text: columns={{"{field.name}": "string", ...}}'
    return SourceError("a value does not fit the column's type", place=f"{place}[{field.name}]", expected=field.type, got=got, hint=hint)


def _refuse(value: Any) -> Any:
    raise ValueError(value)


def _whole(value: Any, _: Type) -> int:
    if isinstance(value, float):
        return int(value) if value.is_integer() else _refuse(value)
    return int(value) if not isinstance(value, bytes) else _refuse(value)


def _real(value: Any, _: Type) -> float:
    number = float(value) if not isinstance(value, bytes) else _refuse(value)
    return number if not isinstance(value, int) or int(number) == value else _refuse(value)


def _text(value: Any, _: Type) -> str:
    return f"X'{value.hex()}'" if isinstance(value, bytes) else repr(value) if isinstance(value, float) else str(value)


def _moment(value: Any, kind: Type) -> datetime:
    if not isinstance(value, str) or not _MOMENT.fullmatch(value):
        return value if isinstance(value, datetime) else _refuse(value)
    moment = datetime.fromisoformat(value)
    if kind.name == "timestamptz":
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment if moment.tzinfo is None else _refuse(value)


def _exact(value: Any, kind: Type) -> Decimal:
    number = _decimal(value, kind.precision, kind.scale)
    return _refuse(value) if number is None else number


_CONVERT: dict[str, Callable[[Any, Type], Any]] = {
    "boolean": lambda value, _: bool(value) if value in (0, 1) else _refuse(value),
    "int": _whole,
    "long": _whole,
    "float": _real,
    "double": _real,
    "decimal": _exact,
    "string": _text,
    "uuid": _text,
    "binary": lambda value, _: value if isinstance(value, bytes) else str(value).encode(),
    "date": lambda value, _: date.fromisoformat(value),
    "time": lambda value, _: time.fromisoformat(value),
    "timestamp": _moment,
    "timestamptz": _moment,
}
