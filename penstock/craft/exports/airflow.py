"""DAGs for Airflow 3: one Python file that needs nothing of ours to be imported, formatted, the same for the same project.

A task is one command of Penstock. Exit code 3 (busy, temporary) is tried again `RETRIES` times, 1 as often as the job says and else not,
0 is success also if there was nothing to do (what stands below may still be stale), 99 skips a task and what stands below it.
Steps hand JSON on as XCom. What Airflow has no words for stands at the top of the file and in `Written.missing`.
"""

from __future__ import annotations

import json
import keyword
import re
import shlex
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
from penstock.craft.exports.python_text import Code, called, identifier, quoted
from penstock.ground.errors import DefinitionError
from penstock.spec.automation import Cron, Every
from penstock.spec.spans import span


def airflow(outlines: Sequence[Outline], export: Export, *, start: date) -> Written:
    """`penstock_PROJECT.py`, and `pools.json` if jobs share keys (`airflow pools import pools.json` makes them).

    Args: start: the first day that a DAG with `catch_up="all"` makes up for.
    Raises: DefinitionError(E1001) for a folder with a template's braces in its path, which Airflow would read.
    """
    if re.search(r"\{[{%#]", export.folder + export.command):
        raise DefinitionError("Airflow reads braces as a template", place=export.folder[:80], expected="a path without {{, {% or {#")
    found = [(o, timing(o.when)) for o in outlines]
    dags = [_Dag(o, t, export, start).text() for o, t in found]
    missing = tuple((o.name, reason) for o, t in found for reason in _missing(t))
    untold = "".join(f"#   {_line(name)}: {_line(reason)}\n" for name, reason in missing)
    note = f"#\n# Airflow has no words for:\n{untold}" if untold else ""
    times = "datetime, timedelta, timezone" if "=datetime(" in "".join(dags) else "timedelta"
    head = _HEAD.format(project=_line(export.project), note=note, times=times, imports=_imports("".join(dags)), retries=RETRIES)
    text = head + "\n".join(dags)
    files = [(f"penstock_{identifier(export.project)}.py", text)]
    if pools := _pools(outlines):
        files.append(("pools.json", json.dumps(pools, indent=4, sort_keys=True) + "\n"))
    return Written(tuple(files), missing)


_HEAD = '''\
# The schedule of the Penstock project {project}, for Airflow 3. Written by `penstock level --files airflow`: change the project, not this.
{note}
import json
from datetime import {times}

{imports}

class Penstock(BashOperator):
    """One command. What may pass (exit code 3) is tried again; what failed, as often as its job says."""

    template_fields = ("env",)

    def __init__(self, *, own_retries=0, **kwargs):
        super().__init__(**kwargs)
        self.own_retries = own_retries

    def execute(self, context):
        try:
            return super().execute(context)
        except AirflowSkipException:
            raise
        except AirflowException as error:
            ended = self.subprocess_hook.sub_process
            if (ended is not None and ended.returncode == 3) or context["ti"].try_number <= self.own_retries:
                raise
            raise AirflowFailException(str(error)) from error


def items(ti, dag_run, given, path):
    """The list that a path leads to in what a task gave, each item as the input of a task."""
    found = ti.xcom_pull(task_ids=given) if given else dag_run.conf
    for part in path:
        found = found[int(part)] if isinstance(found, list) else found[part]
    if not isinstance(found, list):
        raise AirflowFailException(f"expected a list at {{path}}, got {{type(found).__name__}}")
    return [{{"PENSTOCK_INPUT": json.dumps(item)}} for item in found]


def gathered(ti, given):
    """What tasks gave, in order."""
    return [ti.xcom_pull(task_ids=task_id) for task_id in given]


def of_items(ti, given, listed):
    """What the items of a mapped task gave, in order; an empty list if there was none."""
    return [ti.xcom_pull(task_ids=given, map_indexes=i) for i in range(len(ti.xcom_pull(task_ids=listed)))]


def chosen(ti, given, cases, otherwise):
    """What stands for the case that a task gave."""
    case = ti.xcom_pull(task_ids=given)
    if case not in cases and otherwise is None:
        raise AirflowFailException(f"a branch chose a case that it has not: {{case!r}}; it has {{', '.join(cases)}}")
    return cases.get(case, otherwise)


def of_chosen(ti, given, cases, otherwise):
    """What the chosen case gave."""
    return ti.xcom_pull(task_ids=chosen(ti, given, cases, otherwise))


defaults = {{
    "retries": {retries},
    "retry_delay": timedelta(seconds=10),
    "retry_exponential_backoff": True,
}}

'''
#: Names of `_HEAD` that a task's variable may not take.
_RESERVED = frozenset(["json", "datetime", "timedelta", "timezone", "items", "gathered", "of_items", "chosen", "of_chosen", "defaults"])


