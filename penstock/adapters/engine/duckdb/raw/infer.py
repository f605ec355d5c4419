"""Crawling raw files: columns, types and reader options from a sample of each; a file is never read whole for it."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from penstock.adapters.engine.duckdb.raw import columnar, records
from penstock.adapters.engine.duckdb.raw.dialect import Dialect, unique_names
from penstock.adapters.engine.duckdb.raw.heads import HEAD_BYTES, Head, head_of
from penstock.adapters.engine.duckdb.raw.kinds import formats_in, joined, json_joined, json_type, nulls_in, type_of
from penstock.adapters.engine.duckdb.raw.stage import Limits, check_unchanged, compression_of, reading_errors, stage
from penstock.ground.errors import SourceError
from penstock.ports.engine import Inferred, RawFile, RawFiles
from penstock.spec.schema import Field, Schema, Type, primitive

#: Bytes looked at in all files together, and the least and most per file.
SAMPLE_BYTES, LEAST, MOST = 8 << 20, 4 << 10, 512 << 10

#: Column -> texts or type; None for a type that no value tells.
Texts = dict[str, list[str]]
Types = dict[str, Type | None]


def infer(connection: duckdb.DuckDBPyConnection, raw: RawFiles, limits: Limits | None = None) -> Inferred:
    """See `ports.engine.Session.infer`.

    Types: over all files the least that holds the values of each, text if nothing else does; a column without values is text.
    Options: what is the same for all files; `nulls` are texts that keep a column from being numbers or times, see `kinds.NULLS`.
    Raises: SourceError(E2001), SourceChanged(E2002), InputRefused(E2004).
    """
    limits = limits or Limits()
    for file in raw.files:
        check_unchanged(file)
    if raw.format in ("csv", "tsv"):
        texts, options = _delimited(raw, limits)
        return _from_texts(raw, texts, options)
    if raw.format == "excel":
        return _from_texts(raw, _sheets(raw, limits), {})
    found = _documents(raw, limits) if raw.format in ("json", "ndjson") else _columnar(connection, raw, limits)
    return _inferred(raw, found, {})


def sample_bytes(files: int) -> int:
    return min(MOST, max(LEAST, SAMPLE_BYTES // max(files, 1)))


# -- texts ----------------------------------------------------------------------------------------------------------
def _delimited(raw: RawFiles, limits: Limits) -> tuple[list[Texts], dict[str, Any]]:
    texts: list[Texts] = []
    told: list[dict[str, Any]] = []
    for file in raw.files:
        head = head_of(file, raw.options, limits, sample_bytes(len(raw.files)))
        dialect = head.dialect(raw.format, raw.options)
        values: Texts = {name: [] for name in dialect.names}
        rows = list(_rows(dialect, head.text, head=True))
        if not dialect.multiline and len(raw.files) < 100:
            rows += [row for text in _further(file, head) for row in _rows(dialect, text, head=False)]
        for row in rows:
            for name, cell in zip(dialect.names, row, strict=True):
                values[name].append(cell)
        texts.append(values)
        if dialect.names:
            plain = {"delimiter": dialect.delimiter, "quote": dialect.quote, "escape": dialect.escape, "header": dialect.header}
            told.append({**plain, "encoding": head.encoding})
    return texts, {k: v for k, v in (told[0] if told else {}).items() if all(t[k] == v for t in told)}


def _rows(dialect: Dialect, text: str, *, head: bool) -> Iterator[list[str]]:
    """The good rows of a piece of a file."""
    lines = io.StringIO(text, newline="").readlines()[dialect.skip if head else 0 :]
    reader = dialect.rows(line for line in lines if not (dialect.comment and line.startswith(dialect.comment)))
    header = head and dialect.header
    while True:
        try:
            row = next(reader)
        except csv.Error:
            continue
        except StopIteration:
            return
        if header and row:
            header = False
        elif len(row) == len(dialect.names):
            yield row


def _further(file: RawFile, head: Head) -> Iterator[str]:
    """Whole lines from the middle and the end of a large plain file."""
    size = os.path.getsize(file.path)
    if head.whole or compression_of(file) or head.encoding not in ("utf-8", "utf-8-sig", "cp1252", "latin-1") or size < 4 * MOST:
        return
    with open(file.path, "rb") as stream:
        for start in (size // 2, size - HEAD_BYTES):
            stream.seek(start)
            text = codecs.decode(stream.read(HEAD_BYTES), "latin-1" if head.encoding[0] in "lc" else "utf-8", "replace")
            yield text[text.find("\n") + 1 : text.rfind("\n") + 1]


def _sheets(raw: RawFiles, limits: Limits) -> list[Texts]:
    found: list[Texts] = []
    with tempfile.TemporaryDirectory(prefix="penstock-") as folder:
        for i, file in enumerate(raw.files):
            staged = stage(i, file, Path(folder), limits, ending="xlsx")
            with reading_errors(file):
                names, _, body = records.sheet_body(records.sheet_rows(staged, raw.options.get("sheet")), raw.options)
            found.append({name: [row[c] for row in body] for c, name in enumerate(names)})
    return found


def _from_texts(raw: RawFiles, texts: Sequence[Texts], options: Mapping[str, Any]) -> Inferred:
    columns: dict[str, set[str]] = {}
    for values in texts:
        for name, cells in values.items():
            columns.setdefault(name, set()).update(cells)
    merged = [list(v) for v in columns.values()]
    nulls = tuple(raw.options["nulls"]) if raw.options.get("nulls") else nulls_in(merged)
    formats = {k: str(raw.options[k]) for k in ("date_format", "timestamp_format") if raw.options.get(k)}
    formats = {**formats_in([v for v in cells if v not in nulls] for cells in merged), **formats}
    decimal = str(raw.options.get("decimal") or ".")
    types = [{name: _type(cells, nulls, formats, decimal) for name, cells in values.items()} for values in texts]
    return _inferred(raw, types, {**options, **formats, **({"nulls": nulls} if nulls else {})})


def _type(cells: Iterable[str], nulls: Sequence[str], formats: Mapping[str, str], decimal: str) -> Type | None:
    values = {v for v in cells if v and v not in nulls}
    if not values:
        return None
    if decimal != ".":
        values = {v.replace(decimal, ".", 1) if v.replace(decimal, "", 1).lstrip("+-").isdigit() else v for v in values}
    return type_of(values, formats)


# -- documents and typed files --------------------------------------------------------------------------------------
def _documents(raw: RawFiles, limits: Limits) -> list[Types]:
    found = []
    for file in raw.files:
        head = head_of(file, raw.options, limits, max(sample_bytes(len(raw.files)), 64 << 10))
        types: Types = {}
        for value in _values(head, raw.format):
            for name, member in value.items():
                kind, was = json_type(member, 1), types.get(name)
                types[name] = json_joined(was, kind) if was and kind else (was or kind)
        found.append(types)
    return found


def _values(head: Head, format: str) -> Iterator[dict[str, Any]]:
    """The objects in a sample; what is broken or cut off does not count."""
    for text in records.sample_values(head.text, by_line=format == "ndjson"):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


def _columnar(connection: duckdb.DuckDBPyConnection, raw: RawFiles, limits: Limits) -> list[Types]:
    found: list[Types] = []
    with tempfile.TemporaryDirectory(prefix="penstock-") as folder:
        for i, file in enumerate(raw.files):
            columns = columnar.columns_of(connection, stage(i, file, Path(folder), limits, ending=raw.format), raw.format)
            names = unique_names([name for name, _ in columns])
            found.append({name: columnar.kept(kind) for name, (_, kind) in zip(names, columns, strict=True)})
    return found


# -- all files ------------------------------------------------------------------------------------------------------
def _inferred(raw: RawFiles, found: Sequence[Types], options: Mapping[str, Any]) -> Inferred:
    """Columns of all files in the order they are met, then those of folder names."""
    typed = raw.format in ("json", "ndjson", "parquet", "arrow")
    folders = _folder_types(raw.files)
    whole: Types = {}
    for types in found:
        for name, kind in types.items():
            was = whole.get(name)
            whole[name] = (json_joined if typed else joined)(was, kind) if was and kind else (was or kind)
    whole.update({name: kind for name, kind in folders.items() if name not in whole})
    if clash := [n for i, n in enumerate(whole) if n.lower() in {m.lower() for m in list(whole)[:i]}]:
        raise SourceError("two columns differ only in case", place=raw.files[0].label, got=clash[0], hint="rename one of them in the files")
    per_file = []
    for file, types in zip(raw.files, found, strict=True):
        mine = {**types, **{k: folders[k] for k, _ in file.partition if k not in types}}
        per_file.append((file.label, _schema({name: kind or whole[name] for name, kind in mine.items()})))
    return Inferred(_schema(whole), tuple(per_file), dict(options))


def _schema(types: Types) -> Schema:
    return Schema(tuple(Field(name, kind or primitive("string")) for name, kind in types.items()))


def _folder_types(files: Sequence[RawFile]) -> Types:
    values: dict[str, set[str]] = {}
    for file in files:
        for key, value in file.partition:
            values.setdefault(key, set()).add(value)
    return {key: type_of(found - {"__HIVE_DEFAULT_PARTITION__"}) for key, found in values.items()}
