"""Our schema, from nothing to the newest version."""

from __future__ import annotations

from datetime import datetime

from penstock.adapters.kit.database import Run
from penstock.adapters.state.postgresql.address import Address
from penstock.adapters.state.postgresql.tables import Tables
from penstock.ground.errors import StateTooNew, StorageError
from penstock.ground.names import quote

#: One entry per version of the tables, each a list of statements that leads there from the version before. Never edited, only added to.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        'CREATE TABLE records (seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, kind text COLLATE "C" NOT NULL,'
        ' key text COLLATE "C" NOT NULL, at timestamptz NOT NULL, body text NOT NULL)',
        "CREATE INDEX records_by_key ON records (kind, key, seq)",
        "CREATE INDEX records_by_kind ON records (kind, seq)",
        "CREATE FUNCTION records_are_kept() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN RAISE EXCEPTION ''records are never changed or removed''; END'",
        "CREATE TRIGGER records_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON records FOR EACH STATEMENT EXECUTE FUNCTION records_are_kept()",
        'CREATE TABLE heads (kind text COLLATE "C" NOT NULL, key text COLLATE "C" NOT NULL, seq bigint NOT NULL, PRIMARY KEY (kind, key))',
        'CREATE TABLE claims (name text COLLATE "C" PRIMARY KEY, epoch bigint NOT NULL, owner text, until timestamptz)',
        'CREATE TABLE queue_jobs (seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id text COLLATE "C" NOT NULL UNIQUE, name text NOT NULL,'
        ' kind text COLLATE "C" NOT NULL, payload text NOT NULL, run text COLLATE "C" NOT NULL, priority bigint NOT NULL,'
        ' key text COLLATE "C" NOT NULL, at_once bigint NOT NULL, dedupe text COLLATE "C" NOT NULL, on_duplicate text NOT NULL,'
        " comes_after text NOT NULL, not_before timestamptz, attempts bigint NOT NULL, timeout_s double precision,"
        ' memory_bytes bigint NOT NULL, cores double precision NOT NULL, gpus bigint NOT NULL, status text COLLATE "C" NOT NULL,'
        " created timestamptz NOT NULL, blockers bigint NOT NULL, attempt bigint NOT NULL DEFAULT 0, vanished bigint NOT NULL DEFAULT 0,"
        " epoch bigint NOT NULL DEFAULT 0, owner text COLLATE \"C\" NOT NULL DEFAULT '', until timestamptz, started timestamptz,"
        " ended timestamptz, cancel_asked smallint NOT NULL DEFAULT 0, progress text, result text, error text,"
        " because text COLLATE \"C\" NOT NULL DEFAULT '', cost text NOT NULL DEFAULT '{}') WITH (fillfactor = 80)",
        "CREATE INDEX queue_jobs_ready ON queue_jobs (priority DESC, seq) WHERE status = 'ready'",
        "CREATE INDEX queue_jobs_waiting ON queue_jobs (blockers, not_before) WHERE status = 'waiting'",
        "CREATE INDEX queue_jobs_late ON queue_jobs (until) WHERE status = 'running'",
        "CREATE INDEX queue_jobs_running_of_owner ON queue_jobs (owner) WHERE status = 'running'",
        "CREATE INDEX queue_jobs_running_of_key ON queue_jobs (key) WHERE status = 'running'",
        "CREATE UNIQUE INDEX queue_jobs_alone ON queue_jobs (dedupe) WHERE dedupe <> '' AND status IN ('waiting', 'ready', 'running')",
        "CREATE INDEX queue_jobs_lost_by ON queue_jobs (because) WHERE because <> ''",
        "CREATE INDEX queue_jobs_of_run ON queue_jobs (run, status)",
        "CREATE INDEX queue_jobs_of_key ON queue_jobs (key) WHERE key <> ''",
        "CREATE INDEX queue_jobs_lost ON queue_jobs (status) WHERE status IN ('failed', 'cancelled', 'dead')",
        'CREATE TABLE queue_after (blocker text COLLATE "C" NOT NULL, job text COLLATE "C" NOT NULL, PRIMARY KEY (blocker, job))',
        'CREATE TABLE queue_workers (owner text COLLATE "C" PRIMARY KEY, memory_bytes bigint NOT NULL, cores double precision NOT NULL,'
        " gpus bigint NOT NULL, kinds text NOT NULL, since timestamptz NOT NULL, until timestamptz NOT NULL)",
        'CREATE TABLE queue_paused (kind text COLLATE "C" PRIMARY KEY)',
    ),
)
_OURS = ("records", "heads", "claims", "queue_jobs", "queue_after", "queue_workers", "queue_paused")


def upgrade(tables: Tables, address: Address, now: datetime, migrations: tuple[tuple[str, ...], ...] = MIGRATIONS) -> None:
    """Brings the schema to the newest version, in one transaction; changes nothing when it is there already. One process at a time does.

    Raises: StateTooNew(E4010); StorageError(E4001) if the schema has tables of our names without our mark; StateUnreachable(E4011).
    """
    if _version(tables.read, address, len(migrations)) == len(migrations):
        return

    def work(run: Run) -> None:
        tables.lock(run, "migrations")
        run("SELECT 1" if _exists(run, address) else f"CREATE SCHEMA IF NOT EXISTS {quote(address.schema)}")
        version = _version(run, address, len(migrations))
        run("CREATE TABLE IF NOT EXISTS penstock_schema (version bigint PRIMARY KEY, since timestamptz NOT NULL)")
        for number, statements in enumerate(migrations[version:], version + 1):
            for statement in statements:
                run(statement)
            run("INSERT INTO penstock_schema (version, since) VALUES (:number, :now)", number=number, now=now)

    tables.write(work)


def _exists(run: Run, address: Address) -> bool:
    return bool(run("SELECT 1 FROM pg_namespace WHERE nspname = :schema", schema=address.schema))


def _version(run: Run, address: Address, newest: int) -> int:
    """Version of our tables in the schema, 0 if it has none of them."""
    query = "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = :schema"
    names = {row[0] for row in run(query, schema=address.schema)}
    if "penstock_schema" not in names:
        if foreign := sorted(names & set(_OURS)):
            raise StorageError(
                "the schema belongs to another program",
                place=address.place,
                expected="no table called " + ", ".join(_OURS),
                got=", ".join(foreign),
                hint="give the state a schema of its own, `?schema=name`; nothing was changed",
            )
        return 0
    version = int(run("SELECT coalesce(max(version), 0) FROM penstock_schema")[0][0])
    if version > newest:
        raise StateTooNew(
            "written by a newer Penstock",
            place=address.place,
            expected=f"version {newest}",
            got=f"version {version}",
            hint="upgrade penstock",
        )
    return version
