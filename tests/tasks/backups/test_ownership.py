"""Who owns and may do what is restored as well: under roles that the manifest's own SQL makes, on a server without them."""

import gzip
import re
import secrets
import subprocess
from dataclasses import replace

import pytest

from tasks.backups import ownership, programs
from tasks.backups.dump import dump

OBJECTS = """
SELECT 'relation', n.nspname, c.relname, pg_get_userbyid(c.relowner), {acl} FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace CROSS JOIN LATERAL (SELECT c.relacl AS acl, c.relowner AS owner) x
    WHERE n.nspname !~ '^(pg_|information_schema)'
UNION ALL SELECT 'column', c.relname, a.attname, '', {acl} FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    CROSS JOIN LATERAL (SELECT a.attacl AS acl, c.relowner AS owner) x WHERE a.attacl IS NOT NULL
UNION ALL SELECT 'schema', '', n.nspname, pg_get_userbyid(n.nspowner), {acl} FROM pg_namespace n
    CROSS JOIN LATERAL (SELECT n.nspacl AS acl, n.nspowner AS owner) x WHERE n.nspname !~ '^(pg_|information_schema)'
UNION ALL SELECT 'function', n.nspname, p.proname, pg_get_userbyid(p.proowner), {acl} FROM pg_proc p
    JOIN pg_namespace n ON n.oid = p.pronamespace CROSS JOIN LATERAL (SELECT p.proacl AS acl, p.proowner AS owner) x
    WHERE n.nspname !~ '^(pg_|information_schema)'
UNION ALL SELECT 'type', n.nspname, t.typname, pg_get_userbyid(t.typowner), {acl} FROM pg_type t
    JOIN pg_namespace n ON n.oid = t.typnamespace CROSS JOIN LATERAL (SELECT t.typacl AS acl, t.typowner AS owner) x
    WHERE n.nspname !~ '^(pg_|information_schema)'
UNION ALL SELECT 'large object', '', l.oid::text, pg_get_userbyid(l.lomowner), {acl} FROM pg_largeobject_metadata l
    CROSS JOIN LATERAL (SELECT l.lomacl AS acl, l.lomowner AS owner) x
UNION ALL SELECT 'default', coalesce(n.nspname, ''), d.defaclobjtype::text, pg_get_userbyid(d.defaclrole), {acl}
    FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace
    CROSS JOIN LATERAL (SELECT d.defaclacl AS acl, d.defaclrole AS owner) x
UNION ALL SELECT 'database', '', '', pg_get_userbyid(d.datdba), {acl} FROM pg_database d
    CROSS JOIN LATERAL (SELECT d.datacl AS acl, d.datdba AS owner) x WHERE d.datname = current_database()
ORDER BY 1, 2, 3"""
# The order of grants in an ACL is nobody's promise.
ACL = "(SELECT array_agg(one::text ORDER BY one::text) FROM unnest(x.acl) one)"
FILL = """
SET search_path = public;
CREATE SCHEMA {owner}; ALTER SCHEMA {owner} OWNER TO {owner};
GRANT CREATE, USAGE ON SCHEMA public TO {owner}, {second};
SET ROLE {owner};
CREATE TABLE public."Größe
-- Name: x; Type: TABLE" (id int GENERATED ALWAYS AS IDENTITY, secret text, shown text);
GRANT SELECT (shown), UPDATE (shown) ON "Größe
-- Name: x; Type: TABLE" TO {reader};
CREATE TABLE plain (id serial PRIMARY KEY, note text); CREATE VIEW seen AS SELECT note FROM plain;
GRANT ALL ON plain TO {second} WITH GRANT OPTION; GRANT USAGE ON SEQUENCE plain_id_seq TO {reader}; GRANT SELECT ON seen TO PUBLIC;
CREATE FUNCTION {owner}.act() RETURNS int LANGUAGE sql AS 'SELECT 1 -- OWNER TO nobody';
REVOKE ALL ON FUNCTION {owner}.act() FROM PUBLIC; GRANT EXECUTE ON FUNCTION {owner}.act() TO {reader};
CREATE TYPE mood AS ENUM ('well'); REVOKE USAGE ON TYPE mood FROM PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA {owner} GRANT SELECT ON TABLES TO {reader};
INSERT INTO plain (note) SELECT 'note ' || i FROM generate_series(1, 10) i;
SELECT lo_from_bytea(oid, 'x') FROM unnest(ARRAY[4711, 4712, 4713]::oid[]) oid; GRANT SELECT ON LARGE OBJECT 4712 TO {reader};
SET ROLE {second};
CREATE TABLE others (id int); GRANT SELECT ON plain TO {reader}; SELECT lo_from_bytea(4714, 'x');
RESET ROLE;
CREATE TABLE of_superuser (id int);
"""


