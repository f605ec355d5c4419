"""Holding a condition against facts: whether an automation fires, why, and what to remember until the next look.

Each look at a leaf gives a *sight*: whether it holds, a *token* that names what makes it hold or not (a tick's moment, a version, an
event), and how far it has looked. What is remembered between looks is JSON: a mark for each leaf, and the tokens of the last firing.

    A happening holds from its first token after its mark until the automation fires with it; only then does its mark move on.
    A state holds while it is so. Under `~` the state's token still counts, so that `~fresh(x)` fires again when x gets stale anew.
    An automation fires when its condition holds and a token that makes it hold was not among those of its last firing.
    Firing uses up the happenings that made the condition hold, and no others: in `(cron & fresh) | event` an event leaves the tick.
    `a.since(b)` is a switch: a new token of a (while a holds) turns it on, one of b turns it off; the later one wins, b if equal,
        in whatever order they are seen.
    At the first look happenings of the past do not count, but files that were never loaded have arrived, and a state may fire.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache, singledispatch
from typing import Any

from penstock.craft.schedule.cron import following, newest
from penstock.ground.clock import from_iso, iso
from penstock.ground.digest import digest
from penstock.ground.errors import DefinitionError
from penstock.spec.automation import AllOf, AnyOf, Arrived, Condition, Cron, Every, Failed, Fresh, Not, OnEvent, Since, Updated, as_json
from penstock.spec.spans import span

#: A tick of a line that does not catch up still counts when it is seen so late: longer than a takeover by another scheduler takes.
GRACE = timedelta(seconds=90)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRED = "fired"


# -- facts ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Version:
    """The newest version of an asset. `stale` says why it is not fresh, "" if it is; `token` changes with all it stands on."""

    version: str
    at: datetime
    stale: str = ""
    token: str = ""


@dataclass(frozen=True)
class Happened:
    """Something that happened: `number` grows with time for one name; `data` is JSON handed to what fires."""

    number: int
    at: datetime
    text: str = ""
    data: Any = None


@dataclass(frozen=True)
class Facts:
    """What is so now.

    Attributes:
        versions: asset -> its newest version; assets never made are missing.
        arrivals: `watch_name` of a source -> its newest arrival of files.
        failures: asset, job or flow -> its newest failure.
        events: name -> events, oldest first; those before the oldest unused one may be left out.
        more: facts for conditions of other kinds, by kind.
    """

    now: datetime
    versions: Mapping[str, Version] = field(default_factory=dict)
    arrivals: Mapping[str, Happened] = field(default_factory=dict)
    failures: Mapping[str, Happened] = field(default_factory=dict)
    events: Mapping[str, Sequence[Happened]] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)


def watch_name(source: str, marker: str = "") -> str:
    """What a source's files are looked at as; the same source may be looked at with and without a marker."""
    return f"{source}|{marker}" if marker else source


@dataclass(frozen=True)
class Sight:
    """What a look at a leaf gives.

    Attributes:
        holds: whether it holds now. `token`: what makes it hold, or not; "" for nothing that could make an automation fire.
        why: one clause for people. `at`: when it came to be so.
        mark: what to remember if nothing fires; `spent`: what to remember once this was used.
        data: JSON handed to the target.
        state: whether its token counts under `~` too.
    """

    holds: bool
    why: str
    token: str = ""
    at: datetime | None = None
    mark: Any = None
    spent: Any = None
    data: Any = None
    state: bool = False


@singledispatch
def look(condition: Condition, facts: Facts, mark: Any) -> Sight:
    """Looks at a leaf. `mark` is what was remembered, None at the first look. Other kinds register theirs: `look.register`.

    Raises: DefinitionError(E1001) for a kind that nobody registered.
    """
    raise DefinitionError("nothing tells when this condition holds", place=str(condition)[:80], got=condition.kind)


@look.register
def _(condition: Cron, facts: Facts, mark: Any) -> Sight:
    since = from_iso(mark) if mark else facts.now
    tick = _first(condition.text, condition.tz, since)
    if tick is None or tick > facts.now:
        tick = None
    elif condition.catch_up != "all":
        late = facts.now - GRACE if condition.catch_up == "none" else since
        tick = newest(condition.text, condition.tz, max(since, late), facts.now)
    return _ticked(f"{condition} ticked at", f"{condition} has not ticked since", tick, since, str(condition))


@look.register
def _(condition: Every, facts: Facts, mark: Any) -> Sight:
    since = from_iso(mark) if mark else facts.now
    length = span(condition.span)
    tick = facts.now - (facts.now - _EPOCH) % length
    return _ticked(
        f"{condition} came round at", f"{condition} has not come round since", tick if tick > since else None, since, str(condition)
    )


@lru_cache(maxsize=4096)
def _first(text: str, tz: str, since: datetime) -> datetime | None:
    """The first tick after a mark, which stays the same until something fires: an idle look costs nothing."""
    return following(text, tz, since)


