"""Virtual environments of the peers, made once under the bench cache from the pins beside this file."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.measure import CACHE

VERSIONS = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"


def environment(name: str) -> Path:
    """The interpreter of an environment with `name`.txt installed; new pins or another Python make a new one."""
    pins = Path(__file__).with_name(f"{name}.txt")
    tag = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()[:8]
    home = CACHE / "peers" / f"{name}-{tag}"
    python = home / "bin" / "python"
    if not (home / ".made").exists():
        shutil.rmtree(home, ignore_errors=True)
        print(f"making {home} (once)", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--no-input", "-r", str(pins)], check=True)
        (home / ".made").touch()
    return python


def versions(python: Path, names: Sequence[str]) -> dict[str, str]:
    """What is installed in an environment, and its Java."""
    found = subprocess.run([str(python), "-c", VERSIONS, *names], check=True, capture_output=True, text=True).stdout
    return {**json.loads(found), "java": _java()}


def need(*programs: str) -> None:
    """Raises SystemExit naming what this machine lacks, before anything is installed or run."""
    missing = [p for p in programs if shutil.which(p) is None]
    if missing:
        raise SystemExit(
            f"This peer needs {' and '.join(missing)} on PATH. On Debian and Ubuntu: apt-get install openjdk-17-jre-headless redis-server"
        )
    if "java" in programs and _java().split(".")[0] not in ("17", "21"):
        raise SystemExit(
            f"Spark 4.1 needs Java 17 or 21, and `java` is {_java()}. Put another one first on PATH, and into JAVA_HOME if that is set."
        )


def _java() -> str:
    told = subprocess.run(["java", "-version"], check=True, capture_output=True, text=True).stderr
    found = re.search(r'"([^"]+)"', told)
    return found.group(1) if found else told.strip()
