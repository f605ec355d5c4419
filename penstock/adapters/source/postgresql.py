"""Tables and queries of a PostgreSQL database, read through ADBC as Arrow. Tested with PostgreSQL 18 and adbc-driver-postgresql 1.13.

Every transaction is read-only and REPEATABLE READ, and each read is one statement. The session's time zone is UTC. The password comes
from the caller and goes only into the connection: it stands in no error.

| PostgreSQL | type |
|---|---|
| boolean, bytea | boolean, binary |
| smallint, integer; bigint, oid | int; long |
| real; double precision | float; double |
| numeric(p,s) with p <= 38, 0 <= s <= p | decimal(p,s); a NaN in it fails the read |
| numeric without or beyond that | string, all digits |
| date, time, timestamp, timestamptz | the same; infinity becomes 9999-12-31 (23:59:59.999999), -infinity 0001-01-01 |
| uuid | uuid, handed over as text |
| text, varchar, char(n), name, enums | string |
| arrays of integers, floats, booleans and texts | list; an array of several dimensions fails the read |
| other arrays | list<string> |
| json, jsonb, xml, inet, money, interval, timetz, ranges, composites and all else | string, as PostgreSQL writes it |

Domains count as the type below them. With declared columns PostgreSQL itself casts to the declared type, so that `"string"` takes
everything as PostgreSQL writes it. Rows whose cursor is null are read in full loads only.

Limit: a read with `above` comes whole into memory before its first batch (the driver binds a value in no other way).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote as percent
from urllib.parse import unquote, urlsplit, urlunsplit

import pyarrow as pa
import pyarrow.compute as pc
from adbc_driver_manager import Error as DriverError
from adbc_driver_postgresql import dbapi

from penstock.ground.errors import SchemaDrift, SourceError, SourceUnreachable, did_you_mean
from penstock.ground.names import quote
from penstock.ports.adapters import Context
from penstock.ports.source import SourceCapabilities
from penstock.spec.schema import Field, Schema, Type, decimal, list_of, primitive

_SETTINGS = (
    "SET default_transaction_read_only = on",
    "SET default_transaction_isolation = 'repeatable read'",
    "SET timezone = 'UTC'",
    "SET extra_float_digits = 3",
)
#: How long to wait for the server to take the connection, in seconds, if the URL does not say.
_CONNECT_S = 10


class PostgresqlDatabase:
    """One connection to one database."""

    capabilities = SourceCapabilities(consistent_reads=True, primary_keys=True)

    def __init__(self, url: str, password: str | None) -> None:
        """Raises: SourceUnreachable(E2005) if nobody answers, SourceError(E2001) if the server refuses us."""
        parts = urlsplit(url)
        password = password if password is not None else parts.password and unquote(parts.password)
        self._secrets = tuple({text for text in (password, password and percent(password, safe=""), parts.password) if text})
        self._where = f"{parts.hostname or 'localhost'}:{parts.port or 5432}{parts.path}"
        self._cursor: Any = None
        with self._told(""):
            self._connection = dbapi.connect(_address(url, password))
        try:
            with self._told(""), self._connection.cursor() as cursor:
                for statement in _SETTINGS:
                    cursor.execute(statement)
                self._connection.commit()
        except BaseException:
            self._connection.close()
            raise

    @classmethod
    def open(cls, url: str, context: Context, *, password: str | None = None) -> PostgresqlDatabase:
        """`postgresql://user@host:port/database`, with libpq's parameters after a `?` (sslmode, connect_timeout, ...)."""
        return cls(url, password)

    def tables(self) -> Sequence[str]:
        query = f"SELECT CASE WHEN n.nspname = current_schema() THEN c.relname ELSE n.nspname || '.' || c.relname END {_TABLES} ORDER BY 1"
        return [str(row[0]) for row in self._rows(query)]

    def describe(self, relation: str) -> Schema:
        with self._reading(f"SELECT * FROM {self._from(relation)} LIMIT 0", relation) as reader:
            return Schema(tuple(Field(field.name, _type_of(field)) for field in reader.schema))

    def key(self, table: str) -> tuple[str, ...]:
        query = (
            "SELECT a.attname FROM pg_index i CROSS JOIN unnest(i.indkey) WITH ORDINALITY k(n, place)"
            " JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.n"
            " WHERE i.indisprimary AND i.indrelid = CAST($1 AS regclass) ORDER BY k.place"
        )
        return tuple(str(row[0]) for row in self._rows(query, self._from(table)))

    def read(self, relation: str, *, columns: Schema, above: tuple[str, Any] | None = None) -> pa.RecordBatchReader:
        known = self.describe(relation).names
        for name in columns.names:
            if name not in known:
                raise SchemaDrift(
                    "the column is gone", place=f"{self._place(relation)}[{name}]", got="none", hint=did_you_mean(name, known)
                )
        schema = pa.schema([(f.name, _arrow(f, self._place(relation))) for f in columns])
        query = f"SELECT {', '.join(_column(f) for f in columns)} FROM {self._from(relation)}"
        values: tuple[str, ...] = ()
        if above is not None:
            query, values = f"{query} WHERE {_at_least(columns.field(above[0]))}", (str(above[1]),)
        with self._told(relation):
            reader = self._run(query, values)
        return pa.RecordBatchReader.from_batches(schema, self._batches(reader, columns, schema, relation))

    def close(self) -> None:
        """Ends the connection, and a read that is still under way. Repeat: does nothing."""
        with suppress(DriverError):
            self._finish()
        with suppress(DriverError):
            self._connection.close()

    def _batches(self, reader: pa.RecordBatchReader, columns: Schema, schema: pa.Schema, relation: str) -> Iterator[pa.RecordBatch]:
        while True:
            with self._told(relation):
                try:
                    batch = reader.read_next_batch()
                except StopIteration:
                    return
            arrays = []
            for field, kind, values in zip(columns, schema.types, batch.columns, strict=True):
                try:
                    arrays.append(pc.cast(values, kind))
                except pa.ArrowInvalid as error:
                    raise _unfit(f"{self._place(relation)}[{field.name}]", field, str(error)) from error
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _run(self, query: str, values: Sequence[str] = ()) -> pa.RecordBatchReader:
        """Starts a statement; the one before it is ended, read or not."""
        self._finish()
        self._cursor = self._connection.cursor()
        self._cursor.execute(query, values or None)
        return self._cursor.fetch_record_batch()

    def _finish(self) -> None:
        if self._cursor is not None:
            self._cursor.close()
            self._cursor = None
            self._connection.rollback()

    @contextmanager
    def _reading(self, query: str, relation: str, values: Sequence[str] = ()) -> Iterator[pa.RecordBatchReader]:
        with self._told(relation):
            try:
                yield self._run(query, values)
            finally:
                self._finish()

    def _rows(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        with self._reading(query, "", values) as reader:
            table = reader.read_all()
        return list(zip(*(column.to_pylist() for column in table.columns), strict=True))

    def _from(self, relation: str) -> str:
        """A table's name with its schema, quoted; a query in brackets as it is.

        Raises: SourceError(E2001) with the nearest names.
        """
        if relation.startswith("("):
            return f"(\n{relation[1:-1].strip().rstrip(';')}\n) AS q"
        wanted = "(c.relname = $1 AND pg_table_is_visible(c.oid) OR n.nspname || '.' || c.relname = $1)"
        found = self._rows(f"SELECT n.nspname, c.relname {_TABLES} AND {wanted} ORDER BY pg_table_is_visible(c.oid) DESC", relation)
        if not found:
            raise SourceError("no such table or view", place=self._place(relation), hint=did_you_mean(relation, self.tables()))
        return f"{quote(found[0][0])}.{quote(found[0][1])}"

    def _place(self, relation: str) -> str:
        return f"{self._where}:{relation[:60]}" if relation else self._where

    @contextmanager
    def _told(self, relation: str) -> Iterator[None]:
        """The driver's errors as ours, without the password."""
        try:
            yield
        except (DriverError, pa.ArrowInvalid, OSError) as error:
            if isinstance(error, SourceError):
                raise
            said = str(error)
            for secret in self._secrets:
                said = said.replace(secret, "***")
            raise _as_ours(said, getattr(error, "sqlstate", None) or "", self._place(relation)) from None


_TABLES = (
    "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition"
    " AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%' AND n.nspname NOT LIKE 'pg\\_temp%'"
)


def _address(url: str, password: str | None) -> str:
    """The URL with the password in it, for libpq alone."""
    parts = urlsplit(url)
    user = percent(unquote(parts.username or ""), safe="")
    secret = f":{percent(password, safe='')}" if password is not None else ""
    place = parts.netloc.rpartition("@")[2]
    query = parts.query if "connect_timeout=" in parts.query else f"{parts.query}{'&' if parts.query else ''}connect_timeout={_CONNECT_S}"
    return urlunsplit(("postgresql", f"{user}{secret}@{place}" if user or secret else place, parts.path, query, ""))


#: What a server says, in words, when it was reached but will not have us; the driver gives no code for it.
_REFUSED = ("password", "authentication", "pg_hba", "does not exist", "not permitted to log in", "permission denied")


def _as_ours(said: str, code: str, place: str) -> SourceError:
    first = said.partition("Query was:")[0].strip().replace("\n", " ")[:300]
    if "Failed to connect" in said:
        if any(words in said for words in _REFUSED):
            hint = "check user, database and password: ps.database(url, password=ps.secret(NAME)), and set NAME"
            return SourceError("the database refuses the connection", place=place, got=first, hint=hint)
        return SourceUnreachable("the database does not answer", place=place, got=first, hint="is the address right, and the server up?")
    broken = said.startswith("IO:") or "PQgetCopyData" in said or "terminating connection" in said
    if code[:2] in ("08", "53", "40") or code[:3] == "57P" or (broken and not code):
        return SourceUnreachable("the database broke the read off; nothing was taken", place=place, got=first)
    if code[:2] == "22" or (not code and "PGRES_FATAL_ERROR" in said):  # while rows stream, the driver passes no code on
        return SourceError("the database cannot give these values", place=place, got=first, hint='declare the column as "string"')
    if code == "42501":
        return SourceError("the database denies the read", place=place, got=first, hint="GRANT SELECT on it to the user of the URL")
    return SourceError("the database refuses the query", place=place, got=first)


# -- types ----------------------------------------------------------------------------------------------------------
_TYPES = {
    "bool": "boolean", "bytea": "binary", "int2": "int", "int4": "int", "int8": "long", "oid": "long", "float4": "float",
    "float8": "double", "date": "date", "time": "time", "timestamp": "timestamp", "timestamptz": "timestamptz", "uuid": "uuid",
}  # fmt: skip
_CASTS = {
    "boolean": "boolean", "binary": "bytea", "int": "integer", "long": "bigint", "float": "real", "double": "double precision",
    "date": "date", "time": "time", "timestamp": "timestamp", "timestamptz": "timestamptz", "uuid": "text", "string": "text",
    "decimal": "text",
}  # fmt: skip
_ARROW: dict[str, pa.DataType] = {
    "boolean": pa.bool_(), "binary": pa.binary(), "int": pa.int32(), "long": pa.int64(), "float": pa.float32(), "double": pa.float64(),
    "date": pa.date32(), "time": pa.time64("us"), "timestamp": pa.timestamp("us"), "timestamptz": pa.timestamp("us", "UTC"),
    "uuid": pa.string(), "string": pa.string(),
}  # fmt: skip
_LISTED = ("boolean", "int", "long", "float", "double")
_ENDLESS = {
    "date": ("9999-12-31", "0001-01-01"),
    "timestamp": ("9999-12-31 23:59:59.999999", "0001-01-01"),
    "timestamptz": ("9999-12-31 23:59:59.999999+00", "0001-01-01 00:00:00+00"),
}


def _type_of(field: pa.Field) -> Type:
    """The type of a result's column, from what the driver tells of PostgreSQL's own type."""
    told = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
    name = told.get("POSTGRESQL:type", "")
    if name == "numeric":
        return _numeric(int(told.get("POSTGRESQL:typmod", "-1")))
    if name.startswith("_") and pa.types.is_list(field.type):
        element = _TYPES.get(name[1:], "string")
        return list_of(primitive(element if element in _LISTED else "string"))
    return primitive(_TYPES.get(name, "string"))


def _numeric(modifier: int) -> Type:
    """Precision and scale as PostgreSQL packs them: 4 + precision in the upper 16 bits, scale in the lower 11, signed.

    Source: PostgreSQL, src/backend/utils/adt/numeric.c, make_numeric_typmod.
    """
    if modifier < 4:
        return primitive("string")
    precision, scale = (modifier - 4) >> 16, (((modifier - 4) & 0x7FF) ^ 1024) - 1024
    return decimal(precision, scale) if precision <= 38 and 0 <= scale <= precision else primitive("string")


def _arrow(field: Field, place: str) -> pa.DataType:
    kind = field.type
    if kind.name == "decimal":
        return pa.decimal128(kind.precision, kind.scale)
    if kind.name == "list" and kind.fields[0].type.name in _ARROW:
        return pa.list_(_ARROW[kind.fields[0].type.name])
    if kind.name not in _ARROW:
        raise SourceError("cannot be read as this type", place=f"{place}[{field.name}]", got=kind, hint='declare the column as "string"')
    return _ARROW[kind.name]


def _column(field: Field) -> str:
    """A column as its type in PostgreSQL's own words, under its own name."""
    name, kind = quote(field.name), field.type.name
    if kind == "list":
        cast = f"{_CASTS[field.type.fields[0].type.name]}[]"
        several = f"CAST('array of several dimensions: ' || CAST({name} AS text) AS {cast})"  # no array literal, so PostgreSQL refuses it
        return f"CASE WHEN array_ndims({name}) > 1 THEN {several} ELSE CAST({name} AS {cast}) END AS {name}"
    value = f"CAST({name} AS {_CASTS[kind]})"
    if kind in _ENDLESS:
        most, least = (f"CAST('{text}' AS {kind})" for text in _ENDLESS[kind])
        value = f"CASE WHEN {value} = 'infinity' THEN {most} WHEN {value} = '-infinity' THEN {least} ELSE {value} END"
    return f"{value} AS {name}"


def _at_least(field: Field) -> str:
    """The condition for `$1`. Texts compare by their bytes, as the lake does, whatever the database's own order is."""
    name, kind = quote(field.name), field.type.name
    if kind in ("string", "uuid"):
        return f'CAST({name} AS text) COLLATE "C" >= CAST($1 AS text) COLLATE "C"'
    return f"{name} >= CAST($1 AS {'numeric' if kind == 'decimal' else _CASTS[kind]})"


def _unfit(place: str, field: Field, said: str) -> SourceError:
    return SourceError(
        "a value does not fit the column's type", place=place, expected=field.type, got=said[:120], hint='declare the column as "string"'
    )
