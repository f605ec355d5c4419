"""Files on this machine: which of them a pattern means, what their folders say, and a digest of what is in them.

Labels are paths relative to the project, with `/`; a member of a zip archive is `archive.zip/member`. A byte of a name that is no
UTF-8 shows as `\\xNN` in the label; the path itself opens the file. Links are followed, also out of the project: it is the user's
own data.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from penstock.ground.errors import SourceError, did_you_mean
from penstock.ports.adapters import Context
from penstock.ports.engine import RawFile
from penstock.spec.sources import format_by_name

_IGNORED = re.compile(r"\..*|~.*|.*~|.*\.(tmp|part|crdownload|swp)", re.DOTALL | re.IGNORECASE)
_WILD = re.compile(r"[*?\[{]")


def list_files(root: Path, pattern: str, *, format: str | None, hive: bool | None) -> tuple[RawFile, ...]:
    """Files that match a glob below a root, sorted by label; members of zip archives one by one.

    Patterns: `*`, `?`, `[...]` within a name, `{a,b}`, `**` for any number of folders; a folder means all files in it.
    Ignored:  names that begin with `.` or `~`, or end in `~`, `.tmp`, `.part`, unless the pattern spells them out.
    Hive:     values of folders `k=v` below the first wildcard; None takes them if every match has the same keys.
    Raises:   SourceError(E2001) with the nearest names if nothing matches, or if an archive cannot be listed.
    """
    found: dict[str, RawFile] = {}
    for plain in _alternatives(pattern):
        fixed = _fixed(plain)
        for path in _matching(root, plain):
            for file in _listed(root, path, format, _partition(_label(root, path), fixed) if hive is not False else ()):
                found[file.label] = file
    if not found:
        raise SourceError("no file matches", place=pattern, hint=_nearest(root, pattern))
    files = tuple(found[label] for label in sorted(found))
    if hive is None and len({tuple(k for k, _ in f.partition) for f in files}) > 1:
        return tuple(RawFile(f.path, f.label, f.size_bytes, f.changed_ns, (), f.member) for f in files)
    return files


def digest(file: RawFile) -> str:
    """32 hexadecimal characters over a file's content; of a zip member, over the member's.

    Raises: SourceError(E2001).
    """
    try:
        if not file.member:
            with open(file.path, "rb") as stream:
                return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        with zipfile.ZipFile(file.path) as archive, archive.open(file.member) as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()  # type: ignore[arg-type]
    except (OSError, KeyError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        raise SourceError("cannot be read", place=file.label, got=error) from error


# -- patterns -------------------------------------------------------------------------------------------------------
def _alternatives(pattern: str) -> list[str]:
    """`{a,b}` written out, innermost first."""
    match = re.search(r"\{([^{}]*,[^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [text for choice in match[1].split(",") for text in _alternatives(head + choice + tail)]


def _fixed(pattern: str) -> int:
    """Number of leading folders without wildcard."""
    parts = pattern.split("/")
    return next((i for i, part in enumerate(parts) if _WILD.search(part)), len(parts) - 1)


@functools.cache
def _part(pattern: str) -> re.Pattern[str]:
    """A glob for one name as a regular expression."""
    return re.compile(fnmatch.translate(pattern))


def _ignored(name: str, part: str) -> bool:
    """Whether a name is hidden or an editor's temporary, and the part of the pattern does not ask for such names."""
    return bool(_IGNORED.fullmatch(name)) and not _IGNORED.fullmatch(part)


def _matching(root: Path, pattern: str) -> Iterator[str]:
    """Paths of files that match; a name that exists as it is spelled is not taken for a pattern."""
    whole = os.path.join(root, pattern)
    if os.path.isfile(whole):
        yield whole
        return
    if os.path.isdir(whole):
        pattern = pattern.rstrip("/") + "/*"
    parts = pattern.split("/")
    start = "/" if pattern.startswith("/") else os.fspath(root)
    yield from _walk(start, [p for p in parts if p not in ("", ".")], ())


