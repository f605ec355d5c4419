"""Fingerprints of user code: a function's syntax tree and what it reaches in the project. Comments and formatting do not count."""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from collections.abc import Callable, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import partial
from pathlib import Path, PurePath
from types import FunctionType, ModuleType
from typing import Any
from uuid import UUID

from penstock.ground.digest import digest
from penstock.ground.errors import VersionNotFound
from penstock.ground.paths import inside, private_folder, write_atomically

_PLAIN = (
    bool, int, float, complex, str, bytes, type(None), range, date, time, timedelta, Decimal, Fraction, UUID, PurePath, re.Pattern, Enum,
)  # fmt: skip
#: Members that every class has, and that say nothing of its code.
_OF_CLASSES = {"__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__firstlineno__", "__static_attributes__"}


class CodeReader:
    """Reads each source file once; `root` bounds what counts as the project's own code."""

    def __init__(self, root: Path) -> None:
        self._root = str(root.resolve())
        self._trees: dict[str, dict[int, ast.AST]] = {}

    def digest(self, function: Callable[..., Any]) -> str:
        """A digest over the function, the project's functions and classes it uses, and the plain constants it uses.

        A function without a source file (typed into a shell) counts by its byte code, which differs between Python versions.
        """
        parts: dict[str, Any] = {}
        self._visit(function, parts)
        return digest(parts)

    def file(self, path: str) -> str:
        """A digest of a file of the project, such as a finished model; "" for an address, or if there is no such file."""
        if "://" in path:
            return ""
        try:
            with open(Path(self._root) / path, "rb") as data:
                return hashlib.file_digest(data, "sha256").hexdigest()
        except OSError:
            return ""

    def _visit(self, thing: Any, parts: dict[str, Any]) -> None:
        key = f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', '')}"
        if key in parts:
            return
        parts[key] = ""
        if isinstance(thing, type):
            for base in thing.__bases__:
                self._reach(base, key, parts)
            for name, member in vars(thing).items():
                if name not in _OF_CLASSES:
                    self._reach(getattr(member, "fget", None) or getattr(member, "__func__", member), f"{key}.{name}", parts)
            return
        code = thing.__code__
        tree = self._tree(code.co_filename).get(code.co_firstlineno)
        parts[key] = _flat(tree) if tree is not None else [code.co_code.hex(), repr([c for c in code.co_consts if isinstance(c, _PLAIN)])]
        for cell in thing.__closure__ or ():
            self._reach(cell.cell_contents, "closure", parts)
        for default in (*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()):
            self._reach(default, f"{key}()", parts)
        for name in _names(code):
            if name in thing.__globals__:
                self._reach(thing.__globals__[name], name, parts)

    def _reach(self, value: Any, name: str, parts: dict[str, Any]) -> None:
        value = _unwrapped(value)
        if isinstance(value, FunctionType | type):
            if self._ours(_file_of(value)):
                self._visit(value, parts)
        elif isinstance(value, partial):
            for each in (value.func, *value.args, *value.keywords.values()):
                self._reach(each, name, parts)
        elif isinstance(value, ModuleType):
            if self._ours(str(getattr(value, "__file__", "") or "")) and f"module {value.__name__}" not in parts:
                parts[f"module {value.__name__}"] = ""
                for inner_name, inner in vars(value).items():
                    if not inner_name.startswith("__") and not isinstance(inner, ModuleType):
                        self._reach(inner, f"{value.__name__}.{inner_name}", parts)
        elif _is_plain(value):
            parts[f"{name}={_text(value)}"] = ""

    def _ours(self, path: str) -> bool:
        """Whether a file is the project's own: inside its folder, and no installed package of an environment there."""
        return path.startswith(f"{self._root}/") and "/site-packages/" not in path

    def _tree(self, path: str) -> dict[int, ast.AST]:
        """First line (decorators included) -> definition, of one file; empty if there is no such file."""
        if path not in self._trees:
            try:
                tree = ast.parse(Path(path).read_bytes())
            except (OSError, SyntaxError, ValueError):
                self._trees[path] = {}
                return {}
            found: dict[int, ast.AST] = {}
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    found[min([node.lineno, *(d.lineno for d in node.decorator_list)])] = node
                elif isinstance(node, ast.Lambda):
                    found.setdefault(node.lineno, node)
            self._trees[path] = found
        return self._trees[path]


