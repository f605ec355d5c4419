"""The flights of 2013 as files, fetched once by the example's own program."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from bench.measure import CACHE, ROOT

FOLDER = CACHE / "flights"


def flights_csv() -> Path:
    """Path of flights.csv; the other files stand beside it."""
    if not (FOLDER / "flights.csv").exists():
        example = ROOT / "examples" / "flights"
        subprocess.run([sys.executable, str(example / "get_data.py")], check=True, cwd=example)
        shutil.copytree(example / "data", FOLDER, dirs_exist_ok=True)
    return FOLDER / "flights.csv"
