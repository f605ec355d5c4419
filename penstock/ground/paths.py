"""Folders and files of our own: confined to a root, private, replaced atomically."""

from __future__ import annotations

import os
from pathlib import Path

from penstock.ground.errors import NameRefused


def private_folder(path: Path) -> Path:
    """The folder, made with mode 0700 if it was missing (its parents too)."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def inside(root: Path, relative: str) -> Path:
    """`root/relative`, refused when it would leave the root, also through links.

    Raises: NameRefused(E1002).
    """
    whole = (root / relative).resolve()
    if not whole.is_relative_to(root.resolve()):
        raise NameRefused("a path leaves its folder", place=relative[:80], expected=f"a path inside {root}", got=str(whole))
    return whole


def write_atomically(path: Path, data: bytes) -> None:
    """Readers see the old bytes or the new ones. On return the new ones are synced to disk.

    Raises: OSError.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    with open(draft, "wb", opener=lambda p, flags: os.open(p, flags, 0o600)) as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    os.replace(draft, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames and new files of a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
