"""What planning reads and gives: plain records, JSON-ready."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal

Status = Literal["fresh", "stale", "waiting", "look"]
Mode = Literal["full", "part"]


@dataclass(frozen=True)
class FileSeen:
    """One input file as it was or is. `digest` is "" while it was not needed."""

    size_bytes: int
    changed_ns: int
    digest: str = ""


@dataclass(frozen=True)
class Declared:
    """What the project says of an asset now.

    `definition` covers what makes the rows (query, code, options), `contract` what they must satisfy (checks, key), `params` the
    values of parameters. `partial` is whether new input rows can be worked on alone, and `driving` the input that may bring them.
    `parts` are fingerprints of columns that can be made apart from each other, beside the definition, which all share.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    definition: str
    contract: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    partial: bool = False
    driving: str = ""
    drops_gone: bool = False
    parts: Mapping[str, str] = field(default_factory=dict)

    @property
    def recorded_params(self) -> dict[str, Any]:
        """The parameters as they are recorded and compared: what JSON has no form for counts by its text."""
        return {name: _plain(value) for name, value in self.params.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(v) for v in value), key=repr)
    known = isinstance(value, str | int | None) or (isinstance(value, float) and isfinite(value))
    return value if known else str(value)


@dataclass(frozen=True)
class Made:
    """What is recorded of an asset's newest version.

    `inputs` are versions read. `files` are the landed files of a file source by label. `refused` is a model whose gates failed.
    """

    version: str
    definition: str
    contract: str
    params: Mapping[str, Any]
    inputs: Mapping[str, str]
    rows: int
    seconds: float
    bytes_in: int = 0
    files: Mapping[str, FileSeen] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reason:
    """Why an asset is not fresh. `code` is stable, `text` is for people."""

    code: str
    text: str


@dataclass(frozen=True)
class FileWork:
    """Labels of input files by what must be done with them."""

    new: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    @property
    def any(self) -> bool:
        return bool(self.new or self.changed or self.gone)


@dataclass(frozen=True)
class Action:
    """What to do with one asset.

    Status: `fresh` nothing; `stale` make it; `waiting` an input will change first, then it is decided again; `look` only
    reading can tell (a database without a cursor).
    Estimates are None when nothing is known.
    """

    asset: str
    kind: str
    status: Status
    mode: Mode = "full"
    reasons: tuple[Reason, ...] = ()
    files: FileWork = FileWork()
    rows: int | None = None
    seconds: float | None = None

    @property
    def works(self) -> bool:
        return self.status != "fresh"


@dataclass(frozen=True)
class Plan:
    """Actions in running order."""

    actions: tuple[Action, ...]

    def __iter__(self) -> Any:
        return iter(self.actions)

    def count(self, status: Status) -> int:
        return sum(a.status == status for a in self.actions)

    @property
    def nothing(self) -> bool:
        return all(a.status == "fresh" for a in self.actions)

    @property
    def rows(self) -> int | None:
        known = [a.rows for a in self.actions if a.works and a.rows is not None]
        return sum(known) if known else None

    @property
    def seconds(self) -> float | None:
        known = [a.seconds for a in self.actions if a.works and a.seconds is not None]
        return sum(known) if known else None
