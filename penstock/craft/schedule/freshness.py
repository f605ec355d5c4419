"""Which assets are fresh by what is recorded: whether each version was made of the newest versions of all it needs. Pure.

Changes of code do not count here: `plan` sees them, and the next run makes what they touch.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from penstock.craft.schedule.conditions import Version
from penstock.ground.digest import digest

Recorded = tuple[Mapping[str, Any], datetime]


def versions(inputs: Mapping[str, tuple[str, ...]], assets: Mapping[str, Recorded], waiting: Mapping[str, str]) -> dict[str, Version]:
    """The newest version of each asset that was made, and why it is not fresh.

    Args:
        inputs: asset -> what it needs, in running order.
        assets: body and moment of the newest record of each asset.
        waiting: source -> why its version is not the newest, e.g. `3 files wait to be loaded`.
    """
    made: dict[str, Version] = {}
    for name, needed in inputs.items():
        body, at = assets.get(name, ({}, None))
        if at is None or not body.get("version"):
            continue
        version, read = str(body["version"]), body.get("inputs", {})
        stale = waiting.get(name, "") or next(filter(None, (_behind(n, made.get(n), read) for n in needed)), "")
        token = digest([version, waiting.get(name, ""), [made[n].token if n in made else "" for n in needed]])[:12]
        made[name] = Version(version, at, stale, token)
    return made


def _behind(name: str, found: Version | None, read: Mapping[str, str]) -> str:
    """Why an input makes an asset stale, "" if it does not."""
    if found is None:
        return f"{name} was never made"
    if found.stale:
        return f"{name} is not fresh: {found.stale}" if len(found.stale) < 200 else f"{name} is not fresh"
    return "" if str(read.get(name, "")) == found.version else f"{name} has a newer version"
