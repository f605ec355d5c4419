"""URL -> adapter, through entry points: the same door for ours and for others'."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pkgutil import walk_packages
from typing import Any

from penstock.ground.errors import DriverMissing, SettingsError, did_you_mean
from penstock.ports.adapters import Context


def known(port: str) -> dict[str, EntryPoint]:
    """Adapters of a port by URL scheme; reading them imports nothing."""
    return {point.name: point for point in entry_points(group=f"penstock.{port}")}


def adapter_class(port: str, url: str) -> Any:
    """The class that opens a URL.

    Raises: SettingsError(E7001) for an unknown scheme with the known ones; DriverMissing(E7002) with the install command.
    """
    scheme = url.partition("://")[0].partition("+")[0]
    points = known(port)
    if scheme not in points:
        raise SettingsError(f"no {port} adapter for this URL", place=port, got=f"{scheme}://", hint=did_you_mean(scheme, points))
    try:
        return points[scheme].load()
    except ImportError as error:
        raise DriverMissing(
            f"the driver of {scheme} is not installed", place=port, got=str(error), hint=f"pip install 'penstock[{scheme}]'"
        ) from error


def modules_of(port: str, url: str) -> list[str]:
    """The module that has the adapter of a URL, and those below it, which it loads when they are needed; none for an unknown scheme."""
    point = known(port).get(url.partition("://")[0].partition("+")[0])
    spec = find_spec(point.module) if point is not None else None
    if point is None or spec is None:
        return []
    below = walk_packages(spec.submodule_search_locations, f"{point.module}.") if spec.submodule_search_locations else ()
    return [point.module, *(found.name for found in below)]


def opened(port: str, url: str, context: Context, **more: Any) -> Any:
    return adapter_class(port, url).open(url, context, **more)
