"""The tables in the database, as the SQL of records and queue wants them: one connection, transactions whose end is known.

Tested with PostgreSQL 18 and pg8000 1.31. Needs PostgreSQL 13. A connection that broke is made anew. What broke off before its commit was
sent is done again once, and else told as StateUnreachable. If the answer of a commit was lost, the server is asked what became of the
transaction (`pg_xact_status`); only if it cannot be asked the error is CommitUnknown. A commit is durable unless the server is set to
`synchronous_commit = off`; we set it on for our sessions.
"""

from __future__ import annotations

import json
import os
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC
from typing import Any, TypeVar

from pg8000.exceptions import DatabaseError, InterfaceError
from pg8000.native import Connection, PreparedStatement

from penstock.adapters.kit.database import Dialect, Row, Run
from penstock.adapters.state.postgresql.address import Address
from penstock.ground.clock import iso
from penstock.ground.errors import Busy, CommitConflict, CommitUnknown, StateUnreachable, StorageError, StorageFull
from penstock.ground.failpoints import reach
from penstock.ground.names import quote

T = TypeVar("T")

#: How long the server may take over one statement, in seconds. Transactions last a few milliseconds; only locks of others take time.
_WAIT_S = 60
#: How often a transaction is run again that the server undid because of others.
_ATTEMPTS = 6
#: How often the server is asked what became of a commit, every tenth of a second while it is still busy with it.
_ASKED = 50
_SSL: dict[str, Callable[[], Any]] = {
    "prefer": lambda: None,
    "disable": lambda: False,
    "require": lambda: True,
    "verify-full": ssl.create_default_context,
}
_SETTINGS = (
    "SET synchronous_commit = on; SET timezone = 'UTC'; SET default_transaction_isolation = 'read committed'; SET client_min_messages = error;"
    f" SET statement_timeout = '{_WAIT_S}s'; SET idle_in_transaction_session_timeout = '{_WAIT_S}s'; SET search_path = "
)


