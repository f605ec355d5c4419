"""Fitting: a training function in a process of its own, with limits, told as it goes; what comes back is files and numbers, no objects.

The parent fills the matrices into an `Exchange`; the child loads the project's module, calls the training function on them, stores the
artefact as data, and writes out-of-fold scores. Nothing of the user's code or model runs in the parent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.ground.errors import MemoryLimit, TimeLimit, UserCodeError, from_record
from penstock.ports.compute import Ended, Limits, Task
from penstock.run.matrices import Exchange
from penstock.run.runtime import Event, Runtime
from penstock.spec.models import Calibration, Format, Kind, Model
from penstock.spec.sizes import size
from penstock.spec.spans import seconds

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from penstock.craft.learning.encoding import Encoder
    from penstock.craft.learning.scoring import Scorer
    from penstock.craft.learning.training import TrainingSet

#: Points of a learning curve that are kept; of longer ones every n-th.
CURVE_POINTS = 200
_PROGRESS = "progress.ndjson"


@dataclass(frozen=True)
class Fit:
    """One order to fit, as JSON.

    Attributes:
        model: the asset's name. source: the folder its code is loaded from; modules: what is loaded there.
        digest: of the code that is meant; another one is refused.
        encoder: the encoder's record. classes: of a multiclass model.
        exchange: the folder of matrices: X, y, weight, group, fold, held (rows to calibrate on), sample (rows for parity).
        folds: folds of cross-validation; with `ordered` each is learnt from the rows before it only.
        store: the folder for the artefact; "" for cross-validation only. name: as what it is signed, such as `delay@v3`, by
            the keys in the folder `keys`; created: when, as text.
    """

    model: str
    source: str
    modules: tuple[str, ...]
    digest: str
    encoder: Mapping[str, Any]
    exchange: str
    params: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    kind: Kind = "binary"
    classes: tuple[str, ...] = ()
    calibrate: Calibration | None = None
    format: Format | None = None
    folds: int = 0
    ordered: bool = False
    store: str = ""
    name: str = ""
    keys: str = ""
    created: str = ""
    threads: int = 1

    def record(self) -> dict[str, Any]:
        return asdict(self)


def from_payload(payload: Mapping[str, Any]) -> Fit:
    """What `Fit.record` gave, after JSON."""
    return Fit(**{**payload, "modules": tuple(payload["modules"]), "classes": tuple(payload["classes"])})


# -- in the parent --------------------------------------------------------------------------------------------------
def fitted(
    runtime: Runtime, order: Fit, model: Model, *, run: str, meanwhile: Callable[[], None] = lambda: None
) -> tuple[Mapping[str, Any], list[Mapping[str, Any]], Ended]:
    """Runs an order in a process of its own. Returns its result, its learning curve, and how it ended (with its cost).

    `meanwhile` is called once while the process works.

    Raises: UserCodeError(E5001), TimeLimit(E5004), MemoryLimit(E5003), and whatever error of ours the child raised.
    """
    arrays = Exchange(Path(order.exchange))
    shared = sum(f.stat().st_size for f in arrays.folder.iterdir())
    limits = Limits(
        memory_bytes=size(model.memory) + shared if model.memory else None, seconds=float(seconds(model.timeout)) if model.timeout else None
    )
    log = runtime.folder / "logs" / f"{run}-{order.model}.log"
    task = Task(f"fit:{order.model}:{runtime.ids.new()}", runtime.code.calls["fit"], order.record(), limits, log=log)
    handle = runtime.compute.start(task)
    curve: list[Mapping[str, Any]] = []
    seen = _Progress(arrays.folder / _PROGRESS)
    ended = None
    try:
        if order.store:
            _load_judges(order.format)
        meanwhile()
        while ended is None:
            ended = handle.wait(0.1)
            for point in seen.new():
                curve.append(point)
                text = ", ".join(f"{k} {v:.4g}" for k, v in point["values"].items())
                runtime.tell(Event("progress", order.model, f"{point['phase']} step {point['step']}: {text}", point))
    finally:
        if ended is None:
            handle.cancel()
    return result_of(ended, model, order.model), _thinned(curve), ended


def _load_judges(format: Format | None) -> None:
    """Loads what will measure the model, while another process fits it; some seconds with scikit-learn."""
    from importlib import import_module

    modules = ["metrics", "slices", "figures", "curves", "leakage", "paired"]
    if format is None or format == "skops":
        modules.append("artefact.skops_zip")
    for name in modules:
        import_module(f"penstock.craft.learning.{name}")


def result_of(ended: Ended, model: Model, name: str) -> Mapping[str, Any]:
    """The child's result. Raises what the ending means."""
    if ended.status == "done":
        return dict(ended.result)
    if ended.status == "timeout":
        raise TimeLimit(
            "training did not end in time", place=name, expected=f"at most {model.timeout}", hint="raise timeout=, or learn from fewer rows"
        )
    if ended.status == "memory" or (ended.error or {}).get("code") == "E5003":
        raise MemoryLimit(
            "training wants more memory than it was given", place=name, expected=f"at most {model.memory} beside the training set",
            hint="raise memory=, or learn from fewer rows",
        )  # fmt: skip
    if ended.status == "failed" and ended.error:
        raise from_record(ended.error)
    said = str((ended.error or {}).get("message") or ended.status)
    raise UserCodeError(f"the training process ended without a model: {said}", place=name, expected="a fitted model", got=ended.status)


