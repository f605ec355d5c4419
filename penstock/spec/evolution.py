"""How a table's columns become what is wanted of it: which field ids stay, which are new, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from penstock.ground.errors import SchemaDrift
from penstock.spec.schema import Field, Schema, Type, strip_ids, widened


@dataclass(frozen=True)
class Evolution:
    """One change of a table's columns, see `evolved`. `renamed` is new -> old; a member of a struct is `column.member`, of a list of
    structs `column.element.member`, of a map `column.value.member`."""

    table: str
    renamed: Mapping[str, str]
    exact: bool


def evolved(current: Schema | None, wanted: Schema, change: Evolution, *, last_id: int) -> tuple[Schema, int]:
    """The columns of the table after the change, all with ids, and the highest id ever given.

    A column keeps its id if it has the same name, or is named by `renamed` while the old name exists and the new one does not, and
    its type can be widened to the wanted one. With `exact` the result has the wanted columns and types, and what does not fit gets
    a new id; else columns that are not wanted stay at the end.
    Raises: SchemaDrift(E2003) for a type that cannot be widened, without `exact`.
    """
    fields, left = _members(current.fields if current else (), wanted.fields, "", change)
    return _numbered(Schema(tuple(fields) if change.exact else (*fields, *left)), last_id)


def _members(old: Sequence[Field], new: Sequence[Field], path: str, change: Evolution) -> tuple[list[Field], list[Field]]:
    """The new members with the ids they keep, and the old ones nobody wants."""
    left = {f.name: f for f in old}
    known = set(left)
    was = {f.name: _old_name(f.name, path, change) for f in new if f.name not in known}
    taken = {name for name in was.values() if name in known}
    made = []
    for field in new:
        source = was.get(field.name, field.name if field.name not in taken else "")
        made.append(_member(left.pop(source, None), field, path + field.name, change))
    return made, list(left.values())


def _old_name(name: str, path: str, change: Evolution) -> str:
    old = change.renamed.get(path + name, "")
    return old.rpartition(".")[2] if path else old


def _member(old: Field | None, new: Field, path: str, change: Evolution) -> Field:
    if old is None:
        return Field(new.name, strip_ids(new.type), doc=new.doc)
    kind = _merged(old.type, new.type, path, change)
    if kind is not None:
        return Field(new.name, kind, old.id, new.doc or old.doc)
    if change.exact:
        return Field(new.name, strip_ids(new.type), doc=new.doc)
    raise SchemaDrift(
        "a column's type changed in a way that files already written cannot follow",
        place=f"{change.table}[{path}]",
        expected=old.type,
        got=new.type,
        hint="cast it in the query, or compute the whole table again",
    )


def _merged(old: Type, new: Type, path: str, change: Evolution) -> Type | None:
    """The type that old files can be read as, with old ids where they stay; None if there is none."""
    if old.name == new.name == "struct":
        fields, left = _members(old.fields, new.fields, path + ".", change)
        return None if left and not change.exact else Type("struct", fields=tuple(fields))
    if old.name == new.name and old.fields:
        parts = []
        for was, now in zip(old.fields, new.fields, strict=True):
            kind = _merged(was.type, now.type, f"{path}.{was.name}", change)
            if kind is None:
                return None
            parts.append(replace(was, type=kind))
        return Type(old.name, fields=tuple(parts))
    kind = None if old.fields or new.fields else widened(old, new)
    return None if change.exact and kind != new else kind


def _numbered(schema: Schema, last_id: int) -> tuple[Schema, int]:
    """Gives ids to fields that have none: those of one level before those inside them."""
    fields, last_id = _numbered_fields(schema.fields, last_id)
    return Schema(fields), last_id


def _numbered_fields(fields: Sequence[Field], last_id: int) -> tuple[tuple[Field, ...], int]:
    made = []
    for field in fields:
        if field.id is None:
            last_id += 1
        made.append(replace(field, id=last_id if field.id is None else field.id))
    for i, field in enumerate(made):
        inner, last_id = _numbered_fields(field.type.fields, last_id)
        made[i] = replace(field, type=replace(field.type, fields=inner)) if inner else field
    return tuple(made), last_id
