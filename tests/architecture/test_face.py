"""The public names: few, documented, and changed only on purpose.

After a wanted change: python -m tests.architecture.test_face
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import penstock

SNAPSHOT = Path(__file__).with_name("api.txt")


def described(name: str) -> str:
    """One line for a function or value, for a class one more for each public method."""
    thing = getattr(penstock, name)
    if inspect.isclass(thing):
        members = [(m, v) for m, v in sorted(vars(thing).items()) if not m.startswith("_")]
        methods = [f"    {m}{signature(getattr(v, '__func__', v))}" for m, v in members if callable(getattr(v, "__func__", v))]
        return "\n".join([f"class {name}{signature(thing)}", *methods])
    return f"{name}{signature(thing)}" if callable(thing) else f"{name}: {type(thing).__name__}"


class Bare(str):
    """An annotation as it is written, without quotes around it."""

    __slots__ = ()
    __repr__ = str.__str__


def signature(thing: Callable[..., object]) -> str:
    found = inspect.signature(thing)
    parameters = [p.replace(annotation=Bare(p.annotation)) if isinstance(p.annotation, str) else p for p in found.parameters.values()]
    returns = Bare(found.return_annotation) if isinstance(found.return_annotation, str) else found.return_annotation
    return re.sub(r"<function (\w+) at 0x\w+>", r"\1", str(found.replace(parameters=parameters, return_annotation=returns)))


def api() -> str:
    return "\n".join(described(name) for name in sorted(penstock.__all__)) + "\n"


def test_the_names_are_those_of_the_snapshot() -> None:
    assert api() == SNAPSHOT.read_text(), "the public names changed; if wanted: python -m tests.architecture.test_face"


def test_there_are_at_most_64_names() -> None:
    assert len(penstock.__all__) == len(set(penstock.__all__)) <= 64


@pytest.mark.parametrize("name", sorted(penstock.__all__))
def test_each_name_is_documented(name: str) -> None:
    text = inspect.getdoc(getattr(penstock, name)) or ""
    assert not f"{text}\n".startswith(("\n", f"{name}(", "Raises:")), f"ps.{name} has no docstring that says what it gives"


if __name__ == "__main__":
    SNAPSHOT.write_text(api())
