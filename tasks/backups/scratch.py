"""A scratch database with a role of its own on the clients' server: made for one trial restore, gone afterwards.

The role is made and labelled in one transaction, so whatever a killed run left can be told from other people's things. Names
are the same for every trial of a target: the lock ``verify-<target>`` says whether somebody still uses them.
"""

import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql

from tasks import database_drop
from tasks.backups import survey
from tasks.backups.source import Database, mib
from tasks.errors import Conflict, Refused

PREFIX = "zero_scratch_"
_LABEL = "zero-fleet scratch"
_UNDER_WAY = 20.0
"""Seconds that a killed run's CREATE DATABASE may go on: the server sees only now and then that its client is gone."""
_CAME_MEANWHILE = (
    psycopg.errors.DuplicateObject,
    psycopg.errors.DuplicateDatabase,
    psycopg.errors.UniqueViolation,
)
"""What a killed run had under way came to its end after we had looked."""


@dataclass(frozen=True)
class Scratch:
    """Name of the database and of its role, and the label that makes them ours."""

    name: str
    label: str


def scratch_of(fleet: str, target: str) -> Scratch:
    """The scratch database of ``target`` (``client:acme``) in ``fleet``.

    >>> scratch_of("f1", "client:acme-2").name[:-8], scratch_of("f1", "client:acme").label
    ('zero_scratch_client_acme_2_', 'zero-fleet scratch f1 client:acme')
    """
    short = re.sub(r"[^a-z0-9]", "_", target)[:38]
    mark = hashlib.sha256(f"{fleet}/{target}".encode()).hexdigest()[:8]
    return Scratch(f"{PREFIX}{short}_{mark}", f"{_LABEL} {fleet} {target}")


def target_in(label: str, fleet: str) -> str | None:
    """The target that ``label`` names if it is one of ``fleet``.

    >>> target_in("zero-fleet scratch f1 client:acme", "f1"), target_in("zero-fleet scratch f2 client:acme", "f1")
    ('client:acme', None)
    """
    start = f"{_LABEL} {fleet} "
    return label.removeprefix(start) if label.startswith(start) else None


@contextmanager
def made(server: Database, scratch: Scratch, encoding: str, seconds: float) -> Iterator[Database]:
    """The empty scratch database, seen as its role; dropped with the role at the end, whatever happens.

    Args:
        server: the maintenance database as the provisioner.
        scratch: what to make; a killed run's of the same name is dropped first. The caller holds its target's lock.
        encoding: of the database that the dump came from.
        seconds: each of the server's answers may take.

    Raises:
        Refused: the provisioner lacks CREATEROLE or CREATEDB.
        Conflict: something of that name exists and is not ours.
    """
    with survey.connected(server, seconds) as connection:
        drop(connection, scratch)
        try:
            made_now = _make(connection, server, scratch, encoding)
        except _CAME_MEANWHILE:
            drop(connection, scratch)
            made_now = _make(connection, server, scratch, encoding)
        except psycopg.Error:
            drop(connection, scratch)
            raise
    try:
        yield made_now
    finally:
        with survey.connected(server, seconds) as connection:
            drop(connection, scratch)


def _make(connection: psycopg.Connection, server: Database, scratch: Scratch, encoding: str) -> Database:
    password = secrets.token_urlsafe(24)
    name = sql.Identifier(scratch.name)
    verifier = connection.pgconn.encrypt_password(password.encode(), scratch.name.encode(), b"scram-sha-256").decode()
    with connection.transaction():
        connection.execute(
            sql.SQL("CREATE ROLE {} LOGIN NOCREATEDB NOCREATEROLE CONNECTION LIMIT 4 PASSWORD {}").format(
                name, sql.Literal(verifier)
            )
        )
        connection.execute(sql.SQL("COMMENT ON ROLE {} IS {}").format(name, sql.Literal(scratch.label)))
        # To make a database for it, and to drop that again, its maker must be a member.
        connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(name))
    locale = sql.SQL("") if encoding == "UTF8" else sql.SQL(" LC_COLLATE 'C' LC_CTYPE 'C'")
    connection.execute(
        sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING {}{} CONNECTION LIMIT 0").format(
            name, name, sql.Literal(encoding), locale
        )
    )
    connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))
    connection.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 4").format(name))
    return replace(server, name=scratch.name, user=scratch.name, password=password)


def labels(connection: psycopg.Connection) -> dict[str, str]:
    """Every role on the server that is named like a scratch role, and its label."""
    rows = connection.execute(
        "SELECT rolname, coalesce(shobj_description(oid, 'pg_authid'), '') FROM pg_roles WHERE starts_with(rolname, %s)",
        (PREFIX,),
    ).fetchall()
    return {str(name): str(label) for name, label in rows}


def drop(connection: psycopg.Connection, scratch: Scratch) -> bool:
    """Drop the scratch database and its role if they are there. True if there was something.

    Raises:
        Conflict: something of that name exists without our label.
    """
    found = labels(connection).get(scratch.name)
    exists = connection.execute("SELECT FROM pg_database WHERE datname = %s", (scratch.name,)).fetchone() is not None
    if found is None and not exists:
        return False
    if found != scratch.label:
        raise Conflict(
            f"a database or role {scratch.name} exists that no trial restore of ours made", "rename or drop it by hand"
        )
    name = sql.Identifier(scratch.name)
    until = time.monotonic() + _UNDER_WAY
    while True:
        try:
            database_drop.drop(connection, scratch.name)
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(name))
            return True
        except (psycopg.errors.DependentObjectsStillExist, psycopg.errors.ObjectInUse):
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def require_room(connection: psycopg.Connection, server: Database, needed: int, what: str = "trial restore") -> str:
    """What is known of the server's free disk, as a sentence for the report.

    Its folder can be looked at only when the server is on this machine and shows where its data is.

    Raises:
        Refused: it is known to have less than ``needed`` bytes free.
    """
    if server.host not in ("localhost", "127.0.0.1", "::1") and not server.host.startswith("/"):
        return "free disk of the server not known (another machine)"
    try:
        row = connection.execute("SELECT current_setting('data_directory', true)").fetchone()
    except psycopg.errors.InsufficientPrivilege:
        row = None
    folder = row[0] if row else None
    if not folder or not os.path.isdir(folder):
        return "free disk of the server not known (its data folder is not seen from here)"
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise Refused(
            f"the disk of PostgreSQL at {server.server} has {mib(free)} free where the {what} may need {mib(needed)}",
            "free space there and run again",
        )
    return f"{mib(free)} free on the server's disk"
