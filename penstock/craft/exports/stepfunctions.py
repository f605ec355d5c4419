"""State machines for AWS Step Functions, in the Amazon States Language, with an EventBridge schedule beside each.

Every task calls one resource, which is given `{"command": [...], "input": ...}`, runs that command of Penstock and gives its JSON. It
raises `Penstock.Temporary` for exit code 3, which is tried again, and `Penstock.Failed` for any other, which is tried again as often as the
job says. An execution's input is `{"input": ...}`; assets need none. JSONPath, so that every validator and emulator reads it.
Source: states-language.net/spec.html; docs.aws.amazon.com/scheduler (schedule types).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from penstock.craft.exports.outline import (
    POLL_S,
    RETRIES,
    Block,
    Choice,
    Export,
    Mapped,
    Outline,
    Part,
    Row,
    Task,
    Timing,
    Together,
    Written,
    cron_of,
    key_of,
    tasks_of,
    timing,
)  # fmt: skip
from penstock.ground.digest import digest
from penstock.spec.automation import Cron, Every
from penstock.spec.spans import span

#: What stands for the resource, as CloudFormation and SAM fill it in (`DefinitionSubstitutions`).
RESOURCE = "${PenstockTask}"
#: Errors of a task that may pass: exit code 3, and what a Lambda function or the service itself tells of such.
PASSING = ("Penstock.Temporary", "Lambda.ServiceException", "Lambda.TooManyRequestsException", "Lambda.SdkClientException")
#: Letters that the name of a state may have: the specification allows 80 characters.
_NAME_LENGTH = 80
State = dict[str, Any]


def stepfunctions(outlines: Sequence[Outline], export: Export, *, start: date, resource: str = RESOURCE) -> Written:
    """`NAME.asl.json` for each outline, and `NAME.schedule.json` (or `.schedule-2.json`, ...) for `aws scheduler create-schedule`.

    Args: start: not used; other schedulers make up for what passed before. resource: the ARN of what runs the commands.
    """
    files, missing = [], []
    for outline in outlines:
        when = timing(outline.when)
        files.append((f"{outline.name}.asl.json", _text(_Machine(outline, when, export, resource).definition())))
        names = _schedule_names(outline.name)
        files += [(f"{next(names)}.json", _text(schedule)) for schedule in _schedules(outline.name, when)]
        missing += [(outline.name, reason) for reason in _missing(outline, when)]
    return Written(tuple(files), tuple(missing))


def _schedule_names(name: str) -> Iterator[str]:
    yield f"{name}.schedule"
    number = 2
    while True:
        yield f"{name}.schedule-{number}"
        number += 1


def _text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


# -- when -----------------------------------------------------------------------------------------------------------
def _schedules(name: str, when: Timing) -> Iterator[dict[str, Any]]:
    ticks = [*when.ticks, *((Every(f"{POLL_S}s"),) if when.polled else ())]
    for tick in ticks:
        zone = tick.tz if isinstance(tick, Cron) else "UTC"
        for number, expression in enumerate(_expressions(tick)):
            yield {
                "Name": re.sub(r"[^0-9A-Za-z_.-]", "_", f"{name}-{ticks.index(tick)}-{number}")[-64:],
                "ScheduleExpression": expression,
                "ScheduleExpressionTimezone": zone,
                "FlexibleTimeWindow": {"Mode": "OFF"},
                "Target": {
                    "Arn": "${StateMachineArn}", "RoleArn": "${SchedulerRoleArn}", "Input": '{"input": null}',
                    "RetryPolicy": _made_up(tick),
                },
            }  # fmt: skip


def _made_up(tick: Cron | Every) -> dict[str, int]:
    """How long a tick whose start was refused is tried again: a day where one is made up for, else a minute."""
    lost = isinstance(tick, Cron) and tick.catch_up == "none"
    return {"MaximumEventAgeInSeconds": 60 if lost else 86_400, "MaximumRetryAttempts": 1 if lost else 185}


def _expressions(tick: Cron | Every) -> list[str]:
    """EventBridge's cron lines: a `?` for the day that is not said, weekdays by name, a year; two lines where cron means either day."""
    line = tick.text if isinstance(tick, Cron) else cron_of(tick)
    if line is None:
        seconds = span(tick.span).total_seconds() if isinstance(tick, Every) else 0
        return [f"rate({seconds / 60:.0f} minutes)"] if seconds % 60 == 0 else []
    minute, hour, day, month, weekday = (re.sub(r"^\*/", "0/", part) if i < 2 else part for i, part in enumerate(line.split()))
    day, month = re.sub(r"^\*/", "1/", day), re.sub(r"^\*/", "1/", month)
    days = [] if weekday == "*" else [("?", _weekdays(weekday))]
    if day != "*" or not days:
        days.insert(0, (day, "?"))
    return [f"cron({minute.upper()} {hour.upper()} {d.upper()} {month.upper()} {w} *)" for d, w in days]


