"""restore-database of a database that a block names, on a real Prefect server and PostgreSQL, as a role that is no superuser."""

import asyncio
import gzip
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass

import psycopg
import pytest
from prefect.settings import get_current_settings
from pydantic import SecretStr
from sqlmodel import Session, delete, select

from blocks.backups import BackupPolicy, PostgresDatabase
from blocks.clients import PostgresServer
from blocks.installation import installation
from flows.backups.backup import backup_database
from flows.backups.restore import restore_database
from tasks.backups import safety
from tasks.registry.models import BackupKind, BackupRun

BLOCK = "app-database"
# Where it dies, and whether it goes into a new database.
POINTS = [("backups/loading.load", True), ("backups/replacing.swap", False)]
MORE = [
    ("backups/chosen.find", True),
    ("backups/halfmade.make", True),
    ("-backups/halfmade.give_name", True),
    ("backups/halfmade.give_name", True),
    ("backups/loading.load", False),
    ("backups/safety.dump", False),
    ("backups/safety.back_up", False),
    ("-backups/replacing.swap", False),
    ("backups/replacing.unsaved", False),
    ("-backups/replacing.drop_old", False),
    ("backups/replacing.drop_old", False),
]


@dataclass(frozen=True)
class App:
    """The operator's application: its database and the role that owns it."""

    name: str
    role: str
    password: str
    server: object

    def connect(self, name: str = ""):
        return self.server.connect(name or self.name, user=self.role, password=self.password)

    def write(self, note: str) -> None:
        with self.connect() as connection:
            connection.execute("INSERT INTO kept VALUES (%s)", (note,))

    def kept(self, name: str = "") -> list[str]:
        with self.connect(name) as connection:
            return [row[0] for row in connection.execute("SELECT note FROM kept ORDER BY note")]

    def databases(self) -> list[str]:
        """Databases of the role's, and half made ones."""
        with self.server.connect() as admin:
            rows = admin.execute(
                "SELECT datname FROM pg_database WHERE pg_get_userbyid(datdba) = %s OR starts_with(datname, 'zero_restore_') "
                "ORDER BY 1",
                (self.role,),
            )
            return [row[0] for row in rows]


@pytest.fixture
async def app(installed_registry, postgres_server, pg_bin, tmp_path, monkeypatch):
    """Blocks as an operator has them, and an application's database with something in it."""
    monkeypatch.setattr(installation(), "pg_bin", pg_bin)
    name = f"app_{secrets.token_hex(4)}"
    found = App(name, name, secrets.token_hex(8), postgres_server)
    with postgres_server.connect() as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN CREATEDB PASSWORD '{found.password}'")
        admin.execute(f"CREATE ROLE {name}_reports LOGIN PASSWORD '{found.password}'")
        admin.execute(f"CREATE DATABASE {name} OWNER {name} TEMPLATE template0 ENCODING 'UTF8'")
        admin.execute(f"GRANT CONNECT ON DATABASE postgres TO {name}")
    with found.connect() as connection:
        connection.execute("CREATE TABLE kept (note text PRIMARY KEY); INSERT INTO kept VALUES ('before')")
        connection.execute(f"GRANT SELECT ON kept TO {name}_reports")
    server = {"host": postgres_server.host, "port": postgres_server.port}
    await PostgresServer(
        **server, username=postgres_server.username, password=SecretStr(postgres_server.password)
    ).save("postgres-server", overwrite=True)
    await PostgresDatabase(**server, username=name, password=SecretStr(found.password), database=name).save(
        BLOCK, overwrite=True
    )
    await BackupPolicy(directory=str(tmp_path / "backups"), mail_enabled=False).save("backup-policy", overwrite=True)
    yield found
    with Session(installed_registry) as session:
        session.exec(delete(BackupRun))
        session.commit()
    with postgres_server.connect() as admin:
        for database in found.databases():
            admin.execute(f'DROP DATABASE "{database}" WITH (FORCE)')
        for role in (name, f"{name}_reports"):
            admin.execute(f"DROP OWNED BY {role}")
            admin.execute(f"DROP ROLE {role}")


async def restored(backup: str = "latest", **other) -> tuple[str, str]:
    """How the run ended; over the database unless ``into`` is given."""
    given = {"confirm": "" if other.get("into") else BLOCK, **other}
    state = await restore_database(None, BLOCK, backup, **given, return_state=True)
    return state.name, state.message or ""


async def backed_up() -> None:
    state = await backup_database(database=BLOCK, return_state=True)
    assert state.is_completed(), state.message


