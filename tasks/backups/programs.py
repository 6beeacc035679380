"""PostgreSQL's own programs: which pg_dump and psql fit a server, and what they are started with."""

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tasks.backups.source import Database
from tasks.errors import FleetError, InvalidInput, NotConfigured, Refused, Unreachable
from tasks.sqlstate import explain, first_line

CONNECT_SECONDS = 15
_PASSFILES = "zero-fleet-pass-"
_PASSFILE_LOCKED_WITHIN = 60
"""Seconds after which whoever made such a folder surely holds its lock, if it lives."""
WRITTEN_ALIKE = "-c statement_timeout=0 -c bytea_output=hex -c lc_monetary=C -c quote_all_identifiers=off"
"""Options for pg_dump against settings of a role or a database that end its first statements, or change how constants and names in
expressions are written."""
_KEPT = ("PATH", "HOME", "LD_LIBRARY_PATH", "TMPDIR", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY")


_RESTRICT = {13: 22, 14: 19, 15: 14, 16: 10, 17: 6}
"""Minor version, by major one, from which psql can be kept from commands inside a dump (release notes of 2025-08-14)."""


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
    def restricts(self) -> bool:
        r"""Whether its psql knows ``\restrict`` (the minor versions of August 2025).

        >>> Programs(Path("/"), (16, 9)).restricts, Programs(Path("/"), (16, 10)).restricts, Programs(Path("/"), (18, 0)).restricts
        (False, True, True)
        """
        major, minor = self.version
        return major > 17 or minor >= _RESTRICT.get(major, 1 << 16)

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
    _sweep_passfiles()
    with tempfile.TemporaryDirectory(prefix=_PASSFILES) as folder, _locked(Path(folder)):  # made 0700
        path = Path(folder) / "pgpass"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(handle, "w", encoding="utf-8") as file:
            file.write("*:*:*:*:" + password.replace("\\", "\\\\").replace(":", "\\:") + "\n")
        yield path


def _sweep_passfiles() -> None:
    """Remove the password files that killed processes left: a living one holds the lock of its folder."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PASSFILES}*"):
        with suppress(OSError):  # somebody else's, or gone meanwhile
            if time.time() - folder.stat().st_mtime > _PASSFILE_LOCKED_WITHIN:
                with _locked(folder):
                    shutil.rmtree(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


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
        "PGTZ": "UTC",
        "PGPASSFILE": str(passfile),
        "PGCONNECT_TIMEOUT": str(CONNECT_SECONDS),
        "PGAPPNAME": "zero-fleet backup",
        "PGOPTIONS": options,
    }


def pg_dump_error(said: str, code: int | None, database: Database) -> FleetError:
    """What pg_dump's end with ``code`` means, by what it ``said`` on stderr.

    >>> d = Database("db", 5432, "app", "app", "")
    >>> print(pg_dump_error("pg_dump: error: query failed: ERROR:  permission denied for table t", 1, d))
    role app lacks a right in app at db:5432 (permission denied for table t); grant the right named, or use a role that has it.
    """
    low, line = said.lower(), _cause(said)
    # --lock-wait-timeout is a statement_timeout around its LOCK TABLE.
    if "lock timeout" in low or ("statement timeout" in low and "lock table" in low):
        return Unreachable(
            f"the dump of {database.name} at {database.server} waited too long for a lock ({first_line(line)})",
            "see who holds it (pg_locks, pg_stat_activity) and run again",
        )
    if "due to user request" in low:
        return Unreachable(
            f"somebody cancelled the dump of {database.name} on PostgreSQL at {database.server} ({first_line(line)})",
            "see who did it in the server's log, and run again",
        )
    if "server closed the connection" in low or "terminating connection" in low or "no connection to the server" in low:
        return Unreachable(
            f"PostgreSQL at {database.server} went away while {database.name} was dumped, the previous backup is untouched",
            "see the server's log, start it and run again",
        )
    if "row-level security" in low:
        return Refused(
            f"role {database.user} sees not all rows of {database.name} at {database.server} ({first_line(line)})",
            "grant it BYPASSRLS, or use a role that has it",
        )
    if not said.strip():
        return Refused(
            f"pg_dump of {database.name} at {database.server} ended with code {code} and without a word, "
            "the previous backup is untouched",
            "see whether something kills it (memory), and run again",
        )
    if "connection to " in low or "no space left" in low:
        return explain(line, None, database.server, database.user, database.name, database.block)
    if "permission denied" in low:
        return explain(line, "42501", database.server, database.user, database.name, database.block)
    if "statement timeout" in low:
        return explain(line, "57014", database.server, database.user, database.name, database.block)
    return Refused(
        f"pg_dump of {database.name} at {database.server} failed ({first_line(line)}), the previous backup is untouched",
        "mend what it names and run again",
    )


def _cause(said: str) -> str:
    """Of what pg_dump ``said``, what failed and what the server answered, which come in two lines where rows were read.

    >>> _cause('pg_dump: error: Dumping the contents of table "t" failed: PQgetResult() failed.\\n'
    ...        'pg_dump: detail: Error message from server: ERROR:  invalid page in block 3')
    'Dumping the contents of table "t" failed: invalid page in block 3'
    """
    lines = [line for line in said.splitlines() if "error:" in line.lower() or "fatal:" in line.lower()]
    first = re.sub(r"^pg_dump: (error: )?", "", lines[0] if lines else said.strip())
    answers = [line for line in lines if "Error message from server:" in line]
    what = re.match(r"Dumping the contents of table .* failed(?=:)", first)
    return f"{what[0]}: {first_line(answers[0])}" if what and answers else first
