"""Storing and loading: a model becomes files with a signed manifest, and a manifest becomes a scorer, or neither happens."""

from __future__ import annotations

import hashlib
import importlib
import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.craft.learning import calibration
from penstock.craft.learning.artefact.manifest import PURPOSE, Manifest, StoredFile
from penstock.craft.learning.artefact.trial import require_harmless
from penstock.craft.learning.encoding import Encoder, from_record
from penstock.craft.learning.scoring import Calibrates, Matrix, Predictor, Scorer
from penstock.craft.learning.signing import FIELD, Keys
from penstock.ground.errors import ArtefactRefused, DefinitionError, SignatureRefused, UserCodeError
from penstock.ground.paths import inside, private_folder, write_atomically
from penstock.spec.models import FORMATS, Format, Kind

#: Format -> the file that knows it.
MODULES: Mapping[Format, str] = {
    "onnx": "onnx_graph",
    "lightgbm": "lightgbm_text",
    "xgboost": "xgboost_ubj",
    "skops": "skops_zip",
    "pickle": "pickled",
}
#: How a file that is brought along ends -> its format.
ENDINGS: Mapping[str, Format] = {".onnx": "onnx", ".txt": "lightgbm", ".ubj": "xgboost", ".json": "xgboost", ".skops": "skops"}
#: At most so many thresholds, evenly chosen, are looked at from both sides when models are compared.
MOST_PROBES = 2_000
#: Of plain rows so many may differ in ONNX, whose single precision may put a row on the other side of a threshold.
_STRAYING = 0.01
_ENCODER, _CALIBRATOR, _MANIFEST = "encoder.json", "calibrator.json", "manifest.json"
_MOST_BYTES = 1 << 31

Label = bool | int | str


def store(
    model: Any,
    encoder: Encoder,
    folder: Path,
    *,
    sample: Matrix,
    kind: Kind = "binary",
    classes: tuple[Label, ...] = (False, True),
    format: Format | None = None,
    calibrator: Calibrates | None = None,
    keys: Keys | None = None,
    name: str = "",
    created: str = "",
    reference: Matrix | None = None,
    place: str = "",
) -> Manifest:
    """Stores a fitted model as data, after loading it back and comparing scores: on a sample, and beside thresholds.

    Args:    sample: encoded rows, some hundred; none of them is stored.
             classes: labels by the codes the model was trained with, of `binary` and `multiclass`.
             format: None lets the model's library decide. ONNX is compared on rows of single precision, as it will see them;
                of the sample as it is, one row in a hundred may differ.
             keys: sign the manifest; needed for `pickle`.
             name: whose version it is, such as `delay@v3`: what `load` must be asked for. created: when, as text.
             reference: per column what reasons compare with; the sample's medians if not given.
    Durable: on return all files are synced. Nothing is written for a model that is refused.
    Raises:  UserCodeError(E5001) if it is no fitted model of this kind; ArtefactRefused(E6002) if it cannot be stored in this
             format, or scores differently after loading; SignatureRefused(E6003) for keys that are not safe.
    """
    classes = _classes(kind, classes)
    chosen = format or natural(model)
    _check_format(chosen, keys, name, place)
    d = len(encoder.columns)
    native = _format(natural(model) if chosen in ("onnx", "pickle") else chosen).predictor(model, kind, classes, d, place)
    data = _format(chosen).dumped(native, place)
    back = _format(chosen).loaded(data, kind, classes, native.outputs, d, place)
    checked, difference = _compared(native, back, encoder, kind, classes, sample, chosen, place)
    type_ = type(model)
    manifest = Manifest(
        format=chosen, model=f"{type_.__module__}.{type_.__qualname__}", files=(), columns=encoder.names, kind=kind, classes=classes,
        versions=_format(chosen).versions() | {"numpy": np.__version__, "python": platform.python_version()}, checked_rows=checked,
        difference=difference, outputs=native.outputs, reference=_reference(sample, reference), name=name, created=created,
    )  # fmt: skip
    return _written(manifest, data, encoder, calibrator, folder, keys)