async def test_a_backup_goes_into_a_new_database_with_its_rights(app, tmp_path):
    await backed_up()
    app.write("after")
    new = f"{app.name}_new"
    name, said = await restored(into=new)
    assert name == "Completed", said
    assert said.startswith(f"{BLOCK}: {tmp_path}/backups/latest_backup.sql.gz (taken 20"), said
    assert f"is restored into the new database {new} at {app.server.host}:{app.server.port}: 1 table with 1 row" in said
    assert "loaded and compared equal" in said and "could not be given back" not in said
    assert (app.kept(new), app.kept()) == (["before"], ["after", "before"])
    assert app.databases() == [app.name, new]
    with app.server.connect(new, user=f"{app.name}_reports", password=app.password) as reports:
        assert reports.execute("SELECT count(*) FROM kept").fetchone() == (1,)
    with app.server.connect() as admin:
        limit, comment = admin.execute(
            "SELECT datconnlimit, shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", (new,)
        ).fetchone()
    assert limit == -1 and comment.startswith(f"{BLOCK}: restored from {tmp_path}/backups/latest_backup.sql.gz")
    name, said = await restored(into=new)
    assert name == "Failed" and f"there is a database {new} at " in said and "choose another name" in said


async def test_a_backup_goes_over_the_database_and_what_was_there_is_saved(app, installed_registry, tmp_path):
    await backed_up()
    app.write("after")
    latest = (tmp_path / "backups" / "latest_backup.sql.gz").read_bytes()
    with app.server.connect() as admin:
        admin.execute(f"ALTER DATABASE {app.name} SET work_mem = '5MB'")
        admin.execute(f"ALTER DATABASE {app.name} CONNECTION LIMIT 33")
        admin.execute(f"COMMENT ON DATABASE {app.name} IS 'the shop'")
        admin.execute(f"REVOKE CONNECT ON DATABASE {app.name} FROM PUBLIC")
        admin.execute(f"GRANT CONNECT ON DATABASE {app.name} TO {app.name}_reports")
    with app.connect() as session:
        name, said = await restored()
        assert name == "Completed", said
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
    assert app.kept() == ["before"] and app.databases() == [app.name]
    with app.connect() as connection:
        assert connection.execute("SHOW work_mem").fetchone() == ("5MB",)
        assert connection.execute(
            "SELECT datconnlimit, shobj_description(oid, 'pg_database'), has_database_privilege('public', oid, 'CONNECT'),"
            " has_database_privilege('public', oid, 'TEMPORARY'), pg_get_userbyid(datdba) FROM pg_database"
            " WHERE datname = current_database()"
        ).fetchone() == (33, "the shop", False, True, app.role)
    with app.server.connect(app.name, user=f"{app.name}_reports", password=app.password) as reports:
        assert reports.execute("SELECT count(*) FROM kept").fetchone() == (1,)
    (saved,) = (tmp_path / "backups" / "dated_backups").glob("before-restore-*.sql.gz")
    assert f"what it was before lies in {saved}; its sessions were ended" in said
    assert b"\nafter\n" in gzip.decompress(saved.read_bytes())
    assert (tmp_path / "backups" / "latest_backup.sql.gz").read_bytes() == latest
    with Session(installed_registry) as session:
        rows = session.exec(select(BackupRun).order_by(BackupRun.id)).all()
    assert [(row.kind, row.status) for row in rows] == [(BackupKind.REGULAR, "good"), (BackupKind.SAFETY, "good")]
    # By its name it goes back; `latest` is still the other one.
    assert (await restored(saved.name))[0] == "Completed"
    assert app.kept() == ["after", "before"]
    assert (await restored())[0] == "Completed"
    assert app.kept() == ["before"]


async def test_a_database_that_cannot_be_saved_any_more_is_replaced_when_that_is_asked_for(app, tmp_path):
    await backed_up()
    app.write("after")
    with app.server.connect(app.name) as admin:  # what its role may not read cannot be dumped, as damaged pages cannot
        admin.execute("CREATE TABLE foreign_one (id int)")
        admin.execute("REVOKE ALL ON foreign_one FROM PUBLIC")
    name, said = await restored()
    assert name == "Failed" and "has no right to read public.foreign_one" in said and "safety_backup=false" in said
    assert app.kept() == ["after", "before"]
    name, said = await restored(safety_backup=False)
    assert name == "Completed" and "what it was before is gone, as was asked for" in said
    assert app.kept() == ["before"] and app.databases() == [app.name]
    assert not list((tmp_path / "backups" / "dated_backups").glob("before-restore-*"))


