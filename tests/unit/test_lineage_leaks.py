"""Leaks told by how columns are computed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.craft.learning.findings import from_record
from penstock.craft.lineage.columns import Read, columns_in, reads
from penstock.graph.graph import build
from penstock.ground.errors import QueryError
from penstock.run.leaks import leaks
from penstock.spec.features import after, count, expression, features, max_, mean, on_demand
from penstock.spec.models import Feature, Model, Predictions, by_ratio
from penstock.spec.sources import files
from penstock.spec.tables import Sql, Table, sql

COLUMNS = {
    "raw": ["id", "at", "carrier", "dep_delay", "arr_delay", "plan", "arrived"],
    "scores": ["id", "at", "score", "model_version"],
    "flights": [
        "id",
        "at",
        "carrier",
        "dep_delay",
        "arr_delay",
        "minutes",
        "late",
        "later",
        "span",
        "before",
        "usual",
        "old_score",
        "plan",
    ],
}
FLIGHTS = """
    SELECT r.id, r.at, carrier, dep_delay, arr_delay, arr_delay * 60 AS minutes, arr_delay > 15 AS late, arrived - plan > 15 AS later,
           arrived - plan AS span, lag(arr_delay) OVER (ORDER BY r.at) AS before, avg(arr_delay) OVER (PARTITION BY carrier) AS usual,
           s.score AS old_score, plan
    FROM raw r LEFT JOIN scores s USING (id)"""


def told(*given: Any, label: str = "late", over: str = FLIGHTS, **more: Any) -> list[str]:
    """Columns that leak by lineage."""
    return [f.columns[0] for f in found(*given, label=label, over=over, **more)]


def found(*given: Any, label: str = "late", over: str = FLIGHTS, allow: tuple[str, ...] = (), **assets: Any) -> Any:
    old = Model("old", None, "raw_rows", "late", ("dep_delay",), by_ratio(test=0.2))
    model = Model("m", None, "flights", label, given, by_ratio(test=0.2))
    graph = build(
        {
            "raw": files("*.csv"),
            "raw_rows": Table(
                "raw_rows", query=sql("SELECT id, at, dep_delay, arr_delay > 15 AS late FROM raw"), inputs=("raw",), time="at"
            ),
            "old": old,
            "scores": Predictions("old", "raw_rows"),
            "flights": Table("flights", query=Sql(over), inputs=("raw", "scores"), key=("id",), time="at"),
            "m": model,
            **assets,
        }
    )
    columns = {**COLUMNS, "raw_rows": ["id", "at", "dep_delay", "late"]}
    return leaks(graph, model, columns, name="m", allow=allow)


def test_a_column_of_the_labels_own_source_is_found() -> None:
    findings = found("carrier", "dep_delay", "arr_delay", "minutes")
    assert [(f.kind, f.columns) for f in findings] == [("lineage", ("arr_delay",)), ("lineage", ("minutes",))]
    assert findings[0].reason == "arr_delay is computed from raw.arr_delay, as the label late is, of the same row"
    assert from_record(json.loads(json.dumps(findings[0].as_record()))) == findings[0]
    assert told("late") == ["late"]
    assert told("arr_delay", allow=("arr_delay",)) == []


def test_windows_and_earlier_rows_are_left_to_the_rows_themselves() -> None:
    assert told("before", "usual", "dep_delay") == []
    again = "SELECT a.id, a.at, a.arr_delay > 15 AS late, b.arr_delay AS before FROM raw a LEFT JOIN raw b ON b.id = a.id - 1"
    assert told("before", over=again) == []


def test_of_a_label_of_two_columns_only_what_reads_both_is_said() -> None:
    assert told("plan", "span", label="later") == ["span"]


def test_what_is_computed_on_demand_is_followed() -> None:
    assert told(on_demand(hours="minutes / 60", morning="hour(at) < 12")) == ["hours"]


@pytest.mark.parametrize(("known", "expected"), [("0s", ["f_delay_7d", "f_most_7d", "f_share_7d"]), ("6h", [])])
def test_aggregates_of_the_label_need_a_lag(known: str, expected: list[str]) -> None:
    windowed = features(
        "flights", entity="carrier", time="at", known=after(known), windows=["7d"], n=count("late"), delay=mean("arr_delay"), most=max_("minutes"),
        before=mean("dep_delay"), share=expression("sum(late::INT) / count(*)"),
    )  # fmt: skip
    assert told(Feature("f"), f=windowed) == expected


def test_scores_of_a_model_of_the_same_label_are_found() -> None:
    findings = found("old_score", "dep_delay")
    assert [f.columns for f in findings] == [("old_score",)]
    assert "scores of a model (old) that learnt the same label" in findings[0].reason
    assert told("old_score", label="later") == []


def test_a_function_that_makes_rows_ends_the_trail() -> None:
    def rows(raw: Any, scores: Any) -> None:
        raise AssertionError("never called")

    made = Table("flights", function=rows, inputs=("raw", "scores"), forms=("polars.DataFrame", None), key=("id",), time="at")
    assert told("arr_delay", flights=made) == []


def test_columns_are_followed_through_queries() -> None:
    inputs = {"t": ["x", "Y", "k"], "u": ["k", "z"]}
    assert reads("WITH a AS (SELECT *, x + 1 AS w FROM t) SELECT w * 2 AS v, Y FROM a", inputs) == {
        "v": {Read("t", "x", True)},
        "y": {Read("t", "Y", True)},
    }
    assert reads("SELECT k, sum(x) AS s FROM t GROUP BY ALL", inputs)["s"] == {Read("t", "x", False)}
    assert reads("SELECT t.k, z FROM t LEFT JOIN u USING (k)", inputs)["z"] == {Read("u", "z", True)}
    assert reads("SELECT a.x, b.x AS other FROM t a JOIN t b ON a.k = b.x", inputs)["other"] == {Read("t", "x", False)}
    assert reads("SELECT 1 AS one, nowhere FROM t", inputs) == {"one": frozenset(), "nowhere": frozenset()}
    assert columns_in("sum(x) / nullif(count(y), 0)", ["x", "Y", "z"]) == {"x", "Y"}
    with pytest.raises(QueryError):
        reads("SELECT FROM WHERE", inputs)
