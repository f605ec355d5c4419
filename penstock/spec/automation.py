"""Conditions and automations: when something runs by itself. Frozen values, combined with `&`, `|`, `~` and `.since`.

Happenings (`cron`, `every`, `arrived`, `updated`, `failed`, `event`) hold from the moment they happen until the automation fires with
them. States (`fresh`) hold while they are so. An automation fires when its condition holds through something it has not fired with
before; `craft/schedule` says that exactly.

Another kind of condition is a frozen dataclass that inherits from `Condition` and has a `kind`; a function registered with
`craft.schedule.conditions.look` tells whether it holds.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, get_args, overload

from penstock.ground.errors import DefinitionError, did_you_mean
from penstock.ground.names import asset_name
from penstock.spec.checks import Check
from penstock.spec.checks import fresh as fresh_check
from penstock.spec.spans import span

CatchUp = Literal["last", "all", "none"]
#: Where a module keeps the automations that were declared in it without a variable.
DECLARED = "__automations__"


class Condition:
    """Says when. Combine with `&` (both), `|` (either), `~` (not) and `a.since(b)` (a has happened after b last did)."""

    kind: ClassVar[str] = ""
    kinds: ClassVar[dict[str, type[Condition]]] = {}

    def __init_subclass__(cls) -> None:
        if cls.kind:
            Condition.kinds[cls.kind] = cls

    def __and__(self, other: Condition) -> Condition:
        return AllOf((*_flat(AllOf, self), *_flat(AllOf, _condition(other))))

    def __or__(self, other: Condition) -> Condition:
        return AnyOf((*_flat(AnyOf, self), *_flat(AnyOf, _condition(other))))

    def __invert__(self) -> Condition:
        return self.of if isinstance(self, Not) else Not(self)

    def since(self, reset: Condition) -> Condition:
        """Holds from the moment this one comes to hold until `reset` does; both at one moment count as the reset."""
        return Since(self, _condition(reset))

    def __bool__(self) -> bool:
        raise DefinitionError("a condition is neither true nor false when it is declared", place=str(self), hint="use &, | and ~")


# -- combinations ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class AllOf(Condition):
    """Every part holds."""

    kind = "all"
    of: tuple[Condition, ...]

    def __str__(self) -> str:
        return " & ".join(_bracketed(c, AnyOf) for c in self.of)


@dataclass(frozen=True)
class AnyOf(Condition):
    """At least one part holds."""

    kind = "any"
    of: tuple[Condition, ...]

    def __str__(self) -> str:
        return " | ".join(_bracketed(c, AllOf) for c in self.of)


@dataclass(frozen=True)
class Not(Condition):
    """The part does not hold."""

    kind = "not"
    of: Condition

    def __str__(self) -> str:
        return f"~{_bracketed(self.of, AllOf, AnyOf)}"


@dataclass(frozen=True)
class Since(Condition):
    """`of` has come to hold after `reset` last did."""

    kind = "since"
    of: Condition
    reset: Condition

    def __str__(self) -> str:
        return f"{_bracketed(self.of, AllOf, AnyOf, Not)}.since({self.reset})"


def _flat(kind: type[AllOf] | type[AnyOf], condition: Condition) -> tuple[Condition, ...]:
    return condition.of if isinstance(condition, kind) else (condition,)


def _bracketed(condition: Condition, *loose: type[Condition]) -> str:
    return f"({condition})" if isinstance(condition, loose) else str(condition)


def _condition(value: Any) -> Condition:
    if not isinstance(value, Condition):
        raise DefinitionError("not a condition", expected='ps.cron("0 5 * * *") or another condition', got=repr(value)[:60])
    return value


# -- happenings and states ------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Cron(Condition):
    """The times of a cron line in a time zone.

    Attributes:
        text: minute, hour, day of month, month, day of week; `craft.schedule.cron` says what daylight saving does to them.
        catch_up: what becomes of times that passed while no scheduler ran: `last` fires once for the newest, `all` once for each,
            `none` not at all.
    """

    kind = "cron"
    text: str
    tz: str = "UTC"
    catch_up: CatchUp = "last"

    def __str__(self) -> str:
        return f"cron({self.text})" if self.tz == "UTC" else f"cron({self.text} {self.tz})"


@dataclass(frozen=True)
class Every(Condition):
    """Whole multiples of a span since 1970 in UTC: `10m` is at :00, :10, :20, whenever the scheduler was started."""

    kind = "every"
    span: str

    def __str__(self) -> str:
        return f"every({self.span})"


@dataclass(frozen=True)
class Fresh(Condition):
    """A state: the asset has a version, made of the newest versions of all it needs, and so are those; no file waits to be loaded."""

    kind = "fresh"
    asset: Any

    def __str__(self) -> str:
        return f"fresh({_named(self.asset)})"


@dataclass(frozen=True)
class Arrived(Condition):
    """Files came, or came changed, to where a source looks, and are whole.

    A file is whole if its size and time stay the same from one look to the next; with a `marker` such as `.done`, if there is a file of
    its name with that behind it. (Names that begin with a dot or end in `.tmp` or `.part` are not looked at: renaming is best.)
    """

    kind = "arrived"
    source: Any
    marker: str = ""

    def __str__(self) -> str:
        return f"arrived({_named(self.source)}{f', {self.marker}' if self.marker else ''})"


@dataclass(frozen=True)
class Updated(Condition):
    """An asset has a new version."""

    kind = "updated"
    asset: Any

    def __str__(self) -> str:
        return f"updated({_named(self.asset)})"


@dataclass(frozen=True)
class Failed(Condition):
    """An asset, job or flow failed for good: its attempts are used up."""

    kind = "failed"
    what: Any

    def __str__(self) -> str:
        return f"failed({_named(self.what)})"


@dataclass(frozen=True)
class OnEvent(Condition):
    """Somebody raised an event of this name; each fires by itself, oldest first, and hands its JSON to the target."""

    kind = "event"
    name: str

    def __str__(self) -> str:
        return f"event({self.name})"


def cron(text: str, *, tz: str = "UTC", catch_up: CatchUp = "last") -> Cron:
    """The times of a cron line (`minute hour day month weekday`) in a time zone; see `Cron`.

    Raises: DefinitionError(E1001) for an unknown zone, or a text that is no cron line.
    """
    parts = text.split()
    place = f"cron({text[:40]!r})"
    expected = "five fields: minute hour day month weekday"
    if len(parts) != 5:
        raise DefinitionError("not a cron line", place=place, expected=expected, got=f"{len(parts)} fields")
    if bad := [p for p in parts if not re.fullmatch(r"[0-9A-Za-z*/,#-]{1,200}", p)]:
        raise DefinitionError("not a cron line", place=place, expected=expected, got=bad[0][:40])
    if catch_up not in get_args(CatchUp):
        raise DefinitionError("no such way to catch up", place=place, expected=", ".join(get_args(CatchUp)), got=catch_up)
    zone_exists(tz)
    return Cron(" ".join(parts), tz, catch_up)


def zone_exists(tz: str) -> None:
    """Raises: DefinitionError(E1001) with the nearest names if a time zone is unknown."""
    from zoneinfo import ZoneInfo, available_timezones

    try:
        ZoneInfo(tz)
    except (OSError, ValueError) as error:  # ZoneInfoNotFoundError is a KeyError, caught below
        raise DefinitionError("unknown time zone", place=f"tz={tz[:40]!r}", got=tz[:40], hint="a name such as Europe/Vienna") from error
    except KeyError as error:
        near = did_you_mean(tz[:40], available_timezones())
        raise DefinitionError("unknown time zone", place=f"tz={tz[:40]!r}", got=tz[:40], hint=near) from error


def every(text: str) -> Every:
    """Whole multiples of a span such as `10m` or `6h`; see `Every`. Raises: DefinitionError(E1001) below one second."""
    if span(text).total_seconds() < 1:
        raise DefinitionError("too often", place=f"every({text[:40]!r})", expected="1s or more", got=text[:40])
    return Every(text.strip())


@overload
def fresh(column: str, within: str) -> Check: ...
@overload
def fresh(column: Any) -> Fresh: ...
def fresh(column: Any, within: str | None = None) -> Check | Fresh:
    """As a check, `fresh("time", "2d")`: the newest value is no older than a span. As a condition, `fresh(departures)`: the asset is
    made of the newest versions of all it needs."""
    if within is not None:
        return fresh_check(column, within)
    if isinstance(column, str):
        raise DefinitionError(
            "a check of a column needs a span", place=f"fresh({column[:40]!r})", hint='fresh("time", "2d"), or fresh(asset) with the asset'
        )
    return Fresh(column)


def arrived(source: Any, *, marker: str = "") -> Arrived:
    """Files came to a source's folder and are whole; see `Arrived`. Raises: DefinitionError(E1001) for a marker that is no ending."""
    if marker and not re.fullmatch(r"[.~_-][\w.~-]{0,30}", marker):
        raise DefinitionError("not an ending of a file's name", place="arrived(marker=...)", expected=".done", got=repr(marker)[:40])
    return Arrived(source, marker)


