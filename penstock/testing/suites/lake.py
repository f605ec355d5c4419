"""What every lake must do.

Use: `from penstock.testing.suites.lake import *` in a test module that has a fixture `lake`: a new, empty lake whose clock moves on by at
least a second with each reading. Tests of what a lake says it cannot do check that it refuses it by name.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

import pyarrow as pa
import pytest

from penstock.ground.errors import (
    CommitConflict,
    CommitUnknown,
    DefinitionError,
    FileIdsWrong,
    NameRefused,
    SchemaDrift,
    StorageError,
    StorageFull,
    Unsupported,
    VersionNotFound,
)
from penstock.ground.failpoints import FailpointError, armed, full
from penstock.ports.lake import DataFile, Draft, Lake, Operation, Snapshot
from penstock.spec.partitions import Partition, bucket, by, day, hour, month, year
from penstock.spec.schema import Field, Schema, parse_type, schema_of, strip_ids
from penstock.testing.parquet import Row, arrow_schema, ids_of, rows_of, written

IDS = schema_of(id="long")
TRIPS = schema_of(id="long", town="string", at="timestamp")
NESTED = schema_of(id="long", home="struct<street:string,town:string>", tags="list<struct<k:string,v:long>>", extra="map<string,double>")


# -- steps every test takes -----------------------------------------------------------------------------------------
def land(
    lake: Lake,
    draft: Draft,
    add: Sequence[DataFile] = (),
    *,
    token: str,
    remove: Sequence[str] | Literal["*"] = (),
    summary: Mapping[str, str] | None = None,
    operation: Operation | None = None,
) -> Snapshot:
    """Commits as callers must: an unknown outcome is looked up by the token, and only if it is not there tried again."""
    for _ in range(50):
        try:
            return lake.commit(draft, add, token=token, remove=remove, summary=summary, operation=operation)
        except CommitUnknown:
            found = [s for s in lake.history(draft.table) if s.token == token]
            if found:
                return found[0]
    raise AssertionError("a commit stayed unknown fifty times")


def put(lake: Lake, table: str, schema: Schema, rows: Sequence[Row], *, token: str, **drafting: Any) -> Snapshot:
    """Appends rows."""
    draft = lake.draft(table, schema, **drafting)
    return land(lake, draft, [written(draft, rows)], token=token)


def replace_all(lake: Lake, table: str, schema: Schema, rows: Sequence[Row], *, token: str, **drafting: Any) -> Snapshot:
    draft = lake.draft(table, schema, exact=True, **drafting)
    return land(lake, draft, [written(draft, rows)], token=token, remove="*")


def rows(lake: Lake, table: str, version: str | None = None) -> list[dict[str, Any]]:
    return rows_of(lake.scan(table, version=version))


def ids(lake: Lake, table: str, version: str | None = None) -> list[int]:
    return [r["id"] for r in rows(lake, table, version)]


def some(*numbers: int) -> list[dict[str, Any]]:
    return [{"id": n} for n in numbers]


def needs(lake: Lake, capability: str) -> None:
    """Skips a test of something that the lake says it cannot do; that it refuses it is tested elsewhere."""
    if not getattr(lake.capabilities, capability):
        pytest.skip(f"the lake says it has no {capability}")


# -- versions -------------------------------------------------------------------------------------------------------
def test_a_lake_begins_empty(lake: Lake) -> None:
    assert list(lake.tables()) == []
    assert lake.snapshot("trips") is None
    assert list(lake.history("trips")) == []
    with pytest.raises(VersionNotFound):
        lake.scan("trips")


def test_a_draft_shows_nothing(lake: Lake) -> None:
    draft = lake.draft("trips", TRIPS)
    written(draft, [{"id": 1}])
    assert draft.base is None
    assert os.path.isdir(draft.folder)
    assert list(lake.tables()) == []
    assert lake.snapshot("trips") is None


def test_committed_rows_are_read_back(lake: Lake) -> None:
    draft = lake.draft("trips", TRIPS)
    want: list[Row] = [{"id": 1, "town": "Ulm", "at": datetime(2013, 1, 1)}, {"id": 2, "town": None, "at": None}]  # noqa: DTZ001
    made = land(lake, draft, [written(draft, want)], token="t1", summary={"run": "r1", "k": "ü"})
    assert rows(lake, "trips") == want
    assert list(lake.tables()) == ["trips"]
    assert (made.table, made.parent, made.operation, made.token) == ("trips", None, "append", "t1")
    assert dict(made.summary) == {"run": "r1", "k": "ü"}
    assert made.schema == draft.schema
    assert lake.snapshot("trips") == made
    assert lake.scan("trips").version == made.version


def test_tables_are_told_in_order_and_kept_apart(lake: Lake) -> None:
    for name in ("b", "a", "a__rejected", "c"):
        put(lake, name, IDS, some(len(name)), token="t")
    assert list(lake.tables()) == ["a", "a__rejected", "b", "c"]
    assert ids(lake, "a__rejected") == [11]


@pytest.mark.parametrize("name", ["", "a/b", "..", "a.b", "a b", "ä", "x" * 300])
def test_a_name_that_is_no_name_is_refused(lake: Lake, name: str) -> None:
    with pytest.raises(NameRefused):
        put(lake, name, IDS, some(1), token="t")
    assert list(lake.tables()) == []


def test_an_empty_commit_makes_an_empty_version(lake: Lake) -> None:
    first = land(lake, lake.draft("trips", TRIPS), token="t1")
    assert rows(lake, "trips") == []
    assert lake.scan("trips").schema == first.schema
    put(lake, "trips", TRIPS, [{"id": 1}], token="t2")
    assert ids(lake, "trips") == [1]


def test_a_file_without_rows_is_left_out(lake: Lake) -> None:
    draft = lake.draft("trips", IDS)
    land(lake, draft, [written(draft, []), written(draft, some(1))], token="t")
    assert [f.rows for f in lake.scan("trips").files] == [1]


def test_appends_stand_in_the_order_of_their_commits(lake: Lake) -> None:
    for n in range(0, 40, 2):
        draft = lake.draft("trips", IDS)
        land(lake, draft, [written(draft, some(n)), written(draft, some(n + 1))], token=f"t{n}")
    assert ids(lake, "trips") == list(range(40))


def test_rows_and_files_are_counted(lake: Lake) -> None:
    needs(lake, "row_counts")
    assert (put(lake, "trips", IDS, some(1, 2), token="t1").rows, put(lake, "trips", IDS, some(3), token="t2").rows) == (2, 3)
    first = lake.scan("trips").files[0]
    draft = lake.draft("trips", IDS)
    made = land(lake, draft, [written(draft, some(4))], token="t3", remove=[first.path])
    assert (made.rows, made.files) == (2, 2)
    assert (replace_all(lake, "trips", IDS, some(5, 6, 7), token="t4").rows, len(lake.scan("trips").files)) == (3, 1)


def test_old_versions_are_read_unchanged(lake: Lake) -> None:
    needs(lake, "time_travel")
    first = put(lake, "trips", IDS, some(1), token="t1")
    before = lake.scan("trips")
    second = put(lake, "trips", IDS, some(2), token="t2")
    third = replace_all(lake, "trips", IDS, some(3), token="t3")
    assert [s.version for s in lake.history("trips")] == [first.version, second.version, third.version]
    assert [s.parent for s in lake.history("trips")] == [None, first.version, second.version]
    assert ids(lake, "trips", first.version) == [1]
    assert ids(lake, "trips", second.version) == [1, 2]
    assert ids(lake, "trips") == [3]
    assert rows_of(before) == rows(lake, "trips", first.version)
    assert lake.snapshot("trips", version=second.version) == second


def test_old_versions_keep_their_columns(lake: Lake) -> None:
    needs(lake, "schema_evolution")
    first = put(lake, "trips", schema_of(id="long", town="string"), [{"id": 1, "town": "Ulm"}], token="t1")
    replace_all(lake, "trips", schema_of(id="long", km="double"), [{"id": 2, "km": 0.5}], token="t2")
    assert rows(lake, "trips", first.version) == [{"id": 1, "town": "Ulm"}]
    assert rows(lake, "trips") == [{"id": 2, "km": 0.5}]


def test_the_version_of_a_moment_is_found(lake: Lake) -> None:
    needs(lake, "time_travel")
    made = [put(lake, "trips", IDS, some(n), token=f"t{n}") for n in range(3)]
    for this, following in itertools.pairwise(made):
        assert this.at < following.at
        assert lake.snapshot("trips", at=this.at) == this
        assert lake.snapshot("trips", at=following.at - timedelta(milliseconds=1)) == this
    assert lake.snapshot("trips", at=made[-1].at + timedelta(days=1)) == made[-1]
    with pytest.raises(VersionNotFound):
        lake.snapshot("trips", at=made[0].at - timedelta(seconds=1))


@pytest.mark.parametrize("version", ["1234567", "no such version", ""])
def test_an_unknown_version_is_told(lake: Lake, version: str) -> None:
    needs(lake, "time_travel")
    put(lake, "trips", IDS, some(1), token="t")
    for call in (lambda: lake.scan("trips", version=version), lambda: lake.snapshot("trips", version=version)):
        with pytest.raises(VersionNotFound):
            call()


def test_a_lake_without_time_travel_refuses_it(lake: Lake) -> None:
    if lake.capabilities.time_travel:
        pytest.skip("the lake travels")
    first = put(lake, "trips", IDS, some(1), token="t1")
    put(lake, "trips", IDS, some(2), token="t2")
    with pytest.raises(Unsupported):
        lake.scan("trips", version=first.version)


# -- tokens ---------------------------------------------------------------------------------------------------------
def test_a_token_commits_once(lake: Lake) -> None:
    draft = lake.draft("trips", IDS)
    files = [written(draft, some(1))]
    first = land(lake, draft, files, token="t1")
    assert land(lake, draft, files, token="t1") == first
    other = lake.draft("trips", IDS)
    assert land(lake, other, [written(other, some(2))], token="t1") == first
    assert ids(lake, "trips") == [1]


def test_a_token_is_found_after_later_commits(lake: Lake) -> None:
    draft = lake.draft("trips", IDS)
    files = [written(draft, some(1))]
    first = land(lake, draft, files, token="t1")
    replace_all(lake, "trips", IDS, some(2), token="t2")
    assert land(lake, draft, files, token="t1").version == first.version
    assert ids(lake, "trips") == [2]


def test_tokens_of_tables_are_apart(lake: Lake) -> None:
    put(lake, "a", IDS, some(1), token="t")
    put(lake, "b", IDS, some(2), token="t")
    assert (ids(lake, "a"), ids(lake, "b")) == ([1], [2])


def test_a_draft_commits_once(lake: Lake) -> None:
    draft = lake.draft("trips", IDS)
    files = [written(draft, some(1))]
    land(lake, draft, files, token="t1")
    with pytest.raises(CommitConflict):
        land(lake, draft, files, token="t2")
    again = lake.draft("trips", IDS)
    more = [written(again, some(2))]
    land(lake, again, more, token="t3")
    with pytest.raises(CommitConflict):
        land(lake, again, more, token="t4")
    assert ids(lake, "trips") == [1, 2]


# -- all or nothing -------------------------------------------------------------------------------------------------
def test_an_overwrite_shows_all_or_nothing(lake: Lake) -> None:
    put(lake, "trips", IDS, some(1, 2), token="t1")
    draft = lake.draft("trips", IDS, exact=True)
    files = [written(draft, some(n)) for n in (3, 4)]
    assert ids(lake, "trips") == [1, 2]
    made = land(lake, draft, files, token="t2", remove="*")
    assert made.operation == "overwrite"
    assert ids(lake, "trips") == [3, 4]


def test_everything_can_be_removed(lake: Lake) -> None:
    put(lake, "trips", IDS, some(1), token="t1")
    land(lake, lake.draft("trips", IDS), token="t2", remove="*")
    assert ids(lake, "trips") == []


def test_single_files_are_replaced(lake: Lake) -> None:
    draft = lake.draft("trips", IDS)
    land(lake, draft, [written(draft, some(n)) for n in range(5)], token="t1")
    gone = [f.path for f in lake.scan("trips").files[1:3]]
    draft = lake.draft("trips", IDS)
    land(lake, draft, [written(draft, some(9))], token="t2", remove=gone)
    assert ids(lake, "trips") == [0, 3, 4, 9]


@pytest.mark.parametrize("point", ["lake.commit.before", "lake.commit.after"])
def test_a_commit_that_dies_landed_whole_or_not_at_all(lake: Lake, point: str) -> None:
    put(lake, "trips", IDS, some(1), token="t1")
    draft = lake.draft("trips", IDS, exact=True)
    files = [written(draft, some(2))]
    with armed(point), pytest.raises(FailpointError):
        land(lake, draft, files, token="t2", remove="*")
    assert ids(lake, "trips") == ([1] if point.endswith("before") else [2])
    land(lake, draft, files, token="t2", remove="*")
    assert ids(lake, "trips") == [2]


def test_a_full_disk_changes_nothing(lake: Lake) -> None:
    put(lake, "trips", IDS, some(1), token="t1")
    draft = lake.draft("trips", IDS)
    files = [written(draft, some(2))]
    with armed("lake.commit.before", full), pytest.raises((StorageFull, OSError)):
        land(lake, draft, files, token="t2")
    assert ids(lake, "trips") == [1]
    land(lake, draft, files, token="t2")
    assert ids(lake, "trips") == [1, 2]


# -- what is checked of files ---------------------------------------------------------------------------------------
def _swapped(schema: pa.Schema) -> pa.Schema:
    first, second = schema.field(0), schema.field(1)
    return schema.set(0, first.with_metadata(second.metadata)).set(1, second.with_metadata(first.metadata))


def _shifted(schema: pa.Schema) -> pa.Schema:
    return pa.schema([f.with_metadata({"PARQUET:field_id": str(i)}) for i, f in enumerate(schema)])


def _alien(schema: pa.Schema) -> pa.Schema:
    return pa.schema([f.with_metadata({"PARQUET:field_id": str(101 + i)}) for i, f in enumerate(schema)])


def _half(schema: pa.Schema) -> pa.Schema:
    return schema.set(1, schema.field(1).remove_metadata())


def _bare(schema: pa.Schema) -> pa.Schema:
    return pa.schema([f.remove_metadata() for f in schema])


def _short(schema: pa.Schema) -> pa.Schema:
    return schema.remove(1)


def _long(schema: pa.Schema) -> pa.Schema:
    return schema.append(pa.field("more", pa.int64()))


@pytest.mark.parametrize("wrong", [_swapped, _shifted, _alien, _half, _bare, _short, _long])
def test_a_file_with_wrong_ids_is_refused(lake: Lake, wrong: Any) -> None:
    draft = lake.draft("trips", schema_of(a="long", b="long"))
    file = written(draft, [{"a": 1, "b": 2}], schema=wrong(arrow_schema(draft.schema)))
    with pytest.raises(FileIdsWrong) as told:
        land(lake, draft, [file], token="t")
    assert "trips" in told.value.place
    assert lake.snapshot("trips") is None


def test_a_file_with_wrong_nested_ids_is_refused(lake: Lake) -> None:
    draft = lake.draft("trips", NESTED)
    right = arrow_schema(draft.schema)
    members = [right.field("home").type.field(i) for i in range(2)]
    crossed = pa.struct([members[0].with_metadata(members[1].metadata), members[1].with_metadata(members[0].metadata)])
    file = written(draft, [{"id": 1}], schema=right.set(1, pa.field("home", crossed, metadata=right.field("home").metadata)))
    with pytest.raises(FileIdsWrong):
        land(lake, draft, [file], token="t")
    land(lake, draft, [written(draft, [{"id": 1}])], token="t")


def test_a_file_that_is_not_as_told_is_refused(lake: Lake) -> None:
    draft = lake.draft("trips", IDS)
    file = written(draft, some(1, 2))
    elsewhere = DataFile(os.path.join(draft.folder, "none-s0-0.parquet"), 1, 1)
    for wrong in (DataFile(file.path, 3, file.size_bytes), DataFile(file.path, 2, file.size_bytes - 1), elsewhere):
        with pytest.raises(StorageError):
            land(lake, draft, [wrong], token="t")
    assert lake.snapshot("trips") is None


# -- columns --------------------------------------------------------------------------------------------------------
def test_every_column_and_member_has_its_own_id(lake: Lake) -> None:
    given = ids_of(lake.draft("trips", NESTED).schema)
    assert None not in given.values()
    assert len(set(given.values())) == len(given)


def test_ids_do_not_change_by_themselves(lake: Lake) -> None:
    first = put(lake, "trips", NESTED, [{"id": 1}], token="t1")
    second = lake.draft("trips", NESTED)
    assert second.schema == first.schema
    assert put(lake, "trips", NESTED, [{"id": 2}], token="t2").schema == first.schema


def test_columns_are_added_and_old_rows_have_none(lake: Lake) -> None:
    needs(lake, "schema_evolution")
    put(lake, "trips", IDS, some(1), token="t1")
    put(lake, "trips", schema_of(id="long", town="string"), [{"id": 2, "town": "Ulm"}], token="t2")
    assert rows(lake, "trips") == [{"id": 1, "town": None}, {"id": 2, "town": "Ulm"}]


def test_columns_that_are_not_wanted_stay_at_the_end(lake: Lake) -> None:
    needs(lake, "schema_evolution")
    put(lake, "trips", schema_of(id="long", town="string"), [{"id": 1, "town": "Ulm"}], token="t1")
    draft = lake.draft("trips", schema_of(km="double", id="long"))
    assert draft.schema.names == ("km", "id", "town")
    land(lake, draft, [written(draft, [{"id": 2, "km": 1.5}])], token="t2")
    assert rows(lake, "trips") == [{"km": None, "id": 1, "town": "Ulm"}, {"km": 1.5, "id": 2, "town": None}]


@pytest.mark.parametrize(
    ("old", "new", "before", "after"),
    [
        ("int", "long", 1, 2**40),
        ("float", "double", 0.5, 0.1),
        ("decimal(5,2)", "decimal(9,2)", Decimal("1.25"), Decimal("1234567.25")),
    ],
)
def test_types_are_widened(lake: Lake, old: str, new: str, before: Any, after: Any) -> None:
    needs(lake, "schema_evolution")
    put(lake, "trips", schema_of(x=old), [{"x": before}], token="t1")
    made = put(lake, "trips", schema_of(x=new), [{"x": after}], token="t2")
    assert rows(lake, "trips") == [{"x": before}, {"x": after}]
    assert str(made.schema.field("x").type) == new
    assert str(lake.draft("trips", schema_of(x=old)).schema.field("x").type) == new


def test_a_type_that_cannot_be_widened_is_refused(lake: Lake) -> None:
    put(lake, "trips", schema_of(id="long", x="double"), [{"id": 1, "x": 0.5}], token="t1")
    with pytest.raises(SchemaDrift) as told:
        lake.draft("trips", schema_of(id="long", x="string"))
    assert (told.value.place, told.value.expected, told.value.got) == ("trips[x]", "double", "string")


def test_a_type_changes_freely_when_all_is_written_again(lake: Lake) -> None:
    needs(lake, "schema_evolution")
    first = put(lake, "trips", schema_of(id="long", x="double"), [{"id": 1, "x": 0.5}], token="t1")
    second = replace_all(lake, "trips", schema_of(x="string", id="int"), [{"id": 2, "x": "y"}], token="t2")
    assert [(f.name, str(f.type)) for f in second.schema] == [("x", "string"), ("id", "int")]
    assert second.schema.field("x").id not in {f.id for f in first.schema}
    assert rows(lake, "trips") == [{"x": "y", "id": 2}]
    if lake.capabilities.time_travel:
        assert rows(lake, "trips", first.version) == [{"id": 1, "x": 0.5}]


def test_a_draft_that_drops_columns_must_remove_all_files(lake: Lake) -> None:
    needs(lake, "schema_evolution")
    put(lake, "trips", TRIPS, [{"id": 1, "town": "Ulm"}], token="t1")
    draft = lake.draft("trips", IDS, exact=True)
    with pytest.raises(StorageError):
        land(lake, draft, [written(draft, some(2))], token="t2")
    assert rows(lake, "trips")[0]["town"] == "Ulm"


def test_a_renamed_column_keeps_its_values_and_its_name_can_be_used_again(lake: Lake) -> None:
    needs(lake, "schema_evolution")
    put(lake, "trips", schema_of(id="long", s="string"), [{"id": 1, "s": "a"}], token="t1")
    put(lake, "trips", schema_of(id="long", label="string"), [{"id": 2, "label": "b"}], token="t2", renamed={"label": "s"})
    assert rows(lake, "trips") == [{"id": 1, "label": "a"}, {"id": 2, "label": "b"}]
    both = schema_of(id="long", label="string", s="string")
    put(lake, "trips", both, [{"id": 3, "label": "c", "s": "new"}], token="t3", renamed={"label": "s"})
    assert [(r["label"], r["s"]) for r in rows(lake, "trips")] == [("a", None), ("b", None), ("c", "new")]


@pytest.mark.parametrize("columns", [{"label": "string", "s": "string"}, {"s": "string", "label": "string"}])
def test_a_name_is_renamed_and_used_again_in_one_step(lake: Lake, columns: dict[str, str]) -> None:
    needs(lake, "schema_evolution")
    put(lake, "trips", schema_of(s="string"), [{"s": "a"}], token="t1")
    put(lake, "trips", schema_of(**columns), [{"label": "b", "s": "new"}], token="t2", renamed={"label": "s"})
    assert rows(lake, "trips") == [{"label": "a", "s": None}, {"label": "b", "s": "new"}]


def test_a_column_dropped_and_added_again_has_none_of_its_old_values(lake: Lake) -> None:
    needs(lake, "schema_evolution")
    first = put(lake, "trips", schema_of(id="long", d="double"), [{"id": 1, "d": 0.5}], token="t1")
    replace_all(lake, "trips", IDS, some(1), token="t2")
    third = put(lake, "trips", schema_of(id="long", d="double"), [{"id": 2, "d": 1.5}], token="t3")
    assert third.schema.field("d").id != first.schema.field("d").id
    assert rows(lake, "trips") == [{"id": 1, "d": None}, {"id": 2, "d": 1.5}]


def test_members_are_added_and_renamed_in_every_depth(lake: Lake) -> None:
    needs(lake, "schema_evolution")
    old = [{"id": 1, "home": {"street": "A", "town": "Ulm"}, "tags": [{"k": "x", "v": 1}, None], "extra": [("e", 0.5)]}]
    put(lake, "trips", NESTED, old, token="t1")
    wider = schema_of(
        id="long", home="struct<street:string,city:string,zip:string>", tags="list<struct<name:string,v:long>>", extra="map<string,double>"
    )
    renamed = {"home.city": "home.town", "tags.element.name": "tags.element.k"}
    new = [{"id": 2, "home": {"street": "B", "city": "Bonn", "zip": "5"}, "tags": [{"name": "y", "v": 2}], "extra": []}]
    put(lake, "trips", wider, new, token="t2", renamed=renamed)
    assert rows(lake, "trips") == [
        {"id": 1, "home": {"street": "A", "city": "Ulm", "zip": None}, "tags": [{"name": "x", "v": 1}, None], "extra": [("e", 0.5)]},
        *new,
    ]


def test_ids_of_another_table_are_not_taken_over(lake: Lake) -> None:
    put(lake, "a", schema_of(x="long", y="long", z="long"), [{"x": 1}], token="t")
    foreign = Schema((*lake.scan("a").schema.fields[1:], Field("w", parse_type("long"))))
    made = lake.draft("b", foreign).schema
    assert sorted(f.id or 0 for f in made) == [1, 2, 3]


def test_columns_that_differ_only_in_case_are_refused(lake: Lake) -> None:
    put(lake, "trips", schema_of(Town="string"), [{"Town": "Ulm"}], token="t1")
    with pytest.raises((DefinitionError, SchemaDrift)):
        lake.draft("trips", schema_of(town="string"))


def test_a_lake_without_evolution_refuses_it(lake: Lake) -> None:
    if lake.capabilities.schema_evolution:
        pytest.skip("the lake evolves")
    put(lake, "trips", IDS, some(1), token="t1")
    with pytest.raises(Unsupported):
        lake.draft("trips", schema_of(id="long", town="string"))


EVERY: dict[str, list[Any]] = {
    "boolean": [True, False],
    "int": [-(2**31), 2**31 - 1],
    "long": [-(2**63), 2**63 - 1],
    "float": [1.5, float("inf")],
    "double": [-0.0, 1e300],
    "decimal(38,2)": [Decimal("9" * 36 + ".99"), Decimal("-0.01")],
    "string": ["", "ü'\"\n" * 20],
    "binary": [b"", b"\x00\xff"],
    "date": [date(1, 1, 1), date(9999, 12, 31)],
    "timestamp": [datetime(1969, 12, 31, 23, 59, 59, 999_999), datetime(2013, 1, 1)],  # noqa: DTZ001
    "timestamptz": [datetime(1969, 12, 31, tzinfo=UTC), datetime(2026, 3, 29, 1, tzinfo=UTC)],
    "list<list<int>>": [[], [[1, None], None, []]],
    "list<struct<a:int>>": [[{"a": 1}, None], []],
    "struct<a:int,b:struct<c:list<string>>>": [{"a": None, "b": None}, {"a": 1, "b": {"c": ["x", None]}}],
    "map<string,struct<a:int>>": [[("k", {"a": 1}), ("l", None)], []],
}


@pytest.mark.parametrize("kind", EVERY)
def test_every_type_is_kept_nulls_included(lake: Lake, kind: str) -> None:
    want = [{"x": v} for v in (*EVERY[kind], None)]
    made = put(lake, "trips", schema_of(x=kind), want, token="t")
    assert str(strip_ids(made.schema.field("x").type)) == kind
    assert rows(lake, "trips") == want


def test_a_column_with_nan_is_kept(lake: Lake) -> None:
    put(lake, "trips", schema_of(x="double"), [{"x": 1.0}, {"x": float("nan")}, {"x": 5.0}], token="t")
    assert [repr(r["x"]) for r in rows(lake, "trips")] == ["1.0", "nan", "5.0"]


# -- partitions -----------------------------------------------------------------------------------------------------
AT = datetime(2013, 3, 1, 5, 30)  # noqa: DTZ001
OLD = datetime(1969, 12, 31, 23, 30)  # noqa: DTZ001
DAYS = (AT - datetime(1970, 1, 1)).days  # noqa: DTZ001


@pytest.mark.parametrize(
    ("part", "value", "counted"),
    [
        (by("town"), {"town": "Ulm"}, "Ulm"),
        (by("town"), {"town": ""}, ""),
        (by("town"), {"town": None}, None),
        (by("id"), {"id": 7}, 7),
        (by("day"), {"day": AT.date()}, DAYS),
        (by("good"), {"good": False}, False),
        (year("at"), {"at": AT}, 43),
        (year("at"), {"at": OLD}, -1),
        (month("at"), {"at": AT}, 43 * 12 + 2),
        (month("at"), {"at": OLD}, -1),
        (month("at"), {"at": None}, None),
        (month("day"), {"day": AT.date()}, 43 * 12 + 2),
        (day("at"), {"at": AT}, DAYS),
        (day("at"), {"at": OLD}, -1),
        (hour("at"), {"at": AT}, DAYS * 24 + 5),
        (hour("at"), {"at": OLD}, -1),
    ],
)
def test_a_file_is_kept_with_its_partition(lake: Lake, part: Partition, value: Row, counted: Any) -> None:
    if part.transform not in lake.capabilities.partitions:
        pytest.skip(f"the lake says it has no {part.transform}")
    schema = schema_of(id="long", town="string", at="timestamp", day="date", good="boolean")
    draft = lake.draft("trips", schema, partition=[part])
    land(lake, draft, [written(draft, [value, value], partition=[counted])], token="t1")
    again = lake.draft("trips", schema, partition=[part])
    land(lake, again, [written(again, [value], partition=[counted])], token="t2")
    found = lake.scan("trips").files
    assert [f.partition for f in found] == [(counted,), (counted,)]
    assert [type(f.partition[0]) for f in found] == [type(counted)] * 2
    assert [{k: r[k] for k in value} for r in rows(lake, "trips")] == [value] * 3


@pytest.mark.parametrize(
    ("part", "values", "told"),
    [
        (by("town"), ["Ulm", "Bonn"], "Ulm"),
        (by("town"), ["Ulm", None], "Ulm"),
        (by("town"), ["Ulm", None], None),
        (by("town"), ["Ulm"], None),
        (by("town"), [None], "Ulm"),
        (month("at"), [AT, AT + timedelta(days=31)], 43 * 12 + 2),
        (month("at"), [AT], 43 * 12 + 3),
        (day("at"), [AT], DAYS + 1),
    ],
)
def test_a_file_of_another_partition_is_refused(lake: Lake, part: Partition, values: list[Any], told: Any) -> None:
    if part.transform not in lake.capabilities.partitions:
        pytest.skip(f"the lake says it has no {part.transform}")
    draft = lake.draft("trips", TRIPS, partition=[part])
    with pytest.raises(StorageError):
        land(lake, draft, [written(draft, [{part.column: v} for v in values], partition=[told])], token="t")
    assert lake.snapshot("trips") is None


def test_a_file_needs_a_value_for_each_partition_field(lake: Lake) -> None:
    if "identity" not in lake.capabilities.partitions:
        pytest.skip("the lake says it has no identity")
    draft = lake.draft("trips", TRIPS, partition=[by("town"), by("id")])
    for values in ([], ["Ulm"]):
        with pytest.raises(StorageError):
            land(lake, draft, [written(draft, [{"town": "Ulm", "id": 1}], partition=values)], token="t")
    land(lake, draft, [written(draft, [{"town": "Ulm", "id": 1}], partition=("Ulm", 1))], token="t")
    assert lake.scan("trips").files[0].partition == ("Ulm", 1)


def test_a_partition_changes_only_when_all_is_written_again(lake: Lake) -> None:
    if not {"identity", "month"} <= lake.capabilities.partitions:
        pytest.skip("the lake says it has not both")
    draft = lake.draft("trips", TRIPS, partition=[by("town")])
    first = land(lake, draft, [written(draft, [{"town": "Ulm"}], partition=["Ulm"])], token="t1")
    with pytest.raises(Unsupported):
        lake.draft("trips", TRIPS, partition=[month("at")])
    with pytest.raises(Unsupported):
        lake.draft("trips", TRIPS)
    draft = lake.draft("trips", TRIPS, partition=[month("at")], exact=True)
    land(lake, draft, [written(draft, [{"at": AT}], partition=[43 * 12 + 2])], token="t2", remove="*")
    assert [f.partition for f in lake.scan("trips").files] == [(43 * 12 + 2,)]
    if lake.capabilities.time_travel:
        assert [f.partition for f in lake.scan("trips", version=first.version).files] == [("Ulm",)]
    replace_all(lake, "trips", schema_of(id="long", at="string"), [{"at": "x"}], token="t3")
    draft = lake.draft("trips", schema_of(id="long", at="string"))
    land(lake, draft, [written(draft, [{"at": "y"}])], token="t4")
    assert [r["at"] for r in rows(lake, "trips")] == ["x", "y"]


@pytest.mark.parametrize("part", [by("town"), year("at"), month("at"), day("at"), hour("at"), bucket(4, "id")])
def test_a_transform_that_the_lake_has_not_is_refused(lake: Lake, part: Partition) -> None:
    if part.transform in lake.capabilities.partitions:
        lake.draft("trips", TRIPS, partition=[part])
    else:
        with pytest.raises(Unsupported):
            lake.draft("trips", TRIPS, partition=[part])


@pytest.mark.parametrize("part", [month("town"), hour("day"), by("x"), by("km")])
def test_a_transform_that_does_not_fit_the_column_is_refused(lake: Lake, part: Partition) -> None:
    with pytest.raises(Unsupported):
        lake.draft("trips", schema_of(town="string", day="date", x="struct<a:int>", km="double"), partition=[part])


# -- several writers ------------------------------------------------------------------------------------------------
def test_appends_to_a_moved_base_land_or_are_refused_whole(lake: Lake) -> None:
    put(lake, "trips", IDS, some(1), token="t1")
    drafts = [lake.draft("trips", IDS) for _ in range(3)]
    landed = [1]
    for n, draft in enumerate(drafts, 2):
        try:
            land(lake, draft, [written(draft, some(n))], token=f"t{n}")
            landed.append(n)
        except CommitConflict:
            assert not lake.capabilities.concurrent_appends
    assert ids(lake, "trips") == landed
    assert len(landed) == (4 if lake.capabilities.concurrent_appends else 2)


def test_a_removal_on_a_moved_base_is_a_conflict(lake: Lake) -> None:
    put(lake, "trips", IDS, some(1), token="t1")
    late = lake.draft("trips", IDS)
    files = [written(late, some(2))]
    put(lake, "trips", IDS, some(3), token="t2")
    with pytest.raises(CommitConflict):
        land(lake, late, files, token="t3", remove="*")
    assert ids(lake, "trips") == [1, 3]


def test_files_that_are_gone_cannot_be_removed_again(lake: Lake) -> None:
    put(lake, "trips", IDS, some(1), token="t1")
    gone = [f.path for f in lake.scan("trips").files]
    late = lake.draft("trips", IDS)
    files = [written(late, some(2))]
    replace_all(lake, "trips", IDS, some(3), token="t2")
    with pytest.raises(CommitConflict):
        land(lake, late, files, token="t3", remove=gone)
    assert ids(lake, "trips") == [3]


def test_files_that_are_still_there_are_removed_from_a_moved_base(lake: Lake) -> None:
    needs(lake, "concurrent_appends")
    put(lake, "trips", IDS, some(1), token="t1")
    late = lake.draft("trips", IDS)
    gone = [f.path for f in lake.scan("trips").files]
    put(lake, "trips", IDS, some(2), token="t2")
    land(lake, late, [written(late, some(9))], token="t3", remove=gone)
    assert ids(lake, "trips") == [2, 9]


def test_two_changes_of_columns_cannot_both_land(lake: Lake) -> None:
    needs(lake, "schema_evolution")
    put(lake, "trips", IDS, some(1), token="t1")
    late = lake.draft("trips", schema_of(id="long", a="string"))
    files = [written(late, [{"id": 2, "a": "x"}])]
    put(lake, "trips", schema_of(id="long", b="long"), [{"id": 3, "b": 4}], token="t2")
    with pytest.raises(CommitConflict):
        land(lake, late, files, token="t3")
    assert rows(lake, "trips") == [{"id": 1, "b": None}, {"id": 3, "b": 4}]


def test_rows_of_a_column_that_was_dropped_meanwhile_are_not_lost(lake: Lake) -> None:
    needs(lake, "schema_evolution")
    put(lake, "trips", TRIPS, [{"id": 1, "town": "Ulm"}], token="t1")
    late = lake.draft("trips", TRIPS)
    files = [written(late, [{"id": 2, "town": "Bonn"}])]
    replace_all(lake, "trips", IDS, some(3), token="t2")
    with pytest.raises(CommitConflict):
        land(lake, late, files, token="t3")
    assert ids(lake, "trips") == [3]


def test_two_makers_of_a_table_cannot_both_land(lake: Lake) -> None:
    first, second = lake.draft("trips", IDS), lake.draft("trips", schema_of(other="string"))
    files = [written(second, [{"other": "x"}])]
    land(lake, first, [written(first, some(1))], token="t1")
    with pytest.raises(CommitConflict):
        land(lake, second, files, token="t2")
    assert ids(lake, "trips") == [1]


def test_appends_of_several_threads_all_land(lake: Lake) -> None:
    needs(lake, "concurrent_appends")
    put(lake, "trips", IDS, some(0), token="start")
    failed: list[BaseException] = []

    def work(me: int) -> None:
        try:
            for n in range(5):
                put(lake, "trips", IDS, some(me * 100 + n), token=f"{me}/{n}")
        except BaseException as error:  # noqa: BLE001 - told by the main thread
            failed.append(error)

    threads = [threading.Thread(target=work, args=(me,)) for me in range(1, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sorted(ids(lake, "trips")) == sorted([0, *(me * 100 + n for me in range(1, 4) for n in range(5))])


# -- changes --------------------------------------------------------------------------------------------------------
def changed(lake: Lake, since: str | None, until: str | None = None) -> tuple[list[int], list[int]]:
    """Ids of the rows that came and went: a row that stands in both did not change."""
    found = lake.changes("trips", since=since, until=until)
    assert found.complete
    came, went = ([r["id"] for r in rows_of(scan)] for scan in (found.added, found.removed))
    both = set(came) & set(went)
    return [n for n in came if n not in both], [n for n in went if n not in both]


def test_from_the_beginning_everything_came(lake: Lake) -> None:
    last = [put(lake, "trips", IDS, some(n), token=f"t{n}") for n in (1, 2)][-1]
    found = lake.changes("trips", since=None)
    assert (found.since, found.until, found.only_appends) == (None, last.version, True)
    assert [r["id"] for r in rows_of(found.added)] == [1, 2]


def test_nothing_came_since_the_newest_version(lake: Lake) -> None:
    made = put(lake, "trips", IDS, some(1), token="t1")
    assert lake.changes("trips", since=made.version).only_appends
    assert changed(lake, made.version) == ([], [])


def test_what_was_appended_came(lake: Lake) -> None:
    needs(lake, "time_travel")
    made = [put(lake, "trips", IDS, some(n), token=f"t{n}") for n in range(40)]
    assert changed(lake, made[0].version) == (list(range(1, 40)), [])
    assert changed(lake, made[30].version, made[32].version) == ([31, 32], [])
    assert lake.changes("trips", since=made[0].version).only_appends


def test_what_was_overwritten_went(lake: Lake) -> None:
    needs(lake, "time_travel")
    first = put(lake, "trips", IDS, some(1), token="t1")
    second = put(lake, "trips", IDS, some(2), token="t2")
    gone = [f.path for f in lake.scan("trips").files[:1]]
    draft = lake.draft("trips", IDS)
    third = land(lake, draft, [written(draft, some(3))], token="t3", remove=gone)
    replace_all(lake, "trips", IDS, some(4), token="t4")
    assert changed(lake, first.version, third.version) == ([2, 3], [1])
    assert changed(lake, second.version) == ([4], [1, 2])
    assert changed(lake, first.version) == ([4], [1])
    assert not lake.changes("trips", since=second.version).only_appends


def compacted(lake: Lake, token: str) -> Snapshot:
    """Writes all rows again into one file."""
    scan = lake.scan("trips")
    draft = lake.draft("trips", Schema(tuple(Field(f.name, f.type) for f in scan.schema)))
    return land(lake, draft, [written(draft, rows_of(scan))], token=token, remove=[f.path for f in scan.files], operation="compact")


def test_a_compaction_changes_nothing(lake: Lake) -> None:
    needs(lake, "time_travel")
    first = put(lake, "trips", IDS, some(1), token="t1")
    put(lake, "trips", IDS, some(2), token="t2")
    made = compacted(lake, "t3")
    assert made.operation == "compact"
    assert len(lake.scan("trips").files) == 1
    fourth = put(lake, "trips", IDS, some(4), token="t4")
    assert changed(lake, first.version) == ([2, 4], [])
    assert lake.changes("trips", since=first.version).only_appends
    assert [f.rows for f in lake.changes("trips", since=first.version).added.files] == [1, 1]
    assert changed(lake, first.version, made.version) == ([2], [])
    assert changed(lake, made.version) == ([4], [])
    replace_all(lake, "trips", IDS, some(5), token="t5")
    assert changed(lake, first.version) == ([5], [1])
    assert changed(lake, fourth.version) == ([5], [1, 2, 4])


def test_an_unknown_beginning_means_everything_must_be_read(lake: Lake) -> None:
    put(lake, "trips", IDS, some(1), token="t1")
    found = lake.changes("trips", since="1234567")
    assert not found.complete
    assert not found.only_appends
    assert [r["id"] for r in rows_of(found.added)] == [1]


# -- upkeep ---------------------------------------------------------------------------------------------------------
FAR = datetime(9999, 1, 1, tzinfo=UTC)


def upkeep(lake: Lake) -> Any:
    if not hasattr(lake, "expire"):
        pytest.skip("the lake has no upkeep")
    return lake


def test_old_versions_are_forgotten(lake: Lake) -> None:
    needs(lake, "time_travel")
    made = [put(lake, "trips", IDS, some(n), token=f"t{n}") for n in range(5)]
    assert upkeep(lake).expire("trips", keep=1, before=made[1].at) == 1
    assert upkeep(lake).expire("trips", keep=3, before=FAR) == 1
    assert upkeep(lake).expire("trips", keep=3, before=FAR) == 0
    assert [s.version for s in lake.history("trips")] == [s.version for s in made[2:]]
    with pytest.raises(VersionNotFound):
        lake.scan("trips", version=made[1].version)
    assert not lake.changes("trips", since=made[1].version).complete
    assert upkeep(lake).expire("trips", keep=0, before=FAR) == 2
    assert ids(lake, "trips") == [0, 1, 2, 3, 4]


def test_a_token_is_found_after_its_version_was_forgotten(lake: Lake) -> None:
    draft = lake.draft("trips", IDS)
    files = [written(draft, some(1))]
    first = land(lake, draft, files, token="t1")
    put(lake, "trips", IDS, some(2), token="t2")
    upkeep(lake).expire("trips", keep=1, before=FAR)
    again = land(lake, draft, files, token="t1")
    assert (again.version, again.token, again.at) == (first.version, "t1", first.at)
    assert ids(lake, "trips") == [1, 2]


def aged(path: str, moment: datetime) -> str:
    os.utime(path, (moment.timestamp(), moment.timestamp()))
    return path


def test_only_old_files_that_nobody_needs_are_removed(lake: Lake) -> None:
    now = datetime(2020, 1, 10, tzinfo=UTC)
    first = put(lake, "trips", IDS, some(1), token="t1")
    replace_all(lake, "trips", IDS, some(2), token="t2")
    draft = lake.draft("trips", IDS)
    stale, fresh = written(draft, some(3)).path, written(draft, some(4)).path
    for folder, _, names in os.walk(draft.folder):
        for name in names:
            aged(os.path.join(folder, name), now - timedelta(days=3))
    aged(fresh, now)
    gone = upkeep(lake).remove_orphans("trips", older_than=now - timedelta(days=1))
    assert stale in gone
    assert os.path.exists(fresh)
    assert not os.path.exists(stale)
    assert ids(lake, "trips") == [2]
    if lake.capabilities.time_travel:
        assert ids(lake, "trips", first.version) == [1]
        assert gone == [stale]


def test_files_of_forgotten_versions_are_removed(lake: Lake) -> None:
    needs(lake, "time_travel")
    put(lake, "trips", IDS, some(1), token="t1")
    old = lake.scan("trips").files[0].path
    replace_all(lake, "trips", IDS, some(2), token="t2")
    upkeep(lake).expire("trips", keep=1, before=FAR)
    assert os.path.exists(old)
    assert old in upkeep(lake).remove_orphans("trips", older_than=FAR)
    assert not os.path.exists(old)
    assert upkeep(lake).remove_orphans("trips", older_than=FAR) in ([], ())
    assert ids(lake, "trips") == [2]
    put(lake, "trips", IDS, some(3), token="t3")
    assert ids(lake, "trips") == [2, 3]


def test_a_dropped_table_is_gone_and_its_name_is_free(lake: Lake) -> None:
    put(lake, "trips", IDS, some(1), token="t1")
    put(lake, "other", IDS, some(9), token="t1")
    path = lake.scan("trips").files[0].path
    late = lake.draft("trips", IDS)
    upkeep(lake).drop("trips")
    upkeep(lake).drop("trips")
    assert lake.snapshot("trips") is None
    assert list(lake.tables()) == ["other"]
    assert not os.path.exists(path)
    put(lake, "trips", schema_of(id="long", town="string"), [{"id": 2, "town": "Ulm"}], token="t1")
    assert rows(lake, "trips") == [{"id": 2, "town": "Ulm"}]
    with pytest.raises((CommitConflict, StorageError)):
        land(lake, late, [written(late, some(3))], token="t2")
    assert ids(lake, "trips") == [2]
