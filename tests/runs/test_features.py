"""Features in whole projects: made by a function, joined as they were known, computed again only where something changed."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any

import pytest

from penstock.ground.errors import DefinitionError, PenstockError

HEAD = """
from penstock.spec.features import distinct, expression, last, on_demand, quantile

events = ps.files("data/*.csv", columns={"id": "long", "user": "string", "ts": "timestamp", "told": "timestamp", "size": "double", "good": "boolean"})

@ps.table(key="id", time="ts", write=ps.append())
def rows(events):
    return ps.sql('SELECT id, "user", ts, told, size, good FROM events')
"""
WINDOWED = """
history = ps.features(rows, entity="user", time="ts", known=ps.after("1h"), windows=[WINDOWS], AGGREGATES)
"""
MODEL = """
@ps.model(over=rows, label="good", features=[FEATURES], split=ps.by_time(test="3d"))
def chance(train):
    from sklearn.linear_model import LogisticRegression
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline

    return make_pipeline(SimpleImputer(), LogisticRegression()).fit(train.X, train.y)

scores = ps.predictions(chance, over=rows)
"""
START = datetime.fromisoformat("2026-01-01")


def write(shop: Any, name: str, first: int, count: int, *, late: int = 0) -> None:
    chance = random.Random(first)
    lines = ["id,user,ts,told,size,good"]
    for i in range(first, first + count):
        at = START + timedelta(minutes=36 * (i - late))
        size = chance.random()
        told = at + timedelta(hours=chance.choice([0, 1, 30]))
        lines.append(f"{i},u{i % 4},{at},{told},{size:.4f},{str(chance.random() < size).lower()}")
    shop.write(f"data/{name}.csv", "\n".join(lines) + "\n")


def windowed(windows: str, **aggregates: str) -> str:
    told = ", ".join(f"{name}={text}" for name, text in aggregates.items())
    return WINDOWED.replace("WINDOWS", windows).replace("AGGREGATES", told)


def result(report: Any, asset: str) -> Any:
    return next(r for r in report.results if r.asset == asset)


def notes(shop: Any, asset: str) -> list[str]:
    return [e.text for e in shop.events if e.kind == "note" and e.asset == asset]


# -- columns --------------------------------------------------------------------------------------------------------
def test_a_new_column_is_computed_alone(shop: Any) -> None:
    write(shop, "a", 0, 300)
    shop.pipeline(HEAD + windowed("'1d'", n="ps.count()", share="ps.mean('good')"))
    shop.made()
    shop.pipeline(HEAD + windowed("'1d', '7d'", n="ps.count()", sizes="distinct('size')"))
    assert [r.text for r in shop.plan()["history"].reasons] == ["columns: new sizes_1d, n_7d, sizes_7d; gone share_1d"]
    assert shop.plan()["history"].mode == "part"
    assert shop.made()["history"] == "made"
    assert notes(shop, "history") == ["computed sizes_1d, n_7d, sizes_7d; 1 columns are kept as they are"]
    parts = shop.rows('SELECT * FROM history ORDER BY "user", ts')
    body = result(shop.run("history", force=True), "history").body
    assert body["ledger"][0]["name"] == "aggregate"
    assert shop.rows('SELECT * FROM history ORDER BY "user", ts') == parts
    assert list(parts[0]) == ["user", "ts", "n_1d", "sizes_1d", "n_7d", "sizes_7d"]
    assert shop.run().nothing


def test_a_column_that_goes_needs_no_computing(shop: Any) -> None:
    write(shop, "a", 0, 100)
    shop.pipeline(HEAD + windowed("'1d'", n="ps.count()", share="ps.mean('good')"))
    shop.made()
    shop.pipeline(HEAD + windowed("'1d'", n="ps.count()"))
    done = result(shop.run(), "history")
    (step,) = done.body["ledger"]
    assert step["note"] == {"columns computed": 0, "columns kept": 1, "columns dropped": 1}
    assert step["rows_in"] == step["rows_out"] == 100
    assert list(shop.rows("SELECT * FROM history LIMIT 1")[0]) == ["user", "ts", "n_1d"]


def test_a_column_that_is_computed_otherwise_under_its_name(shop: Any) -> None:
    write(shop, "a", 0, 100)
    shop.pipeline(HEAD + windowed("'1d'", n="ps.count()", x="ps.max('size')"))
    shop.made()
    shop.pipeline(HEAD + windowed("'1d'", n="ps.count()", x="last('id')"))
    shop.made()
    found = shop.rows("SELECT ts, x_1d FROM history WHERE \"user\" = 'u1' ORDER BY ts")
    assert [r["x_1d"] for r in found][:3] == [None, 1, 5]


def test_columns_and_rows_that_change_at_once_are_computed_whole(shop: Any) -> None:
    write(shop, "a", 0, 100)
    shop.pipeline(HEAD + windowed("'1d'", n="ps.count()"))
    shop.made()
    write(shop, "b", 100, 100)
    shop.pipeline(HEAD + windowed("'1d'", n="ps.count()", x="ps.max('size')"))
    assert result(shop.run(), "history").body["ledger"][0]["rows_in"] == 200


# -- rows -----------------------------------------------------------------------------------------------------------
def test_new_rows_touch_only_the_times_after_them(shop: Any) -> None:
    write(shop, "a", 0, 800)
    shop.pipeline(HEAD + windowed("'2d'", n="ps.count()", high="quantile('size', 0.9)"))
    shop.made()
    write(shop, "b", 800, 20)
    done = result(shop.run(), "history")
    aggregate = done.body["ledger"][0]
    assert done.body["mode"] == "part"
    assert aggregate["rows_out"] == 20
    assert 20 < aggregate["rows_in"] < 130, "two days and an hour are 82 rows"
    write(shop, "c", 900, 4, late=700)
    done = result(shop.run(), "history")
    aggregate, replaced = done.body["ledger"]
    assert 80 < aggregate["rows_out"] < 100
    assert replaced["filtered"]["made again or gone"] == aggregate["rows_out"], "the late rows have times that were there"
    parts = shop.rows('SELECT * FROM history ORDER BY "user", ts')
    shop.run("history", force=True)
    assert shop.rows('SELECT * FROM history ORDER BY "user", ts') == parts
    assert len(parts) == 820


def test_when_most_rows_are_new_all_is_computed(shop: Any) -> None:
    write(shop, "a", 0, 10)
    shop.pipeline(HEAD + windowed("'2d'", n="ps.count()"))
    shop.made()
    write(shop, "b", 10, 100)
    shop.made()
    assert notes(shop, "history") == ["computed whole: most of rows changed"]


# -- by a function --------------------------------------------------------------------------------------------------
BY_FUNCTION = '''
@ps.features(entity="user", time="ts", known=KNOWN, ttl=TTL)
def profile(rows):
    """Sizes, as they were told."""
    return ps.sql('SELECT "user", ts, told, size * 10 AS level FROM rows')
'''


def by_function(known: str = '"told"', ttl: str = "None") -> str:
    return BY_FUNCTION.replace("KNOWN", known).replace("TTL", ttl)


def test_features_by_a_function_are_joined_by_known_time(shop: Any) -> None:
    write(shop, "a", 0, 600)
    shop.pipeline(
        HEAD + by_function(ttl='"2d"') + MODEL.replace("FEATURES", 'profile, on_demand(double="size * 2", ratio="profile_level / size")')
    )
    assert shop.made()["profile"] == "made"
    with shop.open() as project:
        entry = project.state.heads("model")["chance@v1"].body
    assert entry["features"] == ["profile_level", "double", "ratio"]
    assert entry["given"] == [{"asset": "profile"}, {"on_demand": [["double", "size * 2"], ["ratio", "profile_level / size"]]}]
    (covered,) = entry["coverage"]
    assert covered["rows"] == 600
    assert covered["found"] + covered["older"] <= 600
    rows = shop.rows('SELECT "user", ts, told, size FROM rows')
    with_one = 0
    for row in rows:
        known = [o for o in rows if o["user"] == row["user"] and o["ts"] <= row["ts"] and o["told"] <= row["ts"]]
        with_one += bool(known) and row["ts"] - max(o["ts"] for o in known) <= timedelta(days=2)
    assert covered["found"] == with_one


def test_the_key_of_features_by_a_function_is_entity_and_time(shop: Any) -> None:
    write(shop, "a", 0, 20)
    twice = by_function(known='ps.after("1h")').replace("FROM rows", 'FROM rows UNION ALL (SELECT "user", ts, told, 1 FROM rows LIMIT 1)')
    shop.pipeline(HEAD + twice)
    error = shop.failed("profile")
    assert error["code"] == "E3003"
    assert error["place"] == "profile[user, ts]"


def test_a_python_function_makes_features(shop: Any) -> None:
    write(shop, "a", 0, 20)
    shop.pipeline(
        "import pyarrow as pa\n" + HEAD + '@ps.features(entity="user", time="ts")\ndef sizes(rows: pa.Table, *, least=0):\n'
        '    return rows.filter(pa.compute.greater_equal(rows["size"], least)).select(["user", "ts", "size"])\n'
    )
    assert shop.made()["sizes"] == "made"
    assert shop.rows("SELECT count(*) AS n FROM sizes") == [{"n": 20}]
    assert result(shop.run(params={"sizes": {"least": 2}}), "sizes").body["rows"] == 0


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ('on_demand(x="good IS NULL")', "computed of the label"),
        ('on_demand(x="sizee + 1")', "did you mean `size`"),
        ('on_demand(x="sum(size)")', "cannot aggregate"),
        ('on_demand(x="epoch(now()) - epoch(ts)")', "another value each time"),
        ('"size", on_demand(size="size + 1")', "twice"),
    ],
)
def test_what_cannot_be_computed_on_demand(shop: Any, features: str, words: str) -> None:
    write(shop, "a", 0, 200)
    shop.pipeline(HEAD + MODEL.replace("FEATURES", features))
    error = shop.failed("chance")
    assert words in error["message"] + (error["hint"] or "")


def test_times_of_different_kinds_are_not_compared(shop: Any) -> None:
    write(shop, "a", 0, 200)
    for kind, hint in (("ts AT TIME ZONE 'Europe/Paris'", "which zone"), ("ts::DATE", "a day's total is known at its end")):
        query = f'SELECT "user", {kind} AS ts, count(*) AS n FROM rows GROUP BY ALL'
        daily = f"@ps.features(entity=\"user\", time=\"ts\")\ndef daily(rows):\n    return ps.sql('''{query}''')\n"
        shop.pipeline(HEAD + daily + MODEL.replace("FEATURES", "daily"))
        error = shop.failed("chance")
        assert error["code"] == "E1001"
        assert "different kinds" in error["message"]
        assert hint in error["hint"]


def test_another_ttl_trains_again_and_computes_nothing(shop: Any) -> None:
    write(shop, "a", 0, 200)
    shop.pipeline(HEAD + by_function() + MODEL.replace("FEATURES", "profile"))
    shop.made()
    shop.pipeline(HEAD + by_function(ttl='"1d"') + MODEL.replace("FEATURES", "profile"))
    report = shop.run()
    assert {r.asset: r.status for r in report.results} == {
        "events": "fresh", "rows": "fresh", "profile": "fresh", "chance": "made", "scores": "made",
    }  # fmt: skip


def test_declarations_that_do_not_fit() -> None:
    from penstock.spec.features import count, features, on_demand, quantile

    with pytest.raises(DefinitionError, match="no windows"):
        features(entity="user", time="ts", windows=["1d"], n=count())
    with pytest.raises(DefinitionError, match="not a share"):
        quantile("size", 90)
    with pytest.raises(DefinitionError, match="no expression"):
        on_demand()
    with pytest.raises(DefinitionError, match="not an SQL expression"):
        on_demand(x="")


# -- as it was known ------------------------------------------------------------------------------------------------
def test_features_as_they_were_known_at_any_moment(shop: Any) -> None:
    write(shop, "a", 0, 200)
    shop.pipeline(HEAD + by_function(ttl='"6h"'))
    shop.made()
    rows = shop.rows('SELECT "user", ts, told, size FROM rows')
    expired = 0
    with shop.open() as project:
        for hours in (0, 1, 7, 30, 31, 77, 119, 500):
            then = START + timedelta(hours=hours)
            found = {r["user"]: r for r in project.features_at("profile", then)}
            for user in ("u0", "u1", "u2", "u3"):
                known = [o for o in rows if o["user"] == user and o["ts"] <= then and o["told"] <= then]
                assert (user in found) == bool(known)
                if not known:
                    continue
                newest, one = max(known, key=lambda o: o["ts"]), found[user]
                old = then - newest["ts"] > timedelta(hours=6)
                expired += old
                assert (one["event_time"], one["expired"]) == (newest["ts"], old)
                assert one["age_s"] == (then - newest["ts"]).total_seconds()
                assert one["level"] == (None if old else pytest.approx(newest["size"] * 10))
        asked = project.features_at("profile", START, [{"user": "nobody"}, {"user": "u0"}]).rows()
        assert next((r["user"], r["event_time"], r["expired"]) for r in asked) == ("nobody", None, False)
        with pytest.raises(DefinitionError, match="not an entity"):
            project.features_at("profile", START, [{"id": 1}])
        with pytest.raises(PenstockError, match="no features have this name"):
            project.features_at("rows", START)
    assert expired >= 4


def test_a_correction_is_seen_from_when_it_was_told(shop: Any) -> None:
    lines = "u0,2026-01-01 00:00,2026-01-01 00:00,0.1\nu0,2026-01-01 00:00,2026-01-03 00:00,0.2\nu0,2026-01-02 00:00,2026-01-04 00:00,0.3\n"
    lines += "u0,2026-01-01 00:00,2025-12-30 00:00,0.7\n"
    shop.write("data/a.csv", "user,ts,told,size\n" + lines)
    text = (
        HEAD.replace('"id": "long", ', "")
        .replace(', "good": "boolean"', "")
        .replace('key="id", ', "")
        .replace("id, ", "")
        .replace(", good", "")
    )
    shop.pipeline(text + by_function())
    shop.made()
    with shop.open() as project:
        seen = [project.features_at("profile", START + timedelta(days=d)).rows()[0]["level"] for d in range(5)]
    assert seen == pytest.approx([1.0, 1.0, 2.0, 3.0, 3.0])


def test_a_version_of_before_is_read_as_of_its_time(shop: Any) -> None:
    write(shop, "a", 0, 100)
    shop.pipeline(HEAD + windowed("'7d'", n="ps.count()"))
    shop.made()
    with shop.open() as project:
        before = project.clock.now()
    write(shop, "b", 100, 4, late=90)
    shop.made()
    then = START + timedelta(days=30)
    with shop.open() as project:
        assert {r["n_7d"] for r in project.features_at("history", then, as_of=before)} != {
            r["n_7d"] for r in project.features_at("history", then)
        }


# -- what columns hold ----------------------------------------------------------------------------------------------
def test_statistics_are_those_of_the_whole_version(shop: Any) -> None:
    write(shop, "a", 0, 400)
    shop.pipeline(HEAD + windowed("'2d'", n="ps.count()", high="ps.max('size')"))
    shop.made()
    write(shop, "b", 400, 20)
    body = result(shop.run(), "history").body
    assert body["mode"] == "part"
    found = body["statistics"]
    assert found["rows"] == 420
    assert found["newest"] == (START + timedelta(minutes=36 * 419)).isoformat()
    (row,) = shop.rows("SELECT min(n_2d) AS low, max(n_2d) AS high, avg(n_2d) AS mean, count(high_2d) / count(*) AS known FROM history")
    assert (found["columns"]["n_2d"]["min"], found["columns"]["n_2d"]["max"]) == (row["low"], row["high"])
    assert found["columns"]["n_2d"]["mean"] == pytest.approx(row["mean"])
    assert found["columns"]["high_2d"]["known"] == pytest.approx(row["known"], abs=1e-5)
    assert found["columns"]["n_2d"]["quantiles"]["0.5"] <= row["high"]
