"""Finding assets, jobs, flows and automations: values in the user's modules. A name is the variable, or the function it was made of."""

from __future__ import annotations

import importlib
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from penstock.craft.schedule.cron import checked
from penstock.graph.graph import Asset
from penstock.ground.errors import DefinitionError, DriverMissing, PenstockError, ProjectNotLoaded, UnknownName, did_you_mean
from penstock.ground.names import asset_name
from penstock.spec.automation import DECLARED, Automation, Condition, Cron, leaves
from penstock.spec.automation import named as with_condition_names
from penstock.spec.features import Features
from penstock.spec.jobs import Flow, Job, Make, plain, resolved
from penstock.spec.models import Model, Predictions, with_names
from penstock.spec.sources import Database, Files
from penstock.spec.tables import Table

_KINDS = (Files, Database, Table, Features, Model, Predictions)
_VALUES = (*_KINDS, Job, Flow, Automation)
#: Folders of projects that this process has loaded: their modules are forgotten before the next load, of whichever project.
_loaded: set[str] = set()
#: Loading changes `sys.path` and `sys.modules`, which the whole process has in common.
_loading = threading.Lock()


def load_modules(root: Path, names: Iterable[str]) -> list[ModuleType]:
    """Imports the project's modules from its folder.

    Raises: ProjectNotLoaded(E1005) with the file and line that failed; errors of ours in a definition pass through.
    """
    with _loading:
        _loaded.add(f"{root}/")
        _forget()
        if str(root) in sys.path:
            sys.path.remove(str(root))
        sys.path.insert(0, str(root))
        return [_module(root, name) for name in names]


def _forget() -> None:
    """Drops projects' modules from earlier loads: edits are seen in the same process (notebooks, `up`), and modules of the same
    name in another project are not taken for this one's."""
    for name, module in list(sys.modules.items()):
        path = str(getattr(module, "__file__", "") or "")
        if path.startswith(tuple(_loaded)) and "site-packages" not in path and name.split(".")[0] not in ("penstock", "__main__"):
            del sys.modules[name]


def _module(root: Path, name: str) -> ModuleType:
    path = root / f"{name.removesuffix('.py').replace('.', '/')}.py"
    if not path.exists():
        package = root / name.replace(".", "/") / "__init__.py"
        if not package.exists():
            raise ProjectNotLoaded(
                "the project has no such module", place=str(path.name), expected=str(path),
                hint="run inside a project's folder, `penstock new NAME` makes one; `[project] modules` in penstock.toml names others",
            )  # fmt: skip
        path = package
    dotted = name.removesuffix(".py")
    if dotted in sys.modules:
        del sys.modules[dotted]
    importlib.invalidate_caches()
    try:
        return importlib.import_module(dotted)
    except PenstockError:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        where = next((f for f in reversed(traceback.extract_tb(error.__traceback__)) if f.filename.startswith(str(root))), None)
        line = where.lineno if where else getattr(error, "lineno", "?")
        raise ProjectNotLoaded(
            f"{type(error).__name__}: {error}", place=f"{path.name}:{line}", hint="the project's modules are imported to find its assets"
        ) from error


@dataclass(frozen=True)
class Found:
    """What the user's modules declare, by name. Assets, jobs and flows have their names in common; automations have theirs apart.

    References are names: flows are resolved (`spec.jobs.resolved`), automations name their target and what they look at.
    """

    assets: Mapping[str, Asset]
    jobs: Mapping[str, Job] = field(default_factory=dict)
    flows: Mapping[str, Flow] = field(default_factory=dict)
    automations: Mapping[str, Automation] = field(default_factory=dict)


def assets_of(modules: Iterable[ModuleType]) -> dict[str, Asset]:
    """All assets of some modules by name. Raises: as `found_in`."""
    return dict(found_in(modules).assets)


def found_in(modules: Iterable[ModuleType]) -> Found:
    """All that some modules declare, with references replaced by names.

    Also looks into lists, tuples (values with names of their own) and dicts (name -> value) at the top of a module.

    Raises: DefinitionError(E1001) if two different values have one name, a reference is to nothing in the modules, or a condition cannot
        work; NameRefused(E1002); UnknownName(E1003); CycleError(E1004) for flows in a circle.
    """
    named: dict[str, Any] = {}
    names: dict[int, str] = {}
    bare: list[tuple[str, Automation]] = []
    for module in modules:
        for variable, value in list(vars(module).items()):
            if variable == DECLARED:
                bare += [(f"{module.__name__}.{DECLARED}", a) for a in value if isinstance(a, Automation)]
            elif not variable.startswith("__"):
                for name, thing in _found(variable, value):
                    if id(thing) in names:
                        continue
                    # an automation may have the name of what it runs, so automations are kept apart by a sign that no name has
                    key = f"@{name}" if isinstance(thing, Automation) else name
                    if key in named:
                        what = "automations" if isinstance(thing, Automation) else "assets, jobs or flows"
                        raise DefinitionError(f"two {what} have the same name", place=f"{module.__name__}.{variable}", got=name)
                    names[id(thing)] = name
                    named[key] = replace(thing, name=name) if not getattr(thing, "name", name) else thing
    name_of = partial(_name_of, names=names, named=named)
    assets = {n: with_names(a, partial(name_of, of=n)) for n, a in named.items() if isinstance(a, _KINDS)}
    jobs = {asset_name(n): a for n, a in named.items() if isinstance(a, Job)}
    flows = {asset_name(n): resolved(a, partial(_step_of, names=names, named=named, of=n)) for n, a in named.items() if isinstance(a, Flow)}
    variables = [(n[1:], a) for n, a in named.items() if isinstance(a, Automation)]
    return Found(assets, jobs, flows, _automations(variables, [a for a in bare if id(a[1]) not in names], named, name_of))


