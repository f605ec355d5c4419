"""new, plan, run, show and replay over a real project, for people and as JSON."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from penstock.cli.selection import value_of
from penstock.cli.show import pairs
from penstock.project.project import Project
from tests.cli.conftest import Shell


def test_from_new_to_nothing_to_do(shell: Shell) -> None:
    assert shell.fine("plan").startswith("3 assets: 1 stale, 2 waiting")
    first = shell.fine("run")
    assert re.search(r"✔ trips +source +16 rows", first)
    assert re.search(r"compute +16 in = 15 out \+ 1 filtered", first)
    assert re.search(r"check +15 in = 13 out \+ 2 rejected \(between\(minutes, 0, 1440\): 1, not_null\(station\): 1\)", first)
    assert re.search(r"run \w{20}: 3 made in ", first)
    page = re.search(r"report: (.*\.html)", first)
    assert page
    assert (Path.cwd() / page[1]).read_text(encoding="utf-8").startswith("<!doctype html>")
    assert shell.fine("run") == "nothing to do: everything is fresh (3 assets)\n"
    assert "nothing to do, everything is fresh" in shell.fine("plan")
    assert len(list((shell.folder / ".penstock/reports").iterdir())) == 1, "a run that did nothing writes no report"


def test_plan_as_json(shell: Shell) -> None:
    found = shell.json("plan")
    assert found["schema"] == "penstock.plan/1"
    assert found["counts"] == {"stale": 1, "waiting": 2}
    assert [a["asset"] for a in found["actions"]] == ["trips", "rides", "station_days"]
    assert found["actions"][0]["files"]["new"] == ["data/trips.csv"]
    assert {r["code"] for r in found["actions"][0]["reasons"]} == {"new", "files_new"}
    assert set(found) == {"schema", "nothing", "counts", "rows", "seconds", "actions"}


def test_run_as_json(shell: Shell) -> None:
    found = shell.json("run")
    assert found["schema"] == "penstock.run/1"
    assert found["ok"] is True
    assert [(r["asset"], r["status"], r["rows"]) for r in found["results"]] == [
        ("trips", "made", 16),
        ("rides", "made", 13),
        ("station_days", "made", 8),
    ]
    assert Path(found["report"]).is_file()
    again = shell.json("run")
    assert {r["status"] for r in again["results"]} == {"fresh"}
    assert again["report"] is None


def test_selection_parameters_and_force(shell: Shell) -> None:
    shell.fine("run", "rides")
    assert [a["asset"] for a in shell.json("plan", "rides")["actions"]] == ["trips", "rides"]
    assert shell.json("plan", "kind:source")["counts"] == {"fresh": 1}
    shell.fine("run", "--set", "station_days.longer_than=15")
    assert shell.json("query", "select sum(rides) from station_days")["rows"] == [[8]]
    forced = shell.json("run", "rides", "--force")
    assert [r["status"] for r in forced["results"]] == ["fresh", "made"]
    assert shell("run", "--set", "station_days.nope=1").exit_code == 2
    assert shell("plan", "nope*").exit_code == 2


def test_values_are_read_as_json_if_they_can_be() -> None:
    assert [value_of(t) for t in ("1", "1.5", "true", "null", "[1]", '"1"', "x", "2013-01-01", "NaN", "")] == [
        1, 1.5, True, None, [1], "1", "x", "2013-01-01", "NaN", "",
    ]  # fmt: skip


def test_a_failing_asset(shell: Shell) -> None:
    text = (shell.folder / "pipeline.py").read_text()
    broken = 'import polars\n\n\n@ps.table\ndef broken(rides: "polars.DataFrame"):\n    return rides.nothing\n'
    shell.write("pipeline.py", text + "\n\n" + broken)
    result = shell("run")
    assert result.exit_code == 1
    assert "✘ broken  failed" in result.stdout
    assert re.search(r"at pipeline\.py:\d+ in broken: return rides\.nothing", result.stdout)
    assert "Traceback" not in result.output
    found = shell.json("run", code=1)
    failed = next(r for r in found["results"] if r["asset"] == "broken")
    assert failed["error"]["code"] == "E5001"
    page = Path(found["report"]).read_text(encoding="utf-8")
    assert "rides.nothing" in page
    assert "failed" in shell.fine("show", "broken", "--history")


def test_what_needs_a_failed_asset_is_skipped(shell: Shell) -> None:
    text = (shell.folder / "pipeline.py").read_text()
    shell.write("pipeline.py", text.replace("checks=[", "checks=[ps.rows(100), "))
    result = shell("run")
    assert result.exit_code == 1
    assert "E3001 rides" in result.stdout
    assert "- station_days  skipped: needs rides" in result.stdout


def test_a_busy_asset_is_worth_a_retry(shell: Shell) -> None:
    with Project.open(shell.folder) as project:
        claim = project.runtime.state.claim("asset:trips", "elsewhere/1/1#x", now=datetime.now(UTC), lease_s=60)
        result = shell("run", "trips")
        assert result.exit_code == 3, result.output
        project.runtime.state.release(claim)
    shell.fine("run", "trips")


def test_replay(shell: Shell) -> None:
    shell.fine("run")
    pipeline = shell.folder / "pipeline.py"
    pipeline.write_text(pipeline.read_text().replace('ps.not_null("station"), ', ""))
    told = shell.fine("replay", "rides")
    assert "2 rejected rows tried, 1 landed" in told
    assert re.search(r"still rejected +1 +between", told)
    again = shell.json("replay", "rides")
    assert (again["schema"], again["tried"], again["landed"]) == ("penstock.replay/1", 1, 0)
    assert shell("replay", "nope").exit_code == 2


# -- new ------------------------------------------------------------------------------------------------------------
def test_new_never_writes_into_a_folder_that_has_something(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("x")
    result = Shell(tmp_path)("new", "mine")
    assert result.exit_code == 2
    assert "not empty" in result.stderr
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ['a "quoted" name', "x\\y", "ünï", "a'b"])
def test_a_new_project_may_have_any_name(tmp_path: Path, name: str) -> None:
    Shell(tmp_path).fine("new", name)
    with Project.open(tmp_path / name) as project:
        assert project.settings.name == name
        assert set(project.graph.nodes) == {"trips", "rides", "station_days"}


# -- show -----------------------------------------------------------------------------------------------------------
def test_show_all(ran: Shell) -> None:
    told = ran.fine("show")
    assert re.search(r"rides +table +fresh +\w{8} +13 +2 ", told)
    found = ran.json("show")
    assert found["schema"] == "penstock.assets/1"
    assert [(a["name"], a["status"], a["rows"]) for a in found["assets"]] == [
        ("trips", "fresh", 16),
        ("rides", "fresh", 13),
        ("station_days", "fresh", 8),
    ]


def test_show_an_asset(ran: Shell) -> None:
    told = ran.fine("show", "rides")
    for part in ("Each ride that ended.", "trip_id      long", "not_null(station)", "used by    station_days", "key(trip_id)"):
        assert part in told
    found = ran.json("show", "rides")
    assert found["schema"] == "penstock.asset/1"
    assert ["started_at", "timestamp"] in found["columns"]
    assert found["users"] == ["station_days"]
    assert list(found["inputs"]) == ["trips"]


def test_show_an_asset_that_was_never_made(shell: Shell) -> None:
    assert "never made; `penstock run rides` makes it" in shell.fine("show", "rides")
    assert "never made" in shell.fine("show")
    assert "never made" in shell.fine("show", "rides", "--ledger")
    assert "never made" in shell.fine("show", "rides", "--history")
    assert "never made" in shell.fine("show", "rides", "--lineage")
    assert "no rejected rows" in shell.fine("show", "rides", "--rejected")


def test_show_the_ledger(ran: Shell) -> None:
    assert "15 in = 13 out + 2 rejected" in ran.fine("show", "rides", "--ledger")
    found = ran.json("show", "rides", "--ledger")
    assert found["schema"] == "penstock.ledger/1"
    assert [(s["name"], s["rows_in"], s["rows_out"]) for s in found["steps"]] == [("compute", 16, 15), ("check", 15, 13)]


def test_show_the_lineage(ran: Shell) -> None:
    told = ran.fine("show", "rides", "--lineage")
    assert re.search(r"made of\nrides .*\n└── trips .*\nmakes\nrides .*\n└── station_days ", told)
    found = ran.json("show", "station_days", "--lineage")
    assert found["schema"] == "penstock.lineage/1"
    versions = {a["name"]: a["version"] for a in ran.json("show")["assets"]}
    assert found["up"]["next"][0]["next"][0]["version"] == versions["trips"]
    assert found["down"]["next"] == []


def test_lineage_follows_versions_and_not_names(shell: Shell) -> None:
    shell.fine("run")
    old = {a["name"]: a["version"] for a in shell.json("show")["assets"]}
    shell.write(
        "data/trips.csv", (shell.folder / "data/trips.csv").read_text() + "17,Market,2024-05-03 08:00:00,2024-05-03 08:20:00,true\n"
    )
    shell.fine("run", "trips")
    up = shell.json("show", "rides", "--lineage")["up"]
    assert up["next"][0]["version"] == old["trips"]
    assert up["next"][0]["newest"] is False
    assert up["next"][0]["rows"] == 16
    assert "(a newer version exists)" in shell.fine("show", "rides", "--lineage")


def test_show_rejected_rows(ran: Shell) -> None:
    told = ran.fine("show", "rides", "--rejected")
    assert "not_null(station)  1 row" in told
    assert '"trip_id":"6"' in told
    found = ran.json("show", "rides", "--rejected")
    assert found["rows"] == 2
    assert {g["check"]: g["rows"] for g in found["groups"]} == {"not_null(station)": 1, "between(minutes, 0, 1440)": 1}
    assert found["groups"][0]["samples"][0]["reason"]


def test_show_files_and_history(ran: Shell) -> None:
    assert re.search(r"data/trips\.csv +landed +16 ", ran.fine("show", "trips", "--files"))
    assert ran.json("show", "trips", "--files")["files"][0]["rows"] == 16
    assert ran("show", "rides", "--files").exit_code == 2
    assert ran.json("show", "rides", "--history")["records"][0]["event"] == "made"


def test_show_runs_by_id_or_its_beginning(ran: Shell) -> None:
    runs = ran.json("show", "--history")["runs"]
    assert len(runs) == 1
    found = ran.json("show", runs[0]["run"][:10])
    assert (found["schema"], found["run"]) == ("penstock.run/1", runs[0]["run"])
    assert "15 in = 13 out + 2 rejected" in ran.fine("show", runs[0]["run"])
    assert ran("show", "zzzzzzzzzz").exit_code == 2


def test_show_where_a_row_came_from(ran: Shell) -> None:
    assert "data/trips.csv, row 3" in ran.fine("show", "rides", "--key", "trip_id=3")
    found = ran.json("show", "rides", "--key", "trip_id=3")
    assert found["schema"] == "penstock.trace/1"
    assert found["inputs"][0]["origin"] == [{"file": "data/trips.csv", "row": 3}]
    assert ran("show", "rides", "--key", "trip_id=999").exit_code == 2
    assert ran("show", "rides", "--key", "nonsense").exit_code == 2


def test_keys_may_hold_commas_and_equal_signs() -> None:
    assert pairs("a=1,b=x") == {"a": "1", "b": "x"}
    assert pairs("name=Smith, John") == {"name": "Smith, John"}
    assert pairs("q=a=b") == {"q": "a=b"}


def test_questions_that_make_no_sense(ran: Shell) -> None:
    assert ran("show", "nope").exit_code == 2
    assert ran("show", "--ledger").exit_code == 2
    assert ran("show", "rides", "--ledger", "--key", "trip_id=1").exit_code == 2
    assert "did you mean `rides`?" in ran("show", "ride").stderr


FEATURES = """import penstock as ps
visits = ps.files("data/visits.csv", columns={"who": "string", "at": "timestamp", "spent": "double"})

