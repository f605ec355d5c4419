"""Errors that crossed a process: the same class and parts, the other process's traceback as cause."""

from __future__ import annotations

import json
import traceback

import pytest

from penstock.ground.errors import Busy, DefinitionError, MemoryLimit, PenstockError, UserCodeError, from_record


@pytest.mark.parametrize("kind", [Busy, DefinitionError, MemoryLimit, UserCodeError])
def test_an_error_survives_json(kind: type[PenstockError]) -> None:
    told = kind("it failed", place="a[b]", expected=1, got="two", hint="try three")
    back = from_record(json.loads(json.dumps(told.as_record())))
    assert (type(back), back.text(), back.code, back.retry) == (kind, told.text(), told.code, told.retry)


def test_a_traceback_becomes_the_cause() -> None:
    back = from_record({**UserCodeError("x").as_record(), "traceback": "ZeroDivisionError: in line 7"})
    assert "in line 7" in "".join(traceback.format_exception(back))


def test_an_unknown_class_is_the_root() -> None:
    assert type(from_record({"kind": "FromTheFuture", "message": "m"})) is PenstockError