@pytest.fixture
def roles(postgres_server):
    """Names of three roles with attributes, settings and memberships; whatever bears them at the end is gone."""
    mark = secrets.token_hex(3)
    names = {"owner": f"owner_{mark}", "second": f"Sécond {mark}", "reader": f"reader_{mark}"}
    quoted = {key: ownership.identifier(name) for key, name in names.items()}
    with postgres_server.connect() as admin:
        for statement in """
            CREATE ROLE {owner} LOGIN CREATEDB CONNECTION LIMIT 7 PASSWORD 'hidden-word' VALID UNTIL '2040-01-01 00:00:00+00';
            CREATE ROLE {second} NOINHERIT BYPASSRLS; CREATE ROLE {reader} LOGIN;
            ALTER ROLE {owner} SET search_path = "$user", public, "odd, name"; ALTER ROLE {owner} SET work_mem = '7MB';
            ALTER ROLE {owner} SET app.key = 'hidden-word';
            GRANT {reader} TO {owner} WITH ADMIN OPTION; GRANT {reader} TO {second} WITH INHERIT TRUE, SET FALSE;
            GRANT pg_read_all_stats TO {second}""".format(**quoted).split(";"):
            admin.execute(statement)
    yield names, quoted
    with postgres_server.connect() as admin:
        for name in quoted.values():
            admin.execute(f"DROP ROLE IF EXISTS {name}")


@pytest.fixture
def databases(postgres_server, roles):
    """Two empty databases, gone before the roles are."""
    names = [f"own_{secrets.token_hex(4)}" for _ in range(2)]
    with postgres_server.connect() as admin:
        for name in names:
            admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
    yield names
    with postgres_server.connect() as admin:
        for name in names:
            admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _owners(postgres_server, database: str) -> list[tuple]:
    with postgres_server.connect(database) as admin:
        return admin.execute(OBJECTS.format(acl=ACL)).fetchall()


def _settings(postgres_server, database: str, names: list[str]) -> tuple:
    with postgres_server.connect(database) as admin:
        return (
            admin.execute(
                "SELECT rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls,"
                " rolconnlimit, rolvaliduntil, array_remove(rolconfig, 'app.key=hidden-word') FROM pg_roles"
                " WHERE rolname = ANY(%s) ORDER BY 1",
                (names,),
            ).fetchall(),
            admin.execute(
                "SELECT roleid::regrole::text, member::regrole::text, bool_or(admin_option), bool_or(inherit_option),"
                " bool_or(set_option) FROM pg_auth_members WHERE member::regrole::text = ANY(%s) GROUP BY 1, 2 ORDER BY 1, 2",
                ([ownership.identifier(name) for name in names] + names,),
            ).fetchall(),
            admin.execute(
                "SELECT coalesce(setrole::regrole::text, ''), setconfig FROM pg_db_role_setting s JOIN pg_database d"
                " ON d.oid = s.setdatabase WHERE d.datname = current_database() ORDER BY 1"
            ).fetchall(),
            admin.execute("SELECT datconnlimit FROM pg_database WHERE datname = current_database()").fetchall(),
        )


def _run(postgres_server, pg_bin, database: str, sql: str) -> None:
    with programs.pgpass(postgres_server.password) as passfile:
        ended = subprocess.run(
            [pg_bin / "psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--output=/dev/null"],
            input=sql.encode(),
            env={
                "PGHOST": postgres_server.host,
                "PGPORT": str(postgres_server.port),
                "PGUSER": postgres_server.username,
                "PGDATABASE": database,
                "PGPASSFILE": str(passfile),
            },
            stderr=subprocess.PIPE,
            check=False,
        )
    assert ended.returncode == 0, ended.stderr.decode()


