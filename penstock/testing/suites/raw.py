"""What every engine that reads raw files must do: find columns and types, load each line as a row or keep it as rejected.

Use: `from penstock.testing.suites.raw import *` in a test module that has a fixture `engine`. Formats that an engine does not name in
its capabilities are left out.
"""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from penstock.ground.errors import InputRefused, SourceChanged, SourceError
from penstock.ports.engine import Engine, Inferred, Loaded, RawFile, RawFiles, Session
from penstock.spec.schema import Field, Schema, primitive, schema_of, schema_record
from penstock.testing.suites.engine import draft_in, numbered

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Found:
    """Rows and rejected rows of a load, in order."""

    rows: Rows
    rejected: Rows
    loaded: Loaded

    @property
    def places(self) -> list[tuple[int, str]]:
        return [(r["position"], r["check"]) for r in self.rejected]


class Reader:
    """Writes files and reads them back through a session, checking each time that rows add up."""

    def __init__(self, session: Session, folder: Path) -> None:
        self.session = session
        self.folder = folder
        self._loads = 0

    def put(self, name: str, data: bytes | str) -> RawFile:
        path = self.folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return listed(path, name)

    def infer(self, *files: RawFile, format: str = "csv", **options: Any) -> Inferred:
        return self.session.infer(RawFiles(files, format, None, options))

    def load(self, *files: RawFile, schema: Schema, format: str = "csv", file_column: str = "", **options: Any) -> Found:
        """Loads, and checks that rows read are rows written and rejected, in all and per file."""
        raw = RawFiles(files, format, schema, options, file_column)
        fields = (*schema.fields, Field(file_column, primitive("string"))) if file_column else schema.fields
        folder = self.folder / "out" / str(self._loads)
        self._loads += 1
        loaded = self.session.load(raw, draft_in(folder, numbered(Schema(fields))))
        rows = [row for f in loaded.files for row in pq.ParquetFile(f.path).read().to_pylist()]
        rejected = loaded.rejected.to_pylist()
        assert loaded.rows_read == len(rows) + len(rejected)
        assert sum(f.rows for f in loaded.files) == len(rows) == sum(loaded.per_file.values())
        assert len({(r["file"], r["position"]) for r in rejected}) == len(rejected)
        assert {p.name for p in folder.iterdir()} == {Path(f.path).name for f in loaded.files}
        return Found(rows, rejected, loaded)

    def both(self, *files: RawFile, format: str = "csv", **options: Any) -> Found:
        """Infers, then loads as inferred."""
        found = self.infer(*files, format=format, **options)
        return self.load(*files, schema=found.schema, format=format, **{**found.options, **options})


def listed(path: Path, label: str, member: str = "", partition: tuple[tuple[str, str], ...] = ()) -> RawFile:
    stat = path.stat()
    return RawFile(str(path), label, stat.st_size, stat.st_mtime_ns, partition, member)


@pytest.fixture
def reader(engine: Engine, tmp_path: Path) -> Iterator[Reader]:
    session = engine.session()
    yield Reader(session, tmp_path)
    session.close()


def types(found: Inferred | Schema) -> dict[str, str]:
    return dict(schema_record(found.schema if isinstance(found, Inferred) else found))


def needs(reader_or_engine: Engine, format: str) -> None:
    if format not in reader_or_engine.capabilities.raw_formats:
        pytest.skip(f"this engine does not read {format}")


