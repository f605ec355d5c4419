"""The whole flights loop by hand in DuckDB + scikit-learn + SQLite, one process, nothing else: the limit that Penstock is held against.

usage: python flights_loop.py DATA_DIR WORK_DIR

The task (every competitor does this, with the same numbers out):
 1 etl       five CSVs -> five typed Parquet tables; curated `departures`: flight + aircraft + the newest weather of its
             origin at or before departure, at most 3 h old.
 2 features  per carrier and per origin, at each scheduled time t, over flights scheduled in [t-6h-W, t-6h] whose arrival
             delay is known (outcome known 6 h after): n, share late (arr_delay > 15), mean arr_delay; W = 1 d and 7 d.
 3 join      training rows (labelled, January-November) and scoring rows (all of December), point in time.
 4 train     HistGradientBoosting(max_iter=100, early_stopping=False, random_state=0).
 5 score     December: AUC on labelled rows, scores to Parquet and to a key-value store by flight_id.
"""

import json
import shutil
import sqlite3
import sys
import time
from pathlib import Path

began = time.perf_counter()
data, work = Path(sys.argv[1]), Path(sys.argv[2])
shutil.rmtree(work, ignore_errors=True)
work.mkdir(parents=True)

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

con = duckdb.connect()
con.execute("SET TimeZone='UTC'")
for t in ("flights", "weather", "planes", "airlines", "airports"):
    con.execute(f"COPY (FROM read_csv('{data}/{t}.csv', nullstr='NA')) TO '{work}/{t}.parquet' (COMPRESSION zstd)")
con.execute(f"""
CREATE TABLE departures AS
WITH f AS (
  SELECT carrier || '-' || flight || '-' || origin || '-' || strftime(time_hour::TIMESTAMP, '%Y%m%d%H') AS flight_id,
         time_hour::TIMESTAMP + to_minutes("minute") AS scheduled_at, "month", "hour", "minute",
         dayofweek(make_date("year", "month", "day")) AS weekday, carrier, origin, dest, tailnum, distance,
         dep_delay, arr_delay, arr_delay > 15 AS late
  FROM '{work}/flights.parquet'),
w AS (
  SELECT origin, time_hour::TIMESTAMP AS at, max("temp") AS "temp", max(humid) AS humid, max(wind_speed) AS wind_speed,
         max(precip) AS precip, max(pressure) AS pressure, max(visib) AS visib
  FROM '{work}/weather.parquet' GROUP BY ALL)
SELECT f.*, p."year" AS plane_year, p.seats,
       {
    ", ".join(
        f"CASE WHEN w.at >= f.scheduled_at - INTERVAL 3 HOUR THEN w.{c} END AS {c}"
        for c in ("temp", "humid", "wind_speed", "precip", "pressure", "visib")
    )
}
FROM f LEFT JOIN '{work}/planes.parquet' p USING (tailnum)
ASOF LEFT JOIN w ON f.origin = w.origin AND f.scheduled_at >= w.at""")
con.execute(f"COPY departures TO '{work}/departures.parquet' (COMPRESSION zstd)")

