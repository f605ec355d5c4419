"""The flights loop by the usual stack, glued by hand: PySpark local[2] + Feast + MLflow (SQLite) + scikit-learn + Redis.

usage: python flights_seeds.py DATA_DIR WORK_DIR

The task and its numbers are those of bench/bare/flights_loop.py; read that first. Settings in the peers' favour: 4 shuffle partitions,
no Spark web page, an 8 GB heap, telemetry off, the weather as-of written as an equi-join, scores by the registered model in one process
(`spark_udf` takes longer), pipelined Redis writes with hiredis and no persistence. A feature row exists at every scheduled time, so a
Feast TTL of 1 h gives the same rows and keeps its join small. Redis is started here, on loopback, and ended.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import warnings
from datetime import timedelta
from pathlib import Path

os.environ.update(
    MLFLOW_DISABLE_TELEMETRY="true",
    FEAST_USAGE="False",
    PYSPARK_PYTHON=sys.executable,
    GIT_PYTHON_REFRESH="quiet",
    SPARK_LOCAL_IP="127.0.0.1",
)
warnings.filterwarnings("ignore")
HOURLY = ("temp", "humid", "wind_speed", "precip", "pressure", "visib")
PLAIN = ["month", "hour", "minute", "weekday", "distance", "plane_year", "seats", *HOURLY]
SPANS = {"1d": 30 * 3600, "7d": 174 * 3600}
ENTITIES = ("carrier", "origin")
STATS = [f"{e}_{m}_{k}" for e in ENTITIES for k in SPANS for m in ("n", "late", "delay")]
COLUMNS = ["carrier_no", "origin_no", *PLAIN, *STATS]


def start_spark():
    from pyspark.sql import SparkSession

    spark = (
        SparkSession.builder.master("local[2]")
        .appName("flights")
        .config("spark.driver.memory", "8g")
        .config("spark.sql.shuffle.partitions", "4")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
        .config("spark.sql.parquet.compression.codec", "zstd")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def etl(spark, data, work):
    """Five CSV files to Parquet, then `departures`: flight, aircraft and the newest weather of at most 3 h before."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    for t in ("flights", "weather", "planes", "airlines", "airports"):
        spark.read.csv(f"{data}/{t}.csv", header=True, inferSchema=True, nullValue="NA").write.parquet(f"{work}/{t}.parquet")
    flights, weather, planes = (spark.read.parquet(f"{work}/{t}.parquet") for t in ("flights", "weather", "planes"))
    w = weather.groupBy("origin", F.col("time_hour").alias("at")).agg(*[F.max(c).alias(c) for c in HOURLY])
    w = w.withColumn("hour_at", F.explode(F.expr("sequence(at, at + interval 3 hours, interval 1 hour)")))
    w = (
        w.withColumn("rank", F.row_number().over(Window.partitionBy("origin", "hour_at").orderBy(F.desc("at"))))
        .where("rank = 1")
        .drop("rank")
    )
    f = flights.select(
        F.concat_ws("-", "carrier", "flight", "origin", F.date_format("time_hour", "yyyyMMddHH")).alias("flight_id"),
        F.expr("time_hour + make_dt_interval(0, 0, minute)").alias("scheduled_at"),
        *("month", "hour", "minute", (F.dayofweek(F.make_date("year", "month", "day")) - 1).alias("weekday"), "carrier", "origin", "dest"),
        *("tailnum", "distance", "dep_delay", "arr_delay", (F.col("arr_delay") > 15).alias("late"), F.col("time_hour").alias("hour_at")),
    )
    p = planes.select("tailnum", F.col("year").alias("plane_year"), "seats")
    fresh = F.col("at") >= F.expr("scheduled_at - interval 3 hours")
    d = f.join(F.broadcast(p), "tailnum", "left").join(w, ["origin", "hour_at"], "left")
    kept = [c for c in f.columns if c != "hour_at"]
    d.select(*kept, "plane_year", "seats", *[F.when(fresh, F.col(c)).alias(c) for c in HOURLY]).write.parquet(f"{work}/departures.parquet")


def features(spark, work):
    """Per carrier and per origin, at each scheduled time: flights, share late and mean delay over two windows that end 6 h before."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    departures = spark.read.parquet(f"{work}/departures.parquet")
    for e in ENTITIES:
        g = departures.groupBy(e, "scheduled_at").agg(
            F.count("arr_delay").alias("n"), F.sum(F.col("late").cast("int")).alias("bad"), F.sum("arr_delay").alias("delay")
        )
        g = g.withColumn("s", F.unix_timestamp("scheduled_at"))
        for k, ago in SPANS.items():
            over = Window.partitionBy(e).orderBy("s").rangeBetween(-ago, -6 * 3600)
            g = g.withColumn(f"{e}_n_{k}", F.coalesce(F.sum("n").over(over), F.lit(0)))
            g = g.withColumn(f"{e}_late_{k}", F.try_divide(F.sum("bad").over(over), F.col(f"{e}_n_{k}")))
            g = g.withColumn(f"{e}_delay_{k}", F.try_divide(F.sum("delay").over(over), F.col(f"{e}_n_{k}")))
        g = g.drop("n", "bad", "delay", "s").withColumnRenamed("scheduled_at", "event_timestamp")
        g.coalesce(1).write.parquet(f"{work}/{e}_stats.parquet")


def feature_store(work, port):
    """A Feast repository with one view for each entity."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
    from feast.types import Float64, Int64

    (work / "repo").mkdir()
    (work / "repo" / "feature_store.yaml").write_text(
        f"project: flights\nregistry: {work}/repo/registry.db\nprovider: local\noffline_store:\n  type: duckdb\n"
        f"online_store:\n  type: redis\n  connection_string: 127.0.0.1:{port}\nentity_key_serialization_version: 3\n"
    )
    store, objects = FeatureStore(repo_path=str(work / "repo")), []
    for e in ENTITIES:
        entity = Entity(name=e, join_keys=[e], value_type=ValueType.STRING)
        source = FileSource(path=str(next((work / f"{e}_stats.parquet").glob("part-*.parquet"))), timestamp_field="event_timestamp")
        schema = [Field(name=c, dtype=Int64 if "_n_" in c else Float64) for c in STATS if c.startswith(e)]
        objects += [
            entity,
            FeatureView(name=f"{e}_stats", entities=[entity], ttl=timedelta(hours=1), online=True, schema=schema, source=source),
        ]
    store.apply(objects)
    return store