# -- inference ------------------------------------------------------------------------------------------------------
KINDS = {
    "long": ["1", "-2", "900719925474099300"],
    "double": ["1.5", "-2", "1e-05"],
    "boolean": ["true", "False", "TRUE"],
    "date": ["2013-01-31", "1999-12-01"],
    "timestamp": ["2013-01-31 10:00:00", "2013-01-31T10:00", "2013-01-31"],
    "timestamptz": ["2013-01-31T10:00:00Z", "2013-01-31 10:00:00.5+02:00", "2013-01-31 10:00:00"],
    "time": ["10:00", "23:59:59.5"],
    "string": ["007", "1"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_type_of_a_column_is_the_narrowest_that_loses_nothing(reader: Reader, kind: str) -> None:
    file = reader.put("a.csv", "name,x\n" + "".join(f"row,{v}\n" for v in KINDS[kind]))
    assert types(reader.infer(file)) == {"name": "string", "x": kind}


@pytest.mark.parametrize("text", ["2013-02-30", "12345678901234567890", "2147483648x", "1_000", "0x10", " ", "1,5"])
def test_what_only_looks_like_a_value_stays_text(reader: Reader, text: str) -> None:
    assert types(reader.infer(reader.put("a.csv", f'x;name\n1;a\n{text};b\n')))["x"] == "string"  # fmt: skip


@pytest.mark.parametrize("null", ["NA", "N/A", "null", "NULL", "None", "-", "\\N", "nan"])
def test_a_text_that_keeps_a_column_from_being_numbers_means_no_value(reader: Reader, null: str) -> None:
    file = reader.put("a.csv", f"a,b\n1,x\n{null},y\n3,{null}\n,z\n")
    found = reader.infer(file)
    assert types(found) == {"a": "long", "b": "string"}
    assert found.options["nulls"] == (null,)
    assert reader.both(file).rows == [{"a": 1, "b": "x"}, {"a": None, "b": "y"}, {"a": 3, "b": None}, {"a": None, "b": "z"}]


def test_a_text_column_keeps_its_words(reader: Reader) -> None:
    found = reader.both(reader.put("a.csv", "code,n\nNA,1\nnull,2\nDE,3\n"))
    assert [r["code"] for r in found.rows] == ["NA", "null", "DE"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_delimiters_and_line_ends_are_found(reader: Reader, delimiter: str, end: str) -> None:
    text = end.join(delimiter.join(row) for row in [("a", "b"), ("1", '"x, y; z"'), ("2", '"q ""u"""')]) + end
    found = reader.infer(reader.put("a.csv", text))
    assert found.options["delimiter"] == delimiter
    assert types(found) == {"a": "long", "b": "string"}
    assert reader.both(reader.put("a.csv", text)).rows == [{"a": 1, "b": "x, y; z"}, {"a": 2, "b": 'q "u"'}]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a,b\n1,2\n", ["a", "b"]),
        ("1,x\n2,y\n", ["column_1", "column_2"]),
        ("a,,a,A\n1,2,3,4\n", ["a", "column_2", "a_2", "A_3"]),
        ("a,a_2,a\n1,2,3\n", ["a", "a_2", "a_3"]),
        (" a , b\n1,2\n", ["a", "b"]),
        ("name,2012,2013\nx,1,2\n", ["name", "2012", "2013"]),
        ("a,b", ["a", "b"]),
        ("only\n1\n", ["only"]),
    ],
)
def test_headers_are_found_and_names_made_unique(reader: Reader, text: str, names: list[str]) -> None:
    assert list(reader.infer(reader.put("a.csv", text)).schema.names) == names


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252", "latin-1"])
def test_encodings_are_found(reader: Reader, encoding: str) -> None:
    file = reader.put("a.csv", "n,name\n1,Zürich Café\n2,Malmö\n3,plain\n".encode(encoding))
    found = reader.both(file)
    assert found.rows == [{"n": 1, "name": "Zürich Café"}, {"n": 2, "name": "Malmö"}, {"n": 3, "name": "plain"}]


def test_times_in_another_form_are_found_if_only_one_form_fits(reader: Reader) -> None:
    file = reader.put("a.csv", "day,at\n31/12/2013,31.12.2013 10:30\n01/02/2013,01.02.2013 00:00\n")
    assert types(reader.infer(file)) == {"day": "date", "at": "timestamp"}
    assert reader.both(file).rows[0] == {"day": date(2013, 12, 31), "at": at(2013, 12, 31, 10, 30)}
    assert types(reader.infer(reader.put("b.csv", "day,n\n01/02/2013,1\n02/03/2013,2\n"))) == {"day": "string", "n": "long"}


def test_types_of_several_files_meet_and_each_is_told(reader: Reader) -> None:
    one = reader.put("1.csv", "a,b,c\n1,1,\n")
    two = reader.put("2.csv", "a,b,d\n2.5,x,2013-01-01\n")
    found = reader.infer(one, two)
    assert types(found) == {"a": "double", "b": "string", "c": "string", "d": "date"}
    assert [(label, types(s)) for label, s in found.per_file] == [
        ("1.csv", {"a": "long", "b": "long", "c": "string"}),
        ("2.csv", {"a": "double", "b": "string", "d": "date"}),
    ]


def test_values_of_folder_names_are_columns(reader: Reader) -> None:
    reader.put("year=2013/a.csv", "a\n1\n")
    reader.put("year=2014/b.csv", "a\n2\n")
    files = [listed(reader.folder / "data" / n, n, "", (("year", n[5:9]),)) for n in ("year=2013/a.csv", "year=2014/b.csv")]
    assert types(reader.infer(*files)) == {"a": "long", "year": "long"}
    assert reader.both(*files).rows == [{"a": 1, "year": 2013}, {"a": 2, "year": 2014}]


# -- delimited files ------------------------------------------------------------------------------------------------
def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC).replace(tzinfo=None)  # type: ignore[arg-type, misc]