def sources(root: Path) -> dict[str, Path]:
    """The project's own source files among the modules that are loaded, by their path inside its folder."""
    found = {}
    for module in list(sys.modules.values()):
        path = str(getattr(module, "__file__", "") or "")
        if path.startswith(f"{root.resolve()}/") and path.endswith(".py") and "/site-packages/" not in path:
            found[str(Path(path).relative_to(root.resolve()))] = Path(path)
    return dict(sorted(found.items()))


def kept(root: Path, store: Path) -> dict[str, str]:
    """Stores the project's source files by content; gives each file's name in the store by its path. Repeat: writes nothing."""
    told = {}
    for relative, path in sources(root).items():
        data = path.read_bytes()
        told[relative] = f"{hashlib.sha256(data).hexdigest()}.py"
        place = private_folder(store) / told[relative]
        if not place.exists():
            write_atomically(place, data)
    return told


def laid_out(files: Mapping[str, str], store: Path, folder: Path) -> None:
    """Writes kept source files into a folder as they lay in the project's.

    Raises: VersionNotFound(E4009) for a file that is missing or another one.
    """
    for relative, name in files.items():
        place = inside(folder, relative)
        try:
            data = (store / Path(name).name).read_bytes()
        except OSError:
            data = b""
        if f"{hashlib.sha256(data).hexdigest()}.py" != name:
            raise VersionNotFound("a source file of the version is missing", place=relative, expected=name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)


def _unwrapped(value: Any) -> Any:
    """The function inside a decorated one (`functools.wraps`, `lru_cache`), or inside an asset."""
    while not isinstance(value, ModuleType) and isinstance(
        inner := getattr(value, "__wrapped__", None) or getattr(value, "function", None), FunctionType
    ):
        value = inner
    return value


def _file_of(thing: Any) -> str:
    """The file that defines a function or class. A module of that name may be another one by now, so functions are asked first."""
    functions = [thing] if isinstance(thing, FunctionType) else [m for m in vars(thing).values() if isinstance(m, FunctionType)]
    files = [f.__code__.co_filename for f in functions if f.__module__ == thing.__module__]
    written = [file for file in files if not file.startswith("<")]
    return written[0] if written else str(getattr(sys.modules.get(thing.__module__), "__file__", "") or "")


def _names(code: Any) -> list[str]:
    names = list(code.co_names)
    for constant in code.co_consts:
        if hasattr(constant, "co_names"):
            names += _names(constant)
    return sorted(set(names))


def _flat(node: Any) -> Any:
    """A tree as nested lists: node names and their non-empty fields; positions, decorators and docstrings left out.

    The same in every supported Python, unlike `ast.dump`.
    """
    if isinstance(node, list):
        return [_flat(n) for n in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = []
    for name, value in ast.iter_fields(node):
        if value is None or value == [] or name in ("decorator_list", "ctx", "kind", "type_comment", "type_params"):
            continue
        if name == "body" and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            value = _without_docstring(value)
        fields.append([name, _flat(value)])
    return [type(node).__name__, fields]


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    return body[1:] if is_text else body


def _is_plain(value: Any) -> bool:
    """Whether a value's text tells all of it, in every process."""
    if isinstance(value, dict):
        return all(_is_plain(k) and _is_plain(v) for k, v in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return all(_is_plain(v) for v in value)
    return isinstance(value, _PLAIN)


def _text(value: Any) -> str:
    return repr(sorted(value, key=repr)) if isinstance(value, set | frozenset) else repr(value)
