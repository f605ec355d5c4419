"""From a raw file to a plain UTF-8 file that an engine can open: under a safe name, expanded, transcoded, within limits.

A plain UTF-8 file is not copied: if its name is anything but plain it gets a link whose name is its number, so that no odd name stands
in a query or is taken for a glob. Everything else is streamed once into a file of that name. Bytes that are no text in the file's encoding become the
byte FF, which is never UTF-8: the readers reject those lines and no others.
"""

from __future__ import annotations

import codecs
import gzip
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa

from penstock.ground.errors import InputRefused, SourceChanged, SourceError
from penstock.ports.engine import RawFile

CHUNK = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What an input may be. A file is refused when it expands by more than `ratio` AND beyond `expanded_bytes`.

    `record_bytes`: a longer line or JSON value is rejected, and only its beginning kept.
    """

    ratio: int = 200
    expanded_bytes: int = 1 << 30
    record_bytes: int = 16 << 20


@dataclass(frozen=True)
class Staged:
    """A raw file as readers open it. `number` is its place among the files that are read, and the stem of its name."""

    number: int
    file: RawFile
    path: str


def check_unchanged(file: RawFile) -> None:
    """Raises: SourceChanged(E2002) if a file is not as it was listed; SourceError(E2001) if it cannot be seen."""
    try:
        now = os.stat(file.path)
    except FileNotFoundError as error:
        raise SourceChanged("a file vanished while it was to be read", place=file.label, hint="run again") from error
    except OSError as error:
        raise SourceError("cannot be read", place=file.label, got=error) from error
    if now.st_mtime_ns != file.changed_ns or (not file.member and now.st_size != file.size_bytes):
        raise SourceChanged(
            "a file changed since it was listed; nothing of it was taken",
            place=file.label, expected=f"{file.size_bytes} bytes", got=f"{now.st_size} bytes", hint="run again when it is complete",
        )  # fmt: skip


# -- bytes ----------------------------------------------------------------------------------------------------------
@contextmanager
def reading_errors(file: RawFile) -> Iterator[None]:
    """Raises what reading, expanding or parsing a file raises as SourceError(E2001) that names the file."""
    try:
        yield
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, KeyError, RuntimeError, NotImplementedError, pa.ArrowException) as error:
        if isinstance(error, SourceError):
            raise
        said = str(error).split("\n")[0][:200] or type(error).__name__
        raise SourceError("cannot be read: truncated, corrupt or not what its name says", place=file.label, got=said) from error


def compression_of(file: RawFile) -> str:
    """gzip, zstd, zip or "", by content and not by name. Raises: SourceError(E2001)."""
    if file.member:
        return "zip"
    with reading_errors(file), open(file.path, "rb") as stream:
        head = stream.read(4)
    return {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd" if head == b"\x28\xb5\x2f\xfd" else ""}.get(head[:2], "")


def expanded(file: RawFile, limits: Limits) -> Iterator[bytes]:
    """The file's bytes, expanded, in pieces of at most CHUNK.

    Raises: SourceError(E2001) for a broken or encrypted archive, InputRefused(E2004) for one that expands beyond the limits.
    """
    with reading_errors(file):
        packed = compression_of(file)
        with open(file.path, "rb") as raw:
            size = os.fstat(raw.fileno()).st_size
            if packed == "zip":
                archive = zipfile.ZipFile(raw)
                info = archive.getinfo(file.member)
                if info.flag_bits & 0x1:
                    raise InputRefused("an encrypted archive", place=file.label, hint="expand it yourself and load the files")
                size = info.compress_size
                stream: IO[bytes] = archive.open(info)
            elif packed == "gzip":
                stream = gzip.GzipFile(fileobj=raw)  # type: ignore[assignment]
            else:
                stream = pa.CompressedInputStream(raw, "zstd") if packed else raw
            yield from _bounded(stream, size if packed else 0, file, limits)


def _bounded(stream: IO[bytes], size: int, file: RawFile, limits: Limits) -> Iterator[bytes]:
    given = 0
    while piece := stream.read(CHUNK):
        given += len(piece)
        if size and given > limits.expanded_bytes and given > limits.ratio * size:
            raise InputRefused(
                "a compressed file expands beyond the limit", place=file.label,
                expected=f"at most {limits.ratio}:1 above {limits.expanded_bytes} bytes", got=f"{given // max(size, 1)}:1 and growing",
                hint="expand it yourself if you trust it",
            )  # fmt: skip
        yield bytes(piece)


def sample(file: RawFile, limits: Limits, size: int) -> bytes:
    """About the first `size` expanded bytes."""
    parts: list[bytes] = []
    for piece in expanded(file, limits):
        parts.append(piece)
        if sum(map(len, parts)) >= size:
            break
    return b"".join(parts)[:size]


# -- encodings ------------------------------------------------------------------------------------------------------
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
_MULTIBYTE = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_LETTER = re.compile(rb"[A-Za-z][\xc0-\xff](?![\x80-\xff])|(?<![\x80-\xff])[\xc0-\xff][A-Za-z]")
_HIGH = re.compile(rb"[\x80-\xff]")


def bom_of(head: bytes) -> str:
    return next((name for mark, name in _BOMS if head.startswith(mark)), "")


def encoding_of(head: bytes) -> str:
    """The encoding of a text that begins like this: by its byte order mark, else by what fits.

    Rule: valid UTF-8 is UTF-8. Otherwise it is cp1252 (latin-1 where that has gaps) if single high bytes stand beside letters as
    they do in words and nothing is multi-byte UTF-8; a text with both is UTF-8 with bad lines.
    """
    if mark := bom_of(head):
        return mark
    even, odd = head[0:512:2].count(0), head[1:512:2].count(0)
    if max(even, odd) * 4 > len(head[:512]) and min(even, odd) == 0:
        return "utf-16-le" if odd > even else "utf-16-be"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        if _MULTIBYTE.search(head) or 2 * len(_LETTER.findall(head)) < len(_HIGH.findall(head)):
            return "utf-8"
        return "latin-1" if re.search(rb"[\x81\x8d\x8f\x90\x9d]", head) else "cp1252"
    return "utf-8"


def _mark_bad(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\udcff", error.end


codecs.register_error("penstock-mark", _mark_bad)


def as_utf8(pieces: Iterator[bytes], encoding: str, file: RawFile) -> Iterator[bytes]:
    """The text in UTF-8 without byte order mark; what cannot be decoded is the byte FF.

    Raises: SourceError(E2001) for an unknown encoding.
    """
    try:
        decoder = codecs.getincrementaldecoder(encoding)("penstock-mark")
    except LookupError as error:
        raise SourceError("unknown encoding", place=file.label, got=encoding, hint="a name that Python knows, such as cp1252") from error
    for piece in pieces:
        yield decoder.decode(piece).encode("utf-8", "surrogateescape")
    yield decoder.decode(b"", True).encode("utf-8", "surrogateescape")


#: Paths that are neither globs nor compressed nor anything else to the engine. (Making a link costs more than reading a small file.)
_SAFE = re.compile(r"[\w /.+=,@~-]+\.(csv|tsv|txt|json|ndjson|jsonl)", re.ASCII)


# -- staging --------------------------------------------------------------------------------------------------------
def stage(number: int, file: RawFile, folder: Path, limits: Limits, *, encoding: str = "", ending: str = "csv") -> Staged:
    """Makes a raw file openable in a folder; `encoding` "" leaves its bytes as they are.

    Raises: as `expanded`; SourceError(E2001) for an unknown encoding.
    """
    path = folder / f"{number}.{ending}"
    if encoding in ("", "utf-8") and not compression_of(file):
        whole = os.path.abspath(file.path)
        if not (ending == "csv" and _SAFE.fullmatch(whole)):
            os.symlink(whole, path)
            whole = str(path)
        return Staged(number, file, whole)
    pieces = expanded(file, limits)
    with open(path, "wb") as out:
        for piece in pieces if encoding in ("", "utf-8") else as_utf8(pieces, encoding, file):
            out.write(piece)
    return Staged(number, file, str(path))
