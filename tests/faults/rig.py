"""The kill rig: a project whose run is killed at a named point or at a random moment, healed by the next run, and compared.

The comparison reads the tables with a second engine (pyiceberg's own Arrow reader), not with the one that wrote them. A kill
counts only if it was effective: the process died by it while it had work left.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PIPELINE = """
import penstock as ps

raw = ps.files(
    "data/*.csv", columns={"id": "long", "customer": "string", "amount": "long", "ts": "timestamp"}, checks=[ps.between("amount", 0, 1000)]
)

@ps.table(key="id", checks=[ps.not_null("customer"), ps.satisfies("amount < 900").warns()])
def orders(raw):
    return ps.sql("SELECT id, customer, amount, ts FROM raw WHERE amount <> 13")

@ps.table(write=ps.append(), checks=[ps.between("amount", 0, 800)])
def log(raw):
    return ps.sql("SELECT id, amount, ts FROM raw")

@ps.table(key="customer", time="ts", write=ps.merge(of="raw"))
def newest(raw):
    return ps.sql("SELECT customer, amount, ts FROM raw WHERE customer IS NOT NULL")

@ps.table(time="day", write=ps.slices("day", of="raw", on="ts"))
def daily(raw):
    return ps.sql("SELECT date_trunc('day', ts) AS day, count(*) AS n, sum(amount) AS total FROM raw GROUP BY 1")

activity = ps.features(orders, entity="customer", time="ts", windows=["7d"], n=ps.count(), total=ps.sum("amount"))
"""
#: Tables and the columns compared; run ids and moments differ between runs and are left out.
TABLES = {
    "raw": ("id", "customer", "amount", "ts", "_file"),
    "raw__rejected": ("stage", "check", "original", "file", "position"),
    "orders": ("id", "customer", "amount", "ts"),
    "orders__rejected": ("stage", "check", "original"),
    "log": ("id", "amount", "ts"),
    "log__rejected": ("stage", "check", "original"),
    "newest": ("customer", "amount", "ts"),
    "daily": ("day", "n", "total"),
    "activity": ("customer", "ts", "n_7d", "total_7d"),
}
RUN = (
    "import sys; from penstock.ground.failpoints import arm_from_environment as arm; arm()\n"
    "from penstock.project.project import Project\n"
    "with Project.open(sys.argv[1]) as project:\n"
    "    report = project.run()\n"
    "    print([(r.asset, r.status, r.error) for r in report.results if r.error])\n"
    "    sys.exit(0 if report.ok else 1)\n"
)


@dataclass(frozen=True)
class Lines:
    """How many input lines a project was given, good and bad."""

    given: int


def make(folder: Path, *, phase: int, seed: int = 1) -> Lines:
    """Writes the project, with the input files of the first phase, or of both."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "pipeline.py").write_text(PIPELINE)
    chance = random.Random(seed)
    given = 0
    for name in ("a", "b", "c")[: 1 + phase * 2]:
        lines = []
        for i in range(400):
            number = ord(name) * 1000 + i
            customer = chance.choice(["ada", "bob", "eve", "", "dan"])
            amount: object = chance.choice([13, 5, 50, 700, 850, 1200, -4, "many"])
            lines.append(
                f"{number},{customer},{amount},2026-0{chance.randint(1, 3)}-{chance.randint(1, 28):02d}T{chance.randint(0, 23):02d}:00:00"
            )
        lines[7] = "broken line"
        (folder / "data" / f"{name}.csv").write_text("id,customer,amount,ts\n" + "\n".join(lines) + "\n")
        given += len(lines)
    return Lines(given)


def start(folder: Path, failpoints: str = "") -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PENSTOCK_FAILPOINTS": failpoints}
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def finish(folder: Path) -> str:
    """Runs undisturbed and requires success."""
    process = start(folder)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out.decode()
    return out.decode()


def killed_at(folder: Path, point: str, at: int = 1) -> bool:
    """Runs until a failpoint kills the process; False if the point was not reached (the run then ended well)."""
    process = start(folder, f"{point}=kill@{at}")
    out, _ = process.communicate(timeout=300)
    if process.returncode == -signal.SIGKILL:
        return True
    assert process.returncode == 0, out.decode()
    return False


def killed_after(folder: Path, seconds: float) -> bool:
    """Runs and kills the process after a while; False if it had ended before."""
    process = start(folder)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    return process.returncode == -signal.SIGKILL


def contents(folder: Path) -> dict[str, Counter[tuple[Any, ...]]]:
    """All rows of all tables as multisets, read by pyiceberg."""
    from pyiceberg.catalog.sql import SqlCatalog

    catalog = SqlCatalog("penstock", uri=f"sqlite:///{folder}/.penstock/state.db", warehouse=f"file://{folder}/.penstock/lake")
    found = {}
    try:
        for name, columns in TABLES.items():
            identifier = next((i for space in catalog.list_namespaces() for i in catalog.list_tables(space) if i[-1] == name), None)
            if identifier is None:
                found[name] = Counter()
                continue
            table = catalog.load_table(identifier).scan(selected_fields=columns).to_arrow()
            found[name] = Counter(zip(*(table[c].to_pylist() for c in columns), strict=True))
    finally:
        catalog.close()
    return found
