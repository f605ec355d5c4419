"""Models as ONNX: converted from the others, or brought along. Standard operators only, everything inside the one file.

A graph sees columns in single precision. Trees are converted so that every row of single precision takes the branch it took before:
a threshold of double precision is rounded down to the nearest single one (rounded to the nearest, some rows would change sides).
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from penstock.craft.learning.artefact import lightgbm_text, xgboost_ubj
from penstock.craft.learning.artefact.skops_zip import places_of
from penstock.craft.learning.scoring import Matrix, Predictor
from penstock.ground.errors import ArtefactRefused, DriverMissing, UserCodeError
from penstock.spec.models import Kind

FILE = "model.onnx"
#: How far a score in single precision may be from the native one, of numbers in proportion to their size.
TOLERANCE = 1e-5
MOST_BYTES = 512 << 20
MOST_NODES = 100_000
MOST_ELEMENTS = 1 << 28
#: Graphs within graphs (branches, loops); protobuf itself stops at a hundred messages.
MOST_DEPTH = 8
DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
#: Operators that keep the number of columns, by which a tree's input is followed back to the graph's.
_SAME_WIDTH = ("Cast", "Identity", "Imputer", "Scaler", "Normalizer", "Binarizer", "Where", "Abs", "Neg", "Clip")
_FLOATS = {"tensor(float)": np.float32, "tensor(double)": np.float64}
_SCORES = ("probabilities", "output_probability", "probability", "scores", "variable")


@dataclass(frozen=True, eq=False)
class OnnxPredictor:
    """A graph in ONNX Runtime."""

    session: Any
    kind: Kind
    columns: int
    outputs: tuple[int, ...]
    input: str
    output: str
    dtype: Any
    data: bytes = field(repr=False)
    splits: tuple[NDArray[np.int64], Matrix] = field(repr=False, default=(np.empty(0, dtype=np.int64), np.empty(0)))
    reasons_in: Literal["margin", "score"] = "score"

    def predict(self, X: Matrix) -> Matrix:
        found = np.asarray(self.session.run([self.output], {self.input: np.ascontiguousarray(X, dtype=self.dtype)})[0], dtype=np.float64)
        if self.kind == "multiclass":
            return found
        if found.ndim == 2 and found.shape[1] == 2 and self.kind == "binary":
            return np.ascontiguousarray(found[:, self.outputs[0]])
        return found.reshape(len(X)) if found.size == len(X) else found

    def margin(self, X: Matrix) -> Matrix:
        return self.predict(X)

    def contributions(self, X: Matrix) -> tuple[Matrix, Matrix] | None:
        return None

    def thresholds(self) -> tuple[NDArray[np.int64], Matrix]:
        return self.splits


def takes(model: Any) -> bool:
    return type(model).__module__.startswith("onnx.")


def predictor(model: Any, kind: Kind, classes: tuple[bool | int | str, ...], columns: int, place: str) -> OnnxPredictor:
    """A graph that a training function made. Raises: UserCodeError(E5001), ArtefactRefused(E6002)."""
    if type(model).__name__ != "ModelProto":
        raise UserCodeError("not a fitted model", place=place, expected="a ModelProto", got=type(model).__name__)
    return loaded(model.SerializeToString(), kind, classes, (), columns, place)


def dumped(found: Predictor, place: str) -> bytes:
    """A fitted model of any library as a graph.

    Raises: ArtefactRefused(E6002) if it cannot be converted; the converters do not know all models, nor all newest releases.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return bytes(_converted(found))
    except ImportError as error:
        hint = "pip install onnx onnxruntime skl2onnx onnxmltools"
        raise DriverMissing(f"converting to ONNX needs {error.name}", place=place, hint=hint) from error
    except Exception as error:
        told = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        hint = "leave `format` out: the library's own format holds every model it makes"
        raise ArtefactRefused(f"the model cannot be converted to ONNX: {told}"[:300], place=place, hint=hint) from error


