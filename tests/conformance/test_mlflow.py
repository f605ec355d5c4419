"""The connection to MLflow with servers that misbehave, and which file of a model is taken. A real server is in `tests/services`."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penstock.adapters.tracker.mlflow import MlflowTracker
from penstock.adapters.tracker.mlflow.flavours import model_file
from penstock.adapters.tracker.mlflow.rest import PAUSE_S, Rest
from penstock.ground.errors import ArtefactRefused, PenstockError, SettingsError, TrackerError, TrackerUnreachable, Unsupported
from penstock.ports.adapters import Context
from penstock.testing.clock import ManualClock, SeededIds

Answer = tuple[int, dict[str, str], bytes]
Answers = Callable[[str, str], Answer]


class Server:
    """An HTTP server on this machine that answers as it is told: `answers(method, path)`; it keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.answers: Answers = lambda method, path: (200, {}, b"{}")
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.asked.append((self.command, self.path, dict(self.headers)))
                status, headers, body = outer.answers(self.command, self.path)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_PUT = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def context(folder: Path, **secrets: str) -> Context:
    def secret(name: str) -> str:
        if name not in secrets:
            raise SettingsError("a secret has no value", place=name)
        return secrets[name]

    return Context(folder, ManualClock(), SeededIds(), secret)


def tracker(server: Server, folder: Path, **secrets: str) -> MlflowTracker:
    return MlflowTracker.open(f"mlflow+http://127.0.0.1:{server.port}", context(folder, **secrets))


BAD = {
    "an error page": (500, {}, b"<html>oops", TrackerUnreachable),
    "too many asked": (429, {}, b"", TrackerUnreachable),
    "no permission": (403, {}, b'{"error_code": "PERMISSION_DENIED", "message": "no"}', TrackerError),
    "another address": (302, {"Location": "http://127.0.0.1:9/"}, b"", TrackerError),
    "a page": (200, {}, b"<html>welcome", TrackerError),
    "a list": (200, {}, b"[1]", TrackerError),
    "a deep answer": (200, {}, b"[" * 100_000, TrackerError),
    "nothing": (200, {}, b"", TrackerError),
    "another product": (200, {}, b'{"experiment": {"name": "x"}}', TrackerError),
    "less than it said": (200, {"Content-Length": "100"}, b"{", TrackerUnreachable),
    "an odd error": (400, {}, b'["error_code"]', TrackerError),
}


@pytest.mark.parametrize("case", BAD)
def test_an_answer_that_is_none_is_an_error(server: Server, tmp_path: Path, case: str) -> None:
    from penstock.testing.suites.tracker import version

    status, headers, body, kind = BAD[case]
    server.answers = lambda method, path: (status, headers, body)
    place: Any = type("Place", (), {"project": "shop"})
    with pytest.raises(TrackerError) as told:
        tracker(server, tmp_path).tell(version(place, tmp_path))
    assert type(told.value) is kind
    assert f"127.0.0.1:{server.port}" in told.value.place
    assert len(server.asked) <= 2


def test_the_missing_secret_is_named(server: Server, tmp_path: Path) -> None:
    server.answers = lambda method, path: (401, {}, b"")
    with pytest.raises(TrackerError, match="MLFLOW_TRACKING_TOKEN"):
        tracker(server, tmp_path).fetch("late@live", tmp_path)


@pytest.mark.parametrize(
    ("secrets", "sent"),
    [
        ({}, None),
        ({"MLFLOW_TRACKING_TOKEN": "t0"}, "Bearer t0"),
        ({"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": "p:w"}, "Basic YWRhOnA6dw=="),
    ],
)
def test_secrets_are_sent_to_the_server_only(server: Server, tmp_path: Path, secrets: dict[str, str], sent: str | None) -> None:
    elsewhere = Server()
    try:
        server.answers = lambda method, path: (302, {"Location": f"http://127.0.0.1:{elsewhere.port}/"}, b"")
        with pytest.raises(TrackerError):
            tracker(server, tmp_path, **secrets).fetch("late@live", tmp_path)
        assert [headers.get("Authorization") for _, _, headers in server.asked] == [sent]
        assert elsewhere.asked == []
    finally:
        elsewhere.close()


def test_a_server_that_says_nothing_is_given_up_and_left_alone_for_a_while(server: Server) -> None:
    clock = ManualClock()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(5)
        rest = Rest(f"http://127.0.0.1:{silent.getsockname()[1]}", clock, timeout_s=0.2)
        for _ in range(3):
            with pytest.raises(TrackerUnreachable):
                rest.get("experiments/get")
        silent.settimeout(5)
        silent.accept()[0].close()
        silent.settimeout(0)
        with pytest.raises(BlockingIOError):
            silent.accept()
    rest = Rest(f"http://127.0.0.1:{silent_port()}", clock)
    with pytest.raises(TrackerUnreachable):
        rest.get("experiments/get")
    rest.address = f"http://127.0.0.1:{server.port}"
    with pytest.raises(TrackerUnreachable):
        rest.get("experiments/get")
    clock.advance(PAUSE_S)
    assert rest.get("experiments/get") == {}


def silent_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- models ---------------------------------------------------------------------------------------------------------
def holding(uri: str, files: dict[str, bytes]) -> Answers:
    """Answers of a server that has one model."""

    def answers(method: str, path: str) -> Answer:
        place = path.partition("?")[0]
        if place.endswith("registered-models/alias"):
            return 200, {}, json.dumps({"model_version": {"version": "3", "status": "READY"}}).encode()
        if place.endswith("get-download-uri"):
            return 200, {}, json.dumps({"artifact_uri": uri}).encode()
        if place.endswith("mlflow-artifacts/artifacts"):
            listed = [{"path": name, "is_dir": False, "file_size": len(content)} for name, content in files.items()]
            return 200, {}, json.dumps({"files": listed}).encode()
        return 200, {}, files[place.rpartition("/")[2]]

    return answers


