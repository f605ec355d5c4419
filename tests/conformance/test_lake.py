"""The lake suite over every lake, and what only the Iceberg one can be asked."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import Table

from penstock.adapters.lake.iceberg import IcebergLake
from penstock.ground.digest import digest
from penstock.ground.errors import CommitConflict, CommitUnknown, FileIdsWrong, SettingsError, StorageError, StorageFull, Unsupported
from penstock.ground.failpoints import armed, full
from penstock.ports.adapters import Context
from penstock.ports.lake import DataFile, Lake
from penstock.spec.partitions import bucket, by, month
from penstock.spec.schema import schema_of
from penstock.testing.clock import START, ManualClock, SeededIds
from penstock.testing.lakes import FaultyLake, MemoryLake, WeakLake, append_often, make_once
from penstock.testing.parquet import arrow_schema, rows_of, written
from penstock.testing.suites.lake import *  # noqa: F403
from penstock.testing.suites.lake import EVERY, FAR, IDS, TRIPS, compacted, ids, land, put, replace_all, rows, some


class StepClock(ManualClock):
    """Moves on by a second with each reading."""

    def now(self) -> datetime:
        return self.advance(1)


def context(folder: Path, *, seed: int = 0, **options: Any) -> Context:
    return Context(folder / ".penstock", StepClock(), SeededIds(seed), lambda name: "", options)


def iceberg(folder: Path, *, seed: int = 0) -> IcebergLake:
    return IcebergLake.open((folder / "lake").as_uri(), context(folder, seed=seed))


MAKERS: dict[str, Callable[[Path, int], Lake]] = {
    "memory": lambda folder, seed: MemoryLake(folder, StepClock()),
    "weak": lambda folder, seed: WeakLake(folder, StepClock()),
    "faulty": lambda folder, seed: FaultyLake(MemoryLake(folder, StepClock()), seed=seed, share=0.4),
    "iceberg": lambda folder, seed: iceberg(folder),
    "faulty iceberg": lambda folder, seed: FaultyLake(iceberg(folder), seed=seed, share=0.4),
}


@pytest.fixture(params=MAKERS)
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    return MAKERS[request.param](tmp_path, int(digest(request.node.name), 16) % 1000)


@pytest.fixture
def real(tmp_path: Path) -> IcebergLake:
    return iceberg(tmp_path)


def catalog(folder: Path) -> SqlCatalog:
    """The same tables as anybody with pyiceberg sees them."""
    return SqlCatalog("penstock", uri=f"sqlite:///{folder}/.penstock/state.db", warehouse=(folder / "lake").as_uri())


def plain(folder: Path, table: str = "trips") -> Table:
    return catalog(folder).load_table(f"main.{table}")


# -- seen by pyiceberg ----------------------------------------------------------------------------------------------
def test_pyiceberg_sees_the_same_table(real: IcebergLake, tmp_path: Path) -> None:
    made = put(real, "trips", TRIPS, [{"id": 1, "town": "Ulm"}, {"id": 2}], token="t1")
    table = plain(tmp_path)
    assert catalog(tmp_path).list_tables("main") == [("main", "trips")]
    assert table.metadata.format_version == 2
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    assert str(snapshot.snapshot_id) == made.version
    assert snapshot.summary["penstock.token"] == "t1"
    assert table.scan().to_arrow().to_pylist() == rows(real, "trips")
    assert table.properties["commit.retry.num-retries"] == "20"


def test_pyiceberg_reads_what_renames_and_drops_left(real: IcebergLake, tmp_path: Path) -> None:
    put(real, "trips", schema_of(id="int", s="string", d="double"), [{"id": 1, "s": "a", "d": 0.5}], token="t1")
    put(real, "trips", schema_of(id="long", label="string", d="double", s="string"), some(2**40), token="t2", renamed={"label": "s"})
    dropped = schema_of(id="long", label="string", s="string")
    draft = real.draft("trips", dropped, exact=True)
    land(real, draft, [written(draft, [{k: r[k] for k in dropped.names} for r in rows(real, "trips")])], token="t3", remove="*")
    put(real, "trips", schema_of(id="long", label="string", d="string", s="string"), [{"d": "new", "s": "x"}], token="t4")
    seen = plain(tmp_path).scan().to_arrow().to_pylist()
    assert sorted(seen, key=repr) == sorted(rows(real, "trips"), key=repr)
    assert [(r["label"], r["d"], r["s"]) for r in rows(real, "trips")] == [("a", None, None), (None, None, None), (None, "new", "x")]


def test_pyiceberg_finds_rows_by_partition_and_bounds(real: IcebergLake, tmp_path: Path) -> None:
    for n, (town, moment) in enumerate([("Ulm", datetime(2013, 3, 1)), (None, datetime(2013, 4, 1)), ("", None)]):  # noqa: DTZ001
        draft = real.draft("trips", TRIPS, partition=[by("town"), month("at")])
        value = None if moment is None else (moment.year - 1970) * 12 + moment.month - 1
        land(real, draft, [written(draft, [{"id": n, "town": town, "at": moment}], partition=[town, value])], token=f"t{n}")
    table = plain(tmp_path)
    assert [len(table.scan(row_filter=f).to_arrow()) for f in ("town is null", "town = 'Ulm'", "town = ''", "id = 1")] == [1, 1, 1, 1]
    assert len(list(table.scan(row_filter="at >= '2013-04-01T00:00:00'").plan_files())) == 1
    assert len(list(table.scan(row_filter="id > 1").plan_files())) == 1


def test_pyiceberg_appends_and_evolves_and_we_go_on(real: IcebergLake, tmp_path: Path) -> None:
    first = put(real, "trips", schema_of(id="long", s="string"), [{"id": 1, "s": "a"}], token="t1")
    table = plain(tmp_path)
    table.append(pa.table({"id": [2], "s": ["b"]}))
    with table.update_schema() as update:
        update.rename_column("s", "label")
    (ours, theirs) = real.scan("trips").files
    assert (ours.schema_id, theirs.schema_id) == (0, None)
    assert real.history("trips")[-1].token == ""
    put(real, "trips", schema_of(id="long", label="string"), [{"id": 3, "label": "c"}], token="t2")
    assert [r["label"] for r in rows(real, "trips")] == ["a", "b", "c"]
    came = real.changes("trips", since=first.version)
    assert came.only_appends
    assert [f.rows for f in came.added.files] == [1, 1]


def test_files_written_by_duckdb_pass_with_every_type(real: IcebergLake, tmp_path: Path) -> None:
    kinds = {
        "a": "boolean", "b": "int", "c": "long", "d": "float", "e": "double", "f": "decimal(9,2)", "g": "string", "h": "binary", "i": "date",
        "j": "time", "k": "timestamp", "l": "timestamptz", "m": "uuid", "n": "list<struct<x:int>>", "o": "map<string,double>",
        "p": "decimal(38,4)",
    }  # fmt: skip
    draft = real.draft("trips", schema_of(**kinds))
    number = {f.name: f.id for f in draft.schema}
    (element,) = draft.schema.field("n").type.fields
    key, value = draft.schema.field("o").type.fields
    fields = ", ".join(f"{k}: {number[k]}" for k in kinds if k not in "no")
    fields += f", n: {{__duckdb_field_id: {number['n']}, element: {{__duckdb_field_id: {element.id}, x: {element.type.fields[0].id}}}}}"
    fields += f", o: {{__duckdb_field_id: {number['o']}, key: {key.id}, value: {value.id}}}"
    path = f"{draft.folder}/duck-s0-0.parquet"
    duckdb.sql(
        f"""COPY (
            SELECT true a, 1::INT b, 2::BIGINT c, 0.5::FLOAT d, 'nan'::DOUBLE e, 1.25::DECIMAL(9,2) f, 'ü' g, '\\x00'::BLOB h,
                DATE '0001-01-01' i, TIME '01:02:03' j, TIMESTAMP '2013-01-01' k, TIMESTAMPTZ '2013-01-01 00:00:00+00' l, uuid() m,
                [{{'x': 1}}] n, MAP {{'k': 0.5::DOUBLE}} o, 1.25::DECIMAL(38,4) p
            UNION ALL SELECT {", ".join("NULL" for _ in kinds)}
        ) TO '{path}' (FORMAT parquet, FIELD_IDS {{{fields}}})"""
    )
    land(real, draft, [DataFile(path, 2, os.path.getsize(path), (), 0)], token="t")
    assert len(plain(tmp_path).scan(row_filter="g = 'ü'").to_arrow()) == 1


def test_statistics_are_those_that_pyiceberg_makes(real: IcebergLake) -> None:
    from pyiceberg.io.pyarrow import compute_statistics_plan, data_file_statistics_from_parquet_metadata, parquet_path_to_id_mapping
    from pyiceberg.schema import Schema as IcebergSchema

    from penstock.adapters.lake.iceberg.columns import schema_json
    from penstock.adapters.lake.iceberg.footers import statistics

    draft = real.draft("trips", schema_of(**{f"c{n}": kind for n, kind in enumerate([*EVERY, "decimal(5,2)", "decimal(15,2)", "string"])}))
    names = draft.schema.names
    extra = [
        [Decimal("1.25"), Decimal("-9.99")],
        [Decimal("1.25"), Decimal("-99999.99")],
        ["\U0010ffff" * 20, "a" * 15 + "\U0010ffff" + "b"],
    ]
    columns = [[*values[:2], None] for values in (*EVERY.values(), *extra)]
    table = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)], arrow_schema(draft.schema))
    for rows_per_group in (1, 2, 10):
        path = f"{draft.folder}/{rows_per_group}.parquet"
        pq.write_table(table, path, row_group_size=rows_per_group)
        footer = pq.read_metadata(path)
        theirs = IcebergSchema.model_validate(schema_json(draft.schema, 0))
        mapping = parquet_path_to_id_mapping(theirs)
        want = data_file_statistics_from_parquet_metadata(footer, compute_statistics_plan(theirs, {}), mapping).to_serialized_dict()
        leaves = [mapping[footer.schema.column(i).path] for i in range(footer.num_columns)]
        got = statistics(footer, leaves, {f.field_id: f.field_type for f in theirs.fields if f.field_type.is_primitive})
        assert got == want


def test_buckets_are_kept(real: IcebergLake, tmp_path: Path) -> None:
    draft = real.draft("trips", IDS, partition=[bucket(4, "id")])
    land(real, draft, [written(draft, some(5), partition=[3]), written(draft, [{}], partition=[None])], token="t")
    assert [f.partition for f in real.scan("trips").files] == [(3,), (None,)]
    assert str(plain(tmp_path).spec().fields[0].transform) == "bucket[4]"


# -- what other engines leave behind --------------------------------------------------------------------------------
def doctored(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the newest metadata file of `trips` in place."""
    place = Path(plain(folder).metadata_location.removeprefix("file://"))
    meta = json.loads(place.read_bytes())
    change(meta)
    place.write_text(json.dumps(meta))


