"""The engine suite: what every engine must do, whoever it is.

A test module imports all of it and gives the fixture `new_engine(**options)`, which opens an engine with those options.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.ground.errors import DefinitionError, MemoryLimit, QueryError, StorageFull, Unsupported
from penstock.ground.names import quote
from penstock.ports.engine import Engine, Session
from penstock.ports.lake import DataFile, Draft, Scan
from penstock.spec.partitions import Partition, bucket, by, day, hour, month, year
from penstock.spec.schema import Field, Schema, Type, parse_type, schema_of

NewEngine = Callable[..., Engine]

HOSTILE = ['a b"c', "x'; DROP TABLE t; --", "überß", "select", "%s {0} $n", "[a]*?.parquet", "a.b", "\\n"]


@pytest.fixture
def engine(new_engine: NewEngine) -> Engine:
    return new_engine()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    made = engine.session()
    yield made
    made.close()


# -- drafts as a lake would give them -----------------------------------------------------------------------------------
def numbered(schema: Schema) -> Schema:
    """The schema with a field id on everything, nested members too."""
    ids = count(1)

    def with_id(field: Field) -> Field:
        return replace(field, id=next(ids), type=replace(field.type, fields=tuple(with_id(f) for f in field.type.fields)))

    return Schema(tuple(with_id(f) for f in schema))


def columns(**types: str) -> Schema:
    return numbered(schema_of(**types))


def draft_in(folder: Path, schema: Schema, *partition: Partition, schema_id: int = 0) -> Draft:
    folder.mkdir(parents=True, exist_ok=True)
    return Draft("trips", schema, schema_id, partition, str(folder), None)


def scan_of(schema: Schema, files: Sequence[DataFile], schemas: dict[int, Schema] | None = None) -> Scan:
    return Scan("trips", "1", schema, tuple(files), schemas if schemas is not None else {0: schema})


def back(session: Session, schema: Schema, files: Sequence[DataFile]) -> pa.Table:
    session.bind("read_back", scan_of(schema, files))
    return session.read("SELECT * FROM read_back").read_all()


# -- what is written is what is read ------------------------------------------------------------------------------------
def naive(*parts: int) -> datetime:
    """A moment without a zone, as the type `timestamp` has."""
    return datetime(*parts, tzinfo=UTC).replace(tzinfo=None)  # type: ignore[arg-type, misc]


MOMENT = naive(1969, 12, 31, 23, 59, 59, 999_999)
ROWS: dict[str, tuple[str, list[Any]]] = {
    "b": ("boolean", [True, False, None]),
    "i": ("int", [-(2**31), 2**31 - 1, None]),
    "n": ("long", [-(2**63), 2**63 - 1, None]),
    "f": ("float", [1.5, float("inf"), None]),
    "d": ("double", [float("nan"), -0.0, None]),
    "m": ("decimal(38,2)", [Decimal("9" * 36 + ".99"), Decimal("-0.01"), None]),
    "s": ("string", ["", "ü'\"\n\t", None]),
    "x": ("binary", [b"", b"\x00\xff", None]),
    "day": ("date", [date(1, 1, 1), date(9999, 12, 31), None]),
    "clock": ("time", [time(0), time(23, 59, 59, 999_999), None]),
    "at": ("timestamp", [MOMENT, naive(9999, 12, 31), None]),
    "instant": ("timestamptz", [MOMENT.replace(tzinfo=UTC), datetime(2026, 3, 29, 1, tzinfo=UTC), None]),
    "list": ("list<list<int>>", [[], [[1, None], None, []], None]),
    "items": ("list<struct<a:int,s:string>>", [[{"a": 1, "s": None}, None], [], None]),
    "struct": ("struct<a:int,b:struct<c:list<string>>>", [{"a": None, "b": None}, {"a": 1, "b": {"c": ["x", None]}}, None]),
    "map": ("map<string,struct<a:int>>", [[("k", {"a": 1}), ("l", None)], [], None]),
}
ARROW = {
    "boolean": pa.bool_(), "int": pa.int32(), "long": pa.int64(), "float": pa.float32(), "double": pa.float64(), "string": pa.string(),
    "binary": pa.binary(), "date": pa.date32(), "time": pa.time64("us"), "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", "UTC"),
}  # fmt: skip


def arrow_type(kind: Type) -> pa.DataType:
    if kind.name == "decimal":
        return pa.decimal128(kind.precision, kind.scale)
    if kind.name == "list":
        return pa.list_(arrow_type(kind.fields[0].type))
    if kind.name == "map":
        return pa.map_(arrow_type(kind.fields[0].type), arrow_type(kind.fields[1].type))
    if kind.name == "struct":
        return pa.struct([(f.name, arrow_type(f.type)) for f in kind.fields])
    return ARROW[kind.name]


def every_type() -> pa.Table:
    return pa.table({name: pa.array(values, arrow_type(parse_type(kind))) for name, (kind, values) in ROWS.items()})


def test_what_is_written_is_what_is_read(session: Session, tmp_path: Path) -> None:
    table = every_type()
    schema = columns(**{name: kind for name, (kind, _) in ROWS.items()})
    session.bind("given", table)
    files = session.write("SELECT * FROM given", draft_in(tmp_path / "t", schema))
    assert sum(f.rows for f in files) == 3
    assert all(f.size_bytes == Path(f.path).stat().st_size for f in files)
    found = back(session, schema, files)
    assert repr(found.to_pylist()) == repr(table.to_pylist())
    assert found.schema.equals(table.schema.remove_metadata())


def test_files_carry_the_drafts_ids_in_every_depth(session: Session, tmp_path: Path) -> None:
    schema = columns(**{name: kind for name, (kind, _) in ROWS.items()})
    session.bind("given", every_type())
    (file,) = session.write("SELECT * FROM given", draft_in(tmp_path / "t", schema))

    def ids(field: pa.Field) -> list[int]:
        kind = field.type
        inner = [kind.key_field, kind.item_field] if pa.types.is_map(kind) else [kind.field(i) for i in range(kind.num_fields)]
        return [int((field.metadata or {})[b"PARQUET:field_id"]), *(i for f in inner for i in ids(f))]

    def wanted(field: Field) -> list[int]:
        return [field.id or 0, *(i for f in field.type.fields for i in wanted(f))]

    found = pq.read_schema(file.path)
    assert [ids(found.field(i)) for i in range(len(found))] == [wanted(f) for f in schema]


def test_a_file_name_tells_its_schema(session: Session, tmp_path: Path) -> None:
    draft = draft_in(tmp_path / "t", columns(a="int"), schema_id=7)
    first, second = (session.write("SELECT 1 AS a", draft)[0] for _ in range(2))
    assert Path(first.path).name.startswith("part-s7-")
    assert first.schema_id == 7
    assert first.path != second.path
    assert Path(first.path).parent == Path(draft.folder)


def test_no_rows_make_no_files(session: Session, tmp_path: Path) -> None:
    for partition in ((), (by("a"),)):
        assert session.write("SELECT 1 AS a WHERE false", draft_in(tmp_path / "t", columns(a="int"), *partition)) == ()
    assert list((tmp_path / "t").iterdir()) == []


def test_a_scan_without_files_has_the_columns(session: Session) -> None:
    session.bind("empty", scan_of(columns(a="int", b="list<struct<c:date>>"), ()))
    assert session.define("again", "SELECT * FROM empty") == schema_of(a="int", b="list<struct<c:date>>")
    assert session.rows("SELECT count(*), count(_path) FROM empty__all") == [(0, 0)]


# -- columns that changed -----------------------------------------------------------------------------------------------
OLD = Schema(
    (
        Field("id", parse_type("int"), 1),
        Field("s", parse_type("string"), 2),
        Field("gone", parse_type("double"), 3),
        Field("p", Type("struct", fields=(Field("x", parse_type("int"), 5), Field("y", parse_type("string"), 6))), 4),
        Field("items", Type("list", fields=(Field("element", Type("struct", fields=(Field("a", parse_type("int"), 9),)), 8),)), 7),
        Field(
            "m",
            Type(
                "map",
                fields=(
                    Field("key", parse_type("string"), 11),
                    Field("value", Type("struct", fields=(Field("v", parse_type("int"), 13),)), 12),
                ),
            ),
            10,
        ),
    )
)
NEW = Schema(
    (
        Field("label", parse_type("string"), 2),
        Field("id", parse_type("long"), 1),
        Field("gone", parse_type("string"), 14),
        Field("s", parse_type("string"), 15),
        Field("p", Type("struct", fields=(Field("y", parse_type("int"), 5), Field("new", parse_type("date"), 16))), 4),
        Field("items", Type("list", fields=(Field("element", Type("struct", fields=(Field("b", parse_type("long"), 9),)), 8),)), 7),
        Field(
            "m",
            Type(
                "map",
                fields=(
                    Field("key", parse_type("string"), 11),
                    Field("value", Type("struct", fields=(Field("w", parse_type("int"), 13),)), 12),
                ),
            ),
            10,
        ),
    )
)
OLD_ROWS = """
    SELECT 1 AS id, 'one' AS s, 1.5::DOUBLE AS gone, {'x': 7, 'y': 'why'} AS p, [{'a': 3}, NULL] AS items, MAP {'k': {'v': 5}} AS m
    UNION ALL SELECT 2, NULL, NULL, NULL, NULL, NULL