def import_file(
    path: Path,
    encoder: Encoder,
    folder: Path,
    *,
    sample: Matrix,
    kind: Kind = "binary",
    classes: tuple[Label, ...] = (False, True),
    calibrator: Calibrates | None = None,
    keys: Keys | None = None,
    name: str = "",
    created: str = "",
    reference: Matrix | None = None,
    source: str = "",
    place: str = "",
) -> Manifest:
    """Stores a finished model that was brought along, after reading and running it in a process of its own with bounded memory.

    Args:    path: ends as `ENDINGS` has it; the end decides what it is read as. source: what to call it; its file name if empty.
             The others as `store`.
    Raises:  ArtefactRefused(E6002) for a pickle, for anything that is not wholly a model of its format over these columns, and
             for what crashes, hangs or needs too much memory; UserCodeError(E5001) if its scores are not of this kind. Nothing is
             written then.
    """
    classes = _classes(kind, classes)
    if (format := ENDINGS.get(path.suffix.lower())) is None:
        hint = "export it as ONNX; a pickle is never taken, since reading it runs code"
        raise ArtefactRefused("not a format of finished models", place=place, expected=", ".join(ENDINGS), got=path.name, hint=hint)
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ArtefactRefused(f"the model cannot be read: {error.strerror}", place=place, got=str(path)) from error
    if len(data) > _MOST_BYTES:
        raise ArtefactRefused("the model is too large", place=place, expected=f"at most {_MOST_BYTES >> 20} MB", got=path.name)
    d = len(encoder.columns)
    require_harmless(f"{__package__}.{MODULES[format]}", data, kind, classes, sample[:50], d, place)
    model = _format(format).loaded(data, kind, classes, _outputs(format, kind, classes), d, place)
    Scorer(model, encoder, kind, classes, place=place).scores(sample)
    manifest = Manifest(
        format=format, model=format, files=(), columns=encoder.names, versions=_format(format).versions() | {"numpy": np.__version__},
        checked_rows=len(sample), difference=0.0, kind=kind, classes=classes, outputs=model.outputs,
        reference=_reference(sample, reference), name=name, created=created, source=source or path.name,
    )  # fmt: skip
    return _written(manifest, data, encoder, calibrator, folder, keys)


def load(
    folder: Path,
    manifest: Manifest,
    *,
    keys: Keys | None = None,
    name: str = "",
    calibrator_from: Callable[[Mapping[str, Any]], Calibrates] = calibration.from_record,
    place: str = "",
) -> Scorer:
    """The stored model, if its manifest is signed for this name and its files are those of the manifest.

    Args:    keys: whose signatures count; without keys only the digests are held, and a pickle is never read.
             name: the version asked for; `place` if empty.
             calibrator_from: makes a calibrator of its record.
    Raises:  SignatureRefused(E6003) for a manifest that is unsigned, signed by another key, or of another version;
             ArtefactRefused(E6002) for a missing or altered file, a library of another release, or content that is not plain
             data of its format. A retry does not help.
    """
    if keys is not None:
        _verify(manifest, keys, name or place, place)
    if manifest.format not in FORMATS:
        raise ArtefactRefused("a model of another format", place=place, expected=", ".join(FORMATS), got=manifest.format)
    if manifest.format == "pickle" and (keys is None or manifest.source):
        hint = "only a pickle that this project made and signed is read; use another format"
        raise ArtefactRefused("a pickle without our own signature is not read", place=place, hint=hint)
    format = _format(manifest.format)
    contents = {f.name: _read(folder, f, place) for f in manifest.files}
    if missing := {format.FILE, _ENCODER} - contents.keys():
        raise ArtefactRefused("the manifest lacks a file", place=place, expected=", ".join(sorted(missing)))
    format.check_release(dict(manifest.versions), place)
    encoder = from_record(_json(contents[_ENCODER], place))
    if encoder.names != manifest.columns:
        raise ArtefactRefused("the encoder is of other columns", place=place, expected=manifest.columns, got=encoder.names)
    model = format.loaded(contents[format.FILE], manifest.kind, manifest.classes, manifest.outputs, len(encoder.columns), place)
    calibrator = calibrator_from(_json(contents[_CALIBRATOR], place)) if _CALIBRATOR in contents else None
    reference = np.array([np.nan if v is None else v for v in manifest.reference]) if manifest.reference else None
    return Scorer(model, encoder, manifest.kind, manifest.classes, calibrator, reference, place)


