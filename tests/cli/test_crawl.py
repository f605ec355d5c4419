"""`penstock crawl`: what it infers, and that what it writes is Python that runs, whatever the names are."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import penstock
from penstock.ground.errors import SourceError
from penstock.ground.names import asset_name
from penstock.project.crawl import Column, Crawled, alike, bound, compiled, definition, name_of, pattern_of, starter, without_password
from penstock.spec.schema import schema_of
from penstock.spec.sources import Database, Files
from penstock.spec.tables import Sql, Table
from tests.cli.conftest import Shell

HOSTILE = [
    'say "hi"', "it's", '"""', "\\", "a\nb", "# comment", "{x}", "$a", "%s", "select", "Order", "import os", "日本", "a;drop table x", "'); import os; ('",
    "\x1b[31m", "-- x", "tab\there", " lead", "trail\\\"\"\"",
]  # fmt: skip


def write_csv(path: Path, names: list[str], rows: list[list[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([names, *rows])


# -- what is found --------------------------------------------------------------------------------------------------
def test_columns_keys_times_and_options(bare: Callable[[str], Shell]) -> None:
    shell = bare("")
    lines = [f"{i};Shop {i % 3};{i}.5;2024-01-{i % 28 + 1:02d} 10:00:00;{'' if i % 4 else 'x'}" for i in range(1, 101)]
    shell.write("data/2024/Sales Report-01.csv", "OrderID;Shop Name;Amount;Sold At;note\n" + "\n".join(lines) + "\n")
    found = shell.json("crawl", "data/2024/*.csv")["sources"][0]
    assert found["asset"] == "data"
    columns = {c["name"]: c for c in found["columns"]}
    assert {n: c["type"] for n, c in columns.items()} == {
        "OrderID": "long", "Shop Name": "string", "Amount": "double", "Sold At": "timestamp", "note": "string",
    }  # fmt: skip
    assert columns["note"]["nulls"] == 0.75
    assert (found["key"], found["time"], found["rows"], found["files"]) == (["OrderID"], "Sold At", 100, 1)
    assert found["definition"] == 'data = ps.files("data/2024/*.csv", delimiter=";")\n'
    assert '@ps.table(key="order_id", time="sold_at"' in found["starter"]
    assert 'CAST("OrderID" AS BIGINT) AS order_id' in found["starter"]
    assert '"Shop Name" AS shop_name' in found["starter"]


def test_a_key_of_two_columns(bare: Callable[[str], Shell]) -> None:
    shell = bare("")
    write_csv(shell.folder / "w.csv", ["origin", "hour", "temp"], [[o, h, 20.5] for o in "abc" for h in range(24)])
    assert shell.json("crawl", "w.csv")["sources"][0]["key"] == ["origin", "hour"]
    write_csv(shell.folder / "same.csv", ["a", "b"], [[1, 1], [1, 1]])
    assert shell.json("crawl", "same.csv")["sources"][0]["key"] == []


def test_folders_are_partitions(bare: Callable[[str], Shell]) -> None:
    shell = bare("")
    for year in (2023, 2024):
        write_csv(shell.folder / f"sales/year={year}/part.csv", ["id", "amount"], [[year * 10 + i, i] for i in range(5)])
    found = shell.json("crawl", "sales/**/*.csv")["sources"][0]
    assert (found["asset"], found["partitions"], found["files"]) == ("sales", ["year"], 2)


def test_a_folder_of_different_files_gives_a_source_for_each(bare: Callable[[str], Shell]) -> None:
    shell = bare("")
    write_csv(shell.folder / "d/shops.csv", ["code", "name"], [["a", "A"], ["b", "B"]])
    for day in (1, 2):
        write_csv(shell.folder / f"d/sales-{day}.csv", ["id", "code", "amount"], [[day * 10 + i, "a", 1.5] for i in range(3)])
    found = shell.json("crawl", "d")["sources"]
    assert {(s["asset"], s["place"], s["files"]) for s in found} == {("sales", "d/sales-*.csv", 2), ("shops", "d/shops.csv", 1)}
    shell.fine("crawl", "d", "--write")
    shell.fine("run")
    assert shell.json("query", "select count(*) from sales_clean join shops_clean using (code)")["rows"] == [[6]]
    assert len(shell.json("crawl", "d", "--name", "all_of_it")["sources"]) == 1


def test_files_are_alike_if_they_share_half_of_their_columns() -> None:
    files = [
        ("a", schema_of(x="int", y="int")),
        ("b", schema_of(z="int")),
        ("c", schema_of(X="long")),
        ("d", schema_of(z="int", w="int", v="int")),
    ]
    assert alike(files) == [["a", "c"], ["b"], ["d"]]


def test_files_that_differ_are_told(bare: Callable[[str], Shell]) -> None:
    shell = bare("")
    write_csv(shell.folder / "d/a.csv", ["id", "x"], [[1, 2]])
    write_csv(shell.folder / "d/b.csv", ["id", "x", "y"], [[1, 2, 3]])
    assert shell.json("crawl", "d/*.csv")["sources"][0]["differing"] == {"d/a.csv": "without y"}


def test_stdout_is_nothing_but_python(shell: Shell) -> None:
    result = shell("crawl", "data/trips.csv")
    assert set(bound(compiled(result.stdout))) == {"trips", "trips_clean"}
    assert "16 rows looked at" in result.stderr


def test_pinned_columns(bare: Callable[[str], Shell]) -> None:
    shell = bare("")
    write_csv(shell.folder / "d.csv", ["id", "when"], [[1, "2024-01-01"]])
    found = shell.json("crawl", "d.csv", "--pin")["sources"][0]
    made = namespace(found["definition"])["d"]
    assert made.schema is not None
    assert [(f.name, str(f.type)) for f in made.schema] == [("id", "long"), ("when", "date")]


def test_no_file_and_no_table(shell: Shell) -> None:
    assert shell.json("crawl", "data/*.parquet", code=1)["error"]["code"] == "E2001"
    assert shell("crawl").exit_code == 2


def test_nothing_is_left_behind(shell: Shell) -> None:
    shell.fine("crawl", "data/trips.csv")
    assert not list((shell.folder / ".penstock").glob("crawl-*"))


# -- what is written ------------------------------------------------------------------------------------------------
def namespace(*texts: str) -> dict[str, Any]:
    """Runs definitions as a module would, and returns the names they bind."""
    names: dict[str, Any] = {"ps": penstock, "__builtins__": {}}
    exec(compiled("\n\n".join(texts)), names)
    return {n: v for n, v in names.items() if n not in ("ps", "__builtins__")}


@given(
    place=st.text(st.characters(exclude_characters="\0"), min_size=1),
    columns=st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(min_size=1)), min_size=1, max_size=8, unique_by=str.lower),
    options=st.dictionaries(st.sampled_from(["delimiter", "quote", "comment"]), st.text(max_size=3)),
    pin=st.booleans(),
    database=st.booleans(),
)
def test_any_name_gives_python_that_means_it(place: str, columns: list[str], options: dict[str, str], pin: bool, database: bool) -> None:
    found = Crawled(
        name_of(place), place, "csv", tuple(Column(c, t, 0.0, 1, "x") for c, t in zip(columns, ["long", "string", "timestamp"] * 3, strict=False)),
        key=(columns[0],), time=columns[-1], options={} if database else options, table=columns[0] if database else "",
    )  # fmt: skip
    made = namespace(definition(found, pin=pin), starter(found))
    source, table = made.pop(found.asset), made.pop(f"{found.asset}_clean"[:63])
    assert made == {}
    assert isinstance(table, Table)
    assert table.inputs == (found.asset,)
    if database:
        assert isinstance(source, Database)
        assert (source.url, source.table, source.key) == (place, columns[0], (columns[0],))
    else:
        assert isinstance(source, Files)
        assert source.pattern == place
        assert all(dict(options)[k] == v for k, v in source.options)
    if pin:
        assert source.schema is not None
        assert list(source.schema.names) == columns
    query = table(None)
    assert isinstance(query, Sql)
    assert query.text.strip().startswith("SELECT")


def test_hostile_columns_run(bare: Callable[[str], Shell]) -> None:
    shell = bare("")
    names = [n for n in HOSTILE if n.strip() == n and "\n" not in n and "\x1b" not in n]
    write_csv(shell.folder / "d/hostile.csv", ["id", *names], [[i, *("v" for _ in names)] for i in range(3)])
    shell.fine("crawl", "d/hostile.csv", "--write")
    assert shell("run").exit_code == 0, shell("run").output
    assert shell.json("query", "select count(*) from hostile_clean")["rows"] == [[3]]
    assert len(shell.json("show", "hostile_clean")["columns"]) == 1 + len(names)


def test_write_only_ever_adds(shell: Shell) -> None:
    pipeline = shell.folder / "pipeline.py"
    before = pipeline.read_text()
    shell.write("data/shops.csv", "id,name\n1,a\n2,b\n")
    assert "added to pipeline.py: shops, shops_clean" in shell.fine("crawl", "data/shops.csv", "--write")
    assert pipeline.read_text().startswith(before)
    assert {a["name"] for a in shell.json("show")["assets"]} >= {"trips", "shops", "shops_clean"}
    again = shell("crawl", "data/shops.csv", "--write")
    assert again.exit_code == 2
    assert "the name is taken" in again.stderr
    assert "shops" in shell.fine("crawl", "data/shops.csv", "--name", "more_shops", "--write")
    shell.fine("run")


def test_write_uses_the_name_that_the_module_has_for_penstock(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.write("pipeline.py", "import penstock as flow\n\nx = flow.files('d.csv')")
    shell.write("d.csv", "id\n1\n")
    shell.write("e.csv", "id\n1\n2\n")
    shell.fine("crawl", "e.csv", "--write")
    assert 'e = flow.files("e.csv")' in (tmp_path / "pipeline.py").read_text()
    shell.fine("run")


def test_write_brings_the_import_if_there_is_none(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.write("pipeline.py", "")
    shell.write("e.csv", "id\n1\n2\n")
    shell.fine("crawl", "e.csv", "--write")
    assert (tmp_path / "pipeline.py").read_text().startswith("import penstock as ps\n\ne = ps.files(")
    shell.fine("run")


@pytest.mark.parametrize(
    ("place", "name"),
    [("data/flights/*.csv", "flights"), ("data/2013/Flights-*.csv.gz", "flights"), ("s/year=*/part-*.parquet", "part"), ("*.csv", "source"),
     ("data/**/*.csv", "data"), ("class.csv", "class_rows"), ("list.csv", "list_rows"), ("a/weather{1,2}.json", "weather"), ("日本.csv", "source")],
)  # fmt: skip
def test_names(place: str, name: str) -> None:
    assert name_of(place) == name


@given(st.text(min_size=1))
def test_every_place_gives_a_name_that_can_be_one(place: str) -> None:
    assert asset_name(name_of(place)).isidentifier()


def test_several_files_that_a_shell_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "b.csv", "c.txt"):
        (tmp_path / name).touch()
    assert pattern_of(["a.csv", "b.csv"]) == "*.csv"
    assert pattern_of(["a.csv"]) == "a.csv"
    with pytest.raises(SourceError, match="quote the pattern"):
        pattern_of(["a.csv", "c.txt"])


# -- drift ----------------------------------------------------------------------------------------------------------
def test_drift_of_a_source(shell: Shell) -> None:
    shell.fine("run")
    assert "no drift" in shell.fine("crawl", "trips")
    lines = (shell.folder / "data/trips.csv").read_text().splitlines()
    shell.write("data/trips.csv", "\n".join([lines[0].replace("member", "kind"), *lines[1:]]) + "\n")
    told = shell.fine("crawl", "trips")
    assert "its columns differ" in told
    found = shell.json("crawl", "trips")
    assert (found["schema"], found["drifted"], found["added"], found["missing"]) == ("penstock.drift/1", True, ["kind"], ["member"])
    assert shell("crawl", "rides").exit_code == 2


# -- databases ------------------------------------------------------------------------------------------------------
def test_a_database(bare: Callable[[str], Shell]) -> None:
    shell = bare("")
    with sqlite3.connect(shell.folder / "shop.db") as db:
        db.execute('CREATE TABLE "Order Lines" (id INTEGER PRIMARY KEY, "Made At" TIMESTAMP, "a""b" TEXT)')
        db.execute("INSERT INTO \"Order Lines\" VALUES (1, '2024-01-01 10:00:00', 'x'), (2, '2024-01-02 10:00:00', NULL)")
        db.execute("CREATE TABLE shops (code TEXT PRIMARY KEY, name TEXT)")
        db.execute("INSERT INTO shops VALUES ('a', 'A')")
    db.close()
    found = shell.json("crawl", "sqlite:///shop.db")["sources"]
    assert {(s["asset"], s["table"]) for s in found} == {("order_lines", "Order Lines"), ("shops", "shops")}
    assert shell("crawl", "sqlite:///shop.db", "--table", "nope").exit_code == 2
    shell.fine("crawl", "sqlite:///shop.db", "--write")
    shell.fine("run")
    assert shell.json("query", "select count(*) from order_lines_clean")["rows"] == [[2]]
    assert "no drift" in shell.fine("crawl", "shops")


@pytest.mark.parametrize(
    ("url", "left", "written", "secret"),
    [
        ("p://ops:*@db:5432/fleet", "p://ops@db:5432/fleet", "hush", "hush"), ("p://ops:*@db/fleet", "p://ops@db/fleet", "a@b", "a@b"),
        ("p://ops:*@db/fleet", "p://ops@db/fleet", "a%40b", "a@b"), ("p://ops:*@db/fleet?x=1", "p://ops@db/fleet?x=1", "a/b", "a/b"),
        ("p://:*@db/x", "p://@db/x", "hush", "hush"), ("p://ops@db/fleet", "p://ops@db/fleet", "", ""),
        ("p://db:5432/x@y", "p://db:5432/x@y", "", ""), ("sqlite:///a:b@c.db", "sqlite:///a:b@c.db", "", ""),
    ],
)  # fmt: skip
def test_passwords_are_taken_out_of_urls(url: str, left: str, written: str, secret: str) -> None:
    assert without_password(url.replace("*", written)) == (left, secret)


def test_a_password_is_not_written_down() -> None:
    found = Crawled("planes", "postgresql://ops@db/fleet", "database", (), table="planes", password="PLANES_PASSWORD")
    assert namespace(definition(found))["planes"].password == penstock.secret("PLANES_PASSWORD")


def test_options_survive_as_json(bare: Callable[[str], Shell]) -> None:
    shell = bare("")
    shell.write("d.csv", "a|b\n1|NA\n2|3\n")
    found = shell.json("crawl", "d.csv")["sources"][0]
    assert json.dumps(found["options"])
    shell.fine("crawl", "d.csv", "--write")
    shell.fine("run")
    assert shell.json("query", "select a, b from d order by a")["rows"] == [[1, None], [2, 3]]
