"""How adapters are made: every adapter class has `open(url, context)`, found by URL scheme through entry points."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.ground.clock import Clock
from penstock.ground.ids import Ids


@dataclass(frozen=True)
class Context:
    """What an adapter may know of the place it is opened in.

    Attributes:
        folder: the project's own folder (`.penstock`); exists, private.
        secret: gives a secret's value by name; raises SettingsError(E7001) that names the places looked at.
        options: further settings of this adapter, e.g. `memory_limit`, `threads` for an engine.
    """

    folder: Path
    clock: Clock
    ids: Ids
    secret: Callable[[str], str]
    options: Mapping[str, Any] = field(default_factory=dict)
