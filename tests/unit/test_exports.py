"""Schedule and dependencies as other schedulers' files: what is said, and that what cannot be said is told."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest

from penstock.craft.exports.airflow import airflow
from penstock.craft.exports.outline import Export, Outline, Part, cron_of, outlines, timing
from penstock.craft.exports.python_text import Code, identifier, quoted, rendered
from penstock.craft.exports.stepfunctions import RESOURCE, stepfunctions
from penstock.ground.errors import DefinitionError
from penstock.spec.automation import Arrived, Automation, Condition, Cron, Every, Failed, Fresh, Not, OnEvent, Updated
from penstock.spec.jobs import Make, branch, command, each, flow, job, resolved

EXPORT = Export("shop", "/srv/shop")
DAY = date(2027, 3, 1)
PARTS = {
    p.name: p for p in (Part("orders", "source"), Part("clean", "table", ("orders",)), Part("report", "table", ("clean",), 'It\'s "it".'))
}


@job(retries=5, backoff="30s", timeout="1h", priority=2, at_once=2, key="mail")
def tell(given: Any, *, to: str = "all") -> Any:
    return given


def choose(given: Any) -> str:
    return str(given)


def night() -> Any:
    step = command("echo {month}", name="load", params={"month": "1"})
    both = each((step, tell.named("note")), over="result.0.files", name="both")
    made = flow(step.named("first"), each(tell.named("one"), over="a b", at_once=3), branch(by=choose, cases={"x": both, 'q"': Make("report")}), tell,
                name="night", params={"to": "it's", "month": "2"})  # fmt: skip
    return resolved(made, lambda s: s)


def whole(*automations: Automation) -> tuple[Outline, ...]:
    found = {a.name or a.target: a for a in automations}
    return outlines("shop", PARTS, {"tell": tell}, {"night": night()}, found)


def dag(text: str, name: str) -> dict[str, Any]:
    """Keyword arguments of a DAG in a file, as code."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "DAG":
            found = {k.arg or "": ast.unparse(k.value) for k in node.keywords}
            if found["dag_id"] == repr(name):
                return found
    raise AssertionError(f"no DAG {name}")


# -- when -----------------------------------------------------------------------------------------------------------
FIVE, NIGHT = Cron("0 5 * * *", "Europe/Vienna"), Cron("0 2 * * *")


@pytest.mark.parametrize(
    ("when", "ticks", "polled", "gates", "by_hand", "missing"),
    [
        (FIVE, (FIVE,), (), (), (), 0),
        (FIVE | NIGHT, (FIVE, NIGHT), (), (), (), 0),
        (FIVE & Fresh("clean"), (FIVE,), (), (("clean", True),), (), 0),
        (FIVE & Not(Fresh("clean")) & Arrived("orders"), (FIVE,), (), (("clean", False), ("orders", False)), (), 0),
        ((FIVE | Every("1h")) & Fresh("clean"), (FIVE, Every("1h")), (), (("clean", True),), (), 0),
        (Arrived("orders"), (), ("orders",), (), (), 0),
        (Arrived("orders", ".done"), (), (), (), (), 1),
        (Arrived("orders") | FIVE, (FIVE,), (), (), (), 1),
        ((FIVE & Fresh("clean")) | NIGHT, (NIGHT,), (), (), (), 1),
        (OnEvent("ask") | NIGHT, (NIGHT,), (), (), ("ask",), 0),
        (FIVE & NIGHT, (), (), (), (), 1),
        (FIVE & Updated("clean"), (), (), (), (), 1),
        (Fresh("clean"), (), (), (), (), 1),
        (Failed("clean"), (), (), (), (), 1),
        (FIVE.since(NIGHT), (), (), (), (), 1),
    ],
)
def test_conditions_are_said_as_far_as_they_can_be(
    when: Condition, ticks: Any, polled: Any, gates: Any, by_hand: Any, missing: int
) -> None:
    found = timing(when)
    assert (found.ticks, found.polled, found.gates, found.by_hand) == (ticks, polled, gates, by_hand)
    assert len(found.missing) == missing


@pytest.mark.parametrize(
    ("span", "line"),
    [("1m", "* * * * *"), ("10m", "*/10 * * * *"), ("60m", "0 * * * *"), ("6h", "0 */6 * * *"), ("1d", "0 0 * * *"), ("7d", "0 0 * * 4"),
     ("7m", None), ("5h", None), ("30s", None), ("2d", None), ("90s", None)],
)  # fmt: skip
def test_a_span_is_a_cron_line_only_where_both_tick_alike(span: str, line: str | None) -> None:
    assert cron_of(Every(span)) == line