"""
NEW_ROWS = """
    SELECT 'three' AS label, 3::BIGINT AS id, 'back' AS gone, 'fresh' AS s, {'y': 8, 'new': DATE '2026-01-01'} AS p,
           [{'b': 4::BIGINT}] AS items, MAP {'k': {'w': 6}} AS m
"""
EXPECTED = [
    {"label": "one", "id": 1, "gone": None, "s": None, "p": {"y": 7, "new": None}, "items": [{"b": 3}, None], "m": [("k", {"w": 5})]},
    {"label": None, "id": 2, "gone": None, "s": None, "p": None, "items": None, "m": None},
    {"label": "three", "id": 3, "gone": "back", "s": "fresh", "p": {"y": 8, "new": date(2026, 1, 1)}, "items": [{"b": 4}],
     "m": [("k", {"w": 6})]},
]  # fmt: skip


@pytest.mark.parametrize("told", [True, False], ids=["schemas told", "schemas looked up in footers"])
def test_renamed_dropped_reused_and_widened_columns_are_right_by_id(session: Session, tmp_path: Path, told: bool) -> None:
    old = session.write(OLD_ROWS, draft_in(tmp_path / "t", OLD, schema_id=0))
    new = session.write(NEW_ROWS, draft_in(tmp_path / "t", NEW, schema_id=1))
    files = [*old, *new] if told else [replace(f, schema_id=None) for f in (*old, *new)]
    session.bind("trips", scan_of(NEW, files, {0: OLD, 1: NEW} if told else {}))
    found = session.read("SELECT * FROM trips ORDER BY id").read_all()
    assert found.to_pylist() == EXPECTED
    assert session.rows("SELECT id FROM trips WHERE label = 'one' AND gone IS NULL") == [(1,)]
    assert session.define("again", "SELECT * FROM trips").field("id").type == parse_type("long")


def test_deleted_positions_are_not_read(session: Session, tmp_path: Path) -> None:
    schema = columns(a="long")
    files = [session.write(f"SELECT i AS a FROM range({n}, {n + 5}) r(i)", draft_in(tmp_path / "t", schema))[0] for n in (0, 10)]
    deletes = str(tmp_path / "deletes.parquet")
    pq.write_table(pa.table({"file_path": ["file:" + files[0].path] * 2 + ["file://" + files[1].path], "pos": [0, 3, 4]}), deletes)
    whole = [replace(f, deletes=(deletes,)) for f in files]
    session.bind("trips", scan_of(schema, whole))
    assert session.rows("SELECT a FROM trips ORDER BY a") == [(n,) for n in (1, 2, 4, 10, 11, 12, 13)]
    session.bind("half", scan_of(schema, [whole[0], files[1]]))
    assert session.rows("SELECT count(*) FROM half") == [(8,)]


# -- order --------------------------------------------------------------------------------------------------------------
MIXED = "SELECT (i * 7919) % 300007 AS a, (i * 7919) % 3 AS k FROM range(300000) r(i)"


@pytest.mark.parametrize("partition", [(), (by("k"),)], ids=["whole", "partitioned"])
def test_rows_are_written_in_the_order_of_the_query(session: Session, tmp_path: Path, partition: tuple[Partition, ...]) -> None:
    files = session.write(f"{MIXED} ORDER BY a DESC", draft_in(tmp_path / "t", columns(a="long", k="long"), *partition))
    assert sum(f.rows for f in files) == 300_000
    for file in files:
        found = pq.read_table(file.path)["a"].to_pylist()
        assert found == sorted(found, reverse=True)


def test_rows_are_read_in_the_order_of_the_query(session: Session) -> None:
    session.define("mixed", MIXED)
    found = session.read("SELECT a FROM mixed ORDER BY a").read_all()["a"].to_pylist()
    assert found == sorted(found)
    assert len(found) == 300_000


# -- partitions ---------------------------------------------------------------------------------------------------------
def parts(session: Session, tmp_path: Path, query: str, schema: Schema, *partition: Partition) -> dict[Any, list[Any]]:
    """First column's values per partition; one file each, holding all columns."""
    files = session.write(query, draft_in(tmp_path / "t", schema, *partition))
    assert len({f.partition for f in files}) == len(files)
    assert all(pq.read_schema(f.path).names == list(schema.names) for f in files)
    return {f.partition: pq.read_table(f.path).column(0).to_pylist() for f in files}


