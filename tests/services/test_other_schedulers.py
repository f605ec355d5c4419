"""Exports held against the real programs: DAGs run by Airflow 3, state machines read by a validator of the states language."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import pytest

from penstock.craft.schedule.cron import ticks
from penstock.project.project import Project
from tests.services.airflow import Airflow
from tests.services.environment import environment

pytestmark = pytest.mark.service

#: Ours, as it is installed beside this Python.
COMMAND = shutil.which("penstock", path=str(Path(sys.executable).parent)) or "penstock"
ORDERS = "order_id,shop,amount\n1,harbour,3\n2,market,4\n3,harbour,5\n"
PIPELINE = """
import pathlib
import penstock as ps
import pyarrow as pa
from penstock.spec.automation import arrived, automate, cron, fresh
from penstock.spec.jobs import branch, each, flow, job

orders = ps.files("data/orders.csv")


@ps.table(key="order_id")
def clean(orders):
    return ps.sql("SELECT * FROM orders WHERE amount > 0")


@ps.table
def per_shop(clean):
    return ps.sql("SELECT shop, sum(amount) AS amount FROM clean GROUP BY shop")


@ps.table
def wrong(clean: pa.Table) -> pa.Table:
    raise ValueError("on purpose")


@ps.table
def below(wrong):
    return ps.sql("SELECT * FROM wrong")


@job
def shops(given):
    return {"names": given["names"]}


@job
def load(name, *, folder="in"):
    print("not the output")
    return f"{folder}/{name}"


def how_many(given):
    return "few" if len(given) < 2 else "many"


@job
def few(given):
    return {"few": given}


@job
def many(given):
    return {"many": given}


@job(retries=1, backoff="1s", at_once=1, key="mail")
def tell(given):
    pathlib.Path(__file__).with_name("told.txt").write_text(str(given))
    return "told"