@ps.table(time="at")
def seen(visits):
    return ps.sql('SELECT * FROM visits')

habits = ps.features(seen, entity="who", time="at", windows=["7d"], ttl="10d", n=ps.count(), spent=ps.mean("spent"))
"""


def test_show_features_as_they_were_known(shell: Shell) -> None:
    shell.write("pipeline.py", FEATURES)
    shell.write("data/visits.csv", "who,at,spent\nann,2026-01-01 10:00,2.5\nbob,2026-01-02 10:00,\nann,2026-01-20 10:00,4\n")
    shell.fine("run")
    told = shell.json("show", "habits", "--at", "2026-01-12T00:00")
    assert [(v["who"], v["expired"], v["n_7d"]) for v in told["values"]] == [("ann", True, None), ("bob", False, 1)]
    assert told["values"][1]["age_s"] == 9.0 * 86400 + 14 * 3600
    assert "2026-01-20 10:00:00" in shell.fine("show", "habits", "--at", "2026-01-21", "--key", "who=ann")
    assert "nothing was known" in shell.fine("show", "habits", "--at", "2025-01-21")
    assert shell("show", "--at", "2026-01-21").exit_code == 2
    assert shell("show", "habits", "--at", "yesterday").exit_code == 2
    shown = shell.fine("show", "habits")
    assert "spent_7d" in shown
    assert "66.7%" in shown
    assert "newest row 2026-01-20T10:00:00" in shown
    assert shell.json("show", "habits")["body"]["statistics"]["columns"]["n_7d"]["max"] == 1
