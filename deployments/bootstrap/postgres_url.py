"""Reading the URL of a PostgreSQL database. Pure; no refusal shows more of the URL than its scheme and host."""

from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from tasks.errors import InvalidInput

SSL_MODES = ("disable", "prefer", "require", "verify-ca", "verify-full")
EXAMPLE = "postgresql://user:password@host:5432/name"


@dataclass(frozen=True)
class PostgresUrl:
    """The parts of such a URL, percent-decoded."""

    host: str
    port: int
    username: str
    password: str = field(repr=False)
    database: str
    sslmode: str | None
    ignored: tuple[str, ...]
    """Names of further query parameters, which are not used."""


def parse_postgres_url(variable: str, url: str, *, database_needed: bool) -> PostgresUrl:
    """The parts of ``url``.

    Args:
        variable: the environment variable that it stands in, for the sentence.
        url: the URL; it may hold a password.
        database_needed: whether a URL without a database's name is refused.

    Raises:
        InvalidInput: it is not one of a PostgreSQL database.

    >>> parse_postgres_url("DATABASE_URL", "postgres://u:p%40ss@db/app?sslmode=require", database_needed=True).sslmode
    'require'
    """
    # dj-database-url and SQLAlchemy write the driver behind a plus sign.
    scheme = url.partition("://")[0].lower().partition("+")[0] if "://" in url else url.partition(":")[0].lower()
    if scheme == "sqlite":
        raise InvalidInput(
            f"{variable} names a SQLite file",
            "leave it empty and copy that file with a tool of its own: Zero Fleet backs up PostgreSQL only",
        )
    if "://" not in url or scheme not in ("postgres", "postgresql"):
        # What has no scheme may begin with a password: only a word before :// is shown.
        kind = f"a {scheme} URL" if "://" in url and scheme.isalnum() else "no URL"
        raise InvalidInput(f"{variable} is {kind}, not one of PostgreSQL", f"write {EXAMPLE}")
    try:
        parts = urlsplit(url)
        port = parts.port or 5432
        query = parse_qs(parts.query, keep_blank_values=True)
    except ValueError:
        raise InvalidInput(
            f"{variable} cannot be read as a URL (its port or a special character in its password)",
            f"percent-encode the password's special characters, like %40 for @, and write {EXAMPLE}",
        ) from None
    modes = query.pop("sslmode", [])
    sslmode = modes[-1] if modes else None
    if sslmode is not None and sslmode not in SSL_MODES:
        raise InvalidInput(f"{variable} has sslmode={sslmode[:20]!r}", f"write one of {', '.join(SSL_MODES)}")
    if parts.fragment:
        raise InvalidInput(f"{variable} holds a #", "percent-encode it as %23")
    read = PostgresUrl(
        host=unquote(parts.hostname or ""),
        port=port,
        username=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        database=unquote(parts.path.lstrip("/")),
        sslmode=sslmode,
        ignored=tuple(sorted(query)),
    )
    missing = [
        what
        for what, value in (("host", read.host), ("user", read.username), ("database", read.database))
        if not value and (what != "database" or database_needed)
    ]
    if missing:
        raise InvalidInput(f"{variable} names no {' and no '.join(missing)}", f"write {EXAMPLE}")
    if "/" in read.database:
        raise InvalidInput(f"{variable} has more than one name behind its host", f"write {EXAMPLE}")
    return read
