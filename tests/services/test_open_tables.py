"""Tables written by Penstock, opened by others: plain pyiceberg, Polars, and a real Spark on the same catalog rows; and back again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog.sql import SqlCatalog

from penstock.adapters.lake.iceberg import IcebergLake
from penstock.ground.clock import SystemClock
from penstock.ground.ids import SystemIds
from penstock.ports.adapters import Context
from penstock.ports.lake import Snapshot
from penstock.spec.partitions import by, month
from penstock.spec.schema import Schema, schema_of
from penstock.testing.parquet import Row, rows_of, written
from tests.services.spark import Spark, session

pytestmark = pytest.mark.service


@dataclass(frozen=True)
class Place:
    """One lake for the whole module, and Spark beside it."""

    folder: Path
    lake: IcebergLake
    spark: Spark

    def catalog(self) -> SqlCatalog:
        return SqlCatalog("penstock", uri=f"sqlite:///{self.folder}/.penstock/state.db", warehouse=(self.folder / "lake").as_uri())

    def put(self, table: str, schema: Schema, rows: Sequence[Row], token: str, **drafting: Any) -> Snapshot:
        draft = self.lake.draft(table, schema, **drafting)
        return self.lake.commit(draft, [written(draft, rows)], token=token)

    def replace(self, table: str, schema: Schema, rows: Sequence[Row], token: str, **drafting: Any) -> Snapshot:
        draft = self.lake.draft(table, schema, exact=True, **drafting)
        return self.lake.commit(draft, [written(draft, rows)], token=token, remove="*")

    def ours(self, table: str, version: str | None = None) -> list[dict[str, Any]]:
        return rows_of(self.lake.scan(table, version=version))

    def require_same_rows(self, table: str, *, spark_only: bool = False) -> None:
        """Every reader must give the rows that we read by field id."""
        want = self.ours(table)
        columns = self.lake.scan(table).schema.names
        told = self.spark.sql(f"SELECT {', '.join(columns)} FROM penstock.main.{table}")
        assert sorted(told) == sorted([[_spark(r[c]) for c in columns] for r in want])
        if not spark_only:
            iceberg = self.catalog().load_table(f"main.{table}")
            assert _sorted(iceberg.scan().to_arrow().to_pylist()) == _sorted(want)
            assert _sorted(polars.scan_iceberg(iceberg).collect().to_dicts()) == _sorted(want)


def _sorted(rows: Sequence[Row]) -> list[str]:
    return sorted(repr(sorted(r.items())) for r in rows)


def _spark(value: Any) -> str:
    """What `repr` gives in Spark's Python for a value of ours."""
    if isinstance(value, dict):
        return "Row(" + ", ".join(f"{k}={_spark(v)}" for k, v in value.items()) + ")"
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        return "{" + ", ".join(f"{_spark(k)}: {_spark(v)}" for k, v in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_spark(v) for v in value) + "]"
    if isinstance(value, datetime):
        return repr(value.replace(tzinfo=None))
    return repr(value)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("open")
    patch = pytest.MonkeyPatch()
    patch.setenv("POLARS_ICEBERG_PLANNER", "pyiceberg")  # its own planner is a package that we do not ask for
    clock = SystemClock()
    lake = IcebergLake.open((folder / "lake").as_uri(), Context(folder / ".penstock", clock, SystemIds(clock), str))
    assert lake.tables() == []
    for spark in session(folder / ".penstock/state.db", folder / "lake"):
        yield Place(folder, lake, spark)
    patch.undo()


def test_spark_is_the_version_we_promise(place: Place) -> None:
    assert place.spark.version.startswith("4.1.")


def test_every_type_is_the_same_everywhere(place: Place) -> None:
    schema = schema_of(
        b="boolean", i="int", n="long", f="float", d="double", m="decimal(9,2)", s="string", x="binary", day="date", at="timestamp",
        instant="timestamptz", list="list<long>", home="struct<street:string,no:int>", extra="map<string,double>",
    )  # fmt: skip
    full = {
        "b": True, "i": -(2**31), "n": 2**63 - 1, "f": 1.5, "d": -0.0, "m": Decimal("-1234567.25"), "s": "ü'\"\n" * 9, "x": b"\x00\xff",
        "day": date(1969, 12, 31), "at": datetime(1969, 12, 31, 23, 59, 59, 999_999), "instant": datetime(2026, 3, 29, 1, tzinfo=UTC),  # noqa: DTZ001
        "list": [1, None, 3], "home": {"street": "A", "no": None}, "extra": [("k", 0.5)],
    }  # fmt: skip
    place.put("kinds", schema, [full, dict.fromkeys(schema.names)], "t1")
    place.put("kinds", schema, [{"n": n, "s": f"x{n}"} for n in range(100)], "t2")
    place.require_same_rows("kinds", spark_only=True)
    arrow = place.catalog().load_table("main.kinds").scan(selected_fields=tuple(n for n in schema.names if n != "home")).to_arrow()
    assert _sorted(arrow.to_pylist()) == _sorted([{k: v for k, v in r.items() if k != "home"} for r in place.ours("kinds")])