class _Progress:
    """Reads the lines that were added to a file since the last look."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0

    def new(self) -> Iterator[Mapping[str, Any]]:
        try:
            with open(self._path, "rb") as lines:
                lines.seek(self._at)
                found = lines.read()
        except FileNotFoundError:
            return
        whole, _, _ = found.rpartition(b"\n")
        self._at += len(whole) + 1 if whole else 0
        for line in whole.splitlines():
            yield json.loads(line)


def _thinned(curve: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    step = -(-len(curve) // CURVE_POINTS) or 1
    return curve[::step]


# -- in the child ---------------------------------------------------------------------------------------------------
def work(model: Model, order: Fit) -> dict[str, Any]:
    """Cross-validates and fits as ordered; what it leaves are files: `oof` in the exchange, the artefact in `store`."""
    from penstock.craft.learning.encoding import from_record as encoder_from

    arrays, encoder = Exchange(Path(order.exchange)), encoder_from(order.encoder)
    told: dict[str, Any] = {}
    if order.folds:
        arrays.put("oof", _out_of_fold(model, order, arrays, encoder))
    if order.store:
        told = _stored(model, order, arrays, encoder)
    return told


def _given(order: Fit, arrays: Exchange, encoder: Encoder, rows: Any, phase: str) -> TrainingSet:
    from penstock.craft.learning.training import TrainingSet

    taken = [None if (a := arrays.get(name)) is None else a if rows is None else a[rows] for name in ("X", "y", "weight", "group")]
    X, y, weight, group = taken
    report = _Reporter(arrays.folder / _PROGRESS, phase)
    return TrainingSet(
        X, y, encoder.names, encoder.categorical, order.seed, weight, group, order.kind, order.classes, order.threads, report
    )  # fmt: skip


class _Reporter:
    """Appends progress to a file, a line each; lines are whole, since each is one short write."""

    def __init__(self, path: Path, phase: str) -> None:
        self._path, self._phase = path, phase

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        point = {"phase": self._phase, "step": int(step), "values": {k: float(v) for k, v in values.items()}}
        with open(self._path, "a", encoding="utf-8") as lines:
            lines.write(json.dumps(point) + "\n")


def _fit(model: Model, order: Fit, given: TrainingSet) -> Any:
    from penstock.craft.learning.training import train

    assert model.function is not None
    try:
        return train(model.function, given, dict(order.params), place=order.model)
    except MemoryError as error:
        raise MemoryLimit(
            "training wants more memory than it was given", place=order.model, hint="raise memory=, or learn from fewer rows"
        ) from error


def _scorer(fitted_model: Any, order: Fit, encoder: Encoder) -> Scorer:
    from penstock.craft.learning.artefact import scorer_of

    return scorer_of(fitted_model, encoder, kind=order.kind, classes=labels_of(order.kind, order.classes), place=order.model)


def labels_of(kind: Kind, classes: tuple[str, ...]) -> tuple[bool | str, ...]:
    """Labels by the codes that a model is fitted on."""
    return (False, True) if kind == "binary" else classes


def _out_of_fold(model: Model, order: Fit, arrays: Exchange, encoder: Encoder) -> NDArray[np.float64]:
    """Scores of the training rows by models that did not see them; NaN for rows that no fold validates."""
    import numpy as np

    fold, X = arrays.get("fold"), arrays.get("X")
    width = (len(order.classes),) if order.kind == "multiclass" else ()
    found = np.full((len(X), *width), np.nan)
    for f in range(order.folds):
        learnt = np.flatnonzero(fold < f if order.ordered else fold != f)
        asked = np.flatnonzero(fold == f)
        if not len(learnt) or not len(asked):
            continue
        given = _given(order, arrays, encoder, learnt, f"fold {f + 1} of {order.folds}")
        found[asked] = _scorer(_fit(model, order, given), order, encoder).scores(X[asked])
    return found


def _stored(model: Model, order: Fit, arrays: Exchange, encoder: Encoder) -> dict[str, Any]:
    """Fits on all rows but those held back for calibration, calibrates, and stores the artefact unsigned."""
    import numpy as np

    from penstock.craft.learning import artefact, calibration
    from penstock.craft.learning.outcomes import Outcomes
    from penstock.craft.learning.signing import Keys
    from penstock.ground.clock import SystemClock

    held = arrays.get("held")
    rows = None
    if held is not None:
        mask: NDArray[np.bool_] = np.ones(len(arrays.get("y")), dtype=bool)
        mask[held] = False
        rows = np.flatnonzero(mask)
    clock = SystemClock()
    given = _given(order, arrays, encoder, rows, "fit")
    tick = clock.tick()
    fitted_model = _fit(model, order, given)
    took = clock.tick() - tick
    calibrator = None
    if held is not None and order.calibrate:
        p = _scorer(fitted_model, order, encoder).scores(arrays.get("X")[held])
        weight = arrays.get("weight")
        y = arrays.get("y")[held]
        seen = Outcomes(order.kind, y, p, order.classes, None if weight is None else weight[held], None)
        calibrator = calibration.fit(seen, how=order.calibrate)
    manifest = artefact.store(
        fitted_model, encoder, Path(order.store), sample=arrays.get("sample"), kind=order.kind,
        classes=labels_of(order.kind, order.classes), format=order.format, calibrator=calibrator,
        keys=Keys(Path(order.keys)) if order.keys else None, name=order.name, created=order.created, place=order.model,
    )  # fmt: skip
    return {"manifest": manifest.as_record(), "fit_seconds": round(took, 6)}
