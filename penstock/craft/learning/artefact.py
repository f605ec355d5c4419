"""Artefacts: a model stored as data, loaded only if every byte is the one stored and every type is one we have looked at.

A stored model is a folder: `model.skops` (JSON and arrays in a zip; no pickle), `encoder.json`, and `manifest.json` for whoever
opens it without Penstock. Loading goes by a manifest that is kept elsewhere (the registry). Nothing here ever unpickles.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import skops
import skops.io
from numpy.typing import NDArray

from penstock.craft.learning.encoding import Encoder, from_record
from penstock.craft.learning.scoring import Scorer, scorer_of
from penstock.craft.learning.trees import check_trees
from penstock.ground.errors import ArtefactRefused
from penstock.ground.paths import inside, private_folder, write_atomically

#: Types that skops leaves to us, each looked at: what its file can hold, and what loading it runs.
ALLOWED = (
    # Trees: arrays of nodes that scikit-learn follows unchecked; `check_trees` looks at every index before the first score.
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
    # The column transformer inside HistGradientBoosting with categorical columns: partial(check_array, ...); what a partial
    # calls is held to the same list.
    "functools.partial",
    "sklearn.utils.validation.check_array",
    # Plain attributes and arrays, no code on loading.
    "numpy.dtype",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.utils._bunch.Bunch",
)
#: How far scores may differ after storing and loading.
TOLERANCE = 1e-9
KIND = "skops"
_MODEL, _ENCODER, _MANIFEST = "model.skops", "encoder.json", "manifest.json"


@dataclass(frozen=True)
class StoredFile:
    """A file of an artefact, by name within its folder."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What an artefact consists of.

    Attributes:
        kind: how the model is stored; `skops` for now.
        model: the class of the model, with its module.
        columns: the columns it takes, in order.
        versions: library -> version it was stored with.
        checked_rows: rows on which the stored model was compared with the one that was trained.
        difference: the greatest difference of their scores.
    """

    kind: str
    model: str
    files: tuple[StoredFile, ...]
    columns: tuple[str, ...]
    versions: Mapping[str, str]
    checked_rows: int
    difference: float

    def as_record(self) -> dict[str, Any]:
        """JSON-ready; `manifest_from` reads it."""
        files = [{"name": f.name, "size_bytes": f.size_bytes, "sha256": f.sha256} for f in self.files]
        return vars(self) | {"files": files, "columns": list(self.columns), "versions": dict(self.versions)}


def manifest_from(record: Mapping[str, Any]) -> Manifest:
    """What `Manifest.as_record` gave; keys it does not know are ignored."""
    files = tuple(StoredFile(f["name"], f["size_bytes"], f["sha256"]) for f in record["files"])
    plain = {name: record[name] for name in ("kind", "model", "checked_rows", "difference")}
    return Manifest(**plain, files=files, columns=tuple(record["columns"]), versions=dict(record["versions"]))


def store(model: Any, encoder: Encoder, folder: Path, *, sample: NDArray[np.float64], place: str = "") -> Manifest:
    """Stores a fitted model as data, after loading it back and comparing scores on a sample.

    Args:    sample: encoded rows, some hundred; none of them is stored.
    Durable: on return all files are synced. Nothing is written for a model that is refused.
    Raises:  UserCodeError(E5001) if it is no fitted classifier of two classes; ArtefactRefused(E6002) if it has parts that are
             not plain data, or scores differently after loading.
    """
    native = scorer_of(model, encoder, place=place)
    data = _dumped(model, place)
    loaded = scorer_of(_loaded(data, place), encoder, place=place)
    before, after = native.scores(sample), loaded.scores(sample)
    difference = float(np.max(np.abs(before - after), initial=0.0))
    if difference > TOLERANCE:
        hint = "the model keeps state that is not stored, or scores at random"
        raise ArtefactRefused(
            "the model scores differently after loading", place=place, expected=f"<= {TOLERANCE:g}", got=difference, hint=hint
        )
    contents = {_MODEL: data, _ENCODER: encoder.as_bytes()}
    files = tuple(StoredFile(name, len(content), _sha256(content)) for name, content in contents.items())
    kind = type(model)
    manifest = Manifest(KIND, f"{kind.__module__}.{kind.__qualname__}", files, encoder.names, _versions(), len(sample), difference)
    for name, content in (contents | {_MANIFEST: json.dumps(manifest.as_record(), indent=1).encode()}).items():
        write_atomically(private_folder(folder) / name, content)
    return manifest


def load(folder: Path, manifest: Manifest, *, place: str = "") -> Scorer:
    """The stored model, if its files are those of the manifest.

    Raises:  ArtefactRefused(E6002) for a missing or altered file, another kind, a library of another release, or content that
             is not plain data of allowed types. A retry does not help.
    """
    if manifest.kind != KIND:
        raise ArtefactRefused("a model of another kind", place=place, expected=KIND, got=manifest.kind)
    contents = {f.name: _read(folder, f, place) for f in manifest.files}
    if missing := {_MODEL, _ENCODER} - contents.keys():
        raise ArtefactRefused("the manifest lacks a file", place=place, expected=", ".join(sorted(missing)))
    stored, here = _release(manifest.versions["scikit-learn"]), _release(sklearn.__version__)
    if stored != here:
        hint = f"train again, or install scikit-learn {stored}"
        raise ArtefactRefused("the model was stored by another release of scikit-learn", place=place, expected=stored, got=here, hint=hint)
    encoder = from_record(json.loads(contents[_ENCODER]))
    return scorer_of(_loaded(contents[_MODEL], place), encoder, place=place)


def _dumped(model: Any, place: str) -> bytes:
    try:
        data = skops.io.dumps(model)
    except Exception as error:
        raise ArtefactRefused(f"the model cannot be stored as data: {error}", place=place, got=type(model).__name__) from error
    if unknown := sorted(set(skops.io.get_untrusted_types(data=data)) - set(ALLOWED)):
        hint = "build the model from scikit-learn's own estimators, without functions or classes of the project"
        raise ArtefactRefused("the model has parts that are not plain data", place=place, got=", ".join(unknown), hint=hint)
    return bytes(data)


def _loaded(data: bytes, place: str) -> Any:
    try:
        model = skops.io.loads(data, trusted=list(ALLOWED))
    except Exception as error:
        raise ArtefactRefused(f"not a model stored as data: {type(error).__name__}: {error}", place=place) from error
    check_trees(model)
    return model


def _read(folder: Path, file: StoredFile, place: str) -> bytes:
    """The bytes of a file, read once: what was hashed is what is loaded."""
    try:
        data = inside(folder, file.name).read_bytes()
    except OSError as error:
        raise ArtefactRefused(f"a file of the model cannot be read: {error.strerror}", place=f"{place}/{file.name}") from error
    if _sha256(data) != file.sha256:
        hint = "it was changed after it was stored; restore it or train again"
        raise ArtefactRefused(
            "a file of the model is not the one stored",
            place=f"{place}/{file.name}",
            expected=file.sha256[:12],
            got=_sha256(data)[:12],
            hint=hint,
        )
    return data


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _versions() -> dict[str, str]:
    return {"scikit-learn": sklearn.__version__, "skops": skops.__version__, "numpy": np.__version__, "python": platform.python_version()}


def _release(version: str) -> str:
    return ".".join(version.split(".")[:2])