def scorer_of(
    model: Any, encoder: Encoder, *, kind: Kind = "binary", classes: tuple[Label, ...] = (False, True), place: str = ""
) -> Scorer:
    """A fitted model as a scorer, as its own library runs it; nothing is stored.

    Raises: UserCodeError(E5001) if it is no fitted model of this kind.
    """
    classes = _classes(kind, classes)
    return Scorer(_format(natural(model)).predictor(model, kind, classes, len(encoder.columns), place), encoder, kind, classes, place=place)


def natural(model: Any) -> Format:
    """The format of a model's own library."""
    library: Format
    for library in ("lightgbm", "xgboost", "onnx"):
        if type(model).__module__.split(".")[0] == library:
            return library
    return "skops"


def probes(model: Predictor, sample: Matrix, *, single: bool = False) -> Matrix:
    """Rows on which two runtimes of a model are compared: the sample, each column missing once if it may be, rows at thresholds.

    For each threshold, up to `MOST_PROBES` evenly chosen, a row of the sample with the threshold itself, the next number below it
    and the next above it in its column.

    Shapes:  sample (n, d) -> (m, d), m >= n.
    Args:    single: neighbours in single precision, and all rows rounded to it.
    """
    kind: Any = np.float32 if single else np.float64
    rows = [sample.astype(kind)]
    if len(sample):
        missing = np.repeat(sample[:1].astype(kind), sample.shape[1], axis=0)
        np.fill_diagonal(missing, np.nan)
        rows += [missing] if _takes(model, missing) else []
        columns, values = model.thresholds()
        usual = np.abs(values) < np.finfo(np.float32).max / 2
        columns, values = columns[usual], values[usual]
        chosen = np.unique(np.linspace(0, len(values) - 1, min(len(values), MOST_PROBES)).astype(np.int64)) if len(values) else []
        for towards in (None, -np.inf, np.inf):
            at = values[chosen].astype(kind)
            beside = at if towards is None else np.nextafter(at, kind(towards))
            made = sample[np.arange(len(at)) % len(sample)].astype(kind)
            made[np.arange(len(at)), columns[chosen]] = beside
            rows.append(made)
    return np.ascontiguousarray(np.concatenate(rows), dtype=np.float64)


def difference_of(a: Matrix, b: Matrix, *, relative: bool) -> NDArray[np.float64]:
    """Per row the greatest difference of scores; in proportion to the greater score, where that is above one, if `relative`."""
    gap = np.abs(a - b)
    if relative:
        gap = gap / np.maximum(1.0, np.maximum(np.abs(a), np.abs(b)))
    gap = np.where(np.isnan(gap), np.inf, gap)
    return gap.max(axis=1, initial=0.0) if gap.ndim == 2 else gap


def _takes(model: Predictor, rows: Matrix) -> bool:
    """Whether a model takes rows with missing values; the error it raises otherwise is its library's own."""
    try:
        return bool(np.all(np.isfinite(model.predict(np.ascontiguousarray(rows, dtype=np.float64)))))
    except ValueError:
        return False


def _compared(
    native: Predictor, back: Predictor, encoder: Encoder, kind: Kind, classes: tuple[Label, ...], sample: Matrix, format: Format, place: str
) -> tuple[int, float]:
    """Rows compared and the greatest difference. Raises: ArtefactRefused(E6002)."""
    single = format == "onnx"
    before, after = (Scorer(m, encoder, kind, classes, place=place) for m in (native, back))
    rows = probes(native, sample, single=single)
    gaps = difference_of(before.scores(rows), after.scores(rows), relative=not classes)
    limit = _format(format).TOLERANCE
    found = float(gaps.max(initial=0.0))
    if found > limit:
        hint = "the model keeps state that is not stored, or scores at random"
        if single:
            hint = "leave `format` out: the conversion of this model is not exact; of forests it is with an imputer in front"
        raise ArtefactRefused("the model scores differently after loading", place=place, expected=f"<= {limit:g}", got=found, hint=hint)
    if single and len(sample):
        wide = difference_of(before.scores(sample), after.scores(sample), relative=not classes) > limit
        if float(wide.mean()) > _STRAYING:
            hint = "a column needs more than seven digits, such as a moment; leave `format` out, or give the model a difference instead"
            got = f"{wide.mean():.1%} of the rows differ"
            raise ArtefactRefused("ONNX sees columns in single precision, which is too little here", place=place, got=got, hint=hint)
    return len(rows), found


