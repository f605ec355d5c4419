"""What a model was trained in: recorded with each version, compared when it is made again."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

#: Libraries whose release may change what is learnt.
LIBRARIES = (
    "penstock", "numpy", "scipy", "scikit-learn", "lightgbm", "xgboost", "xgboost-cpu", "catboost", "torch", "onnx", "onnxruntime", "skops",
    "pyarrow", "duckdb",
)  # fmt: skip


def record(cores: int) -> dict[str, Any]:
    """Python, machine, cores, and the releases of the libraries that are installed; JSON-ready. Imports none of them."""
    return {
        "python": platform.python_version(), "system": platform.system(), "machine": platform.machine(), "cores": cores,
        "libraries": {name: found for name in LIBRARIES if (found := _installed(name))},
    }  # fmt: skip


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is another one now, as texts such as `numpy 2.1.0 -> 2.2.0`."""
    flat = [{**{k: v for k, v in e.items() if k != "libraries"}, **e.get("libraries", {})} for e in (then, now)]
    names = sorted({*flat[0], *flat[1]})
    return [f"{n} {flat[0].get(n, 'none')} -> {flat[1].get(n, 'none')}" for n in names if flat[0].get(n) != flat[1].get(n)]
