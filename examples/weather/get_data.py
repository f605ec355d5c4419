"""Fetches the data of this example into `data/`: four years of daily weather in Seattle (NOAA, public domain), as shipped in vega_datasets.

pip brings the wheel from the package index this machine is set up for. Nothing of it is installed or run: the one table is read out of
the archive, after its digest was checked.

Run: python get_data.py [WHEEL]    a wheel that is already here is taken instead of asking pip
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

NAME, VERSION = "vega_datasets", "0.9.0"
SHA256 = "3d7c63917be6ca9b154b565f4779a31fedce57b01b5b9d99d8a34a7608062a1d"
MEMBER = "vega_datasets/_data/seattle-weather.csv"
DATA = Path(__file__).resolve().parent / "data"


def main() -> None:
    target = DATA / "seattle.csv"
    if target.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        wheel = Path(sys.argv[1]) if len(sys.argv) > 1 else download(Path(folder))
        content = wheel.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        raise SystemExit(f"{wheel.name} is not the expected wheel: sha256 {found}, expected {SHA256}")
    DATA.mkdir(exist_ok=True)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        data = archive.read(MEMBER)
    draft = DATA / ".seattle.csv.draft"
    draft.write_bytes(data)
    draft.replace(target)
    print(f"{DATA.name}/{target.name}  {len(data):,} bytes")


def download(folder: Path) -> Path:
    """The wheel, by pip, without its dependencies."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"]
    subprocess.run([*pip, "--only-binary", ":all:", "--dest", folder, f"{NAME}=={VERSION}"], check=True)
    return next(folder.glob(f"{NAME}-{VERSION}*.whl"))


if __name__ == "__main__":
    main()