def _found(variable: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, _VALUES):
        return [(getattr(value, "name", "") or variable, value)]
    if isinstance(value, list | tuple):
        return [(v.name, v) for v in value if isinstance(v, Table | Features | Model | Job | Flow | Automation) and v.name]
    if isinstance(value, dict):
        return [(str(k), v) for k, v in value.items() if isinstance(v, _VALUES)]
    return []


def _automations(
    variables: list[tuple[str, Automation]], bare: list[tuple[str, Automation]], named: Mapping[str, Any], name_of: Callable[..., str]
) -> dict[str, Automation]:
    """Automations by name, each checked: its target is there and takes the parameters, its conditions can be looked at."""
    made: dict[str, Automation] = {}
    placed = [*((name, name, a) for name, a in variables), *((a.name or "", place, a) for place, a in bare)]
    for name, place, automation in placed:
        target = _known(automation.target, named, partial(name_of, of=place))
        name = asset_name(name or target)
        if name in made:
            raise DefinitionError("two automations have the same name", place=place, got=name, hint='ps.automate(..., name="another_name")')
        params = dict(getattr(named[target], "params", ())) if isinstance(named[target], Job | Flow) else {}
        for key, value in automation.params:
            if key not in params:
                raise DefinitionError("the target has no such parameter", place=f"{name}.{key}", expected=", ".join(params), got=key)
            plain(value, f"{name}.{key}", definition=True)
        when = with_condition_names(automation.when, partial(_known, named=named, name_of=partial(name_of, of=name)))
        _can_be_looked_at(when, name, named)
        made[name] = Automation(target, when, name, automation.params)
    return made


def _can_be_looked_at(when: Condition, name: str, named: Mapping[str, Any]) -> None:
    """Raises: UnknownName(E1003), DefinitionError(E1001) for a reference of the wrong kind or a cron line that cannot be read."""
    for leaf in leaves(when):
        for of, kinds, expected in (("asset", _KINDS, "an asset"), ("source", (Files,), "a source of files"), ("what", _VALUES, "a name")):
            reference = getattr(leaf, of, None)
            if not isinstance(reference, str):
                continue
            if not isinstance(named[_known(reference, named, str)], kinds):
                raise DefinitionError("a condition looks at the wrong kind", place=f"{name}: {leaf}", expected=expected, got=reference)
        if isinstance(leaf, Cron):
            with suppress(DriverMissing):  # where nothing is scheduled cronsim need not be there; `up` says so
                checked(leaf.text, leaf.tz)


def _known(reference: Any, named: Mapping[str, Any], name_of: Callable[[Any], str]) -> str:
    name = name_of(reference)
    if name not in named:
        raise UnknownName("no asset, job or flow has this name", place=name[:80], hint=did_you_mean(name, _open(named)))
    return name


def _step_of(step: Any, names: Mapping[int, str], named: Mapping[str, Any], of: str) -> Job | Flow | Make:
    """What a step of a flow is: the value itself with its name, or an asset by name."""
    if isinstance(step, Job | Flow) and id(step) not in names:
        return step
    name = _known(step, named, partial(_name_of, names=names, named=named, of=of))
    found = named[name]
    if isinstance(found, Job | Flow):
        return found
    if isinstance(found, _KINDS):
        return Make(name)
    raise DefinitionError("not a step of a flow", place=of, expected="a job, flow or asset", got=type(found).__name__)


def _open(named: Mapping[str, Any]) -> list[str]:
    return [n for n in named if not n.startswith("@")]


def _name_of(reference: Any, names: Mapping[int, str], named: Mapping[str, Any], of: str) -> str:
    if isinstance(reference, str):
        return reference
    if id(reference) in names:
        return names[id(reference)]
    equal = [name for name in _open(named) if named[name] == reference]
    if len(equal) == 1:
        return equal[0]
    raise DefinitionError(
        "refers to something that is nothing of the project",
        place=of,
        got=repr(reference)[:80],
        hint="give it a name at the top of a module",
    )
