"""`penstock level`, and `penstock run --step`, which the files it writes call."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.ground.environ import machine_memory
from penstock.project.levels import LONGEST_S, Machine, levels
from penstock.project.settings import Settings
from tests.cli.conftest import Shell

FLOW = """
import os
from penstock.spec.automation import automate, cron, updated
from penstock.spec.jobs import branch, command, each, flow, job

days = ps.files("data/*.csv")


@ps.table
def first(days):
    return ps.sql("SELECT min(day) AS day FROM days")


@job
def load(given, *, folder="in"):
    print("for the log")
    return [folder, given]


@job
def bad(given):
    raise ValueError("on purpose")


@job
def no_json(given):
    return {1, 2}


def size(given):
    return "small" if len(given) < 2 else "large"


shout = command("sh -c 'cat > $PENSTOCK_OUTPUT; echo for the log'")
fails = command("sh -c 'exit 7'")
nightly = flow(each(load, over="names"), branch(by=size, cases={"small": first, "large": shout}), params={"folder": "new"})
automate(nightly, when=cron("0 2 * * *") | updated(first))
"""


@pytest.fixture
def shop(bare: Callable[[str], Shell]) -> Shell:
    made = bare(FLOW)
    made.write("data/days.csv", "day\n2026-01-05\n")
    return made


def test_each_part_is_told_with_the_setting_that_moves_it(ran: Shell) -> None:
    shown = ran.fine("level")
    assert all(word in shown for word in ("lake", "engine", "state", "compute", "schedule", "enough"))
    found = ran.json("level")
    assert (found["schema"], found["verdict"]) == ("penstock.level/1", "enough")
    ports = {p["port"]: p for p in found["ports"]}
    assert "3 assets" in ports["lake"]["figure"]
    assert ports["engine"]["verdict"] == "enough"
    assert ports["compute"]["verdict"] == "enough"
    assert "most memory: asset:" in ports["compute"]["figure"]


def test_a_part_that_is_too_small_is_to_be_moved(tmp_path: Path) -> None:
    assets = {"a": {"rows": 5, "bytes": 600, "seconds": LONGEST_S[1]}, "m": {"rows": 1, "seconds": 2.0}}
    found = {p.port: p for p in levels(Settings(tmp_path, "x"), assets, {"a": 10.0, "m": 60.0}, Machine(100, 100), automations=0)}
    assert {name: p.verdict for name, p in found.items() if name != "state"} == {
        "lake": "move", "engine": "move", "compute": "near", "schedule": "enough"
    }  # fmt: skip
    assert "longest: a 60 min" in found["engine"].figure
    assert machine_memory() > 1 << 20


def test_the_url_of_a_part_is_not_told(tmp_path: Path) -> None:
    settings = Settings(tmp_path, "x", urls={"state": "postgresql://somebody@host/db"})
    assert next(p.now for p in levels(settings, {}, {}, Machine(1, 1), automations=0) if p.port == "state") == "postgresql://"


def test_files_are_written_and_what_is_missing_is_told(shop: Shell, tmp_path: Path) -> None:
    result = shop("level", "--files", "airflow", "--out", str(tmp_path / "dags"))
    assert result.exit_code == 0
    assert "updated(first)" in result.stderr
    (name,) = [p.name for p in (tmp_path / "dags").iterdir()]
    text = (tmp_path / "dags" / name).read_text()
    found = shop.json("level", "--files", "airflow", "--out", str(tmp_path / "dags"))
    assert found["schema"] == "penstock.export/1"
    assert [Path(f).name for f in found["files"]] == [name]
    assert [m["reason"].split(":")[0] for m in found["missing"]] == ["updated(first)"]
    assert (tmp_path / "dags" / name).read_text() == text


def test_a_selection_and_the_place_where_tasks_run(shop: Shell, tmp_path: Path) -> None:
    out = tmp_path / "states"
    shop.fine("level", "--files", "stepfunctions", "--out", str(out), "--select", "first", "--at", "/srv/shop", "--resource", "arn:x")
    (file,) = out.iterdir()
    states = json.loads(file.read_text())["States"]
    assert {name: (s["Parameters"]["command"], s["Resource"]) for name, s in states.items()} == {
        name: (["penstock", "-C", "/srv/shop", "run", "--json", name], "arn:x") for name in ("days", "first")
    }
    assert shop("level", "--files", "airflow", "--out", str(out), "--select", "frist").exit_code == 2


@pytest.mark.parametrize("args", [["--files", "airflow"], ["--out", "x"], ["--select", "first"], ["--files", "luigi", "--out", "x"]])
def test_wrong_usage(shop: Shell, args: list[str]) -> None:
    assert shop("level", *args).exit_code == 2


def test_a_step_gets_json_and_prints_json(shop: Shell) -> None:
    assert json.loads(shop.fine("run", "--step", "load", "--input", '"x"')) == ["in", "x"]
    assert json.loads(shop.fine("run", "--step", "nightly/each_load/load", "--input", "3", "--set", 'nightly.folder="f"')) == ["f", 3]
    assert json.loads(shop.fine("run", "--step", "nightly/size", "--input", "[1, 2]")) == "large"
    assert json.loads(shop.fine("run", "--step", "nightly/shout", "--input", '{"a": [1]}')) == {"a": [1]}
    assert json.loads(shop.fine("run", "--step", "nightly/each_load", "--input", '{"names": []}')) == []
    assert shop.json("run", "--step", "nightly", "--input", '{"names": ["a", "b"]}')["output"] == [["new", "a"], ["new", "b"]]
    made = json.loads(shop.fine("run", "--step", "nightly", "--input", '{"names": ["a"]}'))
    assert made == {"asset": "first", "version": made["version"]}


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["bad"], 1, "ValueError: on purpose"),
        (["no_json"], 1, "no JSON"),
        (["fails"], 1, "exit code 0"),
        (["nightly/nix"], 2, "no such step"),
        (["nix"], 2, "no job, flow or asset"),
        (["load", "--input", "{"], 2, "no JSON"),
        (["nightly", "--input", "{}"], 1, "no such part"),
        (["load", "--force"], 2, "--input and --set only"),
    ],
)
def test_a_step_that_fails(shop: Shell, args: list[str], code: int, told: str) -> None:
    result = shop("run", "--step", *args)
    assert (result.exit_code, result.stdout) == (code, "")
    assert told in result.stderr


def test_a_step_whose_asset_cannot_be_made_fails_as_that(shop: Shell) -> None:
    shop.write("data/days.csv", "month\n1\n")
    result = shop("run", "--step", "nightly/first")
    assert result.exit_code in (1, 2)
    assert result.stdout == ""