def test_renames_drops_and_widenings_are_the_same_everywhere(place: Place) -> None:
    place.put("moves", schema_of(id="int", s="string", d="double", f="float"), [{"id": 1, "s": "a", "d": 0.5, "f": 1.5}], "t1")
    place.require_same_rows("moves")
    renamed = schema_of(id="int", label="string", d="double", f="float")
    place.put("moves", renamed, [{"id": 2, "label": "b"}], "t2", renamed={"label": "s"})
    place.require_same_rows("moves")
    reused = schema_of(id="long", label="string", d="double", f="double", s="string")
    place.put("moves", reused, [{"id": 2**40, "s": "new", "f": 0.1}], "t3")
    place.require_same_rows("moves")
    kept = [{k: r[k] for k in ("id", "label", "s")} for r in place.ours("moves")]
    before = place.lake.snapshot("moves")
    place.replace("moves", schema_of(id="long", label="string", s="string"), kept, "t4")
    place.require_same_rows("moves")
    place.put("moves", schema_of(id="long", label="string", d="string", s="string"), [{"id": 4, "d": "now a text"}], "t5")
    place.require_same_rows("moves")
    assert before is not None
    told = place.spark.sql(f"SELECT id, label, d, f, s FROM penstock.main.moves VERSION AS OF {before.version}")
    assert sorted(told) == sorted([[_spark(r[c]) for c in ("id", "label", "d", "f", "s")] for r in place.ours("moves", before.version)])


def test_members_renamed_and_added_are_the_same_in_spark(place: Place) -> None:
    old = schema_of(id="long", home="struct<street:string,town:string>", tags="list<struct<k:string,v:long>>")
    rows: list[Row] = [{"id": 1, "home": {"street": "A", "town": "Ulm"}, "tags": [{"k": "x", "v": 1}]}, {"id": 2, "tags": None}]
    place.put("nested", old, rows, "t1")
    new = schema_of(id="long", home="struct<street:string,city:string,zip:string>", tags="list<struct<name:string,v:long>>")
    more: list[Row] = [{"id": 3, "home": {"street": "B", "city": "Bonn", "zip": "5"}, "tags": []}]
    place.put("nested", new, more, "t2", renamed={"home.city": "home.town", "tags.element.name": "tags.element.k"})
    place.require_same_rows("nested", spark_only=True)


def test_partitions_are_found_by_filters(place: Place) -> None:
    schema = schema_of(id="long", town="string", at="timestamp")
    want: list[tuple[Row, list[Any]]] = [
        ({"id": 1, "town": "Ulm", "at": datetime(2013, 3, 1)}, ["Ulm", 518]),  # noqa: DTZ001
        ({"id": 2, "town": None, "at": datetime(1969, 12, 31, 23)}, [None, -1]),  # noqa: DTZ001
        ({"id": 3, "town": "", "at": None}, ["", None]),
    ]
    for n, (row, values) in enumerate(want):
        draft = place.lake.draft("parts", schema, partition=[by("town"), month("at")])
        place.lake.commit(draft, [written(draft, [row], partition=values)], token=f"t{n}")
    place.require_same_rows("parts")
    for condition, number in {
        "town IS NULL": 2,
        "town = 'Ulm'": 1,
        "town = ''": 3,
        "at < TIMESTAMP '1970-01-01'": 2,
        "at IS NULL": 3,
    }.items():
        assert place.spark.sql(f"SELECT id FROM penstock.main.parts WHERE {condition}") == [[str(number)]]
    rows: list[Row] = [{"id": 9, "at": "no time any more"}]
    place.replace("parts", schema_of(id="long", at="string"), rows, "t9")
    place.require_same_rows("parts")
    place.put("parts", schema_of(id="long", at="string"), [{"id": 10, "at": "x"}], "t10")
    place.require_same_rows("parts")


