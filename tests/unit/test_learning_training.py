"""Encoders learn once and say the same everywhere; a training matrix is filled from a stream without surprises."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from penstock.craft.learning.encoding import MOST_CATEGORIES, Encoder, from_record, learn, text_columns
from penstock.craft.learning.training import Target, fill, labels
from penstock.ground.errors import ArtefactRefused, DefinitionError, LedgerImbalance, SchemaDrift
from penstock.spec.schema import parse_type, schema_of

NAN = math.nan


def encoded(kind: str, values: pa.Array, texts: list[str | None] | None = None) -> list[float]:
    encoder = learn(schema_of(c=kind), ["c"], {"c": texts or []})
    out = np.full((len(values), 1), -9.0)
    encoder.write(pa.record_batch([values], names=["c"]), out)
    return [float(x) for x in out[:, 0]]


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("long", pa.array([3, None, -(2**52)]), [3, NAN, -(2**52)]),
        ("double", pa.array([0.1, NAN, None, math.inf]), [0.1, NAN, NAN, math.inf]),
        ("decimal(9,2)", pa.array([Decimal("1.25"), None]), [1.25, NAN]),
        ("boolean", pa.array([True, False, None]), [1, 0, NAN]),
        ("date", pa.array([date(1970, 1, 2), date(1969, 12, 31), None]), [86400, -86400, NAN]),
        ("timestamp", pa.array([datetime.fromisoformat("1970-01-01T00:00:01.5"), None], pa.timestamp("us")), [1.5, NAN]),
        ("timestamptz", pa.array([datetime(1970, 1, 1, 1, tzinfo=UTC)], pa.timestamp("ns", "Europe/Berlin")), [3600]),
        ("time", pa.array([time(1, 0, 0, 500000)], pa.time64("us")), [3600.5]),
        ("string", pa.array(["b", "a", "new", None]), [1, 0, NAN, NAN]),
        ("string", pa.array(["b", "a", None]).dictionary_encode(), [1, 0, NAN]),
        ("string", pa.array(["b", "a", None], pa.string_view()), [1, 0, NAN]),
        ("string", pa.array(["b", "a"], pa.large_string()), [1, 0]),
        ("long", pa.nulls(2), [NAN, NAN]),
        ("string", pa.nulls(2), [NAN, NAN]),
        ("long", pa.array([], pa.int64()), []),
    ],
    ids=lambda x: str(x.type) if isinstance(x, pa.Array) else None,
)
def test_every_kind_of_column_becomes_numbers(kind: str, values: pa.Array, expected: list[float]) -> None:
    assert encoded(kind, values, ["b", None, "a", "b"]) == pytest.approx(expected, nan_ok=True, rel=0, abs=0)


def test_an_encoder_survives_json() -> None:
    schema = schema_of(a="long", k="string", at="date")
    encoder = learn(schema, ["k", "a", "at"], {"k": ["é", "z", "A", ""]})
    assert encoder.columns[0].categories == ("", "A", "z", "é")
    assert encoder.categorical == (True, False, False)
    assert encoder.names == ("k", "a", "at")
    assert from_record(json.loads(encoder.as_bytes())) == encoder
    assert text_columns(schema, ["k", "a"]) == ("k",)


@pytest.mark.parametrize("record", [{}, {"columns": [{"name": "a"}]}, {"columns": [{"name": "a", "kind": "code", "categories": []}]}])
def test_what_is_no_encoder_is_refused(record: dict[str, Any]) -> None:
    with pytest.raises(ArtefactRefused):
        from_record(record)


def test_columns_without_numbers_are_refused() -> None:
    for kind in ("binary", "uuid", "list<string>"):
        with pytest.raises(DefinitionError, match="cannot learn"):
            learn(schema_of(c=str(parse_type(kind))), ["c"], {})
    with pytest.raises(DefinitionError, match="too many values"):
        learn(schema_of(c="string"), ["c"], {"c": map(str, range(MOST_CATEGORIES + 1))})
    with pytest.raises(DefinitionError, match="known: c"):
        learn(schema_of(c="string"), ["C"], {})


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        ("long", pa.array(["1"]), "expected number, got string"),
        ("string", pa.array([1]), "expected category, got int64"),
        ("boolean", pa.array([1]), "expected flag"),
        ("long", pa.array([b"1"]), "has no number"),
    ],
)
def test_another_kind_than_the_learnt_one_is_drift(kind: str, values: pa.Array, words: str) -> None:
    with pytest.raises(SchemaDrift, match=words):
        encoded(kind, values)


SCHEMA = pa.schema([("id", pa.string()), ("a", pa.int32()), ("k", pa.string()), ("late", pa.bool_())])
ENCODER = learn(schema_of(id="string", a="int", k="string"), ["k", "a"], {"k": ["x", "y"]})


def reader(*sizes: int, late: Any = None) -> pa.RecordBatchReader:
    def batch(start: int, size: int) -> pa.RecordBatch:
        n = range(start, start + size)
        columns = [[f"r{i}" for i in n], list(n), ["xy?"[i % 3] for i in n], [i % 2 == 0 for i in n] if late is None else [late] * size]
        return pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)

    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return pa.RecordBatchReader.from_batches(SCHEMA, [batch(s, n) for s, n in zip(starts, sizes, strict=True)])


def test_batches_fill_one_matrix_in_order() -> None:
    filled = fill(reader(3, 0, 2), 5, ENCODER, target=Target("late"), keep=["id", "k"], sample=3)
    assert filled.X.dtype == np.float64
    assert filled.X.flags.c_contiguous
    np.testing.assert_array_equal(filled.X, [[0, 0], [1, 1], [NAN, 2], [0, 3], [1, 4]])
    assert filled.y.dtype == np.int8
    assert filled.y.tolist() == [1, 0, 1, 0, 1]
    assert filled.kept.to_pydict() == {"id": ["r0", "r1", "r2", "r3", "r4"], "k": ["x", "y", "?", "x", "y"]}
    assert (filled.low.tolist(), filled.high.tolist(), filled.nulls.tolist()) == ([0, 0], [1, 4], [1, 0])
    assert filled.sampled is not None
    assert filled.raw is not None
    assert filled.sampled.tolist() == [0, 2, 4]
    assert filled.raw.column("a").to_pylist() == [0, 2, 4]


def test_a_batch_to_score_is_encoded_as_the_training_rows_were() -> None:
    np.testing.assert_array_equal(ENCODER.matrix(next(reader(3))), fill(reader(3), 3, ENCODER).X)


def test_rows_to_score_have_no_labels() -> None:
    filled = fill(reader(), 0, ENCODER, keep=["id"])
    assert (filled.X.shape, filled.y.shape, filled.kept.schema.names) == ((0, 2), (0,), ["id"])
    assert len(fill(reader(4), 4, ENCODER).y) == 0


@pytest.mark.parametrize("rows", [4, 6])
def test_a_stream_of_another_length_is_refused(rows: int) -> None:
    with pytest.raises(LedgerImbalance, match=f"expected {rows}, got"):
        fill(reader(3, 2), rows, ENCODER)


def test_labels_are_true_or_false() -> None:
    no_label = pa.RecordBatchReader.from_batches(SCHEMA, [pa.record_batch([["r"], [1], ["x"], pa.nulls(1, pa.bool_())], schema=SCHEMA)])
    with pytest.raises(DefinitionError, match="without a label"):
        fill(no_label, 1, ENCODER, target=Target("late"))
    with pytest.raises(DefinitionError, match="label is 0 or 1"):
        fill(reader(3), 3, ENCODER, target=Target("a"))
    with pytest.raises(DefinitionError, match="true or false"):
        fill(reader(3), 3, ENCODER, target=Target("k"))


def test_weights_and_groups_are_held() -> None:
    filled = fill(reader(3, 2), 5, ENCODER, target=Target("late", weight="a", group="k"))
    assert filled.weight is not None
    assert filled.group is not None
    assert (filled.weight.tolist(), filled.group.tolist()) == ([0, 1, 2, 3, 4], [0, 1, 2, 0, 1])
    with pytest.raises(DefinitionError, match="a weight is a number"):
        fill(reader(3), 3, ENCODER, target=Target("late", weight="k"))


@pytest.mark.parametrize(
    ("target", "values", "wanted"),
    [
        (Target("c", "multiclass", ("a", "b")), pa.array(["b", "a", "z"]), [1, 0, -1]),
        (Target("c", "multiclass", ("1", "2")), pa.array([2, 1, 2]), [1, 0, 1]),
        (Target("c", "multiclass", ("false", "true")), pa.array([True, False]), [1, 0]),
        (Target("c", "regression"), pa.array([1.5, -2]), [1.5, -2]),
        (Target("c", "ranking"), pa.array([0, 3]), [0, 3]),
    ],
)
def test_labels_of_every_kind(target: Target, values: pa.Array, wanted: list[float]) -> None:
    assert labels(values, target).tolist() == wanted


@pytest.mark.parametrize("strange", [float("nan"), float("inf")])
def test_labels_that_are_no_numbers_are_counted(strange: float) -> None:
    with pytest.raises(DefinitionError, match=r"no numbers.*got 1 NaN"):
        labels(pa.array([1.0, strange]), Target("c", "regression"))


def test_a_missing_column_is_drift() -> None:
    with pytest.raises(SchemaDrift, match=r"missing.*got id, a, k, late"):
        fill(reader(1), 1, Encoder((*learn(schema_of(b="int"), ["b"], {}).columns, *ENCODER.columns)))
