"""Clean data sets, each of which looks like a leak to somebody."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from bench.leaks.leaky import Maker, means
from bench.leaks.world import DAY, HOUR, Dataset, World


def plain(seed: int, name: str) -> Dataset:
    w = World(seed, name, (500, 50_000), (5, 60))
    return w.made(name, "binary", w.binary(), story="Mail: is it answered?", why="nothing special; the size differs by seed")


def plain_classes(seed: int, name: str) -> Dataset:
    w = World(seed, name, (800, 20_000), (5, 60))
    y = np.digitize(w.hidden(), np.sort(w.rng.normal(size=int(w.rng.integers(2, 8)))))
    return w.made(name, "multiclass", np.array([f"class {k}" for k in range(20)])[y], story="Waste: which bin?", why="several classes, some rare",
                  test="chance")  # fmt: skip


def strong_sensor(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    y = w.binary(0.3)
    w.columns["vibration"] = w.known_to(y, w.rng.uniform(0.75, 0.95))
    return w.made(name, "binary", y, story="Pumps: does it fail within a week?", why="one honest sensor tells with an AUC of about 0.95, the others little")  # fmt: skip


def last_value(seed: int, name: str) -> Dataset:
    w = World(seed, name, (1000, 20_000))
    y = np.cumsum(w.normal()) * 0.3 + 10 * np.sin(np.arange(w.n) / 200) + w.normal(0.3)
    w.columns |= {"an_hour_ago": np.append(np.nan, y[:-1]), "a_day_ago": np.append(np.full(24, np.nan), y[:-24])}
    return w.made(
        name, "regression", y, story="Rivers: the level of the next hour", why="the level an hour ago tells nearly all, and is known"
    )


def near_perfect(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    z = [w.normal() for _ in range(5)]
    w.columns |= {f"test_{i}": v for i, v in enumerate(z)}
    y = sum(z) + w.normal(0.2) > 0.5
    return w.made(name, "binary", y, story="Chips: does it pass?", why="five measures together tell nearly all, each alone little")


def clusters(seed: int, name: str) -> Dataset:
    w = World(seed, name, (500, 4000))
    k = w.rng.integers(0, 3, w.n)
    w.columns |= {f"petal_{i}": np.round(w.rng.permutation([1.0, 4.0, 8.0])[k] + w.normal(0.5), 2) for i in range(4)}
    return w.made(name, "multiclass", np.array(["setosa", "versicolor", "virginica"])[k], story="Flowers: which kind?", test="chance", at=False,
                  why="the kinds lie apart in several honest measures, each of which tells nearly all")  # fmt: skip


def rare(seed: int, name: str) -> Dataset:
    w = World(seed, name, (8000, 50_000))
    y = w.binary(0.01)
    w.columns["amount_over_usual"] = np.exp((3.3 * y + w.normal()) * 0.3)
    return w.made(
        name, "binary", y, story="Payments: one in a hundred is fraud", why="a rare class and one strong honest column of an AUC above 0.99"
    )


def numbered_in_time(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    w.score = w.score + np.sin(w.at / (60 * DAY)) + np.arange(w.n) / w.n
    w.columns |= {"order_id": np.arange(w.n) + 5_000_000, "reference": [f"X{i:08d}" for i in np.arange(w.n) * 7]}
    return w.made(
        name, "binary", w.binary(), story="Orders: returned?", why="identifiers grow with time, and returns come and go with the season"
    )


def telling_nulls(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    y = w.binary()
    for i, (p, q) in enumerate(((0.6, 0.15), (0.1, 0.45), (0.85, 0.5))):
        w.columns[f"asked_{i}"] = pa.array(w.normal(), mask=w.chance(np.where(y, p, q)))
    return w.made(
        name, "binary", y, story="Credit: late within a year?", why="who will be late leaves fields empty more often; known beforehand"
    )


def season(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    month = (w.at // DAY // 30) % 12
    w.score = w.score + 1.2 * np.cos(month / 12 * 6.28)
    w.columns |= {"month": month, "temperature_out": 12 - 9 * np.cos(month / 12 * 6.28) + w.normal(2), "meter": 1000 + (w.at // DAY) * 1.0}
    return w.made(
        name,
        "regression",
        w.number(),
        story="Heating: use of a day",
        why="month and meter tell training rows from test rows; season is honest",
    )


def survey(seed: int, name: str) -> Dataset:
    w = World(seed, name, (2000, 30_000), (5, 5))
    w.columns = {
        f"question_{i}": np.clip(np.round(3 + w.normal() + 0.3 * w.score), 1, 5).astype(int) for i in range(int(w.rng.integers(4, 8)))
    }
    return w.made(name, "multiclass", np.digitize(w.hidden(), [-1, 1]), story="Survey: how content?", test="chance", at=False,
                  why="answers from 1 to 5: most test rows equal a training row for want of values")  # fmt: skip


def past_mean(seed: int, name: str) -> Dataset:
    w = World(seed, name, (1500, 20_000))
    g = w.groups(w.rng.uniform(5, 30))
    w.score = w.score + w.rng.normal(size=g.max() + 1)[g]
    y = w.binary()
    early = np.arange(w.n) < w.n // 3
    rate = means(y, g, early, prior=2)
    w.columns |= {"shop": np.array([f"s{k}" for k in range(g.max() + 1)])[g], "shop_rate": np.where(early, np.nan, rate)}
    return w.made(name, "binary", y, story="Returns: is the parcel sent back?", why="the shop's rate is of earlier rows only")


def folded_mean(seed: int, name: str) -> Dataset:
    w = World(seed, name, (1500, 20_000))
    g = w.groups(w.rng.uniform(6, 30))
    w.score = w.score + w.rng.normal(size=g.max() + 1)[g]
    y, fold = w.binary(), w.rng.integers(0, 5, w.n)
    rate = np.empty(w.n)
    for k in range(5):
        rate[fold == k] = means(y, g, fold != k, prior=5)[fold == k]
    w.columns |= {"town": np.array([f"t{k}" for k in range(g.max() + 1)])[g], "town_rate": rate}
    return w.made(
        name,
        "binary",
        y,
        story="Insurance: a claim within the year?",
        test="chance",
        why="the town's rate is of the other four fifths of the rows",
    )


def running_before(seed: int, name: str) -> Dataset:
    w = World(seed, name, (1500, 20_000))
    g = w.groups(w.rng.uniform(8, 30))
    w.score = w.score + w.rng.normal(size=g.max() + 1)[g]
    y = w.binary().astype(np.float64)
    order = np.argsort(g, kind="stable")
    firsts = np.append(True, np.diff(g[order]) != 0)
    starts = np.flatnonzero(firsts)[np.cumsum(firsts) - 1]
    before = np.cumsum(y[order]) - y[order]
    rate = np.empty(w.n)
    with np.errstate(invalid="ignore", divide="ignore"):
        rate[order] = (before - before[starts]) / (np.arange(w.n) - starts)
    w.columns |= {"account": g + 1000, "rate_before": rate}
    return w.made(
        name, "binary", y > 0, story="Cards: is the payment disputed?", why="the account's rate counts the payments before this one"
    )


def appointment(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    lead = w.rng.gamma(1.5, 12, w.n)
    w.score = w.score + np.log1p(lead) * 0.8
    w.columns["appointment_at"] = w.moments(w.at + (lead * DAY).astype(np.int64) // (15 * HOUR // 60) * (15 * HOUR // 60))
    return w.made(name, "binary", w.binary(), story="Doctors: does the patient not come?", why="the appointment lies after the row's time, is known, and tells honestly")  # fmt: skip


def customers(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    g = w.groups(w.rng.uniform(3, 20))
    w.score = w.score + 1.5 * w.rng.normal(size=g.max() + 1)[g]
    w.columns["customer"] = np.array([f"c{k:05d}" for k in range(g.max() + 1)])[g]
    return w.made(name, "binary", w.binary(), story="Shop: does the visit end in an order?", why="customers come again, and have habits")


def bureau(seed: int, name: str) -> Dataset:
    w = World(seed, name, (2000, 30_000))
    p = np.round(1 / (1 + np.exp(-w.score * 1.5)), 2)
    w.columns["bureau_probability"] = p
    return w.made(name, "binary", w.chance(p), story="Credit: late within a year?", why="a well calibrated probability in hundredths")


def quote(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    y = w.number()
    w.columns["quoted"] = np.round(y * np.exp(w.normal(0.12)), -1)
    return w.made(
        name, "regression", y, story="Repairs: what will it cost?", test="chance", at=False, why="the quote is known beforehand and close"
    )


def honest_notes(seed: int, name: str) -> Dataset:
    w = World(seed, name, (1000, 6000))
    y = w.binary(0.35)
    words = np.array("customer called about invoice delivery late asked again phone later today order colour size wrong".split())
    angry = w.chance(np.where(y, 0.5, 0.12))
    w.columns["notes"] = [" ".join(w.rng.choice(words, 6)) + f" {i}" + (" complaint" if a else "") for i, a in enumerate(angry)]
    return w.made(name, "binary", y, story="Support: does the customer leave?", why="a word that tells much, but not all")


def places(seed: int, name: str) -> Dataset:
    w = World(seed, name, (3000, 30_000))
    g = w.groups(w.rng.uniform(20, 60))
    w.score = w.score + 1.5 * w.rng.normal(size=g.max() + 1)[g]
    w.columns["postcode"] = g + 10_000
    return w.made(
        name, "regression", w.number(), story="Houses: the price of sale", test="chance", why="hundreds of postcodes with strong effects"
    )


def wide(seed: int, name: str) -> Dataset:
    w = World(seed, name, (500, 700), (60, 60))
    return w.made(
        name,
        "binary",
        w.binary(0.2),
        story="Genes: does the therapy help?",
        test="chance",
        at=False,
        why="sixty columns and few rows: some are strong by luck",
    )


def honest_ranking(seed: int, name: str) -> Dataset:
    w = World(seed, name, (2000, 20_000))
    grade = np.digitize(w.hidden(), [0, 1, 2])
    query = np.arange(w.n) // 12
    w.columns["text_match"] = grade + w.normal(0.6)
    w.extra["query"] = query
    return w.made(name, "ranking", grade, story="Search: how relevant is a page?", group="query", test=query >= np.quantile(query, 0.75), at=False,
                  why="the match of texts is a strong honest column")  # fmt: skip


def slow_sensors(seed: int, name: str) -> Dataset:
    w = World(seed, name, (1500, 10_000), (5, 5))
    w.columns = {f"sensor_{i}": np.cumsum(w.normal()) * 0.1 for i in range(6)}
    y = w.columns["sensor_0"] + w.columns["sensor_1"] + w.normal(0.5)
    return w.made(name, "regression", y, story="Ovens: the temperature inside", test="chance",
                  why="slow sensors: rows next to each other in time are alike without being copies")  # fmt: skip


def twins(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    y = w.binary()
    strong = w.known_to(y, 0.8)
    w.columns |= {"size_mm": strong * 10 + 100, "size_inch": (strong * 10 + 100) / 25.4, "size_class": np.digitize(strong, [-1, 0, 1, 2])}
    return w.made(name, "binary", y, story="Apples: first class?", why="three columns hold one honest strong measure")


def never(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    y = w.binary(0.15)
    staff = ~y & w.chance(0.3)
    w.columns["tariff_group"] = np.where(staff, "staff", w.rng.choice(["basic", "plus", "max"], w.n))
    return w.made(
        name, "binary", y, story="Telephone contracts: cancelled?", why="staff never cancel: a value that stands for the common class"
    )


def often_none(seed: int, name: str) -> Dataset:
    w = World(seed, name, (2000, 20_000))
    z = w.hidden()
    w.columns |= {
        "claims_before": w.rng.poisson(np.exp(z * 0.8)),
        "visits_before": np.where(z > 0, w.rng.poisson(3, w.n), w.rng.poisson(1, w.n)),
    }
    return w.made(name, "regression", np.where(z > 0.3, np.round(np.exp(5 + z), 2), 0.0), story="Health: cost of the next year, often none",
                  why="most labels are 0, and the past tells which")  # fmt: skip


def mostly_true(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    return w.made(
        name,
        "binary",
        w.binary(0.93),
        story="Lectures: does the student pass?",
        why="nine in ten are true; a value that always is says little",
    )


def queues(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    planned = w.at + w.rng.integers(1, 30, w.n) * DAY
    made = planned - w.rng.integers(1, 60, w.n) * DAY
    w.score = w.score + (planned - made) / DAY / 25
    w.columns |= {"planned_for": w.moments(planned), "ordered_at": w.moments(made)}
    return w.made(name, "binary", w.binary(), story="Deliveries: late?", why="the span between two honest moments tells much, with noise")


def disjoint_groups(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    g = w.groups(5)
    w.extra |= {"patient": np.array([f"p{k:05d}" for k in range(g.max() + 1)])[g], "image": np.arange(w.n)}
    w.score = w.score + 2 * w.rng.normal(size=g.max() + 1)[g]
    return w.made(name, "binary", w.binary(), story="X-rays: a fracture?", test=g % 4 == 0, at=False, group="patient", key=("image",),
                  why="patients are split, not images")  # fmt: skip


def odd_columns(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    w.columns |= {
        "nothing": pa.nulls(w.n, pa.float64()),
        "constant": np.ones(w.n),
        "one_off": (np.arange(w.n) == 7) * 1.0,
        "sign": -np.exp(w.normal()),
    }
    null = w.chance(0.5)
    w.columns["children"] = pa.array(w.rng.integers(0, 5, w.n), mask=null)
    w.score = w.score + 0.8 * null
    return w.made(
        name, "binary", w.binary(), story="Tax: is a second look worth it?", why="columns of nothing, of one value, and asked of some only"
    )


def discounts(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    listed, share = np.round(np.exp(w.normal()) * 80, 2), np.round(w.rng.uniform(0.6, 1, w.n), 2)
    w.columns |= {"list_price": listed, "usual_share": share}
    return w.made(name, "regression", np.round(listed * share * np.exp(w.normal(0.1) + 0.05 * w.score), 2), story="Shops: the price paid", test="chance",
                  why="the product of two known columns tells nearly all, with noise")  # fmt: skip


def spam(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    y = w.binary(0.4)
    w.columns |= {
        f"has_{word}": w.chance(np.where(y, p, q)) for word, p, q in (("prize", 0.5, 0.01), ("meeting", 0.02, 0.5), ("link", 0.8, 0.2))
    }
    w.columns["sender_rank"] = w.known_to(y, 1.0)
    return w.made(
        name, "binary", y, story="Mail: is it spam?", why="words that nearly always tell, and other honest columns that tell as much"
    )


def known_in_time(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    y = w.binary()
    w.columns["bureau_score"] = np.round(600 - 20 * w.known_to(y, 1.2))
    w.extra["bureau_known"] = w.moments(w.at - w.rng.integers(0, 30, w.n) * DAY)
    return w.made(
        name,
        "binary",
        y,
        story="Credit: late within a year?",
        times={"bureau_score": "bureau_known"},
        why="a strong score that was known in time",
    )


def makers() -> Iterator[tuple[str, Maker]]:
    for made in (
        plain, plain_classes, strong_sensor, last_value, near_perfect, clusters, rare, numbered_in_time, telling_nulls, season, survey, past_mean,
        folded_mean, running_before, appointment, customers, bureau, quote, honest_notes, places, wide, honest_ranking, slow_sensors, twins,
        never, often_none, mostly_true, queues, disjoint_groups, odd_columns, discounts, spam, known_in_time,
    ):  # fmt: skip
        yield made.__name__, made
