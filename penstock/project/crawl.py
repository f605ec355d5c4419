"""`penstock crawl`: looks into files or a database that somebody else owns, and writes down what it found as a definition.

What is printed is Python that works whatever the names are: texts from outside stand in it only as literals made by `repr`, and
every definition is compiled before it is shown or written.
"""

from __future__ import annotations

import ast
import itertools
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from penstock.ground.errors import DefinitionError, NameRefused, SourceError, UnknownName, did_you_mean
from penstock.ground.names import asset_name, quote
from penstock.ports.adapters import Context
from penstock.ports.engine import RawFile, RawFiles, Session
from penstock.ports.lake import Draft
from penstock.project import settings as settings_of
from penstock.project.adapters import known, opened
from penstock.project.figures import of, one_line, size, snake
from penstock.project.project import Project
from penstock.project.settings import Settings
from penstock.run.land import difference, format_of
from penstock.spec.schema import Field, Schema, schema_from_record
from penstock.spec.sources import Database, Files, files, format_by_name

#: How many files are looked into, spread over all; and bytes of a larger file of lines that figures are made of.
LOOKED_AT, SAMPLE_BYTES = 32, 32 << 20
#: Columns tried in pairs and threes when no single column is a key.
KEY_COLUMNS = 6
#: What the readers assume when nothing is said; only other values are written into a definition.
USUAL = {"delimiter": ",", "quote": '"', "escape": '"', "header": True, "decimal": ".", "encoding": "utf-8", "skip": 0, "nulls": ("",)}


@dataclass(frozen=True)
class Column:
    """A column as found. `nulls` is a share within [0, 1]; `distinct` counts values in the sample, None if not counted."""

    name: str
    type: str
    nulls: float | None = None
    distinct: int | None = None
    example: str = ""


@dataclass(frozen=True)
class Crawled:
    """A source as found, before anybody has declared it.

    Attributes:
        asset: the name proposed for it. `place`: the pattern, or the database's URL without a password.
        rows: rows looked at. `unreadable`: rows of those that do not parse.
        key: columns that tell the sample's rows apart, () if none do. `time`: the column that dates a row, "" if none.
        partitions: columns that come from folder names. `differing`: files with other columns or types, and how they differ.
    """

    asset: str
    place: str
    kind: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    time: str = ""
    partitions: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    files: int = 0
    looked_at: int = 0
    bytes: int = 0
    rows: int = 0
    unreadable: int = 0
    differing: Mapping[str, str] = field(default_factory=dict)
    table: str = ""
    password: str = ""

    @property
    def summary(self) -> str:
        if self.table:
            return f"table {one_line(self.table)} of {one_line(self.place)}, {of(len(self.columns), 'column')}"
        seen = "" if self.looked_at == self.files else f" ({of(self.looked_at, 'file')} looked into)"
        bad = f", {of(self.unreadable, 'row')} not readable" if self.unreadable else ""
        return f"{of(self.files, 'file')}{seen}, {size(self.bytes)}, {self.kind}, {of(len(self.columns), 'column')}; {of(self.rows, 'row')} looked at{bad}"


# -- files ----------------------------------------------------------------------------------------------------------
def crawl_files(project: Project, pattern: str, *, name: str = "") -> list[Crawled]:
    """What the files of a pattern hold: one source, or one for each group of files with like columns if no name is given.

    Raises: SourceError(E2001) if there are none or they cannot be read, NameRefused(E1002) for a name that cannot be one.
    """
    listed = project.list_files(files(pattern))
    looked = _spread(listed)
    with _session(project) as (session, folder):
        if not name and len(looked) == len(listed) and not any(f.member for f in listed):
            groups = alike(session.infer(RawFiles(looked, format_of(files(pattern), looked))).per_file)
            patterns = [_pattern(project, group) for group in groups]
            if len(groups) > 1 and all(patterns):
                by_label = {f.label: f for f in listed}
                parts = [tuple(by_label[label] for label in group) for group in groups]
                found = [_crawled(session, folder, one, part, part, "") for one, part in zip(patterns, parts, strict=True)]
                return _named_apart(found)
        return [_crawled(session, folder, pattern, listed, looked, name)]


