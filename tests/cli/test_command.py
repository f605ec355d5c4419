"""The frame around the verbs: help, options, exit codes, errors, pipes, completion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from penstock.cli.command import VERBS, Verbs, command, shared
from penstock.cli.failure import exit_code, recorded_lines
from penstock.cli.screen import Face
from penstock.ground.errors import (
    Busy,
    CheckFailed,
    DefinitionError,
    PenstockError,
    QueryError,
    SettingsError,
    UnknownName,
    VersionNotFound,
)
from tests.cli.conftest import Shell

PENSTOCK = [sys.executable, "-c", "from penstock.cli import main; main()"]


def raising(error: BaseException) -> Verbs:
    """A command line with one verb, which fails."""

    @click.command()
    @shared
    def fails(face: Face) -> None:
        raise error

    class Failing(Verbs):
        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
            return fails

    return Failing(name="penstock")


def test_the_help_names_what_there_is_and_nothing_else() -> None:
    text = CliRunner().invoke(command, ["--help"]).stdout
    verbs = text.partition("Commands:\n")[2]
    assert [line.split()[0] for line in verbs.splitlines()] == list(VERBS)
    assert "..." not in verbs, "a verb's first sentence is too long for the help"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_the_shared_options(verb: str) -> None:
    result = CliRunner().invoke(command, [verb, "--help"])
    assert result.exit_code == 0
    for option in ("--project", "--level", "--json", "--traceback"):
        assert option in result.stdout


def test_the_help_loads_neither_rich_nor_the_project() -> None:
    code = "import sys; sys.argv = ['penstock', '--help']\nfrom penstock.cli import main\ntry:\n  main()\nfinally:\n  print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert loaded & {"rich", "duckdb", "pyarrow", "sqlglot", "penstock.project.project"} == set()


def test_the_version() -> None:
    assert CliRunner().invoke(command, ["--version"]).stdout.startswith("penstock 0.")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DefinitionError("x"), 2), (UnknownName("x"), 2), (QueryError("x"), 2), (SettingsError("x"), 2), (VersionNotFound("x"), 2),
        (Busy("x"), 3), (CheckFailed("x"), 1), (PenstockError("x"), 1), (KeyError("x"), 1), (KeyboardInterrupt(), 130),
    ],
)  # fmt: skip
def test_exit_codes(error: BaseException, code: int) -> None:
    assert CliRunner().invoke(raising(error), ["fails"]).exit_code == code
    assert CliRunner().invoke(raising(error), ["fails", "--json"]).exit_code == code


def test_no_error_of_ours_exits_with_another_code() -> None:
    seen: list[type[PenstockError]] = [PenstockError]
    for kind in seen:
        seen += kind.__subclasses__()
    assert len(seen) > 25
    assert {exit_code(kind("x").as_record()) for kind in seen} == {1, 2, 3}


def test_an_error_stands_on_lines_of_its_own() -> None:
    error = CheckFailed("too many", place="departures[flight_id]", expected="one", got="two\nthree", hint="look")
    result = CliRunner().invoke(raising(error), ["fails"])
    assert result.stdout == ""
    assert [" ".join(line.split()) for line in result.stderr.splitlines()] == [
        "E3001 departures[flight_id]: too many", "expected: one", "got: two", "three", "hint: look",
    ]  # fmt: skip


def test_an_error_as_json_is_one_document() -> None:
    result = CliRunner().invoke(raising(CheckFailed("too many", place="a", hint="look")), ["fails", "--json"])
    found = json.loads(result.stdout)
    assert found["schema"] == "penstock.error/1"
    assert found["error"] == CheckFailed("too many", place="a", hint="look").as_record()


def test_a_defect_is_told_as_one_without_a_traceback() -> None:
    result = CliRunner().invoke(raising(ZeroDivisionError("oh")), ["fails"])
    assert "this is a defect of Penstock: ZeroDivisionError: oh" in result.stderr
    assert "Traceback" not in result.output
    assert "Traceback" in CliRunner().invoke(raising(ZeroDivisionError("oh")), ["fails", "--traceback"]).stderr


def test_terminal_commands_in_an_error_are_shown_and_not_obeyed() -> None:
    result = CliRunner().invoke(raising(CheckFailed("\x1b[2J[red]x[/red]", got="\x1b]0;title\x07")), ["fails"])
    assert "\x1b[2J" not in result.stderr
    assert "\x07" not in result.stderr
    assert "\\x1b[2J[red]x[/red]" in result.stderr


@pytest.mark.parametrize("args", [["nope"], ["plan", "--nope"], ["query"], ["plan", "--set", "x"], ["plan", "-C", "/does/not/exist"]])
def test_wrong_usage(args: list[str]) -> None:
    assert CliRunner().invoke(command, args).exit_code == 2
    found = json.loads(CliRunner().invoke(command, [*args, "--json"]).stdout)
    assert found["schema"] == "penstock.error/1"
    assert found["error"]["code"] == "usage"


def test_no_project(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["plan", "-C", str(tmp_path)])
    assert result.exit_code == 2
    assert "there is no project here" in result.stderr
    assert "penstock new NAME" in result.stderr


def test_the_project_option_stands_before_or_after_the_verb(ran: Shell) -> None:
    before = CliRunner().invoke(command, ["-C", str(ran.folder), "plan"])
    assert before.exit_code == 0, before.output
    assert before.stdout == ran.fine("plan")


def test_a_pipeline_that_does_not_load_shows_the_users_line(bare: Callable[[str], Shell]) -> None:
    shell = bare("def inner():\n    return 1 / 0\n\nx = inner()\n")
    result = shell("plan")
    assert result.exit_code == 2
    assert "pipeline.py:4 in inner: return 1 / 0" in result.stderr
    assert "Traceback" not in result.stderr
    assert "importlib" not in result.stderr
    assert "Traceback" in shell("plan", "--traceback").stderr


def test_a_syntax_error_shows_the_line(bare: Callable[[str], Shell]) -> None:
    result = bare("x = = 1\n")("show")
    assert result.exit_code == 2
    assert "pipeline.py:3" in result.stderr


def test_recorded_tracebacks_give_the_users_lines() -> None:
    ours = str(Path(Shell.__module__).absolute().parent)
    text = (
        f'Traceback (most recent call last):\n  File "{sys.prefix}/lib/x.py", line 1, in lib\n    a\n'
        '  File "/srv/p/pipeline.py", line 7, in departures\n    return 1 / 0\n           ~~^~~\nZeroDivisionError: division by zero\n'
    )
    assert list(recorded_lines(text)) == ["at pipeline.py:7 in departures: return 1 / 0"], ours


def test_a_reader_that_goes_away_is_no_error(ran: Shell) -> None:
    command_line = " ".join(
        f"'{part}'" for part in [*PENSTOCK, "query", "-C", str(ran.folder), "select * from range(200000)", "--format", "csv"]
    )
    done = subprocess.run(["bash", "-c", f"{command_line} | head -1; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ['"range"', "0"]
    assert done.stderr == ""


def test_a_run_whose_reader_goes_away_goes_on(shell: Shell) -> None:
    command_line = " ".join(f"'{part}'" for part in [*PENSTOCK, "run", "-C", str(shell.folder)])
    done = subprocess.run(["bash", "-c", f"{command_line} | true; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0"]
    assert shell.json("plan")["nothing"] is True


def test_an_interrupted_query_exits_as_one(ran: Shell) -> None:
    timer = "import signal; signal.signal(signal.SIGALRM, signal.default_int_handler); signal.setitimer(signal.ITIMER_REAL, 2)"
    endless = "select sum(a.range * b.range) from range(100000000) a, range(100000000) b"
    line = [sys.executable, "-c", f"from penstock.cli import main; {timer}; main()", "query", "-C", str(ran.folder), endless]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 130, done.stderr
    assert "defect" not in done.stderr
    assert "Traceback" not in done.stderr


def test_completion_scripts_and_names_of_assets(ran: Shell) -> None:
    for name in ("bash", "zsh", "fish"):
        assert "_PENSTOCK_COMPLETE" in CliRunner().invoke(command, ["completion", name]).stdout
    environment = os.environ | {"_PENSTOCK_COMPLETE": "bash_complete", "COMP_WORDS": "penstock run +ri", "COMP_CWORD": "2"}
    done = subprocess.run(PENSTOCK, cwd=ran.folder, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["plain,+rides"]


def test_the_package_has_an_entry_point() -> None:
    from importlib.metadata import entry_points

    assert next(iter(entry_points(group="console_scripts", name="penstock"))).value == "penstock.cli:main"