for entity in ("carrier", "origin"):  # running totals + two look-backs: 4-6 times faster here than RANGE windows
    con.execute(f"""
    CREATE TABLE {entity}_stats AS
    WITH per_time AS MATERIALIZED (
      SELECT {entity} AS e, scheduled_at AS t, count(arr_delay) AS n, count(*) FILTER (late) AS bad,
             coalesce(sum(arr_delay), 0)::BIGINT AS delay
      FROM departures GROUP BY ALL),
    total AS MATERIALIZED (
      SELECT e, t, sum(n) OVER w AS n, sum(bad) OVER w AS bad, sum(delay) OVER w AS delay
      FROM per_time WINDOW w AS (PARTITION BY e ORDER BY t ROWS UNBOUNDED PRECEDING))
    SELECT p.e AS {entity}, p.t AS scheduled_at,
      {
        ", ".join(
            f'''coalesce(k.n, 0) - coalesce(b{s}.n, 0) AS {entity}_n_{s},
                     (k.bad - coalesce(b{s}.bad, 0)) / nullif({entity}_n_{s}, 0) AS {entity}_late_{s},
                     (k.delay - coalesce(b{s}.delay, 0)) / nullif({entity}_n_{s}, 0) AS {entity}_delay_{s}'''
            for s in ("1d", "7d")
        )
    }
    FROM per_time p
    ASOF LEFT JOIN total k ON p.e = k.e AND p.t - INTERVAL 6 HOUR >= k.t
    ASOF LEFT JOIN total b1d ON p.e = b1d.e AND p.t - INTERVAL 30 HOUR > b1d.t
    ASOF LEFT JOIN total b7d ON p.e = b7d.e AND p.t - INTERVAL 174 HOUR > b7d.t""")
    con.execute(f"COPY {entity}_stats TO '{work}/{entity}_stats.parquet' (COMPRESSION zstd)")

carriers = [r[0] for r in con.execute("SELECT DISTINCT carrier FROM departures ORDER BY 1").fetchall()]
origins = [r[0] for r in con.execute("SELECT DISTINCT origin FROM departures ORDER BY 1").fetchall()]
stats = [f"{e}_{m}_{s}" for e in ("carrier", "origin") for s in ("1d", "7d") for m in ("n", "late", "delay")]
plain = [
    "month",
    "hour",
    "minute",
    "weekday",
    "distance",
    "plane_year",
    "seats",
    "temp",
    "humid",
    "wind_speed",
    "precip",
    "pressure",
    "visib",
]


def rows(where):
    return con.sql(f"""
    SELECT d.flight_id, d.scheduled_at, d.late, list_position({carriers}, d.carrier) AS carrier_no,
           list_position({origins}, d.origin) AS origin_no, {", ".join("d." + c for c in plain)}, {", ".join(stats)}
    FROM departures d
    ASOF LEFT JOIN carrier_stats c ON d.carrier = c.carrier AND d.scheduled_at >= c.scheduled_at
    ASOF LEFT JOIN origin_stats o ON d.origin = o.origin AND d.scheduled_at >= o.scheduled_at
    WHERE {where} ORDER BY d.scheduled_at, d.flight_id""").to_arrow_table()


columns = ["carrier_no", "origin_no", *plain, *stats]


def matrix(t):
    return np.column_stack([t[c].cast(pa.float64()).to_numpy(zero_copy_only=False) for c in columns]).astype("f8")


train = rows('d."month" < 12 AND d.late IS NOT NULL')
score = rows('d."month" = 12')
X, y, Xs = matrix(train), train["late"].to_numpy(zero_copy_only=False).astype("i1"), matrix(score)

model = HistGradientBoostingClassifier(max_iter=100, early_stopping=False, random_state=0).fit(X, y)

p = model.predict_proba(Xs)[:, 1]
known = score["late"].is_valid().to_numpy(zero_copy_only=False)
auc = roc_auc_score(np.array(score["late"].to_pylist(), dtype=object)[known].astype(int), p[known])

pq.write_table(score.select(["flight_id", "scheduled_at"]).append_column("score", pa.array(p)), work / "scores.parquet", compression="zstd")
kv = sqlite3.connect(work / "scores.db", isolation_level=None)
kv.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; BEGIN;CREATE TABLE kv (k TEXT PRIMARY KEY, v TEXT) WITHOUT ROWID")
kv.executemany(
    "INSERT OR REPLACE INTO kv VALUES (?, ?)", ((k, json.dumps({"score": v})) for k, v in zip(score["flight_id"].to_pylist(), p.tolist()))
)
kv.execute("COMMIT")

print(json.dumps({"work": time.perf_counter() - began, "auc": round(auc, 4), "train_rows": len(y), "scores": len(p)}))
