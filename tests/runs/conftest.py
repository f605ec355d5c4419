"""Small real projects: files in a folder, a pipeline, the embedded lake, engine and state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.project.project import Project

HEAD = "import penstock as ps\n\n"


class Workshop:
    """A project's folder that tests write into and open again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[Any] = []
        self._open: list[Project] = []

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def pipeline(self, text: str) -> None:
        self.write("pipeline.py", HEAD + text)

    def open(self, **inputs: Any) -> Project:
        project = Project.open(self.folder, listener=self.events.append, **inputs)
        self._open.append(project)
        return project

    def run(self, *selection: str, **more: Any) -> Any:
        project = self.open()
        try:
            return project.run(*selection, **more)
        finally:
            project.close()

    def made(self, *selection: str, **more: Any) -> dict[str, Any]:
        """Runs and requires success; returns status by asset."""
        report = self.run(*selection, **more)
        problems = [r.error for r in report.results if r.error]
        assert report.ok, problems
        return {r.asset: r.status for r in report.results}

    def failed(self, asset: str, *selection: str) -> dict[str, Any]:
        """Runs and requires this asset to fail; returns its error."""
        report = self.run(*selection)
        result = next(r for r in report.results if r.asset == asset)
        assert result.status == "failed", result
        assert result.error is not None
        return dict(result.error)

    def rows(self, sql: str, **more: Any) -> list[dict[str, Any]]:
        project = self.open()
        try:
            return project.query(sql, **more).rows()
        finally:
            project.close()

    def plan(self, *selection: str) -> dict[str, Any]:
        project = self.open()
        try:
            return {a.asset: a for a in project.plan(*selection)}
        finally:
            project.close()

    def close(self) -> None:
        for project in self._open:
            project.close()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    made = Workshop(tmp_path / "shop")
    made.folder.mkdir()
    yield made
    made.close()


@pytest.fixture
def workshop_at() -> Callable[[Path], Workshop]:
    return Workshop
