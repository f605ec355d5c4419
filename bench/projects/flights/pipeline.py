"""The flights loop as it is measured: the same features and model as the hand-written script beside it. The example has more."""

import penstock as ps

flights = ps.files("data/flights.csv")
planes = ps.files("data/planes.csv")
weather = ps.files("data/weather.csv")


@ps.table(key=["origin", "observed_at"], time="observed_at")
def hourly_weather(weather):
    """One observation per airport and hour."""
    return ps.sql("""
        SELECT origin, time_hour AS observed_at, max(temp) AS temp, max(humid) AS humid, max(wind_speed) AS wind_speed,
               max(precip) AS precip, max(pressure) AS pressure, max(visib) AS visib
        FROM weather GROUP BY ALL""")


@ps.table(
    key="flight_id",
    time="scheduled_at",
    checks=[ps.not_null("origin", "dest"), ps.between("dep_delay", -120, 1200), ps.between("distance", 50, 6000), ps.rows(300_000)],
)
def departures(flights, planes, hourly_weather):
    """Each scheduled departure with its aircraft and the newest weather known at that time, at most three hours old."""
    return ps.sql("""
        SELECT f.carrier || '-' || f.flight || '-' || f.origin || '-' || strftime(f.time_hour, '%Y%m%d%H') AS flight_id,
               f.time_hour + to_minutes(f."minute") AS scheduled_at, f."month", f."hour", f."minute",
               dayofweek(make_date(f."year", f."month", f."day")) AS weekday, f.carrier, f.origin, f.dest, f.distance,
               f.dep_delay, f.arr_delay, f.arr_delay > 15 AS late, p."year" AS plane_year, p.seats
        FROM flights f LEFT JOIN planes p USING (tailnum)
    """).asof(hourly_weather, by="origin", on="scheduled_at", right_on="observed_at", within="3h")


def punctuality(entity):
    """How late an airline or airport has been, from outcomes known six hours after departure."""
    return ps.features(
        departures,
        entity=entity,
        time="scheduled_at",
        known=ps.after("6h"),
        windows=["1d", "7d"],
        n=ps.count("arr_delay"),
        late=ps.mean("late"),
        delay=ps.mean("arr_delay"),
    )


carrier_punctuality = punctuality("carrier")
origin_punctuality = punctuality("origin")
KNOWN_BEFORE = """carrier origin month hour minute weekday distance plane_year seats
                  temp humid wind_speed precip pressure visib""".split()


@ps.model(
    over=departures,
    label="late",
    split=ps.by_time(test="2013-12-01"),
    slices=["carrier", "origin"],
    features=[carrier_punctuality, origin_punctuality, *KNOWN_BEFORE],
    gates=[ps.metric("roc_auc") >= 0.65, ps.metric("roc_auc", slice="origin") >= 0.60],
)
def late_departure(train: ps.TrainingSet):
    """The chance to arrive more than 15 minutes late, from what is known before departure."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(max_iter=100, early_stopping=False, random_state=train.seed).fit(train.X, train.y)


late_risk = ps.predictions(late_departure, over=departures, where="month = 12")