def test_spans_are_counted_from_1970_and_rounded_down(session: Session, tmp_path: Path) -> None:
    moments = [naive(1969, 12, 31, 23, 30), naive(1970, 1, 1), naive(2013, 3, 1, 0, 59), None]
    session.bind("given", pa.table({"t": pa.array(moments, pa.timestamp("us"))}))
    for n, (field, counted) in enumerate(
        {year("t"): [-1, 0, 43], month("t"): [-1, 0, 518], day("t"): [-1, 0, 15765], hour("t"): [-1, 0, 378360]}.items()
    ):
        for kind in ("timestamp", "timestamptz"):
            found = parts(session, tmp_path / f"{n}{kind}", "SELECT t FROM given", columns(t=kind), field)
            assert sorted(found, key=str) == sorted([(c,) for c in [*counted, None]], key=str)
    found = parts(session, tmp_path / "date", "SELECT CAST(t AS DATE) AS t FROM given", columns(t="date"), month("t"))
    assert set(found) == {(-1,), (0,), (518,), (None,)}


def test_null_and_texts_that_look_like_it_are_different_partitions(session: Session, tmp_path: Path) -> None:
    texts = ["NULL", "", None, "null", "a/b", "__HIVE_DEFAULT_PARTITION__", "a/b", None, "x" * 300, "n"]
    session.bind("given", pa.table({"a": list(range(len(texts))), "k": texts}))
    found = parts(session, tmp_path, "SELECT * FROM given", columns(a="long", k="string"), by("k"))
    assert found == {(t,): [i for i, other in enumerate(texts) if other == t] for t in texts}