def _imports(dags: str) -> str:
    def used(*names: str) -> str:
        return ", ".join(n for n in names if re.search(rf"\b{n}\(", dags))

    lines = ["from airflow.providers.standard.operators.bash import BashOperator"]
    if python := used("BranchPythonOperator", "PythonOperator"):
        lines.append(f"from airflow.providers.standard.operators.python import {python}")
    if sensors := used("BashSensor"):
        lines.append(f"from airflow.providers.standard.sensors.bash import {sensors}")
    lines.append(f"from airflow.sdk import {used('DAG', 'CronTriggerTimetable', 'DeltaTriggerTimetable', 'MultipleCronTriggerTimetable')}")
    lines.append("from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException")
    return "\n".join(lines) + "\n"


def _missing(found: Timing) -> Iterator[str]:
    yield from found.missing
    for name in found.by_hand:
        yield f"event({name}): start a run by hand or over REST; its conf is the input"
    plain, odd, zones = _ticks(found.ticks)
    if odd and (plain or len(odd) > 1):
        yield f"{odd[0] if plain else odd[1]}: such a span cannot stand beside other times"
    elif odd:
        yield f"{odd[0]}: counted from Airflow's first look, not from 1970"
    for tz in zones[1:]:
        yield f"times in {tz}: a DAG has one time zone; declare it as an automation of its own"
    if len({t.catch_up for t in found.ticks if isinstance(t, Cron)}) > 1:
        yield "different catch_up: the first one counts for all"


def _ticks(ticks: Sequence[Cron | Every]) -> tuple[list[tuple[str, str]], list[Every], list[str]]:
    """Cron lines with zones, spans that are none, and zones in order."""
    lines = [(t.text, t.tz) if isinstance(t, Cron) else (cron_of(t), "UTC") for t in ticks]
    plain = [(text, tz) for text, tz in lines if text is not None]
    odd = [t for t in ticks if isinstance(t, Every) and cron_of(t) is None]
    return plain, odd, list(dict.fromkeys(tz for _, tz in plain))


