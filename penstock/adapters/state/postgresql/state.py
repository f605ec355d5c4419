"""The state in one schema of a PostgreSQL database."""

from __future__ import annotations

from penstock.adapters.kit.queue import SqlQueue
from penstock.adapters.kit.records import SqlRecords
from penstock.adapters.state.postgresql.address import Address, address_of
from penstock.adapters.state.postgresql.migrations import upgrade
from penstock.adapters.state.postgresql.tables import Tables
from penstock.ground.clock import Clock
from penstock.ground.errors import SettingsError
from penstock.ground.ids import Ids, SystemIds
from penstock.ports.adapters import Context
from penstock.ports.queue import Queue
from penstock.ports.state import StateCapabilities

#: The secret that holds the password if the URL names none.
PASSWORD = "PENSTOCK_STATE_PASSWORD"


class PostgresqlState(SqlRecords):
    """One connection for each process, made when needed and again after it broke. Safe to share between threads, and with forked children."""

    capabilities = StateCapabilities(several_processes=True, several_machines=True)

    def __init__(self, address: Address, clock: Clock, ids: Ids | None = None) -> None:
        """Connects, and makes the schema or brings it to the newest version.

        Raises: StateUnreachable(E4011), StateTooNew(E4010), StorageError(E4001) if the server refuses us or the schema is another program's.
        """
        self._tables = Tables(address)
        try:
            upgrade(self._tables, address, clock.now())
        except BaseException:
            self._tables.close()
            raise
        super().__init__(self._tables)
        self.queue: Queue = SqlQueue(self._tables, ids or SystemIds(clock))

    @classmethod
    def open(cls, url: str, context: Context) -> PostgresqlState:
        """`postgresql://user@host:port/database?schema=penstock&secret=NAME&sslmode=require`; what stands after the `?` may be left out.

        The password is the secret NAME, by default PENSTOCK_STATE_PASSWORD, if it has a value; then one in the URL; else there is none.
        `sslmode` is `prefer` (the default), `disable`, `require` or `verify-full`. `connect_timeout` is in seconds, by default 10.
        Raises: SettingsError(E7001) for a URL that cannot be understood, or a named secret without a value. Else as the constructor.
        """
        address = address_of(url)
        try:
            password = context.secret(address.secret or PASSWORD)
        except SettingsError:
            if address.secret:
                raise
            return cls(address, context.clock, context.ids)
        return cls(address.with_password(password), context.clock, context.ids)

    def pulse(self) -> int:
        """How far the server has written; others than us may write there too."""
        return int(self._tables.read("SELECT pg_current_wal_insert_lsn() - CAST('0/0' AS pg_lsn)")[0][0])

    def close(self) -> None:
        """Ends the connection. Repeat: does nothing."""
        self._tables.close()
