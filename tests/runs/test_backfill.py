"""Backfills: only slices of the range that are missing or touched, a commit for each, the rest as it was; then the table is fresh."""

from __future__ import annotations

import time
from typing import Any

import pytest

from penstock.ground.errors import DefinitionError
from penstock.project import jobs
from penstock.run.backfill import span

PIPELINE = """
raw = ps.files("data/*.csv", columns={"id": "long", "amount": "long", "ts": "timestamp"})

@ps.table(time="month", key="month", write=ps.slices("month", of="raw", on="ts"LOOK))
def monthly(raw):
    return ps.sql("SELECT date_trunc('month', ts) AS month, sum(amount) AS total FROM raw GROUP BY 1")

@ps.table
def whole(raw):
    return ps.sql("SELECT id FROM raw")
"""
HEAD = "id,amount,ts\n"


def pipeline(look: str = "") -> str:
    return PIPELINE.replace("LOOK", look)


def filled(shop: Any, first: str, last: str = "", **more: Any) -> Any:
    with shop.open() as project:
        return project.backfill("monthly", first, last, **more)


def totals(shop: Any) -> dict[str, int]:
    return {
        str(r["month"])[:7]: int(r["total"]) for r in shop.rows("SELECT CAST(month AS VARCHAR) AS month, total FROM monthly ORDER BY 1")
    }


@pytest.fixture
def year(shop: Any) -> Any:
    shop.write("data/a.csv", HEAD + "".join(f"{m},{m},2013-{m:02}-05\n" for m in range(1, 13)))
    shop.pipeline(pipeline())
    return shop


def test_only_missing_slices_of_the_range_are_made_one_commit_each(year: Any) -> None:
    first = filled(year, "2013-03", "2013-05")
    assert list(first.jobs) == ["2013-03", "2013-04", "2013-05"]
    assert first.left == 9
    assert totals(year) == {"2013-03": 3, "2013-04": 4, "2013-05": 5}
    assert year.plan()["monthly"].status == "stale"
    with year.open() as project:
        assert len(project.runtime.lake.history("monthly")) == 3
    again = filled(year, "2013-03", "2013-06")
    assert list(again.jobs) == ["2013-06"]


def test_after_the_last_slice_the_table_is_fresh_and_a_run_has_nothing_to_do(year: Any) -> None:
    filled(year, "2013-01", "2013-06")
    assert filled(year, "2013").left == 0
    assert totals(year) == {f"2013-{m:02}": m for m in range(1, 13)}
    assert year.plan("monthly")["monthly"].status == "fresh"
    assert not filled(year, "2013").jobs
    assert year.made("monthly")["monthly"] == "fresh"


def test_a_run_in_the_middle_of_a_backfill_makes_all(year: Any) -> None:
    filled(year, "2013-01", "2013-02")
    assert year.made("monthly")["monthly"] == "made"
    assert totals(year) == {f"2013-{m:02}": m for m in range(1, 13)}
    assert not filled(year, "2013").jobs


def test_late_rows_touch_their_slice_and_those_that_look_back(year: Any) -> None:
    year.pipeline(pipeline(", lookback=1"))
    year.made()
    year.write("data/late.csv", HEAD + "99,100,2013-07-09\n")
    found = filled(year, "2013")
    assert list(found.jobs) == ["2013-07", "2013-08"]
    assert found.left == 0
    assert totals(year) == {f"2013-{m:02}": m + 100 * (m == 7) for m in range(1, 13)}
    assert year.plan("monthly")["monthly"].status == "fresh"


def test_rows_that_come_after_a_slice_was_made_touch_it_again(year: Any) -> None:
    filled(year, "2013-01", "2013-06")
    year.write("data/late.csv", HEAD + "99,100,2013-02-09\n")
    assert list(filled(year, "2013-01", "2013-06").jobs) == ["2013-02"]
    assert totals(year)["2013-02"] == 102


def test_new_code_makes_every_slice_stale_until_the_last_is_made(year: Any) -> None:
    year.made()
    year.pipeline(pipeline().replace("sum(amount)", "sum(amount) * 10"))
    assert list(filled(year, "2013-01", "2013-02").jobs) == ["2013-01", "2013-02"]
    assert totals(year) == {f"2013-{m:02}": m * (10 if m < 3 else 1) for m in range(1, 13)}
    assert year.plan("monthly")["monthly"].status == "stale"
    assert len(filled(year, "2013").jobs) == 10
    assert year.plan("monthly")["monthly"].status == "fresh"
    year.pipeline(pipeline())
    assert len(filled(year, "2013").jobs) == 12, "what was recorded of slices ends with the version they belong to"
    assert totals(year) == {f"2013-{m:02}": m for m in range(1, 13)}


def test_a_slice_that_fails_leaves_its_rows_and_the_others_go_on(year: Any) -> None:
    year.made()
    fails = "CASE WHEN month(ts) = 2 THEN error('no') ELSE amount END"
    code = pipeline().replace("sum(amount)", f"sum({fails})").replace("FROM raw GROUP", "FROM raw WHERE true GROUP")
    year.pipeline(code)
    found = filled(year, "2013-02", "2013-02")
    assert list(found.failed) == ["2013-02"]
    assert totals(year) == {f"2013-{m:02}": m for m in range(1, 13)}


def test_a_worker_does_slices_that_are_queued(year: Any) -> None:
    from penstock.run.backfill import _queued
    from penstock.run.execute import Newest

    with year.open() as project:
        project.run("raw")
        assert Newest(project.state)["raw"]
        job = _queued(project.graph.node("monthly"), "2013-04-01 00:00:00", "key", "some-run", {}, 0)
        project.state.queue.enqueue([job], now=project.clock.now())
        done = jobs.carry(project, "some-run", lambda job, status: None)
        assert [(job.name, job.status) for job in done] == [("slice:monthly@2013-04", "done")]
    assert totals(year) == {"2013-04": 4}
    assert [*filled(year, "2013-03", "2013-04").jobs] == ["2013-03"]


def test_what_has_no_slices_is_refused_and_told_what_to_declare(year: Any) -> None:
    with year.open() as project:
        for name, got in (("whole", "replace"), ("raw", "source")):
            with pytest.raises(DefinitionError) as raised:
                project.backfill(name, "2013")
            assert raised.value.got == got
            assert "ps.slices" in str(raised.value.hint)


@pytest.mark.parametrize("text", ["", "2013-13", "2013-02..2013-01", "2013..", "..2013", "today", "2013-1", "2014-01..2013"])
def test_a_range_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(DefinitionError):
        span(text)


def test_a_range_ends_with_all_of_its_last_moment() -> None:
    assert span("2013-01..2013") == ("2013-01", "2013")
    assert span("2013-01-05T03") == ("2013-01-05 03", "2013-01-05 03")


def test_a_thousand_slices_are_planned_in_seconds(shop: Any) -> None:
    from penstock.run.backfill import stale_slices

    shop.write("data/a.csv", HEAD + "".join(f"{i},1,{1950 + i // 12}-{i % 12 + 1:02}-05\n" for i in range(1000)))
    shop.pipeline(pipeline())
    with shop.open() as project:
        project.run("raw")
        began = time.perf_counter()
        found = stale_slices(project.graph.node("monthly"), project.declared()["monthly"], project.runtime)
        assert len(found) == 1000
        assert time.perf_counter() - began < 5
