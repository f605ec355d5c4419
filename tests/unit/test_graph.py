"""The graph: order, circles, unknown names, selection."""

from __future__ import annotations

import pytest

from penstock.graph.graph import Graph, build
from penstock.graph.select import select
from penstock.ground.errors import CycleError, DefinitionError, NameRefused, UnknownName
from penstock.spec.features import count, features
from penstock.spec.models import by_time, model, predictions, with_names
from penstock.spec.sources import files
from penstock.spec.tables import Sql, Table


def table(name: str, *inputs: str) -> Table:
    return Table(name, query=Sql("SELECT 1 AS x"), inputs=inputs)


@pytest.fixture
def diamond() -> Graph:
    tables = [table("b", "raw"), table("c", "raw"), table("d", "b", "c"), table("alone")]
    return build({"raw": files("x.csv"), **{t.name: t for t in tables}})


def test_inputs_stand_before_their_users(diamond: Graph) -> None:
    order = list(diamond.nodes)
    assert order.index("raw") < order.index("b") < order.index("d")
    assert diamond.upstream("d") == ("raw", "b", "c")
    assert diamond.downstream("raw") == ("b", "c", "d")


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        ((), {"raw", "b", "c", "d", "alone"}),
        (("d",), {"d"}),
        (("+d",), {"raw", "b", "c", "d"}),
        (("b+",), {"b", "d"}),
        (("+b+",), {"raw", "b", "d"}),
        (("b,c",), {"b", "c"}),
        (("b", "c"), {"b", "c"}),
        (("kind:source",), {"raw"}),
        (("[bc]",), {"b", "c"}),
    ],
)
def test_selection(diamond: Graph, patterns: tuple[str, ...], chosen: set[str]) -> None:
    assert set(select(diamond, patterns)) == chosen


def test_needed_adds_what_is_above(diamond: Graph) -> None:
    assert select(diamond, ["b"], needed=True) == ("raw", "b")


def test_a_selection_of_nothing_names_what_is_near(diamond: Graph) -> None:
    with pytest.raises(UnknownName, match="alone"):
        select(diamond, ["alon"])


def test_a_circle_is_named() -> None:
    with pytest.raises(CycleError, match=r"a -> b -> a|b -> a -> b"):
        build({"a": table("a", "b"), "b": table("b", "a")})


def test_an_asset_that_needs_itself() -> None:
    with pytest.raises(CycleError):
        build({"a": table("a", "a")})


def test_an_unknown_input_names_what_is_near() -> None:
    with pytest.raises(UnknownName, match="did you mean `flights`"):
        build({"flights": files("x.csv"), "a": table("a", "fligths")})


@pytest.mark.parametrize("name", ["A", "a b", "1a", "a__rejected", "a;drop table b", "", "a" * 64, "größe"])
def test_names_are_plain(name: str) -> None:
    with pytest.raises(NameRefused):
        build({name: files("x.csv")})


def test_wrong_kinds_are_refused() -> None:
    raw = files("x.csv")

    @model(over="raw", label="y", features=["a"], split=by_time(test="30d"))
    def m(train: object) -> None: ...

    with pytest.raises(DefinitionError, match="wrong kind"):
        build({"raw": raw, "m": m, "f": features("m", entity="a", time="t", windows=["1d"], n=count())})
    with pytest.raises(DefinitionError, match="wrong kind"):
        build({"raw": raw, "p": predictions("raw", over="raw")})


def test_references_become_names() -> None:
    raw = files("x.csv")
    made = features(raw, entity="a", time="t", windows=["1d"], n=count())
    assert with_names(made, lambda ref: "raw" if ref is raw else "other").over == "raw"


def test_a_long_chain_is_no_deeper_than_a_short_one() -> None:
    chain = {f"t{i}": table(f"t{i}", *([f"t{i - 1}"] if i else [])) for i in range(5_000)}
    assert list(build(chain).nodes) == [f"t{i}" for i in range(5_000)]
