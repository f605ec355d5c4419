"""Jobs and flows: work that is no asset, and sequences of steps with JSON in and JSON out. Frozen values; decorators are sugar."""

from __future__ import annotations

import json
import re
import shlex
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from penstock.ground.errors import CycleError, DefinitionError, UnknownName, UserCodeError, did_you_mean
from penstock.ground.names import asset_name
from penstock.spec.sizes import size
from penstock.spec.spans import span
from penstock.spec.tables import signature_of

#: How many bytes of JSON one step may hand on, in UTF-8; greater things belong into a table or a file whose name is handed on.
OUTPUT_LIMIT_BYTES = 1_000_000
#: How deep flows, branches and parallel steps may stand in each other.
DEPTH_LIMIT = 32


# -- jobs -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Job:
    """A function, or a program with its arguments. As a step of a flow it gets JSON and gives JSON.

    Attributes:
        function: gets parameters by keyword; with `takes_input` the JSON of the step before as its one positional argument.
        command: a program and its arguments, each with `{parameter}` in it; never given to a shell. It reads the JSON of the step
            before from standard input, and its output is the JSON it writes to the file that PENSTOCK_OUTPUT names, null if none.
        params: parameters with their defaults, sorted by name.
        retries: how often it is tried again after a failure.
        backoff: how long until the first retry; twice as long before each further one.
        timeout: how long one attempt may take; None for any time.
        memory, cores, gpus: what one attempt needs.
        priority: a greater one is started first.
        key, at_once: at most `at_once` jobs with the same key run at a time, 0 for any number. The key may hold `{parameter}`.
    """

    name: str
    function: Callable[..., Any] | None = None
    command: tuple[str, ...] = ()
    takes_input: bool = False
    params: tuple[tuple[str, Any], ...] = ()
    retries: int = 0
    backoff: str = "10s"
    timeout: str | None = None
    memory: str | None = None
    cores: int = 1
    gpus: int = 0
    priority: int = 0
    at_once: int = 0
    key: str = ""
    doc: str = ""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the plain function, as if it had never been decorated."""
        if self.function is None:
            raise DefinitionError("this job is a command and cannot be called", place=self.name)
        return self.function(*args, **kwargs)

    def named(self, name: str) -> Job:
        """The same job under another name, for a second step in a flow. Raises: NameRefused(E1002)."""
        return replace(self, name=asset_name(name))


def job(
    function: Callable[..., Any] | None = None,
    *,
    retries: int = 0,
    backoff: str = "10s",
    timeout: str | None = None,
    memory: str | None = None,
    cores: int = 1,
    gpus: int = 0,
    priority: int = 0,
    at_once: int = 0,
    key: str = "",
) -> Any:
    """Makes a job of a function: keyword-only parameters with JSON defaults, and at most one positional one, the input; see `Job`.

    Raises: DefinitionError(E1001).
    """

    def make(fn: Callable[..., Any]) -> Job:
        inputs, _, params = signature_of(fn)
        if len(inputs) > 1:
            raise DefinitionError(
                "a job has at most one input", place=fn.__name__, expected="one positional parameter", got=len(inputs),
                hint="put parameters after a `*`: def f(given, *, limit=10)",
            )  # fmt: skip
        made = Job(
            asset_name(fn.__name__), fn, (), bool(inputs), tuple(sorted(params)), retries, backoff, timeout, memory, cores, gpus, priority,
            at_once, key, (fn.__doc__ or "").strip(),
        )  # fmt: skip
        return validated(made)

    return make(function) if function is not None else make


def command(
    text: str | list[str],
    *,
    name: str = "",
    params: Mapping[str, Any] | None = None,
    retries: int = 0,
    backoff: str = "10s",
    timeout: str | None = None,
    memory: str | None = None,
    cores: int = 1,
    gpus: int = 0,
    priority: int = 0,
    at_once: int = 0,
    key: str = "",
    doc: str = "",
) -> Job:
    """A program as a job: `command("python load.py {month}", params={"month": "2013-01"})`. Its name is `name` or the variable's.

    The text is split as a shell splits words, then parameters are put in: a value is never split, expanded or run.

    Raises: DefinitionError(E1001).
    """
    try:
        items = tuple(shlex.split(text) if isinstance(text, str) else text)
    except ValueError as error:
        raise DefinitionError("not a command", place=f"command({str(text)[:40]!r})", got=str(error)) from error
    made = Job(
        asset_name(name) if name else "", None, items, True, tuple(sorted((params or {}).items())), retries, backoff, timeout, memory, cores,
        gpus, priority, at_once, key, doc,
    )  # fmt: skip
    return validated(made)


def validated(made: Job) -> Job:
    """The job itself, if its parts fit together. Raises: DefinitionError(E1001)."""
    place = made.name or f"command({' '.join(map(str, made.command))[:40]!r})"
    if (made.function is None) == (not made.command):
        raise DefinitionError("a job is a function or a command", place=place)
    params = dict(made.params)
    for name, value in made.params:
        if not name.isidentifier():
            raise DefinitionError("not a name for a parameter", place=f"{place}.{name[:40]}")
        plain(value, f"{place}.{name}", definition=True)
    for item in (*made.command, made.key):
        if not isinstance(item, str) or "\0" in item:
            raise DefinitionError("not an argument of a program", place=place, expected="a text without NUL", got=repr(item)[:40])
        for name in _placeholders(item, place):
            if name not in params:
                raise DefinitionError(
                    "no such parameter", place=f"{place}{{{name}}}", expected=", ".join(params) or "params={...}", got=name
                )
    for what, least in (("retries", 0), ("cores", 1), ("gpus", 0), ("at_once", 0)):
        if not isinstance(got := getattr(made, what), int) or got < least:
            raise DefinitionError("not a whole number of them", place=f"{place}.{what}", expected=f"{least} or more", got=got)
    for text in filter(None, (made.backoff, made.timeout)):
        span(text)
    if made.memory is not None:
        size(made.memory)
    return made


def _placeholders(text: str, place: str) -> list[str]:
    """Names in braces. Raises: DefinitionError(E1001) for anything in braces that is no plain name."""
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise DefinitionError("braces do not fit", place=place, got=text[:40], hint="a brace itself is written twice: {{ }}") from error
    found = []
    for _, name, form, conversion in parts:
        if name is None:
            continue
        if not name.isidentifier() or form or conversion:
            raise DefinitionError("only names of parameters stand in braces", place=place, expected="{name}", got=text[:40])
        found.append(name)
    return found


def filled(text: str, params: Mapping[str, Any]) -> str:
    """A text with parameters put in place of their names: texts as they are, anything else as JSON.

    Raises: DefinitionError(E1001) for a NUL.
    """
    made = text.format_map({k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in params.items()})
    if "\0" in made:
        raise DefinitionError("an argument of a program cannot hold a NUL", place=text[:40])
    return made


def argv(job: Job, params: Mapping[str, Any]) -> tuple[str, ...]:
    """The program and its arguments; each item of the command is one argument, whatever the values hold."""
    return tuple(filled(item, params) for item in job.command)


def plain(value: Any, place: str, *, definition: bool = False) -> Any:
    """The value as JSON gives it back (tuples are lists), if it is JSON and not too great.

    Raises: UserCodeError(E5001), with `definition` DefinitionError(E1001), for NaN, keys that are no texts, or what JSON has no form for.
    """
    kind: type[DefinitionError] | type[UserCodeError] = DefinitionError if definition else UserCodeError
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        length = len(text.encode())
        same = _texts_only(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise kind("no JSON", place=place, expected="texts, numbers, lists, mappings", got=str(error)[:120]) from error
    if not same:
        raise kind("no JSON", place=place, expected="mappings with texts as keys")
    if length > OUTPUT_LIMIT_BYTES:
        raise kind(
            "too great to hand on", place=place, expected=f"at most {OUTPUT_LIMIT_BYTES:,} bytes of JSON", got=f"{length:,}",
            hint="write a file or table and hand on its name",
        )  # fmt: skip
    return json.loads(text)


def _texts_only(value: Any) -> bool:
    """Whether all keys are texts: `json.dumps` makes texts of numbers, and `{1: ..., "1": ...}` would lose a value."""
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and _texts_only(v) for k, v in value.items())
    return all(map(_texts_only, value)) if isinstance(value, list | tuple) else True


# -- flows ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Make:
    """A step that makes an asset, and all it needs, fresh. Its output is `{"asset": ..., "version": ...}`."""

    asset: str
    name: str = ""


@dataclass(frozen=True)
class Branch:
    """A step that chooses: the function gets the input and gives a case's name; that case gets the same input, its output is the step's.

    `otherwise` is the case for any other name; without it another name is a failure.
    """

    name: str
    by: Callable[..., Any]
    cases: tuple[tuple[str, Any], ...]
    otherwise: Any = None


@dataclass(frozen=True)
class Each:
    """A step for each item of a list in the input, at most `at_once` at a time; its output is the list of results, in order.

    `over` leads to the list: keys and positions with dots between them, such as `months` or `result.0.files`; "" is the input itself.
    """

    name: str
    step: Any
    over: str = ""
    at_once: int = 4


@dataclass(frozen=True)
class Flow:
    """Steps one after the other: each gets the JSON of the one before, the first what the flow was started with.

    A step is a job, an asset, a branch, an `each`, another flow, a name of one of these, or a tuple of steps that run side by side
    with the same input, whose output is the list of theirs. Step names are unique in a flow; those of an inner flow have its name, if
    it has one, in front. `params` are given to every job that has a parameter of that name.
    """

    name: str
    steps: tuple[Any, ...]
    params: tuple[tuple[str, Any], ...] = ()
    doc: str = ""


def flow(*steps: Any, name: str = "", params: Mapping[str, Any] | None = None, doc: str = "") -> Flow:
    """Steps one after the other; see `Flow`. Its name is `name` or the variable's. Raises: DefinitionError(E1001)."""
    if not steps:
        raise DefinitionError("a flow needs a step", place=name or "flow()")
    for key, value in (params or {}).items():
        plain(value, f"{name or 'flow'}.{key}", definition=True)
    return Flow(asset_name(name) if name else "", steps, tuple(sorted((params or {}).items())), doc)


