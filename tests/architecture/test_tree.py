"""What stands in the files: one version, no word that tells where or how they were written, no name that says nothing."""

from __future__ import annotations

import re
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]

#: Kinds of words that stand in no file -> how they are found. Written so that this file does not hold them either.
FORBIDDEN = {
    "the host of a package registry": r"(pypi|pythonhosted|npmjs|crates)\.(org|io)\b|repo1?\.maven|proxy\.golang|(docker|ghcr|quay)\.io\b",
    "a path of one machine": r"(?<![\w.~$}*-])/(root|work|opt/wheels|Users/\w+|home/(?!me/)\w+)/",
    "a user name and password": r"://[^\s/:@'\"<>{}$]+:[^\s/@'\"<>{}$*]+@(?!localhost|127\.|db\b|host\b)",
    "words about how it was written": r"(?i)\b(clau[d]e|anthropi[c]|chatgp[t]|sub-?agen[t]s?|as an a[i]|scratchpa[d]|the brie[f])\b",
}
VAGUE = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}


def files() -> list[Path]:
    """Files of the repository that git knows or would add."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def telling(text: str) -> list[str]:
    """Which forbidden words stand in a text, with their kind."""
    return [f"{kind}: {found[0]}" for kind, pattern in FORBIDDEN.items() if (found := re.search(pattern, text))]


def vague(path: Path) -> bool:
    return path.stem.strip("_").lower() in VAGUE or bool(VAGUE & {part.lower() for part in path.parts})


def test_no_file_tells_where_or_how_it_was_written() -> None:
    texts = {path: path.read_bytes().decode("utf-8", "replace") for path in files() if path.suffix not in {".png", ".parquet", ".lock"}}
    assert len(texts) > 20
    assert {str(path.relative_to(ROOT)): found for path, text in texts.items() if (found := telling(text))} == {}


def test_lock_files_name_versions_and_digests_only() -> None:
    locks = [path for path in files() if path.suffix == ".lock"]
    assert locks
    pinned = re.compile(r" *#.*|[\w.-]+(\[[\w,-]+\])?==[\w.]+( ; .*)?( \\)?|    --hash=sha256:[0-9a-f]{64}( \\)?")
    assert [line for path in locks for line in path.read_text().splitlines() if not pinned.fullmatch(line)] == []
    assert all(not telling(path.read_text()) for path in locks)


def test_the_locks_hold_what_is_declared() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    texts = [*declared["project"]["dependencies"], *chain(*declared["project"]["optional-dependencies"].values())]
    texts += [item for group in declared["dependency-groups"].values() for item in group if isinstance(item, str)]
    wanted = [r for r in map(Requirement, texts) if r.name != "penstock"]
    pins = chain(
        *(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "requirements" / f).read_text(), re.M) for f in ("dev.lock", "services.lock"))
    )
    locked = {canonicalize_name(name): version for name, version in pins}
    missing = [str(r) for r in wanted if not r.specifier.contains(locked.get(canonicalize_name(r.name), "0"))]
    assert missing == [], "make lock"


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert [str(p) for p in (f.relative_to(ROOT) for f in files()) if vague(p)] == []


def test_the_changelog_begins_with_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == version
    assert headings == sorted(headings, key=lambda v: [int(n) for n in v.split(".")], reverse=True)
    assert re.search(rf'^__version__ = "{re.escape(version)}"$', (ROOT / "penstock/__init__.py").read_text(), re.MULTILINE)


def test_every_verb_has_its_line_in_the_help() -> None:
    makefile = (ROOT / "Makefile").read_text()
    verbs = {v for line in re.findall(r"^\.PHONY: (.*)", makefile, re.MULTILINE) for v in line.split()}
    assert verbs == set(re.findall(r"^([a-z-]+):.* ## ", makefile, re.MULTILINE))


def test_every_verb_that_a_page_names_is_there() -> None:
    verbs = set(re.findall(r"^([a-z-]+):.* ## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    pages = [f for f in files() if f.suffix == ".md" or f.name == "run"]
    named = {v for page in pages for v in re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(), re.MULTILINE)}
    assert {"setup", "check", "demo"} <= named <= verbs


@pytest.mark.parametrize(
    "text",
    ["https://py" + "pi.org/simple", "see /ro" + "ot/x", "/ho" + "me/jo/x", "x://jo:pw" + "@example.com/", "by Clau" + "de"],
)
def test_planted_words_are_found(text: str) -> None:
    assert telling(text)


@pytest.mark.parametrize("text", ["penstock/work/x.py", "~/.cache/root", "postgresql://ops@db/fleet", "agents of a railway"])
def test_plain_words_are_not(text: str) -> None:
    assert not telling(text)


@pytest.mark.parametrize(("path", "found"), [("a/utils.py", True), ("a/base/x.py", True), ("a/database.py", False), ("commons.py", False)])
def test_vague_names_are_found(path: str, found: bool) -> None:
    assert vague(Path(path)) is found
