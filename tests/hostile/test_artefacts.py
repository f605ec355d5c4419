"""Files that pose as models: each is refused with its reason, nothing of it is run, nothing is written, memory stays bounded."""

from __future__ import annotations

import io
import json
import pickle
import re
import resource
import signal
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnx
import pytest
import skops.io
import xgboost
from onnx import TensorProto, helper
from sklearn.linear_model import LogisticRegression

from penstock.craft.learning.artefact import import_file, lightgbm_text, onnx_graph, skops_zip, trial, xgboost_ubj
from penstock.craft.learning.encoding import learn
from penstock.ground.errors import ArtefactRefused, NameRefused, PenstockError, UserCodeError
from penstock.spec.schema import schema_of

ENCODER = learn(schema_of(a="double", b="double", c="double"), ["a", "b", "c"], {})
RNG = np.random.default_rng(4)
X = RNG.normal(size=(400, 3))
Y = (X[:, 0] + X[:, 1] * X[:, 2] > 0).astype(int)


class Trap:
    """Leaves a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (Path(self.path),)


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """Brings a file along and requires that it is refused without a trace and without much memory; returns the error's text."""

    def check(name: str, data: bytes) -> str:
        path, folder = tmp_path / name, tmp_path / "stored"
        path.write_bytes(data)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(ArtefactRefused) as error:
            import_file(path, ENCODER, folder, sample=X[:20], place="m")
        assert not folder.exists()
        assert {p.name for p in tmp_path.iterdir()} == {name}
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000, "kilobytes"
        return str(error.value)

    return check


def here(module: Any, data: bytes) -> str:
    """What a format's own reader says, in this process: none of these may need the other process to be harmless."""
    with pytest.raises(ArtefactRefused) as error:
        module.loaded(data, "binary", (False, True), (1,), 3, "m")
    return str(error.value)


# -- pickles ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["m.onnx", "m.skops", "m.txt", "m.ubj", "m.json"])
def test_a_pickle_in_disguise_is_not_run(name: str, refused: Callable[..., str], tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    assert "not a" in refused(name, pickle.dumps(Trap(sprung)))
    assert not sprung.exists()


@pytest.mark.parametrize("name", ["m.pkl", "m.pickle", "m.joblib", "m", "m.pt"])
def test_other_formats_are_not_looked_at(name: str, refused: Callable[..., str]) -> None:
    assert "not a format of finished models" in refused(name, pickle.dumps(1))


# -- zips -------------------------------------------------------------------------------------------------------------
def zipped(members: dict[str, bytes], *, link: str = "", packed: bool = False) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as out:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
            info.external_attr = (0o120777 if name == link else 0o100600) << 16
            out.writestr(info, data)
    return held.getvalue()


def schema(**more: Any) -> bytes:
    protocol = json.loads(zipfile.ZipFile(io.BytesIO(skops.io.dumps(1))).read("schema.json"))["protocol"]
    return json.dumps(
        {"__class__": "int", "__module__": "builtins", "__loader__": "JsonNode", "content": "1", "protocol": protocol} | more
    ).encode()


ZIPS = {
    "up": (zipped({"schema.json": schema(), "../../x": b"1"}), "leaves the zip"),
    "absolute": (zipped({"schema.json": schema(), "/etc/x": b"1"}), "leaves the zip"),
    "backslash": (zipped({"schema.json": schema(), "..\\x": b"1"}), "leaves the zip"),
    "link": (zipped({"schema.json": schema(), "a.npy": b"/etc/passwd"}, link="a.npy"), "leaves the zip"),
    "bomb": (zipped({"schema.json": schema(), "a.npy": b"\0" * (50 << 20)}, packed=True), "unpacks to too much"),
    "cut": (skops.io.dumps(LogisticRegression().fit(X, Y))[:-200], "not a model stored as data"),
    "empty": (b"", "not a model stored as data"),
    "no_schema": (zipped({"x": b"1"}), "not a model stored as data"),
    "not_json": (zipped({"schema.json": b"{"}), "not a model stored as data"),
    "deep": (zipped({"schema.json": b'{"content":' * 100_000 + b"1" + b"}" * 100_000}), "not a model stored as data"),
    "a_number": (zipped({"schema.json": schema()}), "no probabilities"),
}


@pytest.mark.parametrize("name", ZIPS)
def test_zips(name: str) -> None:
    data, words = ZIPS[name]
    if name == "a_number":
        with pytest.raises(UserCodeError, match=words):
            skops_zip.loaded(data, "binary", (False, True), (1,), 3, "m")
    else:
        assert words in here(skops_zip, data)


def test_a_zip_with_code_or_an_array_of_absurd_size_is_refused() -> None:
    node = {
        "__class__": "system",
        "__module__": "posix",
        "__loader__": "FunctionNode",
        "content": {"module_path": "posix", "function": "system"},
    }
    assert "posix.system" in here(skops_zip, zipped({"schema.json": schema(**node)}))
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "<f8", "fortran_order": False, "shape": (1 << 50,)})
    array = {"__class__": "ndarray", "__module__": "numpy", "__loader__": "NdArrayNode", "type": "numpy", "file": "1.npy", "__id__": 1}
    assert "not a model stored as data" in here(skops_zip, zipped({"schema.json": schema(**array), "1.npy": huge.getvalue()}))


