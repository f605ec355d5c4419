"""Every error Penstock raises: what, where, expected, got, what next, whose fault, and whether a retry can help.

One root. Each class has a stable code, is also the matching builtin, and carries its parts as attributes, so that a face
can print them as text or JSON without parsing a message.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
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
            "code": self.code,
            "kind": type(self).__name__,
            "message": self.message,
            "place": self.place,
            "expected": self.expected,
            "got": self.got,
            "hint": self.hint,
            "retry": self.retry,
            "fault": self.fault,
        }


class Elsewhere(Exception):
    """The cause of an error that another process raised: its text is that process's traceback."""


def from_record(record: Mapping[str, Any]) -> PenstockError:
    """An error that another process told by `as_record`, of the class it had; a `traceback` in it becomes the cause."""
    waiting, kinds = [PenstockError], {}
    while waiting:
        kind = waiting.pop()
        kinds[kind.__name__] = kind
        waiting += kind.__subclasses__()
    found = kinds.get(str(record.get("kind")), PenstockError)
    parts = {name: record.get(name, "") for name in ("place", "expected", "got", "hint")}
    error = found(str(record.get("message", "")), **parts)
    if record.get("traceback"):
        error.__cause__ = Elsewhere(str(record["traceback"]))
    return error


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

    code: ClassVar[str] = "E1001"
    fault: ClassVar[Fault] = "user"


class NameRefused(DefinitionError):
    """A name is not a plain identifier."""

    code: ClassVar[str] = "E1002"


class UnknownName(PenstockError, LookupError):
    """A name refers to nothing in the project."""

    code: ClassVar[str] = "E1003"
    fault: ClassVar[Fault] = "user"


class CycleError(DefinitionError):
    """Assets need each other in a circle."""

    code: ClassVar[str] = "E1004"


class ProjectNotLoaded(PenstockError, ImportError):
    """A module of the user's project cannot be imported."""

    code: ClassVar[str] = "E1005"
    fault: ClassVar[Fault] = "user"


class QueryError(PenstockError, ValueError):
    """The engine refuses a query: syntax, unknown column, types that do not fit."""

    code: ClassVar[str] = "E1006"
    fault: ClassVar[Fault] = "user"


# -- 2: input data --------------------------------------------------------------------------------------------------
class SourceError(PenstockError, OSError):
    """A source cannot be read: nothing matches, permission, wrong format, archive refused."""

    code: ClassVar[str] = "E2001"
    fault: ClassVar[Fault] = "input"


class SourceChanged(SourceError):
    """A file changed while it was read; nothing of it was taken."""

    code: ClassVar[str] = "E2002"
    retry: ClassVar[bool] = True


class SchemaDrift(PenstockError, ValueError):
    """An input no longer has the columns or types that were recorded, and its drift policy forbids to go on."""

    code: ClassVar[str] = "E2003"
    fault: ClassVar[Fault] = "input"


class InputRefused(SourceError):
    """An input is hostile or beyond a limit: decompression ratio, line length, nesting."""

    code: ClassVar[str] = "E2004"


class SourceUnreachable(SourceError):
    """A database or object store does not answer."""

    code: ClassVar[str] = "E2005"
    retry: ClassVar[bool] = True
    fault: ClassVar[Fault] = "backend"


# -- 3: checks and ledger -------------------------------------------------------------------------------------------
class CheckFailed(PenstockError, ValueError):
    """A blocking check failed; readers stay on the old version."""

    code: ClassVar[str] = "E3001"
    fault: ClassVar[Fault] = "input"


class LedgerImbalance(PenstockError, ArithmeticError):
    """Rows in are not rows out + rejected + duplicate + filtered; nothing was published."""

    code: ClassVar[str] = "E3002"
    fault: ClassVar[Fault] = "user"


class GrainError(CheckFailed):
    """A declared key occurs more than once, most often because a join fans out."""

    code: ClassVar[str] = "E3003"
    fault: ClassVar[Fault] = "user"


# -- 4: storage -----------------------------------------------------------------------------------------------------
class StorageError(PenstockError, OSError):
    """A lake, state or log adapter failed."""

    code: ClassVar[str] = "E4001"
    fault: ClassVar[Fault] = "backend"


class CommitConflict(StorageError):
    """Certainly not committed: another writer changed the same files first. Read again and repeat the whole step."""

    code: ClassVar[str] = "E4002"
    retry: ClassVar[bool] = True


class CommitUnknown(StorageError):
    """It is not known whether the commit landed. Look the token up; never delete, never repeat blindly."""

    code: ClassVar[str] = "E4003"
    retry: ClassVar[bool] = True


class Fenced(StorageError):
    """A claim with a newer epoch exists: this worker was taken for dead and must stop."""

    code: ClassVar[str] = "E4004"


class Busy(StorageError):
    """Another live process works on the same asset.

    `holder` is the claim in the way (a `ports.state.Claim`), None if a lock and not a claim is.
    """

    code: ClassVar[str] = "E4005"
    retry: ClassVar[bool] = True
    fault: ClassVar[Fault] = "user"

    def __init__(self, message: str, *, holder: Any = None, **parts: Any) -> None:
        self.holder = holder
        super().__init__(message, **parts)


class StorageFull(StorageError):
    """No space left on the device."""

    code: ClassVar[str] = "E4006"
    retry: ClassVar[bool] = True


