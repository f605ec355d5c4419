"""Settings: where each part runs. Argument, then environment, then `penstock.toml`, then the embedded default."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from penstock.ground.environ import environment
from penstock.ground.errors import SettingsError, did_you_mean
from penstock.run.cost import Prices

FILE = "penstock.toml"
_PORTS = ("lake", "engine", "state", "compute", "tracker")
_PROJECT_KEYS = ("name", "modules", "level", "prices")
_UP_KEYS = ("token", "events")
#: The secret that callers over HTTP must send unless the settings name another.
TOKEN = "PENSTOCK_TOKEN"
_LEVEL_KEYS = (*_PORTS, "memory_limit", "threads")
_LATER = ("log", "online", "search", "vectors")


@dataclass(frozen=True)
class Settings:
    """All settings of one level.

    Attributes:
        modules: Python files or packages of the project, relative to its folder.
        urls: port -> URL; a port without one is embedded.
        options: further settings of the engine: `memory_limit` (`4GB`), `threads`.
        prices: what an hour of a processor and of a GB of memory costs: `[project] prices = {cpu_hour = 0.04, gb_hour = 0.005}`.
        tokens: event -> name of the secret that who raises it must send; "" for all else that is asked over HTTP.
    """

    root: Path
    name: str
    level: str = "embedded"
    modules: tuple[str, ...] = ("pipeline",)
    urls: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    prices: Prices = field(default_factory=Prices)
    tokens: Mapping[str, str] = field(default_factory=lambda: {"": TOKEN})

    @property
    def folder(self) -> Path:
        """The project's own data."""
        return self.root / ".penstock"


def load(root: Path, *, level: str | None = None) -> Settings:
    """Settings of a project's folder.

    Raises: SettingsError(E7001) for a file that is no TOML, an unknown key or level, with what is known.
    """
    data = _read(root / FILE)
    _known(data, ("project", "level", "up"), "")
    project = data.get("project", {})
    _known(project, _PROJECT_KEYS, "project")
    chosen = level or environment().get("PENSTOCK_LEVEL") or project.get("level")
    levels = data.get("level", {})
    if chosen and chosen not in levels and chosen != "embedded":
        raise SettingsError("no such level", place=f"{FILE}[level.{chosen}]", hint=did_you_mean(chosen, ["embedded", *levels]))
    values = dict(levels.get(chosen or "", {}))
    _known(values, _LEVEL_KEYS, f"level.{chosen}")
    if "threads" in values and not (isinstance(values["threads"], int) and values["threads"] > 0):
        raise SettingsError("not a number of threads", place=f"{FILE}[level.{chosen}].threads", expected="1 or more", got=values["threads"])
    for key in _LEVEL_KEYS:
        if found := environment().get(f"PENSTOCK_{key.upper()}"):
            values[key] = found
    if isinstance(text := values.get("threads"), str):
        if not text.isdigit() or int(text) < 1:
            raise SettingsError("not a number of threads", place="PENSTOCK_THREADS", expected="1 or more", got=text)
        values["threads"] = int(text)
    return Settings(
        root=root,
        name=str(project.get("name", root.name)),
        level=chosen or "embedded",
        modules=_modules(project.get("modules", "pipeline")),
        urls={k: str(v) for k, v in values.items() if k in _PORTS},
        options={k: v for k, v in values.items() if k not in _PORTS},
        prices=_prices(project.get("prices", {})),
        tokens=_tokens(data.get("up", {})),
    )


def _prices(values: Any) -> Prices:
    place = f"{FILE}[project].prices"
    if not isinstance(values, dict):
        raise SettingsError("not prices", place=place, expected="{cpu_hour = 0.04, gb_hour = 0.005}", got=values)
    _known(values, ("cpu_hour", "gb_hour"), "project.prices")
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < inf:
            raise SettingsError("not a price", place=f"{place}.{name}", expected="a number, 0 or more", got=value)
    return Prices(**{name: float(value) for name, value in values.items()})


def _tokens(values: Any) -> dict[str, str]:
    """`[up] token = "NAME"`, and `[up.events]` with another name for some events."""
    if not isinstance(values, dict):
        raise SettingsError("not a table", place=f"{FILE}[up]", expected='[up] with token = "NAME_OF_A_SECRET"', got=values)
    _known(values, _UP_KEYS, "up")
    events = values.get("events", {})
    found = {"": values.get("token", TOKEN), **(events if isinstance(events, dict) else {"events": events})}
    for event, name in found.items():
        if not isinstance(name, str) or not name.isidentifier():
            place = f"{FILE}[up.events].{event}" if event else f"{FILE}[up].token"
            raise SettingsError(
                "not the name of a secret", place=place, expected="PENSTOCK_TOKEN", hint="its value goes into the environment"
            )
    return found


def _modules(value: Any) -> tuple[str, ...]:
    found = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else ()
    if not found or not all(isinstance(name, str) for name in found):
        raise SettingsError(
            "not a list of modules", place=f"{FILE}[project].modules", expected='"pipeline" or ["pipeline", "more"]', got=value
        )
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError("cannot be read as TOML", place=str(path.name), got=str(error)) from error


def _known(values: Mapping[str, Any], keys: tuple[str, ...], place: str) -> None:
    for key in values:
        if key in _LATER:
            raise SettingsError(
                "this part cannot be moved yet", place=f"{FILE}[{place}].{key}" if place else f"{FILE}[{key}]", expected=", ".join(keys)
            )
        if key not in keys:
            raise SettingsError(
                "unknown setting", place=f"{FILE}[{place}].{key}" if place else f"{FILE}[{key}]", hint=did_you_mean(key, keys)
            )


def secret(name: str) -> str:
    """The value of a secret, from the environment.

    Raises: SettingsError(E7001) that names the place looked at, never a value.
    """
    found = environment().get(name)
    if found is None:
        raise SettingsError("a secret has no value", place=name, hint=f"set the environment variable {name}")
    return found
