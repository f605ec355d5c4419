"""Runs the code of a page, top to bottom, in one empty folder, as a reader would.

A fence with a title is a file of that name:            ```python title="pipeline.py"
A fence of Python without a title runs in the page's own interpreter state: ```python
A fence of a console runs each line after `$ `; what stands below it must be printed, in this order. `...` stands for any text,
alone on a line for any lines. A command that is meant to fail says so: `$ penstock run  # exit 1`
Other languages are only shown.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r'^(?P<indent> *)(?P<ticks>`{3,})(?P<language>\w*)(?: .*?title="(?P<title>[^"]+)")?.*$')


class PageError(AssertionError):
    """A block of a page does not do what the page says."""


@dataclass(frozen=True)
class Block:
    """A fenced block; `place` is page and line of its first line of code."""

    place: str
    line: int
    language: str
    title: str
    code: str

    @property
    def runs(self) -> bool:
        return bool(self.title) or self.language in ("python", "console")


def pages() -> list[Path]:
    """Pages that have something to run."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in found if any(block.runs for block in blocks(page))]


def blocks(page: Path) -> Iterator[Block]:
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), 1))
    for number, line in lines:
        if not (opening := FENCE.match(line)):
            continue
        code = []
        for _, inner in lines:
            if inner.strip() == opening["ticks"]:
                break
            code.append(inner.removeprefix(opening["indent"]))
        else:
            raise PageError(f"{page}:{number}: the block is never closed")
        yield Block(f"{page}:{number + 1}", number + 1, opening["language"], opening["title"] or "", "\n".join(code) + "\n")


def run_page(page: Path, folder: Path) -> None:
    """Runs all blocks in a folder, which must be the working directory.

    Raises: PageError with the place of the block that fails.
    """
    names: dict[str, Any] = {"__name__": "__page__"}
    for block in blocks(page):
        if block.title:
            file = folder / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.code, encoding="utf-8")
        elif block.language == "python":
            run_python(block, names)
        elif block.language == "console":
            for command, expected in commands(block.code):
                run_command(block.place, command, expected, folder)


def run_python(block: Block, names: dict[str, Any]) -> None:
    try:
        exec(compile("\n" * (block.line - 1) + block.code, block.place.rpartition(":")[0], "exec"), names)
    except Exception as error:
        raise PageError(f"{block.place}: {type(error).__name__}: {error}") from error


def commands(code: str) -> Iterator[tuple[str, list[str]]]:
    """Each command with the lines that stand below it. A command goes on after a backslash at the end of its line."""
    for part in re.split(r"^\$ ", code, flags=re.MULTILINE)[1:]:
        whole = re.match(r"(?:.*\\\n)*.*\n", part)
        assert whole
        yield whole[0].strip(), part[whole.end() :].splitlines()


def run_command(place: str, command: str, expected: list[str], folder: Path) -> None:
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
        "NO_COLOR": "1",
        "COLUMNS": "140",
    }
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=-1, stderr=-2, text=True, timeout=120
    )
    wanted = re.search(r"# exit (\d+)$", command)
    if done.returncode != (int(wanted[1]) if wanted else 0):
        raise PageError(f"{place}: `{command}` ended with {done.returncode}:\n{done.stdout}")
    if missing := not_found(expected, done.stdout.splitlines()):
        raise PageError(f"{place}: `{command}` did not print {missing!r}, but:\n{done.stdout}")


def not_found(expected: list[str], printed: list[str]) -> str | None:
    """The first expected line that is not printed after the one before it; spaces do not count."""
    rest = iter([" ".join(line.split()) for line in printed])
    for line in (" ".join(e.split()) for e in expected if e.strip() not in ("", "...")):
        pattern = ".*".join(re.escape(part.strip()) for part in line.split("..."))
        if not any(re.fullmatch(pattern, found) for found in rest):
            return line
    return None
