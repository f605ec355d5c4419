"""Fingerprints: what changes them and what does not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from penstock.graph.graph import build
from penstock.project.code import CodeReader
from penstock.project.declare import declared
from penstock.project.discover import assets_of, load_modules

BASE = '''
import penstock as ps
import pyarrow as pa
from shapes import double

LIMIT = 3
raw = ps.files("x.csv")

def inner(x):
    return x + 1

@ps.table
def python_table(raw: pa.Table):
    """Doc."""
    return double(inner(raw.slice(0, LIMIT)))

@ps.table(key="a")
def sql_table(raw):
    return ps.sql("SELECT a FROM raw WHERE a > 1")
'''
SHAPES = "def double(x):\n    return helper(x)\n\ndef helper(x):\n    return x * 2\n"


def prints(folder: Path, pipeline: str = BASE, shapes: str = SHAPES) -> dict[str, str]:
    (folder / "pipeline.py").write_text(pipeline)
    (folder / "shapes.py").write_text(shapes)
    try:
        graph = build(assets_of(load_modules(folder, ["pipeline"])))
        return {n: d.definition + d.contract for n, d in declared(graph, CodeReader(folder)).items()}
    finally:
        for name in ("pipeline", "shapes"):
            sys.modules.pop(name, None)
        sys.path.remove(str(folder))


@pytest.fixture(autouse=True)
def no_byte_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""Doc."""', '"""Another description."""'),
        ("return double(inner(raw.slice(0, LIMIT)))", "return double(  # why\n        inner(raw.slice(0, LIMIT)),\n    )"),
        ("SELECT a FROM raw WHERE a > 1", "select  a -- the column\\nfrom raw where a > 1;"),
        ("def inner(x):", "# a comment\n\n\ndef inner(x):"),
    ],
)
def test_comments_and_formatting_change_nothing(tmp_path: Path, old: str, new: str) -> None:
    assert old in BASE
    assert prints(tmp_path) == prints(tmp_path, BASE.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("x + 1", "x + 2", {"python_table"}),
        ("LIMIT = 3", "LIMIT = 4", {"python_table"}),
        ("a > 1", "a > 2", {"sql_table"}),
        ("SELECT a FROM", "SELECT A FROM", {"sql_table"}),
        ('key="a"', 'key="b"', {"sql_table"}),
        ('ps.files("x.csv")', 'ps.files("x.csv", delimiter=";")', {"raw"}),
        ("raw.slice(0, LIMIT)", "raw.slice(1, LIMIT)", {"python_table"}),
    ],
)
def test_what_matters_changes_exactly_its_assets(tmp_path: Path, old: str, new: str, changed: set[str]) -> None:
    assert old in BASE
    before, after = prints(tmp_path), prints(tmp_path, BASE.replace(old, new))
    assert {n for n in before if before[n] != after[n]} == changed


def test_a_function_reached_in_another_module_counts(tmp_path: Path) -> None:
    before, after = prints(tmp_path), prints(tmp_path, shapes=SHAPES.replace("x * 2", "x * 3"))
    assert {n for n in before if before[n] != after[n]} == {"python_table"}


REACHING = """
import enum
import functools
import re
from datetime import date

import penstock as ps
import pyarrow as pa
import shapes

PATTERN = re.compile("a+")
FIRST = date(2026, 1, 1)
SIZE = 10
raw = ps.files("x.csv")

class Base:
    def scaled(self, x):
        return x * 2

class Scaler(Base):
    low, high = 1, 2
    steps = [1, 2, 3]

    @property
    def wide(self):
        return self.low + 1

class Colour(enum.Enum):
    RED = 1

@functools.lru_cache
def cached(x):
    return x + 5

def sized(x, n=SIZE):
    return x * n

bound = functools.partial(sized, n=7)

@ps.table
def python_table(raw: pa.Table):
    return cached(1), sized(2), bound(3), Scaler().wide, PATTERN, FIRST, shapes.LEVEL, Colour.RED
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a+", "b+"), ("2026, 1, 1", "2026, 1, 2"), ("x + 5", "x + 6"), ("SIZE = 10", "SIZE = 11"), ("n=7", "n=8"), ("x * 2", "x * 3"),
        ("low, high = 1, 2", "low, high = 2, 1"), ("[1, 2, 3]", "[1, 2]"), ("self.low + 1", "self.low + 2"), ("RED = 1", "RED = 2"),
    ],
)  # fmt: skip
def test_whatever_a_function_reaches_counts(tmp_path: Path, old: str, new: str) -> None:
    assert old in REACHING
    before, after = prints(tmp_path, REACHING, "LEVEL = 1\n"), prints(tmp_path, REACHING.replace(old, new), "LEVEL = 1\n")
    assert {n for n in before if before[n] != after[n]} == {"python_table"}
    assert before == prints(tmp_path, REACHING, "LEVEL = 1\n")


def test_a_constant_of_another_module_counts(tmp_path: Path) -> None:
    before, after = prints(tmp_path, REACHING, "LEVEL = 1\n"), prints(tmp_path, REACHING, "LEVEL = 2\n")
    assert {n for n in before if before[n] != after[n]} == {"python_table"}


def test_installed_packages_in_the_project_do_not_count(tmp_path: Path) -> None:
    place = tmp_path / ".venv/lib/python3/site-packages"
    place.mkdir(parents=True)
    text = BASE.replace(
        "from shapes import double",
        f"import sys\nsys.path.append({str(place)!r})\nimport installed_here\nfrom installed_here import double",
    )
    found = []
    for body in ("x * 2", "x * 3"):
        (place / "installed_here.py").write_text(f"def double(x):\n    return {body}\n")
        sys.modules.pop("installed_here", None)
        found.append(prints(tmp_path, text))
        sys.path.remove(str(place))
    assert found[0] == found[1]
