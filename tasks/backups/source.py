"""What is backed up and where its file lies: plain values, and the pure rules about them."""

from dataclasses import dataclass, field
from pathlib import Path

from tasks.errors import InvalidInput
from tasks.registry.names import require_block_name, require_slug

LONGEST_NAME = 255
"""Bytes that file systems give a name; beside a backup lie files whose names are longer than its own."""
APP_DATABASE = "app-database"
"""The block of the operator's own application database, whose file lies in the folder itself as it always did."""


@dataclass(frozen=True)
class Database:
    """A PostgreSQL database as one role sees it.

    Args:
        host: name, address or folder of the socket.
        sslmode: libpq's.
        block: the block that says all that, for the sentences about it.
    """

    host: str
    port: int
    name: str
    user: str
    password: str = field(repr=False)
    sslmode: str = "prefer"
    block: str = ""

    @property
    def server(self) -> str:
        """``host:port``, as shown to the operator."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Target:
    """Whose database it is: a client's, or the one that a block names. Exactly one is set."""

    client: str | None = None
    database: str | None = None

    @property
    def key(self) -> str:
        """As the registry and the lock know it.

        >>> Target(client="acme").key, Target(database="app-database").key
        ('client:acme', 'database:app-database')
        """
        return f"client:{self.client}" if self.client else f"database:{self.database}"

    @property
    def lock(self) -> str:
        """Held while a backup is made or replaced."""
        return f"backup-{self.key}"

    @property
    def spoken(self) -> str:
        """As an operator calls it.

        >>> Target(client="acme").spoken, Target(database="app-database").spoken
        ('client acme', 'app-database')
        """
        return f"client {self.client}" if self.client else str(self.database)

    @property
    def artifact(self) -> str:
        """Key of its page among Prefect's artifacts.

        >>> Target(client="acme").artifact, Target(database="app-database").artifact
        ('backup-acme', 'backup-database-app-database')
        """
        return f"backup-{self.client}" if self.client else f"backup-database-{self.database}"


def target(client: str | None, database: str | None) -> Target:
    """The target meant by a flow's two parameters.

    Raises:
        InvalidInput: both or neither is given, or one is malformed.

    >>> target(None, None)
    Traceback (most recent call last):
    tasks.errors.InvalidInput: neither client nor database is given; give exactly one: a client's slug, or the name of a PostgreSQL database block like app-database.
    """
    if bool(client) == bool(database):
        both = "both client and database are given" if client else "neither client nor database is given"
        raise InvalidInput(
            both, "give exactly one: a client's slug, or the name of a PostgreSQL database block like app-database"
        )
    if client:
        return Target(client=require_slug(client))
    return Target(database=require_block_name(database or ""))


def target_of(key: str) -> Target:
    """The target that the registry knows as ``key``.

    >>> target_of("client:acme")
    Target(client='acme', database=None)
    """
    kind, _, name = key.partition(":")
    return Target(client=name) if kind == "client" else Target(database=name)


def place(whose: Target, directory: Path, filename: str) -> Path:
    """The file of the target's latest backup.

    The operator's own application keeps LOCAL_BACKUP_DIR/LOCAL_BACKUP_FILENAME exactly; a client's lies in a folder named
    after it, another block's in ``database_<block>`` (no slug has an underscore, so the two never meet).

    Raises:
        InvalidInput: the folder is not absolute, or the file name has a path in it.

    >>> place(Target(client="acme"), Path("/b"), "latest.sql.gz").as_posix()
    '/b/acme/latest.sql.gz'
    >>> place(Target(database="app-database"), Path("/b"), "latest.sql.gz").as_posix()
    '/b/latest.sql.gz'
    >>> place(Target(database="crm"), Path("/b"), "latest.sql.gz").as_posix()
    '/b/database_crm/latest.sql.gz'
    """
    if not directory.is_absolute():
        raise InvalidInput(
            f"the backups' folder {str(directory)!r} is not an absolute path",
            "write LOCAL_BACKUP_DIR (Folder in the block backup-policy) like /var/backups/zero",
        )
    if "\0" in str(directory) or any(len(part.encode()) > LONGEST_NAME for part in directory.parts):
        raise InvalidInput(
            f"the backups' folder {str(directory)[:60]!r}… is no path that a file system takes",
            "write LOCAL_BACKUP_DIR (Folder in the block backup-policy) like /var/backups/zero",
        )
    taken = filename.endswith((".json", ".age", ".part"))
    plain = filename == Path(filename).name and not filename.startswith(".") and filename.isprintable()
    if not plain or taken or len(filename.encode()) > LONGEST_NAME - 40:
        raise InvalidInput(
            f"the backups' file name {filename[:60]!r} is not a plain name"
            + (" (.json, .age and .part are of files beside it)" if taken else ""),
            "write LOCAL_BACKUP_FILENAME (File name in the block backup-policy) like latest_backup.sql.gz",
        )
    if whose.client:
        return directory / whose.client / filename
    if whose.database == APP_DATABASE:
        return directory / filename
    return directory / f"database_{whose.database}" / filename


def many(count: int, one: str) -> str:
    """A number of things as a person reads it.

    >>> many(1, "row"), many(13, "table")
    ('1 row', '13 tables')
    """
    return f"{count} {one}" if count == 1 else f"{count} {one}s"


def mib(count: int) -> str:
    """A number of bytes as a person reads it.

    >>> mib(900), mib(5_000), mib(3 * 2**20), mib(5 * 2**30)
    ('900 bytes', '4.9 KiB', '3.0 MiB', '5.0 GiB')
    """
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