@pytest.mark.parametrize("number", [1, 3])
def test_another_format_version_is_refused_by_name(real: IcebergLake, tmp_path: Path, number: int) -> None:
    put(real, "trips", IDS, some(1), token="t")
    doctored(tmp_path, lambda meta: meta.update({"format-version": number}))
    fresh = iceberg(tmp_path, seed=1)
    for call in (lambda: fresh.snapshot("trips"), lambda: fresh.scan("trips"), lambda: fresh.draft("trips", IDS)):
        with pytest.raises(Unsupported, match=f"format-version {number}"):
            call()


def test_a_type_that_is_not_ours_is_refused_by_name(real: IcebergLake, tmp_path: Path) -> None:
    put(real, "trips", IDS, some(1), token="t")
    doctored(tmp_path, lambda meta: meta["schemas"][0]["fields"][0].update({"type": "fixed[7]"}))
    with pytest.raises(Unsupported, match=r"trips\[id\].*fixed\[7\]"):
        iceberg(tmp_path, seed=1).snapshot("trips")


def test_required_columns_of_other_engines_become_optional(real: IcebergLake, tmp_path: Path) -> None:
    put(real, "trips", IDS, some(1), token="t1")
    doctored(tmp_path, lambda meta: meta["schemas"][0]["fields"][0].update({"required": True}))
    fresh = iceberg(tmp_path, seed=1)
    put(fresh, "trips", IDS, [{"id": None}], token="t2")
    assert [f.required for f in plain(tmp_path).schema().fields] == [False]
    assert [r["id"] for r in rows(fresh, "trips")] == [1, None]


