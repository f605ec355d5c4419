"""A trial of a file from outside: read and run once in a process of its own, so that what crashes or swallows memory is only that."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

from penstock.craft.learning.scoring import Matrix
from penstock.ground.errors import ArtefactRefused
from penstock.spec.models import Kind

#: Address space of the process: a runtime with its threads takes about two gigabytes of it, most of it never used.
MOST_MEMORY = 6 << 30
TIMEOUT_S = 120.0
#: What runs there. The file comes by the standard input behind one line of JSON; a refusal goes back as one line.
_PROGRAM = """
import json, resource, sys
told = json.loads(sys.stdin.buffer.readline())
sys.path[:] = told["path"]
resource.setrlimit(resource.RLIMIT_AS, (told["memory"], told["memory"]))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
import importlib
import numpy as np
from penstock.ground.errors import PenstockError
sample = np.frombuffer(sys.stdin.buffer.read(told["rows"] * told["columns"] * 8)).reshape(told["rows"], told["columns"])
data = sys.stdin.buffer.read()
try:
    outputs = tuple(told["outputs"])
    model = importlib.import_module(told["module"]).loaded(data, told["kind"], tuple(told["classes"]), outputs, told["columns"], told["place"])
    model.predict(sample)
    print("\\n" + json.dumps({}))
except PenstockError as error:
    print("\\n" + json.dumps({"message": error.message, "expected": error.expected, "got": error.got, "hint": error.hint}))
except Exception as error:
    print("\\n" + json.dumps({"message": f"the model cannot score: {type(error).__name__}: {error}"[:300]}))
"""


def require_harmless(
    module: str, data: bytes, kind: Kind, classes: Sequence[bool | int | str], sample: Matrix, columns: int, place: str
) -> None:
    """Nothing, if a format's `loaded` reads these bytes and the model answers for a few rows.

    Args:    module: the format's file. sample: (n rows, d columns) to run it on.
    Cost:    the start of a process and its libraries, one to three seconds.
    Raises:  ArtefactRefused(E6002) with the reason, also for a crash, too much memory, and no answer in time.
    """
    outputs = [] if not classes else [1] if kind == "binary" else list(range(len(classes)))
    told = {
        "path": sys.path, "memory": MOST_MEMORY, "rows": len(sample), "columns": columns, "module": module, "kind": kind,
        "classes": list(classes), "outputs": [] if module.endswith(("onnx_graph", "skops_zip")) else outputs, "place": place,
    }  # fmt: skip
    given = json.dumps(told).encode() + b"\n" + sample.astype(float).tobytes() + data
    try:
        done = subprocess.run([sys.executable, "-c", _PROGRAM], input=given, capture_output=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ArtefactRefused("the model does not answer", place=place, expected=f"within {TIMEOUT_S:g} s") from error
    lines = done.stdout.decode(errors="replace").strip().splitlines()
    try:
        answer = json.loads(lines[-1]) if lines and done.returncode == 0 else None
    except ValueError:
        answer = None
    if answer is None:
        raise ArtefactRefused("reading the model ends the process that reads it", place=place, got=f"exit {done.returncode}")
    if answer:
        raise ArtefactRefused(**{k: answer[k] for k in answer}, place=place)