def _crawled(
    session: Session, folder: Path, pattern: str, listed: Sequence[RawFile], looked: tuple[RawFile, ...], name: str
) -> Crawled:  # fmt: skip
    kind = format_of(files(pattern), looked)
    inferred = session.infer(RawFiles(looked, kind))
    columns, key, rows, unreadable = _figures(session, _heads(looked, kind, folder), kind, inferred.schema, inferred.options, folder)
    differing = {label: text for label, schema in inferred.per_file if (text := difference(inferred.schema, schema, types=True))}
    return Crawled(
        asset=asset_name(name) if name else name_of(pattern), place=pattern, kind=kind, columns=columns, key=key, time=_time(columns),
        partitions=tuple(k for k, _ in listed[0].partition), options=dict(inferred.options), files=len(listed), looked_at=len(looked),
        bytes=sum(f.size_bytes for f in listed), rows=rows, unreadable=unreadable, differing=differing,
    )  # fmt: skip


def alike(per_file: Sequence[tuple[str, Schema]]) -> list[list[str]]:
    """Labels of files grouped by their columns: a file joins the first group that shares at least half of all names with it."""
    groups: list[tuple[set[str], list[str]]] = []
    for label, schema in per_file:
        names = {n.lower() for n in schema.names}
        for shared, labels in groups:
            if 2 * len(shared & names) >= len(shared | names):
                shared |= names
                labels.append(label)
                break
        else:
            groups.append((names, [label]))
    return [labels for _, labels in groups]


def _pattern(project: Project, labels: Sequence[str]) -> str:
    """The simplest pattern that means just these files, "" if there is none."""
    if len(labels) == 1:
        tries = [labels[0]]
    else:
        start = _beginning(labels)
        end = _beginning([label[len(start) :][::-1] for label in labels])[::-1]
        tries = [f"{start}*{end}", "{" + ",".join(labels) + "}"]
    for pattern in tries:
        try:
            if [f.label for f in project.list_files(files(pattern))] == sorted(labels):
                return pattern
        except SourceError:
            continue
    return ""


def _beginning(texts: Sequence[str]) -> str:
    """The characters that all texts begin with."""
    least, most = min(texts), max(texts)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(least, most, strict=False))
    return "".join(char for char, _ in same)


def _named_apart(found: Sequence[Crawled]) -> list[Crawled]:
    """Sources with different names: the second `data` is `data_2`."""
    taken: set[str] = set()
    apart = []
    for each in found:
        numbers = (f"{each.asset[:60]}_{n}" for n in itertools.count(2))
        name = each.asset if each.asset not in taken else next(n for n in numbers if n not in taken)
        taken.add(name)
        apart.append(replace(each, asset=name))
    return apart


class _session:
    """An engine's session and a folder for its files, both given back at the end."""

    def __init__(self, project: Project) -> None:
        self._session = project.runtime.engine.session()
        self._folder = Path(tempfile.mkdtemp(prefix="crawl-", dir=project.settings.folder))

    def __enter__(self) -> tuple[Session, Path]:
        return self._session, self._folder

    def __exit__(self, *_: object) -> None:
        self._session.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _spread(listed: Sequence[RawFile]) -> tuple[RawFile, ...]:
    """At most LOOKED_AT of the files, evenly spread, the first and the last among them."""
    if len(listed) <= LOOKED_AT:
        return tuple(listed)
    return tuple(listed[round(i * (len(listed) - 1) / (LOOKED_AT - 1))] for i in range(LOOKED_AT))


