"""Numbers, names and ledger lines as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.ground.names import asset_name
from penstock.plan.records import Action, Plan
from penstock.project import figures
from penstock.run.ledger import Step


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (0.004, "0.00 s"),
        (0.04, "0.04 s"),
        (1.24, "1.2 s"),
        (9.94, "9.9 s"),
        (42.4, "42 s"),
        (99.6, "1 min 40 s"),
        (120, "2 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_seconds(value: float | None, text: str) -> None:
    assert figures.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB"), (5 << 40, "5.0 TiB")]
)
def test_size(value: int | None, text: str) -> None:
    assert figures.size(value) == text


@pytest.mark.parametrize(
    ("passed", "text"), [(3, "just now"), (42, "42 s"), (600, "10 min"), (7200, "2 h"), (86400, "1 day"), (864000, "10 days")]
)
def test_age(passed: int, text: str) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert figures.age(now - timedelta(seconds=passed), now) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (True, "true"), (20.0, "20.0"), (0.1 + 0.2, "0.3"), (1234567.89, "1234567.89"), (1e300, "1e+300"), (float("nan"), "nan"), (7, "7"),
     (b"\x00\xff", "00ff"), ("a\nb", "a b"), (datetime(2024, 1, 1, 8, 5, tzinfo=UTC), "2024-01-01 08:05:00+00:00")],
)  # fmt: skip
def test_cells(value: object, text: str) -> None:
    assert figures.cell(value) == text


@given(st.text())
def test_plain_texts_steer_nothing(text: str) -> None:
    assert all(c.isprintable() or c in "\t\n" or ord(c) > 0x9F for c in figures.plain(text))
    assert "\x1b" not in figures.plain(text)
    assert "\n" not in figures.one_line(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [("DepTime", "dep_time"), ("HTTPServer", "http_server"), ("Größe (cm)", "grosse_cm"), ("2013 total", "c_2013_total"), ("", "column"), ("??", "column"),
     ("already_snake", "already_snake"), ("a__b", "a_b"), ("日本", "column")],
)  # fmt: skip
def test_snake(text: str, name: str) -> None:
    assert figures.snake(text) == name


@given(st.text())
def test_every_text_gives_a_name_that_can_be_one(text: str) -> None:
    assert asset_name(figures.snake(text))


def test_steps() -> None:
    kept = Step("check", 10, 6, rejected={"not_null(a)": 2}, duplicate=1, filtered={"x > 1": 1}, note={"updated": 3})
    assert figures.step_text(kept.record()) == "10 in = 6 out + 2 rejected (not_null(a)) + 1 duplicate + 1 filtered (x > 1); 3 updated"
    two = Step("check", 10, 7, rejected={"a": 1, "b": 2})
    assert figures.step_text(two.record()) == "10 in = 7 out + 3 rejected (a: 1, b: 2)"
    shaped = Step("compute", 10, 4, keeps=False, inputs={"flights": 1000, "planes": 10})
    assert figures.step_text(shaped.record()) == "1,000 flights, 10 planes -> 4 out"
    assert "DOES NOT BALANCE" in figures.step_text(Step("land", 2, 1).record())


def test_gates() -> None:
    assert (
        figures.gate_text({"name": "roc_auc >= 0.65", "passed": True, "value": 0.72341, "bound": 0.65}) == "roc_auc >= 0.65: 0.7234 passed"
    )
    failed = {"name": "roc_auc[origin] >= 0.6", "passed": False, "value": 0.5, "slice": "LGA", "reason": "too low"}
    assert figures.gate_text(failed) == "roc_auc[origin] >= 0.6: 0.5 (worst: LGA) FAILED; too low"


def test_slices_are_ranked_best_first_whichever_way_the_metric_goes() -> None:
    high = [{"column": "a", "value": v, "roc_auc": x} for v, x in (("p", 0.5), ("q", 0.9), ("r", None))]
    low = [{"column": "b", "value": v, "brier": x} for v, x in (("p", 0.5), ("q", 0.9))]
    found = figures.ranked([*high, *low])
    assert (found["a"][0], [s["value"] for s in found["a"][1]]) == ("roc_auc", ["q", "p"])
    assert (found["b"][0], [s["value"] for s in found["b"][1]]) == ("brier", ["p", "q"])


def test_the_first_line_of_a_plan() -> None:
    plan = Plan((Action("a", "source", "fresh"), Action("b", "table", "stale", rows=336_776, seconds=4.0), Action("c", "table", "waiting")))
    assert figures.plan_text(plan) == "3 assets: 1 fresh, 1 stale, 1 waiting; about 336,776 rows, 4.0 s"
    assert figures.plan_text(Plan(())) == "0 assets: none"


@pytest.mark.parametrize(
    ("arrow", "name"),
    [(pa.int64(), "long"), (pa.int32(), "int"), (pa.float64(), "double"), (pa.string(), "string"), (pa.large_string(), "string"), (pa.bool_(), "boolean"),
     (pa.date32(), "date"), (pa.timestamp("us"), "timestamp"), (pa.timestamp("us", "UTC"), "timestamptz"), (pa.decimal128(9, 2), "decimal(9,2)")],
)  # fmt: skip
def test_types(arrow: pa.DataType, name: str) -> None:
    assert figures.type_name(arrow) == name
