"""The first look at each file: its encoding and, for delimited text, its dialect. Loading and inference share it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.adapters.engine.duckdb.raw.dialect import Dialect, dialect_of
from penstock.adapters.engine.duckdb.raw.stage import Limits, as_utf8, bom_of, encoding_of, sample
from penstock.ports.engine import RawFile

#: Bytes looked at for encoding and dialect.
HEAD_BYTES = 64 << 10


@dataclass(frozen=True)
class Head:
    """The beginning of a text file. `text` ends with a whole line where it can. `whole`: there is no more."""

    encoding: str
    text: str
    whole: bool

    def dialect(self, format: str, options: Mapping[str, Any]) -> Dialect:
        return dialect_of(self.text, format, options)


def head_of(file: RawFile, options: Mapping[str, Any], limits: Limits, size: int = HEAD_BYTES) -> Head:
    """Looks into a text file. A byte order mark says more than the declared encoding."""
    data = sample(file, limits, size + 1)
    whole = len(data) <= size
    encoding = bom_of(data) or str(options.get("encoding") or "") or encoding_of(data)
    text = b"".join(as_utf8(iter([data]), encoding, file)).decode("utf-8", "replace")
    if not whole and "\n" not in text and "\r" not in text and size < limits.record_bytes:
        return head_of(file, options, limits, min(size * 16, limits.record_bytes))
    if not whole:
        text = text[: text.rfind("\n") + 1] or text[: text.rfind("\r") + 1] or text
    return Head("utf-8" if encoding.lower() in ("utf8", "ascii", "us-ascii") else encoding.lower(), text, whole)
