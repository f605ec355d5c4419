"""What a start loads: nothing heavy, and few files."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"duckdb", "pyarrow", "polars", "pandas", "numpy", "sklearn", "skops", "sqlglot", "sqlalchemy", "pyiceberg", "asyncio"}
FACES = {"click", "rich"}


def loaded(code: str) -> set[str]:
    """Names of the modules that a fresh interpreter has loaded after some code, without those it starts with."""
    report = "import atexit, sys; before = set(sys.modules); atexit.register(lambda: print('LOADED', *set(sys.modules) - before))\n"
    done = subprocess.run([sys.executable, "-c", report + code], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("LOADED")[2].split())


def test_importing_the_face_loads_nothing_heavy() -> None:
    modules = loaded("import penstock")
    assert "penstock" in modules
    assert modules & (HEAVY | FACES) == set()
    ours = {m for m in modules if m.startswith("penstock")}
    assert len(ours) <= 20, f"too many files for one import: {sorted(ours)}"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    modules = loaded(f"import sys; sys.argv = ['penstock', *{arguments}]\nfrom penstock.cli import main\nmain()")
    assert "click" in modules
    assert modules & HEAVY == set()


def test_the_probe_sees_what_is_loaded() -> None:
    assert "sqlite3" in loaded("def f():\n    import sqlite3\nf()")
