"""Which files of a folder are whole, and which of them are new. Pure, and one look at each file's size and time."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from penstock.ground.digest import digest

#: Size in bytes and time of change in nanoseconds.
Seen = tuple[int, int]
Listing = Mapping[str, Seen]


def whole(last: Listing, now: Listing, known: Listing, marked: Collection[str] | None = None) -> dict[str, Seen]:
    """The files that are whole, as they are: those that are as they were at the last look, or, with markers, those marked.

    A known file that is being written again counts as it was known.
    """
    found = {}
    for label, seen in now.items():
        if label in marked if marked is not None else last.get(label) == seen:
            found[label] = seen
        elif label in known:
            found[label] = known[label]
    return found


def news(known: Listing, found: Listing) -> list[str]:
    """Files that came or changed, sorted."""
    return sorted(label for label, seen in found.items() if known.get(label) != seen)


def token(found: Listing) -> str:
    """A digest of a listing."""
    return digest(sorted([label, *seen] for label, seen in found.items()))
