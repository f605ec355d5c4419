"""Artefacts: a model stored as data, loaded only if every byte is the one stored, and signed, and safe to read.

A stored model is a folder: the model in one of the formats below, `encoder.json`, perhaps `calibrator.json`, and `manifest.json` for
whoever opens it without Penstock. Loading goes by a manifest that is kept elsewhere (the registry).

    skops       scikit-learn: JSON and arrays in a zip; only types that were looked at
    lightgbm    LightGBM's own text
    xgboost     XGBoost's own UBJSON
    onnx        a graph of standard operators, converted or brought along
    pickle      anything; on the user's word only, and loaded only if our own key signed it

Each format is one file with the same functions: `predictor` of a fitted model, `dumped` to bytes, `loaded` from bytes.
"""

from penstock.craft.learning.artefact.manifest import Manifest, StoredFile, manifest_from
from penstock.craft.learning.artefact.stored import import_file, load, scorer_of, store

__all__ = ["Manifest", "StoredFile", "import_file", "load", "manifest_from", "scorer_of", "store"]