class Tables:
    """Threads share a connection, and wait for each other; a forked child makes its own."""

    dialect = Dialect(
        "= ANY (ARRAY(SELECT json_array_elements_text(CAST(:{} AS json))))",
        " FOR UPDATE",
        " FOR UPDATE SKIP LOCKED",
        " FOR SHARE",
        lambda moment: moment,
        lambda value: value.astimezone(UTC),
    )

    def __init__(self, address: Address) -> None:
        self._address = address
        self.name = address.place
        self._lock = threading.RLock()
        self._connection: Connection | None = None
        self._prepared: dict[str, PreparedStatement] = {}
        self._process = 0

    def write(self, work: Callable[[Run], T], *, point: str = "") -> T:
        with self._lock:
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    result = self._transaction(work, point)
                    break
                except CommitConflict:
                    if attempt == _ATTEMPTS:
                        raise
                except StateUnreachable:
                    if attempt > 1:
                        raise
            if point:
                with self.told():
                    reach(f"{point}.after")
            return result

    def _transaction(self, work: Callable[[Run], T], point: str) -> T:
        with self.told():
            connection = self.connected()
            try:
                connection.run("BEGIN")
                result = work(self._run)
                if point:
                    reach(f"{point}.before")
                number = self._run("SELECT CAST(pg_current_xact_id_if_assigned() AS text)")[0][0]
            except BaseException as error:
                self._undo(connection, error)
                raise
            if number is None:
                connection.run("COMMIT")
                return result
        self._commit(connection, number)
        return result

    def _commit(self, connection: Connection, number: str) -> None:
        """Raises: StateUnreachable(E4011) if it certainly did not commit; CommitUnknown(E4003)."""
        try:
            connection.run("COMMIT")
        except BaseException as error:
            self._drop()
            if isinstance(error, DatabaseError) and not _broken(error):
                raise self._as_ours(error) from error
            if (known := self._became(number)) is not None:
                if known:
                    if isinstance(error, Exception):
                        return
                    raise
                raise StateUnreachable("the database broke off before it committed", place=self.name, hint="nothing was written") from error
            raise CommitUnknown(
                "the database went away during a commit and cannot be asked",
                place=self.name,
                got=f"transaction {number}",
                hint="repeat the call when it is back: jobs and leases are found again by their ids and epochs",
            ) from error

    def _became(self, number: str) -> bool | None:
        """Whether a transaction was committed; None if nobody can tell."""
        for _ in range(_ASKED):
            try:
                status = self.connected().run("SELECT pg_xact_status(CAST(:number AS xid8))", number=number)[0][0]
            except (DatabaseError, InterfaceError, OSError, StorageError):
                self._drop()
                return None
            if status != "in progress":
                return bool(status == "committed")
            threading.Event().wait(0.1)
        return None

    def read(self, sql: str, **values: Any) -> Sequence[Row]:
        with self._lock:
            try:
                with self.told():
                    self.connected()
                    return self._run(sql, **values)
            except StateUnreachable:
                with self.told():
                    self.connected()
                    return self._run(sql, **values)

    def insert(self, run: Run, table: str, columns: Sequence[str], rows: Sequence[Row], *, returned: str = "") -> Sequence[Row]:
        if not rows:
            return []
        names = ", ".join(columns)
        text = json.dumps([dict(zip(columns, row, strict=True)) for row in rows], default=iso)
        query = (
            f"INSERT INTO {table} ({names}) SELECT {names} FROM ROWS FROM"
            f" (json_populate_recordset(CAST(NULL AS {table}), CAST(:rows AS json))) WITH ORDINALITY ORDER BY ordinality ON CONFLICT DO NOTHING"
        )
        return run(f"{query} RETURNING {returned}" if returned else query, rows=text)

    def lock(self, run: Run, name: str) -> None:
        run("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))", name=f"{self._address.schema}/{name}")

    def connected(self) -> Connection:
        """The connection of this process, made if there is none. Raises: what the driver raises."""
        if self._process != os.getpid():
            self._connection, self._process = None, os.getpid()  # what a parent has is its own, and is not ended here
        if self._connection is None:
            self._prepared = {}
            where = self._address
            made = Connection(
                where.user,
                host=where.host,
                port=where.port,
                database=where.database,
                password=where.password or "",
                timeout=where.connect_timeout,
                ssl_context=_SSL[where.sslmode](),
                application_name="penstock",
            )
            made._usock.settimeout(_WAIT_S + 10)
            made.run(_SETTINGS + quote(where.schema))
            self._connection = made
        return self._connection

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _run(self, sql: str, **values: Any) -> Sequence[Row]:
        """One statement on the open connection, prepared once."""
        assert self._connection is not None
        if sql not in self._prepared:
            self._prepared[sql] = self._connection.prepare(sql)
        return self._prepared[sql].run(**values) or []

    def _undo(self, connection: Connection, error: BaseException) -> None:
        """Nothing is left of a transaction. A connection that will not do that is given up, and the server does it."""
        if isinstance(error, (InterfaceError, OSError)) and not isinstance(error, StorageError):
            self._drop()
            return
        try:
            connection.run("ROLLBACK")
        except (DatabaseError, InterfaceError, OSError):
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None and self._process == os.getpid():
            with suppress(InterfaceError, OSError):
                self._connection.close()
        self._connection = None

    @contextmanager
    def told(self) -> Iterator[None]:
        """The driver's and the system's errors as ours; a broken connection is dropped."""
        try:
            yield
        except (DatabaseError, InterfaceError, OSError) as error:
            if isinstance(error, StorageError):
                raise
            if _broken(error):
                self._drop()
            raise self._as_ours(error) from error

    def _as_ours(self, error: Exception) -> StorageError:
        code, said = _code(error), _said(error)
        if isinstance(error, OSError) and error.errno == 28:
            return StorageFull("no space left", place=self.name, got=said)
        if code in ("28P01", "28000", "3D000"):
            hint = "check user, database and password; the password is the secret PENSTOCK_STATE_PASSWORD, or the one that `secret=` names"
            return StorageError("the database refuses the connection", place=self.name, got=said, hint=hint)
        if _broken(error):
            return StateUnreachable("the database of the state does not answer", place=self.name, got=said, hint="is it up?")
        if code in ("53100", "53200"):
            return StorageFull("the database has no space left", place=self.name, got=said, hint="nothing was written")
        if code in ("40001", "40P01", "23505"):
            return CommitConflict("another writer was in the way", place=self.name, got=said)
        if code in ("55P03", "57014"):
            return Busy("the state is locked", place=self.name, got=said, hint=f"another session has held a lock for {_WAIT_S} s")
        if code == "42501":
            hint = f"GRANT CREATE ON DATABASE {self._address.database} TO {self._address.user}, or let its owner make the schema"
            return StorageError("the database denies it", place=self.name, got=said, hint=hint)
        if code == "25006":
            return StorageError("the database is read-only", place=self.name, got=said, hint="is this a standby?")
        return StorageError("PostgreSQL refuses", place=self.name, got=said)


def _code(error: Exception) -> str:
    """PostgreSQL's code of an error, "" if it did not come from the server."""
    return str(error.args[0].get("C", "")) if isinstance(error, DatabaseError) and error.args and isinstance(error.args[0], dict) else ""


def _said(error: Exception) -> str:
    told = error.args[0].get("M", "") if _code(error) else str(error.__cause__ or error)
    return str(told).replace("\n", " ")[:300]


def _broken(error: Exception) -> bool:
    """Whether the connection is of no more use: it broke, or the server is going down or coming up, or has no room for us."""
    code = _code(error)
    return not code or code[:2] == "08" or code in ("57P01", "57P02", "57P03", "25P03", "53300")
