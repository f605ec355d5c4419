"""A table's metadata as Iceberg's JSON: what it says of versions, columns and partitions, and what the next one will say.

Heads are shared between threads and never changed; the functions that make the next metadata copy what they change.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from penstock.adapters.lake.iceberg.columns import schema_of_json
from penstock.ground.errors import Unsupported, VersionNotFound
from penstock.ports.lake import Snapshot
from penstock.spec.schema import Schema

Json = dict[str, Any]

#: What committers put into a snapshot's summary stands there under this prefix; so do `token`, `operation` and `draft`.
PREFIX = "penstock."
_OWN = ("token", "operation", "draft")
#: Tokens of expired versions, newest last, so that a very late repeat is still found: rows as `_remembered` makes them.
EXPIRED = "penstock.expired"
_EXPIRED_KEPT = 100
#: The first three are for other writers of the table (pyiceberg, Spark); the others also say what this adapter does.
PROPERTIES = {
    "commit.retry.num-retries": "20",
    "commit.retry.min-wait-ms": "5",
    "write.parquet.compression-codec": "zstd",
    "write.metadata.previous-versions-max": "10",
    "write.metadata.delete-after-commit.enabled": "true",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def milliseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)


class Head:
    """The newest metadata of a table, or an older one: `place` is its file."""

    def __init__(self, table: str, place: str, meta: Json) -> None:
        """Raises: Unsupported(E4007) for a format version other than 2."""
        self.table, self.place, self.meta = table, place, meta
        if meta.get("format-version") != 2:
            raise Unsupported(
                "the table's Iceberg format version is not supported",
                place=table,
                expected="format-version 2",
                got=f"format-version {meta.get('format-version')}",
                hint="version 3 (deletion vectors) cannot be written yet; keep tables at version 2",
            )

    @property
    def location(self) -> str:
        return str(self.meta["location"])

    @cached_property
    def snapshots(self) -> Mapping[int, Json]:
        return {s["snapshot-id"]: s for s in self.meta.get("snapshots", ())}

    @cached_property
    def current(self) -> Json | None:
        return self.snapshots.get(self.meta.get("current-snapshot-id") or -1)

    @property
    def version(self) -> str | None:
        return str(self.current["snapshot-id"]) if self.current else None

    @cached_property
    def schemas(self) -> Mapping[int, Schema]:
        return {s["schema-id"]: schema_of_json(s, self.table) for s in self.meta["schemas"]}

    @property
    def schema_id(self) -> int:
        return int(self.meta["current-schema-id"])

    @property
    def schema(self) -> Schema:
        """The columns that the next write starts from."""
        return self.schemas[self.schema_id]

    def schema_of(self, snapshot: Json) -> Schema:
        return self.schemas[snapshot.get("schema-id", self.schema_id)]

    @property
    def spec(self) -> Json:
        return next(s for s in self.meta["partition-specs"] if s["spec-id"] == self.meta["default-spec-id"])

    @cached_property
    def _texts(self) -> dict[int, str]:
        return {number: _dumped(s) for number, s in self.snapshots.items()}

    def encoded(self, before: Head | None) -> bytes:
        """The metadata as JSON. Versions that `before` has too are not encoded again: there may be thousands."""
        known = before._texts if before else {}
        self._texts = {number: known.get(number) or _dumped(s) for number, s in self.snapshots.items()}
        rest = _dumped({k: v for k, v in self.meta.items() if k != "snapshots"})
        return f'{rest[:-1]},"snapshots":[{",".join(self._texts.values())}]}}'.encode()

    def chain(self, newest: Json | None = None) -> list[Json]:
        """Versions from the given one (the current one) back to the oldest that is still known."""
        made, at = [], newest or self.current
        while at is not None:
            made.append(at)
            at = self.snapshots.get(at.get("parent-snapshot-id") or -1)
        return made

    def find(self, version: str | None, at: datetime | None = None) -> Json:
        """Raises: VersionNotFound(E4009)."""
        found = self.current
        if version is not None:
            found = self.snapshots.get(int(version)) if version.isdecimal() else None
        elif at is not None:
            limit = milliseconds(at)
            found = next((s for s in self.chain() if s["timestamp-ms"] <= limit), None)
        if found is None:
            raise VersionNotFound(
                "this version is not, or no longer, known" if version else "the table had no version that is still known",
                place=self.table,
                got=version or (f"at {at.isoformat()}" if at else "no version at all"),
                hint=f"known versions: {len(self.snapshots)}; older ones may have been expired",
            )
        return found

    def by_token(self, token: str) -> Snapshot | None:
        """The version a token was committed as, also if that version has been expired."""
        for snapshot in reversed(self.meta.get("snapshots", ())):
            if snapshot.get("summary", {}).get(PREFIX + "token") == token:
                return self.told(snapshot)
        for row in _expired(self.meta):
            if row["token"] == token:
                schema = self.schemas.get(row["schema"], self.schema)
                at = _EPOCH + timedelta(milliseconds=row["ms"])
                return Snapshot(
                    self.table, row["version"], row["parent"], at, row["operation"], token, {}, schema, row["rows"], row["files"]
                )
        return None

    def told(self, snapshot: Json) -> Snapshot:
        """A snapshot as the port has it."""
        summary = snapshot.get("summary", {})
        own = {k.removeprefix(PREFIX): v for k, v in summary.items() if k.startswith(PREFIX)}
        parent = snapshot.get("parent-snapshot-id")
        return Snapshot(
            table=self.table,
            version=str(snapshot["snapshot-id"]),
            parent=str(parent) if parent is not None else None,
            at=_EPOCH + timedelta(milliseconds=snapshot["timestamp-ms"]),
            operation=operation_of(snapshot),
            token=own.get("token", ""),
            summary={k: v for k, v in own.items() if k not in _OWN},
            schema=self.schema_of(snapshot),
            rows=int(summary.get("total-records", 0)) - int(summary.get("total-position-deletes", 0)),
            files=int(summary.get("total-data-files", 0)),
        )


def _dumped(data: Json) -> str:
    return json.dumps(data, separators=(",", ":"))


def operation_of(snapshot: Json) -> str:
    """append, overwrite, compact, or delete; Iceberg calls a compaction `replace`, whoever made it."""
    name = str(snapshot.get("summary", {}).get("operation", "append"))
    return "compact" if name == "replace" else name


# -- the next metadata ----------------------------------------------------------------------------------------------
def empty(uuid: str, location: str, ms: int) -> Json:
    """A table without columns and versions."""
    return {
        "format-version": 2,
        "table-uuid": uuid,
        "location": location,
        "last-sequence-number": 0,
        "last-updated-ms": ms,
        "last-column-id": 0,
        "current-schema-id": -1,
        "schemas": [],
        "default-spec-id": -1,
        "partition-specs": [],
        "last-partition-id": 999,
        "default-sort-order-id": 0,
        "sort-orders": [{"order-id": 0, "fields": []}],
        "properties": dict(PROPERTIES),
        "current-snapshot-id": -1,
        "refs": {},
        "snapshots": [],
        "snapshot-log": [],
        "metadata-log": [],
        "statistics": [],
        "partition-statistics": [],
    }


def with_columns(meta: Json, schema: Json, last_column_id: int) -> Json:
    """The table with these columns as its current ones."""
    known = [s for s in meta["schemas"] if s["schema-id"] != schema["schema-id"]]
    last = max(last_column_id, meta["last-column-id"])
    return {**meta, "schemas": [*known, schema], "current-schema-id": schema["schema-id"], "last-column-id": last}


def with_partition(meta: Json, spec: Json) -> Json:
    """The table with this partition spec for new files."""
    known = [s for s in meta["partition-specs"] if s["spec-id"] != spec["spec-id"]]
    last = max([meta["last-partition-id"], *(f["field-id"] for f in spec["fields"])])
    return {**meta, "partition-specs": [*known, spec], "default-spec-id": spec["spec-id"], "last-partition-id": last}


def with_snapshot(meta: Json, snapshot: Json) -> Json:
    """The table with this version as its current one."""
    number = snapshot["snapshot-id"]
    refs = {**meta.get("refs", {}), "main": {"snapshot-id": number, "type": "branch"}}
    log = [*meta.get("snapshot-log", ()), {"snapshot-id": number, "timestamp-ms": snapshot["timestamp-ms"]}]
    return {
        **meta,
        "current-snapshot-id": number,
        "last-sequence-number": snapshot["sequence-number"],
        "snapshots": [*meta.get("snapshots", ()), snapshot],
        "refs": refs,
        "snapshot-log": log,
    }


def without_snapshots(head: Head, gone: Collection[int]) -> Json:
    """The table without some versions; their tokens are remembered."""
    meta = head.meta
    log: list[Json] = []
    for entry in meta.get("snapshot-log", ()):
        log = [] if entry["snapshot-id"] in gone else [*log, entry]
    told = [head.told(s) for s in meta["snapshots"] if s["snapshot-id"] in gone]
    memory = [*_expired(meta), *(_remembered(s, head.snapshots[int(s.version)]) for s in told if s.token)][-_EXPIRED_KEPT:]
    made = {**meta, "snapshot-log": log, "snapshots": _others(meta["snapshots"], gone)}
    for kind in ("statistics", "partition-statistics"):
        if kind in meta:
            made[kind] = _others(meta[kind], gone)
    if memory:
        made["properties"] = {**meta.get("properties", {}), EXPIRED: _dumped({"versions": memory})}
    return made


def _others(entries: Iterable[Json], gone: Collection[int]) -> list[Json]:
    return [e for e in entries if e["snapshot-id"] not in gone]


def _remembered(told: Snapshot, snapshot: Json) -> Json:
    return {
        "token": told.token,
        "version": told.version,
        "parent": told.parent,
        "ms": snapshot["timestamp-ms"],
        "operation": told.operation,
        "schema": snapshot.get("schema-id", -1),
        "rows": told.rows,
        "files": told.files,
    }


def _expired(meta: Json) -> list[Json]:
    return list(json.loads(meta.get("properties", {}).get(EXPIRED, '{"versions": []}'))["versions"])


@dataclass(frozen=True)
class Logged:
    """The next metadata with its predecessor in the log; `dropped` are files the log no longer names and nobody needs."""

    meta: Json
    dropped: Sequence[str]


def logged(meta: Json, before: Head | None, ms: int) -> Logged:
    """Notes the predecessor, and forgets the oldest ones as the table's properties say."""
    if before is None:
        return Logged({**meta, "last-updated-ms": ms}, ())
    properties = meta.get("properties", {})
    kept = max(1, int(properties.get("write.metadata.previous-versions-max", "100")))
    log = [*meta.get("metadata-log", ()), {"metadata-file": before.place, "timestamp-ms": before.meta["last-updated-ms"]}]
    deletes = properties.get("write.metadata.delete-after-commit.enabled", "false") == "true"
    dropped = [entry["metadata-file"] for entry in log[:-kept]] if deletes else []
    return Logged({**meta, "last-updated-ms": ms, "metadata-log": log[-kept:]}, dropped)
