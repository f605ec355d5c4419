"""`penstock up --once` and `penstock show --automations` on the command line: what they print, and their exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock.project.project import Project
from penstock.run.scheduler import CLAIM

PENSTOCK = Path(sys.executable).with_name("penstock")
PIPELINE = """
import penstock as ps

raw = ps.files("raw/*.csv")

@ps.job
def tell(given):
    return len(given["files"]) // (given["count"] - 4)

ps.automate(tell, when=ps.arrived(raw), name="telling")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    (tmp_path / "raw").mkdir()
    return tmp_path


def said(folder: Path, *words: str) -> tuple[int, str, str]:
    done = subprocess.run([PENSTOCK, *words, "-C", folder], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def test_once_prints_a_line_for_all_that_happens_and_fails_if_a_job_is_lost(folder: Path) -> None:
    code, out, err = said(folder, "show", "--automations")
    assert code == 0, err
    assert "telling" in out and "arrived(raw)" in out and "never" in out
    (folder / "raw/a.csv").write_text("x\n1\n")
    code, out, err = said(folder, "up", "--once", "--poll", "0.1")
    assert code == 0, err
    assert [line.split()[1:3] for line in out.splitlines()] == [
        ["active", "1"],
        ["fired", "telling"],
        ["started", "job:tell"],
        ["done", "job:tell"],
    ]
    for name in "bcd":
        (folder / f"raw/{name}.csv").write_text("x\n1\n")
    code, out, err = said(folder, "up", "--once", "--poll", "0.1", "--json")
    lines: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [line["kind"] for line in lines] == ["active", "fired", "started", "failed", "over"]
    assert lines[1]["input"]["count"] == 4 and "ZeroDivisionError" in lines[3]["error"]["message"]
    shown = said(folder, "show", lines[1]["run"])[1]
    assert "because  files came to raw" in shown and '"count": 4' in shown
    document = json.loads(said(folder, "show", "--automations", "--json")[1])
    assert document["schema"] == "penstock.automations/1"
    assert [(line["name"], line["fired"], line["last"]["run"]) for line in document["automations"]] == [("telling", 2, lines[1]["run"])]


def test_once_ends_with_busy_where_another_keeps_the_project_going(folder: Path) -> None:
    with Project.open(folder) as project:
        project.state.claim(CLAIM, "elsewhere/1/2", now=project.clock.now(), lease_s=600)
    code, out, _ = said(folder, "up", "--once")
    assert (code, out.split()[1]) == (3, "standby")


def test_a_project_that_cannot_be_loaded_is_not_kept_going(folder: Path) -> None:
    (folder / "pipeline.py").write_text("this is no Python")
    code, _, err = said(folder, "up", "--once")
    assert code == 2 and "E1005" in err


def test_a_port_that_cannot_be_had_is_an_error(folder: Path) -> None:
    code, _, err = said(folder, "up", "--port", "70000")
    assert code == 2 and "70000" in err