def _converted(found: Predictor) -> bytes:
    if isinstance(found, OnnxPredictor):
        return found.data
    if isinstance(found, lightgbm_text.LightgbmPredictor):
        import lightgbm
        from onnxmltools import convert_lightgbm
        from onnxmltools.convert.common.data_types import FloatTensorType

        text = floored(found.booster.model_to_string())
        if found.kind == "ranking":
            text = re.sub(r"^objective=.*$", "objective=regression", text, flags=re.MULTILINE)
        kinds = [("X", FloatTensorType([None, found.columns]))]
        made = convert_lightgbm(lightgbm.Booster(model_str=text), initial_types=kinds, zipmap=False)
    elif isinstance(found, xgboost_ubj.XgboostPredictor):
        import xgboost
        from onnxmltools import convert_xgboost
        from onnxmltools.convert.common.data_types import FloatTensorType

        booster = found.booster
        if found.kind == "ranking":
            record = json.loads(booster.save_raw("json").decode())
            record["learner"]["objective"] = {"name": "reg:squarederror", "reg_loss_param": {"scale_pos_weight": "1"}}
            booster = xgboost.Booster(model_file=bytearray(json.dumps(record).encode()))
        made = convert_xgboost(booster, initial_types=[("X", FloatTensorType([None, found.columns]))])
    else:
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType

        model = found.model  # type: ignore[attr-defined]
        options = {id(model): {"zipmap": False}} if found.outputs else None
        made = to_onnx(model, initial_types=[("X", FloatTensorType([None, found.columns]))], options=options)
    data: bytes = made.SerializeToString()
    return data


def floored(text: str) -> str:
    """LightGBM's text with each numeric threshold at the greatest number of single precision that is not above it.

    Rows of single precision take the same branches. Source: own; measured on a million rows, and held by every parity check.
    """

    def down(found: re.Match[str]) -> str:
        wide = np.array(found[1].split(), dtype=np.float64)
        narrow = wide.astype(np.float32)
        narrow = np.where(narrow.astype(np.float64) > wide, np.nextafter(narrow, np.float32(-np.inf)), narrow)
        return "threshold=" + " ".join(repr(float(v)) for v in narrow)

    return re.sub(r"^tree_sizes=.*\n", "", re.sub(r"^threshold=(.*)$", down, text, flags=re.MULTILINE), flags=re.MULTILINE)


def loaded(
    data: bytes, kind: Kind, classes: tuple[bool | int | str, ...], outputs: tuple[int, ...], columns: int, place: str
) -> OnnxPredictor:
    """A graph ready to run.

    Args:    outputs: as the manifest has them; () for a file brought along, whose classes are those of its ZipMap, or in order.
    Raises:  ArtefactRefused(E6002) for what is no graph of standard operators with one matrix of numbers in, one of scores out.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise DriverMissing("the model needs onnxruntime", place=place, hint="pip install onnxruntime onnx") from error
    graph = checked(data, columns, place)
    run, labels = _without_zipmap(graph, data)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(run, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ArtefactRefused(f"not a graph that runs: {str(error).splitlines()[0]}"[:300], place=place) from error
    given = session.get_inputs()
    if len(given) != 1 or given[0].type not in _FLOATS:
        told = ", ".join(f"{i.name}: {i.type}" for i in given)
        hint = "export it with one input of shape [None, columns]"
        raise ArtefactRefused("the graph takes another input", place=place, expected="one matrix of numbers", got=told[:120], hint=hint)
    shape = given[0].shape
    if len(shape) != 2 or (isinstance(shape[1], int) and shape[1] != columns):
        raise ArtefactRefused("the graph takes other columns", place=place, expected=columns, got=shape)
    scores = [o.name for o in session.get_outputs() if o.type in _FLOATS]
    if not scores:
        told = ", ".join(f"{o.name}: {o.type}" for o in session.get_outputs())
        raise ArtefactRefused("the graph gives no scores", place=place, expected="a matrix of numbers", got=told[:120])
    output = next((name for name in _SCORES if name in scores), scores[-1])
    if classes and not outputs:
        outputs = places_of(labels or list(range(len(classes))), kind, classes, place)
    return OnnxPredictor(session, kind, columns, outputs, given[0].name, output, _FLOATS[given[0].type], data, thresholds_in(graph))


def versions() -> dict[str, str]:
    import onnx
    import onnxruntime

    return {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}


def check_release(stored: dict[str, str], place: str) -> None:
    """Nothing: a graph names the versions of its operators, and the runtime refuses those it does not know."""


def thresholds_in(graph: Any) -> tuple[NDArray[np.int64], Matrix]:
    """Columns and thresholds of the trees of a graph that take the graph's own input."""
    columns: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
    values: list[Matrix] = [np.empty(0)]
    given = graph.graph.input[0].name if graph.graph.input else ""
    for node in graph.graph.node:
        if node.op_type.startswith("TreeEnsemble") and node.input and node.input[0] == given:
            held = _attributes(node)
            inner = np.array([mode != b"LEAF" for mode in held["nodes_modes"]], dtype=bool)
            columns.append(np.asarray(held["nodes_featureids"], dtype=np.int64)[inner])
            values.append(_values(held)[inner])
    return np.concatenate(columns), np.concatenate(values)