def test_columns_are_found_by_name_whatever_their_order(reader: Reader) -> None:
    files = [reader.put("1.csv", "a,b\n1,x\n"), reader.put("2.csv", "b,extra,a\ny,?,2\n"), reader.put("3.csv", "B\nz\n")]
    found = reader.load(*files, schema=schema_of(a="long", b="string"), file_column="_file")
    assert found.rows == [
        {"a": 1, "b": "x", "_file": "1.csv"}, {"a": 2, "b": "y", "_file": "2.csv"}, {"a": None, "b": "z", "_file": "3.csv"}
    ]  # fmt: skip
    assert dict(found.loaded.per_file) == {"1.csv": 1, "2.csv": 1, "3.csv": 1}


def test_a_file_that_shares_no_column_is_refused(reader: Reader) -> None:
    with pytest.raises(SourceError, match="no column of the file is known"):
        reader.load(reader.put("1.csv", "x;y\n1;2\n"), schema=schema_of(a="long", b="long"))


def test_rejected_lines_have_place_reason_and_text(reader: Reader) -> None:
    file = reader.put("a.csv", "a,b,c\n1,2,x\nz,y,x\n3,4\n5,6,7,8\n9,,\n")
    found = reader.load(file, schema=schema_of(a="long", b="long", c="string"))
    assert found.rows == [{"a": 1, "b": 2, "c": "x"}, {"a": 9, "b": None, "c": None}]
    assert found.places == [(3, "type"), (4, "columns"), (5, "columns")]
    assert [r["original"] for r in found.rejected] == ["z,y,x", "3,4", "5,6,7,8"]
    assert found.rejected[0]["column"] == "a, b"
    assert '"z"' in found.rejected[0]["reason"]
    assert all(r["file"] == "a.csv" for r in found.rejected)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("int", {"2147483647": 2**31 - 1, "-2147483648": -(2**31), "1.0": 1}, ["2147483648", "1.5", "1e-05", "x", "nan"]),
        ("long", {"9223372036854775807": 2**63 - 1, "1e3": 1000}, ["9223372036854775808", "0.1", "15e-1", "inf"]),
        ("double", {"1e308": 1e308, "-0.5": -0.5}, ["1e400", "-1e999", "1,5x"]),
        ("decimal(6,2)", {"1234.56": "1234.56", "1.500": "1.50", "-7": "-7.00"}, ["1.234", "12345.6", "1e2", "x"]),
        ("date", {"2013-01-31": date(2013, 1, 31)}, ["2013-02-30", "2013-01-31 10:00", "infinity"]),
        ("timestamp", {"2013-01-31T10:00:00+02:00": at(2013, 1, 31, 8), "2013-01-31 10:00": at(2013, 1, 31, 10)}, ["31.1.2013", "infinity"]),
        ("timestamptz", {"2013-01-31 10:00:00": at(2013, 1, 31, 10).replace(tzinfo=UTC)}, ["yesterday"]),
        ("time", {"10:00": None}, ["10:00:00+02", "25:00"]),
        ("boolean", {"true": True, "f": False}, ["2", "maybe"]),
        ("uuid", {}, ["6f1d2b3c"]),
    ],
)  # fmt: skip
def test_a_value_is_taken_unchanged_or_its_row_is_rejected(reader: Reader, kind: str, good: dict[str, Any], bad: list[str]) -> None:
    lines = [*good, *bad]
    file = reader.put("a.csv", "n;x\n" + "".join(f"{i};{v}\n" for i, v in enumerate(lines)))
    found = reader.load(file, schema=schema_of(n="long", x=kind), delimiter=";")
    assert [r["n"] for r in found.rows] == list(range(len(good)))
    if kind != "time":
        assert [str(r["x"]) for r in found.rows] == [str(v) for v in good.values()]
    assert [r["original"] for r in found.rejected] == [f"{len(good) + i};{v}" for i, v in enumerate(bad)]
    assert {r["column"] for r in found.rejected} == {"x"}


