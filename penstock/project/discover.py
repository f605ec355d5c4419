"""Finding assets: values in the user's modules. There is no registry; a name is the variable, or the function it was made of."""

from __future__ import annotations

import importlib
import sys
import threading
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from penstock.graph.graph import Asset
from penstock.ground.errors import DefinitionError, PenstockError, ProjectNotLoaded
from penstock.spec.features import Features
from penstock.spec.models import Model, Predictions, with_names
from penstock.spec.sources import Database, Files
from penstock.spec.tables import Table

_KINDS = (Files, Database, Table, Features, Model, Predictions)
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


def assets_of(modules: Iterable[ModuleType]) -> dict[str, Asset]:
    """All assets of some modules by name, with references among them replaced by names.

    Also looks into lists, tuples (assets with names of their own) and dicts (name -> asset) at the top of a module.

    Raises: DefinitionError(E1001) if two different assets have one name, or a reference is to no asset of the modules.
    """
    named: dict[str, Any] = {}
    names: dict[int, str] = {}
    for module in modules:
        for variable, value in list(vars(module).items()):
            if not variable.startswith("__"):
                for name, asset in _found(variable, value):
                    if id(asset) in names:
                        continue
                    if name in named:
                        raise DefinitionError("two assets have the same name", place=f"{module.__name__}.{variable}", got=name)
                    names[id(asset)] = name
                    named[name] = replace(asset, name=name) if isinstance(asset, Model) and not asset.name else asset
    return {name: with_names(asset, partial(_name_of, names=names, named=named, of=name)) for name, asset in named.items()}


def _found(variable: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, _KINDS):
        return [(getattr(value, "name", "") or variable, value)]
    if isinstance(value, list | tuple):
        return [(v.name, v) for v in value if isinstance(v, Table | Model)]
    if isinstance(value, dict):
        return [(str(k), v) for k, v in value.items() if isinstance(v, _KINDS)]
    return []


def _name_of(reference: Any, names: Mapping[int, str], named: Mapping[str, Any], of: str) -> str:
    if isinstance(reference, str):
        return reference
    if id(reference) in names:
        return names[id(reference)]
    equal = [name for name, asset in named.items() if asset == reference]
    if len(equal) == 1:
        return equal[0]
    raise DefinitionError(
        "refers to something that is no asset of the project",
        place=of,
        got=repr(reference)[:80],
        hint="give it a name at the top of a module",
    )
