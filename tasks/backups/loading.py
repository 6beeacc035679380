"""Load a proven backup into an empty database, see that it is what was dumped, and give its objects back to their owners."""

import os
import re
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tasks import children
from tasks.backups import outline, programs, restore, schema, survey
from tasks.backups.archive import OpenFile
from tasks.backups.manifest import Manifest
from tasks.backups.proof import ANOTHER, Proven
from tasks.backups.restore import Limits
from tasks.backups.source import Database, many
from tasks.errors import Damaged
from tasks.sqlstate import first_line

SHOWN = 3
_SAID = 65_536
_TICK = 0.3
# The anonymous blocks in which ``ownership`` speaks of the database itself.
_OF_DATABASE = re.compile(r"^DO (\$zeroo*\$)BEGIN\nEXECUTE [^\n]*current_database\(\)[^\n]*\nEND\1;\n?", re.MULTILINE)


@dataclass(frozen=True)
class Loaded:
    """What came into the database."""

    tables: int
    rows: int
    large_objects: int
    seconds: float
    compared: bool
    """Whether there was a manifest to compare with, and it was found equal."""
    objects: int = 0
    """Objects of the schema that were compared."""
    uncompared: str = ""
    """Why the schema was not compared; empty: it was, or there was no manifest at all."""
    kept_rights: tuple[str, ...] = ()
    """Owners and rights that could not be given back, as the server said it."""

    @property
    def sentence(self) -> str:
        """As an operator reads it.

        >>> Loaded(3, 9, 0, 0.2, True, 12).sentence
        "3 tables with 9 rows and the schema's 12 objects loaded and compared equal in 0.2 s"
        >>> Loaded(1, 1, 2, 0.2, False).sentence
        '1 table with 1 row and 2 large objects loaded in 0.2 s, without a manifest to compare them with'
        """
        parts = [f"{many(self.tables, 'table')} with {many(self.rows, 'row')}"]
        parts += [many(self.large_objects, "large object")] if self.large_objects else []
        parts += [schema.spoken(self.objects)] if self.objects else []
        found = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
        if not self.compared:
            return f"{found} loaded in {self.seconds:.1f} s, without a manifest to compare them with"
        but = f", but the schema was not compared ({self.uncompared})" if self.uncompared else ""
        return f"{found} loaded and compared equal in {self.seconds:.1f} s{but}"

    @property
    def rights_left(self) -> str:
        """What to know of owners and rights that were not given back; empty: nothing.

        >>> Loaded(1, 1, 0, 0.2, True, kept_rights=('role "reports" does not exist',)).rights_left
        '1 owner or right could not be given back (role "reports" does not exist)'
        """
        if not self.kept_rights:
            return ""
        count = len(self.kept_rights)
        named = "; ".join(list(dict.fromkeys(self.kept_rights))[:SHOWN])
        return f"{count} owner{'s or rights' if count > 1 else ' or right'} could not be given back ({named})"


@dataclass(frozen=True)
class Loading:
    """Where a backup is loaded, and how."""

    database: Database
    """Empty, as the role that is to own what comes into it."""
    seconds: float
    pg_bin: Path | None = None
    cancelled: threading.Event = field(default_factory=threading.Event, compare=False)
    rights: str = ""
    """SQL that gives owners and rights back, best effort; empty: everything is the role's."""


