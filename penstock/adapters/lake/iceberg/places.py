"""Local paths and the `file:` texts that Iceberg's metadata has for them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from penstock.ground.errors import SettingsError, Unsupported

_NAMED = re.compile(r"-s(\d+)-[^/]*\.parquet$")


def root_of(url: str) -> Path:
    """The folder of a `file:///abs/path` URL (percent-encoded, as `Path.as_uri` makes it).

    Raises: SettingsError(E7001) for a relative path, a host, or a path that Iceberg's readers would cut short.
    """
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not os.path.isabs(path) or parts.query or parts.fragment:
        raise SettingsError("not a folder for a lake", place="lake", expected="file:///absolute/path", got=url)
    if bad := sorted(set(path) & set("#?")):
        raise SettingsError(
            "other engines cannot open a lake under such a path", place="lake", expected="a path without # and ?", got=bad[0]
        )
    return Path(os.path.normpath(path))


def uri(path: str) -> str:
    """As pyiceberg writes it; nothing is percent-encoded, because no reader decodes it."""
    return "file://" + path


def local(location: str) -> str:
    """The path of `file:///x`, `file:/x` (as Spark writes it) or `/x`.

    Raises: Unsupported(E4007) for another scheme.
    """
    if location.startswith("/"):
        return location
    if location.startswith("file:"):
        return "/" + location[5:].lstrip("/")
    raise Unsupported("the table is not on a local disk", place=location, expected="file:///...", got=location.partition(":")[0])


def schema_id_of(path: str) -> int | None:
    """The schema a file was written in, from its name `<something>-s<id>-<n>.parquet`; None for files named by other engines."""
    match = _NAMED.search(path)
    return int(match[1]) if match else None
