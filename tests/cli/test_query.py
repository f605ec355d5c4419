"""`penstock query`: every form of output holds the same rows."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from penstock.cli.command import command
from tests.cli.conftest import Shell

DAYS = "select station, day, rides from station_days order by all"


def printed(shell: Shell, *args: str) -> bytes:
    """Bytes on stdout."""
    result = CliRunner().invoke(command, ["query", "-C", str(shell.folder), *args])
    assert result.exit_code == 0, result.output
    return result.stdout_bytes


def test_a_table_has_names_types_and_a_count(ran: Shell) -> None:
    lines = ran.fine("query", DAYS).splitlines()
    assert lines[0].split() == ["station", "day", "rides"]
    assert lines[1].split() == ["string", "date", "long"]
    assert lines[3].split() == ["Harbour", "2024-05-01", "3"]
    assert lines[-1] == "8 rows"


def test_a_table_shows_forty_rows_and_says_how_many_more(ran: Shell) -> None:
    lines = ran.fine("query", "select * from range(1234)").splitlines()
    assert len(lines) == 3 + 40 + 1
    assert lines[-1].startswith("1,234 rows, 1,194 more than shown")
    assert ran.fine("query", "select * from range(1234)", "--limit", "50").splitlines()[-1] == "50 rows"
    assert ran.fine("query", "select * from range(3)", "--limit", "0").splitlines()[-1] == "0 rows"


def test_all_forms_hold_the_same_rows(ran: Shell, tmp_path: Path) -> None:
    document = ran.json("query", DAYS)
    assert document["columns"] == [
        {"name": "station", "type": "string"},
        {"name": "day", "type": "date"},
        {"name": "rides", "type": "long"},
    ]
    rows = document["rows"]
    assert document["count"] == len(rows) == 8
    names = ["station", "day", "rides"]
    assert [[r[n] for n in names] for r in json.loads(printed(ran, DAYS, "--format", "json"))] == rows
    assert [[json.loads(line)[n] for n in names] for line in printed(ran, DAYS, "--format", "ndjson").splitlines()] == rows
    table = list(csv.reader(io.StringIO(printed(ran, DAYS, "--format", "csv").decode())))
    assert table[0] == names
    assert table[1:] == [[s, d, str(n)] for s, d, n in rows]
    for found in (
        pq.read_table(io.BytesIO(printed(ran, DAYS, "--format", "parquet"))),
        pa.ipc.open_file(printed(ran, DAYS, "--format", "arrow")).read_all(),
    ):
        assert [[r["station"], str(r["day"]), r["rides"]] for r in found.to_pylist()] == rows
    for ending in ("parquet", "csv", "json", "ndjson", "arrow"):
        path = tmp_path / f"out.{ending}"
        assert ran.fine("query", DAYS, "--out", str(path)).strip() == f"8 rows written to {path}"
        assert path.read_bytes() == printed(ran, DAYS, "--format", ending) or ending in ("parquet", "arrow")


def test_limits_hold_for_every_form(ran: Shell, tmp_path: Path) -> None:
    assert len(json.loads(printed(ran, "select * from range(300000)", "--limit", "150001", "--format", "json"))) == 150_001
    assert ran.json("query", DAYS, "--limit", "2")["count"] == 2
    ran.fine("query", DAYS, "--limit", "2", "--out", str(tmp_path / "two.parquet"))
    assert pq.read_table(tmp_path / "two.parquet").num_rows == 2


def test_values_that_json_does_not_have(ran: Shell) -> None:
    sql = "select 'NaN'::double a, 'inf'::float b, 1.10::decimal(9,2) c, timestamp '2024-01-01' d, 'ab'::blob e, {'x': 1} f, [1, null] g, null h"
    assert ran.json("query", sql)["rows"] == [["nan", "inf", "1.10", "2024-01-01T00:00:00", "6162", {"x": 1}, [1, None], None]]


def test_two_columns_may_have_one_name_in_a_document(ran: Shell) -> None:
    found = ran.json("query", "select 1 as a, 2 as b")
    assert found["rows"] == [[1, 2]]


def test_hostile_values_cannot_steer_the_terminal(ran: Shell) -> None:
    told = ran.fine("query", "select chr(27) || '[2J' || chr(7) as \"[red]x[/]\", '[bold]y[/bold]' as z, chr(8238) || 'evil' as w")
    assert "\x1b" not in told
    assert "\x07" not in told
    assert "\u202e" not in told
    assert "[red]x[/]" in told
    assert "[bold]y[/bold]" in told


def test_as_of(shell: Shell) -> None:
    shell.fine("run")
    made = shell.json("show", "trips")["body"]["at"]
    shell.write(
        "data/trips.csv", (shell.folder / "data/trips.csv").read_text() + "17,Market,2024-05-03 08:00:00,2024-05-03 08:20:00,true\n"
    )
    shell.fine("run", "trips")
    assert shell.json("query", "select count(*) from trips")["rows"] == [[17]]
    assert shell.json("query", "select count(*) from trips", "--as-of", made)["rows"] == [[16]]
    assert shell.json("query", "select count(*) from trips", "--as-of", "2001-01-01", code=2)["error"]["code"] == "E4009"
    assert shell.json("query", "select 1", "--as-of", "yesterday", code=2)["error"]["code"] == "E1001"


def test_a_query_from_stdin(ran: Shell) -> None:
    result = ran("query", "-", "--json", input="select count(*) from rides")
    assert json.loads(result.stdout)["rows"] == [[13]]


def test_rejected_rows_are_a_table(ran: Shell) -> None:
    assert ran.json("query", "select count(*) from rides__rejected")["rows"] == [[2]]


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("select * from ride", "E1003"),
        ("select nope from rides", "E1006"),
        ("selec", "E1006"),
        ("drop table rides", "E1006"),
        ("select 1; select 2", "E1006"),
    ],
)
def test_queries_that_cannot_be(ran: Shell, sql: str, code: str) -> None:
    assert ran.json("query", sql, code=2)["error"]["code"] == code


def test_an_ending_that_is_no_format(ran: Shell, tmp_path: Path) -> None:
    assert ran("query", "select 1", "--out", str(tmp_path / "x.doc")).exit_code == 2
    assert ran("query", "select 1", "--out", str(tmp_path / "x.csv"), "--format", "json").exit_code == 2
    assert list(tmp_path.iterdir()) == []