def _heads(listed: Sequence[RawFile], kind: str, folder: Path) -> tuple[RawFile, ...]:
    """The files, but of large plain files of lines only the beginning, cut at a line's end."""
    return tuple(_head(f, folder / f"{i}.head") if _too_large(f, kind) else f for i, f in enumerate(listed))


def _too_large(file: RawFile, kind: str) -> bool:
    packed = file.member or file.path.lower().rsplit(".", 1)[-1] in ("gz", "gzip", "zst", "zstd")
    return kind in ("csv", "tsv", "ndjson") and not packed and file.size_bytes > SAMPLE_BYTES


def _head(file: RawFile, path: Path) -> RawFile:
    with open(file.path, "rb") as whole:
        data = whole.read(SAMPLE_BYTES)
    path.write_bytes(data[: data.rfind(b"\n") + 1] or data)
    stat = path.stat()
    return replace(file, path=str(path), size_bytes=stat.st_size, changed_ns=stat.st_mtime_ns)


def _figures(
    session: Session, sample: tuple[RawFile, ...], kind: str, schema: Schema, options: Mapping[str, Any], folder: Path
) -> tuple[tuple[Column, ...], tuple[str, ...], int, int]:
    """Columns with figures, the likely key, rows looked at, and rows that could not be read."""
    draft = Draft("crawled", numbered(schema), 0, (), str(folder), None)
    loaded = session.load(RawFiles(sample, kind, schema, options), draft)
    session.files("_crawled", loaded.files, draft.schema)
    counted = [f for f in schema if not f.type.fields]
    wanted = [f"count({quote(f.name)})" for f in schema]
    wanted += [f"count(DISTINCT {quote(f.name)})" for f in counted]
    wanted += [f"CAST(min({quote(f.name)}) AS VARCHAR)" for f in counted]
    row = list(session.rows(f"SELECT count(*), {', '.join(wanted)} FROM _crawled")[0]) if loaded.files else [0, *([None] * len(wanted))]
    rows, filled = int(row[0] or 0), row[1 : 1 + len(schema)]
    distinct = dict(zip((f.name for f in counted), row[1 + len(schema) :], strict=False))
    least = dict(zip((f.name for f in counted), row[1 + len(schema) + len(counted) :], strict=False))
    columns = tuple(
        Column(f.name, str(f.type), (1 - int(n or 0) / rows) if rows else None, distinct.get(f.name), one_line(least.get(f.name) or "", 40))
        for f, n in zip(schema, filled, strict=True)
    )
    return columns, _key(session, columns, rows), rows, loaded.rejected.num_rows


def numbered(schema: Schema) -> Schema:
    """The schema with field ids, nested ones included, as files need them."""
    ids = itertools.count(1)

    def one(each: Field) -> Field:
        own = next(ids)
        return Field(each.name, replace(each.type, fields=tuple(one(f) for f in each.type.fields)), own, each.doc)

    return Schema(tuple(one(f) for f in schema))


def _key(session: Session, columns: Sequence[Column], rows: int) -> tuple[str, ...]:
    """The fewest columns that tell all rows of the sample apart: one, else two or three of those with most values."""
    if rows < 2:
        return ()
    fit = [c for c in columns if c.nulls == 0 and c.distinct and c.type not in ("float", "double", "boolean", "binary")]
    single = [c for c in fit if c.distinct == rows]
    if single:
        return (min(single, key=lambda c: (not re.search(r"(^|_)(id|key|code|no|number)$", snake(c.name)), columns.index(c))).name,)
    most = sorted(fit, key=lambda c: -(c.distinct or 0))[:KEY_COLUMNS]
    chosen = [c for c in columns if c in most]
    for width in (2, 3):
        groups = list(itertools.combinations(chosen, width))
        if not groups:
            return ()
        counts = ", ".join(f"count(DISTINCT ({', '.join(quote(c.name) for c in g)}))" for g in groups)
        found = session.rows(f"SELECT {counts} FROM _crawled")[0]
        for group, n in zip(groups, found, strict=True):
            if int(n) == rows:
                return tuple(c.name for c in group)
    return ()