def _ticked(yes: str, no: str, tick: datetime | None, since: datetime, name: str) -> Sight:
    mark = iso(since)
    if tick is None:
        return Sight(False, f"{no} {_short(since)}", mark=mark, spent=mark)
    return Sight(True, f"{yes} {_short(tick)}", f"{name}@{iso(tick)}", tick, mark, iso(tick), {"tick": iso(tick)})


@look.register
def _(condition: Fresh, facts: Facts, mark: Any) -> Sight:
    name = condition.asset
    found = facts.versions.get(name)
    if found is None:
        return Sight(False, f"{name} was never made", f"{name}@never", state=True)
    token = f"{name}@{found.version}/{found.token}" + ("/stale" if found.stale else "")
    if found.stale:
        return Sight(False, f"{name} is not fresh: {found.stale}", token, found.at, state=True)
    return Sight(
        True, f"{name} is fresh since {_short(found.at)}", token, found.at, data={"asset": name, "version": found.version}, state=True
    )


@look.register
def _(condition: Updated, facts: Facts, mark: Any) -> Sight:
    name = condition.asset
    found = facts.versions.get(name)
    now = found.version if found else ""
    was = now if mark is None else mark
    if found is None or now == was:
        return Sight(False, f"{name} has no new version", mark=was, spent=was)
    data = {"asset": name, "version": now}
    return Sight(True, f"{name} got a new version at {_short(found.at)}", f"{name}@{now}", found.at, was, now, data)


@look.register
def _(condition: Arrived, facts: Facts, mark: Any) -> Sight:
    found = facts.arrivals.get(watch_name(condition.source, condition.marker))
    return _newer(condition.source, found, 0 if mark is None else mark, "files came to", "no files came to")


@look.register
def _(condition: Failed, facts: Facts, mark: Any) -> Sight:
    found = facts.failures.get(condition.what)
    number = found.number if found else 0
    return _newer(condition.what, found, number if mark is None else mark, "something failed:", "nothing failed:")


def _newer(name: str, found: Happened | None, mark: int, yes: str, no: str) -> Sight:
    if found is None or found.number <= mark:
        return Sight(False, f"{no} {name}", mark=mark, spent=mark)
    text = f"{yes} {name} at {_short(found.at)}" + (f" ({found.text})" if found.text else "")
    return Sight(True, text, f"{name}@{found.number}", found.at, mark, found.number, found.data)


@look.register
def _(condition: OnEvent, facts: Facts, mark: Any) -> Sight:
    events = facts.events.get(condition.name, ())
    if mark is None:
        mark = events[-1].number if events else 0
    found = next((e for e in events if e.number > mark), None)
    if found is None:
        return Sight(False, f"no event {condition.name} waits", mark=mark, spent=mark)
    text = f"event {condition.name} was raised at {_short(found.at)}"
    return Sight(True, text, f"{condition.name}@{found.number}", found.at, mark, found.number, found.data)


# -- the whole tree -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Why:
    """One condition of the tree: whether it holds, why in words, and the same of its parts."""

    condition: str
    holds: bool
    text: str
    parts: tuple[Why, ...] = ()

    def as_json(self) -> dict[str, Any]:
        made = {"condition": self.condition, "holds": self.holds, "why": self.text}
        return {**made, "parts": [part.as_json() for part in self.parts]} if self.parts else made

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Fired:
    """What a look at an automation gives.

    Attributes:
        yes: whether it fires. `why`: the tree of reasons.
        remembered: JSON for the next look; to be kept whether it fires or not.
        cause: tokens that make it fire, sorted; the same cause is the same firing.
        data: what the happenings hand to the target: the one thing if it is one, else a list.
        at: when the newest of what makes it fire came to be so; now if that cannot be told.
    """

    yes: bool
    why: Why
    remembered: Mapping[str, Any]
    cause: tuple[str, ...] = ()
    data: Any = None
    at: datetime | None = None


@dataclass(frozen=True)
class _Seen:
    """A node looked at. `live`: tokens that make it hold; `standing`: tokens of all states beneath, whether they hold or not."""

    holds: bool
    why: Why
    live: tuple[str, ...] = ()
    standing: tuple[str, ...] = ()
    at: datetime | None = None
    marks: Mapping[str, Any] = field(default_factory=dict)
    spent: Mapping[str, Any] = field(default_factory=dict)
    data: tuple[Any, ...] = ()