def branch(*, by: Callable[..., Any], cases: Mapping[str, Any], otherwise: Any = None, name: str = "") -> Branch:
    """One of several steps, chosen by a function of the input; see `Branch`. Raises: DefinitionError(E1001)."""
    function = by.function if isinstance(by, Job) and by.function is not None else by
    inputs, _, params = signature_of(function)
    if len(inputs) != 1 or params:
        raise DefinitionError("a choosing function takes the input only", place=f"branch(by={function.__name__})", expected="def f(given)")
    if not cases or not all(isinstance(case, str) and case for case in cases):
        raise DefinitionError("a branch needs cases with names", place=f"branch(by={function.__name__})", expected='cases={"name": step}')
    return Branch(asset_name(name or function.__name__), function, tuple(cases.items()), otherwise)


def each(step: Any, *, over: str = "", at_once: int = 4, name: str = "") -> Each:
    """A step for each item of a list in the input, results in order; see `Each`. Raises: DefinitionError(E1001)."""
    if not re.fullmatch(r"|[^.]+(\.[^.]+)*", over):
        raise DefinitionError("not a path in the input", place=f"each(over={over[:40]!r})", expected="keys with dots between them")
    if not isinstance(at_once, int) or at_once < 1:
        raise DefinitionError("not a number of items at once", place="each(at_once=...)", expected="1 or more", got=at_once)
    return Each(asset_name(name) if name else "", step, over, at_once)