def with_deletes(real: IcebergLake, folder: Path, *, content: str, file_format: str) -> None:
    """Adds a delete file to `trips`, as another engine does: a manifest of content `deletes` in a new snapshot."""
    from pyiceberg.manifest import DataFile as IcebergFile
    from pyiceberg.manifest import DataFileContent, FileFormat, ManifestContent, ManifestEntryStatus, ManifestWriterV2
    from pyiceberg.typedef import Record

    from penstock.adapters.lake.iceberg import manifests

    class DeleteWriter(ManifestWriterV2):
        def content(self) -> ManifestContent:
            return ManifestContent.DELETES

        @property
        def _meta(self) -> dict[str, str]:
            return {**super()._meta, "content": "deletes"}

    head = real._heads.newest("trips")
    assert head is not None
    assert head.current is not None
    table = plain(folder)
    target = real.scan("trips").files[0].path
    path = f"{folder}/lake/main/trips/data/00000-deletes.parquet"
    pq.write_table(pa.table({"file_path": [f"file://{target}"], "pos": pa.array([0], pa.int64())}), path)
    file = IcebergFile.from_args(
        content=DataFileContent[content], file_path=f"file:{path}", file_format=FileFormat[file_format], partition=Record(), record_count=1,
        file_size_in_bytes=os.path.getsize(path), equality_ids=[1] if content == "EQUALITY_DELETES" else None,
    )  # fmt: skip
    number = head.current["sequence-number"] + 1
    place = f"{folder}/lake/main/trips/metadata"
    output = manifests.FILES.new_output(f"file://{place}/deletes-m.avro")
    with DeleteWriter(table.spec(), table.schema(), output, 42, "null") as out:
        out.add_entry(manifests._entry(ManifestEntryStatus.ADDED, 42, None, file))
    writer = manifests.Writer(place, 42, lambda: "deletes", head.meta)
    every = [*manifests.of(head.current), out.to_manifest_file()]
    snapshot = {
        "snapshot-id": 42, "parent-snapshot-id": head.current["snapshot-id"], "sequence-number": number,
        "timestamp-ms": head.meta["last-updated-ms"] + 1, "schema-id": head.schema_id,
        "manifest-list": writer.list(every, head.current["snapshot-id"], number),
        "summary": {**head.current["summary"], "operation": "delete", **manifests.totals(every, 1), "penstock.token": ""},
    }  # fmt: skip
    from penstock.adapters.lake.iceberg.metadata import with_snapshot

    assert real._heads.replaced(head, "trips", with_snapshot(head.meta, snapshot)) is not None


