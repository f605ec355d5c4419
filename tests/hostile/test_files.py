"""Files that are broken, huge, hostile or moving: a clear error or rejected rows, nothing lost, memory bounded, other files untouched."""

from __future__ import annotations

import gzip
import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.adapters.engine.duckdb.raw.infer import infer
from penstock.adapters.engine.duckdb.raw.load import load
from penstock.adapters.engine.duckdb.raw.stage import Limits
from penstock.adapters.engine.duckdb.session import DuckSession
from penstock.ground.errors import InputRefused, SourceChanged, SourceError
from penstock.ports.engine import RawFile, RawFiles
from penstock.ports.lake import DataFile, Draft
from penstock.spec.schema import schema_of
from penstock.testing.suites.engine import draft_in, numbered
from penstock.testing.suites.raw import Reader, listed, types

TWO = schema_of(n="long", s="string")


def peak_mb() -> int:
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) >> 10  # type: ignore[index]


def forget_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return peak_mb()


def nothing_written(reader: Reader) -> bool:
    return not list((reader.folder / "out").rglob("*.parquet"))


# -- text -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("format", ["csv", "ndjson", "json"])
def test_a_line_of_64_mb_is_rejected_and_not_kept_in_memory(reader: Reader, format: str) -> None:
    head, row, end = {
        "csv": ("n,s\n1,x\n", "2,{}\n", "3,y\n"),
        "ndjson": ('{"n": 1}\n', '{{"n": 2, "s": "{}"}}\n', '{"n": 3}\n'),
        "json": ('[{"n": 1},\n', '{{"n": 2, "s": "{}"}},\n', '{"n": 3}]'),
    }[format]
    file = reader.put(f"a.{format}", head + row.format("q" * (64 << 20)) + end)
    before = forget_peak()
    found = reader.load(file, schema=TWO, format=format)
    assert peak_mb() - before < 350
    assert [r["n"] for r in found.rows] == ([1, 3] if format != "json" else [1])
    assert len(found.rejected) == 1
    assert len(found.rejected[0]["original"]) <= 10_000
    assert found.rejected[0]["position"] == {"csv": 3, "ndjson": 2, "json": 2}[format]


def test_a_quote_that_is_never_closed_costs_one_line(reader: Reader) -> None:
    text = 'n,s\n1,x\n2,"open\n' + "".join(f"{i},y\n" for i in range(3, 50_000))
    found = reader.load(reader.put("a.csv", text), schema=TWO)
    assert len(found.rows) == 49_998
    assert found.places == [(3, "quotes")]
    assert found.rejected[0]["original"] == '2,"open'


@pytest.mark.parametrize("more", ["", "".join(f"{i},plain\n" for i in range(4, 3000))])
def test_lines_in_another_encoding_are_rejected_with_their_bytes(reader: Reader, more: str) -> None:
    data = "n,s\n1,Zürich\n".encode() + "2,Malmö\n".encode("cp1252") + b"3,ok\n" + more.encode()
    file = reader.put("a.csv", data)
    assert reader.infer(file).options["encoding"] == "utf-8"
    found = reader.load(file, schema=TWO)
    assert [r["n"] for r in found.rows][:2] == [1, 3]
    assert [(r["position"], r["check"], r["original"]) for r in found.rejected] == [(3, "encoding", "2,Malm\\xf6")]


def test_half_a_character_at_the_end_of_utf_16(reader: Reader) -> None:
    data = "n,s\n1,x\n2,y\n3,z".encode("utf-16")[:-1]
    found = reader.load(reader.put("a.csv", data), schema=TWO)
    assert [r["n"] for r in found.rows] == [1, 2]
    assert found.places == [(4, "encoding")]


def test_zero_bytes_are_values_or_rejected(reader: Reader) -> None:
    found = reader.load(reader.put("a.csv", b"n,s\n1,a\0b\n\0,c\n2\0,d\n3,e\n"), schema=TWO)
    assert found.rows == [{"n": 1, "s": "a\0b"}, {"n": 3, "s": "e"}]
    assert found.places == [(3, "type"), (4, "type")]


def test_line_ends_of_all_kinds_in_one_file(reader: Reader) -> None:
    data = b'n,s\r\n1,a\n2,"b\r\nb"\r3,c\r\n\r\n\n4,"d""d"\n5,e'
    found = reader.load(reader.put("a.csv", data), schema=TWO)
    assert [(r["n"], r["s"]) for r in found.rows] == [(1, "a"), (2, "b\r\nb"), (3, "c"), (4, 'd"d'), (5, "e")]


def test_blank_lines_of_one_column_are_rows_without_value(reader: Reader) -> None:
    found = reader.load(reader.put("a.csv", "n\n1\n\n2\n"), schema=schema_of(n="long"))
    assert [r["n"] for r in found.rows] == [1, None, 2]


def test_all_lines_bad(reader: Reader) -> None:
    found = reader.load(reader.put("a.csv", "n,s\n" + "x,y,z\n" * 20_000), schema=TWO)
    assert found.rows == []
    assert len(found.rejected) == 20_000
    assert found.rejected[-1]["position"] == 20_001