_DATED = re.compile(r"(^|_)(at|time|timestamp|date|day|ts|when|created|updated|datetime|hour)(_|$)")


def _time(columns: Sequence[Column]) -> str:
    """The column that most likely dates a row: a moment before a date, a telling name before another, few nulls first."""
    dated = [c for c in columns if c.type in ("timestamp", "timestamptz", "date")]
    if not dated:
        return ""
    return min(dated, key=lambda c: (c.nulls or 0, c.type == "date", not _DATED.search(snake(c.name)), columns.index(c))).name


def name_of(place: str) -> str:
    """An asset's name made of a pattern or a table's name: `data/2013/Flights *.csv.gz` gives `flights`."""
    parts = [p for p in place.replace("\\", "/").split("/") if p]
    for part in reversed(parts):
        bare = re.sub(
            r"(\.(csv|tsv|tab|txt|json|ndjson|jsonl|parquet|pq|arrow|feather|ipc|xlsx?|gz|gzip|zst|zstd|zip))+$", "", part.lower()
        )
        words = re.sub(r"[*?\[\]{}\d_\-. ]+$|^[*?\[\]{}\d_\-. ]+", "", re.sub(r"\[[^\]]*\]|\{[^}]*\}", "*", part[: len(bare)]))
        plain = snake(words, other="")
        if plain and not re.fullmatch(r"[\w-]+=.*", part):
            return _safe(plain)
    return "source"


def _safe(name: str) -> str:
    """A name that can be an asset and a Python variable that hides nothing."""
    import builtins
    import keyword

    if keyword.iskeyword(name) or keyword.issoftkeyword(name) or hasattr(builtins, name) or name == "ps":
        name = f"{name}_rows"
    try:
        return asset_name(name)
    except NameRefused:
        return "source"


# -- databases ------------------------------------------------------------------------------------------------------
def is_database(text: str) -> bool:
    """Whether a text is a URL that a source adapter opens."""
    return "://" in text and text.partition("://")[0].partition("+")[0] in known("source")


def crawl_database(project: Project, url: str, *, table: str = "", name: str = "") -> list[Crawled]:
    """Tables of a database, or one of them.

    A password in the URL is used and not kept: definitions name a secret instead.
    Raises: SourceUnreachable(E2005), SourceError(E2001), UnknownName(E1003) for a table that is not there.
    """
    bare, secret = without_password(url)
    context = Context(project.runtime.folder, project.clock, project.ids, settings_of.secret)
    database = opened("source", re.sub(r"^(sqlite:///)(?!/)", rf"\g<1>{project.root}/", bare), context, password=secret or None)
    try:
        tables = list(database.tables())
        if table and table not in tables:
            raise UnknownName("the database has no such table", place=table, hint=did_you_mean(table, tables))
        chosen = [table] if table else tables
        return _named_apart([_table(database, bare, each, name if len(chosen) == 1 else "", secret) for each in chosen])
    finally:
        database.close()


def without_password(url: str) -> tuple[str, str]:
    """A URL and the password that stood in it, taken apart; in doubt too much is taken for a password, never too little."""
    match = re.fullmatch(r"([^:/]+://)([^/?#]*)(.*)", url, re.DOTALL)
    if match is None:
        return url, ""
    scheme, authority, rest = match.groups()
    if "@" not in authority and "@" in rest and not re.fullmatch(r"[^:]*(:\d*)?", authority):
        more, _, rest = rest.rpartition("@")
        authority, rest = f"{authority}{more}@{rest.partition('/')[0]}", rest[len(rest.partition("/")[0]) :]
    user, sign, host = authority.rpartition("@")
    name, _, secret = user.partition(":")
    return f"{scheme}{name}{sign}{host}{rest}", unquote(secret)