def test_position_deletes_are_passed_on(real: IcebergLake, tmp_path: Path) -> None:
    first = put(real, "trips", IDS, some(1, 2), token="t1")
    with_deletes(real, tmp_path, content="POSITION_DELETES", file_format="PARQUET")
    (file,) = real.scan("trips").files
    assert file.deletes == (f"{tmp_path}/lake/main/trips/data/00000-deletes.parquet",)
    assert real.snapshot("trips").rows == 1  # type: ignore[union-attr]
    found = real.changes("trips", since=first.version)
    assert ([f.deletes for f in found.removed.files], [f.deletes for f in found.added.files]) == ([()], [file.deletes])
    made = put(real, "trips", IDS, some(3), token="t2")
    assert [f.deletes for f in real.scan("trips").files] == [file.deletes, ()]
    assert made.rows == 2
    real.remove_orphans("trips", older_than=FAR)
    assert os.path.exists(file.deletes[0])


def test_deletes_go_with_the_files_they_apply_to(real: IcebergLake, tmp_path: Path) -> None:
    put(real, "trips", IDS, some(1, 2), token="t1")
    with_deletes(real, tmp_path, content="POSITION_DELETES", file_format="PARQUET")
    draft = real.draft("trips", IDS)
    old = [f.path for f in real.scan("trips").files]
    made = land(real, draft, [written(draft, some(2))], token="t2", remove=old, operation="compact")
    assert (made.rows, made.files) == (1, 1)
    assert [f.deletes for f in real.scan("trips").files] == [()]
    assert ids(real, "trips") == [2]


def test_rows_deleted_meanwhile_do_not_come_back(real: IcebergLake, tmp_path: Path) -> None:
    put(real, "trips", IDS, some(1, 2), token="t1")
    draft = real.draft("trips", IDS)
    old = [f.path for f in real.scan("trips").files]
    with_deletes(real, tmp_path, content="POSITION_DELETES", file_format="PARQUET")
    with pytest.raises(CommitConflict, match="deleted rows"):
        land(real, draft, [written(draft, some(1, 2))], token="t2", remove=old, operation="compact")