async def test_what_is_written_while_it_is_saved_is_saved_too(app, tmp_path, monkeypatch):
    await backed_up()
    real = safety.back_up

    def late(keeper, job):
        made = real(keeper, job)
        if job.database.name == app.name:
            app.write("in the last moment")
        return made

    monkeypatch.setattr(safety, "back_up", late)
    name, said = await restored()
    assert name == "Completed", said
    assert app.kept() == ["before"] and app.databases() == [app.name]
    saved = said.partition("what it was before lies in ")[2].partition(";")[0]
    with open(saved, "rb") as file:
        assert b"\nin the last moment\n" in gzip.decompress(file.read())

    # When that cannot be saved, the old one is kept, and the next run saves and drops it.
    def refused(keeper, job):
        if job.database.name != app.name:
            raise safety.FleetError("the disk is full", "free some")
        return late(keeper, job)

    monkeypatch.setattr(safety, "back_up", refused)
    name, said = await restored()
    assert name == "Failed", said
    assert f"{app.name} is the restored one, and the old one stays as {app.name}__before at" in said
    assert "could not be saved (the disk is full)" in said
    assert app.databases() == [app.name, f"{app.name}__before"]
    monkeypatch.setattr(safety, "back_up", real)
    assert (await restored(into=f"{app.name}_new"))[0] == "Completed"
    assert app.databases() == [app.name, f"{app.name}_new"]


async def test_a_session_that_cannot_be_ended_or_a_right_that_is_missing_refuses_it_and_nothing_changes(app):
    await backed_up()
    app.write("after")
    with app.connect() as own:
        with app.server.connect(app.name):
            name, said = await restored()
            assert (
                name == "Failed" and f"is in use by {app.server.username}, whom {app.role} may not disconnect" in said
            )
        own.execute("SELECT 1")
    for change, back, words in (
        (f"ALTER ROLE {app.role} NOCREATEDB", f"ALTER ROLE {app.role} CREATEDB", "CREATEDB, and run again"),
        (
            f"ALTER DATABASE {app.name} OWNER TO postgres",
            f"ALTER DATABASE {app.name} OWNER TO {app.role}",
            f"belongs to role postgres, so {app.role} may not replace it",
        ),
        (
            f"REVOKE CONNECT ON DATABASE postgres FROM {app.role}, PUBLIC; REVOKE CONNECT ON DATABASE template1 FROM PUBLIC",
            f"GRANT CONNECT ON DATABASE postgres TO {app.role}",
            f"GRANT CONNECT ON DATABASE postgres TO {app.role}, and run again",
        ),
        (f"CREATE DATABASE {app.name}__before", f"DROP DATABASE {app.name}__before", "that no restore of ours left"),
    ):
        with app.server.connect() as admin:
            for one in change.split(";"):
                admin.execute(one)
            name, said = await restored()
            admin.execute(back)
        assert name == "Failed" and words in said, said
    assert app.kept() == ["after", "before"] and app.databases() == [app.name]


async def test_what_makes_no_sense_is_refused_in_words(app, tmp_path):
    for given, words in (
        ({}, "neither client nor database is given"),
        ({"client": "acme", "database": BLOCK}, "both client and database are given"),
        (
            {"database": BLOCK},
            f"would be replaced by its backup 'latest', and confirm is ''; repeat {BLOCK} in confirm",
        ),
        ({"database": "registry", "confirm": "registry"}, "holds the registry, which this very run uses"),
        ({"database": BLOCK, "into": "Wrong-Name"}, "into 'Wrong-Name' is no name for a database here"),
        ({"database": BLOCK, "into": "zero_client_beta"}, "is the name of a client's database"),
        ({"database": BLOCK, "backup": "../x", "into": "x"}, "is neither latest, nor a date, nor a file"),
        ({"database": BLOCK, "backup": "2026-02-30", "into": "x"}, "is no date that there is"),
        ({"database": BLOCK, "into": "x"}, f"there is no backup of {BLOCK} at {tmp_path}/backups/latest_backup.sql.gz"),
        ({"database": BLOCK, "into": "x", "backup": str(tmp_path)}, f"at {tmp_path} (it is a folder)"),
        ({"database": BLOCK, "into": "x", "backup": "/dev/null"}, "at /dev/null (it is no regular file)"),
        ({"database": BLOCK, "into": "x", "backup": "/" + 300 * "x"}, "is longer than a file's name may be"),
        ({"database": BLOCK, "into": "x", "backup": 300 * "x"}, "is longer than a file's name may be"),
        ({"database": BLOCK, "into": "x", "confirm": BLOCK}, "leave one of them out"),
        ({"database": BLOCK, "into": "public"}, "into 'public' is a name that PostgreSQL keeps for itself"),
        ({"client": "nobody", "into": "x"}, "there is no client 'nobody'"),
        ({"database": "no-such-block", "into": "x"}, "the block no-such-block does not exist"),
    ):
        state = await restore_database(**given, return_state=True)
        assert state.is_failed() and words in state.message, state.message
    assert app.databases() == [app.name]