def test_a_file_without_rows_gives_none(reader: Reader) -> None:
    files = [reader.put("0.csv", ""), reader.put("1.csv", "a,b\n"), reader.put("2.csv", "a,b"), reader.put("3.csv", "a,b\n1,2\n")]
    found = reader.load(*files, schema=schema_of(a="long", b="long"))
    assert found.rows == [{"a": 1, "b": 2}]
    assert dict(found.loaded.per_file) == {"0.csv": 0, "1.csv": 0, "2.csv": 0, "3.csv": 1}
    assert list(reader.infer(files[0]).schema) == []


def test_reader_options_are_followed(reader: Reader) -> None:
    text = "made by hand\na||b||c\n# no row\n1,5||'x||y'||01.02.2013\n2,5||none||03.04.2013\n"
    options: dict[str, Any] = {"skip": 1, "delimiter": "||", "quote": "'", "comment": "#", "decimal": ",", "nulls": ["none"], "date_format": "%d.%m.%Y"}  # fmt: skip
    found = reader.both(reader.put("a.csv", text), **options)
    assert found.rows == [{"a": 1.5, "b": "x||y", "c": date(2013, 2, 1)}, {"a": 2.5, "b": None, "c": date(2013, 4, 3)}]


def test_order_within_a_file_is_kept(reader: Reader) -> None:
    files = [reader.put(f"{k}.csv", "k,n\n" + "".join(f"{k},{i}\n" for i in range(20_000))) for k in range(3)]
    found = reader.load(*files, schema=schema_of(k="long", n="long"))
    for k in range(3):
        assert [r["n"] for r in found.rows if r["k"] == k] == list(range(20_000))


def test_many_small_files_make_few(reader: Reader) -> None:
    files = [reader.put(f"{k:03}.csv", f"k\n{k}\n") for k in range(300)]
    found = reader.load(*files, schema=schema_of(k="long"), file_column="_file")
    assert [r["_file"] for r in found.rows] == [f.label for f in files]
    assert len(found.loaded.files) == 1


