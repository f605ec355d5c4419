"""Loading raw files: into a draft's Parquet files in one pass where the engine's reader can be believed, and nothing lost where not."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import duckdb
import pyarrow as pa

from penstock.adapters.engine.duckdb.raw import columnar, delimited, records
from penstock.adapters.engine.duckdb.raw.dialect import Dialect, unique_names
from penstock.adapters.engine.duckdb.raw.heads import Head, head_of
from penstock.adapters.engine.duckdb.raw.records import Refusal, Tally, refused_table
from penstock.adapters.engine.duckdb.raw.stage import Limits, Staged, check_unchanged, reading_errors, stage
from penstock.adapters.engine.duckdb.raw.texts import Formats, Reading, reading
from penstock.adapters.engine.duckdb.types import null_of
from penstock.ground.errors import LedgerImbalance, QueryError, SourceError, StorageError, did_you_mean
from penstock.ground.names import literal, quote
from penstock.ports.engine import Loaded, RawFile, RawFiles
from penstock.ports.lake import DataFile, Draft
from penstock.spec.schema import Field, Schema

#: What Hive and Spark call the folder of rows without a value.
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
RAW = "_penstock_raw"


class Place(Protocol):
    """What loading needs of a session."""

    connection: duckdb.DuckDBPyConnection
    folder: Path

    def bind(self, name: str, relation: pa.RecordBatchReader) -> None: ...
    def write(self, query: str, draft: Draft) -> tuple[DataFile, ...]: ...
    def rows(self, query: str) -> list[tuple[Any, ...]]: ...


def load(session: Place, raw: RawFiles, draft: Draft, limits: Limits | None = None) -> Loaded:
    """See `ports.engine.Session.load`. Nothing stays of a load that fails.

    Raises: SourceError(E2001), SourceChanged(E2002), InputRefused(E2004), and what `write` raises.
    """
    folder = session.folder / "raw"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    loading = _Loading(session, raw, draft, limits or Limits(), folder)
    try:
        for file in raw.files:
            check_unchanged(file)
        loading.all()
        for file in raw.files:
            check_unchanged(file)
        return loading.result()
    except BaseException:
        remove(loading.files)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove(files: Sequence[DataFile]) -> None:
    for file in files:
        Path(file.path).unlink(missing_ok=True)


class _Loading:
    """One load under way: what was written and refused so far, and records per file number."""

    def __init__(self, session: Place, raw: RawFiles, draft: Draft, limits: Limits, folder: Path) -> None:
        self.session = session
        self.raw = raw
        self.draft = draft
        self.limits = limits
        self.folder = folder
        self.schema = raw.schema or Schema(())
        self.formats = Formats.of(raw.options)
        self.nulls = tuple(dict.fromkeys(("", *(raw.options.get("nulls") or ()))))
        self.files: list[DataFile] = []
        self.refusals: list[Refusal] = []
        self.records: dict[int, int] = {}

    def all(self) -> None:
        by_format: dict[str, Callable[[], None]] = {
            "csv": self.load_texts, "tsv": self.load_texts, "json": self.load_documents, "ndjson": self.load_documents,
            "parquet": self.load_typed, "arrow": self.load_typed, "excel": self.load_sheets,
        }  # fmt: skip
        by_format[self.raw.format]()

    def result(self) -> Loaded:
        labels = [f.label for f in self.raw.files]
        written = {label: self.records.get(i, 0) for i, label in enumerate(labels)}
        for refusal in self.refusals:
            written[labels[refusal.number]] -= 1
        return Loaded(tuple(self.files), sum(self.records.values()), refused_table(self.refusals, labels.__getitem__), written)

    # -- columns ----------------------------------------------------------------------------------------------------
    def matched(self, names: Sequence[str], staged: Staged) -> dict[str, int]:
        """Column of the schema -> place in the file, by name, then by name without regard to case.

        Raises: SourceError(E2001) if a file that has columns shares none with the schema.
        """
        exact = {name: i for i, name in enumerate(names)}
        lower = {name.lower(): i for i, name in enumerate(names)}
        found = {f.name: exact.get(f.name, lower.get(f.name.lower(), -1)) for f in self.schema}
        found = {name: i for name, i in found.items() if i >= 0}
        if names and not found and any(f.name not in dict(staged.file.partition) for f in self.schema):
            raise SourceError(
                "no column of the file is known", place=staged.file.label, expected=", ".join(self.schema.names)[:200],
                got=", ".join(names)[:200], hint=f"another delimiter or header than recorded? {did_you_mean(names[0], self.schema.names)}",
            )  # fmt: skip
        return found

    def select(self, read: Callable[[Field], Reading | None], number: str, files: Sequence[RawFile] = ()) -> dict[str, Reading]:
        """How each column to write is read; `read` tells of columns that files have.

        `number` is SQL for the place of a row's file among `files`, which are all files if none are given.
        """
        files = files or self.raw.files
        found = {f.name: read(f) or self.from_folder(f, number, files) for f in self.schema}
        if self.raw.file_column:
            found[self.raw.file_column] = Reading(per_file([f.label for f in files], number), "FALSE")
        return found

    def from_folder(self, field: Field, number: str, files: Sequence[RawFile]) -> Reading:
        """A column that a file lacks: a value of its folder's name, or null."""
        values = [dict(f.partition).get(field.name) for f in files]
        if not any(v is not None for v in values):
            return Reading(null_of(field.type), "FALSE")
        return reading(per_file([None if v == HIVE_NULL else v for v in values], number), field.type, Formats())

    # -- delimited --------------------------------------------------------------------------------------------------
    def load_texts(self) -> None:
        staged: list[tuple[Staged, Dialect]] = []
        for i, file in enumerate(self.raw.files):
            head = head_of(file, self.raw.options, self.limits)
            dialect = head.dialect(self.raw.format, self.raw.options)
            if dialect.names:
                staged.append((self.staged(i, file, head), dialect))
        for group in delimited.groups(staged):
            self.matched(group.dialect.names, group.files[0])
            if not (group.fast and self.fast(group)):
                self.exact(group)

    def staged(self, number: int, file: RawFile, head: Head) -> Staged:
        encoding = head.encoding if head.encoding != "utf-8-sig" else ""
        return stage(number, file, self.folder, self.limits, encoding=encoding)

    def fast(self, group: delimited.Group) -> bool:
        """Loads a group by the engine's reader; False, and nothing written, if what it gave does not add up."""
        connection = self.session.connection
        counts = delimited.counting(group)
        has_whole = any(f.type.name in ("int", "long") for f in self.schema)
        for whole in ("double", "text") if has_whole else ("text",):
            delimited.drop_rejects(connection)
            try:
                files = self.session.write(self.fast_query(group, whole), self.draft)
            except QueryError:
                continue
            refusals = delimited.refusals_of(connection, group)
            delimited.drop_rejects(connection)
            written = sum(f.rows for f in files)
            found = None if refusals is None else delimited.balanced(group, counts.result(), written, refusals)
            if found is None:
                remove(files)
                return False
            self.files += files
            self.refusals += refusals or ()
            self.records |= found
            return True
        return False

    def fast_query(self, group: delimited.Group, whole: str) -> str:
        places = self.matched(group.dialect.names, group.files[0])
        types: dict[str, str] = {}

        def read(field: Field) -> Reading | None:
            if field.name not in places:
                return None
            place = places[field.name]
            types[group.dialect.names[place]], value = delimited.native(f"c{place}", field.type, self.formats, whole=whole)
            return Reading(value, "FALSE")

        columns = self.select(read, "CAST(file_index AS BIGINT)", [f.file for f in group.files])
        return f"SELECT {named({n: r.value for n, r in columns.items()})} FROM {delimited.source(group, types, self.nulls, self.formats)}"

    def exact(self, group: delimited.Group) -> None:
        def rows(tally: Tally) -> Iterator[tuple[int, int, Sequence[str], str]]:
            for staged in group.files:
                for line, cells, original in records.delimited(staged, group.dialect, self.limits, tally):
                    tally.give(staged.number, 1)
                    yield staged.number, line, cells, original

        self.cells(rows, group.dialect.names, group.files[0])

    def cells(self, rows: Rows, names: Sequence[str], first: Staged) -> None:
        """Loads rows of texts whose columns are called `names`."""
        places = self.matched(names, first)
        columns = self.select(lambda f: reading(f"c{places[f.name]}", f.type, self.formats) if f.name in places else None, "_file")
        texts = {f.name: f"c{places[f.name]}" for f in self.schema if f.name in places}
        none = ", ".join(literal(n) for n in self.nulls)
        cleaned = "".join(f", CASE WHEN c{i} NOT IN ({none}) THEN c{i} END AS c{i}" for i in range(len(names)))
        self.through(rows, len(names), f"SELECT _file, _line, _original{cleaned} FROM {RAW}", columns, texts)

    def through(
        self, rows: Rows, width: int, relation: str, columns: Mapping[str, Reading], texts: Mapping[str, str], known: str = "TRUE"
    ) -> None:
        """Loads what an exact reader gives; rows with a column that cannot be read are looked up in a second pass, if there are any."""
        tally = Tally()
        self.session.bind(RAW, records.batches(rows(tally), width))
        bad = any_of([f"NOT {known}"] if known != "TRUE" else [], columns)
        query = f"SELECT {named({n: r.value for n, r in columns.items()})} FROM ({relation}) t WHERE NOT ({bad})"
        files = self.session.write(query, self.draft)
        self.files += files
        refusals = list(tally.refusals)
        if sum(f.rows for f in files) < sum(tally.given.values()):
            self.session.bind(RAW, records.batches(rows(Tally()), width))
            refusals += self.refused(relation, columns, texts, known, bad, "_original")
        self.account(tally.given, tally.refusals, refusals, files)

    def refused(
        self, relation: str, columns: Mapping[str, Reading], texts: Mapping[str, str], known: str, bad: str, original: str
    ) -> list[Refusal]:
        suspects = {n: r for n, r in columns.items() if r.bad != "FALSE"}
        name = ", ".join(f"CASE WHEN {r.bad} THEN {literal(n)} END" for n, r in suspects.items()) or "NULL"
        types = {f.name: str(f.type) for f in self.schema}
        reason = ", ".join(
            f"CASE WHEN {r.bad} THEN {literal(f'{n}: no {types.get(n)}: ')} || left(CAST({texts.get(n, 'NULL')} AS VARCHAR), 80) END"
            for n, r in suspects.items()
        ) or "NULL"  # fmt: skip
        found = self.session.rows(
            f"SELECT _file, _line, {known}, concat_ws(', ', {name}), concat_ws('; ', {reason}), {original} FROM ({relation}) t WHERE {bad}"
        )
        return [
            Refusal(number, line, "type", why, text, column) if good else Refusal(number, line, "json", "not a JSON object", text)
            for number, line, good, column, why, text in found
        ]

    def account(self, given: Mapping[int, int], before: Sequence[Refusal], refusals: Sequence[Refusal], files: Sequence[DataFile]) -> None:
        """Takes over what was read; the rows must add up. Raises: LedgerImbalance(E3002)."""
        seen = dict(given)
        for refusal in before:
            seen[refusal.number] = seen.get(refusal.number, 0) + 1
        written = sum(f.rows for f in files)
        if written + len(refusals) != sum(seen.values()):
            raise LedgerImbalance(
                "rows read are not rows written and rejected", place=", ".join(self.raw.files[n].label for n in seen)[:200],
                expected=sum(seen.values()), got=f"{written} + {len(refusals)}",
            )  # fmt: skip
        self.refusals += refusals
        self.records |= seen

    # -- documents --------------------------------------------------------------------------------------------------
    def load_documents(self) -> None:
        found: list[tuple[Staged, bool]] = []
        for i, file in enumerate(self.raw.files):
            head = head_of(file, self.raw.options, self.limits)
            opening = head.text.lstrip("\ufeff \t\r\n")
            found.append(
                (self.staged(i, file, head), not opening.startswith("[") and (self.raw.format == "ndjson" or records.is_lines(head.text)))
            )

        def rows(tally: Tally) -> Iterator[tuple[int, int, Sequence[str], str]]:
            for staged, by_line in found:
                values = (records.lines_of if by_line else records.values_of)(staged, self.limits, tally)
                for line, text in records.readable(values, staged.number, tally):
                    tally.give(staged.number, 1)
                    yield staged.number, line, (), text

        shape = records.shape(self.schema.names)
        columns = self.select(lambda f: self.member(f), "_file")
        relation = f"SELECT _file, _line, _original, CASE WHEN starts_with(_original, '{{') THEN TRY(from_json(_original, {shape})) END AS d FROM (SELECT * REPLACE (ltrim(_original) AS _original) FROM {RAW})"
        texts = {f.name: f"struct_extract(d, {literal(f.name)})" for f in self.schema}
        self.through(rows, 0, relation, columns, texts, known="(d IS NOT NULL)")

    def member(self, field: Field) -> Reading | None:
        if any(field.name in dict(f.partition) for f in self.raw.files):
            return None
        return reading(f"struct_extract(d, {literal(field.name)})", field.type, self.formats)

    # -- sheets -----------------------------------------------------------------------------------------------------
    def load_sheets(self) -> None:
        for i, file in enumerate(self.raw.files):
            staged = stage(i, file, self.folder, self.limits, ending="xlsx")
            with reading_errors(file):
                table = records.sheet_rows(staged, self.raw.options.get("sheet"))
            names, first, body = records.sheet_body(table, self.raw.options)
            if not names:
                continue

            def rows(tally: Tally, number: int = i, first: int = first, body: Any = body) -> Iterator[tuple[int, int, Sequence[str], str]]:
                for line, cells in enumerate(body, start=first):
                    if any(cells):
                        tally.give(number, 1)
                        yield number, line, cells, "\t".join(cells)

            self.cells(rows, names, staged)

    # -- columnar ---------------------------------------------------------------------------------------------------
    def load_typed(self) -> None:
        found = {}
        for i, file in enumerate(self.raw.files):
            staged = stage(i, file, self.folder, self.limits, ending=self.raw.format)
            found[staged] = columnar.columns_of(self.session.connection, staged, self.raw.format)
        for columns, files in columnar.by_columns(found):
            self.typed(columns, files)

    def typed(self, have: Sequence[tuple[str, Any]], files: list[Staged]) -> None:
        """Loads Parquet or Arrow files of the same columns."""
        names = [name for name, _ in have]
        places = self.matched(unique_names(names), files[0])
        columns = self.select(
            lambda f: columnar.cast(f"c{places[f.name]}", have[places[f.name]][1], f.type, self.formats) if f.name in places else None,
            "_file",
        )
        parquet = self.raw.format == "parquet"
        given: dict[int, int] = {}
        relation = columnar.parquet_relation(files, names) if parquet else f"SELECT * FROM {RAW}"
        if not parquet:
            self.session.bind(RAW, columnar.arrow_batches(files, given))
        bad = any_of([], columns)
        try:
            written = self.session.write(
                f"SELECT {named({n: r.value for n, r in columns.items()})} FROM ({relation}) t WHERE NOT ({bad})", self.draft
            )
        except (QueryError, StorageError):
            if parquet:
                columnar.broken_one(self.session.connection, files)
            raise
        self.files += written
        if parquet:
            given = {f.number: columnar.parquet_rows(self.session.connection, f) for f in files}
        refusals: list[Refusal] = []
        if sum(f.rows for f in written) < sum(given.values()):
            if not parquet:
                self.session.bind(RAW, columnar.arrow_batches(files, {}))
            row = "CAST(to_json(struct_pack(" + ", ".join(f"{quote(n)} := c{i}" for i, n in enumerate(names)) + ")) AS VARCHAR)"
            texts = {name: f"c{i}" for name, i in places.items()}
            refusals = self.refused(relation, columns, texts, "TRUE", bad, row)
        self.account(given, (), refusals, written)