@pytest.mark.parametrize(
    ("content", "file_format", "told"), [("EQUALITY_DELETES", "PARQUET", "equality deletes"), ("POSITION_DELETES", "PUFFIN", "puffin")]
)
def test_deletes_that_nobody_here_reads_are_refused_by_name(
    real: IcebergLake, tmp_path: Path, content: str, file_format: str, told: str
) -> None:
    put(real, "trips", IDS, some(1), token="t1")
    with_deletes(real, tmp_path, content=content, file_format=file_format)
    with pytest.raises(Unsupported, match=told):
        real.scan("trips")


# -- what is checked of files ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("long", pa.string()),
        ("int", pa.int64()),
        ("timestamp", pa.timestamp("us", "UTC")),
        ("timestamp", pa.timestamp("ns")),
        ("decimal(5,2)", pa.decimal128(5, 3)),
    ],
)
def test_a_file_with_another_type_is_refused(real: IcebergLake, kind: str, found: pa.DataType) -> None:
    draft = real.draft("trips", schema_of(x=kind))
    right = arrow_schema(draft.schema)
    with pytest.raises(FileIdsWrong, match=r"trips\[x\]"):
        land(real, draft, [written(draft, [{"x": None}], schema=right.set(0, right.field(0).with_type(found)))], token="t")


def test_a_file_named_for_another_schema_is_refused(real: IcebergLake) -> None:
    draft = real.draft("trips", IDS)
    file = written(draft, some(1))
    other = file.path.replace("-s0-", "-s7-")
    os.rename(file.path, other)
    with pytest.raises(StorageError, match="another schema"):
        land(real, draft, [replace(file, path=other)], token="t")


def test_a_file_from_elsewhere_is_refused(real: IcebergLake) -> None:
    put(real, "other", IDS, some(1), token="t")
    draft = real.draft("trips", IDS)
    with pytest.raises(StorageError, match="folder"):
        land(real, draft, [real.scan("other").files[0]], token="t")
    file = written(draft, some(1))
    with pytest.raises(StorageError, match="twice"):
        land(real, draft, [file, file], token="t")


def test_a_damaged_file_is_refused(real: IcebergLake) -> None:
    draft = real.draft("trips", IDS)
    file = written(draft, some(1))
    Path(file.path).write_bytes(b"PAR1 no footer")
    with pytest.raises(StorageError, match="no Parquet"):
        land(real, draft, [file], token="t")


def test_a_draft_of_another_lake_is_refused(real: IcebergLake, tmp_path: Path) -> None:
    foreign = MemoryLake(tmp_path / "m", StepClock()).draft("trips", IDS)
    with pytest.raises(StorageError, match="another lake"):
        real.commit(foreign, [], token="t")


# -- several processes ----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def processes() -> Iterator[Any]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["penstock.testing.lakes", "penstock.adapters.lake.iceberg.commit", "pandas"])  # pyarrow looks for it
    with context.Pool(4) as pool:
        yield pool


def opener(folder: Path, seed: int) -> Callable[[], IcebergLake]:
    """Opens the lake in another process; light to import there."""
    place = Context(folder / ".penstock", ManualClock(), SeededIds(seed), str)
    return partial(IcebergLake.open, (folder / "lake").as_uri(), place)


def test_appends_of_four_processes_all_land(real: IcebergLake, tmp_path: Path, processes: Any) -> None:
    put(real, "contended", IDS, some(0), token="start")
    processes.starmap(append_often, [(opener(tmp_path, me), me, 20) for me in range(1, 5)], chunksize=1)
    want = sorted([0, *(me * 1000 + n for me in range(1, 5) for n in range(20))])
    assert sorted(ids(real, "contended")) == want
    assert len({s.token for s in real.history("contended")}) == 81
    assert real.snapshot("contended").rows == 81  # type: ignore[union-attr]
    assert sorted(r["id"] for r in plain(tmp_path, "contended").scan().to_arrow().to_pylist()) == want


def test_of_several_processes_that_make_a_table_one_does(tmp_path: Path, processes: Any) -> None:
    seen = processes.starmap(make_once, [(opener(tmp_path, me), me) for me in range(4)], chunksize=1)
    assert len({tuple(tokens) for tokens in seen}) == 1
    assert len(seen[0]) == 1


KILLED = """
import pickle, sys
from penstock.ground.failpoints import arm_from_environment
from penstock.testing.lakes import append_often
arm_from_environment()
append_often(pickle.loads(bytes.fromhex(sys.argv[1])), 2, 1)
"""