# -- documents ------------------------------------------------------------------------------------------------------
DOCUMENTS: Rows = [
    {"id": 1, "name": "x", "at": "2013-01-01T10:00:00Z", "tags": ["a", "b"], "in": {"x": 1.5, "y": [{"z": True}]}},
    {"id": 2, "name": None, "tags": [], "in": {"x": 2}},
    {"id": 3, "name": "ü\n", "at": "2013-01-01T10:00:00+02:00", "in": None},
]
DOCUMENT_TYPES = {
    "id": "long", "name": "string", "at": "timestamptz", "tags": "list<string>", "in": "struct<x:double,y:list<struct<z:boolean>>>"
}  # fmt: skip


@pytest.mark.parametrize("form", ["ndjson", "lines in json", "array", "pretty", "one after the other"])
def test_documents_of_all_forms(reader: Reader, form: str) -> None:
    lines = "".join(json.dumps(d) + "\n" for d in DOCUMENTS)
    text = {
        "ndjson": lines,
        "lines in json": lines,
        "array": json.dumps(DOCUMENTS),
        "pretty": json.dumps(DOCUMENTS, indent=2),
        "one after the other": "".join(json.dumps(d, indent=2) for d in DOCUMENTS),
    }[form]
    format = "ndjson" if form == "ndjson" else "json"
    file = reader.put("a.json", text)
    assert types(reader.infer(file, format=format)) == DOCUMENT_TYPES
    found = reader.both(file, format=format)
    assert [(r["id"], r["name"], r["tags"]) for r in found.rows] == [(1, "x", ["a", "b"]), (2, None, []), (3, "ü\n", None)]
    assert found.rows[0]["in"] == {"x": 1.5, "y": [{"z": True}]}
    assert found.rows[2]["at"] == datetime(2013, 1, 1, 8, tzinfo=UTC)
    assert found.rejected == []


def test_a_bad_document_costs_only_itself(reader: Reader) -> None:
    lines = ['{"a": 1, "b": {"c": 1}}', '{"a": "x"}', "{bad", '{"a": 1.5}', "[1]", "5", '{"a": 2, "b": {"c": "y"}}', "", '{"a": 3}']
    file = reader.put("a.ndjson", "\n".join(lines))
    found = reader.load(file, schema=schema_of(a="long", b="struct<c:long>"), format="ndjson")
    assert found.rows == [{"a": 1, "b": {"c": 1}}, {"a": 3, "b": None}]
    assert found.places == [(2, "type"), (3, "json"), (4, "type"), (5, "json"), (6, "json"), (7, "type")]
    assert [r["column"] for r in found.rejected] == ["a", "", "a", "", "", "b"]
    assert [r["original"] for r in found.rejected] == lines[1:7]


def test_a_bad_element_of_an_array_costs_only_itself(reader: Reader) -> None:
    file = reader.put("a.json", '[{"a": 1},\n {"a": nope},\n {"a": "]}"},\n {"a": 3}]')
    found = reader.load(file, schema=schema_of(a="long"), format="json")
    assert found.rows == [{"a": 1}, {"a": 3}]
    assert found.places == [(2, "json"), (3, "type")]


def test_columns_of_documents_are_what_any_of_them_has(reader: Reader) -> None:
    file = reader.put("a.ndjson", '{"a": 1}\n{"b": [1, 2.5]}\n{"c": null, "a": 2.5}\n')
    assert types(reader.infer(file, format="ndjson")) == {"a": "double", "b": "list<double>", "c": "string"}


# -- typed files ----------------------------------------------------------------------------------------------------
TABLE = pa.table({"a": pa.array([1, 2, None], pa.int32()), "s": ["x", None, "z"], "t": pa.array([[1.5], [], None], pa.list_(pa.float64()))})


