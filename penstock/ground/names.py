"""Names of assets and columns, and the only two functions that put text into SQL."""

from __future__ import annotations

import re

from penstock.ground.errors import NameRefused

_ASSET = re.compile(r"[a-z][a-z0-9_]{0,62}")
#: What an asset's own side tables end in; no asset may be called so.
REJECTED_SUFFIX = "__rejected"


def asset_name(text: str) -> str:
    """The text itself if it can name an asset: lower case, letters, digits, single underscores.

    Raises: NameRefused(E1002).
    """
    if not _ASSET.fullmatch(text) or "__" in text:
        raise NameRefused(
            "not a name for an asset",
            place=repr(text)[:80],
            expected="[a-z][a-z0-9_]*, at most 63 characters, no `__`",
            got=repr(text)[:80],
            hint="rename the function or variable",
        )
    return text


def rejected_name(asset: str) -> str:
    """The table beside an asset that keeps its rejected rows."""
    return asset + REJECTED_SUFFIX


def quote(identifier: str) -> str:
    """An identifier for SQL. Any text is safe; a NUL is refused.

    Raises: NameRefused(E1002).
    """
    if "\0" in identifier or not identifier:
        raise NameRefused("an SQL identifier cannot be empty or hold a NUL", place=repr(identifier)[:80])
    return '"' + identifier.replace('"', '""') + '"'


def literal(value: str) -> str:
    """A text as an SQL literal.

    Raises: NameRefused(E1002) for a NUL.
    """
    if "\0" in value:
        raise NameRefused("an SQL text cannot hold a NUL", place=repr(value)[:80])
    return "'" + value.replace("'", "''") + "'"
