"""The page of a run: nothing in it comes from outside or runs, whatever the names and values are."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.graph.graph import build
from penstock.plan.records import Action, Plan, Reason
from penstock.project.drawing import calibration_svg, curves_svg, layers
from penstock.project.report import plan_html, report_html, rows_html, run_html
from penstock.run.execute import AssetResult, RunReport
from penstock.run.ledger import Step
from penstock.spec.sources import files
from penstock.spec.tables import Table, sql
from tests.cli.conftest import Shell

EVIL = "</style></title><script>alert(1)</script><img src=x onerror=alert(2)>\"' onload='x' \x1b[2J javascript:alert(3) ]]>"
TAGS = {
    "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "p", "div", "span", "b", "a", "pre", "code", "small", "br",
    "table", "thead", "tbody", "tr", "th", "td", "svg", "g", "rect", "line", "path", "polyline", "circle", "text",
}  # fmt: skip


class Page(HTMLParser):
    """Reads a page and keeps what stands in it; unbalanced elements are an error."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(k, v or "") for k, v in attrs]
        if tag not in ("meta", "br"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(k, v or "") for k, v in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def harmless(text: str) -> Page:
    page = Page(text)
    assert page.tags <= TAGS
    for name, value in page.attributes:
        assert not name.startswith("on")
        assert name != "src"
        assert name != "href" or re.fullmatch(r"#[a-z0-9_]*", value)
    assert "\x1b" not in text
    return page


def table_of(name: str, *inputs: str) -> Table:
    return Table(name=name, query=sql("SELECT 1"), inputs=inputs)


GRAPH = build({"raw": files("x.csv"), "a": table_of("a", "raw"), "b": table_of("b", "raw", "a"), "c": table_of("c", "raw", "b")})


def report_of(text: str) -> RunReport:
    """A run in which a text stands wherever a name or value from outside can stand."""
    body = {
        "version": text, "rows": 10, "rejected": 3, "mode": text, "kind": "table", "seconds": 1.0,
        "ledger": [Step(text, 10, 7, rejected={text: 3}, note={text: 1}).record(), Step("compute", 1, 1, keeps=False, inputs={text: 1}).record()],
        "checks": [{"check": text, "outcome": "reject", "passed": False, "failures": 3, "text": text}],
    }  # fmt: skip
    model = {
        **body, "metrics": {text: 0.7, "roc_auc": 0.7}, "boundary": text, "train_rows": 1, "test_rows": 1,
        "gates": [{"name": text, "passed": False, "value": 0.5, "slice": text, "reason": text}],
        "slices": [{"column": text, "value": text, "rows": 5, "roc_auc": 0.5}, {"column": text, "value": None, "rows": 5, "roc_auc": 0.6}],
        "calibration": {"predicted": [0.1, 0.5], "observed": [0.2, 0.4], "count": [5, 6]},
        "evaluation": {"overall": {"intervals": {"roc_auc": [0.6, 0.8]}}},
        "curves": {
            "kind": "multiclass", "roc": [{"name": text, "x": [0, 1], "y": [0, 1]}, {"name": text, "x": [0, 0.5, 1], "y": [0, 1, 1]}],
            "confusion": {"classes": [text, "b"], "counts": [[3, 1], [0, 2]]},
        },
        "weak": [{"condition": text, "rows": 60, "loss": 2.0, "elsewhere": 1.0, "p": 0.001}],
        "figures": {"drifts": [{"column": text, "psi": 0.4}, {"column": "calm", "psi": 0.0}]},
    }  # fmt: skip
    error = {"code": "E5001", "kind": text, "message": text, "place": text, "expected": text, "got": text, "hint": text, "traceback": text}
    results = (
        AssetResult("raw", "source", "made", 1.0, body, reasons=(text,)),
        AssetResult("a", "model", "refused", 1.0, model, reasons=(text,)),
        AssetResult("b", "table", "failed", 0.1, error=error),
        AssetResult("c", "table", "skipped", reasons=(text,)),
    )
    return RunReport("01abc", datetime(2026, 1, 1, tzinfo=UTC), 2.0, results)


def test_a_page_escapes_whatever_it_shows() -> None:
    page = harmless(report_html(report_of(EVIL), GRAPH, {}, name=EVIL, level=EVIL))
    assert page.text.count("<script>alert(1)</script>") > 10


@given(st.text())
def test_any_text_can_stand_in_a_page(text: str) -> None:
    harmless(report_html(report_of(text), GRAPH, {}, name=text))


def test_a_page_needs_nothing_else() -> None:
    text = report_html(report_of("x"), GRAPH, {}, name="x")
    assert not re.search(r"https?:|@import|url\(|<link|<script", text)
    assert "default-src 'none'; style-src 'unsafe-inline'" in Page(text).attributes.__str__()


def test_a_page_shows_what_happened() -> None:
    text = Page(report_html(report_of("word"), GRAPH, {}, name="flights")).text
    for part in (
        "flights",
        "run 01abc",
        "10 in = 7 out + 3 rejected (word)",
        "E5001 word: ",
        "Calibration",
        "roc_auc by word",
        ["1", "skipped"][1],
    ):
        assert part in text


def test_parts_for_notebooks_escape_too() -> None:
    plan = Plan((Action(EVIL, EVIL, "stale", reasons=(Reason("code", EVIL),)),))
    for text in (plan_html(plan), run_html(report_of(EVIL)), rows_html(pa.table({EVIL: [EVIL, None]}))):
        assert "<script>alert(1)</script>" in harmless(text).text
    assert "30 rows, 20 shown" in rows_html(pa.table({"a": range(30)}))


def test_every_edge_goes_from_left_to_right() -> None:
    rows = layers(GRAPH)
    depth = {name: i for i, row in enumerate(rows) for name in row}
    assert all(depth[needed] < depth[node.name] for node in GRAPH for needed in node.inputs)
    assert "raw>c@1" in rows[1]
    assert "raw>c@2" in rows[2]
    assert sorted(n for row in rows for n in row if "@" not in n) == ["a", "b", "c", "raw"]


def test_a_wide_project_can_be_drawn() -> None:
    many = {f"t{i}": table_of(f"t{i}", *(f"t{j}" for j in range(max(0, i - 3), i))) for i in range(60)}
    empty = RunReport("r", datetime(2026, 1, 1, tzinfo=UTC), 0.0, ())
    assert harmless(report_html(empty, build(many), {}, name="x")).text.count("t59") >= 1


@pytest.mark.parametrize(
    "curve", [{}, {"predicted": [], "observed": [], "count": []}, {"predicted": [None], "observed": [None], "count": [0]}]
)
def test_no_calibration_no_picture(curve: dict[str, list[float]]) -> None:
    assert calibration_svg(curve) is None


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(1, 10**9)), min_size=1, max_size=20))
def test_every_calibration_stays_in_its_picture(points: list[tuple[float, float, int]]) -> None:
    drawn = calibration_svg(
        {"predicted": [p for p, _, _ in points], "observed": [o for _, o, _ in points], "count": [n for _, _, n in points]}
    )
    assert drawn is not None
    places = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.-]+)" cy="([\d.-]+)"', drawn)]
    assert len(places) == len(points)
    assert all(0 <= x <= 290 and 0 <= y <= 270 for x, y in places)


