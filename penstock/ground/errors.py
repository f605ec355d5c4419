"""Every error Penstock raises: what, where, expected, got, what next, whose fault, and whether a retry can help.

One root. Each class has a stable code, is also the matching builtin, and carries its parts as attributes, so that a face
can print them as text or JSON without parsing a message.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

Fault = Literal["user", "input", "backend", "penstock"]


class PenstockError(Exception):
    """Root of all errors.

    Attributes:
        code: stable identifier, `E` and four digits; the first digit is the floor of the story
            (1 definition, 2 input data, 3 checks and ledger, 4 storage, 5 running, 6 models, 7 settings).
        place: the asset, file, column or setting concerned, e.g. `departures[dep_delay]`.
        expected, got, hint: the parts of the text after the message; empty when they add nothing.
        retry: whether the same call may succeed later without anybody changing anything.
        fault: whose code or data is at fault.
    """

    code: ClassVar[str] = "E0000"
    retry: ClassVar[bool] = False
    fault: ClassVar[Fault] = "penstock"

    def __init__(self, message: str, *, place: str = "", expected: object = "", got: object = "", hint: str = "") -> None:
        self.message = message
        self.place = place
        self.expected = str(expected)
        self.got = str(got)
        self.hint = hint
        super().__init__(self.text())

    def text(self) -> str:
        """One line: `E2107 departures[amount]: expected DECIMAL, got DOUBLE. Hint: ...`."""
        head = f"{self.code} {self.place}: {self.message}" if self.place else f"{self.code} {self.message}"
        parts = [head.rstrip(".")]
        if self.expected or self.got:
            parts.append(f"expected {self.expected or 'nothing'}, got {self.got or 'nothing'}")
        line = ". ".join(parts) + "."
        return f"{line} Hint: {self.hint}" if self.hint else line

    def as_record(self) -> dict[str, Any]:
        """The parts as JSON-ready data; the shape every `--json` output uses for an error."""
        return {
            "code": self.code, "kind": type(self).__name__, "message": self.message, "place": self.place,
            "expected": self.expected, "got": self.got, "hint": self.hint, "retry": self.retry, "fault": self.fault,
        }  # fmt: skip


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint that lists the nearest known names, or all of them when there are few."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3)
    if near:
        return "did you mean " + " or ".join(f"`{n}`" for n in near) + "?"
    if not names:
        return "there are none yet"
    return "known: " + ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")


# -- 1: definitions -------------------------------------------------------------------------------------------------
class DefinitionError(PenstockError, ValueError):
    """An asset is declared in a way that cannot work."""

    code, fault = "E1001", "user"


class NameRefused(DefinitionError):
    """A name is not a plain identifier."""

    code = "E1002"


class UnknownName(PenstockError, LookupError):
    """A name refers to nothing in the project."""

    code, fault = "E1003", "user"


class CycleError(DefinitionError):
    """Assets need each other in a circle."""

    code = "E1004"


class ProjectNotLoaded(PenstockError, ImportError):
    """A module of the user's project cannot be imported."""

    code, fault = "E1005", "user"


class QueryError(PenstockError, ValueError):
    """The engine refuses a query: syntax, unknown column, types that do not fit."""

    code, fault = "E1006", "user"


# -- 2: input data --------------------------------------------------------------------------------------------------
class SourceError(PenstockError, OSError):
    """A source cannot be read: nothing matches, permission, wrong format, archive refused."""

    code, fault = "E2001", "input"


class SourceChanged(SourceError):
    """A file changed while it was read; nothing of it was taken."""

    code, retry = "E2002", True


class SchemaDrift(PenstockError, ValueError):
    """An input no longer has the columns or types that were recorded, and its drift policy forbids to go on."""

    code, fault = "E2003", "input"


class InputRefused(SourceError):
    """An input is hostile or beyond a limit: decompression ratio, line length, nesting."""

    code = "E2004"


class SourceUnreachable(SourceError):
    """A database or object store does not answer."""

    code, retry, fault = "E2005", True, "backend"


# -- 3: checks and ledger -------------------------------------------------------------------------------------------
class CheckFailed(PenstockError, ValueError):
    """A blocking check failed; readers stay on the old version."""

    code, fault = "E3001", "input"


class LedgerImbalance(PenstockError, ArithmeticError):
    """Rows in are not rows out + rejected + duplicate + filtered; nothing was published."""

    code, fault = "E3002", "user"


class GrainError(CheckFailed):
    """A declared key occurs more than once, most often because a join fans out."""

    code, fault = "E3003", "user"


# -- 4: storage -----------------------------------------------------------------------------------------------------
class StorageError(PenstockError, OSError):
    """A lake, state or log adapter failed."""

    code, fault = "E4001", "backend"


class CommitConflict(StorageError):
    """Certainly not committed: another writer changed the same files first. Read again and repeat the whole step."""

    code, retry = "E4002", True


class CommitUnknown(StorageError):
    """It is not known whether the commit landed. Look the token up; never delete, never repeat blindly."""

    code, retry = "E4003", True


class Fenced(StorageError):
    """A claim with a newer epoch exists: this worker was taken for dead and must stop."""

    code = "E4004"


class Busy(StorageError):
    """Another live process works on the same asset."""

    code, retry, fault = "E4005", True, "user"


class StorageFull(StorageError):
    """No space left on the device."""

    code, retry = "E4006", True


class Unsupported(PenstockError, NotImplementedError):
    """The chosen adapter cannot do this, and says so instead of emulating it."""

    code, fault = "E4007", "user"


class FileIdsWrong(StorageError):
    """A written Parquet file does not carry the table's field ids; committing it would move values between columns."""

    code, fault = "E4008", "penstock"


class VersionNotFound(StorageError, LookupError):
    """The asked version or moment is not (or no longer) readable."""

    code, fault = "E4009", "user"


class StateTooNew(StorageError):
    """The state was written by a newer Penstock."""

    code, fault = "E4010", "user"


# -- 5: running -----------------------------------------------------------------------------------------------------
class UserCodeError(PenstockError, RuntimeError):
    """A function of the project raised; its own traceback is the cause."""

    code, fault = "E5001", "user"


class RunFailed(PenstockError, RuntimeError):
    """At least one asset of a run failed; the others are as recorded."""

    code, fault = "E5002", "user"


class MemoryLimit(PenstockError, MemoryError):
    """The engine's memory limit was reached and spilling did not help."""

    code, fault = "E5003", "user"


# -- 6: models ------------------------------------------------------------------------------------------------------
class GateFailed(PenstockError, ValueError):
    """A model does not pass its gates; it is registered as refused and not used."""

    code, fault = "E6001", "user"


class ArtefactRefused(PenstockError, ValueError):
    """A model file cannot be stored or loaded as data only, or predicts differently after loading."""

    code, fault = "E6002", "user"


# -- 7: settings ----------------------------------------------------------------------------------------------------
class SettingsError(PenstockError, ValueError):
    """A setting is missing or cannot be understood."""

    code, fault = "E7001", "user"


class DriverMissing(PenstockError, ImportError):
    """A library needed by a chosen adapter or format is not installed."""

    code, fault = "E7002", "user"
