"""Logs keep their beginning and their end within a limit, and a follower sees each byte once or is told how many it missed."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.ground.logs import Log, follow, open_log

LIMIT = 1000
#: What a program prints, here without the signs of notes.
PRINTED = st.lists(st.binary(min_size=1, max_size=900).map(lambda b: bytes(65 + c % 26 for c in b)), max_size=30)
NOTE = re.compile(rb"\n\[(\d+) bytes left out\]\n")


def parts(content: bytes) -> tuple[bytes, int, bytes]:
    """The beginning, how much was left out, and the end."""
    head, *rest = NOTE.split(content)
    return (head, int(rest[0]), rest[1]) if rest else (head, 0, b"")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "one.log"


@contextmanager
def opened(path: Path) -> Iterator[Log]:
    handle = open_log(path)
    try:
        yield Log(handle, LIMIT)
    finally:
        os.close(handle)


@given(printed=PRINTED, reopened=st.integers(0, 30))
def test_the_beginning_and_the_end_stay(printed: list[bytes], reopened: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        for pieces in (printed[:reopened], printed[reopened:]):
            with opened(path) as log:
                for piece in pieces:
                    log.write(piece)
                    assert path.stat().st_size <= LIMIT
        head, left, tail = parts(path.read_bytes())
    whole = b"".join(printed)
    assert len(head) + left + len(tail) == len(whole)
    assert whole.startswith(head)
    assert whole.endswith(tail)
    if left:
        assert len(head) == LIMIT // 4
        assert len(tail) >= LIMIT // 4


@given(printed=PRINTED, looks=st.lists(st.integers(0, 3), min_size=30, max_size=30))
def test_a_follower_sees_every_byte_or_is_told(printed: list[bytes], looks: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        with opened(path) as log:
            coming = iter(printed)

            def over() -> bool:
                """The writer goes on by some pieces while the follower waits."""
                for _ in range(looks.pop() if looks else 1):
                    if (piece := next(coming, None)) is None:
                        return True
                    log.write(piece)
                return False

            seen = b"".join(text.encode() for text in follow(path, over, limit_bytes=LIMIT))
    whole, at = b"".join(printed), 0
    for n, part in enumerate(NOTE.split(seen)):
        if n % 2:
            at += int(part)
        else:
            assert whole[at : at + len(part)] == part
            at += len(part)
    assert at == len(whole)


def test_a_follower_waits_for_a_log_that_is_not_there_yet(path: Path) -> None:
    waits = []

    def over() -> bool:
        waits.append(1)
        if len(waits) == 3:
            path.parent.mkdir()
            path.write_bytes(b"\xc3")
        if len(waits) == 5:
            path.write_bytes(b"\xc3\x84\xff end \xe2\x82")
        return len(waits) > 5

    assert "".join(follow(path, over)) == "Ä\\xff end \\xe2\\x82"


def test_a_log_that_never_comes_is_empty(path: Path) -> None:
    assert list(follow(path, lambda: True)) == []


def test_what_a_full_disk_did_not_take_is_told_when_there_is_room(path: Path) -> None:
    full = os.open("/dev/full", os.O_RDWR)
    with opened(path) as log:
        log.write(b"before\n")
        handle, log._handle = log._handle, full
        log.write(b"lost")
        log.write(b"lost too")
        log._handle = handle
        log.write(b"after\n")
        log.write(b"and on\n")
    os.close(full)
    told = path.read_bytes()
    assert told == b"before\n\n[12 bytes could not be written]\nafter\nand on\n"