def _walk(folder: str, parts: list[str], above: tuple[str, ...]) -> Iterator[str]:
    part, rest = parts[0], parts[1:]
    if part == "**":
        yield from _below(folder, parts, above)
        return
    if not _WILD.search(part):
        path = os.path.join(folder, part)
        if rest and os.path.isdir(path):
            yield from _walk(path, rest, above)
        elif not rest and os.path.isfile(path):
            yield path
        return
    wanted = _part(part)
    for entry in _entries(folder):
        if not wanted.fullmatch(entry.name) or _ignored(entry.name, part):
            continue
        if rest and entry.is_dir():
            yield from _walk(entry.path, rest, above)
        elif not rest and entry.is_file():
            yield entry.path


def _below(folder: str, parts: list[str], above: tuple[str, ...]) -> Iterator[str]:
    """What `**` means: the folder itself and all below it. A link back to a folder above is not followed."""
    rest = parts[1:]
    if rest:
        yield from _walk(folder, rest, above)
    if (real := os.path.realpath(folder)) in above:
        return
    for entry in _entries(folder):
        if _ignored(entry.name, ""):
            continue
        if entry.is_dir():
            yield from _walk(entry.path, parts, (*above, real))
        elif not rest and entry.is_file():
            yield entry.path


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise SourceError("a folder cannot be listed", place=folder, got=error) from error


# -- files ----------------------------------------------------------------------------------------------------------
def _label(root: Path, path: str) -> str:
    base = os.fspath(root).rstrip("/") + "/"
    shown = path[len(base) :] if path.startswith(base) else path
    return shown.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _partition(label: str, fixed: int) -> tuple[tuple[str, str], ...]:
    folders = label.split("/")[:-1]
    pairs = (folder.partition("=") for folder in folders[fixed:])
    return tuple((unquote(key), unquote(value)) for key, sign, value in pairs if sign and key)


def _listed(root: Path, path: str, format: str | None, partition: tuple[tuple[str, str], ...]) -> Iterator[RawFile]:
    """The file as it is, or the members of an archive that have the format."""
    try:
        stat = os.stat(path)
    except OSError as error:
        raise SourceError("cannot be read", place=_label(root, path), got=error) from error
    label = _label(root, path)
    if not path.lower().endswith(".zip"):
        yield RawFile(path, label, stat.st_size, stat.st_mtime_ns, partition)
        return
    for info in _members(path, label):
        hidden = _IGNORED.fullmatch(info.filename.rsplit("/", 1)[-1]) or info.filename.startswith("__MACOSX/")
        if not info.is_dir() and not hidden and (format or format_by_name(info.filename) or format_by_name(label)):
            yield RawFile(path, f"{label}/{_shown(info.filename)}", info.file_size, stat.st_mtime_ns, partition, info.filename)


def _members(path: str, label: str) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise SourceError("not a zip archive, or a broken one", place=label, got=error) from error


def _shown(member: str) -> str:
    return member.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _nearest(root: Path, pattern: str) -> str:
    """A hint with names that exist where the pattern begins to differ."""
    parts = pattern.split("/")
    folder = "/" if pattern.startswith("/") else os.fspath(root)
    for part in parts[:-1]:
        step = os.path.join(folder, part)
        if _WILD.search(part) or not os.path.isdir(step):
            return f"in {folder}: " + did_you_mean(part, (e.name for e in _entries(folder) if e.is_dir()))
        folder = step
    return f"in {folder}: " + did_you_mean(parts[-1], (e.name for e in _entries(folder) if not e.name.startswith(".")))


class LocalFiles:
    """Files of this machine under a folder, or anywhere by absolute patterns."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @classmethod
    def open(cls, url: str, context: Context) -> LocalFiles:
        """`file:///folder`: patterns are relative to that folder."""
        return cls(Path(url.removeprefix("file://")))

    def list(self, pattern: str, *, format: str | None = None, hive: bool | None = None) -> tuple[RawFile, ...]:
        return list_files(self._root, pattern, format=format, hive=hive)

    def digest(self, file: RawFile) -> str:
        return digest(file)