def test_a_model_is_taken_through_the_server(server: Server, tmp_path: Path) -> None:
    server.answers = holding("mlflow-artifacts:/1/models/m/artifacts", {"model.lgb": b"tree", "requirements.txt": b"x"})
    path = tracker(server, tmp_path).fetch("late@live", tmp_path)
    assert (path.name, path.read_bytes()) == ("model.txt", b"tree")


def test_half_a_file_is_no_model(server: Server, tmp_path: Path) -> None:
    whole = holding("mlflow-artifacts:/1/m", {"x.onnx": b"1"})
    half: Answer = (200, {"Content-Length": "2000000"}, b"x" * 1_100_000)
    server.answers = lambda method, path: half if path.endswith("x.onnx") else whole(method, path)
    with pytest.raises(TrackerUnreachable):
        tracker(server, tmp_path).fetch("late@live", tmp_path)


@pytest.mark.parametrize("uri", ["s3://bucket/1/model", "file:///etc", "mlflow-artifacts://elsewhere:1/1/model", "/etc"])
def test_files_that_are_elsewhere_are_not_looked_for(server: Server, tmp_path: Path, uri: str) -> None:
    server.answers = holding(uri, {"model.lgb": b"tree"})
    with pytest.raises(Unsupported):
        tracker(server, tmp_path).fetch("late@live", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_names_in_a_listing_stay_names(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    server.answers = holding("mlflow-artifacts:/1/m", {"x.onnx": b"1"})
    listed = server.answers

    def answers(method: str, path: str) -> Answer:
        if path.partition("?")[0].endswith("mlflow-artifacts/artifacts"):
            return 200, {}, json.dumps({"files": [{"path": "../../../x.onnx"}]}).encode()
        return listed(method, path)

    server.answers = answers
    path = tracker(server, tmp_path).fetch("late@live", folder)
    assert path == folder / "model.onnx"
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


MLMODEL = """artifact_path: mlflow-artifacts:/1/models/m-1/artifacts
flavors:
  {flavour}:
    code: null
    data: {file}
    model_class: x
  python_function:
    data: {file}
    loader_module: mlflow.x
"""


@pytest.mark.parametrize(
    ("flavour", "names", "file", "ending"),
    [
        ("lightgbm", ["model.lgb", "notes.txt"], "model.lgb", ".txt"),
        ("xgboost", ["a.onnx", "model.xgb"], "model.xgb", ".ubj"),
        ("onnx", ["model.onnx"], "model.onnx", ".onnx"),
        ("sklearn", ["model.skops"], "model.skops", ".skops"),
        ("", ["model.json", "input_example.json", "requirements.txt"], "model.json", ".json"),
        ("", ["manifest.json", "encoder.json", "model.txt"], "model.txt", ".txt"),
    ],
)
def test_the_file_of_a_model_is_found(flavour: str, names: list[str], file: str, ending: str) -> None:
    described = MLMODEL.format(flavour=flavour, file=file) if flavour else ""
    assert model_file([*names, "conda.yaml", "MLmodel"], described, "late@live") == (file, ending)


@pytest.mark.parametrize(
    ("names", "described", "kind"),
    [
        (["model.pkl", "MLmodel"], MLMODEL.format(flavour="sklearn", file="model.pkl"), ArtefactRefused),
        (["model.pkl", "MLmodel"], MLMODEL.format(flavour="sklearn", file="../model.onnx"), ArtefactRefused),
        (["model.onnx", "model.pkl"], MLMODEL.format(flavour="sklearn", file="model.pkl"), ArtefactRefused),
        (["requirements.txt", "MLmodel"], "flavors: {}", TrackerError),
        ([], "", TrackerError),
    ],
)
def test_what_is_no_model_of_ours_is_refused(names: list[str], described: str, kind: type[PenstockError]) -> None:
    with pytest.raises(kind):
        model_file(names, described, "late@live")


@pytest.mark.parametrize(
    "url",
    ["mlflow://h", "mlflow+ftp://h", "mlflow+http://", "mlflow+http://h:x", "mlflow+http://h?a=b", "mlflow+http://ada:" + "pw@h", "mlflow+http://h:99999"],
)  # fmt: skip
def test_addresses_that_cannot_be_used(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError) as told:
        MlflowTracker.open(url, context(tmp_path))
    assert "pw" not in told.value.text()


def test_a_version_without_files_says_so(server: Server, tmp_path: Path) -> None:
    """A store that is not the server's own gets no file; the rest is told."""
    from penstock.testing.suites.tracker import version

    sent: list[tuple[str, str]] = []

    def answers(method: str, path: str) -> Answer:
        place = path.partition("?")[0].rpartition("mlflow/")[2]
        sent.append((method, place))
        found: dict[str, Any] = {"experiments/get-by-name": {"experiment": {"experiment_id": "1"}}}
        found["runs/create"] = {"run": {"info": {"status": "RUNNING", "run_id": "r", "artifact_uri": "s3://b/1/r/artifacts"}}}
        return 200, {}, json.dumps(found.get(place, {})).encode()

    server.answers = answers
    place: Any = type("Place", (), {"project": "shop"})
    tracker(server, tmp_path).tell(replace(version(place, tmp_path), curve=()))
    assert "PUT" not in {method for method, _ in sent}
    assert ("POST", "model-versions/create") in sent
    assert sent[-1] == ("POST", "runs/update")
