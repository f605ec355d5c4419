"""The challenge set of leaks: made of a seed, half of it clean, and true to what it says."""

from __future__ import annotations

import pyarrow as pa
import pytest

from bench.leaks import clean, leaky
from bench.leaks.challenge import TUNED, found, wrong
from penstock.craft.learning.findings import KINDS

MAKERS = [*leaky.makers(), *clean.makers()]


def written(table: pa.Table) -> bytes:
    """Bytes of the rows; numbers that are none are equal."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table)
    return bytes(sink.getvalue())


def test_half_of_at_least_forty_are_clean() -> None:
    assert len({name for name, _ in MAKERS}) == len(MAKERS) >= 40
    assert len(list(clean.makers())) == len(list(leaky.makers()))


@pytest.mark.parametrize(("name", "made"), MAKERS, ids=[name for name, _ in MAKERS])
def test_a_data_set_is_what_it_says(name: str, made: leaky.Maker) -> None:
    data = made(TUNED[0], name)
    there = set(data.train.column_names)
    assert {data.label, *data.columns, *data.leaking, *data.key, *filter(None, (data.at, data.group, *data.times.values()))} <= there
    assert data.label not in data.columns
    assert 5 <= len(data.columns) <= 70
    assert min(data.train.num_rows, data.test.num_rows) >= 50
    assert data.train.schema == data.test.schema
    assert data.leak in (*KINDS, "")
    assert bool(data.leak) == (name in dict(leaky.makers()))
    assert data.story
    assert data.why
    assert written(made(TUNED[0], name).train) == written(data.train)
    assert written(made(TUNED[1], name).train) != written(data.train)


def test_what_counts_as_found() -> None:
    makers = dict(MAKERS)
    copied, rows = makers["arrival_delay"](1, "arrival_delay"), makers["copied_rows"](1, "copied_rows")
    assert found(copied, [("power", ("arr_delay",))])
    assert not found(copied, [("duplicate", ())])
    assert wrong(copied, [("duplicate", ()), ("copy", ("arr_delay",))]) == [("duplicate", ())]
    assert found(rows, [("duplicate", ())])
    assert wrong(rows, [("power", ("ticket",))])
    honest = makers["plain"](1, "plain")
    assert not found(honest, [("power", ("x",))])
    assert wrong(honest, [("power", ("x",))])
