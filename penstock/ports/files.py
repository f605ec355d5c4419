"""The files port: folders of somebody else's files, listed and told apart by content. (Their rows are read by the engine.)"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from penstock.ports.engine import RawFile


class FileStore(Protocol):
    """One root under which sources' patterns are looked up. Nothing is ever written. Called from one thread."""

    def list(self, pattern: str, *, format: str | None = None, hive: bool | None = None) -> Sequence[RawFile]:
        """The files that a pattern matches now, by label; members of archives count as files.

        Called:  by planning and by each landing. Cost: one look at each folder, none into a file but archives.
        Raises:  SourceError(E2001) if nothing matches, with the nearest names; InputRefused(E2004) for a hostile archive.
        """
        ...

    def digest(self, file: RawFile) -> str:
        """A digest of a file's content as it is now. Raises: SourceError(E2001)."""
        ...