def _table(database: Any, url: str, table: str, name: str, secret: str) -> Crawled:
    schema = database.describe(table)
    columns = tuple(Column(f.name, str(f.type)) for f in schema)
    proposed = asset_name(name) if name else _safe(snake(table.rpartition(".")[2], other="source"))
    password = f"{snake(table, other='source').upper()}_PASSWORD" if secret else ""
    return Crawled(proposed, url, "database", columns, tuple(database.key(table)), _time(columns), table=table, password=password)


# -- drift ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Drift:
    """A recorded source against what it holds now. `policy` is what a run does with a difference."""

    asset: str
    policy: str
    recorded: tuple[tuple[str, str], ...]
    now: tuple[tuple[str, str], ...]
    added: tuple[str, ...]
    missing: tuple[str, ...]
    changed: Mapping[str, tuple[str, str]]
    differing: Mapping[str, str]

    @property
    def any(self) -> bool:
        return bool(self.added or self.missing or self.changed or self.differing)


def drift(project: Project, name: str) -> Drift:
    """How a source's columns differ now from those recorded when it was last landed (or declared, if it never was).

    Raises: UnknownName(E1003), DefinitionError(E1001) for an asset that is no source, SourceError(E2001).
    """
    asset = project.graph.node(name).asset
    if not isinstance(asset, Files | Database):
        raise DefinitionError(
            "not a source", place=name, expected="a source, a pattern or a database's URL", got=project.graph.node(name).kind
        )
    head = project.state.heads("asset", prefix=name).get(name)
    recorded = schema_from_record(list(head.body["crawl"])) if head is not None and head.body.get("crawl") else asset.schema
    now, per_file = _now(project, asset)
    if recorded is None:
        recorded = now
    before, here = ({f.name: str(f.type) for f in s} for s in (recorded, now))
    return Drift(
        asset=name, policy=asset.drift, recorded=tuple(before.items()), now=tuple(here.items()),
        added=tuple(n for n in here if n not in before), missing=tuple(n for n in before if n not in here),
        changed={n: (before[n], here[n]) for n in here if n in before and before[n] != here[n]},
        differing={label: text for label, schema in per_file if (text := difference(recorded, schema, types=asset.schema is None))},
    )  # fmt: skip


def _now(project: Project, asset: Files | Database) -> tuple[Schema, Sequence[tuple[str, Schema]]]:
    if isinstance(asset, Database):
        database = project.runtime.open_database(asset)
        try:
            return database.describe(asset.table or f"({asset.query})"), ()
        finally:
            database.close()
    listed = _spread(project.list_files(asset))
    with _session(project) as (session, _):
        inferred = session.infer(RawFiles(listed, format_of(asset, listed), None, dict(asset.options)))
    return inferred.schema, inferred.per_file


# -- definitions ----------------------------------------------------------------------------------------------------
def definition(found: Crawled, *, pin: bool = False, ps: str = "ps") -> str:
    """The source as Python; `pin` also writes down its columns, so that files with others do not change them."""
    args = [literal(found.place)]
    if found.table:
        args.append(f"table={literal(found.table)}")
        args += [f"key={_names(found.key)}"] if found.key else []
        args += [f"password={ps}.secret({literal(found.password)})"] if found.password else []
        call = "database"
    else:
        call = "files"
        if format_by_name(found.place) != found.kind:
            args.append(f"format={literal(found.kind)}")
        args += [f"{k}={literal(v)}" for k, v in sorted(found.options.items()) if _unusual(k, v, found.kind)]
    if pin:
        columns = "".join(f"        {literal(c.name)}: {literal(c.type)},\n" for c in found.columns if c.name not in found.partitions)
        args.append(f"columns={{\n{columns}    }}")
    text = f"{found.asset} = {ps}.{call}({', '.join(args)})\n"
    if len(text) > 130 or pin:
        text = f"{found.asset} = {ps}.{call}(\n" + "".join(f"    {a},\n" for a in args) + ")\n"
    return text


