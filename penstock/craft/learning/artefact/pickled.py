"""Any model as a pickle: on the user's word only, and never loaded unless our own key signed these bytes. Unpickling runs code."""

from __future__ import annotations

import pickle
import platform

from penstock.craft.learning.artefact.skops_zip import SklearnPredictor, predictor
from penstock.ground.errors import ArtefactRefused
from penstock.spec.models import Kind

FILE = "model.pickle"
TOLERANCE = 1e-9

__all__ = ["FILE", "TOLERANCE", "check_release", "dumped", "loaded", "predictor", "versions"]


def dumped(found: SklearnPredictor, place: str) -> bytes:
    """The model as bytes; classes and functions of the project are named in it, not stored. Raises: ArtefactRefused(E6002)."""
    try:
        return pickle.dumps(found.model, protocol=5)
    except Exception as error:
        hint = "define its classes and functions at the top of a module of the project"
        raise ArtefactRefused(f"the model cannot be pickled: {error}"[:300], place=place, hint=hint) from error


def loaded(
    data: bytes, kind: Kind, classes: tuple[bool | int | str, ...], outputs: tuple[int, ...], columns: int, place: str
) -> SklearnPredictor:
    """The model. The caller has seen our own signature over these bytes; nothing else may come here."""
    try:
        model = pickle.loads(data)
    except Exception as error:
        raise ArtefactRefused(f"the pickle cannot be read: {type(error).__name__}: {error}"[:300], place=place) from error
    return predictor(model, kind, classes, columns, place)


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"scikit-learn": version("scikit-learn"), "python": platform.python_version()}


def check_release(stored: dict[str, str], place: str) -> None:
    """Nothing, if Python and scikit-learn are of the releases that stored it."""
    for library, here in versions().items():
        was = stored.get(library, "none")
        if was.split(".")[:2] != here.split(".")[:2]:
            raise ArtefactRefused(f"the model was pickled under another {library}", place=place, expected=was, got=here, hint="train again")
