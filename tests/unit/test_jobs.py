"""Jobs and flows as declared: what is refused, how commands are filled, which steps a flow has; and their discovery in modules."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.ground.errors import CycleError, DefinitionError, NameRefused, PenstockError, UnknownName, UserCodeError
from penstock.project.discover import Found, found_in
from penstock.spec.automation import Fresh, arrived, automate, cron, failed, fresh, updated
from penstock.spec.jobs import Branch, Each, Flow, Job, Make, argv, branch, command, each, flow, job, names_of, plain, step_named
from penstock.spec.sources import files
from penstock.spec.tables import Sql, Table


@job(retries=3, timeout="10m", memory="1GB", key="at {airport}", at_once=2)
def fetch(given: Any, *, airport: str = "JFK", days: int = 1) -> Any:
    """Gets a day."""
    return [given, airport, days]


@job
def tell(given: Any) -> Any:
    return given


def size_of(given: Any) -> str:
    return "great" if len(given) > 2 else "small"


raw = files("x/*.csv")
departures = Table("departures", query=Sql("SELECT 1 AS x"), inputs=("raw",))


def found(**values: Any) -> Found:
    """What a module with these values declares."""
    module = ModuleType("pipeline")
    vars(module).update(values)
    return found_in([module])


def test_a_function_is_a_job() -> None:
    assert fetch.name == "fetch"
    assert fetch.params == (("airport", "JFK"), ("days", 1))
    assert fetch.takes_input
    assert fetch.doc == "Gets a day."
    assert fetch(1, days=2) == [1, "JFK", 2]
    assert fetch.named("again").name == "again"
    assert not job(lambda_of("f", "*, x=1")).takes_input


def lambda_of(name: str, parameters: str) -> Any:
    space: dict[str, Any] = {}
    exec(f"def {name}({parameters}): ...", space)
    return space[name]


@pytest.mark.parametrize("parameters", ["a, b", "*args", "**more", "a=1", "*, x", "*, x={1, 2}", "*, x=float('nan')", "*, x={1: 2}"])
def test_a_function_that_no_job_can_be_made_of(parameters: str) -> None:
    with pytest.raises(DefinitionError):
        job(lambda_of("f", parameters))


@pytest.mark.parametrize(
    "options",
    [{"retries": -1}, {"retries": 1.5}, {"backoff": "soon"}, {"timeout": "1 month"}, {"memory": "much"}, {"cores": 0}, {"gpus": -1},
     {"at_once": -1}, {"key": "{nothing}"}, {"key": "{x.__class__}"}, {"key": "{x!r}"}, {"key": "{x:>9}"}, {"key": "{"}, {"key": "{}"}],
)  # fmt: skip
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError):
        job(**options)(lambda_of("f", "*, x=1"))


# -- commands -------------------------------------------------------------------------------------------------------
def test_a_value_is_one_argument_whatever_it_holds() -> None:
    made = command("sh -c 'echo \"$0\"' {what} --n={n} '{{kept}}'", params={"what": "x", "n": 3}, name="said")
    value = "a b; rm -rf / $(id) `id` \n'\" *"
    assert argv(made, {"what": value, "n": [1, {"a": None}]}) == ("sh", "-c", 'echo "$0"', value, '--n=[1, {"a": null}]', "{kept}")


@given(st.text(alphabet=st.characters(exclude_characters="\0", codec="utf-8")))
def test_any_text_comes_as_it_is(text: str) -> None:
    made = command(["x", "{v}", "-{v}-"], params={"v": ""})
    assert argv(made, {"v": text}) == ("x", text, f"-{text}-")


def test_a_nul_is_refused() -> None:
    made = command(["x", "{v}"], params={"v": ""})
    with pytest.raises(DefinitionError, match="NUL"):
        argv(made, {"v": "a\0b"})


@pytest.mark.parametrize("text", ["", "   ", "echo 'x", "echo {v", "echo {v}", "echo {0}", "echo {a[b]}", [], ["x\0"], ["x", 3]])
def test_a_bad_command_is_refused(text: Any) -> None:
    with pytest.raises(DefinitionError):
        command(text)


# -- JSON -----------------------------------------------------------------------------------------------------------
def test_json_comes_back_as_json_gives_it() -> None:
    assert plain({"a": (1, 2.5, None, True, "ä\ud83d\ude00"[:1])}, "x") == {"a": [1, 2.5, None, True, "ä"]}


ROUND: list[Any] = []
ROUND.append(ROUND)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, {1: 2}, {"a": {None: 1}}, [{(1,): 2}], {1, 2}, b"x", object(), ROUND, "x" * 1_000_001, "\ud800"],
    ids=lambda v: type(v).__name__,
)  # fmt: skip
def test_what_is_no_json_is_refused(value: Any) -> None:
    with pytest.raises(UserCodeError):
        plain(value, "step")


# -- flows ----------------------------------------------------------------------------------------------------------
def test_the_steps_of_a_flow_have_names() -> None:
    inner = flow(fetch.named("get"), tell.named("say"))
    whole = flow(
        fetch, departures, (tell.named("one"), tell.named("two")), branch(by=size_of, cases={"great": inner, "small": "tell"}, otherwise=raw),
        each(tell.named("item"), over="a.0.b", at_once=2), each((tell.named("x"), inner), name="both"),
    )  # fmt: skip
    made = found(fetch=fetch, tell=tell, departures=departures, raw=raw, inner=inner, whole=whole).flows["whole"]
    assert list(names_of(made)) == [
        "fetch", "departures", "one", "two", "size_of", "inner/get", "inner/say", "tell", "raw", "each_item", "each_item/item", "both",
        "both/x", "both/inner/get", "both/inner/say",
    ]  # fmt: skip
    assert step_named(made, "departures") == Make("departures", "departures")
    assert step_named(made, "each_item[17]/item") == tell.named("item")
    assert isinstance(step_named(made, "size_of"), Branch)
    assert isinstance(step_named(made, "both"), Each)
    with pytest.raises(UnknownName, match="departures"):
        step_named(made, "departure")


def test_an_unnamed_flow_inside_is_a_sequence() -> None:
    made = found(fetch=fetch, tell=tell, whole=flow((flow(fetch, tell), flow(tell.named("other"))))).flows["whole"]
    assert list(names_of(made)) == ["fetch", "tell", "other"]


def test_a_command_is_called_as_its_variable() -> None:
    load = command("load {x}", params={"x": 1})
    made = found(load=load, whole=flow(load), listed=[command("x", name="third")])
    assert made.jobs["load"].name == "load"
    assert made.flows["whole"].steps == (made.jobs["load"],)
    assert made.jobs["third"].command == ("x",)


def test_flows_in_a_circle_are_refused() -> None:
    with pytest.raises(CycleError, match="a -> b -> a"):
        found(a=flow("b"), b=flow((tell, "a")), tell=tell)
    with pytest.raises(CycleError):
        found(a=flow(each("a")))


def deep(levels: int) -> Any:
    step: Any = tell
    for _ in range(levels):
        step = (step,)
    return step


@pytest.mark.parametrize(
    "make",
    [
        lambda: flow(),
        lambda: flow(()),
        lambda: flow(tell, tell),
        lambda: flow(tell, (fetch, tell)),
        lambda: flow(tell, branch(by=size_of, cases={"a": tell})),
        lambda: flow(branch(by=size_of, cases={"a": fetch}), tell.named("size_of")),
        lambda: flow(command("x")),
        lambda: flow(each((tell, fetch))),
        lambda: flow(each(tell, over="a..b")),
        lambda: flow(each(tell, at_once=0)),
        lambda: flow(branch(by=size_of, cases={})),
        lambda: flow(branch(by=lambda_of("f", "a, b"), cases={"a": tell})),
        lambda: flow(branch(by=lambda_of("f", "a, *, b=1"), cases={"a": tell})),
        lambda: flow("nothing"),
        lambda: flow(3),
        lambda: flow(None),
        lambda: flow(Fresh("a")),
        lambda: flow(deep(40)),
        lambda: flow(tell, params={"x": {1}}),
        lambda: flow(tell, name="A flow"),
        lambda: tell.named("a b"),
    ],
)
def test_a_flow_that_cannot_work_is_refused(make: Any) -> None:
    with pytest.raises((DefinitionError, UnknownName)) as caught:
        found(tell=tell, fetch=fetch, whole=make())
    assert isinstance(caught.value, PenstockError)


# -- discovery ------------------------------------------------------------------------------------------------------
def test_an_automation_needs_no_variable() -> None:
    space: dict[str, Any] = {"raw": raw, "departures": departures, "tell": tell, "whole": flow(tell), "automate": automate, "fetch": fetch}
    space |= {"cron": cron, "fresh": fresh, "arrived": arrived, "failed": failed, "updated": updated, "__name__": "pipeline"}
    exec(
        'automate(departures, when=arrived(raw))\nautomate(departures, when=cron("0 5 * * *") & fresh(departures), name="early")\n'
        'evening = automate(whole, when=failed(departures) | updated("raw"))\nautomate(fetch, when=failed(tell), params={"days": 3})',
        space,
    )
    made = found(**space)
    assert {n: a.target for n, a in made.automations.items()} == {
        "evening": "whole", "departures": "departures", "early": "departures", "fetch": "fetch",
    }  # fmt: skip
    assert str(made.automations["early"].when) == "cron(0 5 * * *) & fresh(departures)"
    assert str(made.automations["evening"].when) == "failed(departures) | updated(raw)"
    assert made.automations["fetch"].params == (("days", 3),)
    assert sorted(made.assets) == ["departures", "raw"]
    assert sorted(made.jobs) == ["fetch", "tell"]


@pytest.mark.parametrize(
    ("values", "error", "match"),
    [
        (lambda: {"a": automate(departures, when=cron("0 5 * * *"))}, DefinitionError, "nothing of the project"),
        (lambda: {"departures": departures, "a": automate("departure", when=cron("0 5 * * *"))}, UnknownName, "departures"),
        (lambda: {"tell": tell, "a": automate(tell, when=cron("0 25 * * *"))}, DefinitionError, "Bad hour"),
        (lambda: {"tell": tell, "a": automate(tell, when=cron("0 0 31 4 *"))}, DefinitionError, "cron"),
        (lambda: {"tell": tell, "a": automate(tell, when=arrived("tell"))}, DefinitionError, "a source of files"),
        (lambda: {"tell": tell, "a": automate(tell, when=fresh(tell))}, DefinitionError, "an asset"),
        (lambda: {"tell": tell, "a": automate(tell, when=updated("x"))}, UnknownName, "tell"),
        (lambda: {"tell": tell, "a": automate(tell, when=cron("0 5 * * *"), params={"x": 1})}, DefinitionError, "no such parameter"),
        (lambda: {"fetch": fetch, "a": automate(fetch, when=cron("0 5 * * *"), params={"days": {1}})}, DefinitionError, "JSON"),
        (lambda: {"tell": tell, "__automations__": [automate(tell, when=cron(f"{m} 5 * * *")) for m in (1, 2)]}, DefinitionError, "name="),
        (lambda: {"x": tell, "tell": command("tell")}, DefinitionError, "same name"),
        (lambda: {"departures": departures, "fetch": fetch, "w": [flow(fetch, name="departures")]}, DefinitionError, "same name"),
        (lambda: {"Load": command("x")}, NameRefused, "Load"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(values: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        found(**values())


def test_only_a_condition_can_be_waited_for() -> None:
    with pytest.raises(DefinitionError, match="cron"):
        automate(tell, when="0 5 * * *")  # type: ignore[arg-type]


def test_values_by_hand_are_the_same_as_sugar() -> None:
    made = Flow("whole", (Job("x", command=("echo",)), Each("all", Make("departures"))))
    assert list(names_of(found(whole=made, departures=departures).flows["whole"])) == ["x", "all", "all/departures"]
