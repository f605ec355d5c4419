"""Identifiers as an input. Randomness is read in this file only."""

from __future__ import annotations

import hashlib
import os
from typing import Protocol

from penstock.ground.clock import Clock

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


class Ids(Protocol):
    """Where identifiers come from: 20 lower-case characters, sortable by time of making."""

    def new(self) -> str: ...


class SystemIds:
    """Milliseconds of the clock and 50 random bits."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def new(self) -> str:
        ms = int(self._clock.now().timestamp() * 1000)
        return base32(ms, 10) + base32(int.from_bytes(os.urandom(7), "big") & ((1 << 50) - 1), 10)


def base32(number: int, width: int) -> str:
    """Crockford's base 32 without the letters i, l, o, u; left-padded, so that texts sort as numbers do."""
    digits = []
    for _ in range(width):
        number, rest = divmod(number, 32)
        digits.append(_ALPHABET[rest])
    return "".join(reversed(digits))


class Chance:
    """Random numbers that a seed decides, the same in every process and version of Python."""

    def __init__(self, seed: int) -> None:
        self._seed, self._drawn = seed, 0

    def share(self) -> float:
        """The next number, evenly from 0 up to 1."""
        self._drawn += 1
        text = f"{self._seed}:{self._drawn}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "big") / (1 << 56)

    def below(self, end: int) -> int:
        """The next whole number from 0 up to `end` - 1."""
        return int(self.share() * end)
