"""Which file of a model that MLflow keeps is the model itself, and under which ending it is read here."""

from __future__ import annotations

import re
from collections.abc import Collection

from penstock.ground.errors import ArtefactRefused, TrackerError

#: How a file ends in MLflow -> how it ends here.
ENDINGS = {".onnx": ".onnx", ".lgb": ".txt", ".txt": ".txt", ".ubj": ".ubj", ".xgb": ".ubj", ".json": ".json", ".skops": ".skops"}
#: Files of MLflow's and of ours that describe a model.
_BESIDE = {
    "MLmodel", "requirements.txt", "conda.yaml", "python_env.yaml", "input_example.json", "serving_input_example.json",
    "registered_model_meta", "manifest.json", "encoder.json", "calibrator.json",
}  # fmt: skip
_PICKLES = (".pkl", ".pickle", ".cloudpickle", ".joblib", ".pt", ".pth")
#: The lines of `MLmodel` that name a flavour's file.
_NAMED = re.compile(r"^ {4}(?:data|pickled_model|model_data): *['\"]?([^'\"\s/\\]+)['\"]?$", re.MULTILINE)


def model_file(names: Collection[str], described: str, place: str) -> tuple[str, str]:
    """The file to take, and its ending here.

    Args:    names: all files. described: the text of `MLmodel`, "" if there is none.
    Raises:  ArtefactRefused(E6002) if there are pickles only; TrackerError(E6004) if no file is of a format that we read.
    """
    named = [name for name in _NAMED.findall(described) if name in names]
    candidates = named or [name for name in names if name not in _BESIDE]
    for ending, ours in ENDINGS.items():
        if found := sorted(name for name in candidates if name.endswith(ending)):
            return found[0], ours
    if any(name.endswith(_PICKLES) for name in names):
        hint = "log it as ONNX, or by MLflow's flavour of LightGBM or XGBoost; a pickle is never taken, since reading it runs code"
        raise ArtefactRefused("the model is a pickle", place=place, expected=", ".join(ENDINGS), got=", ".join(sorted(names)), hint=hint)
    raise TrackerError(
        "no file of the model is of a format that is read here", place=place, expected=", ".join(ENDINGS),
        got=", ".join(sorted(names)) or "no file",
    )  # fmt: skip