def join(store, work):
    """Training rows (labelled, January to November) and scoring rows (December), point in time."""
    import pandas as pd

    base = pd.read_parquet(work / "departures.parquet", columns=["flight_id", "scheduled_at", "late", *ENTITIES, *PLAIN])
    base = base.rename(columns={"scheduled_at": "event_timestamp"})
    base["event_timestamp"] = pd.to_datetime(base["event_timestamp"], utc=True)
    for e in ENTITIES:
        base[f"{e}_no"] = base[e].map({v: i + 1 for i, v in enumerate(sorted(base[e].unique()))})

    def rows(part):
        wanted = [f"{c.split('_')[0]}_stats:{c}" for c in STATS]
        got = store.get_historical_features(entity_df=part, features=wanted).to_df()
        return got.sort_values(["event_timestamp", "flight_id"], ignore_index=True)

    return rows(base[(base["month"] < 12) & base["late"].notna()]), rows(base[base["month"] == 12])


def train(train_rows, score_rows, work):
    """A model fitted, measured on December, registered and given an alias. Returns its AUC."""
    import mlflow
    from mlflow.models import infer_signature
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    mlflow.set_tracking_uri(f"sqlite:///{work}/mlflow.db")
    mlflow.create_experiment("flights", artifact_location=str(work / "artifacts"))
    mlflow.set_experiment("flights")
    known = score_rows["late"].notna()
    xs = score_rows.loc[known, COLUMNS].astype("float64")
    with mlflow.start_run():
        params = {"max_iter": 100, "early_stopping": False, "random_state": 0}
        model = HistGradientBoostingClassifier(**params).fit(train_rows[COLUMNS].astype("float64"), train_rows["late"].astype(int))
        mlflow.log_params(params)
        auc = roc_auc_score(score_rows.loc[known, "late"].astype(int), model.predict_proba(xs)[:, 1])
        mlflow.log_metric("roc_auc", auc)
        mlflow.sklearn.log_model(
            model, name="model", signature=infer_signature(xs.head(), model.predict_proba(xs.head())), registered_model_name="late",
            serialization_format="cloudpickle", pyfunc_predict_fn="predict_proba", pip_requirements=["scikit-learn"],
        )  # fmt: skip
    mlflow.MlflowClient().set_registered_model_alias("late", "champion", 1)
    return auc


def score(score_rows, work, port):
    """December through the registered model, into Parquet and Redis. Returns how many scores Redis holds."""
    import mlflow
    import redis

    scores = score_rows[["flight_id", "event_timestamp"]].copy()
    scores["score"] = mlflow.pyfunc.load_model("models:/late@champion").predict(score_rows[COLUMNS].astype("float64"))[:, 1]
    scores.to_parquet(work / "scores.parquet", compression="zstd")
    kv = redis.Redis(host="127.0.0.1", port=port)
    for i in range(0, len(scores), 10_000):
        pipe = kv.pipeline(transaction=False)
        for k, v in scores[["flight_id", "score"]].iloc[i : i + 10_000].itertuples(index=False):
            pipe.set(f"score:{k}", json.dumps({"score": v}))
        pipe.execute()
    return kv.dbsize()


def loop(data, work, port, began):
    steps, last = {}, began

    def done(name):
        nonlocal last
        steps[name], last = round(time.perf_counter() - last, 3), time.perf_counter()

    spark = start_spark()
    done("start_spark")
    etl(spark, data, work)
    done("etl")
    features(spark, work)
    done("features")
    store = feature_store(work, port)
    done("start_feast")
    training, scoring = join(store, work)
    done("join")
    auc = train(training, scoring, work)
    done("train")
    scores = score(scoring, work, port)
    done("score")
    work_s = time.perf_counter() - began
    return {"work": work_s, "auc": round(auc, 4), "train_rows": len(training), "scores": scores, "steps": steps}


def main():
    began = time.perf_counter()
    data, work = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=work)
    try:
        said = loop(data, work, port, began)
    finally:
        server.terminate()
        server.wait()
    print(json.dumps(said))


if __name__ == "__main__":
    main()
