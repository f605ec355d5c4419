"""The state suite over a real PostgreSQL, and what only that can be asked."""

from __future__ import annotations

import multiprocessing
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from penstock.adapters.state.postgresql import PostgresqlState
from penstock.adapters.state.postgresql.address import Address, address_of
from penstock.adapters.state.postgresql.migrations import MIGRATIONS, upgrade
from penstock.adapters.state.postgresql.tables import Tables
from penstock.ground.clock import SystemClock
from penstock.ground.errors import CommitUnknown, SettingsError, StateTooNew, StateUnreachable, StorageError
from penstock.ground.ids import SystemIds
from penstock.ground.names import quote
from penstock.ports.adapters import Context
from penstock.ports.queue import NewJob, Offers
from penstock.project.project import Project
from penstock.testing.clock import START
from penstock.testing.suites.state import *  # noqa: F403
from tests.services.postgres_state import Place, new_state, opened, place

__all__ = ["new_state", "place"]
pytestmark = pytest.mark.service

END_OTHERS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'penstock'"


# -- opening
def context(**secrets: str) -> Context:
    def secret(name: str) -> str:
        if name not in secrets:
            raise SettingsError("a secret has no value", place=name)
        return secrets[name]

    return Context(Path("/nowhere"), SystemClock(), SystemIds(SystemClock()), secret)


def test_the_password_is_a_secret(place: Place) -> None:
    address, right = place.address(), place.server.password
    url = f"{place.server.url}?schema={address.schema}"
    PostgresqlState.open(url, context(PENSTOCK_STATE_PASSWORD=right)).append("asset", "x", {}, at=START)
    assert set(PostgresqlState.open(f"{url}&secret=MINE", context(MINE=right)).heads("asset")) == {"x"}
    for bad in (context(PENSTOCK_STATE_PASSWORD="wr0ng"), context()):
        with pytest.raises(StorageError, match="refuses the connection") as told:
            PostgresqlState.open(url, bad)
        assert not told.value.retry
        assert "PENSTOCK_STATE_PASSWORD" in told.value.hint
        assert "wr0ng" not in str(told.value)
    with pytest.raises(SettingsError):
        PostgresqlState.open(f"{url}&secret=MINE", context(PENSTOCK_STATE_PASSWORD=right))
    assert right not in repr(address)


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "u@h/d?sslmode=maybe",
        "u@h/d?shema=x",
        "h/d",
        "u@h",
        "u:secr3t@h:port/d",
        "u@h/d?schema=",
        "u@h/d?schema=pg_x",
        f"u@h/d?schema={'x' * 64}",
    ],
)
def test_a_url_that_cannot_be_understood_is_told(rest: str) -> None:
    with pytest.raises(SettingsError) as told:
        address_of(f"postgresql://{rest}")
    assert "secr3t" not in str(told.value)


@pytest.mark.parametrize("schema", ['we"ird; DROP SCHEMA public', "Größe 日本", "select", "a.b", "x" * 63])
def test_any_name_is_safe(place: Place, schema: str) -> None:
    address = replace(place.address(), schema=schema)
    opened(address).append("asset", schema, {"n": 1}, at=START)
    assert set(opened(address).heads("asset")) == {schema}
    place.server.run(f"SET client_min_messages = error; DROP SCHEMA {quote(schema)} CASCADE")


def test_a_newer_state_is_refused_untouched(place: Place) -> None:
    address = place.address()
    opened(address).close()
    place.server.run(f"INSERT INTO {address.schema}.penstock_schema VALUES ({len(MIGRATIONS) + 1}, now())")
    with pytest.raises(StateTooNew, match="upgrade"):
        opened(address)


def test_a_schema_of_another_program_is_refused_untouched(place: Place) -> None:
    address = place.address()
    place.server.run(f"CREATE SCHEMA {address.schema}; CREATE TABLE {address.schema}.records (mine text)")
    with pytest.raises(StorageError, match="another program"):
        opened(address)
    assert place.server.run(f"SELECT count(*) FROM pg_tables WHERE schemaname = '{address.schema}'").strip() == "1"


