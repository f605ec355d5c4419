"""Working ahead: the next items of an iterator are made in a thread while the last one is being used."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any, TypeVar

T = TypeVar("T")
_LOOK_S = 0.05


def ahead(items: Iterator[T], depth: int) -> Generator[T]:
    """The same items in the same order; up to `depth` of them are made before they are asked for, in a thread of their own.

    What the iterator raises is raised here, in its place. If the caller stops early, the iterator is closed, in its thread, after
    the item it is at.
    """
    made: Queue[tuple[str, Any]] = Queue(depth)
    over = Event()

    def put(what: str, value: Any) -> bool:
        while not over.is_set():
            try:
                made.put((what, value), timeout=_LOOK_S)
            except Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put("item", item):
                    break
            else:
                put("end", None)
        except BaseException as error:  # noqa: BLE001 - it is raised again where the items are used
            put("error", error)
        finally:
            if over.is_set() and hasattr(items, "close"):
                items.close()

    thread = Thread(target=work, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            what, value = made.get()
            if what == "end":
                return
            if what == "error":
                raise value
            yield value
            del value
    finally:
        over.set()
        while True:
            try:
                made.get_nowait()
            except Empty:
                break
        thread.join()
