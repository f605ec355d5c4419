"""The process environment, read in this file only."""

from __future__ import annotations

import os
from collections.abc import Mapping


def environment() -> Mapping[str, str]:
    """The environment as it is now; callers take what they need once and pass it on."""
    return os.environ


def replace_environment(values: Mapping[str, str]) -> None:
    """Makes the environment of this process what `values` says. Called: by a process that does another's work, before it begins."""
    os.environ.clear()
    os.environ.update(values)