def test_places_are_lines_in_a_large_file(reader: Reader) -> None:
    lines = [f"{i},text {i}" for i in range(400_000)]
    bad = list(range(7, 400_000, 9_973))
    for i in bad:
        lines[i] = [f"x{i},y", f"{i}", f"{i},y,z"][i % 3]
    found = reader.load(reader.put("a.csv", "n,s\r\n" + "\r\n".join(lines)), schema=TWO)
    assert [(r["position"], r["original"]) for r in found.rejected] == [(i + 2, lines[i]) for i in bad]


def test_large_whole_numbers_keep_all_digits(reader: Reader) -> None:
    numbers = [2**53 + 1, 2**62 + 3, -(2**63), 1]
    found = reader.load(reader.put("a.csv", "n,s\n" + "".join(f"{n},x\n" for n in numbers)), schema=TWO)
    assert [r["n"] for r in found.rows] == numbers


def test_a_wide_file(reader: Reader) -> None:
    names = [f"column_number_{i}" for i in range(600)]
    found = reader.both(reader.put("a.csv", ",".join(names) + "\n" + ",".join(map(str, range(600))) + "\n"))
    assert list(found.rows[0].values()) == list(range(600))


# -- documents ------------------------------------------------------------------------------------------------------
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize("format", ["json", "ndjson"])
def test_odd_documents_are_read_or_rejected_and_never_crash(reader: Reader, format: str) -> None:
    odd = [
        '{"n": 1, "s": NaN}', '{"n": 2, "n": 3}', '{"n": 4, "s": "\\ud800"}', '{"n": 5, "s": "\\u0000"}', f'{{"n": 6, "s": {DEEP}}}',
        f'{{"n": {DEEP}}}', '{"n": 99999999999999999999}', '{"n": 1e400}', "{" + '"x":{' * 5000 + "}" * 5001, '{"n": 7}',
    ]  # fmt: skip
    text = "\n".join(odd) if format == "ndjson" else "[" + ",\n".join(odd) + "]"
    file = reader.put("a.json", text)
    reader.infer(file, format=format)
    found = reader.load(file, schema=TWO, format=format)
    assert [r["n"] for r in found.rows] == [1, 2, 5, 6, None, 7]
    assert found.places == [(3, "json"), (6, "type"), (7, "type"), (8, "type")]


def test_an_array_that_breaks_off(reader: Reader) -> None:
    found = reader.load(reader.put("a.json", '[{"n": 1}, {"n": 2}, {"n": '), schema=TWO, format="json")
    assert [r["n"] for r in found.rows] == [1, 2]
    assert [r["original"] for r in found.rejected] == ['{"n":']


@pytest.mark.parametrize("text", ["", "[]", " \n\n", "[ ]\n", "\ufeff"])
def test_documents_without_any(reader: Reader, text: str) -> None:
    found = reader.load(reader.put("a.json", text), schema=TWO, format="json")
    assert (found.rows, found.rejected) == ([], [])


def test_lines_of_bytes_that_are_no_text(reader: Reader) -> None:
    found = reader.load(reader.put("a.json", b'{"n": 1}\n{"s": "\xff\xfe"}\n{"n": 2}\n'), schema=TWO, format="ndjson")
    assert [r["n"] for r in found.rows] == [1, 2]
    assert [(r["check"], r["original"]) for r in found.rejected] == [("encoding", '{"s": "\\xff\\xfe"}')]


# -- archives -------------------------------------------------------------------------------------------------------
SMALL = Limits(ratio=50, expanded_bytes=1 << 20)


def bombs(folder: Path) -> list[RawFile]:
    data = b"n,s\n" + b"1,x\n" * (1 << 20)
    (folder / "a.csv.gz").write_bytes(gzip.compress(data))
    (folder / "a.csv.zst").write_bytes(pa.Codec("zstd").compress(data, asbytes=True))
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../../a.csv", data)
    return [
        listed(folder / "a.csv.gz", "a.csv.gz"), listed(folder / "a.csv.zst", "a.csv.zst"), listed(folder / "a.zip", "a.zip/a.csv", "../../../a.csv")
    ]  # fmt: skip


def test_a_bomb_is_refused_and_nothing_stays(session: DuckSession, reader: Reader, tmp_path: Path) -> None:
    for file in bombs(tmp_path):
        raw = RawFiles((file,), "csv", TWO)
        infer(session.connection, raw, SMALL)
        with pytest.raises(InputRefused, match=file.label) as refused:
            load(session, raw, draft_in(tmp_path / "out", numbered(TWO)), SMALL)
        assert refused.value.code == "E2004"
    assert nothing_written(reader)
    assert not list(session.folder.rglob("*.csv"))
    assert not (tmp_path.parent / "a.csv").exists()