def test_partitions_of_several_fields_with_scattered_rows(session: Session, tmp_path: Path) -> None:
    query = "SELECT i AS a, i % 2 = 0 AS b, i % 3 AS n, DATE '1969-12-31' + (i % 2)::INTEGER AS d FROM range(12) r(i)"
    found = parts(session, tmp_path, query, columns(a="long", b="boolean", n="long", d="date"), by("b"), by("n"), by("d"))
    assert found == {(i % 2 == 0, i % 3, i % 2 - 1): [i, i + 6] for i in range(6)}


def test_partitions_that_stand_together(session: Session, tmp_path: Path) -> None:
    found = parts(session, tmp_path, "SELECT i AS a, i // 4 AS k FROM range(10) r(i)", columns(a="long", k="long"), by("k"))
    assert found == {(0,): [0, 1, 2, 3], (1,): [4, 5, 6, 7], (2,): [8, 9]}


@pytest.mark.parametrize("partition", [bucket(4, "a"), hour("d"), by("m")], ids=str)
def test_partitions_that_it_cannot_make_are_refused(session: Session, tmp_path: Path, partition: Partition) -> None:
    draft = draft_in(tmp_path / "t", columns(a="long", d="date", m="decimal(9,2)"), partition)
    with pytest.raises(Unsupported):
        session.write("SELECT 1 AS a", draft)
    assert list((tmp_path / "t").iterdir()) == []


# -- columns and values that do not fit ---------------------------------------------------------------------------------
def test_columns_that_the_query_lacks_are_null(session: Session, tmp_path: Path) -> None:
    schema = columns(a="int", b="list<struct<c:date>>", c="string")
    files = session.write("SELECT 'x' AS C, 1 AS a", draft_in(tmp_path / "t", schema))
    assert back(session, schema, files).to_pylist() == [{"a": 1, "b": None, "c": "x"}]


def test_a_column_that_the_table_lacks_is_an_error(session: Session, tmp_path: Path) -> None:
    with pytest.raises(QueryError) as caught:
        session.write("SELECT 1 AS price, 2 AS pirce", draft_in(tmp_path / "t", columns(price="int")))
    assert "pirce" in caught.value.place
    assert "`price`" in caught.value.hint


