"""The tracker port: where versions of models are also told, for people who look elsewhere; and where finished models come from.

Protocol. The state is what counts; a tracker is told after something was registered, and nothing is ever decided by what it says. A
project owes it what it has registered since the tracker was set (records `untold` of the state), and tells it in order: first a
version, then whatever became live. A tracker that does not answer is told at a later run; what it was told twice, because the answer
was lost, stands in it once. All methods are called from one thread at a time, by the process that trains or releases.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

from penstock.ground.errors import SettingsError


@dataclass(frozen=True)
class CurvePoint:
    """What a training function reported at one step of a phase, such as `fit` or `fold 2 of 5`."""

    phase: str
    step: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class VersionTold:
    """A registered version.

    Attributes:
        token: the same for the same registration, another one for every other, also of a project of the same name elsewhere.
        run: the run that made it. started, ended: of the work on it.
        refused: whether a gate failed. A refused version is told like any other.
        params: names to values in JSON. metrics: names to finite numbers.
        tags: short texts: versions of the inputs, digest of the code, kind, and so on.
        files: the artefact's files by their names within it.
        summary: a few lines for people.
    """

    project: str
    model: str
    version: str
    token: str
    run: str
    started: datetime
    ended: datetime
    refused: bool = False
    params: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: Sequence[CurvePoint] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    summary: str = ""


@dataclass(frozen=True)
class LiveTold:
    """A version became live. `token` is that of the version; `how`: rule, release or rollback; `replaced`: "" for nothing."""

    project: str
    model: str
    version: str
    token: str
    at: datetime
    how: str
    by: str
    reason: str = ""
    replaced: str = ""


@dataclass(frozen=True)
class TrackerCapabilities:
    """What a tracker can do; the defaults are the weakest.

    Attributes:
        files: keeps the files of a version. curves: keeps each step of a curve.
        models: hands out finished models.
    """

    files: bool = False
    curves: bool = False
    models: bool = False


class Tracker(Protocol):
    """One connection. Every call ends by itself: a server that says nothing is given up."""

    capabilities: TrackerCapabilities

    def tell(self, version: VersionTold) -> None:
        """Tells a version, with all that belongs to it.

        Durable: on return, as far as the tracker is.
        Repeat:  the same token again, also after a call that broke off in the middle, leaves one entry that is complete.
        Raises:  TrackerUnreachable(E6005), a retry may help; TrackerError(E6004).
        """
        ...

    def live(self, told: LiveTold) -> None:
        """Tells which version of a model is live now; no other one of the model is marked so afterwards.

        Called:  in the order in which versions became live, after `tell` of that version.
        Repeat:  changes nothing. Raises: as `tell`; TrackerError(E6004) if the tracker has no version of this token.
        """
        ...

    def fetch(self, reference: str, folder: Path) -> Path:
        """Writes a finished model's file into a folder that is empty, and returns it; its ending says what it is.

        Args:    reference: `name@alias`, or `name/3`.
        Ends:    `.onnx`, `.txt` (LightGBM), `.ubj` or `.json` (XGBoost), `.skops`. Nothing is read of it but its size.
        Raises:  TrackerError(E6004) if there is no such model, or none of these files; ArtefactRefused(E6002) if all there is of
                 it is a pickle; TrackerUnreachable(E6005); Unsupported(E4007).
        """
        ...

    def close(self) -> None:
        """Gives everything back. Repeat: does nothing."""
        ...


def parted(url: str) -> tuple[str, str]:
    """The address of a tracker and the reference in it: `x://host/a/name@live` -> `x://host/a`, `name@live`.

    Raises: SettingsError(E7001) if there is none.
    """
    found = re.fullmatch(r"(?P<tracker>[^?#]*://[^/?#]+(?:/[^?#]*?)??)/(?P<reference>[^/?#@]+(?:@[^/@?#]+|/[0-9]+))", url)
    if found is None:
        shown = re.sub(r"//[^/?#]*@(?=[^/?#])", "//...@", url)
        raise SettingsError(
            "not an address of a model in a tracker", place=shown, expected="an address that ends in /name@alias or /name/3"
        )  # fmt: skip
    return found["tracker"], unquote(found["reference"])
