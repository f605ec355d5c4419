"""The real command line in this process, over small real projects."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from penstock.cli.command import command


class Shell:
    """Runs command lines in a project's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, verb: str, *args: str, input: str | None = None) -> Result:
        return CliRunner().invoke(command, [verb, "-C", str(self.folder), *args], input=input)

    def fine(self, verb: str, *args: str) -> str:
        """What a command prints on stdout; it must succeed."""
        result = self(verb, *args)
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, verb: str, *args: str, code: int = 0) -> dict[str, Any]:
        """The one document that a command prints on stdout."""
        result = self(verb, *args, "--json")
        assert result.exit_code == code, result.output
        found = json.loads(result.stdout)
        assert result.stdout.count("\n") == 1
        assert isinstance(found, dict)
        return found

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path


def new_project(folder: Path) -> Shell:
    result = CliRunner().invoke(command, ["new", "-C", str(folder.parent), folder.name])
    assert result.exit_code == 0, result.output
    return Shell(folder)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A new project as `penstock new` makes it, not run yet."""
    return new_project(tmp_path / "trips_project")


@pytest.fixture
def bare(tmp_path: Path) -> Callable[[str], Shell]:
    """Makes a project of a pipeline's text."""

    def make(pipeline: str = "") -> Shell:
        made = Shell(tmp_path)
        made.write("pipeline.py", "import penstock as ps\n\n" + pipeline)
        return made

    return make


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A project that has been run once; for tests that only look."""
    shell = new_project(tmp_path_factory.mktemp("ran") / "trips_project")
    shell.fine("run")
    return shell
