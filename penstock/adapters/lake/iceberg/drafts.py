"""Drafts: a table as it will be after a commit, made without changing anything that anybody can see."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.adapters.lake.iceberg.columns import has_required, pairs, require_transforms, spec_json, transform_text
from penstock.adapters.lake.iceberg.heads import Heads
from penstock.adapters.lake.iceberg.metadata import Head, Json
from penstock.adapters.lake.iceberg.places import local
from penstock.ground.errors import Unsupported
from penstock.ports.lake import Draft
from penstock.spec.evolution import Evolution, evolved
from penstock.spec.partitions import Partition
from penstock.spec.schema import Schema


@dataclass(frozen=True)
class IcebergDraft(Draft):
    """A draft with what its commit must find unchanged.

    Attributes:
        id: of this draft; one commit may have it.
        uuid, location: of the table.
        base_schema_id, base_column_id, base_spec_id: the table's numbers when the draft was made; None, 0, None for a new table.
        last_column_id: the highest field id after the commit.
        spec: the partition spec as JSON.
        drops: whether columns of the base are gone, so that old files must go too.
    """

    id: str
    uuid: str
    location: str
    base_schema_id: int | None
    base_column_id: int
    base_spec_id: int | None
    last_column_id: int
    spec: Json
    drops: bool

    @property
    def changes_columns(self) -> bool:
        return self.schema_id != self.base_schema_id or self.spec["spec-id"] != self.base_spec_id


def drafted(
    heads: Heads, head: Head | None, location: str, wanted: Schema, partition: Sequence[Partition], change: Evolution
) -> IcebergDraft:
    """See `Lake.draft`."""
    base_column = head.meta["last-column-id"] if head else 0
    columns, last = evolved(head.schema if head else None, wanted, change, last_id=base_column)
    spec = _spec(head, columns, partition, change)
    folder = os.path.join(local(location), "data")
    os.makedirs(folder, exist_ok=True)
    kept = {f.id for f in columns}
    return IcebergDraft(
        table=change.table,
        schema=columns,
        schema_id=_schema_id(head, columns),
        partition=tuple(partition),
        folder=folder,
        base=head.version if head else None,
        id=heads.uuid(),
        uuid=head.meta["table-uuid"] if head else heads.uuid(),
        location=location,
        base_schema_id=head.schema_id if head else None,
        base_column_id=base_column,
        base_spec_id=head.meta["default-spec-id"] if head else None,
        last_column_id=last,
        spec=spec,
        drops=head is not None and any(f.id not in kept for f in head.schema),
    )


def _schema_id(head: Head | None, columns: Schema) -> int:
    """The number of a schema the table has, or the next one. One with required columns is not the same: ours are all optional."""
    if head is None:
        return 0
    alike = [s["schema-id"] for s in head.meta["schemas"] if head.schemas[s["schema-id"]] == columns and not has_required(s)]
    if head.schema_id in alike:
        return head.schema_id
    return int(alike[0]) if alike else max(head.schemas) + 1


def _spec(head: Head | None, columns: Schema, partition: Sequence[Partition], change: Evolution) -> Json:
    """The partition spec a draft writes with: the table's, or with `exact` another one."""
    require_transforms(partition, columns, change.table)
    wanted = tuple((columns.field(p.column).id or 0, transform_text(p)) for p in partition)
    specs = head.meta["partition-specs"] if head else []
    if head is not None and pairs(head.spec) == wanted:
        return head.spec
    if head is not None and not change.exact:
        raise Unsupported(
            "a table's partition can change only when it is written whole",
            place=change.table,
            expected=", ".join(text for _, text in pairs(head.spec)) or "no partition",
            got=", ".join(text for _, text in wanted) or "no partition",
        )
    if (known := next((s for s in specs if pairs(s) == wanted), None)) is not None:
        return dict(known)
    return spec_json(partition, columns, max((s["spec-id"] for s in specs), default=-1) + 1, specs)