def test_values_are_cast_if_nothing_is_lost(session: Session, tmp_path: Path) -> None:
    schema = columns(a="int", b="decimal(9,2)", c="string", d="date", e="long", f="double")
    query = "SELECT 3::HUGEINT AS a, 1.50::DOUBLE AS b, 7 AS c, '2026-01-01' AS d, '12' AS e, 1::UTINYINT AS f"
    files = session.write(query, draft_in(tmp_path / "t", schema))
    assert back(session, schema, files).to_pylist() == [{"a": 3, "b": Decimal("1.50"), "c": "7", "d": date(2026, 1, 1), "e": 12, "f": 1.0}]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("'x'", "int"),
        ("3000000000", "int"),
        ("1.5", "int"),
        ("1.234", "decimal(9,2)"),
        ("TIMESTAMP '2026-01-01 10:00:00'", "date"),
        ("9007199254740993", "double"),
        ("{'a': 1}", "int"),
        ("'2026-13-01'", "date"),
        ("170141183460469231731687303715884105727", "decimal(38,0)"),
    ],
)
def test_a_value_that_does_not_fit_is_an_error_with_its_column(session: Session, tmp_path: Path, value: str, kind: str) -> None:
    draft = draft_in(tmp_path / "t", columns(good="int", bad=kind))
    with pytest.raises(QueryError) as caught:
        session.write(f"SELECT 1 AS good, {value} AS bad FROM range(3)", draft)
    assert caught.value.place == "trips[bad]"
    assert list((tmp_path / "t").iterdir()) == []


@pytest.mark.parametrize("partition", [(), (by("k"),)], ids=["whole", "partitioned"])
def test_a_failed_write_leaves_other_files_alone_and_none_of_its_own(
    session: Session, tmp_path: Path, partition: tuple[Partition, ...]
) -> None:
    draft = draft_in(tmp_path / "t", columns(a="long", k="long"), *partition)
    before = {f.path for f in session.write("SELECT 1 AS a, 1 AS k", draft)}
    query = "SELECT i AS a, CASE WHEN i = 250000 THEN error('boom') ELSE i % 2 END AS k FROM range(300000) r(i)"
    with pytest.raises(QueryError, match="boom"):
        session.write(query, draft)
    assert {str(p) for p in (tmp_path / "t").rglob("*")} == before


# -- names, parameters, errors ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", HOSTILE)
def test_names_and_paths_may_hold_anything(session: Session, tmp_path: Path, text: str) -> None:
    schema = numbered(Schema((Field(text, parse_type("int")), Field("p", Type("struct", fields=(Field(text, parse_type("int")),))))))
    session.bind(text, pa.table({text: pa.array([1], pa.int32()), "p": [{text: 2}]}))
    folder = tmp_path / text.replace("/", "_")
    decoy = tmp_path / "a"
    decoy.mkdir()
    files = session.write(f"SELECT * FROM {quote(text)}", draft_in(folder, schema))
    (decoy / Path(files[0].path).name).write_text("not to be read")
    session.bind(text, scan_of(schema, files))
    assert session.define(text + "2", f"SELECT * FROM {quote(text)}").names == (text, "p")
    assert session.read(f"SELECT * FROM {quote(text + '2')}").read_all().to_pylist() == [{text: 1, "p": {text: 2}}]
    assert session.rows(f"SELECT _path FROM {quote(text + '__all')}") == [(files[0].path,)]


@pytest.mark.parametrize(
    "value",
    [0, -(2**62), 1.5, True, "x'; DROP VIEW v; --", "$n", "", b"\x00", None, date(2026, 1, 1), MOMENT, MOMENT.replace(tzinfo=UTC),
     Decimal("1.50"), [1, 2], ["a'b"]],
    ids=repr,
)  # fmt: skip
def test_parameters_are_bound_and_not_pasted(session: Session, value: Any) -> None:
    expected = [(value, "$n")]
    query = "SELECT $n AS a, '$n' AS \"b$n\" -- $n"
    assert session.rows(query, {"n": value}) == expected
    session.define("v", query, {"n": value})
    session.define("other", "SELECT $n AS a", {"n": "other"})
    assert session.rows("SELECT * FROM v") == expected
    assert session.read("SELECT * FROM v").read_all().column(0).to_pylist() == [value]


def test_a_parameter_may_limit_and_filter(session: Session) -> None:
    session.define(
        "few", "SELECT i FROM range(10) r(i) WHERE i >= $low AND i IN $of LIMIT $limit", {"low": 3, "of": [1, 4, 5, 6], "limit": 2}
    )
    assert session.rows("SELECT count(*), min(i) FROM few") == [(2, 4)]


@pytest.mark.parametrize("params", [{}, {"m": 1}, {"n": 1, "m": 2}], ids=str)
def test_parameters_must_be_those_of_the_query(session: Session, params: dict[str, Any]) -> None:
    for call in (session.rows, session.read, lambda q, p: session.define("v", q, p)):
        with pytest.raises(QueryError):
            call("SELECT $n AS a", params)