nightly = flow(
    shops, each(load, over="names"), branch(by=how_many, cases={"few": few, "many": many}), (tell, per_shop), params={"folder": "new"}
)
automate(per_shop, when=cron("30 5 * * MON-FRI", tz="Europe/Vienna"))
automate(nightly, when=cron("0 2 * * *", catch_up="none") & ~fresh(clean), name="night")
automate(clean, when=arrived(orders), name="landing")
automate(below, when=cron("0 4 1 * *", catch_up="all"))
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with its exports for both schedulers."""
    folder = tmp_path_factory.mktemp("exports") / "shop"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "orders.csv").write_text(ORDERS)
    (folder / "pipeline.py").write_text(PIPELINE)
    with Project.open(folder) as project:
        start = datetime(2027, 3, 1, tzinfo=UTC)
        project.export("airflow", folder / "dags", command=COMMAND, start=start)
        project.export("stepfunctions", folder / "states", resource="arn:aws:lambda:eu-central-1:123456789012:function:penstock")
    return folder


def amounts(shop: Path) -> dict[str, int]:
    with Project.open(shop) as project:
        return {row["shop"]: int(row["amount"]) for row in project.query("SELECT shop, amount FROM per_shop")}


def order(shop: Path, number: int) -> None:
    """One more order comes in."""
    with (shop / "data" / "orders.csv").open("a") as file:
        file.write(f"{number},market,1\n")


def test_airflow_reads_the_names_the_schedule_and_the_dependencies_of_the_project(airflow: Airflow, shop: Path) -> None:
    since = datetime(2027, 3, 25, tzinfo=UTC)
    dags = airflow.read(shop / "dags", since.isoformat())
    assert set(dags) == {"shop", "shop.per_shop", "shop.night", "shop.landing", "shop.below"}
    assert all(d["max_active_runs"] == 1 and d["tags"] == ["penstock", "shop"] for d in dags.values())
    with Project.open(shop) as project:
        assert {t: d["above"] for t, d in dags["shop"]["tasks"].items()} == {n.name: sorted(n.inputs) for n in project.graph}
        needed = {n: sorted(project.graph.node(n).inputs) for n in ("orders", "clean", "per_shop")}
    assert {t: d["above"] for t, d in dags["shop.per_shop"]["tasks"].items()} == needed
    for name, line, zone in (
        ("per_shop", "30 5 * * MON-FRI", "Europe/Vienna"),
        ("night", "0 2 * * *", "UTC"),
        ("below", "0 4 1 * *", "UTC"),
    ):
        told = [datetime.fromisoformat(run) for run in dags[f"shop.{name}"]["runs"]]
        assert told == list(islice(ticks(line, zone, since), 5)), name
    assert dags["shop"]["runs"] == []
    assert {d: v["catchup"] for d, v in dags.items() if v["catchup"]} == {"shop.below": True}
    steps = dags["shop.night"]["tasks"]
    assert steps["shops"]["above"] == ["stale_clean"]
    assert steps["tell"] == {"above": ["how_many.end"], "retries": 3, "pool": "penstock.mail"}


def test_a_dag_makes_the_assets_in_order_and_a_failure_stops_what_stands_below(airflow: Airflow, shop: Path) -> None:
    order(shop, number=10)
    ended = airflow.test(shop / "dags", "shop")
    assert ended == {"orders": "success", "clean": "success", "per_shop": "success", "wrong": "failed", "below": "upstream_failed"}
    began = list(ended)
    assert began.index("orders") < began.index("clean") < began.index("per_shop")
    assert amounts(shop)["harbour"] == 8
    assert airflow.tries("shop", "wrong") == 1


def test_steps_hand_on_json_and_only_the_chosen_case_runs(airflow: Airflow, shop: Path) -> None:
    order(shop, number=20)
    ended = airflow.test(shop / "dags", "shop.night", {"names": ["harbour", "market"]})
    assert ended.pop("few") == "skipped"
    assert set(ended.values()) == {"success"}
    assert {"stale_clean", "each_load.load[0]", "each_load.load[1]", "many"} < set(ended)
    assert airflow.gave("shop.night", "each_load") == ["new/harbour", "new/market"]
    told, made = airflow.gave("shop.night", "together_1")
    assert (told, made["asset"]) == ("told", "per_shop")
    assert (shop / "told.txt").read_text() == "{'many': ['new/harbour', 'new/market']}"


def test_an_empty_list_of_items_is_no_skipped_flow(airflow: Airflow, shop: Path) -> None:
    order(shop, number=30)
    ended = airflow.test(shop / "dags", "shop.night", {"names": []})
    assert (ended["each_load"], ended["few"], ended["many"], ended["together_1"]) == ("success", "success", "skipped", "success")
    assert airflow.gave("shop.night", "few") == {"few": []}


def test_what_is_polled_is_skipped_until_a_file_came(airflow: Airflow, shop: Path) -> None:
    with Project.open(shop) as project:
        project.run("clean")
    assert set(airflow.test(shop / "dags", "shop.landing").values()) == {"skipped"}
    order(shop, number=40)
    assert set(airflow.test(shop / "dags", "shop.landing").values()) == {"success"}
    with Project.open(shop) as project:
        assert project.plan("clean").nothing


def test_what_may_pass_is_tried_again(airflow: Airflow, shop: Path, tmp_path: Path) -> None:
    """A program that is busy once (exit code 3) and then is Penstock."""
    program = tmp_path / "once_busy"
    mark = shlex.quote(str(tmp_path / "was_busy"))
    program.write_text(f'#!/bin/sh\n[ -e {mark} ] || {{ touch {mark}; exit 3; }}\nexec {shlex.quote(COMMAND)} "$@"\n')
    program.chmod(0o755)
    with Project.open(shop) as project:
        project.export("airflow", tmp_path / "dags", command=str(program), select=["landing", "clean"])
    text = next((tmp_path / "dags").glob("*.py")).read_text()
    (tmp_path / "dags" / "penstock_shop.py").write_text(text.replace("timedelta(seconds=10)", "timedelta(seconds=0)"))
    ended = airflow.test(tmp_path / "dags", "shop.clean")
    assert set(ended.values()) == {"success"}
    assert airflow.tries("shop.clean", "orders") == 2


def test_state_machines_are_valid(shop: Path) -> None:
    validator = environment("statelint") / "statelint"
    machines = sorted((shop / "states").glob("*.asl.json"))
    assert {m.name for m in machines} == {f"shop{n}.asl.json" for n in ("", ".below", ".landing", ".night", ".per_shop")}
    for machine in machines:
        said = subprocess.run([validator, machine], capture_output=True, text=True, check=False)
        assert (said.returncode, said.stdout, said.stderr) == (0, "", ""), machine.name
    broken = shop / "states" / "broken.json"
    broken.write_text(machines[0].read_text().replace('"StartAt": "', '"StartAt": "no '))
    assert "no " in subprocess.run([validator, broken], capture_output=True, text=True, check=False).stdout
