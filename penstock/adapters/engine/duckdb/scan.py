"""Reading a table's Parquet files by field ids, so that renamed, dropped and reused columns are right.

Files written in the current schema are read as they are. Files of each older schema get a projection that picks every column and
every nested member by its id; a column that such a file lacks is null.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import duckdb

from penstock.adapters.engine.duckdb.types import null_of, to_duck
from penstock.ground.errors import FileIdsWrong, Unsupported
from penstock.ground.names import literal, quote
from penstock.ports.lake import DataFile
from penstock.spec.schema import Field, Schema, Type

#: Columns that tell a row's place: the file's path as in `DataFile.path`, and the row's number in it, from 0.
PATH, POSITION = "_path", "_pos"
_ROW = "file_row_number"  # DuckDB's own name; a column of the table may not be called so
_UNKNOWN = Type("")  # the type of a leaf in a schema that comes from a footer


def traceable(schema: Schema) -> bool:
    """Whether no column of the table has a name that tracing needs."""
    return not {name.lower() for name in schema.names} & {PATH, POSITION, _ROW}


def scan_sql(
    connection: duckdb.DuckDBPyConnection, schema: Schema, files: Sequence[DataFile], schemas: Mapping[int, Schema], *, traced: bool = False
) -> str:
    """A SELECT over files that gives the columns of a schema, in its order, and the place of each row if traced.

    Order: files of the same schema in the order given, rows in file order.
    Raises: FileIdsWrong(E4008) for a file without field ids. Unsupported(E4007) if delete files apply, and a column's name is in the way.
    """
    groups: dict[tuple[Schema, bool], list[DataFile]] = {}
    footers = _footers(connection, [f.path for f in files if f.schema_id not in schemas])
    for file in files:
        own = footers[file.path] if file.schema_id is None or file.path in footers else schemas[file.schema_id]
        groups.setdefault((own, bool(file.deletes)), []).append(file)
    selects = [_select(schema, own, members, traced) for (own, _), members in groups.items()]
    return " UNION ALL ".join(selects) or _empty(schema, traced)


def _empty(schema: Schema, traced: bool) -> str:
    columns = [f"{null_of(f.type)} AS {quote(f.name)}" for f in schema]
    if traced:
        columns += [f"CAST(NULL AS VARCHAR) AS {PATH}", f"CAST(NULL AS BIGINT) AS {POSITION}"]
    return f"SELECT {', '.join(columns)} WHERE false"


def _select(schema: Schema, own: Schema, files: Sequence[DataFile], traced: bool) -> str:
    """The SELECT over files that were all written in the schema `own`."""
    by_id = {f.id: f for f in own}
    columns = [f"{_column(f, by_id.get(f.id))} AS {quote(f.name)}" for f in schema]
    if traced:
        columns += [PATH, f"{_ROW} AS {POSITION}"]
    deletes = sorted({path for f in files for path in f.deletes})
    if (traced or deletes) and not traceable(schema):
        raise Unsupported(
            "a column's name is in the way of telling rows by their place",
            place=", ".join(schema.names)[:200],
            hint=f"rename the column called {PATH}, {POSITION} or {_ROW}",
        )
    options = f", filename={literal(PATH)}, file_row_number=true" if traced or deletes else ""
    text = f"SELECT {', '.join(columns)} FROM {read_parquet((f.path for f in files), options)} f"
    return f"{text} ANTI JOIN ({_deleted(deletes)}) d ON f.{PATH} = d.path AND f.{_ROW} = d.pos" if deletes else text


def _deleted(deletes: Sequence[str]) -> str:
    """(path, position) of deleted rows. Writers name a local file `/x`, `file:/x` or `file:///x`.

    Source: Iceberg specification v2, "Position Delete Files".
    """
    return f"SELECT regexp_replace(file_path, '^file:/+', '/') AS path, pos FROM {read_parquet(deletes)}"


def read_parquet(paths: Iterable[str], options: str = "") -> str:
    """The table function over exactly these paths, whatever characters they hold."""
    return f"read_parquet([{', '.join(literal(exact(p)) for p in paths)}], hive_partitioning=false{options})"


def exact(path: str) -> str:
    """A pattern that only this path matches."""
    return "".join(f"[{c}]" if c in "[*?" else c for c in path)


# -- one column -----------------------------------------------------------------------------------------------------
def _column(want: Field, have: Field | None) -> str:
    """The expression for a column of a file: picked by id, named and typed as wanted."""
    if have is None:
        return null_of(want.type)
    return _value(want.type, have.type, quote(have.name), 0)


def _value(want: Type, have: Type, source: str, depth: int) -> str:
    if want == have:
        return source
    if not want.fields or not have.fields or _same_names(want, have):
        return f"CAST({source} AS {to_duck(want)})"
    variable = f"v{depth}"
    if want.name == "struct":
        return f"CASE WHEN {source} IS NULL THEN NULL ELSE struct_pack({_members(want, have, source, depth)}) END"
    if want.name == "list":
        inner = _value(want.fields[0].type, have.fields[0].type, variable, depth + 1)
        return f"list_transform({source}, lambda {variable}: {inner})"
    key = _value(want.fields[0].type, have.fields[0].type, f"{variable}.key", depth + 1)
    value = _value(want.fields[1].type, have.fields[1].type, f"{variable}.value", depth + 1)
    pairs = f"list_transform(map_entries({source}), lambda {variable}: {{'k': {key}, 'v': {value}}})"
    return f"CASE WHEN {source} IS NULL THEN NULL ELSE map_from_entries({pairs}) END"


def _members(want: Type, have: Type, source: str, depth: int) -> str:
    by_id = {f.id: f for f in have.fields}
    parts = []
    for field in want.fields:
        was = by_id.get(field.id)
        inner = _value(field.type, was.type, f"struct_extract({source}, {literal(was.name)})", depth) if was else null_of(field.type)
        parts.append(f"{quote(field.name)} := {inner}")
    return ", ".join(parts)


def _same_names(want: Type, have: Type) -> bool:
    """Whether nested members have the same names, ids and order, so that a cast by name moves nothing."""
    if len(want.fields) != len(have.fields):
        return False
    pairs = zip(want.fields, have.fields, strict=True)
    return all(w.name == h.name and w.id == h.id and _same_names(w.type, h.type) for w, h in pairs)


# -- footers --------------------------------------------------------------------------------------------------------
def _footers(connection: duckdb.DuckDBPyConnection, paths: Sequence[str]) -> dict[str, Schema]:
    """The schemas of files as their footers tell: names, ids and nesting; types of leaves are left open."""
    if not paths:
        return {}
    listed = ", ".join(literal(exact(p)) for p in paths)
    query = f"SELECT file_name, name, field_id, coalesce(num_children, 0), repetition_type FROM parquet_schema([{listed}])"
    nodes: dict[str, list[tuple[str, int | None, int, str]]] = {}
    for path, *node in connection.execute(query).fetchall():
        nodes.setdefault(path, []).append((node[0], node[1], node[2], node[3]))
    return {path: _schema(path, iter(found)) for path, found in nodes.items()}


def _schema(path: str, nodes: Iterable[tuple[str, int | None, int, str]]) -> Schema:
    walk = iter(nodes)
    _, _, count, _ = next(walk)
    fields = [_node(walk)[0] for _ in range(count)]
    if without := [f.name for f in fields if f.id is None]:
        raise FileIdsWrong(
            "a file has no field ids, so its columns cannot be told",
            place=path,
            expected="a field id on every column",
            got=f"none on {', '.join(without[:5])}",
            hint="write the file again through Penstock or Spark",
        )
    return Schema(tuple(fields))


def _node(walk: Iterable[tuple[str, int | None, int, str]]) -> tuple[Field, str]:
    """The next field of a footer's list of nodes, with all below it, and how often it may occur."""
    name, field_id, count, repetition = next(iter(walk))
    children = [_node(walk) for _ in range(count)]
    fields = tuple(child for child, _ in children)
    kind = Type("struct", fields=fields) if fields else _UNKNOWN
    if len(children) == 1 and children[0][1] == "REPEATED" and children[0][0].id is None:
        inner = fields[0].type.fields
        names = ("key", "value") if len(inner) == 2 else ("element",)
        kind = Type("map" if len(inner) == 2 else "list", fields=tuple(replace(f, name=n) for f, n in zip(inner, names, strict=True)))
    return Field(name, kind, field_id), str(repetition)