def test_tokens_and_versions_are_seen(place: Place) -> None:
    made = [place.put("seen", schema_of(id="long"), [{"id": n}], f"token {n}") for n in range(40)]
    told = place.spark.sql(
        "SELECT summary['penstock.token'], snapshot_id FROM penstock.main.seen.snapshots ORDER BY committed_at, snapshot_id"
    )
    assert sorted(told) == sorted([[repr(s.token), s.version] for s in made])
    place.require_same_rows("seen")
    moment = made[10].at.strftime("%Y-%m-%d %H:%M:%S.%f")
    assert place.spark.sql(f"SELECT count(*) FROM penstock.main.seen TIMESTAMP AS OF '{moment}'") == [["11"]]
    draft = place.lake.draft("seen", schema_of(id="long"))
    scan = place.lake.scan("seen")
    place.lake.commit(draft, [written(draft, rows_of(scan))], token="c", remove=[f.path for f in scan.files], operation="compact")
    place.require_same_rows("seen")
    place.lake.commit(place.lake.draft("seen", schema_of(id="long")), [], token="empty", remove="*")
    place.require_same_rows("seen")


def test_what_spark_writes_is_read_and_goes_on(place: Place) -> None:
    first = place.put("shared", schema_of(id="long", s="string"), [{"id": n, "s": f"s{n}"} for n in range(10)], "t1")
    place.spark.sql("INSERT INTO penstock.main.shared VALUES (100, 'from spark')")
    appended = place.lake.changes("shared", since=first.version)
    assert appended.only_appends
    assert [f.rows for f in appended.added.files] == [1]
    assert appended.added.files[0].schema_id is None
    place.spark.sql("ALTER TABLE penstock.main.shared RENAME COLUMN s TO label")
    place.put("shared", schema_of(id="long", label="string"), [{"id": 200, "label": "after"}], "t2")
    place.require_same_rows("shared")
    assert len(place.ours("shared")) == 12


def test_rows_that_spark_deletes_in_place_are_passed_on_as_deletes(place: Place) -> None:
    first = place.put("deleted", schema_of(id="long"), [{"id": n} for n in range(10)], "t1")
    place.spark.sql("ALTER TABLE penstock.main.deleted SET TBLPROPERTIES ('write.delete.mode' = 'merge-on-read')")
    place.spark.sql("DELETE FROM penstock.main.deleted WHERE id < 3")
    (file,) = place.lake.scan("deleted").files
    assert len(file.deletes) == 1
    positions = pq.read_table(file.deletes[0]).to_pydict()
    assert positions["pos"] == [0, 1, 2]
    newest = place.lake.snapshot("deleted")
    assert newest is not None
    assert newest.rows == 7
    assert [f.deletes for f in place.lake.changes("deleted", since=first.version).added.files] == [file.deletes]
    draft = place.lake.draft("deleted", schema_of(id="long"))
    place.lake.commit(draft, [written(draft, [{"id": n} for n in range(3, 10)])], token="c", remove=[file.path], operation="compact")
    place.require_same_rows("deleted")


def test_upkeep_of_spark_and_ours_leave_the_same_rows(place: Place) -> None:
    for n in range(12):
        place.put("kept", schema_of(id="long"), [{"id": n}], f"t{n}")
    place.spark.sql("CALL penstock.system.rewrite_data_files(table => 'main.kept', options => map('min-input-files', '2'))")
    newest = place.lake.snapshot("kept")
    assert newest is not None
    assert (newest.operation, newest.files) == ("compact", 1)
    assert place.lake.expire("kept", keep=1, before=datetime(9999, 1, 1, tzinfo=UTC)) == 12
    assert len(place.lake.remove_orphans("kept", older_than=datetime(9999, 1, 1, tzinfo=UTC))) > 12
    place.require_same_rows("kept")
    place.put("kept", schema_of(id="long"), [{"id": 99}], "t99")
    place.require_same_rows("kept")
    assert sorted(r["id"] for r in place.ours("kept")) == [*range(12), 99]


def test_a_table_that_spark_made_is_taken_over(place: Place) -> None:
    place.spark.sql(
        "CREATE TABLE penstock.main.theirs (id BIGINT NOT NULL, m DECIMAL(5,2), xs ARRAY<INT>) USING iceberg TBLPROPERTIES ('format-version'='2')"
    )
    assert place.lake.snapshot("theirs") is None
    place.put("theirs", schema_of(id="long", m="decimal(5,2)", xs="list<int>"), [{"id": 1, "m": Decimal("1.25"), "xs": [1]}], "t1")
    place.spark.sql("INSERT INTO penstock.main.theirs VALUES (2, 2.5, array(2))")
    place.require_same_rows("theirs")


def test_version_three_is_refused_by_name(place: Place) -> None:
    place.spark.sql("CREATE TABLE penstock.main.newer (id BIGINT) USING iceberg TBLPROPERTIES ('format-version'='3')")
    place.spark.sql("INSERT INTO penstock.main.newer VALUES (1)")
    with pytest.raises(NotImplementedError, match="format-version 3"):
        place.lake.scan("newer")
    place.spark.sql("DROP TABLE penstock.main.newer")
    assert "newer" not in place.lake.tables()