def _written(manifest: Manifest, data: bytes, encoder: Encoder, calibrator: Calibrates | None, folder: Path, keys: Keys | None) -> Manifest:
    contents = {_format(manifest.format).FILE: data, _ENCODER: encoder.as_bytes()}
    if calibrator is not None:
        contents[_CALIBRATOR] = json.dumps(calibrator.as_record(), sort_keys=True, indent=1).encode()
    files = tuple(StoredFile(name, len(content), _sha256(content)) for name, content in contents.items())
    manifest = replace(manifest, files=files)
    if keys is not None:
        manifest = replace(manifest, signature=keys.sign(manifest.statement(), purpose=PURPOSE)[FIELD])
    for name, content in (contents | {_MANIFEST: json.dumps(manifest.as_record(), indent=1).encode()}).items():
        write_atomically(private_folder(folder) / name, content)
    return manifest


def _verify(manifest: Manifest, keys: Keys, name: str, place: str) -> None:
    if manifest.signature is None:
        hint = "it was stored before signing, or by somebody else; train it again"
        raise SignatureRefused("the model is not signed", place=place, hint=hint)
    keys.verify({**manifest.statement(), FIELD: manifest.signature}, purpose=PURPOSE, place=place)
    if manifest.name != name:
        hint = "another version's manifest stands in its place"
        raise SignatureRefused("the model is signed as another one", place=place, expected=name, got=manifest.name, hint=hint)


def _check_format(format: Format, keys: Keys | None, name: str, place: str) -> None:
    if format not in FORMATS:
        raise DefinitionError("not a format of models", place=place, expected=", ".join(FORMATS), got=format)
    if format == "pickle" and keys is None:
        raise ArtefactRefused("a pickle is stored only with a signature", place=place, hint="give keys, or use another format")
    if keys is not None and not name:
        raise DefinitionError("a signed model needs a name", place=place, expected="such as delay@v3")


def _classes(kind: Kind, classes: tuple[Label, ...]) -> tuple[Label, ...]:
    if kind in ("regression", "ranking"):
        return ()
    if kind == "binary" and len(classes) != 2:
        raise UserCodeError("a binary model has two classes", expected="false and true", got=classes)
    if len(classes) < 2 or len(set(classes)) != len(classes):
        raise UserCodeError("a classifier needs two classes or more", got=classes)
    return tuple(classes)


def _outputs(format: Format, kind: Kind, classes: tuple[Label, ...]) -> tuple[int, ...]:
    """For each column of the answer of a file brought along the place of its class; ONNX and skops tell it themselves."""
    if format in ("onnx", "skops") or not classes:
        return ()
    return (1,) if kind == "binary" else tuple(range(len(classes)))


def _reference(sample: Matrix, given: Matrix | None) -> tuple[float | None, ...]:
    columns = sample.T if given is None else np.asarray(given, dtype=np.float64)[:, None]
    present = [c[np.isfinite(c)] for c in columns]
    return tuple(float(np.median(c)) if len(c) else None for c in present)


def _format(name: Format) -> Any:
    """The file that knows a format, imported when first needed: each needs its own library."""
    return importlib.import_module(f"{__package__}.{MODULES[name]}")


def _json(data: bytes, place: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ArtefactRefused("a file of the model is not JSON", place=place) from error


def _read(folder: Path, file: StoredFile, place: str) -> bytes:
    """The bytes of a file, read once: what was hashed is what is loaded."""
    try:
        with inside(folder, file.name).open("rb") as held:
            data = held.read(file.size_bytes + 1)
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