@given(
    st.lists(
        st.tuples(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9), st.floats(-1e6, 0), st.floats(0, 1e6), st.integers(1, 99)),
        min_size=1,
        max_size=12,
    )
)
def test_every_agreement_stays_in_its_picture(points: list[tuple[float, float, float, float, int]]) -> None:
    drawn = calibration_svg(
        {
            "predicted": [p for p, *_ in points],
            "observed": [o for _, o, *_ in points],
            "count": [n for *_, n in points],
            "residuals": [[low, 0.0, high] for _, _, low, high, _ in points],
        }
    )
    assert drawn is not None
    places = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.-]+)" cy="([\d.-]+)"', drawn)]
    assert len(places) == len(points)
    assert all(44 <= x <= 270 and 0 <= y <= 240 for x, y in places)


def test_curves_of_every_kind_are_drawn() -> None:
    line = {"x": [0.0, 0.5, 1.0], "y": [0.0, 0.9, 1.0]}
    bars = {"edges": [0.0, 0.5, 1.0], "true": [1, 3], "false": [2, 0]}
    binary = {
        "roc": line,
        "precision_recall": line,
        "scores": bars,
        "confusion": {"classes": ["false", "true"], "counts": [[9, 1], [2, 8]]},
    }
    drawn = dict(curves_svg({"kind": "binary", **binary}))
    assert list(drawn) == ["ROC", "Precision and recall", "Confusion", "Scores by label"]
    assert "label true, predicted false: 2, 20.0% of the label" in drawn["Confusion"]
    assert "75.0% of true" in drawn["Scores by label"]
    many = dict(curves_svg({"roc": [{"name": "cat", **line}, {"name": "dog", **line}]}))
    assert many["ROC"].count("<polyline") == 2
    assert ">dog<" in many["ROC"]
    residuals = {"edges": [-2.5e7, 0.0, 2.5e7], "count": [4, 4]}
    assert [t for t, _ in curves_svg({"residuals": residuals, "queries": bars | {"count": [0, 1]}})] == ["Residuals", "NDCG of the queries"]


@pytest.mark.parametrize(
    "curves",
    [
        {},
        {"kind": "binary"},
        {"roc": [], "confusion": {"classes": [], "counts": []}},
        {"roc": {"x": [], "y": []}, "residuals": {"edges": [0, 1], "count": [0]}},
    ],
)
def test_no_curves_no_pictures(curves: dict[str, object]) -> None:
    assert curves_svg(curves) == []


def test_the_page_of_a_real_run(shell: Shell) -> None:
    from pathlib import Path

    text = Path(shell.json("run")["report"]).read_text(encoding="utf-8")
    page = harmless(text)
    for part in ("trips_project", "station_days", "15 in = 13 out + 2 rejected", "not_null(station)", "key(trip_id)"):
        assert part in page.text
