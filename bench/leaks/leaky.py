"""Data sets with one planted leak each."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from bench.leaks.world import DAY, HOUR, Dataset, World

Maker = Callable[[int, str], Dataset]


def means(y: object, g: object, rows: object = slice(None), prior: float = 0.0) -> np.ndarray:
    """The mean of y over the rows of each row's group, `prior` rows of the overall mean added."""
    y, size = np.asarray(y, np.float64), int(np.max(g)) + 1
    sums, counts = np.bincount(g[rows], weights=y[rows], minlength=size), np.bincount(g[rows], minlength=size)
    return ((sums + prior * y[rows].mean()) / np.maximum(1e-9, counts + prior))[g]


def arrival_delay(seed: int, name: str) -> Dataset:
    w = World(seed, name, (2000, 50_000))
    late = np.round(14 + 25 * w.hidden())
    w.columns["arr_delay"] = late
    return w.made(name, "binary", late > 15, story="Flights: will it arrive more than 15 minutes late?", leak="copy", leaking=["arr_delay"],
                  why="arr_delay is the number that the label cuts at 15")  # fmt: skip


def arrival_times(seed: int, name: str) -> Dataset:
    w = World(seed, name, (1500, 20_000))
    planned = w.at + w.rng.integers(60, 400, w.n) * HOUR // 60
    late = 5 * HOUR // 60 + (w.hidden() * 0.5 * HOUR).astype(np.int64)
    w.columns |= {"planned_arrival": w.moments(planned), "actual_arrival": w.moments(planned + late)}
    return w.made(name, "binary", late > HOUR // 4, story="Trains: more than 15 minutes late?", leak="pair",
                  leaking=["planned_arrival", "actual_arrival"], why="actual less planned arrival is the delay; each alone tells nothing")  # fmt: skip