# -- ONNX -------------------------------------------------------------------------------------------------------------
def graph(
    nodes: list[Any], *, initializers: list[Any] | None = None, domains: tuple[str, ...] = ("",), outputs: str = "p", width: Any = 3
) -> bytes:
    x = helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, width])
    p = helper.make_tensor_value_info(outputs, TensorProto.FLOAT, [None, None])
    made = helper.make_graph(nodes, "g", [x], [p], initializers or [])
    return helper.make_model(
        made, opset_imports=[helper.make_opsetid(d, 15 if not d else 1) for d in domains], ir_version=8
    ).SerializeToString()


def outside() -> bytes:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../../etc/passwd")
    return graph([helper.make_node("MatMul", ["X", "w"], ["p"])], initializers=[tensor])


def nested(depth: int) -> Any:
    node = helper.make_node("Identity", ["X"], ["p"])
    for _ in range(depth):
        inner = helper.make_graph([node], "g", [], [helper.make_tensor_value_info("p", TensorProto.FLOAT, None)])
        node = helper.make_node(
            "If", ["X"], ["p"], then_branch=inner, else_branch=inner if depth < 3 else helper.make_graph([], "e", [], [])
        )
    return node


def trees(**change: Any) -> bytes:
    """One tree of three nodes, then what is wrong with it."""
    held: dict[str, Any] = {
        "nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [0, 0, 0], "nodes_values": [0.0, 0.0, 0.0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"], "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0],
        "target_treeids": [0, 0], "target_nodeids": [1, 2], "target_ids": [0, 0], "target_weights": [0.25, 0.75], "n_targets": 1,
    }  # fmt: skip
    return graph(
        [helper.make_node("TreeEnsembleRegressor", ["X"], ["p"], domain="ai.onnx.ml", **held | change)], domains=("", "ai.onnx.ml")
    )


