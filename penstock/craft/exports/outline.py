"""What other schedulers are told: for each automation the tasks it runs, in what order, and when. Knows no scheduler."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from penstock.spec.automation import AllOf, AnyOf, Arrived, Automation, Condition, Cron, Every, Fresh, Not, OnEvent
from penstock.spec.jobs import Branch, Each, Flow, Job, Make, filled, steps_of
from penstock.spec.spans import span

#: How often what may pass (exit code 3) is tried again.
RETRIES = 3
#: Seconds between two looks at a condition that has to be polled.
POLL_S = 60


@dataclass(frozen=True)
class Export:
    """How the other scheduler reaches the project: its name, its folder there, the command, its level ("" for the default)."""

    project: str
    folder: str
    command: str = "penstock"
    level: str = ""

    def argv(self, *arguments: str) -> tuple[str, ...]:
        """A whole command line."""
        return (self.command, "-C", self.folder, *(("--level", self.level) if self.level else ()), *arguments)


@dataclass(frozen=True)
class Written:
    """Files by name, and what could not be said in them: (outline, reason)."""

    files: tuple[tuple[str, str], ...]
    missing: tuple[tuple[str, str], ...] = ()


# -- what is done ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Task:
    """One command. `hands_on`: it gets JSON as `--input` and prints JSON; else it is done when it ends."""

    name: str
    arguments: tuple[str, ...]
    hands_on: bool = True
    job: Job | None = None
    doc: str = ""


@dataclass(frozen=True)
class Row:
    """One after the other."""

    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Together:
    """Side by side with the same input; the output is the list of theirs."""

    name: str
    arms: tuple[Block, ...]


@dataclass(frozen=True)
class Choice:
    """One of several, by the name of the case that `task` gives; `otherwise` for any other name."""

    name: str
    task: Task
    cases: tuple[tuple[str, Block], ...]
    otherwise: Block | None


@dataclass(frozen=True)
class Mapped:
    """A block for each item of the list that `over` leads to. `whole` is one command that does all of it."""

    name: str
    over: str
    at_once: int
    block: Block
    whole: Task


Block = Task | Row | Together | Choice | Mapped


@dataclass(frozen=True)
class Part:
    """An asset as its graph has it."""

    name: str
    kind: str
    inputs: tuple[str, ...] = ()
    doc: str = ""


@dataclass(frozen=True)
class Outline:
    """One thing that is scheduled: assets in running order, or the block of a job or flow."""

    name: str
    target: str
    when: Condition | None = None
    parts: tuple[Part, ...] = ()
    block: Block | None = None
    doc: str = ""


def outlines(
    project: str,
    parts: Mapping[str, Part],
    jobs: Mapping[str, Job],
    flows: Mapping[str, Flow],
    automations: Mapping[str, Automation],
) -> tuple[Outline, ...]:
    """The whole project, each automation, and jobs and flows that neither an automation nor a flow runs, which are started by hand.

    Args:
        parts: assets in running order.
        flows: resolved. Automations name their targets.
    The whole project's name is the project's; an automation's has that and a dot in front, since names there are shared by many projects.
    """
    found = [Outline(project, project, None, tuple(parts.values()), None, "All assets of the project.")] if parts else []
    for name, automation in sorted(automations.items()):
        found.append(replace(_of(automation.target, parts, jobs, flows, automation.params), name=f"{project}.{name}", when=automation.when))
    taken = {a.target for a in automations.values()} | set(automations) | {s.name for f in flows.values() for _, s in steps_of(f)}
    for name in sorted({*jobs, *flows} - taken):
        found.append(replace(_of(name, parts, jobs, flows, ()), name=f"{project}.{name}"))
    return tuple(found)


def _of(
    target: str, parts: Mapping[str, Part], jobs: Mapping[str, Job], flows: Mapping[str, Flow], params: tuple[tuple[str, Any], ...]
) -> Outline:
    if target in jobs:
        job = jobs[target]
        return Outline(target, target, block=_Walk(target, job.name, alone=True).block(job, dict(params), ""), doc=job.doc)
    if target in flows:
        flow = flows[target]
        whole = {**dict(flow.params), **dict(params)}
        walk = _Walk(target, target)
        return Outline(target, target, block=_row([walk.block(s, whole, "") for s in flow.steps]), doc=flow.doc)
    return Outline(target, target, parts=needed(target, parts), doc=parts[target].doc)


def needed(name: str, parts: Mapping[str, Part]) -> tuple[Part, ...]:
    """An asset and all it needs, in running order."""
    wanted, waiting = set(), [name]
    while waiting:
        nearest = waiting.pop()
        if nearest not in wanted:
            wanted.add(nearest)
            waiting += parts[nearest].inputs
    return tuple(part for part in parts.values() if part.name in wanted)


@dataclass
class _Walk:
    """Goes through the steps of a flow; names of steps are as in `spec.jobs.steps_of`."""

    flow: str
    owner: str
    alone: bool = False
    unnamed: int = field(default=0)

    def block(self, step: Any, params: Mapping[str, Any], before: str) -> Block:
        if isinstance(step, Flow):
            inner = f"{before}{step.name}/" if step.name else before
            return _row([self.block(s, {**dict(step.params), **params}, inner) for s in step.steps])
        if isinstance(step, tuple):
            self.unnamed += 1
            name = f"{before}together_{self.unnamed}"
            return Together(name, tuple(self.block(s, params, before) for s in step))
        if isinstance(step, Branch):
            cases = tuple((case, self.block(s, params, before)) for case, s in step.cases)
            otherwise = None if step.otherwise is None else self.block(step.otherwise, params, before)
            return Choice(before + step.name, self._task(step, {}, before), cases, otherwise)
        if isinstance(step, Each):
            each = self.block(step.step, params, f"{before}{step.name}/")
            return Mapped(before + step.name, step.over, step.at_once, each, self._task(step, params, before))
        return self._task(step, params, before)

    def _task(self, step: Job | Make | Branch | Each, params: Mapping[str, Any], before: str) -> Task:
        job = step if isinstance(step, Job) else None
        taken = {k: v for k, v in params.items() if job is None or k in dict(job.params)}
        sets = [a for k, v in sorted(taken.items()) for a in ("--set", f"{self.owner}.{k}={json.dumps(v)}")]
        name = self.flow if self.alone else f"{self.flow}/{before}{step.name}"
        return Task(before + step.name, ("run", "--step", name, *sets), True, job, job.doc if job else "")


def key_of(job: Job) -> str:
    """The key that limits how many of a job run at a time, "" if nothing does. Parameters in it are the job's own defaults."""
    if not job.at_once:
        return ""
    return filled(job.key, dict(job.params)) if job.key else job.name


