"""Sizes of memory as a user writes them: `512MB`, `4GB`, `1.5GiB`."""

from __future__ import annotations

import re

from penstock.ground.errors import DefinitionError

_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def size(text: str) -> int:
    """`"4GB"` in bytes.

    Raises: DefinitionError(E1001).
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", text.lower())
    if not match or match[2] not in _UNITS:
        raise DefinitionError("not a size of memory", place=text[:40], expected="a number and MB, GB, MiB or GiB", got=text[:40])
    return round(float(match[1]) * _UNITS[match[2]])