def _unusual(option: str, value: Any, kind: str) -> bool:
    from penstock.spec.sources import FILE_OPTIONS

    usual = {**USUAL, "delimiter": "\t" if kind == "tsv" else ","}
    plain = tuple(value) if isinstance(value, list) else value
    return option in FILE_OPTIONS and plain not in (None, "", ()) and plain != usual.get(option)


def literal(value: Any) -> str:
    """A value as Python, texts in double quotes where nothing in them minds."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(literal, value))}]"
    told = repr(value)
    return f'"{told[1:-1]}"' if isinstance(value, str) and told[0] == "'" and '"' not in value else told


def _names(names: Sequence[str]) -> str:
    return literal(names[0]) if len(names) == 1 else literal(list(names))


def starter(found: Crawled, *, ps: str = "ps") -> str:
    """A first table over the source: plain names, types written down, the likely key verified."""
    renamed = plain_names(found)
    lines = [f"{_select(c, renamed[c.name])}" for c in found.columns if c.name in renamed]
    query = "SELECT\n    " + ",\n    ".join(lines) + f"\nFROM {found.asset}"
    args = [f"key={_names([renamed[k] for k in found.key])}"] if found.key and all(k in renamed for k in found.key) else []
    args += [f"time={literal(renamed[found.time])}"] if found.time in renamed else []
    wanted = [renamed[c.name] for c in found.columns if c.name in renamed and c.nulls == 0 and c.name not in found.key and c.example][:3]
    args += [f"checks=[{ps}.not_null({', '.join(map(literal, wanted))})]"] if wanted else []
    table = f"{found.asset}_clean"[:63]
    about = f"Rows of {one_line(found.table or found.place, 100)} with plain names and types."
    return (
        f"@{ps}.table({', '.join(args)})\n" if args else f"@{ps}.table\n"
    ) + f"def {table}({found.asset}):\n    {_docstring(about)}\n    return {ps}.sql({_text(query)})\n"


def plain_names(found: Crawled) -> dict[str, str]:
    """Column -> its plain name, each once; columns that SQL cannot name are left out."""
    taken: set[str] = set()
    names: dict[str, str] = {}
    for i, column in enumerate(found.columns, start=1):
        if "\0" in column.name or not column.name:
            continue
        plain = snake(column.name, other=f"column_{i}")
        numbers = (f"{plain}_{n}" for n in itertools.count(2))
        names[column.name] = name = plain if plain not in taken else next(n for n in numbers if n not in taken)
        taken.add(name)
    return names


def _select(column: Column, name: str) -> str:
    kind = sql_type(column.type)
    source = _identifier(column.name)
    if kind and kind != "VARCHAR":
        return f"CAST({source} AS {kind}) AS {_identifier(name)}"
    return source if column.name == name else f"{source} AS {_identifier(name)}"


_SQL = {
    "boolean": "BOOLEAN", "int": "INTEGER", "long": "BIGINT", "float": "REAL", "double": "DOUBLE", "string": "VARCHAR", "binary": "BLOB",
    "date": "DATE", "time": "TIME", "timestamp": "TIMESTAMP", "timestamptz": "TIMESTAMPTZ", "uuid": "UUID",
}  # fmt: skip
#: Plain words that mean something in a SELECT list and must be quoted as names. Source: PostgreSQL's and DuckDB's reserved words.
_WORDS = """
all analyse analyze and anti any array as asc asof asymmetric authorization both case cast check collate collation column concurrently
constraint create cross default deferrable desc describe distinct do else end except false fetch for foreign freeze from full glob grant
group having ilike in initially inner intersect into is isnull join lambda lateral leading left like limit map natural not notnull null
offset on only or order outer overlaps pivot pivot_longer pivot_wider placing positional primary qualify references returning right
select semi show similar some struct summarize symmetric table tablesample then to trailing true try_cast union unique unpivot using
variadic verbose when where window with date time timestamp interval year month day hour minute second values row
"""
_RESERVED = frozenset(_WORDS.split())


def _identifier(name: str) -> str:
    plain = re.fullmatch(r"[a-z_][a-z0-9_]*", name) and name not in _RESERVED
    return name if plain else quote(name)


def sql_type(kind: str) -> str:
    """A type's name in SQL, "" for nested ones, which are left as they are."""
    if kind.startswith("decimal("):
        return kind.upper()
    return _SQL.get(kind, "")