def _row(blocks: Sequence[Block]) -> Block:
    return blocks[0] if len(blocks) == 1 else Row(tuple(blocks))


def tasks_of(block: Block) -> Iterator[Task]:
    """All tasks of a block, in order."""
    if isinstance(block, Task):
        yield block
    elif isinstance(block, Mapped):
        yield from tasks_of(block.block)
    else:
        if isinstance(block, Choice):
            yield block.task
        inner = block.blocks if isinstance(block, Row) else block.arms if isinstance(block, Together) else _cases(block)
        for one in inner:
            yield from tasks_of(one)


def _cases(block: Choice) -> tuple[Block, ...]:
    return (*(b for _, b in block.cases), *(() if block.otherwise is None else (block.otherwise,)))


# -- when -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Timing:
    """When an outline runs, in what other schedulers have words for.

    Attributes:
        ticks: cron lines and spans; any of them starts a run.
        polled: sources; a run looks every minute whether one of them has new files, and does nothing if not.
        gates: what a run waits for before it begins: (asset, True) until it is fresh, (source, False) until it has new files.
        by_hand: names of events; who raises them starts a run instead, with the event's JSON as input.
        missing: what could not be said, each with the reason.
    """

    ticks: tuple[Cron | Every, ...] = ()
    polled: tuple[str, ...] = ()
    gates: tuple[tuple[str, bool], ...] = ()
    by_hand: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def timing(when: Condition | None) -> Timing:
    """What of a condition other schedulers can be told. A part of an `&` that cannot be said takes the whole `&` with it."""
    if when is None:
        return Timing()
    found = _any(when.of) if isinstance(when, AnyOf) else _one(when)
    if found.polled and found.ticks:
        gone = tuple(f"arrived({name}): a run that is started by a clock cannot poll as well; declare it as an automation of its own"
                     for name in found.polled)  # fmt: skip
        return replace(found, polled=(), missing=(*found.missing, *gone))
    return found


def _any(of: Sequence[Condition]) -> Timing:
    parts = [_one(c) for c in of]
    gone = tuple(f"{c}: it stands in an `|`; declare it as an automation of its own" for c, p in zip(of, parts, strict=True) if p.gates)
    kept = [p for p in parts if not p.gates]
    return Timing(
        tuple(t for p in kept for t in p.ticks), tuple(s for p in kept for s in p.polled), (), tuple(e for p in kept for e in p.by_hand),
        (*(m for p in parts for m in p.missing), *gone),
    )  # fmt: skip


def _one(when: Condition) -> Timing:
    if isinstance(when, Cron | Every):
        return Timing(ticks=(when,))
    if isinstance(when, OnEvent):
        return Timing(by_hand=(when.name,))
    if isinstance(when, Arrived) and not when.marker:
        return Timing(polled=(str(when.source),))
    if isinstance(when, AllOf):
        return _all(when)
    return Timing(missing=(f"{when}: {_reason(when)}",))


def _all(when: AllOf) -> Timing:
    ticks: tuple[Cron | Every, ...] = ()
    gates: list[tuple[str, bool]] = []
    starts = 0
    for part in when.of:
        if isinstance(part, Fresh):
            gates.append((str(part.asset), True))
        elif isinstance(part, Arrived) and not part.marker:
            gates.append((str(part.source), False))
        elif isinstance(part, Not) and isinstance(part.of, Fresh):
            gates.append((str(part.of.asset), False))
        else:
            inner = timing(part)
            if not inner.ticks or inner.missing or inner.by_hand or inner.gates:
                return Timing(missing=(f"{when}: because of {part}: {_reason(part)}",))
            ticks, starts = inner.ticks, starts + 1
    if starts != 1:
        return Timing(missing=(f"{when}: only one part of an `&` may be a time, and one has to be",))
    return Timing(ticks=ticks, gates=tuple(gates))


def _reason(when: Condition) -> str:
    if isinstance(when, Arrived):
        return "a marker is looked for by Penstock's own scheduler only"
    return "only Penstock's own scheduler can look at it"


def cron_of(every: Every) -> str | None:
    """The cron line in UTC with the same ticks as whole multiples of a span since 1970, None if there is none."""
    total = span(every.span).total_seconds()
    minutes, rest = divmod(total, 60)
    if rest or not minutes:
        return None
    if 60 % minutes == 0:
        return "* * * * *" if minutes == 1 else f"*/{minutes:.0f} * * * *" if minutes < 60 else "0 * * * *"
    if minutes % 60 == 0 and 24 % (hours := minutes / 60) == 0:
        return f"0 */{hours:.0f} * * *" if hours < 24 else "0 0 * * *"
    return "0 0 * * 4" if minutes == 7 * 24 * 60 else None  # 1 January 1970 was a Thursday