def evaluate(condition: Condition, facts: Facts, remembered: Mapping[str, Any]) -> Fired:
    """Whether an automation fires now. `remembered` is what the last look at it gave, {} at the first.

    What is remembered of another condition (the automation was changed) counts as nothing.
    Raises: DefinitionError(E1001) for a kind that nobody registered.
    """
    definition = _definition(condition)
    old = remembered if remembered.get("of") == definition else {}
    seen = _look(condition, facts, old.get("marks", {}), "0")
    before = old.get(_FIRED, [])
    new = [token for token in seen.live if token not in before]
    yes = seen.holds and bool(new)
    why = (
        seen.why if yes or not seen.holds else Why(seen.why.condition, True, f"{seen.why.text}, and it has fired for that", seen.why.parts)
    )
    marks = {**seen.marks, **seen.spent} if yes else dict(seen.marks)
    made = {"of": definition, "marks": marks, _FIRED: sorted(seen.live) if yes else list(before)}
    if not yes:
        return Fired(False, why, made)
    return Fired(True, why, made, tuple(sorted(seen.live)), _handed(seen.data), seen.at or facts.now)


@lru_cache(maxsize=4096)
def _definition(condition: Condition) -> str:
    return digest(as_json(condition))


def _handed(data: tuple[Any, ...]) -> Any:
    known = [d for d in data if d is not None]
    return known[0] if len(known) == 1 else (known or None)


def _look(condition: Condition, facts: Facts, marks: Mapping[str, Any], path: str) -> _Seen:
    if isinstance(condition, AllOf | AnyOf):
        return _several(condition, [_look(c, facts, marks, f"{path}.{i}") for i, c in enumerate(condition.of)])
    if isinstance(condition, Not):
        inner = _look(condition.of, facts, marks, f"{path}.0")
        text = (
            inner.why.text if inner.why.parts == () else f"{'it is not so that' if not inner.holds else 'it is so that'} {inner.why.text}"
        )
        why = Why(str(condition), not inner.holds, text, (inner.why,))
        return _Seen(not inner.holds, why, inner.standing, inner.standing, None, inner.marks)
    if isinstance(condition, Since):
        return _since(condition, facts, marks, path)
    sight = look(condition, facts, marks.get(path))
    why = Why(str(condition), sight.holds, sight.why)
    token = (sight.token,) if sight.token else ()
    return _Seen(
        sight.holds, why, token if sight.holds else (), token if sight.state else (), sight.at, _kept(path, sight.mark),
        _kept(path, sight.spent) if sight.holds else {}, (sight.data,) if sight.holds else (),
    )  # fmt: skip


def _kept(path: str, mark: Any) -> dict[str, Any]:
    return {} if mark is None else {path: mark}


def _several(condition: AllOf | AnyOf, parts: list[_Seen]) -> _Seen:
    both = isinstance(condition, AllOf)
    holds = all(p.holds for p in parts) if both else any(p.holds for p in parts)
    told = [p for p in parts if p.holds == holds]  # what decided it
    why = Why(str(condition), holds, (" and " if both == holds else ", ").join(p.why.text for p in told), tuple(p.why for p in parts))
    live = [p for p in parts if p.holds] if holds else []
    at = [p.at for p in live if p.at is not None]
    return _Seen(
        holds, why, tuple(t for p in live for t in p.live), tuple(t for p in parts for t in p.standing), max(at) if at else None,
        {k: v for p in parts for k, v in p.marks.items()}, {k: v for p in live for k, v in p.spent.items()},
        tuple(d for p in live for d in p.data),
    )  # fmt: skip


def _since(condition: Since, facts: Facts, marks: Mapping[str, Any], path: str) -> _Seen:
    """Both legs use up their happenings when they turn the switch, so that each turns it once."""
    on, off = (_look(c, facts, marks, f"{path}.{i}") for i, c in enumerate((condition.of, condition.reset)))
    was = marks.get(path, {"on": [], "off": [], "live": [], "at": None, "data": []})
    last = from_iso(was["at"]) if was["at"] else None
    on_at, off_at = on.at or facts.now, off.at or facts.now
    turned_on = on.holds and bool(set(on.live) - set(was["on"])) and (last is None or on_at > last)
    turned_off = off.holds and bool(set(off.live) - set(was["off"])) and (last is None or off_at >= last)
    if turned_on and turned_off:
        turned_on = on_at > off_at
    live, at, data = list(was["live"]), was["at"], list(was["data"])
    if turned_on:
        live, at, data = sorted(on.live), iso(on_at), list(on.data)
    elif turned_off:
        live, at, data = [], iso(off_at), []
    now = {
        "on": sorted(on.live) if on.holds else was["on"], "off": sorted(off.live) if off.holds else was["off"],
        "live": live, "at": at, "data": data,
    }  # fmt: skip
    kept = {**on.marks, **off.marks, **on.spent, **off.spent, path: now}
    holds = bool(live)
    if holds:
        text = f"{condition.of} holds since {at[:16]}Z, and {condition.reset} does not since then"
    else:
        text = f"{condition.of} has not come to hold since {condition.reset} did" if at else f"{condition.of} has not come to hold"
    why = Why(str(condition), holds, text, (on.why, off.why))
    standing = (*on.standing, *off.standing)
    return _Seen(holds, why, tuple(live), standing, from_iso(at) if at else None, kept, {}, tuple(data))


def _short(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%MZ")
