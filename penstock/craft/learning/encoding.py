"""Encoding: columns of a table as the numbers a model sees. What was learnt is data, and the same for batches, streams and single rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from penstock.ground.errors import ArtefactRefused, DefinitionError, SchemaDrift
from penstock.spec.schema import Schema

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

Kind = Literal["number", "flag", "moment", "category"]

_KINDS: dict[str, Kind] = {
    "boolean": "flag",
    "int": "number",
    "long": "number",
    "float": "number",
    "double": "number",
    "decimal": "number",
    "date": "moment",
    "time": "moment",
    "timestamp": "moment",
    "timestamptz": "moment",
    "string": "category",
}
#: Above this a text column tells rows apart rather than kinds of rows.
MOST_CATEGORIES = 10_000


@dataclass(frozen=True)
class Encoded:
    """One column: how it becomes a number, and for a category the values that were learnt, sorted."""

    name: str
    kind: Kind
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Encoder:
    """Columns in the order a model sees them.

    number    as it is                     flag   0 or 1
    moment    seconds since 1970 in UTC, or since midnight
    category  its place among the learnt values, from 0; a value that was not learnt is NaN
    A null is NaN everywhere.
    """

    columns: tuple[Encoded, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns)

    @property
    def categorical(self) -> tuple[bool, ...]:
        return tuple(c.kind == "category" for c in self.columns)

    def write(self, batch: pa.RecordBatch, out: NDArray[np.float64]) -> None:
        """Encodes a batch into rows that were made before.

        Shapes:  batch (n rows, any columns) -> out (n rows, d columns), float64; one column is in memory twice at a time.
        Raises:  SchemaDrift(E2003) if a column is missing or is of another kind than the one learnt.
        """
        for j, column in enumerate(self.columns):
            if column.name not in batch.schema.names:
                raise SchemaDrift("a column that the model learnt from is missing", place=column.name, got=", ".join(batch.schema.names))
            out[:, j] = _numbers(column, batch.column(column.name)).to_numpy(zero_copy_only=False)

    def matrix(self, batch: pa.RecordBatch) -> NDArray[np.float64]:
        """A batch as the rows a model scores. Shapes: batch (n rows) -> (n rows, d columns). Raises: SchemaDrift(E2003)."""
        import numpy as np

        X: NDArray[np.float64] = np.empty((batch.num_rows, len(self.columns)))
        self.write(batch, X)
        return X

    def as_record(self) -> dict[str, Any]:
        """JSON-ready; `from_record` reads it."""
        return {"columns": [{"name": c.name, "kind": c.kind, "categories": list(c.categories)} for c in self.columns]}

    def as_bytes(self) -> bytes:
        return json.dumps(self.as_record(), ensure_ascii=False, sort_keys=True, indent=1).encode()


def from_record(record: Mapping[str, Any]) -> Encoder:
    """What `Encoder.as_record` gave.

    Raises: ArtefactRefused(E6002) for anything else.
    """
    try:
        columns = tuple(Encoded(str(c["name"]), c["kind"], tuple(map(str, c["categories"]))) for c in record["columns"])
    except (KeyError, TypeError) as error:
        raise ArtefactRefused("not an encoder", expected="columns with name, kind and categories", got=repr(record)[:80]) from error
    if strange := [c for c in columns if c.kind not in get_args(Kind)]:
        raise ArtefactRefused("an encoder of another kind", place=strange[0].name, expected=", ".join(get_args(Kind)), got=strange[0].kind)
    return Encoder(columns)


def text_columns(schema: Schema, columns: Sequence[str]) -> tuple[str, ...]:
    """The columns whose distinct values must be known to learn an encoder."""
    return tuple(name for name in columns if _KINDS.get(schema.field(name).type.name) == "category")


def learn(schema: Schema, columns: Sequence[str], texts: Mapping[str, Iterable[str | None]]) -> Encoder:
    """The encoder of these columns.

    Args:    texts: per text column the values of the rows to learn from, of those only, distinct or not.
    Raises:  DefinitionError(E1001) for a column that has no number, or more than 10,000 categories.
    """
    return Encoder(tuple(_learnt(schema, name, texts) for name in columns))


def _learnt(schema: Schema, name: str, texts: Mapping[str, Iterable[str | None]]) -> Encoded:
    kind = _KINDS.get(schema.field(name).type.name)
    if kind is None:
        raise DefinitionError(
            "a model cannot learn from a column of this type", place=name, expected=", ".join(_KINDS), got=schema.field(name).type
        )
    if kind != "category":
        return Encoded(name, kind)
    values = tuple(sorted({text for text in texts[name] if text is not None}))
    if len(values) > MOST_CATEGORIES:
        hint = "leave it out, or group its values in a table"
        raise DefinitionError(
            "a text column has too many values", place=name, expected=f"at most {MOST_CATEGORIES}", got=len(values), hint=hint
        )
    return Encoded(name, kind, values)


def _numbers(column: Encoded, values: pa.Array) -> pa.Array:
    """One column as float64 with nulls."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    found = _kind(values.type)
    if found not in (column.kind, None):
        raise SchemaDrift(
            "a column is of another kind than the one the model learnt from", place=column.name, expected=column.kind, got=values.type
        )
    if column.kind == "category":
        codes = pc.index_in(values.cast(pa.string()), value_set=pa.array(column.categories, pa.string()))
        return codes.cast(pa.float64())
    if column.kind == "moment":
        return _seconds(values)
    return values.cast(pa.float64(), safe=False)


def _seconds(values: pa.Array) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = values.type
    if pa.types.is_time(kind):
        micros = values.cast(pa.time64("us"), safe=False)
    else:
        micros = values.cast(pa.timestamp("us", tz=getattr(kind, "tz", None)), safe=False)
    return pc.divide(micros.cast(pa.int64()).cast(pa.float64(), safe=False), 1_000_000.0)


def _kind(kind: pa.DataType) -> Kind | None:
    """How a column of an Arrow type is encoded; None for a column of nulls only, which fits any.

    Raises: SchemaDrift(E2003) for types that have no numbers.
    """
    import pyarrow.types as t

    if t.is_null(kind):
        return None
    if t.is_boolean(kind):
        return "flag"
    if t.is_integer(kind) or t.is_floating(kind) or t.is_decimal(kind):
        return "number"
    if t.is_temporal(kind) and not (t.is_duration(kind) or t.is_interval(kind)):
        return "moment"
    if t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind):
        return "category"
    raise SchemaDrift("a column of this type has no number", expected=", ".join(_KINDS), got=kind)
