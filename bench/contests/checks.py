"""Ten row checks over 5 M rows of Parquet, against one bare DuckDB aggregate that counts the same."""

from __future__ import annotations

from typing import Any

from bench.measure import CACHE, Measured, child, compare

MAKE = """
import duckdb, json, sys
con = duckdb.connect()
con.execute(f'''COPY (SELECT i AS id, i % 1000 AS user_id, (i * 7919) % 100003 / 100.0 AS amount, CASE WHEN i % 50 = 0 THEN NULL ELSE 'c' || (i % 40) END AS country,
  'user' || i || '@example.org' AS email, TIMESTAMP '2020-01-01' + to_seconds(i) AS ts, random() AS score, i % 2 = 0 AS flag, 'x' || (i % 9) AS kind, i % 17 AS n
  FROM range({sys.argv[2]}) r(i)) TO '{sys.argv[1]}' (FORMAT parquet, COMPRESSION zstd, FIELD_IDS {{id: 1, user_id: 2, amount: 3, country: 4, email: 5, ts: 6, score: 7, flag: 8, kind: 9, n: 10}})''')
print(json.dumps({"work": 0}))
"""
BARE = """
import duckdb, json, sys, time
con = duckdb.connect()
con.execute("SET TimeZone='UTC'")
began = time.perf_counter()
row = con.sql(f'''SELECT count(*), count(*) FILTER (WHERE id IS NULL), count(*) FILTER (WHERE user_id IS NULL), count(*) FILTER (WHERE NOT amount BETWEEN 0 AND 2000),
  count(*) FILTER (WHERE NOT regexp_full_match(country, 'c[0-9]+')), count(*) FILTER (WHERE NOT regexp_full_match(email, '[a-z0-9]+@example[.]org')),
  count(*) FILTER (WHERE NOT ts BETWEEN TIMESTAMP '2019-01-01' AND TIMESTAMP '2030-01-01'), count(*) FILTER (WHERE isnan(score) OR isinf(score)),
  count(*) FILTER (WHERE kind NOT IN ('x0','x1','x2','x3','x4','x5','x6','x7','x8')), count(*) FILTER (WHERE NOT (n < 17 OR flag)), count(*) - count(DISTINCT id)
  FROM '{sys.argv[1]}' ''').fetchall()
print(json.dumps({"work": time.perf_counter() - began, "row": row[0][:3]}))
"""
OURS = """
import json, sys, time
from datetime import datetime, timezone
from pathlib import Path
from penstock.adapters.engine.duckdb import DuckEngine
from penstock.craft.quality.checks import audit_query, verdict
from penstock.ground.clock import SystemClock
from penstock.ground.ids import SystemIds
from penstock.ports.adapters import Context
from penstock.ports.lake import DataFile
from penstock.spec.schema import Field, Schema
from penstock.spec.checks import between, finite, matches, not_null, one_of, satisfies, unique
import tempfile, os
clock = SystemClock()
engine = DuckEngine.open("duckdb://", Context(Path(tempfile.mkdtemp()), clock, SystemIds(clock), str))
session = engine.session()
found = session.define("_source", f"SELECT * FROM '{sys.argv[1]}'")
schema = Schema(tuple(Field(f.name, f.type, i) for i, f in enumerate(found, 1)))
checks = [not_null("id", "user_id"), between("amount", 0, 2000), matches("country", "c[0-9]+"), matches("email", "[a-z0-9]+@example[.]org"),
          between("ts", "2019-01-01", "2030-01-01"), finite("score"), one_of("kind", *[f"x{i}" for i in range(9)]), satisfies("n < 17 OR flag"),
          satisfies("user_id >= 0"), unique("id").blocks()]
began = time.perf_counter()
session.files("_written", [DataFile(sys.argv[1], int(sys.argv[2]), os.path.getsize(sys.argv[1]), schema_id=0)], schema)
audit = verdict(session.rows(audit_query("_written", checks, schema, now=clock.now()))[0], checks, schema, now=clock.now())
took = time.perf_counter() - began
assert audit.rows == int(sys.argv[2]) and all(r.passed for r in audit.results), audit
print(json.dumps({"work": took, "checks": len(audit.results)}))
"""


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    rows = 500_000 if quick else 5_000_000
    path = CACHE / f"checked_{rows}.parquet"
    if not path.exists():
        child(MAKE, path, rows)

    def ours() -> Measured:
        return child(OURS, path, rows)

    def bare() -> Measured:
        return child(BARE, path)

    return [compare("checks", ours, bare, runs=1 if quick else 5, goal=1.2, rows=rows)]