def updated(asset: Any) -> Updated:
    """An asset has a new version."""
    return Updated(asset)


def failed(what: Any) -> Failed:
    """An asset, job or flow failed for good."""
    return Failed(what)


def event(name: str) -> OnEvent:
    """Somebody raised an event of this name, by HTTP or command. Raises: NameRefused(E1002)."""
    return OnEvent(asset_name(name))


# -- automations ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Automation:
    """What runs when. `target` is an asset, a job or a flow (its name once the project is loaded); `params` are given to a job or flow."""

    target: Any
    when: Condition
    name: str = ""
    params: tuple[tuple[str, Any], ...] = ()


def automate(target: Any, *, when: Condition, name: str = "", params: Mapping[str, Any] | None = None) -> Automation:
    """Runs an asset, job or flow whenever a condition fires. Its name is `name`, or the variable's, or the target's.

    Needs no variable: the module in which it is called remembers it.

    Raises: DefinitionError(E1001) if `when` is no condition; NameRefused(E1002).
    """
    made = Automation(target, _condition(when), asset_name(name) if name else "", tuple(sorted((params or {}).items())))
    sys._getframe(1).f_globals.setdefault(DECLARED, []).append(made)
    return made


def leaves(condition: Condition) -> Iterator[Condition]:
    """The conditions of a tree that are no combinations, in order."""
    inner = [v for f in fields(condition) for v in _parts(getattr(condition, f.name))]  # type: ignore[arg-type]
    for part in inner:
        yield from leaves(part)
    if not inner:
        yield condition


