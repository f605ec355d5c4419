"""Which files a pattern means."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from time import perf_counter

import pytest

from penstock.adapters.files.local import digest, list_files
from penstock.ground.errors import SourceError
from penstock.ports.engine import RawFile


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in (
        "a.csv", "b.csv", "b.tsv", "sub/a.csv", "sub/deep/a.csv", ".hidden.csv", "~lock.csv", "a.csv~", "b.csv.tmp", "c.csv.part",
        ".git/x.csv", "odd/a[1].csv", "odd/a*.csv",
    ):  # fmt: skip
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


def labels(root: Path, pattern: str, *, hive: bool | None = None) -> list[str]:
    return [f.label for f in list_files(root, pattern, format=None, hive=hive)]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("data/a.csv", ["data/a.csv"]),
        ("data/*.csv", ["data/a.csv", "data/b.csv"]),
        ("data/?.[ct]sv", ["data/a.csv", "data/b.csv", "data/b.tsv"]),
        ("data/b.{csv,tsv}", ["data/b.csv", "data/b.tsv"]),
        ("data/{a,sub/{a,deep/a}}.csv", ["data/a.csv", "data/sub/a.csv", "data/sub/deep/a.csv"]),
        ("data/**/a.csv", ["data/a.csv", "data/sub/a.csv", "data/sub/deep/a.csv"]),
        ("data/sub/**", ["data/sub/a.csv", "data/sub/deep/a.csv"]),
        ("data/sub", ["data/sub/a.csv"]),
        ("./data/*/a.csv", ["data/sub/a.csv"]),
        ("data/odd/a[1].csv", ["data/odd/a[1].csv"]),
        ("data/odd/a*.csv", ["data/odd/a*.csv"]),
        ("data/.*.csv", ["data/.hidden.csv"]),
        ("data/*.tmp", ["data/b.csv.tmp"]),
        ("data/../data/a.csv", ["data/../data/a.csv"]),
    ],
)
def test_patterns(root: Path, pattern: str, found: list[str]) -> None:
    assert labels(root, pattern) == found


def test_an_absolute_pattern_keeps_its_names(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "x.csv").write_text("x")
    assert labels(root, f"{other}/*.csv") == [f"{other}/x.csv"]
    assert labels(root, f"{root}/data/a.csv") == ["data/a.csv"]


def test_what_is_known_of_a_file(root: Path) -> None:
    path = root / "data/a.csv"
    stat = path.stat()
    assert list_files(root, "data/a.csv", format=None, hive=None) == (RawFile(str(path), "data/a.csv", stat.st_size, stat.st_mtime_ns),)


def test_nothing_found_names_the_nearest(root: Path) -> None:
    for pattern, near in {"data/aa.csv": "a.csv", "dta/*.csv": "data", "data/sup/a.csv": "sub", "data/*.parquet": "b.tsv"}.items():
        with pytest.raises(SourceError, match="no file matches") as nothing:
            labels(root, pattern)
        assert near in nothing.value.hint


def test_links_are_followed_but_not_in_circles(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "x.csv").write_text("x")
    (root / "data/sub/elsewhere").symlink_to(other)
    (root / "data/sub/up").symlink_to(root / "data")
    found = labels(root, "data/sub/**/*.csv")
    assert "data/sub/elsewhere/x.csv" in found
    assert len(found) < 30


def test_values_of_folder_names(tmp_path: Path) -> None:
    for name in ("year=2013/city=S%C3%A3o%20Paulo/a.csv", "year=2014/city=b=c/a.csv"):
        path = tmp_path / "k=v" / name
        path.parent.mkdir(parents=True)
        path.write_text("")
    found = list_files(tmp_path, "k=v/*/*/*.csv", format=None, hive=None)
    assert [f.partition for f in found] == [(("year", "2013"), ("city", "São Paulo")), (("year", "2014"), ("city", "b=c"))]
    (tmp_path / "k=v/plain/more").mkdir(parents=True)
    (tmp_path / "k=v/plain/more/a.csv").write_text("")
    assert {f.partition for f in list_files(tmp_path, "k=v/*/*/*.csv", format=None, hive=None)} == {()}
    assert len({f.partition for f in list_files(tmp_path, "k=v/*/*/*.csv", format=None, hive=True)}) == 3
    assert {f.partition for f in list_files(tmp_path, "k=v/year=*/**/*.csv", format=None, hive=False)} == {()}


def test_members_of_archives(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("in/a.csv", "readme", ".hidden.csv", "__MACOSX/in/a.csv", "../b.csv", "in/"):
            archive.writestr(name, name)
    found = list_files(tmp_path, "*.zip", format=None, hive=None)
    assert [(f.label, f.member, f.size_bytes) for f in found] == [("a.zip/../b.csv", "../b.csv", 8), ("a.zip/in/a.csv", "in/a.csv", 8)]
    assert len(list_files(tmp_path, "*.zip", format="csv", hive=None)) == 3
    assert digest(found[0]) != digest(found[1])
    (tmp_path / "b.zip").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(SourceError, match=r"b\.zip"):
        list_files(tmp_path, "*.zip", format=None, hive=None)


def test_digests_are_of_content(root: Path) -> None:
    one, two = list_files(root, "data/[ab].csv", format=None, hive=None)
    before = digest(one)
    assert before != digest(two)
    os.utime(one.path)
    assert digest(one) == before
    Path(one.path).write_text("other")
    assert digest(one) != before


def test_names_that_are_no_utf_8_can_be_shown_and_opened(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.csv")).write_text("x")
    (file,) = list_files(tmp_path, "*.csv", format=None, hive=None)
    assert file.label == "a\\xff.csv"
    assert Path(file.path).read_text() == "x"


def test_ten_thousand_files_are_listed_at_once(tmp_path: Path) -> None:
    for folder in range(20):
        (tmp_path / str(folder)).mkdir()
        for i in range(500):
            (tmp_path / str(folder) / f"{i}.csv").touch()
    start = perf_counter()
    assert len(list_files(tmp_path, "**/*.csv", format=None, hive=None)) == 10_000
    assert perf_counter() - start < 1.0