def _docstring(text: str) -> str:
    told = repr(text)
    return f'""{literal(text)}""' if told[0] == "'" and '"' not in text else told


def _text(query: str) -> str:
    """A query as a Python literal: over several lines if nothing in it could end the literal or be read as an escape."""
    if '"""' not in query and "\\" not in query and all(c.isprintable() or c == "\n" for c in query):
        return '"""\n' + "".join(f"        {line}\n" for line in query.split("\n")) + '    """'
    return repr(query)


# -- writing --------------------------------------------------------------------------------------------------------
def written_as(settings: Settings) -> tuple[Path, str]:
    """The module that definitions go into, and the name it has for Penstock ("" if it does not import it)."""
    module = settings.modules[0].removesuffix(".py").replace(".", "/")
    path = settings.root / f"{module}.py"
    if not path.exists() and (settings.root / module / "__init__.py").exists():
        path = settings.root / module / "__init__.py"
    if not path.exists():
        return path, ""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for alias in node.names if isinstance(node, ast.Import) else ():
            if alias.name == "penstock":
                return path, alias.asname or "penstock"
    return path, ""


def append(project: Project, texts: Sequence[str]) -> Path:
    """Adds definitions at the end of the project's first module. Nothing in it is changed.

    Raises: DefinitionError(E1001) if a name is taken there or in the project, or if the whole would not compile.
    """
    path, ps = written_as(project.settings)
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    added = ("" if ps else "import penstock as ps\n\n") + "\n\n".join(texts)
    taken = set(bound(before)) | (set(project.graph.nodes) if before else set())
    for name in bound("\n".join(texts)):
        if name in taken:
            raise DefinitionError(
                "the name is taken; nothing was written", place=f"{path.name}: {name}", hint="give another with --name NAME"
            )
    gap = "" if not before else "\n\n" if before.endswith("\n") else "\n\n\n"
    compiled(before + gap + added)
    with path.open("a", encoding="utf-8") as out:
        out.write(gap + added)
    return path


def bound(code: str) -> Iterator[str]:
    """Names that code binds at its top."""
    for node in ast.parse(code).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (a.asname or a.name.partition(".")[0] for a in node.names)
        else:
            yield from (n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


def compiled(code: str) -> str:
    """The code itself, if Python can read it. Raises: DefinitionError(E1001)."""
    try:
        compile(code, "<definition>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise DefinitionError("the definition cannot be written as Python", place="crawl", got=str(error)) from error
    return code


def pattern_of(paths: Sequence[str]) -> str:
    """One pattern for what a shell made of one: several paths that differ in their file names.

    Raises: SourceError(E2001) if no simple pattern means exactly these files.
    """
    if len(paths) == 1:
        return paths[0]
    parents, endings = {str(Path(p).parent) for p in paths}, {"".join(Path(p).suffixes[-2:]) for p in paths}
    if len(parents) == 1 and len(endings) == 1:
        parent, ending = Path(parents.pop()), endings.pop()
        pattern = str(parent / f"*{ending}")
        if {str(p) for p in parent.glob(f"*{ending}")} == {str(Path(p)) for p in paths}:
            return pattern
    raise SourceError(
        "several files, and no pattern means just these",
        place=", ".join(paths[:3])[:120],
        hint="quote the pattern: penstock crawl 'data/*.csv'",
    )