@pytest.mark.parametrize(("point", "want"), [("lake.commit.before", [1]), ("lake.commit.after", [1, 2000])])
def test_a_killed_process_leaves_the_old_version_or_the_new_one(real: IcebergLake, tmp_path: Path, point: str, want: list[int]) -> None:
    put(real, "contended", IDS, some(1), token="1/0")
    env = {**os.environ, "PENSTOCK_FAILPOINTS": f"{point}=kill"}
    argument = pickle.dumps(opener(tmp_path, 9)).hex()
    done = subprocess.run([sys.executable, "-c", KILLED, argument], env=env, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -9
    assert ids(real, "contended") == want
    assert [s.token for s in real.history("contended")] == ["1/0", "2/0"][: len(want)]
    put(real, "contended", IDS, some(3), token="3/0")
    real.remove_orphans("contended", older_than=FAR)
    assert ids(real, "contended") == [*want, 3]


# -- the disk and the catalog ---------------------------------------------------------------------------------------
def test_a_full_disk_is_told_and_leaves_nothing_behind(real: IcebergLake, tmp_path: Path) -> None:
    put(real, "trips", IDS, some(1), token="t1")
    metadata = tmp_path / "lake/main/trips/metadata"
    before = sorted(p.name for p in metadata.iterdir())
    draft = real.draft("trips", IDS)
    file = written(draft, some(2))
    with armed("lake.commit.before", full), pytest.raises(StorageFull):
        land(real, draft, [file], token="t2")
    assert sorted(p.name for p in metadata.iterdir()) == before


class BrokenRows:
    """The catalog's rows with a connection that fails once: before the swap, or after it."""

    def __init__(self, rows: Any, when: str) -> None:
        self._rows, self._when = rows, when

    def place(self, table: str) -> Any:
        if self._when == "gone":
            raise sqlite3.OperationalError("disk I/O error")
        return self._rows.place(table)

    def swap(self, *args: Any, **more: Any) -> bool:
        when, self._when = self._when, "gone" if self._when == "unknown" else ""
        if when == "after":
            self._rows.swap(*args, **more)
        if when:
            raise sqlite3.OperationalError("disk I/O error")
        return bool(self._rows.swap(*args, **more))


@pytest.mark.parametrize(("when", "want"), [("before", StorageError), ("after", None), ("unknown", CommitUnknown)])
def test_an_error_of_the_catalog_tells_whether_the_commit_landed(real: IcebergLake, when: str, want: type[Exception] | None) -> None:
    put(real, "trips", IDS, some(1), token="t1")
    sound = real._heads.rows
    draft = real.draft("trips", IDS)
    files = [written(draft, some(2))]
    real._heads.__dict__["rows"] = BrokenRows(sound, when)
    if want is None:
        assert real.commit(draft, files, token="t2").token == "t2"
    else:
        with pytest.raises(want) as told:
            real.commit(draft, files, token="t2")
        assert type(told.value) is want
    real._heads.__dict__["rows"] = sound
    assert real.commit(draft, files, token="t2").token == "t2"
    assert ids(real, "trips") == [1, 2]


def test_the_catalog_is_private_and_synced_beside_other_tables(tmp_path: Path) -> None:
    (tmp_path / ".penstock").mkdir()
    with sqlite3.connect(tmp_path / ".penstock/state.db") as other:
        other.execute("CREATE TABLE records (name TEXT)")
    other.close()
    real = iceberg(tmp_path)
    put(real, "trips", IDS, some(1), token="t")
    db = real._heads.rows._db
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert db.execute("SELECT count(*) FROM records").fetchone() == (0,)
    for path in (tmp_path / ".penstock").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_another_handle_sees_commits_at_once(real: IcebergLake, tmp_path: Path) -> None:
    other = iceberg(tmp_path, seed=1)
    for n in range(30):
        put(real, "trips", IDS, some(n), token=f"t{n}")
        assert other.snapshot("trips") == real.snapshot("trips")
    assert ids(other, "trips") == list(range(30))


def test_metadata_does_not_pile_up(real: IcebergLake, tmp_path: Path) -> None:
    for n in range(40):
        put(real, "trips", IDS, some(n), token=f"t{n}")
    names = [p.name for p in (tmp_path / "lake/main/trips/metadata").iterdir()]
    assert sum(name.endswith(".metadata.json") for name in names) == 11
    current = plain(tmp_path).current_snapshot()
    assert current is not None
    assert len(current.manifests(plain(tmp_path).io)) < 20
    assert len(real.scan("trips").files) == 40
    assert real.remove_orphans("trips", older_than=FAR) == []


def test_a_clock_that_goes_back_does_not_disturb_the_order_of_versions(tmp_path: Path) -> None:
    clock = ManualClock(START)
    real = IcebergLake.open((tmp_path / "lake").as_uri(), replace(context(tmp_path), clock=clock))
    first = put(real, "trips", IDS, some(1), token="t1")
    clock.advance(-3600)
    second = put(real, "trips", IDS, some(2), token="t2")
    assert second.at == first.at == START
    assert plain(tmp_path).metadata.last_updated_ms == START.timestamp() * 1000
    assert real.snapshot("trips", at=START) == second
    clock.advance(7200)
    assert put(real, "trips", IDS, some(3), token="t3").at == START + timedelta(hours=1)


def test_tags_of_other_engines_keep_their_versions(real: IcebergLake, tmp_path: Path) -> None:
    first = put(real, "trips", IDS, some(1), token="t1")
    second = put(real, "trips", IDS, some(2), token="t2")
    put(real, "trips", IDS, some(3), token="t3")
    plain(tmp_path).manage_snapshots().create_tag(int(first.version), "kept").commit()
    assert real.expire("trips", keep=1, before=FAR) == 1
    assert ids(real, "trips", first.version) == [1]
    with pytest.raises(StorageError):
        real.scan("trips", version=second.version)
    assert plain(tmp_path).scan(snapshot_id=int(first.version)).to_arrow().num_rows == 1


def test_dropping_a_table_after_a_crash_clears_what_was_left(real: IcebergLake, tmp_path: Path) -> None:
    put(real, "trips", IDS, some(1), token="t1")
    (tmp_path / "lake/main/trips").rename(tmp_path / "lake/main/.trips.0.dropped")
    real.drop("trips")
    assert list((tmp_path / "lake/main").iterdir()) == []
    assert real.tables() == []


def test_a_compaction_of_many_small_files_reads_the_same(real: IcebergLake, tmp_path: Path) -> None:
    for n in range(40):
        put(real, "trips", IDS, some(n), token=f"t{n}")
    compacted(real, "c")
    assert len(list(plain(tmp_path).scan().plan_files())) == 1
    assert ids(real, "trips") == list(range(40))
    replace_all(real, "trips", IDS, some(7), token="t")
    assert plain(tmp_path).scan().to_arrow().to_pylist() == [{"id": 7}]


@pytest.mark.parametrize("url", ["file://host/lake", "file:relative", "s3://bucket/lake", "file:///a%23b", "file:///a?b=c", "/a/b"])
def test_a_url_that_is_no_folder_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError):
        IcebergLake.open(url, context(tmp_path))