def test_unknown_names_come_with_the_nearest_known(session: Session) -> None:
    session.bind("flights", pa.table({"carrier": ["AA"]}))
    for call in (session.rows, session.read, lambda q: session.define("v", q)):
        with pytest.raises(QueryError) as caught:
            call("SELECT *\nFROM fligths")
        assert "`flights`" in caught.value.hint
        assert "line 2" in caught.value.message
        with pytest.raises(QueryError) as caught:
            call("SELECT carier FROM flights")
        assert "`carrier`" in caught.value.hint


@pytest.mark.parametrize(
    "query",
    ["", "-- nothing", "SELEC 1", "SELECT 1; SELECT 2", "DROP VIEW kept", "COPY (SELECT 1) TO 'x.csv'", "SET threads = 1", "SELECT 1 +"],
)
def test_only_one_select_is_a_query(session: Session, tmp_path: Path, query: str) -> None:
    session.define("kept", "SELECT 1 AS a")
    for call in (session.rows, session.read, lambda q: session.define("v", q)):
        with pytest.raises(QueryError):
            call(query)
    with pytest.raises(QueryError):
        session.write(query, draft_in(tmp_path / "t", columns(a="int")))
    assert session.rows("SELECT a FROM kept") == [(1,)]


def test_a_query_may_end_in_comments_and_a_semicolon(session: Session, tmp_path: Path) -> None:
    query = "SELECT 1 AS a ; -- done\n/* really */"
    session.define("v", query)
    assert session.rows("SELECT a FROM v -- all") == [(1,)]
    assert session.write(query, draft_in(tmp_path / "t", columns(a="int")))[0].rows == 1


def test_a_column_twice_is_an_error_where_it_is_named(session: Session) -> None:
    with pytest.raises(DefinitionError):
        session.define("v", "SELECT 1 AS a, 2 AS A")


def test_python_values_of_rows(session: Session) -> None:
    query = "SELECT sum(i), max(i)::DECIMAL(9,2), TIMESTAMPTZ '2026-01-01 00:00:00+02', NULL FROM range(3) r(i)"
    (row,) = session.rows(query)
    assert row == (3, Decimal("2.00"), datetime(2025, 12, 31, 22, tzinfo=UTC), None)
    assert type(row[0]) is int
    assert session.rows("SELECT CAST(TIMESTAMPTZ '2026-01-01 00:30:00+02' AS DATE)") == [(date(2025, 12, 31),)]


# -- binding ------------------------------------------------------------------------------------------------------------
def test_hidden_columns_and_places(session: Session, tmp_path: Path) -> None:
    schema = columns(a="long", _file="string")
    draft = draft_in(tmp_path / "t", schema)
    files = [session.write(f"SELECT i AS a, 'f' AS _file FROM range({n}) r(i)", draft)[0] for n in (3, 2)]
    session.bind("trips", scan_of(schema, files), hidden=["_file"])
    assert session.define("v", "SELECT * FROM trips").names == ("a",)
    places = [(n, "f", f.path, n) for f in files for n in range(f.rows)]
    assert session.rows("SELECT a, _file, _path, _pos FROM trips__all ORDER BY _path, _pos") == sorted(places, key=lambda p: (p[2], p[3]))
    session.files("batch", files[:1], schema)
    assert session.rows("SELECT * FROM batch") == [(n, "f") for n in range(3)]
    assert session.rows("SELECT _path, _pos FROM batch__all WHERE a = 2") == [(files[0].path, 2)]
    again = session.write("SELECT * FROM batch__all WHERE a > 0", draft)
    assert [f.rows for f in again] == [2]
    session.bind("given", pa.table({"a": [1], "_row": [5]}), hidden=["_row"])
    assert session.rows("SELECT * FROM given") == [(1,)]
    assert session.rows("SELECT _row FROM given__all") == [(5,)]


def test_a_column_called_as_a_place_is_refused_where_places_are_needed(session: Session, tmp_path: Path) -> None:
    schema = columns(a="long", _path="string")
    files = session.write("SELECT 1 AS a, 'mine' AS _path", draft_in(tmp_path / "t", schema))
    session.bind("trips", scan_of(schema, files))
    assert session.rows("SELECT _path FROM trips") == [("mine",)]
    with pytest.raises(Unsupported):
        session.files("trips", files, schema)