async def test_a_file_from_elsewhere_is_taken_when_it_is_a_whole_dump(app, tmp_path, pg_bin):
    new = f"{app.name}_new"
    elsewhere = tmp_path / "elsewhere.sql.gz"
    address = ["-h", app.server.host, "-p", str(app.server.port), "-U", app.role, app.name]
    dumped = subprocess.run(
        [pg_bin / "pg_dump", "--no-owner", *address], env={"PGPASSWORD": app.password}, capture_output=True, check=True
    )
    elsewhere.write_bytes(gzip.compress(dumped.stdout))
    name, said = await restored(str(elsewhere), into=new)
    assert name == "Completed" and f"{elsewhere} (without a manifest)" in said, said
    assert "1 table with 1 row loaded in " in said and "without a manifest to compare them with" in said
    assert app.kept(new) == ["before"]
    elsewhere.write_bytes(gzip.compress(dumped.stdout[:-100]))
    name, said = await restored(str(elsewhere), into=f"{new}_2")
    assert name == "Failed" and f"{elsewhere} is no complete dump (its end is missing), so nothing was restored" in said
    assert app.databases() == [app.name, new]


async def test_a_cancelled_restore_ends_its_load_and_leaves_nothing_half_made(app, tmp_path):
    slow = tmp_path / "slow.sql.gz"
    head = b"--\n-- PostgreSQL database dump\n--\n\nCREATE TABLE kept (note text);\nSELECT pg_sleep(300);\n"
    slow.write_bytes(gzip.compress(head + b"\n--\n-- PostgreSQL database dump complete\n--\n\n"))
    for given in ({"into": f"{app.name}_new"}, {}):
        run = asyncio.create_task(restored(str(slow), **given))
        with app.server.connect() as admin:
            asleep = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s AND query LIKE '%%pg_sleep(300)%%' AND state = 'active'"
            for _ in range(300):
                if admin.execute(asleep, (app.role,)).fetchone() == (1,):
                    break
                await asyncio.sleep(0.1)
            assert len(app.databases()) == 2
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
            assert admin.execute(asleep, (app.role,)).fetchone() == (0,)
        assert app.databases() == [app.name] and app.kept() == ["before"]


async def _killed(point: str, backup: str, pg_bin, seconds: float = 0) -> None:
    """A run in a process of its own that dies at ``point``, or ``seconds`` after it began."""
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.flows.clients.crash_restore", point, f"database:{BLOCK}", backup, str(pg_bin)],
        env={**os.environ, **settings}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    timer = None
    if seconds:
        assert process.stdout is not None
        while (line := await asyncio.to_thread(process.stdout.readline)) and line != "begun\n":
            pass
        timer = threading.Timer(seconds, process.kill)
        timer.start()
    said, _ = await asyncio.to_thread(process.communicate, timeout=120)
    if timer:
        timer.cancel()
    assert process.returncode == -signal.SIGKILL or (seconds and process.returncode == 0), said[-2000:]


async def test_a_restore_that_was_killed_leaves_one_database_whole_and_the_next_run_ends_it(
    app, pg_bin, tmp_path, soak
):
    dice = random.Random(4)
    await backed_up()
    app.write("after")
    new, other = f"{app.name}_new", f"{app.name}_other"
    cases = [(point, into, 0.0) for point, into in POINTS + (MORE if soak else [])]
    cases += [("none", count % 3 == 2, dice.uniform(0.2, 4)) for count in range(25 if soak else 1)]
    for count, (point, into, seconds) in enumerate(cases):
        await _killed(point, f"latestinto={new}" if into else "latest", pg_bin, seconds)
        assert app.kept() in (["after", "before"], ["before"]), point
        name, said = await (restored(into=other) if count % 2 else restored())  # either next run ends it
        assert name == "Completed", (point, said)
        assert set(app.databases()) <= {app.name, new, other}, (point, app.databases())
        with app.server.connect() as admin:
            for made in (new, other):
                admin.execute(f"DROP DATABASE IF EXISTS {made} WITH (FORCE)")
        held = app.kept()
        assert held in (["after", "before"], ["before"]), point
        if "after" not in held:
            saved = (tmp_path / "backups" / "dated_backups").glob("before-*.gz")
            assert any(b"\nafter\n" in gzip.decompress(one.read_bytes()) for one in saved), point
            app.write("after")
    await backed_up()
    assert list((tmp_path / "backups").rglob("*.part")) == []