def test_parquet_and_arrow(reader: Reader, tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet")
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_file(sink, TABLE.schema) as out:
        out.write_table(TABLE)
    for format in ("parquet", "arrow"):
        file = listed(tmp_path / f"a.{format}", f"a.{format}")
        assert types(reader.infer(file, format=format)) == {"a": "int", "s": "string", "t": "list<double>"}
        assert reader.both(file, format=format).rows == TABLE.to_pylist()


@pytest.mark.parametrize("format", ["parquet", "arrow"])
def test_typed_values_that_do_not_fit_are_rejected(reader: Reader, tmp_path: Path, format: str) -> None:
    table = pa.table({"a": pa.array([1.0, 2.5, None]), "b": pa.array([2**40, 1, 2])})
    if format == "parquet":
        pq.write_table(table, tmp_path / "a")
    else:
        with pa.OSFile(str(tmp_path / "a"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as out:
            out.write_table(table)
    found = reader.load(listed(tmp_path / "a", "a"), schema=schema_of(a="long", b="int", c="string"), format=format, file_column="f")
    assert found.rows == [{"a": None, "b": 2, "c": None, "f": "a"}]
    assert [(r["position"], r["column"], json.loads(r["original"])) for r in found.rejected] == [
        (1, "b", {"a": 1.0, "b": 2**40}),
        (2, "a", {"a": 2.5, "b": 1}),
    ]


@pytest.mark.parametrize("format", ["parquet", "arrow", "excel"])
def test_a_broken_typed_file_is_named(reader: Reader, format: str) -> None:
    file = reader.put(f"broken.{format}", b"PAR1ARROW1PK\x03\x04 and then nothing of the kind")
    with pytest.raises(SourceError, match=f"broken.{format}"):
        reader.infer(file, format=format)
    with pytest.raises(SourceError, match=f"broken.{format}"):
        reader.load(file, schema=schema_of(a="long"), format=format)


SHEET = """<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>
<row r="1"><c r="A1" t="inlineStr"><is><t>id</t></is></c><c r="B1" t="inlineStr"><is><t>day</t></is></c>
<c r="C1" t="inlineStr"><is><t>name</t></is></c></row>
<row r="2"><c r="A2"><v>1</v></c><c r="B2" s="1"><v>41275</v></c><c r="C2" t="inlineStr"><is><t>007</t></is></c></row>
<row r="4"><c r="A4"><v>2.5</v></c><c r="C4" t="b"><v>1</v></c></row></sheetData></worksheet>"""
WORKBOOK = {
    "[Content_Types].xml": """<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>""",
    "_rels/.rels": """<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r1"
        Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" Target="xl/workbook.xml"/></Relationships>""",
    "xl/workbook.xml": """<workbook xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"
        xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"><sheets>
        <sheet name="First" sheetId="1" r:id="r1"/><sheet name="Second" sheetId="2" r:id="r2"/></sheets></workbook>""",
    "xl/_rels/workbook.xml.rels": """<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
        <Relationship Id="r1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/worksheet" Target="worksheets/sheet1.xml"/>
        <Relationship Id="r2" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/worksheet" Target="worksheets/sheet2.xml"/>
        <Relationship Id="r3" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/styles" Target="styles.xml"/>
        </Relationships>""",
    "xl/styles.xml": """<styleSheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">
        <cellXfs count="2"><xf numFmtId="0"/><xf numFmtId="14" applyNumberFormat="1"/></cellXfs></styleSheet>""",
    "xl/worksheets/sheet1.xml": SHEET,
    "xl/worksheets/sheet2.xml": SHEET.replace("<t>id</t>", "<t>key</t>"),
}  # fmt: skip


def test_sheets(reader: Reader, tmp_path: Path) -> None:
    zipped(tmp_path / "a.xlsx", {name: text.encode() for name, text in WORKBOOK.items()})
    file = listed(tmp_path / "a.xlsx", "a.xlsx")
    assert types(reader.infer(file, format="excel")) == {"id": "double", "day": "date", "name": "string"}
    rows = [{"id": 1.0, "day": date(2013, 1, 1), "name": "007"}, {"id": 2.5, "day": None, "name": "true"}]
    assert reader.both(file, format="excel").rows == rows
    found = reader.load(file, schema=schema_of(id="long", name="string"), format="excel")
    assert found.places == [(4, "type")]
    assert list(reader.infer(file, format="excel", sheet="Second").schema.names) == ["key", "day", "name"]
    with pytest.raises(SourceError, match="did you mean `First`"):
        reader.infer(file, format="excel", sheet="Frist")


# -- packed files ---------------------------------------------------------------------------------------------------
def zipped(path: Path, members: dict[str, bytes]) -> list[RawFile]:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return [listed(path, f"{path.name}/{name}", name) for name in members]


def test_packed_files_are_read_by_content(reader: Reader, tmp_path: Path) -> None:
    text = b"a,b\n1,x\nz,y\n"
    packed = [
        reader.put("a.csv.gz", gzip.compress(text[:6]) + gzip.compress(text[6:])),
        reader.put("a.csv.zst", pa.Codec("zstd").compress(text, asbytes=True)),
        *zipped(tmp_path / "a.zip", {"in/a.csv": text, "../../b.csv": text}),
    ]
    for file in packed:
        found = reader.load(file, schema=schema_of(a="long", b="string"))
        assert found.rows == [{"a": 1, "b": "x"}]
        assert found.places == [(3, "type")]
        assert types(reader.infer(file)) == {"a": "string", "b": "string"}


def test_a_truncated_archive_is_named_and_nothing_is_written(reader: Reader) -> None:
    file = reader.put("a.csv.gz", gzip.compress(b"a,b\n1,x\n" * 1000)[:-20])
    with pytest.raises(SourceError, match=r"a\.csv\.gz"):
        reader.load(file, schema=schema_of(a="long", b="string"))
    assert list((reader.folder / "out").rglob("*.parquet")) == []


# -- files that move ------------------------------------------------------------------------------------------------
def test_a_file_that_changed_since_it_was_listed_is_not_taken(reader: Reader) -> None:
    file = reader.put("a.csv", "a\n1\n")
    reader.put("a.csv", "a\n1\n2\n")
    for act in (lambda: reader.infer(file), lambda: reader.load(file, schema=schema_of(a="long"))):
        with pytest.raises(SourceChanged, match="changed"):
            act()
    (reader.folder / "data/a.csv").unlink()
    with pytest.raises(SourceChanged, match="vanished"):
        reader.load(file, schema=schema_of(a="long"))
    assert not issubclass(InputRefused, SourceChanged)


@pytest.mark.parametrize(
    "name", ["a'b.csv", 'a"b.csv', "a[1]*?.csv", "a;DROP TABLE x;--.csv", "line\nend.csv", "{x}.csv", "$a %s.csv", "ü.csv"]
)
def test_names_of_files_are_names(reader: Reader, name: str) -> None:
    file = reader.put(name, "a\n1\nx\n")
    found = reader.load(file, schema=schema_of(a="long"), file_column="_file")
    assert found.rows == [{"a": 1, "_file": name}]
    assert found.rejected[0]["file"] == name


@pytest.mark.parametrize("name", ["a'b", 'a"b', "select", "a.b", "$a", "ü", "c0", "_line", "x\ny"])
def test_names_of_columns_are_names(reader: Reader, name: str) -> None:
    quoted = name.replace('"', '""')
    schema = Schema((Field(name, primitive("long")), Field("other", primitive("string"))))
    found = reader.load(reader.put("a.csv", f'"{quoted}",other\n1,x\nz,y\n'), schema=schema)
    assert found.rows == [{name: 1, "other": "x"}]
    assert found.rejected[0]["column"] == name
    documents = reader.put("a.ndjson", json.dumps({name: 1, "other": "x"}) + "\n" + json.dumps({name: "z"}))
    found = reader.load(documents, schema=schema, format="ndjson")
    assert found.rows == [{name: 1, "other": "x"}]
    assert found.rejected[0]["column"] == name