_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")


def _weekdays(text: str) -> str:
    """0 and 7 are Sunday in cron, 1 is in EventBridge; names are the same in both. `5#2` is the second Friday in both, but numbered so."""
    parts = []
    for part in text.upper().split(","):
        nth = re.fullmatch(r"(\w+)#(\d)", part)
        if nth:
            day = int(nth[1]) % 7 if nth[1].isdigit() else _DAYS.index(nth[1])
            parts.append(f"{day + 1}#{nth[2]}")
            continue
        whole, _, step = part.partition("/")
        first, _, last = ("SUN-SAT" if whole == "*" else whole).partition("-")
        if step or last:
            begin, end = _day(first), _day(last) if last else 6
            parts += [_DAYS[d % 7] for d in range(begin, (end if end >= begin else end + 7) + 1, int(step or 1))]
        else:
            parts.append(_DAYS[_day(first) % 7])
    return ",".join(dict.fromkeys(parts))


def _day(text: str) -> int:
    return int(text) if text.isdigit() else _DAYS.index(text)


def _missing(outline: Outline, when: Timing) -> Iterator[str]:
    yield from when.missing
    for name in when.by_hand:
        yield f'event({name}): start an execution with {{"input": ...}}'
    for tick in when.ticks:
        if not _expressions(tick):
            yield f"{tick}: EventBridge counts whole minutes"
        elif isinstance(tick, Every) and cron_of(tick) is None:
            yield f"{tick}: counted from when the schedule is made, not from 1970"
        elif isinstance(tick, Cron) and tick.catch_up == "all":
            yield f"{tick}: ticks of a time when the schedule was switched off are not made up for"
    for key in sorted({key_of(t.job) for t in tasks_of(outline.block) if t.job} - {""} if outline.block is not None else ()):
        yield f"key {key}: a state machine does not limit how many run in others at a time"