def _parts(value: Any) -> tuple[Condition, ...]:
    values = value if isinstance(value, tuple) else (value,)
    return tuple(v for v in values if isinstance(v, Condition))


def named(condition: Condition, name_of: Callable[[Any], str]) -> Condition:
    """The same condition with references to assets, jobs and flows replaced by their names."""
    changed: dict[str, Any] = {}
    for field in fields(condition):  # type: ignore[arg-type]
        value = getattr(condition, field.name)
        if isinstance(value, Condition):
            changed[field.name] = named(value, name_of)
        elif isinstance(value, tuple) and all(isinstance(v, Condition) for v in value):
            changed[field.name] = tuple(named(v, name_of) for v in value)
        elif not isinstance(value, str | int | float | None):
            changed[field.name] = name_of(value)
    return replace(condition, **changed)  # type: ignore[type-var]


def as_json(condition: Condition) -> dict[str, Any]:
    """A condition with names as JSON-ready data: its kind under `is`, and its fields. Raises: DefinitionError(E1001)."""
    made: dict[str, Any] = {"is": condition.kind}
    for field in fields(condition):  # type: ignore[arg-type]
        value = getattr(condition, field.name)
        if isinstance(value, Condition):
            made[field.name] = as_json(value)
        elif isinstance(value, tuple) and all(isinstance(v, Condition) for v in value):
            made[field.name] = [as_json(v) for v in value]
        elif isinstance(value, str | int | float | None):
            made[field.name] = value
        else:
            raise DefinitionError("refers to a value, not to a name", place=str(condition)[:80], got=repr(value)[:60])
    return made


def from_json(data: Any) -> Condition:
    """Reads what `as_json` wrote. Raises: DefinitionError(E1001) for an unknown kind, or fields that do not fit."""
    kind = data.get("is") if isinstance(data, Mapping) else None
    if not isinstance(kind, str) or kind not in Condition.kinds:
        raise DefinitionError("not a condition", expected="one of " + ", ".join(sorted(Condition.kinds)), got=repr(kind)[:40])
    values = {key: _read(value) for key, value in data.items() if key != "is"}
    try:
        return Condition.kinds[kind](**values)
    except TypeError as error:
        raise DefinitionError("not a condition of this kind", place=kind, got=str(error)[:120]) from error


def _read(value: Any) -> Any:
    if isinstance(value, Mapping):
        return from_json(value)
    return tuple(from_json(v) for v in value) if isinstance(value, list) else value


def _named(value: Any) -> str:
    return value if isinstance(value, str) else getattr(value, "name", "") or "..."
