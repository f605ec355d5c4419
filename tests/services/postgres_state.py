"""States in the real PostgreSQL, each in a schema of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from penstock.adapters.state.postgresql import PostgresqlState
from penstock.adapters.state.postgresql.address import Address, address_of
from penstock.ground.clock import SystemClock
from penstock.ports.state import State
from penstock.testing.suites.state import NewState
from tests.services.postgres import Postgres


def opened(address: Address) -> State:
    return PostgresqlState(address, SystemClock())


class Place:
    """Schemas of the server's database, each new and empty."""

    def __init__(self, server: Postgres) -> None:
        self.server = server
        self.schemas = 0

    def address(self) -> Address:
        self.schemas += 1
        return address_of(f"{self.server.url}?schema=s{self.schemas}").with_password(self.server.password)

    def clear(self) -> None:
        for n in range(1, self.schemas + 1):
            self.server.run(f"SET client_min_messages = error; DROP SCHEMA IF EXISTS s{n} CASCADE")


@pytest.fixture
def place(postgres: Postgres) -> Iterator[Place]:
    made = Place(postgres)
    yield made
    made.clear()


@pytest.fixture
def new_state(place: Place) -> NewState:
    def new() -> Callable[[], State]:
        return partial(opened, place.address())

    return new
