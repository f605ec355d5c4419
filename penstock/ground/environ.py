"""The process environment and what the system says of this process, read in this file only."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping


def environment() -> Mapping[str, str]:
    """The environment as it is now; callers take what they need once and pass it on."""
    return os.environ


def replace_environment(values: Mapping[str, str]) -> None:
    """Makes the environment of this process what `values` says. Called: by a process that does another's work, before it begins."""
    for name in [name for name in os.environ if name not in values]:
        del os.environ[name]
    for name, value in values.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def user() -> str:
    """Who runs this process, as its system knows them."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def cores() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_memory() -> int:
    """Bytes of memory that the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