def test_the_same_files_within_the_limits_are_read(session: DuckSession, tmp_path: Path) -> None:
    for i, file in enumerate(bombs(tmp_path)):
        loaded = load(session, RawFiles((file,), "csv", TWO), draft_in(tmp_path / f"out{i}", numbered(TWO)))
        assert loaded.rows_read == 1 << 20


def test_an_encrypted_archive_is_refused(reader: Reader, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.csv", "n,s\n1,x\n")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + at] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    file = listed(tmp_path / "a.zip", "a.zip/a.csv", "a.csv")
    for act in (lambda: reader.infer(file), lambda: reader.load(file, schema=TWO)):
        with pytest.raises(InputRefused, match="encrypted"):
            act()


def test_an_archive_with_a_wrong_checksum(reader: Reader, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.csv", "n,s\n1,x\n")
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes().replace(b"1,x", b"1,y"))
    with pytest.raises(SourceError, match=r"a\.zip/a\.csv"):
        reader.load(listed(tmp_path / "a.zip", "a.zip/a.csv", "a.csv"), schema=TWO)


# -- typed files ----------------------------------------------------------------------------------------------------
def test_a_parquet_file_broken_in_the_middle_stops_the_whole_load(reader: Reader, tmp_path: Path) -> None:
    table = pa.table({"n": list(range(100_000)), "s": [f"text {i}" for i in range(100_000)]})
    for name in ("good", "bad"):
        pq.write_table(table, tmp_path / name, compression="zstd", write_page_checksum=True)
    data = bytearray((tmp_path / "bad").read_bytes())
    del data[len(data) // 3 : len(data) // 3 + 4000]
    data[4:4] = bytes(4000)
    (tmp_path / "bad").write_bytes(data)
    files = [listed(tmp_path / name, f"{name}.parquet") for name in ("good", "bad")]
    with pytest.raises(SourceError, match=r"bad\.parquet"):
        reader.load(*files, schema=TWO, format="parquet")
    assert nothing_written(reader)


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_a_truncated_parquet_file(reader: Reader, tmp_path: Path, keep: int) -> None:
    pq.write_table(pa.table({"n": [1]}), tmp_path / "a")
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:keep])
    with pytest.raises(SourceError, match=r"a\.parquet"):
        reader.load(listed(tmp_path / "a", "a.parquet"), schema=TWO, format="parquet")


def test_types_that_no_table_keeps_come_as_text(reader: Reader, tmp_path: Path) -> None:
    table = pa.table({"big": pa.array([2**64 - 1], pa.uint64()), "long": pa.array([3], pa.duration("s")), "n": pa.array([1], pa.uint8())})
    pq.write_table(table, tmp_path / "a")
    file = listed(tmp_path / "a", "a")
    assert types(reader.infer(file, format="parquet"))["big"] == "decimal(20,0)"
    assert int(reader.both(file, format="parquet").rows[0]["big"]) == 2**64 - 1


# -- files that move ------------------------------------------------------------------------------------------------
class Meddled:
    """A session beside which somebody changes a file just after the rows were written."""

    def __init__(self, session: DuckSession, path: Path) -> None:
        self.connection, self.folder, self.bind, self.rows = session.connection, session.folder, session.bind, session.rows
        self._session = session
        self._path = path

    def write(self, query: str, draft: Draft) -> tuple[DataFile, ...]:
        files = self._session.write(query, draft)
        assert all(Path(f.path).exists() for f in files)
        self._path.write_text("n,s\n1,x\n2,more\n")
        return files


def test_a_file_that_changes_while_it_is_read_is_not_taken(session: DuckSession, reader: Reader, tmp_path: Path) -> None:
    files = (reader.put("a.csv", "n,s\n1,x\n"), reader.put("b.csv", "n,s\n1,x\n"))
    draft = draft_in(tmp_path / "out", numbered(TWO))
    with pytest.raises(SourceChanged, match=r"b\.csv") as changed:
        load(Meddled(session, Path(files[1].path)), RawFiles(files, "csv", TWO), draft)
    assert changed.value.retry
    assert nothing_written(reader)


def test_names_that_are_no_utf_8(reader: Reader, tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.csv")
    Path(path).write_text("n,s\n1,x\n")
    stat = os.stat(path)
    file = RawFile(path, "a\\xff.csv", stat.st_size, stat.st_mtime_ns)
    assert reader.load(file, schema=TWO, file_column="_file").rows == [{"n": 1, "s": "x", "_file": "a\\xff.csv"}]


def test_a_file_that_may_not_be_read_is_named(reader: Reader) -> None:
    folder = reader.put("d/a.csv", "n\n1\n")
    path = Path(folder.path).parent
    file = listed(path, "d")
    with pytest.raises(SourceError, match="d"):
        reader.load(file, schema=TWO)


def test_reasons_are_plain_json(reader: Reader) -> None:
    found: list[dict[str, Any]] = reader.load(reader.put("a.csv", b'n,s\n\x1b[31mx\x07,"y\n'), schema=TWO).rejected
    assert json.loads(json.dumps(found)) == found
