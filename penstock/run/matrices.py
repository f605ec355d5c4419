"""Matrices that two processes share: files both map into memory, so that a training set is written once and copied never."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.ground.paths import private_folder
from penstock.run.claims import is_dead, me

#: A file system in memory, where there is one: no byte of a training set goes to a disk.
_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Exchange:
    """A folder of arrays, one file each, in numpy's own format."""

    folder: Path

    def make(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        """A new array that the other process can open under its name."""
        import numpy as np

        if 0 in shape:  # an empty file cannot be mapped
            array = np.empty(shape, dtype=dtype)
            np.save(self.folder / f"{name}.npy", array)
            return array
        return np.asarray(np.lib.format.open_memmap(self.folder / f"{name}.npy", mode="w+", dtype=np.dtype(dtype), shape=shape))

    def put(self, name: str, array: Any) -> None:
        """Stores an array, or nothing for None."""
        import numpy as np

        if array is not None:
            np.save(self.folder / f"{name}.npy", array)

    def get(self, name: str) -> Any:
        """An array by name, None if there is none. Writing to it changes no other process's copy."""
        import numpy as np

        path = self.folder / f"{name}.npy"
        if not path.exists():
            return None
        try:
            return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
        except ValueError:  # empty arrays cannot be mapped
            return np.load(path, allow_pickle=False)


@contextmanager
def exchange(folder: Path, name: str, size_bytes: int) -> Iterator[Exchange]:
    """A place for the length of the block: in memory if that has twice the room, else beside the project's data.

    Places that died processes left are removed.
    """
    shared = private_folder(folder / "tmp")
    _swept(shared)
    place = private_folder(shared / f"{me().replace('/', ',')}-{name}")
    held = place
    if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 2 * size_bytes:
        held = _MEMORY / f"penstock-{os.getuid()}-{place.name}"
        held.mkdir(mode=0o700)  # never one that is there already: others may write in this folder
        (place / "held").symlink_to(held)
    try:
        yield Exchange(held)
    finally:
        _removed(place)


def _swept(shared: Path) -> None:
    for place in shared.iterdir():
        owner = place.name.rpartition("-")[0].replace(",", "/")
        if owner.count("/") == 2 and is_dead(owner):
            _removed(place)


def _removed(place: Path) -> None:
    link = place / "held"
    if link.is_symlink():
        target = link.readlink()
        if target.parent == _MEMORY and target.name.startswith("penstock-"):
            shutil.rmtree(target, ignore_errors=True)
    shutil.rmtree(place, ignore_errors=True)