# -- what may be in a file --------------------------------------------------------------------------------------------
def checked(data: bytes, columns: int, place: str) -> Any:
    """The parsed graph, if it is complete in itself, of standard operators, of bounded size, and its trees stay within themselves.

    Raises: ArtefactRefused(E6002). Nothing of the file is run.
    """
    if len(data) > MOST_BYTES:
        raise ArtefactRefused("the model is too large", place=place, expected=f"at most {MOST_BYTES >> 20} MB", got=f"{len(data) >> 20} MB")
    try:
        import onnx
    except ImportError as error:
        raise DriverMissing("the model needs onnx, which looks into it first", place=place, hint="pip install onnx onnxruntime") from error
    graph = onnx.ModelProto()
    try:
        graph.ParseFromString(data)
    except Exception as error:
        raise ArtefactRefused(f"not an ONNX model: {str(error).splitlines()[0]}"[:200], place=place) from error
    if not graph.opset_import or not graph.graph.node:
        raise ArtefactRefused("not an ONNX model: it has no operators", place=place)
    try:
        _check(graph, columns)
        onnx.checker.check_model(graph)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, onnx.checker.ValidationError) as error:
        raise ArtefactRefused(f"an ONNX model that is not taken: {str(error).splitlines()[0]}"[:300], place=place) from error
    return graph


def _check(graph: Any, columns: int) -> None:
    if strange := [o.domain for o in graph.opset_import if o.domain not in DOMAINS and _used(graph, o.domain)]:
        raise ValueError(f"operators of its own, of {strange[0][:60]!r}")
    nodes, widths = 0, _widths(graph.graph, columns)
    for held, depth in _graphs(graph):
        if depth > MOST_DEPTH:
            raise ValueError("graphs nested too deeply")
        nodes += len(held.node)
        if nodes > MOST_NODES:
            raise ValueError(f"more than {MOST_NODES} operators")
        for tensor in (
            *getattr(held, "initializer", ()),
            *(t for s in getattr(held, "sparse_initializer", ()) for t in (s.values, s.indices)),
        ):
            _check_tensor(tensor)
        for node in held.node:
            if node.domain not in DOMAINS and not any(f.domain == node.domain and f.name == node.op_type for f in graph.functions):
                raise ValueError(f"an operator of its own: {node.domain[:60]}.{node.op_type[:60]}")
            if node.op_type in ("TreeEnsemble", "Loop", "Scan"):
                raise ValueError(f"an operator whose end cannot be told beforehand: {node.op_type}")
            for a in node.attribute:
                sparse = [*([a.sparse_tensor] if a.HasField("sparse_tensor") else []), *a.sparse_tensors]
                for tensor in (*([a.t] if a.HasField("t") else []), *a.tensors, *(t for s in sparse for t in (s.values, s.indices))):
                    _check_tensor(tensor)
            if node.op_type.startswith("TreeEnsemble"):
                _check_trees(node, widths.get(node.input[0]) if held is graph.graph and node.input else None)


def _used(graph: Any, domain: str) -> bool:
    return any(node.domain == domain for held, _ in _graphs(graph) for node in held.node)


def _graphs(graph: Any) -> Iterator[tuple[Any, int]]:
    """The graph, the functions, and every graph inside their operators, with its depth."""
    left = [(graph.graph, 0), *((f, 1) for f in graph.functions)]
    while left:
        held, depth = left.pop()
        yield held, depth
        for node in held.node:
            for a in node.attribute:
                left += [(g, depth + 1) for g in (*([a.g] if a.HasField("g") else []), *a.graphs)]


def _check_tensor(tensor: Any) -> None:
    if tensor.data_location != 0 or len(tensor.external_data):
        where = next((e.value for e in tensor.external_data if e.key == "location"), "")
        raise ValueError(f"numbers outside the file: {tensor.name[:40]} in {where[:80]!r}")
    elements = 1
    for size in tensor.dims:
        if size < 0:
            raise ValueError(f"a tensor of a negative size: {tensor.name[:40]}")
        elements *= size
    if elements > MOST_ELEMENTS:
        raise ValueError(f"a tensor of {elements} numbers: {tensor.name[:40]}")