# -- one state machine ----------------------------------------------------------------------------------------------
@dataclass
class _Machine:
    """One state machine being written; `taken` has the names of its states, which must differ in all of it."""

    outline: Outline
    when: Timing
    export: Export
    resource: str
    taken: set[str] = field(default_factory=set)

    def definition(self) -> dict[str, Any]:
        states: list[tuple[str, State]] = []
        for source in self.when.polled:
            states += self._looked(source)
        for asset, fresh in self.when.gates:
            states += self._gate(asset, fresh)
        if self.outline.block is not None:
            states += [(self._name("input"), {"Type": "Pass", "InputPath": "$.input"}), *self._states(self.outline.block)]
        else:
            states += self._assets(self.outline.parts)
        doc = " ".join(f"{'' if self.outline.when is None else self.outline.when} {self.outline.doc}".split())
        return {"Comment": doc[:400] or self.outline.name, **_chained(states)}

    def _name(self, wanted: str) -> str:
        """A name for a state that no other has."""
        short = wanted if len(wanted) <= _NAME_LENGTH else f"{wanted[: _NAME_LENGTH - 11]} {digest([wanted])[:10]}"
        name, number = short, 2
        while name in self.taken:
            name, number = f"{short[: _NAME_LENGTH - 4]} {number}", number + 1
        self.taken.add(name)
        return name

    # -- what stands first
    def _planned(self, assets: Sequence[str]) -> State:
        return {**self._call(("plan", "--json", *assets), None), "ResultSelector": {"nothing.$": "$.nothing"}, "ResultPath": "$.plan"}

    def _looked(self, source: str) -> list[tuple[str, State]]:
        """Ends if a source has nothing new; else lands it."""
        look, there, none = self._name(f"look at {source}"), self._name(f"arrived {source}"), self._name(f"nothing in {source}")
        choice = {"Type": "Choice", "Choices": [{"Variable": "$.plan.nothing", "BooleanEquals": True, "Next": none}], "Default": _NEXT}
        land: list[tuple[str, State]] = []
        if source not in {p.name for p in self.outline.parts}:
            land = [(self._name(f"land {source}"), {**self._call(("run", "--json", source), None), "ResultPath": None})]
        return [(look, self._planned((source,))), (there, choice), (none, {"Type": "Succeed"}), *land]

    def _gate(self, asset: str, fresh: bool) -> list[tuple[str, State]]:
        """Waits until an asset is fresh, or a source has something new."""
        word = "fresh" if fresh else "stale"
        look, there, wait = self._name(f"look at {asset}"), self._name(f"{word} {asset}"), self._name(f"wait for {asset}")
        rule = {"Variable": "$.plan.nothing", "BooleanEquals": not fresh, "Next": wait}
        return [
            (look, self._planned((asset,))), (there, {"Type": "Choice", "Choices": [rule], "Default": _NEXT}),
            (wait, {"Type": "Wait", "Seconds": POLL_S, "Next": look}),
        ]  # fmt: skip

    # -- assets
    def _assets(self, parts: Sequence[Part]) -> list[tuple[str, State]]:
        """Groups that do not need each other side by side; in a group rank by rank, where an asset stands one rank below its inputs."""
        groups = _groups(parts)
        if len(groups) > 1:
            arms = [_chained(self._assets(group)) for group in groups]
            return [(self._name("side by side"), {"Type": "Parallel", "Branches": arms, "ResultPath": None})]
        states: list[tuple[str, State]] = []
        for number, rank in enumerate(_ranks(groups[0])):
            made = [(self._name(p.name), {**self._call(("run", "--json", p.name), None), "ResultPath": None}) for p in rank]
            if len(made) == 1:
                states += made
            else:
                states.append(
                    (self._name(f"rank {number + 1}"), {"Type": "Parallel", "Branches": [_chained([m]) for m in made], "ResultPath": None})
                )
        return states

    # -- steps
    def _states(self, block: Block) -> list[tuple[str, State]]:
        """The states of a block, one after the other; the first gets its input, the last gives its output."""
        if isinstance(block, Task):
            return [(self._name(block.name), {**self._call(block.arguments, "$"), **_limits(block)})]
        if isinstance(block, Row):
            return [state for inner in block.blocks for state in self._states(inner)]
        if isinstance(block, Together):
            return [(self._name(block.name), {"Type": "Parallel", "Branches": [_chained(self._states(arm)) for arm in block.arms]})]
        if isinstance(block, Mapped):
            inner = {"ProcessorConfig": {"Mode": "INLINE"}, **_chained(self._states(block.block))}
            state = {"Type": "Map", "ItemsPath": _path(block.over), "MaxConcurrency": block.at_once, "ItemProcessor": inner}
            return [(self._name(block.name), state)]
        return self._choice(block)

    def _choice(self, block: Choice) -> list[tuple[str, State]]:
        """Keeps the input beside the case that a task gives, chooses, and goes on behind the chosen case's states."""
        keep, by, fork, end = (self._name(f"{block.name}{what}") for what in (" input", "", " choose", " end"))
        cases = [(case, self._case(inner, f"{block.name} {case}", end)) for case, inner in block.cases]
        otherwise: list[tuple[str, State]] = (
            self._case(block.otherwise, f"{block.name} otherwise", end)
            if block.otherwise is not None
            else [
                (
                    self._name(f"{block.name} no case"),
                    {"Type": "Fail", "Error": "Penstock.Failed", "Cause": "a branch chose a case that it has not"},
                )
            ]
        )
        rules = [{"Variable": "$.case", "StringEquals": case, "Next": states[0][0]} for case, states in cases]
        return [
            (keep, {"Type": "Pass", "Parameters": {"given.$": "$"}}),
            (by, {**self._call(block.task.arguments, "$.given"), "ResultPath": "$.case"}),
            (fork, {"Type": "Choice", "Choices": rules, "Default": otherwise[0][0]}),
            *(state for _, states in cases for state in states), *otherwise,
            (end, {"Type": "Pass"}),
        ]  # fmt: skip

    def _case(self, block: Block, name: str, end: str) -> list[tuple[str, State]]:
        states = [(self._name(name), {"Type": "Pass", "InputPath": "$.given"}), *self._states(block)]
        return _linked(states, end)

    def _call(self, arguments: Sequence[str], given: str | None) -> State:
        """A task that runs one command. `given`: path of the input, None for none."""
        parameters: dict[str, Any] = {"command": list(self.export.argv(*arguments))}
        if given:
            parameters["input.$"] = given
        passing = {"ErrorEquals": list(PASSING), "IntervalSeconds": 10, "MaxAttempts": RETRIES, "BackoffRate": 2.0}
        return {"Type": "Task", "Resource": self.resource, "Parameters": parameters, "Retry": [passing]}