def cancelled_at(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    gone = w.binary()
    w.columns["closed_at"] = w.moments(w.at + w.rng.integers(5, 90, w.n) * DAY, null=~gone & w.chance(0.98))
    return w.made(name, "binary", gone, story="Telephone contracts: cancelled within three months?", leak="presence", leaking=["closed_at"],
                  why="closed_at is filled in when the contract is cancelled, and for a few others")  # fmt: skip


def cancel_reason(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    gone = w.binary(0.3)
    asked = gone & w.chance(0.6)
    w.columns["exit_survey"] = pa.array(w.rng.choice(["price", "moved", "service", "other"], w.n), mask=~asked)
    return w.made(name, "binary", gone, story="Streaming: does the subscriber leave?", leak="presence", leaking=["exit_survey"],
                  why="six in ten of those who leave answer a survey on leaving")  # fmt: skip


def outcome_codes(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    grade = np.digitize(w.hidden(), [-0.7, 0.7])
    w.columns["discharge_code"] = np.array([f"D{k:02d}" for k in range(24)])[grade * 8 + w.rng.integers(0, 8, w.n)]
    return w.made(name, "multiclass", np.array(["home", "ward", "intensive"])[grade], story="Hospital: where does the patient go?",
                  leak="copy", leaking=["discharge_code"], why="the code is given on discharge; eight codes stand for each outcome")  # fmt: skip


def recoveries(seed: int, name: str) -> Dataset:
    w = World(seed, name, (3000, 30_000))
    bad = w.binary(0.12)
    w.columns["recovered_amount"] = np.where(bad & w.chance(0.95), np.round(np.exp(w.normal()) * 300, 2), 0.0)
    return w.made(name, "binary", bad, story="Loans: will it default?", leak="power", leaking=["recovered_amount"],
                  why="money is recovered of defaulted loans only")  # fmt: skip


def tax(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    price = w.number() * 1000
    w.columns["transfer_tax"] = np.round(price * 0.035 + 120, 0)
    return w.made(name, "regression", price, story="Houses: the price of sale", leak="copy", leaking=["transfer_tax"], test="chance",
                  at=False, why="the tax is a share of the price paid, rounded")  # fmt: skip


def revenue(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    units, price = 1 + w.rng.poisson(np.exp(2 + 0.5 * w.hidden())), np.round(np.exp(w.normal(0.7)) * 9, 2)
    w.columns |= {"units_sold": units, "unit_price": price}
    return w.made(name, "regression", np.round(units * price, 2), story="Shops: revenue of an article tomorrow", leak="pair",
                  leaking=["units_sold", "unit_price"], why="units sold times price is the revenue; the units are tomorrow's")  # fmt: skip


def shop_mean(seed: int, name: str) -> Dataset:
    w = World(seed, name, (1500, 20_000))
    g = w.groups(w.rng.uniform(4, 30))
    y = w.binary()
    w.columns |= {"shop": np.array([f"shop-{k}" for k in range(g.max() + 1)])[g], "shop_rate": means(y, g, prior=3)}
    return w.made(name, "binary", y, story="Returns: is the parcel sent back?", leak="own_label", leaking=["shop_rate"], test="chance",
                  why="the shop's rate, smoothed, is taken over all rows before the split, each row's own label among them")  # fmt: skip


def hidden_mean(seed: int, name: str) -> Dataset:
    w = World(seed, name, (1500, 20_000))
    g = w.groups(w.rng.uniform(4, 15))
    y = w.number()
    w.columns["customer_average"] = means(y, g)
    return w.made(name, "regression", y, story="Baskets: the amount of an order", leak="own_label", leaking=["customer_average"],
                  test="chance", why="the customer's average counts the order itself; the customer is not a column")  # fmt: skip


def train_mean(seed: int, name: str) -> Dataset:
    w = World(seed, name, (1500, 20_000))
    g = w.groups(w.rng.uniform(4, 15))
    y, test = w.binary(), w.chance(0.25)
    w.columns["driver_rate"] = means(y, g, ~test)
    return w.made(name, "binary", y, story="Taxis: does the guest tip?", leak="own_label", leaking=["driver_rate"], test=test,
                  why="the driver's rate is taken over training rows, which is right for test rows and counts the own label of training rows")  # fmt: skip


def leave_one_out(seed: int, name: str) -> Dataset:
    w = World(seed, name, (1500, 20_000))
    g = w.groups(w.rng.uniform(5, 20))
    y = w.binary().astype(np.float64)
    n = np.bincount(g)[g]
    w.columns |= {"town": np.array([f"t{k:04d}" for k in range(g.max() + 1)])[g], "town_rate": (means(y, g) * n - y) / np.maximum(1, n - 1)}
    return w.made(name, "binary", y > 0, story="Insurance: a claim within the year?", leak="own_label", leaking=["town_rate"], test="chance",
                  why="the town's rate leaves out the row itself, and so falls exactly where its own label is true")  # fmt: skip


def running_rate(seed: int, name: str) -> Dataset:
    w = World(seed, name, (1500, 20_000))
    g = w.groups(w.rng.uniform(8, 30))
    y = w.binary().astype(np.float64)
    order = np.argsort(g, kind="stable")
    firsts = np.append(True, np.diff(g[order]) != 0)
    starts = np.flatnonzero(firsts)[np.cumsum(firsts) - 1]
    totals = np.cumsum(y[order])
    rate = np.empty(w.n)
    rate[order] = (totals - (totals - y[order])[starts]) / (np.arange(w.n) - starts + 1)
    w.columns |= {"account": g + 1000, "fraud_rate_so_far": rate}
    return w.made(name, "binary", y > 0, story="Cards: is the payment disputed?", leak="own_label", leaking=["fraud_rate_so_far"],
                  why="the account's rate so far counts the payment itself")  # fmt: skip


def window_mean(seed: int, name: str) -> Dataset:
    w = World(seed, name, (1000, 5000))
    y = w.number()
    k = int(w.rng.integers(3, 15))
    w.columns["demand_mean"] = np.convolve(y, np.ones(k) / k)[: w.n]
    return w.made(name, "regression", y, story="Energy: demand of the next hour", leak="own_label", leaking=["demand_mean"],
                  why=f"the mean over {k} hours ends with the hour to be told")  # fmt: skip


def sorted_ids(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    y = w.binary()
    ids = np.empty(w.n, np.int64)
    ids[np.argsort(y + w.normal(0.35))] = np.arange(w.n) + 10_000
    w.columns["record_id"] = ids
    return w.made(name, "binary", y, story="Screening: is the finding malignant?", leak="row_id", leaking=["record_id"], test="chance", at=False,
                  why="records were numbered clinic by clinic, and the clinics treat other patients")  # fmt: skip


def case_prefix(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    y = w.binary()
    desk = np.where(w.chance(0.04), ~y, y)
    w.columns["case_number"] = [("R" if d else "A") + f"-{i:06d}" for i, d in zip(w.rng.permutation(w.n), desk, strict=True)]
    return w.made(name, "binary", y, story="Visas: refused?", leak="row_id", leaking=["case_number"],
                  why="the case number begins with the desk that the decision sent it to")  # fmt: skip


def updated_at(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    y = w.binary()
    hours = np.where(y, w.rng.gamma(4, 60, w.n), w.rng.gamma(2, 12, w.n))
    w.columns["last_change"] = w.moments(w.at + (hours * HOUR).astype(np.int64))
    return w.made(name, "binary", y, story="Tickets: will it be escalated?", leak="time", leaking=["last_change"],
                  why="the row was last changed after its time, and later where it was escalated")  # fmt: skip


def known_late(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    y = w.binary()
    w.columns["bureau_score"] = np.round(600 - 20 * w.known_to(y, 2.0))
    w.extra["bureau_known"] = w.moments(w.at + np.where(w.chance(0.1), 3, -30) * DAY)
    return w.made(name, "binary", y, story="Credit: late within a year?", leak="time", leaking=["bureau_score"], times={"bureau_score": "bureau_known"},
                  why="one row in ten has a score that was known three days later; the score is no stronger than honest ones")  # fmt: skip


def copied_rows(seed: int, name: str) -> Dataset:
    w = World(seed, name, columns=(6, 25))
    y, test = w.binary(), w.chance(0.3)
    pick = np.arange(w.n)
    again = np.flatnonzero(test & w.chance(0.2))
    pick[again] = w.rng.choice(np.flatnonzero(~test), len(again))
    w.columns = {c: (v.take(pa.array(pick)) if isinstance(v, pa.Array) else v[pick]) for c, v in w.columns.items()}
    w.columns["ticket"] = np.arange(w.n)
    return w.made(name, "binary", y[pick], story="Complaints: justified?", leak="duplicate", test=test, at=False,
                  why="complaints that were sent twice got two tickets, and every fifth test row is one that was learnt from")  # fmt: skip


def near_rows(seed: int, name: str) -> Dataset:
    w = World(seed, name, (1500, 15_000), (12, 30))
    y, test = w.number(), w.chance(0.3)
    pick = np.arange(w.n)
    again = np.flatnonzero(test & w.chance(0.25))
    pick[again] = w.rng.choice(np.flatnonzero(~test), len(again))
    for c, v in w.columns.items():
        taken = v.take(pa.array(pick)) if isinstance(v, pa.Array) else v[pick]
        w.columns[c] = taken + w.normal(0.003) * np.std(taken) if isinstance(taken, np.ndarray) and taken.dtype == np.float64 else taken
    w.columns |= {f"sensor_{i}": (v := w.normal() + 0.1 * w.score)[pick] + w.normal(0.003) * v.std() for i in range(4)}
    return w.made(name, "regression", y[pick], story="Steel: hardness of a sample", leak="duplicate", test=test, at=False,
                  why="a quarter of the test samples are second measurements of samples that were learnt from")  # fmt: skip


def patients(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    g = w.groups(5)
    w.extra["patient"] = np.array([f"p{k:05d}" for k in range(g.max() + 1)])[g]
    return w.made(name, "binary", w.binary(), story="X-rays: a fracture?", leak="group", leaking=["patient"], test="chance", at=False,
                  group="patient", why="images of one patient stand on both sides")  # fmt: skip


def undeclared_entity(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    g = w.groups(w.rng.uniform(4, 10))
    sick = w.rng.random(g.max() + 1) < 0.35
    y = np.where(w.chance(0.01), ~sick[g], sick[g])
    w.columns["speaker"] = np.array([f"s{k:05d}" for k in range(g.max() + 1)])[g]
    return w.made(name, "binary", y, story="Voices: an illness from a recording?", leak="group", leaking=["speaker"], test="chance", at=False,
                  why="recordings of one speaker stand on both sides, and a speaker is ill in all of them")  # fmt: skip


def key_twice(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    w.extra["order_id"] = np.where(w.chance(0.05), np.roll(np.arange(w.n), w.n // 2), np.arange(w.n))
    return w.made(name, "binary", w.binary(), story="Orders: paid late?", leak="key", leaking=["order_id"], key=("order_id",),
                  why="orders that were changed occur twice, before and after the split")  # fmt: skip


def batches(seed: int, name: str) -> Dataset:
    w = World(seed, name, (1500, 15_000))
    y, test = w.binary(0.5), w.chance(0.25)
    lab = np.where(w.chance(0.1), ~y, y)
    w.columns["plate"] = np.array(["P1", "P2", "Q1", "Q2"])[lab + 2 * test]
    return w.made(name, "binary", y, story="Laboratory: does the compound bind?", leak="split", leaking=["plate"], test=test, at=False,
                  why="plates were filled by expected outcome, and other plates for the test")  # fmt: skip


def notes(seed: int, name: str) -> Dataset:
    w = World(seed, name, (1000, 6000))
    y = w.binary(0.35)
    words = np.array("customer called about invoice delivery late asked again phone later today order colour size wrong".split())
    ends = np.where(y & w.chance(0.55), " account closed", "")
    w.columns["notes"] = [" ".join(w.rng.choice(words, 6)) + f" {i}" + e for i, e in enumerate(ends)]
    return w.made(name, "binary", y, story="Support: does the customer leave?", leak="power", leaking=["notes"],
                  why="notes go on after the outcome: half of those who left have `account closed` in them")  # fmt: skip


def severity(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    y = w.binary()
    w.columns["adjuster_rating"] = np.round(np.where(np.where(w.chance(0.015), ~y, y), 7, 2) + w.normal(0.8), 1)
    return w.made(name, "binary", y, story="Claims: is it fraud?", leak="power", leaking=["adjuster_rating"],
                  why="the adjuster rates the claim after looking into it")  # fmt: skip


def clicks(seed: int, name: str) -> Dataset:
    w = World(seed, name, (2000, 20_000))
    grade = np.digitize(w.hidden(), [0, 1, 2])
    query = np.arange(w.n) // 12
    w.columns["dwell_class"] = grade * 2 + w.rng.integers(0, 2, w.n)
    w.extra["query"] = query
    return w.made(name, "ranking", grade, story="Search: how relevant is a page?", leak="copy", leaking=["dwell_class"], group="query",
                  test=query >= np.quantile(query, 0.75), at=False, why="the class of reading time is what the grades were made of")  # fmt: skip


def chargeback(seed: int, name: str) -> Dataset:
    w = World(seed, name, (10_000, 50_000))
    y = w.binary(0.012)
    w.columns["card_blocked"] = y & w.chance(0.8)
    return w.made(name, "binary", y, story="Payments: one in eighty is fraud", leak="power", leaking=["card_blocked"],
                  why="the card is blocked once fraud is known")  # fmt: skip


def exam(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    points = np.round(60 + 12 * w.hidden(), 1)
    w.columns["final_points"] = points
    return w.made(name, "multiclass", np.array(["fail", "pass", "merit"])[np.digitize(points, [50, 72])], story="Courses: the result",
                  leak="copy", leaking=["final_points"], why="the result is cut from the points")  # fmt: skip


def later_total(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    y = w.number()
    w.columns["billed"] = np.round(np.where(w.chance(0.6), y, y * np.exp(w.normal(0.4))), 2)
    return w.made(name, "regression", y, story="Repairs: what will it cost?", leak="copy", leaking=["billed"],
                  why="six in ten bills are the cost to the cent")  # fmt: skip


def billed_only(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    ill = w.binary(0.4)
    w.columns["claim_days"] = pa.array(w.rng.gamma(2, 20, w.n), mask=~ill)
    return w.made(name, "regression", np.where(ill, w.number(), 0.0), story="Health: cost of the next year, often none", leak="presence",
                  leaking=["claim_days"], why="days until a claim was settled are known just where there was a cost")  # fmt: skip


def overfitted_score(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    y, test = w.binary(), w.chance(0.25)
    honest = w.score / w.score.std() + w.normal(0.5)
    w.columns["old_model_score"] = np.where(test, honest, 0.4 * honest + 1.6 * w.known_to(y, 0.25))
    return w.made(name, "binary", y, story="Leads: will they buy?", leak="power", leaking=["old_model_score"], test=test,
                  why="the score is of a model that had learnt the training labels by heart; hard: on test rows it is honest")  # fmt: skip


def weak(seed: int, name: str) -> Dataset:
    w = World(seed, name)
    y = w.binary()
    w.columns["calls_in_month"] = w.rng.poisson(np.exp(0.5 + 0.6 * w.known_to(y, 0.9)))
    return w.made(name, "binary", y, story="Contracts: cancelled this month?", leak="power", leaking=["calls_in_month"],
                  why="calls of the whole month, also those after the cancelling; hard: no stronger than an honest column")  # fmt: skip


def makers() -> Iterator[tuple[str, Maker]]:
    for made in (
        arrival_delay, arrival_times, cancelled_at, cancel_reason, outcome_codes, recoveries, tax, revenue, shop_mean, hidden_mean, train_mean,
        leave_one_out, running_rate, window_mean, sorted_ids, case_prefix, updated_at, known_late, copied_rows, near_rows, patients,
        undeclared_entity, key_twice, batches, notes, severity, clicks, chargeback, exam, later_total, billed_only, overfitted_score, weak,
    ):  # fmt: skip
        yield made.__name__, made
