"""Watching sources of files: one listing for each at a poll, compared with what was seen before; arrivals are written down.

An arrival is a record of the state (`arrival`, by source), so that the next scheduler knows what was told. Between polls only sizes and
times are kept, in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from penstock.craft.schedule import arrivals
from penstock.craft.schedule.arrivals import Seen
from penstock.craft.schedule.conditions import Happened, watch_name
from penstock.ground.clock import from_iso, iso
from penstock.ground.errors import PenstockError, SourceError
from penstock.ports.engine import RawFile
from penstock.ports.state import Claim, Record, State
from penstock.spec.sources import Files

KIND = "arrival"
#: How many names of new files an arrival hands on; it tells the number of all.
NAMES = 100

ListFiles = Callable[[Files], tuple[RawFile, ...]]


@dataclass
class _Folder:
    """What is kept of one source: the last listing, and the whole files as they were told; None before that is known."""

    last: dict[str, Seen] = field(default_factory=dict)
    known: dict[str, Seen] | None = None
    polled: int = 0


class Watch:
    """Polls sources. One for each scheduler, made anew when it becomes the active one."""

    def __init__(self, sources: Mapping[str, Files], markers: Mapping[str, set[str]], list_files: ListFiles) -> None:
        """`markers`: source -> the markers it is looked at with, "" for none."""
        self._sources = sources
        self._markers = markers
        self._list = list_files
        self._folders = {watch_name(s, m): _Folder() for s, found in markers.items() for m in found}
        self._landed: tuple[int, dict[str, dict[str, Seen]]] = (-1, {})

    def poll(self, state: State, claim: Claim, now: datetime) -> list[str]:
        """Looks at each source once and writes down what arrived. Returns notes on sources that could not be looked at.

        Cost:   one listing for each source and marker. Raises: Fenced(E4004), StorageError(E4001).
        Repeat: what was written down is not written again, by this watch or another.
        """
        if not self._folders:
            return []
        notes = []
        heads = state.heads(KIND)
        for source, markers in self._markers.items():
            try:
                listing = self._listing(self._sources[source])
                marked = {marker: self._marked(self._sources[source], marker) for marker in markers}
            except (PenstockError, OSError) as error:
                notes.append(f"{source} could not be looked at: {error}")
                continue
            for marker, found in marked.items():
                self._compare(source, marker, listing, found, heads.get(watch_name(source, marker)), state, claim, now)
        return notes

    def _compare(
        self, source: str, marker: str, now: dict[str, Seen], marked: set[str] | None, head: Record | None, state: State, claim: Claim,
        moment: datetime,
    ) -> None:  # fmt: skip
        name = watch_name(source, marker)
        folder = self._folders[name]
        folder.polled += 1
        found = arrivals.whole(folder.last, now, folder.known or {}, marked)
        folder.last = now
        if folder.known is None:
            if marked is None and folder.polled < 2:
                return
            same = head is not None and head.body["token"] == arrivals.token(found)
            folder.known = found if same else self.landed(state, source)
        new = arrivals.news(folder.known, found)
        if new:
            text = f"{len(new)} new or changed file{'s' if len(new) != 1 else ''}"
            told = {"source": source, "count": len(new), "files": new[:NAMES]}
            number = head.body["number"] + 1 if head is not None else 1
            body = {"number": number, "at": iso(moment), "text": text, "data": told, "token": arrivals.token(found)}
            state.append(KIND, name, body, at=moment, claim=claim)
        elif head is not None and folder.known != found:
            state.append(KIND, name, {**head.body, "token": arrivals.token(found)}, at=moment, claim=claim)
        folder.known = found

    def glance(self) -> None:
        """Takes every file that is there for whole, and writes nothing: for one look without polling. Sources that fail stay unseen."""
        for source, markers in self._markers.items():
            for marker in markers:
                with suppress(PenstockError, OSError):
                    marked = self._marked(self._sources[source], marker)
                    found = self._listing(self._sources[source])
                    known = {label: seen for label, seen in found.items() if marked is None or label in marked}
                    self._folders[watch_name(source, marker)].known = known

    def waiting(self, state: State, source: str) -> str:
        """Why a source's version is not the newest, "" if it is: files that are whole and not loaded as they are."""
        folder = self._folders.get(source)
        if folder is None:
            return ""
        if folder.known is None:
            return "its files were not looked at yet"
        new = arrivals.news(self.landed(state, source), folder.known)
        which = arrivals.token({label: folder.known[label] for label in new})[:6]
        return f"{len(new)} file{'s wait' if len(new) != 1 else ' waits'} to be loaded ({which})" if new else ""

    def landed(self, state: State, source: str) -> dict[str, Seen]:
        """The files of a source as they were loaded. Cost: one query while nothing is loaded."""
        newest = next((r.seq for r in state.history("listing", limit=1)), 0)
        if newest != self._landed[0]:
            self._landed = (newest, {})
        if source not in self._landed[1]:
            heads = state.heads("listing", prefix=f"{source}/")
            self._landed[1][source] = {
                key[len(source) + 1 :]: (int(r.body["size"]), int(r.body["changed_ns"]))
                for key, r in heads.items()
                if not r.body.get("gone")
            }
        return self._landed[1][source]

    def _listing(self, source: Files) -> dict[str, Seen]:
        return {f.label: (f.size_bytes, f.changed_ns) for f in self._list(source)}

    def _marked(self, source: Files, marker: str) -> set[str] | None:
        """Labels of files that have a marker beside them; None without a marker."""
        if not marker:
            return None
        last = source.pattern.rstrip("/").rpartition("/")[2]
        pattern = source.pattern.rstrip("/") + ("" if "." in last or "*" in last else "/*") + marker
        try:
            return {label.removesuffix(marker) for label in self._listing(replace(source, pattern=pattern, format="ndjson"))}
        except SourceError:
            return set()  # no marker is there yet


def arrived(heads: Mapping[str, Record]) -> dict[str, Happened]:
    """Arrivals as conditions read them, of heads of kind `arrival`."""
    return {name: _happened(record) for name, record in heads.items()}


def _happened(record: Record) -> Happened:
    body: Mapping[str, Any] = record.body
    return Happened(body["number"], from_iso(body["at"]), body["text"], body["data"])
