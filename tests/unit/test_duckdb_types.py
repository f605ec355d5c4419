"""DuckDB's types and the spec's."""

import duckdb
import pytest

from penstock.adapters.engine.duckdb.types import field_ids, from_duck, schema_from_duck, to_duck
from penstock.ground.errors import DefinitionError, FileIdsWrong, QueryError
from penstock.spec.schema import Field, Schema, list_of, map_of, parse_type, primitive, struct_of

LAKE_TYPES = [
    "boolean",
    "int",
    "long",
    "float",
    "double",
    "decimal(9,2)",
    "decimal(38,0)",
    "string",
    "binary",
    "date",
    "time",
    "timestamp",
    "timestamptz",
    "uuid",
    "list<int>",
    "map<string,list<decimal(5,1)>>",
    "struct<a:int,b:struct<c:list<struct<d:date>>>>",
]


@pytest.mark.parametrize("text", LAKE_TYPES)
def test_a_lake_type_comes_back_from_duckdb_unchanged(text: str) -> None:
    kind = parse_type(text)
    assert from_duck(to_duck(kind)) == kind
    described = duckdb.connect().execute(f"SELECT CAST(NULL AS {to_duck(kind)}) AS x").description
    assert from_duck(described[0][1]) == kind


def test_member_names_may_hold_anything() -> None:
    kind = struct_of(Field('q"x', primitive("int")), Field("a b, c", list_of(primitive("string"))), Field("it's", primitive("date")))
    assert from_duck(to_duck(kind)) == kind


@pytest.mark.parametrize(
    ("duck", "lake"),
    [
        ("TINYINT", "int"),
        ("USMALLINT", "int"),
        ("UINTEGER", "long"),
        ("UBIGINT", "decimal(20,0)"),
        ("HUGEINT", "decimal(38,0)"),
        ("TIMESTAMP_S", "timestamp"),
        ("TIMESTAMP_NS", "timestamp"),
        ("ENUM('a','b')", "string"),
        ("JSON", "string"),
        ("BIT", "string"),
        ('"NULL"', "string"),
        ("INTEGER[3]", "list<int>"),
        ("STRUCT(j JSON)[]", "list<struct<j:string>>"),
    ],
)
def test_types_the_lake_lacks_become_the_least_that_holds_them(duck: str, lake: str) -> None:
    assert str(from_duck(duck)) == lake


@pytest.mark.parametrize("duck", ["INTERVAL", "TIME WITH TIME ZONE", "UNION(k INTEGER)", "BIGNUM", "INTERVAL[]"])
def test_types_without_a_place_are_refused_with_a_way_out(duck: str) -> None:
    with pytest.raises(QueryError) as caught:
        from_duck(duck, place="x")
    assert caught.value.place == "x"
    assert caught.value.hint


def test_unnamed_members_are_refused() -> None:
    described = duckdb.connect().execute("SELECT row(1, 2) AS x").description
    with pytest.raises(QueryError):
        from_duck(described[0][1])


def test_columns_that_differ_only_in_case_are_refused() -> None:
    with pytest.raises(DefinitionError):
        schema_from_duck([("a", "INTEGER"), ("A", "INTEGER")])


def test_every_id_of_a_nested_schema_is_written() -> None:
    item = struct_of(Field("c", primitive("string"), 5), Field("it's", primitive("int"), 6))
    listed = list_of(item)
    listed = type(listed)("list", fields=(Field("element", item, 4),))
    mapped = map_of(primitive("string"), primitive("int"))
    mapped = type(mapped)("map", fields=(Field("key", primitive("string"), 8), Field("value", primitive("int"), 9)))
    schema = Schema((Field("id", primitive("long"), 1), Field("xs", listed, 3), Field("m", mapped, 7)))
    assert field_ids(schema) == (
        "{'id': 1, 'xs': {__duckdb_field_id: 3, 'element': {__duckdb_field_id: 4, 'c': 5, 'it''s': 6}}, "
        "'m': {__duckdb_field_id: 7, 'key': 8, 'value': 9}}"
    )


def test_a_schema_without_ids_is_not_written() -> None:
    with pytest.raises(FileIdsWrong):
        field_ids(Schema((Field("id", primitive("long")),)))