ONNX = {
    "outside": (outside(), "numbers outside the file"),
    "own_operator": (graph([helper.make_node("Run", ["X"], ["p"], domain="evil")], domains=("", "evil")), "of its own"),
    "microsoft": (graph([helper.make_node("Gelu", ["X"], ["p"], domain="com.microsoft")], domains=("", "com.microsoft")), "of its own"),
    "unknown": (graph([helper.make_node("NoSuch", ["X"], ["p"])]), "not taken"),
    "loop": (graph([helper.make_node("Loop", ["X"], ["p"])]), "end cannot be told"),
    "deep": (graph([nested(12)]), "nested too deeply"),
    "huge_tensor": (graph([helper.make_node("MatMul", ["X", "w"], ["p"])], initializers=[TensorProto(name="w", data_type=1, dims=[1 << 20, 1 << 20])]), "a tensor of"),
    "short_tensor": (graph([helper.make_node("MatMul", ["X", "w"], ["p"])], initializers=[TensorProto(name="w", data_type=1, dims=[3, 2], raw_data=b"1234")]), "not taken"),
    "huge_at_run": (graph([helper.make_node("Constant", [], ["s"], value=helper.make_tensor("s", TensorProto.INT64, [2], [1 << 20, 1 << 20])), helper.make_node("ConstantOfShape", ["s"], ["p"])]), ""),
    "other_columns": (graph([helper.make_node("Identity", ["X"], ["p"])], width=7), "takes other columns"),
    "no_operators": (onnx.ModelProto(ir_version=8).SerializeToString(), "no operators"),
    "garbage": (b"\x08\x07" + bytes(RNG.integers(0, 255, 5000, dtype=np.uint8)), "ONNX model"),
    "cut": (trees()[:-40], "ONNX model"),
    "empty": (b"", "no operators"),
    "tree_outside": (trees(nodes_falsenodeids=[9, 0, 0]), "points outside itself"),
    "tree_in_a_circle": (trees(nodes_modes=["BRANCH_LEQ", "BRANCH_LEQ", "LEAF"], nodes_truenodeids=[1, 1, 0], nodes_falsenodeids=[2, 2, 0]), "in a circle"),
    "tree_without_a_root": (trees(nodes_truenodeids=[0, 0, 0]), "circle|beginning"),
    "tree_other_column": (trees(nodes_featureids=[5_000_000, 0, 0]), "column that is not there"),
    "tree_negative_column": (trees(nodes_featureids=[-1, 0, 0]), "column that is not there"),
    "tree_lengths": (trees(nodes_values=[0.0]), "do not fit together"),
    "tree_leaves": (trees(target_ids=[0, 77]), "not asked for"),
    "tree_targets": (trees(n_targets=1 << 40), "not asked for"),
}  # fmt: skip


@pytest.mark.parametrize("name", [n for n in ONNX if n != "huge_at_run"])
def test_graphs(name: str) -> None:
    data, words = ONNX[name]
    assert re.search(words, here(onnx_graph, data))


def test_a_graph_that_swallows_memory_when_it_runs_is_refused(refused: Callable[..., str]) -> None:
    assert "cannot score" in refused("m.onnx", ONNX["huge_at_run"][0])


