"""A function named by text, called with JSON and answering JSON: the form in which work goes from one process to another.

Whatever the function does, short of ending the process, becomes an answer: what it returned, or an error as a record.
"""

from __future__ import annotations

import importlib
import json
import re
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from penstock.ground.errors import DefinitionError, MemoryLimit, PenstockError, ProjectNotLoaded, UnknownName, UserCodeError, did_you_mean

#: Characters that are kept of each text of an error, and of the end of its traceback.
TEXT_CHARS = 2_000
TRACEBACK_CHARS = 20_000
_NAME = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
_CALL = re.compile(f"{_NAME}:{_NAME}")
#: What is said when there is not even memory to say more.
_LAST_WORDS = json.dumps({"status": "memory", "error": MemoryLimit("no memory was left to tell what failed").as_record()}).encode()


def encoded(value: Any, place: str) -> bytes:
    """A value as JSON text, ASCII only. Raises: DefinitionError(E1001)."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise DefinitionError("a payload is no JSON", place=place, got=str(error)[:TEXT_CHARS]) from error


def check_call(call: str) -> None:
    """Raises: DefinitionError(E1001) if a text is no `package.module:function`."""
    if not _CALL.fullmatch(call):
        raise DefinitionError("not the name of a function", place=call[:80], expected="package.module:function", got=call[:80])


def function(call: str) -> Callable[[Any], Any]:
    """What `package.module:function` names.

    Raises: ProjectNotLoaded(E1005) with the module's own error as cause; UnknownName(E1003) with the nearest names.
    """
    module, _, name = call.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:
        raise ProjectNotLoaded("a module cannot be imported", place=module, got=f"{type(error).__name__}: {text(error)}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise UnknownName("a module has no such function", place=call, hint=did_you_mean(part, [n for n in dir(found) if n[0] != "_"]))
        found = getattr(found, part)
    if not callable(found):
        raise UnknownName("what is named cannot be called", place=call, got=type(found).__name__)
    return found  # type: ignore[no-any-return]


def answer(call: str, payload: Any, *, limit_bytes: int) -> bytes:
    """Calls a function, and gives its answer as JSON text: `status` (done, failed, memory), and `result` or `error`.

    Raises: KeyboardInterrupt as it comes; nothing else.
    """
    try:
        result = function(call)(payload)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 -- SystemExit and others of that kind end a call like any error
        return failure(call, error)
    try:
        said = json.dumps({"status": "done", "result": result}, allow_nan=False, separators=(",", ":")).encode()
    except MemoryError as error:
        return failure(call, error)
    except Exception as error:  # noqa: BLE001 -- encoding may run methods of the result
        refused = UserCodeError("what was returned is no JSON", place=call, expected="JSON", got=f"{type(result).__name__}: {text(error)}")
        return failure(call, refused)
    if len(said) > limit_bytes:
        hint = "write it to a file or a table, and return where"
        return failure(
            call,
            UserCodeError(
                "what was returned is too long", place=call, expected=f"up to {limit_bytes} bytes", got=f"{len(said)}", hint=hint
            ),
        )
    return said


def failure(call: str, error: BaseException) -> bytes:
    """The answer of a call that raised."""
    try:
        out_of_memory = any(isinstance(e, MemoryError) or "OutOfMemory" in type(e).__name__ for e in _chain(error))
        record = _record(call, error, out_of_memory)
        return json.dumps({"status": "memory" if out_of_memory else "failed", "error": record}).encode()
    except BaseException:  # noqa: BLE001 -- an answer must be given, and telling a failure may fail
        return _LAST_WORDS


def text(error: BaseException) -> str:
    """An exception's text, also of one whose `__str__` fails."""
    try:
        return str(error)[:TEXT_CHARS]
    except Exception:  # noqa: BLE001 -- it is the user's method
        return "(its text cannot be told)"


def _record(call: str, error: BaseException, out_of_memory: bool) -> dict[str, Any]:
    kind = type(error)
    said = f"{kind.__name__}: {text(error)}"
    if isinstance(error, PenstockError):
        record = error.as_record()
    elif out_of_memory:
        record = MemoryLimit("no more memory could be had", place=call, got=said).as_record()
    else:
        record = UserCodeError(said, place=call).as_record()
    record = {name: value[:TEXT_CHARS] if isinstance(value, str) else value for name, value in record.items()}
    raised = f"{kind.__module__}.{kind.__qualname__}"[:TEXT_CHARS]
    trace = error.__traceback__
    lines = traceback.format_exception(kind, error, trace.tb_next if trace is not None else None)
    return {**record, "raised": raised, "traceback": "".join(lines)[-TRACEBACK_CHARS:]}


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception, and those that it came from."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or following.__context__