Resolve = Callable[[Any], "Job | Flow | Make"]


def resolved(made: Flow, resolve: Resolve) -> Flow:
    """The same flow with every step a record with a name: what `resolve` gives for jobs, flows, assets and names of them.

    Raises: DefinitionError(E1001) for a step that is none, or names that occur twice; CycleError(E1004) for flows in a circle.
    """
    whole = replace(made, steps=tuple(_step(step, resolve, (made.name,)) for step in made.steps))
    names = list(names_of(whole))
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DefinitionError(
            "two steps of a flow have the same name", place=made.name, got=", ".join(twice), hint='job.named("another_name")'
        )
    return whole


def _step(step: Any, resolve: Resolve, inside: tuple[str, ...]) -> Any:
    if len(inside) > DEPTH_LIMIT:
        raise DefinitionError("steps stand too deep in each other", place=inside[0], expected=f"at most {DEPTH_LIMIT} levels")
    if isinstance(step, tuple):
        if not step:
            raise DefinitionError("steps side by side need a step", place=inside[-1])
        return tuple(_step(s, resolve, (*inside, "")) for s in step)
    if isinstance(step, Branch):
        cases = tuple((case, _step(s, resolve, (*inside, ""))) for case, s in step.cases)
        return replace(step, cases=cases, otherwise=None if step.otherwise is None else _step(step.otherwise, resolve, (*inside, "")))
    if isinstance(step, Each):
        inner = _step(step.step, resolve, (*inside, ""))
        if isinstance(inner, tuple) and not step.name:
            raise DefinitionError("an `each` of several steps needs a name", place=inside[0], hint='each((a, b), name="both")')
        return replace(step, step=inner, name=step.name or f"each_{inner.name}")
    known = step if isinstance(step, Make) else resolve(step)
    if isinstance(known, Flow):
        if known.name and known.name in inside:
            raise CycleError("flows need each other in a circle", place=inside[0], got=" -> ".join((*filter(None, inside), known.name)))
        return replace(known, steps=tuple(_step(s, resolve, (*inside, known.name)) for s in known.steps))
    if isinstance(known, Make):
        return replace(known, name=known.name or known.asset)
    if not known.name:
        raise DefinitionError(
            "a command in a flow needs a name", place=inside[0], got=" ".join(known.command)[:40], hint="command(..., name=)"
        )
    return known


