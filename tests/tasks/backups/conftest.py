import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.backups.dump import Job
from tasks.backups.restore import Trial
from tasks.backups.source import Database, Target, place

FILL = """
CREATE TABLE mail0_user (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL,
                         loud text GENERATED ALWAYS AS (upper(name)) STORED);
INSERT INTO mail0_user (name) SELECT 'Zoë ' || i || E'\\t\\n\\\\.' FROM generate_series(1, 2000) i;
CREATE TABLE "Größe ""x"".y" ("Straße" int REFERENCES mail0_user (id));
INSERT INTO "Größe ""x"".y" SELECT i FROM generate_series(1, 7) i;
CREATE TABLE nobody (id int);
CREATE TABLE parted (id int, day date) PARTITION BY RANGE (day);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO parted SELECT i, '2026-05-01' FROM generate_series(1, 5) i;
CREATE SCHEMA drizzle; CREATE TABLE drizzle.migrations (id serial, note text); COMMENT ON TABLE drizzle.migrations IS 'Größe';
INSERT INTO drizzle.migrations (note) VALUES ('one');
SELECT lo_from_bytea(0, convert_to('large ' || i, 'UTF8')) FROM generate_series(1, 3) i;
"""


@pytest.fixture
def source(postgres_server) -> Iterator[Database]:
    """A filled database of a client: the provisioner's, with a role that owns what is in it, and its limits."""
    name, password = f"source_{secrets.token_hex(4)}", f"pa:ss\\wörd-{secrets.token_hex(4)}"
    with postgres_server.connect() as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 20 PASSWORD '{password}'")
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
        admin.execute(f"GRANT ALL ON DATABASE {name} TO {name}")
        admin.execute(f"ALTER ROLE {name} SET statement_timeout = '50ms'")
        admin.execute(f"ALTER ROLE {name} SET idle_in_transaction_session_timeout = '50ms'")
    with postgres_server.connect(name) as admin:
        admin.execute(f"GRANT ALL ON SCHEMA public TO {name}")
        admin.execute(f"SET ROLE {name}")
        admin.execute("SET statement_timeout = 0")
        admin.execute(FILL)
    yield Database(postgres_server.host, postgres_server.port, name, name, password)
    with postgres_server.connect() as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        admin.execute(f"DROP ROLE {name}")


@pytest.fixture
def provisioner(postgres_server) -> Iterator[Database]:
    """The clients' server as a role that is no superuser."""
    name, password = f"prov_{secrets.token_hex(4)}", secrets.token_hex(8)
    with postgres_server.connect() as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN CREATEROLE CREATEDB PASSWORD '{password}'")
        # Other tests close the server's own databases to PUBLIC, as an operator does.
        admin.execute(f"GRANT CONNECT ON DATABASE postgres TO {name}")
    yield Database(postgres_server.host, postgres_server.port, "postgres", name, password)
    with postgres_server.connect() as admin:
        admin.execute(f"DROP OWNED BY {name}")
        admin.execute(f"DROP ROLE {name}")


@pytest.fixture
def job(source: Database, tmp_path: Path, pg_bin: Path) -> Job:
    target = Target(client="acme")
    return Job(target, source, place(target, tmp_path / "backups", "latest_backup.sql.gz"), "run-1", pg_bin=pg_bin)


@pytest.fixture
def trial(provisioner: Database, fleet: str, pg_bin: Path) -> Trial:
    return Trial(provisioner, fleet, seconds=60, pg_bin=pg_bin)