class Unsupported(PenstockError, NotImplementedError):
    """The chosen adapter cannot do this, and says so instead of emulating it."""

    code: ClassVar[str] = "E4007"
    fault: ClassVar[Fault] = "user"


class FileIdsWrong(StorageError):
    """A written Parquet file does not carry the table's field ids; committing it would move values between columns."""

    code: ClassVar[str] = "E4008"
    fault: ClassVar[Fault] = "penstock"


class VersionNotFound(StorageError, LookupError):
    """The asked version or moment is not (or no longer) readable."""

    code: ClassVar[str] = "E4009"
    fault: ClassVar[Fault] = "user"


class StateTooNew(StorageError):
    """The state was written by a newer Penstock."""

    code: ClassVar[str] = "E4010"
    fault: ClassVar[Fault] = "user"


class StateUnreachable(StorageError):
    """The database of the state does not answer, or broke off before it committed: nothing was written."""

    code: ClassVar[str] = "E4011"
    retry: ClassVar[bool] = True


# -- 5: running -----------------------------------------------------------------------------------------------------
class UserCodeError(PenstockError, RuntimeError):
    """A function of the project raised; its own traceback is the cause."""

    code: ClassVar[str] = "E5001"
    fault: ClassVar[Fault] = "user"


class RunFailed(PenstockError, RuntimeError):
    """At least one asset of a run failed; the others are as recorded."""

    code: ClassVar[str] = "E5002"
    fault: ClassVar[Fault] = "user"


class MemoryLimit(PenstockError, MemoryError):
    """A memory limit was reached: the engine's, and spilling did not help, or that of a job's process."""

    code: ClassVar[str] = "E5003"
    fault: ClassVar[Fault] = "user"


class TimeLimit(PenstockError, TimeoutError):
    """A job's process was ended because its time was over."""

    code: ClassVar[str] = "E5004"
    fault: ClassVar[Fault] = "user"


class JobCrashed(PenstockError, RuntimeError):
    """A job's process is gone without an answer: it was killed, crashed in native code, or left by `os._exit`."""

    code: ClassVar[str] = "E5005"
    retry: ClassVar[bool] = True
    fault: ClassVar[Fault] = "user"


class JobCancelled(PenstockError, RuntimeError):
    """A job was cancelled while it ran, or before; or a job that it comes after was lost."""

    code: ClassVar[str] = "E5006"
    fault: ClassVar[Fault] = "user"


class CodeChanged(PenstockError, RuntimeError):
    """The project's code is not the one that the work was planned with."""

    code: ClassVar[str] = "E5007"
    retry: ClassVar[bool] = True
    fault: ClassVar[Fault] = "user"


class DuplicateJob(PenstockError, ValueError):
    """A job with the same dedupe text has not ended yet."""

    code: ClassVar[str] = "E5008"
    retry: ClassVar[bool] = True
    fault: ClassVar[Fault] = "user"


class WorkerVanished(PenstockError, RuntimeError):
    """The worker of a job did not renew its lease: it was killed, its machine went away, or it hung."""

    code: ClassVar[str] = "E5009"
    retry: ClassVar[bool] = True
    fault: ClassVar[Fault] = "backend"


class TokenRefused(PenstockError, PermissionError):
    """Somebody asked for something without the secret token that it needs."""

    code: ClassVar[str] = "E5010"
    fault: ClassVar[Fault] = "user"


class TooMuchWaits(PenstockError, RuntimeError):
    """So many jobs wait already that no more are taken from outside."""

    code: ClassVar[str] = "E5011"
    retry: ClassVar[bool] = True
    fault: ClassVar[Fault] = "user"


class RequestRefused(PenstockError, ValueError):
    """What came over HTTP is too long, of another type, or no JSON of the form that is asked for."""

    code: ClassVar[str] = "E5012"
    fault: ClassVar[Fault] = "user"


# -- 6: models ------------------------------------------------------------------------------------------------------
class GateFailed(PenstockError, ValueError):
    """A model does not pass its gates; it is registered as refused and not used."""

    code: ClassVar[str] = "E6001"
    fault: ClassVar[Fault] = "user"


class ArtefactRefused(PenstockError, ValueError):
    """A model file cannot be stored or loaded as data only, or predicts differently after loading."""

    code: ClassVar[str] = "E6002"
    fault: ClassVar[Fault] = "user"


class SignatureRefused(PenstockError, ValueError):
    """A model or a record is not signed by a key that is trusted here, or is signed as another one; or a key is not kept safe."""

    code: ClassVar[str] = "E6003"
    fault: ClassVar[Fault] = "user"


class TrackerError(PenstockError, OSError):
    """A tracker refuses what it is told, has not what it is asked for, or is no tracker."""

    code: ClassVar[str] = "E6004"
    fault: ClassVar[Fault] = "backend"


class TrackerUnreachable(TrackerError):
    """A tracker does not answer. What it is owed is told at a later run."""

    code: ClassVar[str] = "E6005"
    retry: ClassVar[bool] = True


# -- 7: settings ----------------------------------------------------------------------------------------------------
class SettingsError(PenstockError, ValueError):
    """A setting is missing or cannot be understood."""

    code: ClassVar[str] = "E7001"
    fault: ClassVar[Fault] = "user"


class DriverMissing(PenstockError, ImportError):
    """A library needed by a chosen adapter or format is not installed."""

    code: ClassVar[str] = "E7002"
    fault: ClassVar[Fault] = "user"
