"""The manifest: what an artefact consists of, and the statement about it that is signed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from penstock.ground.errors import ArtefactRefused
from penstock.spec.models import Format, Kind

#: What the signature is for, and the fields that the first form of the statement has; later fields need another form.
PURPOSE = "model"
_STATED = (
    "name", "created", "source", "format", "model", "kind", "classes", "outputs", "columns", "reference", "versions", "checked_rows",
    "difference", "files",
)  # fmt: skip


@dataclass(frozen=True)
class StoredFile:
    """A file of an artefact, by name within its folder."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What an artefact consists of.

    Attributes:
        format: how the model is stored.
        model: the class of the model, with its module; of a file brought along, its format.
        columns: the columns it takes, in order.
        versions: library -> version it was stored with.
        checked_rows: rows on which the stored model was compared with the one that was trained.
        difference: the greatest difference of their scores.
        kind: what its scores are.
        classes: the labels that scores are of, in order; empty for numbers.
        outputs: for each column of the model's own answer the place of its class; empty for one column.
        reference: per column the value that reasons compare with, None where the column had none.
        name: what was signed, such as `delay@v3`.
        created: when, as text.
        source: where a model brought along came from; empty if it was trained here.
        signature: over the statement; None if it was stored without keys.
    """

    format: Format
    model: str
    files: tuple[StoredFile, ...]
    columns: tuple[str, ...]
    versions: Mapping[str, str]
    checked_rows: int
    difference: float
    kind: Kind = "binary"
    classes: tuple[bool | int | str, ...] = (False, True)
    outputs: tuple[int, ...] = ()
    reference: tuple[float | None, ...] = ()
    name: str = ""
    created: str = ""
    source: str = ""
    signature: Mapping[str, str] | None = None

    def as_record(self) -> dict[str, Any]:
        """JSON-ready; `manifest_from` reads it."""
        files = [{"name": f.name, "size_bytes": f.size_bytes, "sha256": f.sha256} for f in self.files]
        lists = {name: list(getattr(self, name)) for name in ("columns", "classes", "outputs", "reference")}
        return vars(self) | lists | {"files": files, "versions": dict(self.versions)}

    def statement(self) -> dict[str, Any]:
        """What is signed: everything that loading goes by, and whose version it is."""
        record = self.as_record()
        return {"type": "penstock/model/1", **{name: record[name] for name in _STATED}}

    @property
    def sha256(self) -> str:
        """The digest of the model's own file."""
        return self.files[0].sha256


def manifest_from(record: Mapping[str, Any]) -> Manifest:
    """What `Manifest.as_record` gave; keys it does not know are ignored, and those of an older record filled in.

    Raises: ArtefactRefused(E6002) for anything else.
    """
    try:
        older = {"format": record["kind"], "kind": "binary"} if "format" not in record else {}
        held: dict[str, Any] = {f.name: record[f.name] for f in fields(Manifest) if f.name in record} | older
        held |= {name: tuple(held[name]) for name in ("columns", "classes", "outputs", "reference") if name in held}
        files = tuple(StoredFile(f["name"], f["size_bytes"], f["sha256"]) for f in record["files"])
        return Manifest(**held | {"files": files, "versions": dict(record["versions"])})
    except (KeyError, TypeError, ValueError) as error:
        raise ArtefactRefused("not a manifest of a model", expected="what store returned", got=repr(record)[:80]) from error
