"""Where the database is: a URL taken apart."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, unquote, urlsplit

from penstock.ground.errors import SettingsError, did_you_mean

_KNOWN = ("schema", "secret", "sslmode", "connect_timeout")
_SSL = ("prefer", "disable", "require", "verify-full")
#: What PostgreSQL takes as a name, in bytes; it would cut a longer one off in silence.
_LONGEST = 63


@dataclass(frozen=True)
class Address:
    """A database and the schema that is ours. The password stands in no text of it."""

    host: str
    port: int
    user: str
    database: str
    password: str | None = field(default=None, repr=False)
    schema: str = "penstock"
    secret: str = ""
    sslmode: str = "prefer"
    connect_timeout: float = 10.0

    @property
    def place(self) -> str:
        """For errors."""
        return f"{self.host}:{self.port}/{self.database}[{self.schema}]"

    def with_password(self, password: str) -> Address:
        return replace(self, password=password)


def address_of(url: str) -> Address:
    """Reads `postgresql://user:password@host:port/database?option=value`. Raises: SettingsError(E7001), without the password."""
    try:
        parts = urlsplit(url)
        port = parts.port or 5432
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        timeout = float(options.get("connect_timeout", "10"))
    except ValueError:
        raise SettingsError("not the URL of a database", place="state", expected="postgresql://user@host:port/database") from None
    for name in options:
        if name not in _KNOWN:
            raise SettingsError("no such option of the state's URL", place="state", got=name, hint=did_you_mean(name, _KNOWN))
    if not parts.username or not parts.path.strip("/"):
        raise SettingsError("user or database is missing", place="state", expected="postgresql://user@host:port/database")
    sslmode, schema = options.get("sslmode", "prefer"), options.get("schema", "penstock")
    if sslmode not in _SSL:
        raise SettingsError("no such sslmode", place="state", expected=", ".join(_SSL), got=sslmode)
    if not schema or "\0" in schema or len(schema.encode()) > _LONGEST or schema.startswith("pg_"):
        raise SettingsError("not a name for a schema", place="state", expected=f"1 to {_LONGEST} bytes, not pg_...", got=f"{schema!a}")
    return Address(
        host=parts.hostname or "localhost",
        port=port,
        user=unquote(parts.username),
        database=unquote(parts.path.strip("/")),
        password=None if parts.password is None else unquote(parts.password),
        schema=schema,
        secret=options.get("secret", ""),
        sslmode=sslmode,
        connect_timeout=timeout,
    )
