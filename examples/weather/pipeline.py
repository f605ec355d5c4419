"""How warm will it be tomorrow? A regression and a model of several classes on four years of daily weather in Seattle."""

import penstock as ps

seattle = ps.files("data/seattle.csv")


@ps.table(key="place_day", time="observed_at", checks=[ps.between("temp_max", -30, 50), ps.not_null("weather"), ps.rows(1400)])
def days(seattle):
    """Each day with what the next one brought; the label of the newest day is not known yet."""
    return ps.sql("""
        SELECT 'seattle-' || replace("date", '/', '-') AS place_day, 'seattle' AS place,
               strptime("date", '%Y/%m/%d') AS observed_at, dayofyear(strptime("date", '%Y/%m/%d')) AS day_of_year,
               precipitation, temp_max, temp_min, wind, weather,
               lead(temp_max) OVER (ORDER BY "date") AS next_max, lead(weather) OVER (ORDER BY "date") AS next_weather
        FROM seattle
    """)


lately = ps.features(
    days,
    entity="place",
    time="observed_at",
    windows=["3d", "30d"],
    warm=ps.mean("temp_max"),
    cold=ps.min("temp_min"),
    rain=ps.sum("precipitation"),
    windy=ps.max("wind"),
)
season = ps.on_demand(warming="cos(2 * pi() * (day_of_year - 200) / 365.25)")
KNOWN = [lately, season, "temp_max", "temp_min", "precipitation", "wind", "weather", "day_of_year"]


@ps.model(
    over=days,
    label="next_max",
    kind="regression",
    features=KNOWN,
    split=ps.by_time(test="365d"),
    folds=3,
    slices=["weather"],
    gates=[
        ps.metric("mae") <= 3.0,
        ps.metric("r2") >= 0.7,
        ps.metric("bias") <= 0.5,
        ps.metric("mae").not_below("production", by=0.1),
        ps.no_leakage(),
    ],
)
def warmest(train: ps.TrainingSet, *, trees=100, depth=4):
    """Tomorrow's highest temperature in degrees Celsius."""
    from sklearn.ensemble import ExtraTreesRegressor
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline

    learner = ExtraTreesRegressor(trees, max_depth=depth, min_samples_leaf=5, random_state=train.seed, n_jobs=1)
    return make_pipeline(SimpleImputer(), learner).fit(train.X, train.y)


@ps.model(
    over=days,
    label="next_weather",
    kind="multiclass",
    features=KNOWN,
    split=ps.by_time(test="365d"),
    gates=[ps.metric("accuracy") >= 0.5, ps.metric("log_loss") <= 1.3],
)
def outlook(train: ps.TrainingSet):
    """Tomorrow's weather: sun, rain, fog, drizzle or snow."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline

    learner = RandomForestClassifier(100, min_samples_leaf=8, random_state=train.seed, n_jobs=1)
    return make_pipeline(SimpleImputer(), learner).fit(train.X, train.y)


tomorrow = ps.predictions(warmest, over=days)
forecast = ps.predictions(outlook, over=days)