def test_binding_a_name_again_replaces_it(session: Session, tmp_path: Path) -> None:
    schema = columns(a="long")
    files = session.write("SELECT 1 AS a", draft_in(tmp_path / "t", schema))
    ways: list[Callable[[], Any]] = [
        lambda: session.bind("x", pa.table({"a": [1]})),
        lambda: session.bind("x", scan_of(schema, files)),
        lambda: session.define("x", "SELECT 1::BIGINT AS a"),
        lambda: session.bind("x", pa.table({"a": [1]}).to_reader()),
    ]
    for first in ways:
        for second in ways:
            first()
            second()
            assert session.rows("SELECT * FROM x") == [(1,)]


def test_a_reader_is_read_once_and_may_come_from_the_same_session(session: Session, tmp_path: Path) -> None:
    stream = session.read("SELECT i AS a FROM range(300000) r(i)")

    def doubled() -> Iterator[pa.RecordBatch]:
        for batch in stream:
            yield pa.record_batch({"a": pa.array([2 * n for n in batch.column(0).to_pylist()], pa.int64())})

    session.bind("twice", pa.RecordBatchReader.from_batches(pa.schema([("a", pa.int64())]), doubled()))
    files = session.write("SELECT * FROM twice", draft_in(tmp_path / "t", columns(a="long")))
    assert sum(f.rows for f in files) == 300_000
    with pytest.raises(QueryError):
        session.rows("SELECT count(*) FROM twice")


def test_what_a_reader_raises_comes_out_as_it_was(session: Session, tmp_path: Path) -> None:
    class Own(Exception):
        pass

    def batches() -> Iterator[pa.RecordBatch]:
        yield pa.record_batch({"a": [1]})
        raise Own("mine")

    for _ in range(2):
        session.bind("bad", pa.RecordBatchReader.from_batches(pa.schema([("a", pa.int64())]), batches()))
        with pytest.raises(Own, match="mine"):
            session.write("SELECT * FROM bad", draft_in(tmp_path / "t", columns(a="long")))
    assert list((tmp_path / "t").iterdir()) == []
    assert session.rows("SELECT 1") == [(1,)]


def test_a_closed_stream_blocks_nothing(session: Session) -> None:
    stream = session.read("SELECT i FROM range(10000000) r(i)")
    assert stream.read_next_batch().num_rows > 0
    stream.close()
    assert session.rows("SELECT 1") == [(1,)]


def test_an_error_in_the_middle_of_a_stream_is_ours(session: Session) -> None:
    stream = session.read("SELECT CASE WHEN i = 400000 THEN error('boom') ELSE i END AS a FROM range(500000) r(i)")
    with pytest.raises(QueryError, match="boom"):
        stream.read_all()


def test_sessions_do_not_see_each_other_and_close_twice(engine: Engine) -> None:
    first, second = engine.session(), engine.session()
    first.define("v", "SELECT 1 AS a")
    with pytest.raises(QueryError):
        second.rows("SELECT * FROM v")
    for session in (first, second, first):
        session.close()


# -- point-in-time join -------------------------------------------------------------------------------------------------
def at(hours: int) -> datetime:
    return naive(2026, 1, 1, hours)


def joined(session: Session, *, known: bool = False, within_s: float | None = None) -> dict[int, Any]:
    left = {"id": [1, 2, 3, 4, 5], "k": ["a", "a", "b", None, "a"], "t": [at(1), at(10), at(10), at(10), None]}
    right = {
        "k": ["a", "a", "a", "b", None],
        "t": [at(2), at(4), at(9), at(11), at(1)],
        "known": [at(2), at(3), at(12), at(11), at(1)],
        "v": [2, 4, 9, 11, 1],
    }
    session.bind("spine", pa.table(left, pa.schema([("id", pa.int64()), ("k", pa.string()), ("t", pa.timestamp("us"))])))
    session.bind("facts", pa.table(right))
    known_at = "known" if known else None
    schema = session.asof("j", "spine", "facts", by=["k"], on="t", right_on="t", within_s=within_s, take=["v"], right_known=known_at)
    assert schema.names == ("id", "k", "t", "v")
    found = session.rows("SELECT id, v FROM j ORDER BY id")
    assert [row[0] for row in found] == [1, 2, 3, 4, 5]
    return {row[0]: row[1] for row in found if row[1] is not None}


def test_asof_takes_the_newest_row_at_or_before_and_keeps_every_left_row(session: Session) -> None:
    assert joined(session) == {2: 9}


def test_asof_waits_until_a_row_is_known(session: Session) -> None:
    assert joined(session, known=True) == {2: 4}


def test_asof_leaves_out_what_is_too_old_and_takes_what_is_just_old_enough(session: Session) -> None:
    assert joined(session, within_s=3600.0) == {2: 9}
    assert joined(session, within_s=3599.999999) == {}
    assert joined(session, within_s=6 * 3600.0, known=True) == {2: 4}
    assert joined(session, within_s=5 * 3600.0, known=True) == {}