def test_a_restored_copy_has_the_same_owners_and_rights(job, postgres_server, pg_bin, roles, databases):
    names, quoted = roles
    source, copy = databases
    with postgres_server.connect(source) as admin:
        admin.execute(FILL.format(**quoted))
        admin.execute(f"REVOKE ALL ON DATABASE {source} FROM PUBLIC")
        admin.execute(f"ALTER DATABASE {source} OWNER TO {quoted['owner']}")
        admin.execute(f"GRANT CONNECT ON DATABASE {source} TO {quoted['reader']} WITH GRANT OPTION")
        admin.execute(f"ALTER DATABASE {source} SET timezone = 'Europe/Berlin'")
        admin.execute(f"ALTER ROLE {quoted['reader']} IN DATABASE {source} SET work_mem = '9MB'")
        admin.execute(f"ALTER DATABASE {source} CONNECTION LIMIT 33")
    database = replace(job.database, name=source, user=postgres_server.username, password=postgres_server.password)
    made = dump(replace(job, database=database))
    assert "hidden-word" not in made.to_json() and "app.key" in made.roles and "postgres" in made.grants
    owners, settings = _owners(postgres_server, source), _settings(postgres_server, source, list(names.values()))
    # Elsewhere: the server has no such database and no role of these names.
    with postgres_server.connect() as admin:
        admin.execute(f"DROP DATABASE {source} WITH (FORCE)")
        for name in quoted.values():
            admin.execute(f"DROP ROLE {name}")
    for _ in range(2):  # as often as one likes
        _run(postgres_server, pg_bin, copy, made.roles)
    _run(postgres_server, pg_bin, copy, gzip.decompress(job.path.read_bytes()).decode())
    for _ in range(2):
        _run(postgres_server, pg_bin, copy, made.grants)
    assert _owners(postgres_server, copy) == owners
    assert _settings(postgres_server, copy, list(names.values())) == settings


def test_a_role_that_is_there_keeps_its_attributes(job, postgres_server, pg_bin, roles):
    _, quoted = roles
    with postgres_server.connect(job.database.name) as admin:
        admin.execute(f"GRANT SELECT ON nobody TO {quoted['reader']}")
    made = dump(job)
    with postgres_server.connect() as admin:
        admin.execute(f"ALTER ROLE {quoted['reader']} NOLOGIN")
    _run(postgres_server, pg_bin, "postgres", made.roles)
    with postgres_server.connect() as admin:
        found = admin.execute("SELECT rolcanlogin FROM pg_roles WHERE rolname = %s", (roles[0]["reader"],)).fetchone()
        assert found == (False,)
    with postgres_server.connect(job.database.name) as admin:
        admin.execute(f"REVOKE ALL ON nobody FROM {quoted['reader']}")


def test_a_clients_manifest_names_its_own_role_and_no_other(job):
    made = dump(job)
    assert f'CREATE ROLE "{job.database.user}" LOGIN CONNECTION LIMIT 20' in made.roles
    assert set(re.findall(r'CREATE ROLE "([^"]+)"', made.roles)) == {
        job.database.user,
        "postgres",
    }  # it owns the database
    assert f"ALTER TABLE public.mail0_user OWNER TO {job.database.user};" in made.grants
    assert job.database.password not in made.roles + made.grants


def test_texts_that_are_not_of_one_schema_are_seen():
    plain = (
        "--\n-- Name: t; Type: TABLE; Schema: public; Owner: -\n--\n\nCREATE TABLE public.t (\n    a integer\n);\n\n\n"
    )
    full = plain.replace("Owner: -", "Owner: o").replace(");\n", ");\n\n\nALTER TABLE public.t OWNER TO o;\n")
    nobody = ownership.Owners([], [], {"owner": "o", "limit": -1, "given": False}, [], [], [], [], [])
    assert ownership.grants(full, plain, nobody).startswith("ALTER TABLE public.t OWNER TO o;\nDO $zero$")
    others = ("", plain.replace("a integer", "b integer"), plain + plain.replace("Name: t", "Name: u"))
    for one, other in [(full, other) for other in others] + [(plain, full)]:
        with pytest.raises(ownership.Unlike):
            ownership.grants(one, other, nobody)