# -- one DAG --------------------------------------------------------------------------------------------------------
@dataclass
class _Dag:
    """One DAG being written: its lines, and the variable of each task id."""

    outline: Outline
    timing: Timing
    export: Export
    start: date
    lines: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)

    def text(self) -> str:
        first = self._first()
        if self.outline.block is not None:
            self._block(self.outline.block, "", first)
        else:
            self._assets(first)
        body = "".join(f"    {line}\n" if line else "\n" for line in "\n".join(self.lines).split("\n"))
        return f"with {self._head()}:\n{body}"

    def _head(self) -> str:
        catch_up = next((t.catch_up for t in self.timing.ticks if isinstance(t, Cron)), "last")
        arguments: dict[str, Any] = {
            "dag_id": self.outline.name, "description": self._description(), "schedule": self._schedule(catch_up),
            "catchup": catch_up == "all", "max_active_runs": 1, "default_args": Code("defaults"), "tags": ["penstock", self.export.project],
        }  # fmt: skip
        if catch_up == "all":
            arguments["start_date"] = Code(f"datetime({self.start.year}, {self.start.month}, {self.start.day}, tzinfo=timezone.utc)")
        return called("DAG", arguments)

    def _description(self) -> str:
        doc = _line(self.outline.doc)[:200]
        return f"{self.outline.when}. {doc}".strip() if self.outline.when is not None else doc

    def _schedule(self, catch_up: str) -> Code:
        """`last` makes up for the newest tick that passed before the first run; Airflow says that with `run_immediately`."""
        if self.timing.polled:
            return Code('CronTriggerTimetable("* * * * *", timezone="UTC")')
        plain, odd, zones = _ticks(self.timing.ticks)
        if not plain:
            return Code(f"DeltaTriggerTimetable(timedelta(seconds={span(odd[0].span).total_seconds():g}))" if odd else "None")
        here = [text for text, tz in plain if tz == zones[0]]
        kind = "CronTriggerTimetable" if len(here) == 1 else "MultipleCronTriggerTimetable"
        crons = ", ".join(map(quoted, here))
        return Code(f"{kind}({crons}, timezone={quoted(zones[0])}, run_immediately={catch_up == 'last'})")

    # -- what stands first
    def _first(self) -> str:
        """Tasks that wait or look before all others; the variable of the last of them, "" if there is none."""
        last = ""
        if polled := self.timing.polled:
            command = f"{self._planned(polled, 99)}\n{_NOTHING} && exit 99 || exit 0"
            last = self._add(f"arrived_{'_'.join(polled)}"[:200], "BashOperator", {"bash_command": command}, last)
            for source in polled:
                if source not in {p.name for p in self.outline.parts}:
                    last = self._command(Task(source, ("run", source), hands_on=False), "", last)
        for asset, fresh in self.timing.gates:
            arguments = {
                "bash_command": f"{self._planned((asset,), 1)}\n{'' if fresh else '! '}{_NOTHING}", "retry_exit_code": 1,
                "mode": "reschedule", "poke_interval": POLL_S,
            }  # fmt: skip
            last = self._add(f"{'fresh' if fresh else 'stale'}_{asset}", "BashSensor", arguments, last)
        return last

    def _planned(self, assets: Sequence[str], not_yet: int) -> str:
        """A shell line that keeps the plan of some assets; what cannot be planned ends the shell with `not_yet`, a wrong name with 2."""
        plan = shlex.join(self.export.argv("plan", "--json", *assets))
        return f"found=$({plan}) || {{ [ $? = 2 ] && exit 2 || exit {not_yet}; }}"

    # -- assets
    def _assets(self, first: str) -> None:
        edges = []
        for part in self.outline.parts:
            variable = self._command(Task(part.name, ("run", part.name), hands_on=False, doc=part.doc), "", "")
            ups = [self.variables[i] for i in part.inputs if i in self.variables] or [first]
            edges += [f"{up} >> {variable}" for up in ups if up]
        self.lines += ["", *edges] if edges else []

    # -- steps
    def _block(self, block: Block, given: str, above: str) -> tuple[list[str], str]:
        """Writes a block. Returns the ids of the tasks it begins with, and of the one whose XCom is its output.

        Args: given: id of the task whose output is the input, "" for the run's conf. above: the variable that stands before, "" for none.
        """
        if isinstance(block, Task):
            self._command(block, _pulled(given), above)
            return [task_id(block.name)], task_id(block.name)
        if isinstance(block, Row):
            heads: list[str] = []
            for inner in block.blocks:
                begins, given = self._block(inner, given, above)
                above, heads = self.variables[given], heads or begins
            return heads, given
        if isinstance(block, Together):
            arms = [self._block(arm, given, above) for arm in block.arms]
            ends = [end for _, end in arms]
            self._python(block.name, "gathered", {"given": ends}, ends)
            return [h for heads, _ in arms for h in heads], task_id(block.name)
        return self._choice(block, given, above) if isinstance(block, Choice) else self._mapped(block, given, above)

    def _choice(self, block: Choice, given: str, above: str) -> tuple[list[str], str]:
        """The task that chooses, a fork by its output, the cases, and a join that has the chosen one's output."""
        by, fork = task_id(block.name), task_id(f"{block.name}.choose")
        variable = self._command(block.task, _pulled(given), above)
        place = len(self.lines)
        self.lines.append("")
        cases = {case: self._block(inner, given, self._named(fork)) for case, inner in block.cases}
        otherwise = None if block.otherwise is None else self._block(block.otherwise, given, self._named(fork))
        told = {"given": by, "cases": {c: heads for c, (heads, _) in cases.items()}, "otherwise": otherwise and otherwise[0]}
        call = called("BranchPythonOperator", {"task_id": fork, "python_callable": Code("chosen"), "op_kwargs": told})
        self.lines[place] = f"{self._named(fork)} = {call}\n{variable} >> {self._named(fork)}"
        ends = {"given": by, "cases": {c: end for c, (_, end) in cases.items()}, "otherwise": otherwise and otherwise[1]}
        last = [end for _, end in cases.values()] + ([otherwise[1]] if otherwise else [])
        self._python(f"{block.name}.end", "of_chosen", ends, last, joins=True)
        return [by], task_id(f"{block.name}.end")

    def _mapped(self, block: Mapped, given: str, above: str) -> tuple[list[str], str]:
        """Mapped tasks if the block is one task; Airflow cannot map whatever else it may be, so then one command does all items."""
        inner = block.block
        if not isinstance(inner, Task):
            return self._block(block.whole, given, above)
        listed, each = task_id(f"{block.name}.items"), task_id(inner.name)
        told = {"given": given, "path": [p for p in block.over.split(".") if p]}
        items = self._add(f"{block.name}.items", "PythonOperator", {"python_callable": Code("items"), "op_kwargs": told}, above)
        arguments = {"task_id": each, **self._arguments(inner, ""), "max_active_tis_per_dagrun": block.at_once}
        variable = self._named(each)
        self.lines += [f"{variable} = {called('Penstock.partial', arguments)}.expand(env={items}.output)", f"{items} >> {variable}"]
        self._python(block.name, "of_items", {"given": each, "listed": listed}, [listed, each], joins=True)
        return [listed], task_id(block.name)

    # -- tasks
    def _command(self, task: Task, given: str, above: str) -> str:
        return self._add(task.name, "Penstock", self._arguments(task, given), above)

    def _arguments(self, task: Task, given: str) -> dict[str, Any]:
        """Arguments of a command's operator. `given`: a template of its input, "" if it is mapped or has none."""
        command = shlex.join(self.export.argv(*task.arguments))
        made: dict[str, Any] = {"bash_command": f'{command} --input "$PENSTOCK_INPUT"' if task.hands_on else command}
        if given and task.hands_on:
            made["env"] = {"PENSTOCK_INPUT": given}
        made |= {"append_env": True, "output_processor": Code("json.loads")} if task.hands_on else {"do_xcom_push": False}
        made |= _limits(task)
        return made | ({"doc_md": _line(task.doc)[:400]} if task.doc else {})

    def _python(self, name: str, function: str, told: dict[str, Any], ups: Sequence[str], *, joins: bool = False) -> None:
        """A task that puts outputs together. What `joins` has tasks above that are skipped while others succeed."""
        rule = {"trigger_rule": "none_failed_min_one_success"} if joins else {}
        variable = self._add(name, "PythonOperator", {"python_callable": Code(function), "op_kwargs": told, **rule}, "")
        self.lines += [f"{self.variables[up]} >> {variable}" for up in ups]

    def _add(self, name: str, operator: str, arguments: dict[str, Any], above: str) -> str:
        variable = self._named(task_id(name))
        self.lines.append(f"{variable} = {called(operator, {'task_id': task_id(name), **arguments})}")
        if above:
            self.lines.append(f"{above} >> {variable}")
        return variable

    def _named(self, id: str) -> str:
        """The variable of a task: its id as far as it can be, another for each task."""
        if id not in self.variables:
            made = identifier(id)
            while made in self.variables.values() or keyword.iskeyword(made) or made in _RESERVED:
                made += "_"
            self.variables[id] = made
        return self.variables[id]


