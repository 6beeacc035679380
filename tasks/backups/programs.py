"""PostgreSQL's own programs: which pg_dump and psql fit a server, and what they are started with."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tasks.backups.source import Database
from tasks.errors import InvalidInput, NotConfigured

CONNECT_SECONDS = 15
_KEPT = ("PATH", "HOME", "LD_LIBRARY_PATH", "TMPDIR", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY")


@dataclass(frozen=True)
class Programs:
    """A folder with pg_dump and psql of one version."""

    folder: Path
    version: tuple[int, int]

    @property
    def pg_dump(self) -> Path:
        """The program that dumps."""
        return self.folder / "pg_dump"

    @property
    def psql(self) -> Path:
        """The program that restores."""
        return self.folder / "psql"


def parse_version(text: str) -> tuple[int, int] | None:
    """Major and minor out of what ``--version`` prints.

    >>> parse_version("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), parse_version("nonsense")
    ((15, 18), None)
    """
    found = re.search(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?", text)
    return (int(found[1]), int(found[2] or 0)) if found else None


def choose(found: Sequence[Programs], server: int, where: str) -> Programs:
    """The programs whose major version is nearest to the server's and not older; of two minors the newer.

    A newer pg_dump writes settings that an older server does not know, an older one refuses the server.

    Args:
        found: what this machine has.
        server: the server's major version.
        where: the server, as shown to the operator.

    Raises:
        NotConfigured: there are none, or all are older.
    """
    cure = f"install postgresql-client-{server} (or newer), or set ZERO_FLEET_PG_BIN to a folder that holds its pg_dump"
    if not found:
        raise NotConfigured("pg_dump and psql were found neither in PATH nor in ZERO_FLEET_PG_BIN", cure)
    fitting = [programs for programs in found if programs.version[0] >= server]
    if not fitting:
        newest = max(programs.version for programs in found)
        raise NotConfigured(
            f"pg_dump {newest[0]}.{newest[1]} is older than PostgreSQL {server} at {where}, which it refuses to dump",
            cure,
        )
    return min(fitting, key=lambda programs: (programs.version[0], -programs.version[1]))


def installed(pg_bin: Path | None = None) -> list[Programs]:
    """The programs of this machine: in ``pg_bin`` and its sister folders (a wheel carries several majors), PATH, and where
    Debian and Red Hat keep each major.
    """
    folders: list[Path] = []
    if pg_bin:
        folders += [pg_bin, *sorted(pg_bin.parent.parent.glob("pginstall*/bin"))]
    folders += [*sorted(Path("/usr/lib/postgresql").glob("*/bin")), *sorted(Path("/usr").glob("pgsql-*/bin"))]
    on_path = shutil.which("pg_dump")
    if on_path:  # last, because Debian's is a wrapper around those above
        folders.append(Path(on_path).parent)
    found = []
    for folder in dict.fromkeys(folders):
        version = _version(folder)
        if version:
            found.append(Programs(folder, version))
    return found


def _version(folder: Path) -> tuple[int, int] | None:
    if not (os.access(folder / "pg_dump", os.X_OK) and os.access(folder / "psql", os.X_OK)):
        return None
    try:
        asked = subprocess.run(
            [folder / "pg_dump", "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_version(asked.stdout)


@contextmanager
def pgpass(password: str) -> Iterator[Path]:
    """A 0600 password file for libpq in a private folder, removed at the end; nothing of it is in argv or environment.

    Raises:
        InvalidInput: the password holds a line break, which such a file cannot carry.
    """
    if "\n" in password or "\r" in password:
        raise InvalidInput("the database's password holds a line break", "set another password")
    with tempfile.TemporaryDirectory(prefix="zero-fleet-") as folder:  # made 0700
        path = Path(folder) / "pgpass"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(handle, "w", encoding="utf-8") as file:
            file.write("*:*:*:*:" + password.replace("\\", "\\\\").replace(":", "\\:") + "\n")
        yield path


def environment(database: Database, passfile: Path, options: str = "") -> dict[str, str]:
    """The environment of a PostgreSQL program on ``database``: where and who, never the password; messages in English."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return kept | {
        "LC_ALL": "C.UTF-8",
        "LANGUAGE": "C",
        "LC_MESSAGES": "C",
        "PGHOST": database.host,
        "PGPORT": str(database.port),
        "PGDATABASE": database.name,
        "PGUSER": database.user,
        "PGSSLMODE": database.sslmode,
        "PGPASSFILE": str(passfile),
        "PGCONNECT_TIMEOUT": str(CONNECT_SECONDS),
        "PGAPPNAME": "zero-fleet backup",
        "PGOPTIONS": options,
    }