_NEXT = ""


def _limits(task: Task) -> State:
    job = task.job
    if job is None:
        return {}
    made: State = {}
    if job.timeout:
        made["TimeoutSeconds"] = max(1, round(span(job.timeout).total_seconds()))
    if job.retries:
        wait = max(1, round(span(job.backoff).total_seconds()))
        passing = {"ErrorEquals": list(PASSING), "IntervalSeconds": wait, "MaxAttempts": max(job.retries, RETRIES), "BackoffRate": 2.0}
        own = {"ErrorEquals": ["States.ALL"], "IntervalSeconds": wait, "MaxAttempts": job.retries, "BackoffRate": 2.0}
        made["Retry"] = [passing, own]
    return made


def _ends(state: State) -> bool:
    return state["Type"] in ("Succeed", "Fail") or "Next" in state or "End" in state


def _linked(states: Sequence[tuple[str, State]], end: str) -> list[tuple[str, State]]:
    """Each state leads to the next, the last to `end`; to nothing if that is "". What is told already stays."""
    made = []
    for place, (name, state) in enumerate(states):
        after = _after(states, place) or end
        if state["Type"] == "Choice":
            state = {**state, "Default": state["Default"] or after}
        elif not _ends(state):
            state = {**state, **({"Next": after} if after else {"End": True})}
        made.append((name, state))
    return made


def _after(states: Sequence[tuple[str, State]], place: int) -> str:
    """The state behind one, past states that only a choice leads to."""
    beside = {"Succeed", "Fail", "Wait"}
    return next((name for name, state in states[place + 1 :] if state["Type"] not in beside), "")


def _chained(states: Sequence[tuple[str, State]]) -> dict[str, Any]:
    linked = _linked(states, "")
    return {"StartAt": linked[0][0], "States": dict(linked)}


def _path(over: str) -> str:
    """A dotted path as JSONPath: keys in quotes, positions as numbers."""
    parts = (f"[{p}]" if p.isdecimal() else f"['{p}']" for p in over.split(".") if p)
    return "$" + "".join(parts)


def _groups(parts: Sequence[Part]) -> list[list[Part]]:
    """Parts that need each other, directly or by others, together; in order."""
    here = {p.name for p in parts}
    group = {name: name for name in here}

    def top(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    for part in parts:
        for needed in part.inputs:
            if needed in here:
                group[top(part.name)] = top(needed)
    found: dict[str, list[Part]] = {}
    for part in parts:
        found.setdefault(top(part.name), []).append(part)
    return list(found.values())


def _ranks(parts: Sequence[Part]) -> list[list[Part]]:
    rank: dict[str, int] = {}
    for part in parts:
        rank[part.name] = 1 + max((rank[i] for i in part.inputs if i in rank), default=-1)
    return [[p for p in parts if rank[p.name] == n] for n in range(1 + max(rank.values(), default=-1))]