def test_migrations_go_forward_once_and_whole(place: Place) -> None:
    address = place.address()
    opened(address).append("asset", "x", {"n": 1}, at=START)
    tables = Tables(address)
    with pytest.raises(StorageError):
        upgrade(tables, address, START, (*MIGRATIONS, ("ALTER TABLE records ADD COLUMN who text", "SELECT * FROM nowhere")))
    for _ in range(2):
        upgrade(tables, address, START, (*MIGRATIONS, ("ALTER TABLE records ADD COLUMN who text",)))
    assert [tuple(row) for row in tables.read("SELECT key, who FROM records")] == [("x", None)]
    assert tables.read("SELECT count(*) FROM penstock_schema")[0][0] == len(MIGRATIONS) + 1
    tables.close()


def test_several_may_make_the_schema_at_once(place: Place) -> None:
    address = place.address()
    workers = [multiprocessing.get_context("spawn").Process(target=append_one, args=(address, n)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert set(opened(address).heads("asset")) == {"0", "1", "2", "3"}


def append_one(address: Address, n: int) -> None:
    opened(address).append("asset", str(n), {}, at=START)


def test_records_cannot_be_changed_by_sql(place: Place) -> None:
    address = place.address()
    opened(address).append("asset", "x", {"n": 1}, at=START)
    for statement in ("UPDATE {}.records SET body = ''", "DELETE FROM {}.records", "TRUNCATE {}.records"):
        with pytest.raises(AssertionError, match="never changed"):
            place.server.run(statement.format(address.schema))


def test_a_forked_child_has_a_connection_of_its_own(place: Place) -> None:
    state = opened(place.address())
    state.append("asset", "parent", {}, at=START)
    child = multiprocessing.get_context("fork").Process(target=lambda: state.append("asset", "child", {}, at=START))
    child.start()
    child.join()
    assert child.exitcode == 0
    state.append("asset", "parent", {"again": True}, at=START)
    assert set(state.heads("asset")) == {"parent", "child"}


# -- a server that goes away
def test_a_broken_connection_is_made_anew(place: Place) -> None:
    state = opened(place.address())
    for n in range(3):
        state.append("asset", "x", {"n": n}, at=START)
        place.server.run(END_OTHERS)
        assert len(state.history("asset")) == n + 1
        place.server.run(END_OTHERS)


@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_what_was_told_is_there_after_the_server_was_away(place: Place, how: str) -> None:
    state = opened(place.address())
    state.queue.enqueue([NewJob("x", "k"), NewJob("y", "k")], now=START)
    lease = state.queue.claim("w", Offers(), now=START, lease_s=30)
    assert lease is not None
    place.server.stop(how)
    try:
        for call in (
            lambda: state.queue.heartbeat(lease, now=START, lease_s=30),
            lambda: state.append("asset", "x", {}, at=START),
            lambda: state.heads("asset"),
            lambda: opened(place.address()),
        ):
            with pytest.raises(StateUnreachable) as told:
                call()
            assert told.value.retry
    finally:
        place.server.start()
    assert state.queue.complete(lease, now=START, result=1).result == 1
    assert {status: n for status, n in state.queue.counts().items() if n} == {"done": 1, "ready": 1}
    assert not state.heads("asset")


class Proxy:
    """Passes bytes on to the server. `at_commit`: what becomes of the next connection that commits.

    `lost`: the commit does not reach the server. `answer lost`: it does, its answer does not come back. After that, with `shut`, nobody
    gets through any more.
    """

    def __init__(self, port: int) -> None:
        self.at_commit, self.shut, self.commits = "", False, 0
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.shut:
                    client.close()
                else:
                    threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self._port))
        back = threading.Thread(target=self._copy, args=(server, client), daemon=True)
        back.start()
        with suppress(OSError):
            while data := client.recv(65536):
                if b"COMMIT" in data:
                    self.commits += 1
                    what, self.at_commit = self.at_commit, "" if not self.at_commit.startswith("always") else self.at_commit
                    if what.endswith("answer lost"):
                        client.shutdown(socket.SHUT_WR)
                        server.sendall(data)
                        server.shutdown(socket.SHUT_WR)
                        back.join()
                    if what:
                        break
                server.sendall(data)
        for end in (client, server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _copy(self, server: socket.socket, client: socket.socket) -> None:
        """The way back; reads on when the client hears nothing any more, so that the server gets to its end."""
        with suppress(OSError):
            while data := server.recv(65536):
                with suppress(OSError):
                    client.sendall(data)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def proxy(place: Place) -> Iterator[Proxy]:
    made = Proxy(place.server.port)
    yield made
    made.close()


def through(place: Place, proxy: Proxy) -> tuple[PostgresqlState, Address]:
    address = place.address()
    return PostgresqlState(replace(address, host="127.0.0.1", port=proxy.port, sslmode="disable"), SystemClock()), address


def test_a_commit_that_was_lost_is_done_again_once(place: Place, proxy: Proxy) -> None:
    state, address = through(place, proxy)
    proxy.at_commit, before = "lost", proxy.commits
    state.append("asset", "x", {"n": 1}, at=START)
    assert proxy.commits == before + 2
    assert len(opened(address).history("asset")) == 1


def test_a_commit_whose_answer_was_lost_is_not_done_again(place: Place, proxy: Proxy) -> None:
    state, address = through(place, proxy)
    proxy.at_commit, before = "answer lost", proxy.commits
    record = state.append("asset", "x", {"n": 1}, at=START)
    assert proxy.commits == before + 1
    assert list(opened(address).history("asset")) == [record]


def test_commits_that_never_arrive_are_told(place: Place, proxy: Proxy) -> None:
    state, address = through(place, proxy)
    proxy.at_commit = "always lost"
    with pytest.raises(StateUnreachable, match="nothing was written"):
        state.append("asset", "x", {"n": 1}, at=START)
    assert not opened(address).history("asset")


@pytest.mark.parametrize(("what", "there"), [("lost", 0), ("answer lost", 1)])
def test_a_commit_that_nobody_can_tell_of_is_unknown_and_may_be_repeated(place: Place, proxy: Proxy, what: str, there: int) -> None:
    state, address = through(place, proxy)
    jobs = [NewJob("x", "k", id="x" * 20)]
    proxy.at_commit, proxy.shut = what, True
    with pytest.raises(CommitUnknown) as told:
        state.queue.enqueue(jobs, now=START)
    assert told.value.retry
    other = opened(address)
    assert len(other.queue.jobs()) == there
    proxy.shut = False
    assert [job.name for job in state.queue.enqueue(jobs, now=START)] == ["x"]
    assert len(other.queue.jobs()) == 1


def test_a_project_runs_with_its_state_in_the_database(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = place.address()
    (tmp_path / "data.csv").write_text("x\n1\n2\n")
    (tmp_path / "pipeline.py").write_text(
        'import penstock as ps\n\nraw = ps.files("data.csv")\n\n\n@ps.table\ndef twice(raw):\n    return ps.sql("SELECT x * 2 AS y FROM raw")\n'
    )
    (tmp_path / "penstock.toml").write_text(
        f'[project]\nlevel = "shared"\n[level.shared]\nstate = "{place.server.url}?schema={address.schema}"\n'
    )
    monkeypatch.setenv("PENSTOCK_STATE_PASSWORD", place.server.password)
    for made in (2, 0):
        with Project.open(tmp_path) as project:
            report = project.run()
            assert report.ok
            assert sum(result.status == "made" for result in report.results) == made
            assert [row["y"] for row in project.query("SELECT y FROM twice ORDER BY y").rows()] == [2, 4]
    assert {"raw", "twice"} <= set(opened(address).heads("asset"))