def test_a_catalog_that_is_not_sqlite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="postgresql"):
        IcebergLake.open((tmp_path / "lake").as_uri(), context(tmp_path, catalog="postgresql://u:secret@host/db"))


def test_a_lake_under_a_path_with_spaces_and_umlauts(tmp_path: Path) -> None:
    folder = tmp_path / "a b ü"
    real = iceberg(folder)
    put(real, "trips", IDS, some(1), token="t1")
    assert ids(iceberg(folder, seed=1), "trips") == [1]
    assert plain(folder).scan().to_arrow().to_pylist() == [{"id": 1}]
    assert rows_of(real.scan("trips")) == [{"id": 1}]


def test_planning_imports_no_pyiceberg(real: IcebergLake, tmp_path: Path) -> None:
    put(real, "trips", IDS, some(1), token="t1")
    code = (
        "import sys; from pathlib import Path; from penstock.adapters.lake.iceberg import IcebergLake\n"
        "from penstock.ground.clock import SystemClock; from penstock.ground.ids import SystemIds; from penstock.ports.adapters import Context\n"
        "clock = SystemClock(); folder = Path(sys.argv[1])\n"
        "lake = IcebergLake.open((folder / 'lake').as_uri(), Context(folder / '.penstock', clock, SystemIds(clock), str))\n"
        "print(lake.snapshot('trips').rows, lake.tables(), [m for m in ('pyiceberg', 'pyarrow', 'sqlalchemy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1 ['trips'] []"