#: Whether a kept plan has nothing to do, in shell.
_NOTHING = 'grep -q \'"nothing": true\' <<< "$found"'


def _limits(task: Task) -> dict[str, Any]:
    job = task.job
    if job is None:
        return {}
    made: dict[str, Any] = {}
    if job.retries:
        delay = Code(f"timedelta(seconds={span(job.backoff).total_seconds():g})")
        made |= {"own_retries": job.retries, "retries": max(job.retries, RETRIES), "retry_delay": delay}
    if job.timeout:
        made["execution_timeout"] = Code(f"timedelta(seconds={span(job.timeout).total_seconds():g})")
    if job.priority > 0:
        made["priority_weight"] = 1 + job.priority
    if key := key_of(job):
        made["pool"] = f"penstock.{key}"
    return made


def _pools(outlines: Sequence[Outline]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for job in (t.job for o in outlines if o.block is not None for t in tasks_of(o.block) if t.job is not None):
        if key := key_of(job):
            slots = min(job.at_once, found.get(f"penstock.{key}", {"slots": job.at_once})["slots"])
            found[f"penstock.{key}"] = {"slots": slots, "description": "jobs of Penstock with this key", "include_deferred": False}
    return found


# -- text -----------------------------------------------------------------------------------------------------------
def task_id(name: str) -> str:
    """A step's name as Airflow takes it: dots for slashes."""
    return name.replace("/", ".")


def _line(text: str) -> str:
    return " ".join(text.split())


def _pulled(given: str) -> str:
    """A template of the JSON that a task gave; at the start of the run's conf, null if it has none."""
    source = f"ti.xcom_pull(task_ids='{given}')" if given else "(dag_run.conf or none)"
    return f"{{{{ {source} | tojson }}}}"
