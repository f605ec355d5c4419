"""Values and calls as Python code, laid out as a formatter leaves them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

#: A list or mapping longer than this stands on several lines.
_LONG = 80


class Code(str):
    """Text that is code already."""

    __slots__ = ()


def rendered(value: Any) -> str:
    """A text, number, None, list or mapping of such as code."""
    if isinstance(value, Code):
        return str(value)
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Mapping):
        return _bracketed("{", [f"{rendered(k)}: {rendered(v)}" for k, v in value.items()], "}")
    if isinstance(value, list | tuple):
        return _bracketed("[", [rendered(v) for v in value], "]")
    return repr(value)


def called(name: str, arguments: Mapping[str, Any]) -> Code:
    """A call with keyword arguments, one on a line."""
    return Code(f"{name}(\n" + "".join(_indented(f"{key}={rendered(value)},\n") for key, value in arguments.items()) + ")")


def quoted(text: str) -> str:
    """A text in the quotes that need fewer backslashes, double ones if both do."""
    inner = json.dumps(text, ensure_ascii=False)[1:-1]
    if text.count('"') <= text.count("'"):
        return f'"{inner}"'
    return "'" + inner.replace('\\"', '"').replace("'", "\\'") + "'"


def identifier(text: str) -> str:
    """A name for a variable or module: ASCII letters, digits and underscores."""
    made = re.sub(r"\W", "_", text, flags=re.ASCII)
    return f"_{made}" if made[:1].isdigit() or not made else made


def _bracketed(left: str, parts: list[str], right: str) -> str:
    line = left + ", ".join(parts) + right
    if len(line) <= _LONG and "\n" not in line:
        return line
    return f"{left}\n" + "".join(_indented(f"{part},\n") for part in parts) + right


def _indented(text: str) -> str:
    return "".join(f"    {line}" if line.strip() else line for line in text.splitlines(keepends=True))
