"""The package keeps the rules of `layers.py`, and each rule finds a planted violation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.architecture.layers import PACKAGE, RULES, read


@pytest.mark.parametrize("rule", RULES)
def test_the_package_keeps_the_rule(rule: str) -> None:
    found = list(RULES[rule](read(PACKAGE)))
    assert not found, "\n".join(found)


PLANTED = [
    ("arrows", "spec/a.py", "from penstock.graph.graph import Graph", "spec may not import graph"),
    ("arrows", "spec/a.py", "def f():\n    import penstock.run.execute", "spec may not import run"),
    ("arrows", "spec/a.py", "if TYPE_CHECKING:\n    from penstock.ports import lake", "spec may not import ports"),
    ("arrows", "run/a.py", "from penstock.adapters.state import sqlite", "run may not import adapters"),
    ("arrows", "run/a.py", "import penstock", "imports the face"),
    ("arrows", "run/a.py", "from penstock import table", "imports the face"),
    ("arrows", "run/a.py", "from . import b", "imports relatively"),
    ("arrows", "run/a.py", "import duckdb", "may not import duckdb"),
    ("arrows", "spec/a.py", "def f():\n    from pyarrow import parquet", "may not import pyarrow"),
    ("arrows", "cli/a.py", "import requests", "may not import requests"),
    ("arrows", "adapters/state/a.py", "from penstock.adapters.lake.b import c", "an adapter imports another"),
    ("arrows", "adapters/kit/a.py", "from penstock.adapters.lake.b import c", "an adapter imports another"),
    ("arrows", "adapters/lake/a.py", "from penstock.adapters.lake import b", "an adapter imports another"),
    ("outside_reads", "run/a.py", "import os\nx = os.environ['X']", "reads os.environ"),
    ("outside_reads", "run/a.py", "from os import getenv", "reads os.getenv"),
    ("outside_reads", "run/a.py", "import time\ntime.time()", "reads time.time"),
    ("outside_reads", "run/a.py", "import datetime\ndatetime.datetime.now()", "reads datetime.datetime.now"),
    ("outside_reads", "run/a.py", "from random import choice", "reads random.choice"),
    ("outside_reads", "run/a.py", "import uuid\nuuid.uuid4()", "reads uuid.uuid4"),
    ("leaks", "run/a.py", "x = engine.kind == 'shiny'", "names the adapter shiny"),
    ("circle", "run/shiny.py", "from penstock.run import other", "penstock.run.shiny"),
]


@pytest.mark.parametrize(("rule", "where", "code", "found"), PLANTED)
def test_a_planted_violation_is_found(tmp_path: Path, rule: str, where: str, code: str, found: str) -> None:
    planted = {where: code, "adapters/lake/shiny.py": "", "run/other.py": "from penstock.run.shiny import x"}
    for name, text in planted.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert found in "\n".join(RULES[rule](read(tmp_path)))