def load(file: OpenFile, proven: Proven, loading: Loading) -> Loaded:
    """Load ``file`` and compare what is there then with its manifest.

    Raises:
        Damaged: it does not restore, or to something else.
        Refused, Unreachable, NotConfigured: it could not be loaded.
    """
    started = time.monotonic()
    limits = Limits(loading.seconds, started + loading.seconds, loading.cancelled, "restore")
    with survey.connected(loading.database, min(60.0, loading.seconds)) as connection:
        server = connection.info.server_version // 10_000
    fit = programs.choose(programs.installed(loading.pg_bin), server, loading.database.server)
    try:
        restore.load(file, proven.path, loading.database, fit, server, limits)
    except Damaged as error:
        raise Damaged(error.what, ANOTHER) from None
    with survey.connected(loading.database, max(1.0, limits.deadline - time.monotonic())) as connection:
        seen = survey.look(connection, loading.database)
        rows = survey.count(connection, seen.tables)
        connection.execute("ANALYZE")  # else everything is slow until the server comes to it by itself
    objects, uncompared = 0, ""
    if proven.manifest is not None:
        uncompared = _uncompared(proven.manifest, server, fit)
        found = {} if uncompared else _schema(fit, loading.database, proven.path, limits)
        _require_equal(proven.manifest, proven.path, rows, seen.large_objects, None if uncompared else found)
        objects = len(found)
    kept = _give_back(loading, fit, proven.path, limits) if loading.rights else ()
    return Loaded(
        len(rows), sum(rows.values()), seen.large_objects, time.monotonic() - started,
        proven.manifest is not None, objects, uncompared, kept,
    )  # fmt: skip


def _uncompared(manifest: Manifest, server: int, fit: programs.Programs) -> str:
    source = manifest.server_major, int(manifest.pg_dump_version.split(".")[0])
    return schema.why_not_compared(manifest.schema, source, (server, fit.version[0]))


def _schema(fit: programs.Programs, database: Database, path: Path, limits: Limits) -> dict[str, str]:
    return schema.digests(outline.text(fit, database, lambda: restore.watch(path, limits)))


def _require_equal(
    manifest: Manifest, path: Path, rows: dict[str, int], large_objects: int, objects: dict[str, str] | None
) -> None:
    found = restore.compare(manifest, rows, large_objects)
    if objects is not None:
        found = list(dict.fromkeys(found + schema.differences(manifest.schema, objects)))
    if found:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise Damaged(f"what {path} restores to differs from what was dumped: {', '.join(found[:5])}{more}", ANOTHER)


def without_database(grants: str) -> str:
    """``grants`` of a manifest without what they say of the database as such.

    >>> from tasks.backups.ownership import block
    >>> whole = block("EXECUTE 'ALTER DATABASE ' || pg_catalog.quote_ident(pg_catalog.current_database()) || ' OWNER TO a';")
    >>> without_database("GRANT SELECT ON t TO a;\\n" + whole + "\\n")
    'GRANT SELECT ON t TO a;\\n'
    """
    return _OF_DATABASE.sub("", grants)


def open_to_all(grants: str) -> bool:
    """Whether a manifest's ``grants`` say that nobody had changed who may connect to the database: then every role may.

    >>> open_to_all("EXECUTE 'REVOKE ALL ON DATABASE ' || x;"), open_to_all("GRANT a TO b;"), open_to_all("")
    (False, True, False)
    """
    return bool(grants) and "'REVOKE ALL ON DATABASE '" not in grants


def _give_back(loading: Loading, fit: programs.Programs, path: Path, limits: Limits) -> tuple[str, ...]:
    """Run ``loading.rights`` statement by statement; what the server did not let the role do.

    A backup's roles may not be on this server, and its role may not be allowed to give things away: neither makes it a bad one.
    """
    arguments: list[str | Path] = [fit.psql, "--no-psqlrc", "--quiet", "--no-password", "--output=/dev/null"]
    with programs.pgpass(loading.database.password) as passfile, tempfile.TemporaryFile() as said:
        options = "-c statement_timeout=0 -c client_min_messages=error"
        env = programs.environment(loading.database, passfile, options)
        child = children.start(arguments, env, stdin=subprocess.PIPE, stderr=said.fileno())
        given: bytes | None = loading.rights.encode()
        try:
            while True:
                restore.watch(path, limits)
                with suppress(subprocess.TimeoutExpired):
                    child.communicate(given, timeout=_TICK)
                    break
                given = None  # it was taken over
        finally:
            children.stop(child)
        said.seek(max(0, os.fstat(said.fileno()).st_size - _SAID))
        words = said.read().decode(errors="replace")
    return tuple(first_line(line) for line in words.splitlines() if "ERROR:" in line)
