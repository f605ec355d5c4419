"""What a flow does next: a pure function of the flow, what it was started with, and its journal so far.

A flow has no state of its own. Going through it from the start with the journal at hand gives either its output or the steps that are
missing, so any process can take a flow on from anywhere. Steps of different arms side by side go on by themselves; items of an `each`
go step by step together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from penstock.ground.digest import digest
from penstock.ground.errors import UserCodeError
from penstock.spec.jobs import Branch, Each, Flow, Job, Make

Kind = Literal["job", "asset", "branch"]


@dataclass(frozen=True)
class Journal:
    """Finished steps of a run.

    Attributes:
        finished: (step, digest of what it was given) -> its output.
        pinned: step -> its output, whatever it is given: taken over from the run that this one was forked from.
    """

    finished: Mapping[tuple[str, str], Any] = field(default_factory=dict)
    pinned: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """A step that is missing.

    Attributes:
        step: its name, with positions of items: `each_load[3]/load`.
        given, params: what it gets. `digest` is that of both: the same step with the same digest is the same work.
        do: its record. `arm`: works of the same arm are waited for together.
        key, at_once: how many of these may run at a time, 0 for any number; the key is "" where the job's own counts.
    """

    step: str
    kind: Kind
    given: Any
    params: Mapping[str, Any]
    digest: str
    do: Job | Make | Branch
    arm: str = ""
    key: str = ""
    at_once: int = 0


@dataclass(frozen=True)
class Next:
    """What comes next: works that are missing, or, if there are none, the flow's output."""

    works: tuple[Work, ...] = ()
    output: Any = None

    @property
    def done(self) -> bool:
        return not self.works


@dataclass(frozen=True)
class _Place:
    """Where a walk through a flow is: what stands in front of names, the arm, and the limit of an `each` around it."""

    before: str = ""
    arm: str = ""
    key: str = ""
    at_once: int = 0


def input_digest(given: Any, params: Mapping[str, Any]) -> str:
    """A digest of what a step gets."""
    return digest([given, dict(params)])


def following(flow: Flow, given: Any, params: Mapping[str, Any], journal: Journal) -> Next:
    """What a resolved flow does next.

    Cost:   one look at the journal for each step and item up to where it stands.
    Raises: UserCodeError(E5001) if a branch chose a case that is not there, or an `each` finds no list.
    """
    return _sequence(flow.steps, given, {**dict(flow.params), **params}, journal, _Place())


def _sequence(steps: Sequence[Any], given: Any, params: Mapping[str, Any], journal: Journal, place: _Place) -> Next:
    for step in steps:
        found = _step(step, given, params, journal, place)
        if not found.done:
            return found
        given = found.output
    return Next(output=given)


def _step(step: Any, given: Any, params: Mapping[str, Any], journal: Journal, place: _Place) -> Next:
    if isinstance(step, Flow):
        inner = _Place(f"{place.before}{step.name}/" if step.name else place.before, place.arm, place.key, place.at_once)
        return _sequence(step.steps, given, {**dict(step.params), **params}, journal, inner)
    if isinstance(step, tuple):
        arms = [_Place(place.before, f"{place.arm}{place.before}{i}|", place.key, place.at_once) for i in range(len(step))]
        return _together([_step(s, given, params, journal, arm) for s, arm in zip(step, arms, strict=True)])
    if isinstance(step, Each):
        return _each(step, given, params, journal, place)
    if isinstance(step, Branch):
        chosen = _one(step, "branch", given, {}, journal, place)
        return chosen if not chosen.done else _step(case_of(step, chosen.output), given, params, journal, place)
    if isinstance(step, Make):
        return _one(step, "asset", given, {}, journal, place)
    own = dict(step.params)
    return _one(step, "job", given, {**own, **{k: v for k, v in params.items() if k in own}}, journal, place)


def _one(do: Job | Make | Branch, kind: Kind, given: Any, params: Mapping[str, Any], journal: Journal, place: _Place) -> Next:
    name = place.before + do.name
    if name in journal.pinned:
        return Next(output=journal.pinned[name])
    key = (name, input_digest(given, params))
    if key in journal.finished:
        return Next(output=journal.finished[key])
    return Next((Work(name, kind, given, params, key[1], do, place.arm, place.key, place.at_once),))


def _together(parts: Sequence[Next]) -> Next:
    works = tuple(work for part in parts for work in part.works)
    return Next(works) if works else Next(output=[part.output for part in parts])


def _each(step: Each, given: Any, params: Mapping[str, Any], journal: Journal, place: _Place) -> Next:
    name = place.before + step.name
    items = list_at(given, step.over, name)
    places = (_Place(f"{name}[{i}]/", place.arm, name, step.at_once) for i in range(len(items)))
    return _together([_step(step.step, item, params, journal, at) for item, at in zip(items, places, strict=True)])


def list_at(given: Any, path: str, place: str) -> list[Any]:
    """The list that a path such as `result.0.files` leads to. Raises: UserCodeError(E5001)."""
    found = given
    for part in filter(None, path.split(".")):
        if isinstance(found, Mapping) and part in found:
            found = found[part]
        elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        else:
            got = ", ".join(map(str, found))[:80] if isinstance(found, Mapping) else type(found).__name__
            raise UserCodeError("the input has no such part", place=f"{place}(over={path!r})", expected=part, got=got)
    if not isinstance(found, list):
        raise UserCodeError("not a list", place=f"{place}(over={path!r})", expected="a list", got=type(found).__name__)
    return found


def case_of(branch: Branch, chosen: Any) -> Any:
    """The step of the case that a branch chose. Raises: UserCodeError(E5001) for another name without `otherwise`."""
    cases = dict(branch.cases)
    if isinstance(chosen, str) and chosen in cases:
        return cases[chosen]
    if branch.otherwise is not None:
        return branch.otherwise
    raise UserCodeError("a branch chose a case that it has not", place=branch.name, expected=", ".join(cases), got=repr(chosen)[:60])