def test_every_automation_is_one_outline_and_steps_of_flows_are_none_of_their_own() -> None:
    found = whole(Automation("report", FIVE), Automation("tell", OnEvent("ask"), "asked"))
    assert [o.name for o in found] == ["shop", "shop.asked", "shop.report", "shop.night"]
    assert [p.name for p in found[0].parts] == ["orders", "clean", "report"]
    assert [p.name for p in whole(Automation("clean", FIVE))[1].parts] == ["orders", "clean"]


# -- Airflow --------------------------------------------------------------------------------------------------------
def test_dags_are_formatted_the_same_each_time_and_need_no_name_that_is_not_there() -> None:
    made = airflow(whole(Automation("night", FIVE & Fresh("clean")), Automation("clean", Arrived("orders"))), EXPORT, start=DAY)
    text = dict(made.files)["penstock_shop.py"]
    assert airflow(whole(Automation("night", FIVE & Fresh("clean")), Automation("clean", Arrived("orders"))), EXPORT, start=DAY) == made
    for asked in (["format", "--check", "--line-length", "140"], ["check", "--isolated", "--select", "F,E9"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *asked, "-"], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "import penstock" not in text
    assert json.loads(dict(made.files)["pools.json"]) == {
        "penstock.mail": {"description": "jobs of Penstock with this key", "include_deferred": False, "slots": 2}
    }


@pytest.mark.parametrize(
    ("when", "schedule", "catchup"),
    [
        (FIVE, "CronTriggerTimetable('0 5 * * *', timezone='Europe/Vienna', run_immediately=True)", "False"),
        (Cron("0 5 * * *", "UTC", "none"), "CronTriggerTimetable('0 5 * * *', timezone='UTC', run_immediately=False)", "False"),
        (Cron("0 5 * * *", "UTC", "all"), "CronTriggerTimetable('0 5 * * *', timezone='UTC', run_immediately=False)", "True"),
        (NIGHT | Every("6h"), "MultipleCronTriggerTimetable('0 2 * * *', '0 */6 * * *', timezone='UTC', run_immediately=True)", "False"),
        (Every("7m"), "DeltaTriggerTimetable(timedelta(seconds=420))", "False"),
        (Arrived("orders"), "CronTriggerTimetable('* * * * *', timezone='UTC')", "False"),
        (OnEvent("ask"), "None", "False"),
    ],
)
def test_a_schedule_is_said_as_airflow_says_it(when: Condition, schedule: str, catchup: str) -> None:
    made = airflow(whole(Automation("report", when)), EXPORT, start=DAY)
    told = dag(dict(made.files)["penstock_shop.py"], "shop.report")
    assert (told["schedule"], told["catchup"], told["max_active_runs"]) == (schedule, catchup, "1")
    assert ("start_date" in told) == (catchup == "True")


def test_what_airflow_has_no_words_for_stands_in_the_file() -> None:
    made = airflow(whole(Automation("report", NIGHT | FIVE | Updated("clean"))), EXPORT, start=DAY)
    text = dict(made.files)["penstock_shop.py"]
    assert [name for name, _ in made.missing] == ["shop.report"] * 2
    assert all(reason in text for _, reason in made.missing)
    assert {reason.split(":")[0] for _, reason in made.missing} == {"updated(clean)", "times in Europe/Vienna"}


def test_a_path_that_airflow_would_read_as_a_template_is_refused() -> None:
    with pytest.raises(DefinitionError):
        airflow(whole(), Export("shop", "/srv/{{ x }}"), start=DAY)


@pytest.mark.parametrize("text", ["plain", 'a "b"', "it's", 'it\'s "it"', "back\\slash\n", "ä\x00\x7f", "'"])
def test_texts_as_code_are_the_texts(text: str) -> None:
    assert ast.literal_eval(quoted(text)) == text
    assert ast.literal_eval(rendered({"a": [text, 1, None], text: {}})) == {"a": [text, 1, None], text: {}}
    assert rendered(Code("f(x)")) == "f(x)"


def test_identifiers() -> None:
    assert [identifier(t) for t in ("a.b", "1st", "", "ä")] == ["a_b", "_1st", "_", "_"]


# -- Step Functions -------------------------------------------------------------------------------------------------
def machines(value: Any) -> Iterator[dict[str, Any]]:
    """All state machines in a definition: its own, those of branches and of items."""
    if isinstance(value, dict):
        if "StartAt" in value:
            yield value
        for inner in value.values():
            yield from machines(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from machines(inner)


def following(state: dict[str, Any]) -> set[str]:
    return {state.get("Next"), state.get("Default"), *(c["Next"] for c in state.get("Choices", []))} - {None}


@pytest.mark.parametrize("when", [None, FIVE & Fresh("clean") & Arrived("orders"), Arrived("orders"), OnEvent("ask")])
@pytest.mark.parametrize("target", ["night", "report", "tell"])
def test_every_state_can_be_reached_and_leads_somewhere(when: Condition | None, target: str) -> None:
    made = stepfunctions(
        [o for o in whole(*([Automation(target, when)] if when is not None else [])) if o.target == target], EXPORT, start=DAY
    )
    for definition in (json.loads(text) for name, text in made.files if name.endswith(".asl.json")):
        names: list[str] = []
        for machine in machines(definition):
            names += machine["States"]
            reached, waiting = set(), [machine["StartAt"]]
            while waiting:
                name = waiting.pop()
                state = machine["States"][name]
                assert state["Type"] in ("Succeed", "Fail", "Choice") or state.get("End") or "Next" in state
                if name not in reached:
                    reached.add(name)
                    waiting += following(state)
            assert reached == set(machine["States"])
        assert len(names) == len(set(names))


def test_states_have_the_limits_of_their_jobs() -> None:
    text = dict(stepfunctions(whole(Automation("tell", NIGHT)), EXPORT, start=DAY).files)["shop.tell.asl.json"]
    state = json.loads(text)["States"]["tell"]
    assert (state["Resource"], state["TimeoutSeconds"], state["End"]) == (RESOURCE, 3600, True)
    assert [(r["ErrorEquals"][0], r["IntervalSeconds"], r["MaxAttempts"]) for r in state["Retry"]] == [
        ("Penstock.Temporary", 30, 5), ("States.ALL", 30, 5)
    ]  # fmt: skip
    assert state["Parameters"] == {"command": ["penstock", "-C", "/srv/shop", "run", "--step", "tell"], "input.$": "$"}


def test_assets_that_do_not_need_each_other_stand_side_by_side() -> None:
    parts = {p.name: p for p in (Part("a", "source"), Part("b", "source"), Part("c", "table", ("a",)), Part("d", "table", ("a",)))}
    made = stepfunctions(outlines("shop", parts, {}, {}, {}), EXPORT, start=DAY)
    states = json.loads(dict(made.files)["shop.asl.json"])["States"]
    assert list(states) == ["side by side"]
    (first, second) = states["side by side"]["Branches"]
    assert list(first["States"]) == ["a", "rank 2"]
    assert [b["StartAt"] for b in first["States"]["rank 2"]["Branches"]] == ["c", "d"]
    assert list(second["States"]) == ["b"]


@pytest.mark.parametrize(
    ("when", "expressions", "zone"),
    [
        (FIVE, ["cron(0 5 * * ? *)"], "Europe/Vienna"),
        (Cron("30 5 * * 1-5"), ["cron(30 5 ? * MON,TUE,WED,THU,FRI *)"], "UTC"),
        (Cron("*/15 */2 1 jan-mar 0"), ["cron(0/15 0/2 1 JAN-MAR ? *)", "cron(0/15 0/2 ? JAN-MAR SUN *)"], "UTC"),
        (Cron("0 0 * * 6-7,3"), ["cron(0 0 ? * SAT,SUN,WED *)"], "UTC"),
        (Cron("0 0 * * 5#2"), ["cron(0 0 ? * 6#2 *)"], "UTC"),
        (Every("7m"), ["rate(7 minutes)"], "UTC"),
        (Every("30s"), [], ""),
        (Arrived("orders"), ["cron(* * * * ? *)"], "UTC"),
        (OnEvent("ask"), [], ""),
    ],
)
def test_a_schedule_is_said_as_eventbridge_says_it(when: Condition, expressions: list[str], zone: str) -> None:
    made = stepfunctions(whole(Automation("report", when)), EXPORT, start=DAY)
    found = [json.loads(text) for name, text in made.files if ".schedule" in name]
    assert [f["ScheduleExpression"] for f in found] == expressions
    assert {f["ScheduleExpressionTimezone"] for f in found} <= {zone}
    assert len({f["Name"] for f in found}) == len(found)


def test_long_names_of_states_stay_apart() -> None:
    parts = {p.name: p for p in (Part(f"{'a' * 60}{i}", "table") for i in range(2))}
    made = stepfunctions([Outline("x", "x", when=Arrived("b" * 63), parts=tuple(parts.values()))], EXPORT, start=DAY)
    names = [n for m in machines(json.loads(made.files[0][1])) for n in m["States"]]
    assert max(map(len, names)) <= 80
    assert len(names) == len(set(names))