def test_a_sound_tree_is_taken(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(trees())
    import_file(tmp_path / "m.onnx", ENCODER, tmp_path / "stored", sample=X[:20])


def test_the_size_of_a_file_is_held_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (onnx_graph, lightgbm_text, xgboost_ubj):
        monkeypatch.setattr(module, "MOST_BYTES", 1000)
        assert "too large" in here(module, b"\xff" * 1001)


# -- LightGBM ---------------------------------------------------------------------------------------------------------
def text(**change: str) -> str:
    """A sound model's text with fields of its first tree (or, in capitals, of its head) replaced."""
    made = lightgbm.train({"objective": "binary", "verbose": -1, "num_leaves": 7}, lightgbm.Dataset(X, Y), 3).model_to_string()
    for name, value in change.items():
        made, hits = re.subn(rf"^{name}=.*$", f"{name}={value}", made, count=1, flags=re.MULTILINE)
        assert hits, name
    return made


TEXTS: dict[str, tuple[Callable[[], str], str]] = {
    "absurd_leaves": (lambda: text(num_leaves="2147483647"), "leaves"),
    "negative_leaves": (lambda: text(num_leaves="-5"), "leaves"),
    "more_leaves": (lambda: text(num_leaves="9"), "another number"),
    "child_outside": (lambda: text(left_child="1 2 3 4 5 99999"), "points outside itself"),
    "leaf_outside": (lambda: text(right_child="-1 -2 -3 -4 -5 -99999"), "points outside itself"),
    "in_a_circle": (lambda: text(left_child="0 0 0 0 0 0"), "points outside itself"),
    "other_column": (lambda: text(split_feature="0 1 2 0 1 700000"), "column that is not there"),
    "category_outside": (lambda: text(decision_type="1 1 1 1 1 1"), "missing|categories"),
    "more_columns": (lambda: text(max_feature_idx="2000000000"), "it takes"),
    "absurd_classes": (lambda: text(num_class="2000000000"), "absurd number of classes"),
    "classes_per_step": (lambda: text(num_tree_per_iteration="2"), "trees are missing"),
    "short_values": (lambda: text(leaf_value="0.5"), "another number of leaves"),
    "no_numbers": (lambda: text(threshold="a b c d e f"), "not a LightGBM model"),
    "nan": (lambda: text(leaf_value="nan nan nan nan nan nan nan"), "no number"),
    "other_objective": (lambda: text(objective="nosuch"), "LightGBM model|no probabilities"),
    "cut": (lambda: text()[: len(text()) // 3], "begins or ends otherwise"),
    "head_only": (lambda: text().split("Tree=0")[0] + "\nend of trees\n", "trees are missing"),
    "twice": (lambda: text().replace("num_cat=0", "num_cat=0\nnum_leaves=3", 1), "stands twice"),
    "zero_byte": (lambda: text() + "\0", "begins or ends otherwise"),
    "offsets": (lambda: text(tree_sizes="1"), "another number of trees"),
    "empty": (lambda: "", "begins or ends otherwise"),
}


@pytest.mark.parametrize("name", [n for n in TEXTS if n != "other_objective"])
def test_texts(name: str) -> None:
    make, words = TEXTS[name]
    assert re.search(words, here(lightgbm_text, make().encode()))


def test_byte_offsets_in_a_text_are_not_followed(tmp_path: Path) -> None:
    data = text(tree_sizes="99999999 -5 3").encode()
    loaded = lightgbm_text.loaded(data, "binary", (False, True), (1,), 3, "m")
    assert np.array_equal(loaded.predict(X), lightgbm.Booster(model_str=text()).predict(X))


# -- XGBoost ----------------------------------------------------------------------------------------------------------
def booster(ending: str = "ubj") -> bytes:
    return bytes(xgboost.train({"objective": "binary:logistic", "max_depth": 3}, xgboost.DMatrix(X, Y), 3).save_raw(ending))


def changed(**change: Any) -> bytes:
    record = json.loads(booster("json"))
    model = record["learner"]["gradient_booster"]["model"]
    for name, value in change.items():
        if name == "tree_info":
            model[name] = value
        elif name == "num_feature":
            record["learner"]["learner_model_param"][name] = value
        elif name == "num_nodes":
            model["trees"][0]["tree_param"][name] = value
        else:
            model["trees"][0][name][0] = value
    return json.dumps(record).encode()


UBJ: dict[str, tuple[Callable[[], bytes], str]] = {
    "garbage": (lambda: b"{L" + bytes(RNG.integers(0, 255, 3000, dtype=np.uint8)), "not an XGBoost model"),
    "cut": (lambda: booster()[:-50], "not an XGBoost model"),
    "half": (lambda: booster()[: len(booster()) // 2], "ends too early"),
    "more_behind": (lambda: booster() + b"x", "more after its end"),
    "long_list": (lambda: b"{i\x01a[$d#L" + struct.pack(">q", 1 << 60), "ends too early"),
    "long_empty_list": (lambda: b"{i\x01a[#L" + struct.pack(">q", 1 << 60), "longer than the file"),
    "list_of_nothing": (lambda: b"{i\x01a[$Z#L" + struct.pack(">q", 1 << 60), "list of another kind"),
    "negative_length": (lambda: b"{L" + struct.pack(">q", -1), "below zero"),
    "deep": (lambda: b"{i\x01a" + b"[" * 100_000, "nested too deeply"),
    "deep_json": (lambda: b'{"a":' * 100_000, "not an XGBoost model"),
    "child_outside": (lambda: changed(left_children=99_999), "points outside itself"),
    "child_negative": (lambda: changed(right_children=-7), "points outside itself"),
    "in_a_circle": (lambda: changed(left_children=0), "points outside itself"),
    "other_column": (lambda: changed(split_indices=700_000), "column that is not there"),
    "nodes": (lambda: changed(num_nodes="1000000000"), "another number of nodes"),
    "class_outside": (lambda: changed(tree_info=[0, 5, 0]), "class that is not there"),
    "fewer_trees": (lambda: changed(tree_info=[0]), "another number of trees"),
    "columns": (lambda: changed(num_feature="2000000000"), "it takes"),
    "category": (lambda: changed(split_type=1), "categories of a tree"),
    "a_list": (lambda: b"[]", "begins otherwise"),
    "empty": (lambda: b"", "not an XGBoost model"),
}


@pytest.mark.parametrize("name", UBJ)
def test_boosters(name: str) -> None:
    make, words = UBJ[name]
    assert re.search(words, here(xgboost_ubj, make()))


def test_random_damage_is_refused_or_harmless() -> None:
    """Bytes of sound files changed at random: refused as ours, or a model that answers; never another error, never a crash."""
    sound = {
        lightgbm_text: text().encode(),
        xgboost_ubj: booster(),
        skops_zip: bytes(skops.io.dumps(LogisticRegression().fit(X, Y))),
        onnx_graph: trees(),
    }
    outcomes = {"refused": 0, "taken": 0}
    for module, data in sound.items():
        for _ in range(60):
            damaged = bytearray(data)
            for at in RNG.integers(0, len(data), 3):
                damaged[at] = RNG.integers(0, 256)
            try:
                kind = "regression" if module is onnx_graph else "binary"
                model = module.loaded(
                    bytes(damaged), kind, () if kind == "regression" else (False, True), () if module is onnx_graph else (1,), 3, "m"
                )
                model.predict(X[:5])
                outcomes["taken"] += 1
            except PenstockError:
                outcomes["refused"] += 1
            except ValueError:  # of the library, when it scores
                outcomes["refused"] += 1
    assert outcomes["refused"] > 60
    assert sum(outcomes.values()) == 240


# -- the process that tries a file ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", f"ends the process.*exit -{int(signal.SIGSEGV)}"),
        ("held = bytearray(64 << 30)", "MemoryError"),
        ("while True: pass", "does not answer"),
        ("import sys; print('{}'); sys.exit(3)", "ends the process.*exit 3"),
        ("raise ValueError('no')", "cannot score: ValueError: no"),
    ],
)
def test_what_a_reader_may_do_to_its_process(body: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reader_of_this_test.py").write_text(f"def loaded(*_):\n    {body}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(trial, "TIMEOUT_S", 5.0 if "while" in body else 60.0)
    with pytest.raises(ArtefactRefused, match=words):
        trial.require_harmless("reader_of_this_test", b"x", "binary", (False, True), X[:5], 3, "m")


def test_a_manifest_that_names_a_file_elsewhere_is_refused(tmp_path: Path) -> None:
    from dataclasses import replace

    from penstock.craft.learning.artefact import StoredFile, load, store

    manifest = store(LogisticRegression().fit(X, Y), ENCODER, tmp_path / "v1", sample=X[:20])
    (tmp_path / "outside").write_bytes((tmp_path / "v1" / "model.skops").read_bytes())
    moved = StoredFile("../outside", manifest.files[0].size_bytes, manifest.files[0].sha256)
    with pytest.raises(NameRefused, match="leaves its folder"):
        load(tmp_path / "v1", replace(manifest, files=(moved, *manifest.files[1:])))