Rows = Callable[[Tally], Iterator[tuple[int, int, Sequence[str], str]]]


def named(values: Mapping[str, str]) -> str:
    return ", ".join(f"{value} AS {quote(name)}" for name, value in values.items())


def any_of(more: Sequence[str], columns: Mapping[str, Reading]) -> str:
    """Whether any column is bad, never null."""
    parts = [*more, *(f"coalesce({r.bad}, FALSE)" for r in columns.values() if r.bad != "FALSE")]
    return " OR ".join(parts) or "FALSE"


def per_file(values: Sequence[str | None], number: str) -> str:
    """SQL for a text that depends on the file's number only.

    In pieces, since DuckDB copies a list for each vector of rows that it is looked up for: 10,000 files would cost 10,000 lists of 10,000.
    """
    if len(set(values)) == 1 or number.isdigit():
        return _text(values[int(number)] if number.isdigit() else values[0])
    size = math.isqrt(len(values)) + 1
    pieces = [
        f"list_extract([{', '.join(map(_text, values[at : at + size]))}], {number} % {size} + 1)" for at in range(0, len(values), size)
    ]
    return f"CASE {number} // {size} " + " ".join(f"WHEN {i} THEN {piece}" for i, piece in enumerate(pieces)) + " END"


def _text(value: str | None) -> str:
    return "CAST(NULL AS VARCHAR)" if value is None else literal(value)