def _check_trees(node: Any, width: int | None) -> None:
    held = _attributes(node)
    names = ("nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_truenodeids", "nodes_falsenodeids")
    tree, number, feature, yes, no = (np.asarray(held.get(name, ()), dtype=np.int64) for name in names)
    modes = held.get("nodes_modes", ())
    if len({len(tree), len(number), len(feature), len(yes), len(no), len(modes), len(_values(held))}) != 1 or not len(tree):
        raise ValueError("the parts of its trees do not fit together")
    inner = np.array([mode != b"LEAF" for mode in modes], dtype=bool)
    if width is None:
        raise ValueError("trees whose columns cannot be counted")
    if not bool(np.all((feature[inner] >= 0) & (feature[inner] < width))):
        raise ValueError("a tree reads a column that is not there")
    known = set(zip(tree.tolist(), number.tolist(), strict=True))
    if len(known) != len(tree):
        raise ValueError("a node of a tree stands twice")
    inner_nodes = [*zip(tree[inner].tolist(), number[inner].tolist(), strict=True)]
    children = [*zip(tree[inner].tolist(), yes[inner].tolist(), strict=True), *zip(tree[inner].tolist(), no[inner].tolist(), strict=True)]
    if not known.issuperset(children):
        raise ValueError("a tree points outside itself")
    if _circular(inner_nodes, children):  # but splits by several categories may share what follows them
        raise ValueError("a tree runs in a circle")
    if sorted(t for t, _ in known - set(children)) != sorted(set(tree.tolist())):
        raise ValueError("a tree without one beginning")
    leaf = "class" if "class_ids" in held else "target"
    ids, trees, nodes = (np.asarray(held.get(f"{leaf}_{name}", ()), dtype=np.int64) for name in ("ids", "treeids", "nodeids"))
    weights = held.get(f"{leaf}_weights", held.get(f"{leaf}_weights_as_tensor", ()))
    if not len(ids) == len(trees) == len(nodes) == len(weights):
        raise ValueError("the leaves of its trees do not fit together")
    count = len(held.get("classlabels_int64s", held.get("classlabels_strings", ()))) if leaf == "class" else int(held.get("n_targets", 1))
    if (
        not 1 <= count <= 10_000
        or not bool(np.all((ids >= 0) & (ids < count)))
        or not known.issuperset(zip(trees.tolist(), nodes.tolist(), strict=True))
    ):
        raise ValueError("a leaf of a tree gives what is not asked for")


def _circular(inner: list[tuple[int, int]], children: list[tuple[int, int]]) -> bool:
    """Whether some node follows itself. Shapes: n inner nodes -> 2 n children, first all of the one side, then of the other."""
    follows = dict(zip(inner, zip(children[: len(inner)], children[len(inner) :], strict=True), strict=True))
    try:
        TopologicalSorter(follows).prepare()
    except CycleError:
        return True
    return False


def _values(held: dict[str, Any]) -> Matrix:
    return np.asarray(held["nodes_values"] if "nodes_values" in held else held.get("nodes_values_as_tensor", ()), dtype=np.float64)


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper, numpy_helper

    found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {name: numpy_helper.to_array(v) if type(v).__name__ == "TensorProto" else v for name, v in found.items()}


def _widths(graph: Any, columns: int) -> dict[str, int]:
    """How many columns values have, as far as they are the graph's input or made of it by operators whose width is plain."""
    sizes = {i.name: int(np.prod(list(i.dims), dtype=np.int64)) for i in graph.initializer}
    found = {i.name: columns for i in graph.input if i.name not in sizes}
    for node in graph.node:
        given = [found.get(name) for name in node.input]
        if not given:
            continue
        if node.op_type == "Concat" and None not in given:
            found[node.output[0]] = sum(w for w in given if w is not None)
        elif node.op_type == "ArrayFeatureExtractor" and node.input[1] in sizes:
            found[node.output[0]] = sizes[node.input[1]]
        elif node.op_type in _SAME_WIDTH and given[0] is not None:
            found[node.output[0]] = given[0]
    return found


def _without_zipmap(graph: Any, data: bytes) -> tuple[bytes, list[Any]]:
    """The graph with its scores as a matrix instead of a list of maps, and the labels of the map; [] if there was none."""
    import onnx

    maps = [n for n in graph.graph.node if n.op_type == "ZipMap"]
    if len(maps) != 1:
        return data, []
    held = _attributes(maps[0])
    labels = [v.decode() if isinstance(v, bytes) else v for v in held.get("classlabels_int64s", held.get("classlabels_strings", ()))]
    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    nodes = [n for n in changed.graph.node if n.op_type != "ZipMap"]
    outputs = [o for o in changed.graph.output if o.name != maps[0].output[0]]
    del changed.graph.node[:]
    del changed.graph.output[:]
    changed.graph.node.extend(nodes)
    changed.graph.output.extend([*outputs, onnx.helper.make_tensor_value_info(maps[0].input[0], onnx.TensorProto.FLOAT, None)])
    return changed.SerializeToString(), labels