def test_asof_takes_the_correction_that_was_known_last(session: Session) -> None:
    session.bind("l", pa.table({"id": [1, 2, 3], "k": ["a"] * 3, "t": [at(5), at(7), at(9)]}))
    facts = {"k": ["a"] * 4, "t": [at(4)] * 3 + [at(1)], "known": [at(3), at(2), at(8), at(9)], "v": [1, 2, 3, 4]}
    session.bind("r", pa.table(facts))
    session.asof("j", "l", "r", by=["k"], on="t", right_on="t", within_s=None, take=["v"], right_known="known")
    assert session.rows("SELECT id, v FROM j ORDER BY id") == [(1, 1), (2, 1), (3, 3)]


def test_asof_tells_the_time_of_the_row_that_was_newest_however_old(session: Session) -> None:
    session.bind("l", pa.table({"id": [1, 2, 3], "k": ["a", "a", "b"], "t": [at(2), at(9), at(9)]}))
    session.bind("r", pa.table({"k": ["a"], "t": [at(1)], "v": [7]}))
    schema = session.asof("j", "l", "r", by=["k"], on="t", right_on="t", within_s=3600.0, take=["v"], event_as="event")
    assert schema.names == ("id", "k", "t", "v", "event")
    assert session.rows("SELECT id, v, event IS NULL, epoch_us(t) - epoch_us(event) FROM j ORDER BY id") == [
        (1, 7, False, 3_600_000_000), (2, None, False, 8 * 3_600_000_000), (3, None, True, None),
    ]  # fmt: skip


def test_asof_says_which_column_is_wrong(session: Session) -> None:
    session.bind("l", pa.table({"k": [1], "t": [at(1)], "v": [1]}))
    session.bind("r", pa.table({"k": [1], "t": [at(1)], "v": [1]}))
    with pytest.raises(QueryError, match="twice"):
        session.asof("j", "l", "r", by=["k"], on="t", right_on="t", within_s=None, take=["v"])
    with pytest.raises(QueryError) as caught:
        session.asof("j", "l", "r", by=["key"], on="t", right_on="t", within_s=None, take=[])
    assert caught.value.place == "l[key]"


# -- limits -------------------------------------------------------------------------------------------------------------
SORTED = "SELECT i AS a, hash(i)::VARCHAR AS s FROM range(3000000) r(i) ORDER BY hash(i + 1)"


def test_a_sort_larger_than_the_memory_limit_spills(new_engine: NewEngine, tmp_path: Path) -> None:
    engine = new_engine(memory_limit="100MB", threads=1)
    if not engine.capabilities.spills:
        pytest.skip("this engine does not spill")
    session = engine.session()
    (file,) = session.write(SORTED, draft_in(tmp_path / "t", columns(a="long", s="string")))
    assert file.rows == 3_000_000
    session.close()


def test_without_room_to_spill_the_memory_limit_is_named(new_engine: NewEngine, tmp_path: Path) -> None:
    engine = new_engine(memory_limit="100MB", threads=1, spill_limit="1MB")
    if not engine.capabilities.memory_limit:
        pytest.skip("this engine has no memory limit")
    session = engine.session()
    with pytest.raises(MemoryLimit):
        session.write(SORTED, draft_in(tmp_path / "t", columns(a="long", s="string")))
    with pytest.raises(MemoryLimit):
        session.read(SORTED).read_all()
    assert list((tmp_path / "t").iterdir()) == []
    assert session.rows("SELECT 1") == [(1,)]
    session.close()


def test_storage_that_takes_no_more_is_named(session: Session, tmp_path: Path) -> None:
    draft = draft_in(tmp_path / "t", columns(a="long", s="string"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StorageFull):
            session.write("SELECT i AS a, hash(i)::VARCHAR AS s FROM range(300000) r(i)", draft)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "t").iterdir()) == []


def test_many_files_are_one_relation(session: Session, tmp_path: Path) -> None:
    schema = columns(a="long")
    (file,) = session.write("SELECT 1 AS a", draft_in(tmp_path / "t", schema))
    paths = [str(tmp_path / "t" / f"{i}.parquet") for i in range(2_000)]
    for path in paths:
        Path(path).symlink_to(file.path)
    session.bind("trips", scan_of(schema, [replace(file, path=p) for p in paths]))
    assert session.rows("SELECT sum(a) FROM trips") == [(2_000,)]
