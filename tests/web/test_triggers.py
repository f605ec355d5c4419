"""The HTTP side of `up`, asked by a real client: who is let in, what is refused and how, repeats, and what is started."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from penstock.ground.errors import SettingsError
from penstock.project import triggers as project_triggers
from penstock.project.project import Project
from penstock.project.triggers import Triggers
from penstock.web.triggers import LIMIT_BYTES, app_of, listening

PIPELINE = """
import penstock as ps

@ps.job
def tell(given, *, to: str = "me"):
    return {"told": to, "given": given}

both = ps.flow(tell, tell.named("again"), params={"to": "all"})

ps.automate(tell, when=ps.event("pushed"))
ps.automate(both, when=ps.event("bought"))
"""


class Client:
    def __init__(self, project: Project, port: int) -> None:
        self.project, self.port, self.woken = project, port, 0

    def ask(
        self, path: str, body: Any = None, *, method: str = "POST", token: str = "s3cret", raw: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
        connection.request(method, path, data, {**sent, **{name.replace("_", "-"): value for name, value in headers.items()}})
        answer = connection.getresponse()
        told = json.loads(answer.read())
        connection.close()
        return answer.status, told, {k.lower(): v for k, v in answer.getheaders()}

    def wake(self) -> None:
        self.woken += 1


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("PENSTOCK_TOKEN", "s3cret")
    monkeypatch.setenv("SHOP_TOKEN", "other")
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    (tmp_path / "penstock.toml").write_text('[up.events]\nbought = "SHOP_TOKEN"\n')
    with Project.open(tmp_path) as project:
        made = Client(project, 0)
        with listening(app_of(Triggers(project, lambda: made.wake()), lambda: True), 0) as port:
            made.port = port
            yield made


def test_an_event_is_written_down_once_for_each_delivery(client: Client) -> None:
    status, told, _ = client.ask("/events/pushed", {"ref": "main"}, Idempotency_Key="d1")
    assert (status, told["event"]) == (202, "pushed")
    assert client.ask("/events/pushed", {"ref": "main"}, Idempotency_Key="d1")[1] == told
    assert client.ask("/events/pushed", {"ref": "main"}, Idempotency_Key="d2")[1] != told
    assert client.ask("/events/pushed")[0] == 202  # no body is no data
    assert [record.body["data"] for record in client.project.state.history("event")] == [None, {"ref": "main"}, {"ref": "main"}]
    assert client.woken == 4


@pytest.mark.parametrize(
    ("path", "method"), [("/events/pushed", "POST"), ("/jobs/tell", "POST"), ("/flows/both", "POST"), ("/runs/x", "GET")]
)
@pytest.mark.parametrize("token", ["", "wrong", "other"])
def test_nobody_is_let_in_without_the_token(client: Client, path: str, method: str, token: str) -> None:
    status, told, headers = client.ask(path, method=method, token=token)
    assert (status, told["schema"], told["error"]["code"]) == (401, "penstock.error/1", "E5010")
    assert headers["www-authenticate"] == "Bearer" and headers["cache-control"] == "no-store"
    assert not client.project.state.history("event") and not client.project.state.queue.jobs()


def test_an_event_may_have_a_token_of_its_own(client: Client) -> None:
    assert client.ask("/events/bought", 1, token="other")[0] == 202
    assert client.ask("/events/bought", 1, token="s3cret")[0] == 401


def test_without_a_token_set_it_says_which_one_to_set(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PENSTOCK_TOKEN")
    for token in ("", "s3cret"):
        status, told, _ = client.ask("/events/pushed", token=token)
        assert status == 401 and "PENSTOCK_TOKEN" in told["error"]["hint"]
    monkeypatch.setenv("PENSTOCK_TOKEN", "")
    assert client.ask("/events/pushed", token="")[0] == 401


def test_what_is_refused_has_its_status_and_an_error_of_our_form(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any, **kwargs: Any) -> tuple[int, str]:
        status, told, _ = client.ask(*args, **kwargs)
        assert told["schema"] == "penstock.error/1" and told["error"]["kind"]
        return status, told["error"]["code"]

    assert refused("/events/pusht", 1) == (404, "E1003")
    assert refused("/jobs/telk", {}) == (404, "E1003")
    assert refused("/runs/0000", method="GET") == (404, "E1003")
    assert refused("/nowhere", 1) == (404, "E5012")
    assert refused("/events/pushed", method="GET") == (405, "E5012")
    assert refused("/events/pushed", raw=b"{") == (400, "E5012")
    assert refused("/events/pushed", raw=b"NaN") == (400, "E5012")
    assert refused("/events/pushed", raw=b"\xff\xfe") == (400, "E5012")
    assert refused("/events/pushed", raw=b"[" * 100_000) == (400, "E5012")
    assert refused("/events/pushed", raw=b"a=1", Content_Type="text/plain") == (415, "E5012")
    assert refused("/events/pushed", 1, Idempotency_Key="x" * 201) == (400, "E5012")
    assert refused("/jobs/tell", {"inputs": 1}) == (400, "E5012")
    assert refused("/jobs/tell", [1]) == (400, "E5012")
    assert refused("/jobs/tell", {"params": {"too": 1}}) == (400, "E5012")
    client.ask("/jobs/tell", {})
    monkeypatch.setattr(project_triggers, "MOST", 1)
    status, told, headers = client.ask("/jobs/tell", {})
    assert (status, told["error"]["code"], told["error"]["retry"]) == (429, "E5011", True) and int(headers["retry-after"]) > 0


def test_a_long_body_is_refused_by_what_it_says_and_by_what_comes(client: Client) -> None:
    said = f"POST /events/pushed HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s3cret\r\nContent-Length: {LIMIT_BYTES + 1}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", client.port), timeout=30) as sock:
        sock.sendall(said.encode())  # and nothing of the body
        assert sock.recv(20).startswith(b"HTTP/1.1 413")
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with socket.create_connection(("127.0.0.1", client.port), timeout=30) as sock:
        sock.sendall(b"POST /events/pushed HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s3cret\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(LIMIT_BYTES // 0x10000 + 1):
            sock.sendall(chunk)
        assert sock.recv(20).startswith(b"HTTP/1.1 413")
    assert not client.project.state.history("event")


def test_a_job_is_started_once_for_each_delivery(client: Client) -> None:
    form = {"input": {"a": [1]}, "params": {"to": "you"}}
    status, told, _ = client.ask("/jobs/tell", form, Idempotency_Key="k")
    assert status == 202 and told["job"] == "tell"
    assert client.ask("/jobs/tell", form, Idempotency_Key="k")[1] == told
    (job,) = client.project.state.queue.jobs()
    assert (job.run, job.payload["input"], job.payload["params"]) == (told["run"], {"a": [1]}, {"to": "you"})
    status, run, _ = client.ask(f"/runs/{told['run']}", method="GET")
    assert (status, run["status"], run["jobs"][0]["name"], run["jobs"][0]["input"]) == (200, "waiting", "job:tell", {"a": [1]})


def test_a_flow_is_started_with_its_parameters(client: Client) -> None:
    status, told, _ = client.ask("/flows/both", {"input": 5})
    assert status == 202
    (job,) = client.project.state.queue.jobs(kind="flow")
    assert (job.run, job.payload["input"], job.payload["params"]) == (
        told["run"],
        5,
        {},
    )  # its own parameters count when its steps are done


def test_health_needs_no_token_and_tells_no_more_than_it(client: Client) -> None:
    assert client.ask("/healthz", method="GET", token="")[:2] == (200, {"active": True})


def test_it_listens_on_loopback_alone_and_says_if_it_cannot(client: Client) -> None:
    with (
        pytest.raises(SettingsError, match="the port cannot be had"),
        listening(app_of(Triggers(client.project, client.wake), lambda: True), client.port),
    ):
        pass
    outside = [a[4][0] for a in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET) if not a[4][0].startswith("127.")]
    for address in outside:
        with pytest.raises(ConnectionRefusedError), socket.create_connection((address, client.port), timeout=5):
            pass


@pytest.mark.parametrize(
    "text", ["[up]\ntoken = 3", '[up]\ntoken = "a b"', "[up.events]\nx = 1", "[up]\nevents = 1", "up = 1", "[up]\nport = 1"]
)
def test_settings_that_name_no_secret_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "penstock.toml").write_text(text)
    with pytest.raises(SettingsError):
        Project.open(tmp_path)
