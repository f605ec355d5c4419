"""Who may import whom. The tables are the rule; the functions read any tree of files.

Every import counts: at the top of a file, inside a function, and under `if TYPE_CHECKING`. `test_layers.py` applies the rule to
the package, and shows that each part of it finds what it is for.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

#: The package; the functions below read any folder of the same shape.
PACKAGE = Path(__file__).parents[2] / "penstock"

#: Folder -> folders it may import from, besides itself. `""` is the face, `penstock/__init__.py`, which nobody inside imports.
FLOORS = {
    "ground": "",
    "spec": "ground",
    "graph": "ground spec",
    "ports": "ground spec",
    "plan": "ground spec graph ports",
    "craft": "ground spec",
    "adapters": "ground spec ports",
    "run": "ground spec graph ports plan craft",
    "project": "ground spec graph ports plan craft run",
    "web": "ground spec graph ports plan craft run project",
    "cli": "ground spec graph ports plan craft run project web",
    "testing": "ground spec graph ports plan craft run project",
    "": "ground spec graph ports plan craft run project",
}

#: Third party -> where it may be imported. What is not named here may be imported nowhere.
LIBRARIES = {
    "duckdb": "adapters/engine/duckdb run/forms.py",
    "pyiceberg": "adapters/lake",
    "sqlalchemy": "adapters/lake",
    "pyarrow": "ports/engine.py ports/source.py adapters craft run project/query.py testing",
    "adbc_driver_manager": "adapters/source",
    "adbc_driver_postgresql": "adapters/source",
    "pg8000": "adapters/state/postgresql",
    "polars": "run/forms.py",
    "pandas": "run/forms.py",
    "python_calamine": "adapters/engine/duckdb",
    "sqlglot": "craft/lineage craft/quality/conditions.py craft/temporal/expressions.py",
    "numpy": "craft/learning run/difference.py run/learn.py run/score.py run/fit.py run/judge.py run/matrices.py run/rebuild.py run/sets.py",
    "optuna": "run/sweep.py",
    "sklearn": "craft/learning",
    "scipy": "craft/learning/calibration.py craft/learning/metrics.py craft/learning/paired.py craft/learning/weak.py craft/learning/figures.py",
    "skops": "craft/learning",
    "cronsim": "craft/schedule/cron.py",
    "threadpoolctl": "craft/learning/telling.py",
    "cryptography": "craft/learning/signing.py",
    "lleaves": "craft/learning/runtimes.py",
    "llvmlite": "craft/learning/runtimes.py",
    "lightgbm": "craft/learning/artefact/lightgbm_text.py craft/learning/artefact/onnx_graph.py",
    "xgboost": "craft/learning/artefact/xgboost_ubj.py craft/learning/artefact/onnx_graph.py",
    "onnx": "craft/learning/artefact/onnx_graph.py",
    "onnxruntime": "craft/learning/artefact/onnx_graph.py",
    "onnxmltools": "craft/learning/artefact/onnx_graph.py",
    "skl2onnx": "craft/learning/artefact/onnx_graph.py",
    "starlette": "web",
    "uvicorn": "web",
    "click": "cli",
    "rich": "cli",
    "pytest": "testing",
    "hypothesis": "testing",
}

#: Adapter -> files outside it that may say its name: the forms users ask for by library, the dialect of
#: their queries, and what is loaded ahead for tasks.
NAMED = {
    "duckdb": "run/forms.py run/environment.py project/processes.py craft/lineage craft/quality/conditions.py craft/temporal/expressions.py adapters/compute/process"
}

#: What is read from outside a program's values -> the one file that reads it.
ONE_PLACE = {
    "os.environ os.environb os.getenv os.putenv": "ground/environ.py",
    "time.time time.time_ns time.monotonic time.perf_counter time.localtime time.gmtime": "ground/clock.py",
    "datetime.now datetime.utcnow datetime.today date.today": "ground/clock.py",
    "os.urandom os.getrandom random secrets uuid.uuid1 uuid.uuid4 uuid.uuid7": "ground/ids.py",
}


class Module:
    """One file: its place in the package, what it imports, and the dotted names and texts in it."""

    def __init__(self, path: Path, root: Path) -> None:
        self.where = path.relative_to(root).as_posix()
        parts = path.relative_to(root).with_suffix("").parts
        self.name = ".".join(("penstock", *(p for p in parts if p != "__init__")))
        self.floor = parts[0] if len(parts) > 1 else ""
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = list(ast.walk(tree))
        docs = {id(n.value) for n in nodes if isinstance(n, ast.Expr)}
        self.texts = [(n.lineno, n.value) for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in docs]
        self.names = [(n.lineno, ast.unparse(n)) for n in nodes if isinstance(n, ast.Attribute | ast.Name)]
        self.imports: list[tuple[int, str]] = []
        for node in nodes:
            if isinstance(node, ast.Import):
                self.imports += [(node.lineno, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                self.imports += [(node.lineno, "." * node.level + f"{node.module or ''}.{alias.name}") for alias in node.names]


def within(where: str, places: str) -> bool:
    return any(where == p or where.startswith(p + "/") for p in places.split())


def read(root: Path) -> list[Module]:
    return [Module(path, root) for path in sorted(root.rglob("*.py"))]


def arrows(modules: list[Module]) -> Iterator[str]:
    """Imports that go up, sideways between adapters (what they share is in `adapters/kit`), to the face, or to a third party out of place."""
    for module in modules:
        for line, target in module.imports:
            top, *rest = target.split(".")
            if top == "":
                yield f"{module.where}:{line} imports relatively"
            elif top != "penstock":
                if top not in sys.stdlib_module_names and not within(module.where, LIBRARIES.get(top, "")):
                    yield f"{module.where}:{line} may not import {top}"
            elif not rest or rest[0] not in FLOORS:
                yield f"{module.where}:{line} imports the face"
            elif rest[0] != module.floor and rest[0] not in FLOORS[module.floor].split():
                yield f"{module.where}:{line} {module.floor or 'the face'} may not import {rest[0]}"
            elif module.floor == rest[0] == "adapters" and rest[1:2] != ["kit"] and [*rest, ""][1:3] != module.name.split(".")[2:4]:
                yield f"{module.where}:{line} an adapter imports another: {target}"


def circle(modules: list[Module]) -> list[str]:
    """Modules that need each other in a circle, [] if there is none."""
    names = {m.name for m in modules}
    needs = {m.name: {t if t in names else t.rpartition(".")[0] for _, t in m.imports} & (names - {m.name}) for m in modules}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def outside_reads(modules: list[Module]) -> Iterator[str]:
    """Environment, wall clock and randomness outside their one file."""
    for module in modules:
        for names, place in ONE_PLACE.items():
            for line, name in {*module.names, *module.imports}:
                found = any(name == n or name.endswith("." + n) or (n == "random" and name.startswith("random.")) for n in names.split())
                if found and module.where != place:
                    yield f"{module.where}:{line} reads {name}, which only {place} does"


def leaks(modules: list[Module]) -> Iterator[str]:
    """Names of adapters outside the adapter itself and the entry points."""
    homes = {}
    for module in modules:
        if module.floor == "adapters" and len(parts := module.name.split(".")) > 3 and parts[2] != "kit":
            homes[parts[3]] = f"{homes.get(parts[3], '')} adapters/{parts[2]}/{parts[3]} adapters/{parts[2]}/{parts[3]}.py"
    for module in modules:
        for line, text in module.texts:
            for word, home in homes.items():
                if (text == word or text.startswith("penstock.adapters.")) and not within(module.where, f"{home} {NAMED.get(word, '')}"):
                    yield f"{module.where}:{line} names the adapter {word}"


RULES = {"arrows": arrows, "outside_reads": outside_reads, "leaks": leaks, "circle": circle}
