"""Runtimes: the fastest known way to run a model over many rows, taken only if it answers as the model's own library does.

LightGBM's trees are compiled to machine code by lleaves, about four times as fast as its own `predict` for equal results. For the
others the library's own way was the fastest measured: XGBoost through ONNX or compiled was slower, and so was LightGBM through ONNX.
Compiled code is kept in a private folder with a record signed by our own key, and loaded only if it is the code that was signed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from penstock.craft.learning.artefact.stored import difference_of, probes
from penstock.craft.learning.scoring import Matrix, Predictor, Scorer, with_model
from penstock.craft.learning.signing import Keys
from penstock.ground.errors import DriverMissing, SignatureRefused
from penstock.ground.paths import private_folder, write_atomically

#: How far compiled scores may be from LightGBM's own: the trees are added in blocks, so the last bits may differ.
TOLERANCE = 1e-12
#: Seconds to compile one leaf, and seconds that compiled code saves per row and tree on one core; both measured on 200 trees of
#: 63 leaves. Compiled without inlining, which takes an eighth of the time and gives four fifths of the speed.
LEAF_S = 2.5e-4
SAVED_S = 2.5e-8
#: More leaves are not compiled: the compiler's memory and time grow with them.
MOST_LEAVES = 400_000
PURPOSE = "compiled"
#: Rows of a stream on which, with the neighbours of thresholds, the two are compared.
COMPARED_ROWS = 2_000


@dataclass(frozen=True, eq=False)
class CompiledPredictor:
    """A LightGBM model whose scores come from compiled code, and all else from itself."""

    native: Predictor
    code: Any
    cores: int

    @property
    def columns(self) -> int:
        return self.native.columns

    @property
    def outputs(self) -> tuple[int, ...]:
        return self.native.outputs

    @property
    def reasons_in(self) -> Literal["margin", "score"]:
        return self.native.reasons_in

    def predict(self, X: Matrix) -> Matrix:
        found = np.asarray(self.code.predict(X, n_jobs=min(self.cores, max(1, len(X) // 1_000))), dtype=np.float64)
        return np.column_stack([1 - found, found]) if len(self.outputs) > 1 and found.ndim == 1 else found

    def margin(self, X: Matrix) -> Matrix:
        return self.native.margin(X)

    def contributions(self, X: Matrix) -> tuple[Matrix, Matrix] | None:
        return self.native.contributions(X)

    def thresholds(self) -> tuple[NDArray[np.int64], Matrix]:
        return self.native.thresholds()


@dataclass(frozen=True)
class Chosen:
    """A scorer with the runtime that was chosen, and why, in words for a person.

    Attributes:
        runtime: `compiled` or `native`. cached: whether the code was there already. difference: the greatest found.
    """

    scorer: Scorer
    runtime: Literal["compiled", "native"]
    note: str
    cached: bool = False
    difference: float = 0.0


def fastest(
    scorer: Scorer, sample: Matrix, *, rows: int, cache: Path | None = None, keys: Keys | None = None, cores: int | None = None
) -> Chosen:
    """The scorer with the runtime that is the fastest for so many rows.

    Args:    sample: (n, d) encoded rows to compare on, best of those that are to be scored.
             rows: how many will be; compiling must pay.
             cache: a folder for compiled code, used only with keys; without it code is compiled anew.
    Cost:    nothing if it stays native; else up to `LEAF_S` per leaf once, and the comparison on some thousand rows.
    Raises:  nothing of its own: what stands against compiling is told in the note, and the native runtime is used.
    """
    text = _text(scorer.model)
    if text is None:
        return Chosen(scorer, "native", "its library's own runtime is the fastest known")
    cores = cores or os.cpu_count() or 1
    leaves, trees = _size(text)
    place = None if cache is None or keys is None else _place(cache, text)
    known = place is not None and place.with_suffix(".json").exists()
    saved = rows * trees * SAVED_S / cores
    if leaves > MOST_LEAVES or saved < (0.2 if known else 2 * leaves * LEAF_S):
        return Chosen(scorer, "native", f"compiling would not pay for {rows:,} rows")
    try:
        code, cached = _compiled(text, place, keys)
    except Exception as error:  # noqa: BLE001 - a compiler that is missing or cannot do this model is no reason not to score
        hint = "; pip install 'penstock[fast]'" if isinstance(error, ImportError | AttributeError) else ""
        return Chosen(scorer, "native", f"not compiled: {type(error).__name__}: {error}"[:200] + hint)
    faster = with_model(scorer, CompiledPredictor(scorer.model, code, cores))
    found = probes(scorer.model, sample[:COMPARED_ROWS])
    gap = float(difference_of(scorer.model.predict(found), faster.model.predict(found), relative=not scorer.classes).max(initial=0.0))
    if gap > TOLERANCE:
        return Chosen(scorer, "native", f"compiled code differs by {gap:.3g} on {len(found):,} rows, so it is not used", difference=gap)
    return Chosen(faster, "compiled", f"compiled; differs by at most {gap:.3g} on {len(found):,} rows", cached, gap)


def _text(model: Predictor) -> str | None:
    """The text of a LightGBM model, None of any other."""
    booster: Any = getattr(model, "booster", None)
    return str(booster.model_to_string()) if hasattr(booster, "model_to_string") else None


def _size(text: str) -> tuple[int, int]:
    """Leaves and trees."""
    numbers = [int(line[11:]) for line in text.splitlines() if line.startswith("num_leaves=")]
    return sum(numbers), len(numbers)


def _place(cache: Path, text: str) -> Path:
    """Where the code of a model for this processor and this compiler is kept."""
    try:
        import llvmlite.binding as llvm

        cpu = llvm.get_host_cpu_name() + llvm.get_host_cpu_features().flatten()
        made_by = importlib.metadata.version("llvmlite") + importlib.metadata.version("lleaves")
    except (ImportError, RuntimeError):
        cpu = made_by = ""
    return cache / f"{hashlib.sha256(f'{text}{cpu}{made_by}'.encode()).hexdigest()}.o"


def _compiled(text: str, place: Path | None, keys: Keys | None) -> tuple[Any, bool]:
    """The compiled model, and whether its code was there already. Code that is not the one we signed is made anew."""
    import tempfile

    import lleaves

    kept = place is not None and keys is not None and _is_ours(place, keys)
    with tempfile.TemporaryDirectory() as held:
        source = Path(held) / "model.txt"
        source.write_text(text)
        model = lleaves.Model(str(source))
        if place is not None and kept:
            model.compile(cache=str(place), finline=False)
            return model, True
        made = Path(held) / "model.o"
        model.compile(cache=str(made), finline=False)
        if place is not None and keys is not None:
            _keep(made.read_bytes(), place, keys)
    return model, False


def _is_ours(place: Path, keys: Keys) -> bool:
    """Whether the code is there, in a folder of our own, and is the one that our key signed."""
    try:
        found = os.lstat(place.parent)
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            return False
        record = keys.verify(json.loads(place.with_suffix(".json").read_text()), purpose=PURPOSE)
        return bool(record == _record(place.read_bytes(), place))
    except (OSError, ValueError, SignatureRefused, DriverMissing):
        return False


def _keep(code: bytes, place: Path, keys: Keys) -> None:
    try:
        signed = keys.sign(_record(code, place), purpose=PURPOSE)
    except (SignatureRefused, DriverMissing):
        return
    private_folder(place.parent)
    write_atomically(place, code)
    write_atomically(place.with_suffix(".json"), json.dumps(signed).encode())


def _record(code: bytes, place: Path) -> dict[str, str]:
    return {"code": place.name, "sha256": hashlib.sha256(code).hexdigest()}