def names_of(made: Flow) -> Iterator[str]:
    """The names of all steps of a resolved flow; see `steps_of`."""
    for name, _ in steps_of(made):
        yield name


def steps_of(made: Flow) -> Iterator[tuple[str, Job | Make | Branch | Each]]:
    """All steps of a resolved flow with their names; steps of an inner flow, or of an `each`, have its name and `/` in front."""
    for step in made.steps:
        yield from _under(step, "")


def _under(step: Any, before: str) -> Iterator[tuple[str, Job | Make | Branch | Each]]:
    if isinstance(step, Flow):
        for inner in step.steps:
            yield from _under(inner, f"{before}{step.name}/" if step.name else before)
        return
    if isinstance(step, tuple):
        for inner in step:
            yield from _under(inner, before)
        return
    yield before + step.name, step
    if isinstance(step, Branch):
        for inner in (*(s for _, s in step.cases), *(() if step.otherwise is None else (step.otherwise,))):
            yield from _under(inner, before)
    if isinstance(step, Each):
        yield from _under(step.step, f"{before}{step.name}/")


def step_named(made: Flow, name: str) -> Job | Make | Branch | Each:
    """A step of a resolved flow by its name, with or without positions of items (`each_load[3]/load`).

    Raises: UnknownName(E1003).
    """
    steps, bare = dict(steps_of(made)), re.sub(r"\[\d+\]", "", name)
    if bare not in steps:
        raise UnknownName("the flow has no such step", place=f"{made.name}.{name}", hint=did_you_mean(bare, steps))
    return steps[bare]
