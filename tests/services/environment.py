"""Environments of programs that do not go with ours: made once from the pins beside this file, in PENSTOCK_TEST_CACHE or ~/.cache/penstock-services."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path


def environment(name: str) -> Path:
    """The `bin` folder of an environment with `name`.txt installed; new pins or another Python make a new one."""
    pins = Path(__file__).with_name(f"{name}.txt")
    tag = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()[:8]
    root = Path(os.environ.get("PENSTOCK_TEST_CACHE") or Path.home() / ".cache/penstock-services")
    home = root / f"{name}-{tag}"
    if not (home / ".made").exists():
        shutil.rmtree(home, ignore_errors=True)
        for command in (
            [sys.executable, "-m", "venv", str(home)],
            [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-input", "-r", str(pins)],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise AssertionError(f"{name} cannot be installed: {done.stderr.strip()[-2000:]}")
        (home / ".made").touch()
    return home / "bin"
