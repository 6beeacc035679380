"""Who owns what and who may do what in a database: as SQL that makes the roles, and SQL that gives everything back to them.

The dump itself names no role, so that it restores anywhere. Passwords are not read (only a superuser could), and settings in
somebody's own name (``app.key``) are named but not kept: they may hold a secret.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row

from tasks.backups.schema import Entry, entries

Row = Mapping[str, Any]
_RIGHTS = ("ACL", "DEFAULT ACL")
_FIRST_OWN_OID = 16_384
"""Roles below are made by initdb: the first superuser, and those named ``pg_…``, which are everywhere."""
_LARGE_OBJECTS_AT_ONCE = 1000
"""Each is locked until its statement ends, and a server has so many thousand locks."""
_LISTS = (
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
)
"""Settings whose stored value is a list of quoted names; in a statement each is given by itself (pg_dump's own list)."""

# Whatever depends on a role is noted there; only the first superuser's own things are not.
_ROLES = """
    SELECT r.rolname AS name, r.rolsuper, r.rolinherit, r.rolcreaterole, r.rolcreatedb, r.rolcanlogin, r.rolreplication,
           r.rolbypassrls, r.rolconnlimit, r.rolvaliduntil::text AS rolvaliduntil, coalesce(r.rolconfig, '{}') AS rolconfig,
           r.oid < %(own)s AS first
    FROM pg_catalog.pg_roles r, pg_catalog.pg_database d
    WHERE d.datname = pg_catalog.current_database() AND NOT pg_catalog.starts_with(r.rolname, 'pg_')
      AND (r.oid < %(own)s OR EXISTS (
          SELECT FROM pg_catalog.pg_shdepend s
          WHERE s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND s.refobjid = r.oid
            AND (s.dbid = d.oid OR (s.classid = 'pg_catalog.pg_database'::pg_catalog.regclass AND s.objid = d.oid))))
    ORDER BY 1"""
_MEMBERS = """
    SELECT g.rolname AS of, m.rolname AS member, bool_or(a.admin_option) AS admin, m.rolinherit AS heir, {options}
    FROM pg_catalog.pg_auth_members a JOIN pg_catalog.pg_roles g ON g.oid = a.roleid
         JOIN pg_catalog.pg_roles m ON m.oid = a.member
    GROUP BY 1, 2, 4 ORDER BY 1, 2"""
_OPTIONS_FROM_16 = "bool_or(a.inherit_option) AS inherits, bool_or(a.set_option) AS sets"
_OPTIONS_BEFORE = "m.rolinherit AS inherits, true AS sets"
_DATABASE = """
    SELECT o.rolname AS owner, d.datconnlimit AS limit, d.datacl IS NOT NULL AS given
    FROM pg_catalog.pg_database d JOIN pg_catalog.pg_roles o ON o.oid = d.datdba
    WHERE d.datname = pg_catalog.current_database()"""
_DATABASE_RIGHTS = """
    SELECT coalesce(r.rolname, '') AS role, a.privilege_type AS privilege, bool_or(a.is_grantable) AS grantable
    FROM pg_catalog.pg_database d, pg_catalog.aclexplode(d.datacl) a LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
    WHERE d.datname = pg_catalog.current_database() AND (a.grantee = 0 OR r.oid IS NOT NULL)
    GROUP BY 1, 2 ORDER BY 1, 2"""
_DATABASE_SETTINGS = """
    SELECT coalesce(r.rolname, '') AS role, s.setconfig AS config
    FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
         LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
    WHERE d.datname = pg_catalog.current_database() AND (s.setrole = 0 OR r.oid IS NOT NULL)
    ORDER BY 1"""
_LARGE_OBJECTS = """
    SELECT r.rolname AS owner, count(*) AS count
    FROM pg_catalog.pg_largeobject_metadata l JOIN pg_catalog.pg_roles r ON r.oid = l.lomowner GROUP BY 1 ORDER BY 2 DESC, 1"""
_LARGE_OBJECTS_OF_OTHERS = """
    SELECT l.oid::bigint AS oid, r.rolname AS owner
    FROM pg_catalog.pg_largeobject_metadata l JOIN pg_catalog.pg_roles r ON r.oid = l.lomowner
    WHERE r.rolname <> %s ORDER BY 1"""
_LARGE_OBJECT_RIGHTS = """
    SELECT l.oid::bigint AS oid, coalesce(r.rolname, '') AS role, a.privilege_type AS privilege, a.is_grantable AS grantable
    FROM pg_catalog.pg_largeobject_metadata l, pg_catalog.aclexplode(l.lomacl) a
         LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
    WHERE a.grantee <> l.lomowner AND (a.grantee = 0 OR r.oid IS NOT NULL) ORDER BY 1, 2, 3"""

_GIVE_LARGE_OBJECTS = """DECLARE one oid;
BEGIN
  FOR one IN SELECT l.oid FROM pg_catalog.pg_largeobject_metadata l JOIN pg_catalog.pg_roles r ON r.oid = l.lomowner
             WHERE r.rolname <> {owner} LIMIT {some} LOOP
    EXECUTE pg_catalog.format('ALTER LARGE OBJECT %s OWNER TO %I', one, {owner});
  END LOOP;
END"""


class Unlike(Exception):
    """Two schema dumps of one snapshot are not of one schema: it was changed between them, which no snapshot hides."""


@dataclass(frozen=True)
class Owners:
    """What the server says of owners and rights besides what pg_dump writes; rows as they were read."""

    roles: list[Row]
    members: list[Row]
    database: Row
    database_rights: list[Row]
    database_settings: list[Row]
    large_objects: list[Row]
    large_objects_of_others: list[Row]
    large_object_rights: list[Row]


def read(connection: psycopg.Connection) -> Owners:
    """Ask over ``connection``, whose role needs no right for it."""
    options = _OPTIONS_FROM_16 if connection.info.server_version >= 160_000 else _OPTIONS_BEFORE
    with connection.cursor(row_factory=dict_row) as cursor:

        def all_of(query: str, given: Any = None) -> list[Row]:
            return list(cursor.execute(query.encode(), given).fetchall())

        large = all_of(_LARGE_OBJECTS)
        return Owners(
            all_of(_ROLES, {"own": _FIRST_OWN_OID}),
            all_of(_MEMBERS.format(options=options)),
            all_of(_DATABASE)[0],
            all_of(_DATABASE_RIGHTS),
            all_of(_DATABASE_SETTINGS),
            large,
            all_of(_LARGE_OBJECTS_OF_OTHERS, (large[0]["owner"],)) if len(large) > 1 else [],
            all_of(_LARGE_OBJECT_RIGHTS),
        )


def grants(full: str, plain: str, owners: Owners) -> str:
    """The statements that make a restored copy belong to whom its source did, in the order to run them.

    Args:
        full: the schema dump with owners and privileges.
        plain: the one without, of the same snapshot.
        owners: what the server said besides.

    Raises:
        Unlike: the two dumps are not of one schema.
    """
    return "\n".join([*_of_objects(full, plain), *_of_large_objects(owners), *_of_database(owners), ""])


def _of_objects(full: str, plain: str) -> list[str]:
    """What ``full`` has more than ``plain``: no SQL is read for it, so nothing of it can be misread."""
    without = list(entries(plain))
    found, at = [], 0
    for entry in entries(full):
        if at < len(without) and _same(entry, without[at]):
            found.append(_more(entry.text, without[at].text))
            at += 1
        elif entry.kind in _RIGHTS:
            found.append(entry.text)
        else:
            raise Unlike(entry.key)
    if at < len(without):
        raise Unlike(without[at].key)
    return [text for text in found if text]


def _same(one: Entry, other: Entry) -> bool:
    return (one.kind, one.schema, one.name) == (other.kind, other.schema, other.name)


def _more(full: str, plain: str) -> str:
    r"""The lines of ``full`` that are not in ``plain``, which is a part of it.

    >>> _more("CREATE TABLE t (\n);\n\n\nALTER TABLE t OWNER TO a;", "CREATE TABLE t (\n);")
    'ALTER TABLE t OWNER TO a;'
    """
    rest = plain.split("\n")
    at, more = 0, []
    for line in full.split("\n"):
        if at < len(rest) and line == rest[at]:
            at += 1
        else:
            more.append(line)
    if at < len(rest):
        raise Unlike(rest[at])
    return "\n".join(more).strip("\n")


def roles(owners: Owners, granted: str) -> str:
    """SQL that makes every role that owns something here or was granted something, with its memberships; passwords are not in it.

    It may run any number of times: a role that is there already keeps its attributes.

    Args:
        owners: what the server said.
        granted: what ``grants`` returned; the server's first superuser is among the roles only when it is named there.
    """
    kept = [row for row in owners.roles if not row["first"] or _named(row["name"], granted)]
    names = {row["name"] for row in kept}
    found = [_role(row) for row in kept]
    for row in owners.members:
        if row["member"] in names and (row["of"] in names or row["of"].startswith("pg_")):
            found += _member(row)
    return "\n".join([*found, ""]) if found else ""


def _named(role: str, text: str) -> bool:
    """Whether ``role`` stands in ``text`` as a word or quoted.

    >>> _named("postgres", "ALTER TABLE t OWNER TO postgres;"), _named("postgres", "TO postgres_exporter;")
    (True, False)
    """
    return bool(re.search(rf"(?<![\w$]){re.escape(role.replace(chr(34), chr(34) * 2))}(?![\w$])", text))


def _role(row: Row) -> str:
    name = identifier(row["name"])
    words = [
        word
        for column, word in (
            ("rolsuper", "SUPERUSER"),
            ("rolcreaterole", "CREATEROLE"),
            ("rolcreatedb", "CREATEDB"),
            ("rolcanlogin", "LOGIN"),
            ("rolreplication", "REPLICATION"),
            ("rolbypassrls", "BYPASSRLS"),
        )
        if row[column]
    ]
    words += [] if row["rolinherit"] else ["NOINHERIT"]
    words += [f"CONNECTION LIMIT {row['rolconnlimit']}"] if row["rolconnlimit"] != -1 else []
    words += [f"VALID UNTIL {literal(row['rolvaliduntil'])}"] if row["rolvaliduntil"] else []
    settings, unkept = settings_of(row["rolconfig"], f"role {row['name']}")
    lines = [f"CREATE ROLE {' '.join([name, *words])};"]
    lines += [f"ALTER ROLE {name} SET {setting};" for setting in settings]
    there = f"IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {literal(row['name'])}) THEN"
    return "\n".join([*unkept, block("\n".join([there, *(f"  {line}" for line in lines), "END IF;"]))])


def _member(row: Row) -> list[str]:
    of, member = identifier(row["of"]), identifier(row["member"])
    grant = f"GRANT {of} TO {member}"
    lines = [f"{grant} WITH ADMIN OPTION;" if row["admin"] else f"{grant};"]
    options = [] if row["inherits"] == row["heir"] else [f"INHERIT {str(row['inherits']).upper()}"]
    options += [] if row["sets"] else ["SET FALSE"]
    if options:  # a server before 16 knows neither
        newer = "current_setting('server_version_num')::int >= 160000"
        with_options = literal(f"{grant} WITH {', '.join(options)}")
        lines += [f"IF {newer} THEN EXECUTE {with_options}; END IF;"]
    there = f"IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {literal(row['of'])}) THEN"
    return [block("\n".join([there, *(f"  {line}" for line in lines), "END IF;"]))]


def _of_large_objects(owners: Owners) -> list[str]:
    """Most belong to one role; that many are not named one by one."""
    found = []
    if owners.large_objects:
        most = owners.large_objects[0]["owner"]
        count = sum(int(row["count"]) for row in owners.large_objects)
        some = _GIVE_LARGE_OBJECTS.replace("{some}", str(_LARGE_OBJECTS_AT_ONCE)).replace("{owner}", literal(most))
        found += [block(some, whole=True)] * -(-count // _LARGE_OBJECTS_AT_ONCE)
    found += [
        f"ALTER LARGE OBJECT {row['oid']} OWNER TO {identifier(row['owner'])};"
        for row in owners.large_objects_of_others
    ]
    found += [
        f"GRANT {row['privilege']} ON LARGE OBJECT {row['oid']} TO {_grantee(row)};"
        for row in owners.large_object_rights
    ]
    return found


def _of_database(owners: Owners) -> list[str]:
    """Of the database that they run in, whatever it is called there; last, because its new owner may be somebody else."""
    owner = identifier(owners.database["owner"])
    lines = [_on_database("ALTER DATABASE ", f" OWNER TO {owner}")]
    if owners.database["given"]:
        lines += [_on_database("REVOKE ALL ON DATABASE ", f" FROM PUBLIC, {owner}")]
        lines += [
            _on_database(f"GRANT {row['privilege']} ON DATABASE ", f" TO {_grantee(row)}")
            for row in owners.database_rights
        ]
    if owners.database["limit"] != -1:
        lines += [_on_database("ALTER DATABASE ", f" CONNECTION LIMIT {owners.database['limit']}")]
    comments = []
    for row in owners.database_settings:
        settings, unkept = settings_of(row["config"], f"role {row['role']} here" if row["role"] else "this database")
        comments += unkept
        if row["role"]:
            lines += [
                _on_database(f"ALTER ROLE {identifier(row['role'])} IN DATABASE ", f" SET {setting}")
                for setting in settings
            ]
        else:
            lines += [_on_database("ALTER DATABASE ", f" SET {setting}") for setting in settings]
    return [*comments, *(block(line) for line in lines)]


def _on_database(before: str, after: str) -> str:
    name = "pg_catalog.quote_ident(pg_catalog.current_database())"
    return f"EXECUTE {literal(before)} || {name} || {literal(after)};"


def _grantee(row: Row) -> str:
    role = identifier(row["role"]) if row["role"] else "PUBLIC"
    return f"{role} WITH GRANT OPTION" if row["grantable"] else role


def settings_of(config: Iterable[str], whose: str) -> tuple[list[str], list[str]]:
    """Stored settings as ``name TO value``, and comments about those that are not kept.

    >>> settings_of(["work_mem=64MB", 'search_path="$user", public', "app.key=hidden"], "role app")
    (["work_mem TO '64MB'", "search_path TO '$user', 'public'"], ['-- setting app.key of role app is not kept here: set it by hand'])
    """
    kept, unkept = [], []
    for setting in config:
        name, _, value = setting.partition("=")
        if "." in name:
            unkept.append(f"-- setting {one_line(name)} of {one_line(whose)} is not kept here: set it by hand")
        elif name in _LISTS:
            kept.append(f"{name} TO {', '.join(map(literal, listed(value))) or literal('')}")
        else:
            kept.append(f"{name} TO {literal(value)}")
    return kept, unkept


def listed(value: str) -> list[str]:
    """The names in a stored list, without their quotes.

    >>> listed('"$user", public, "a ""b"", c"'), listed('""'), listed("")
    (['$user', 'public', 'a "b", c'], [''], [])
    """
    found = re.findall(r'\s*(?:"((?:[^"]|"")*)"|([^",\s]+))\s*(?:,|$)', value)
    return [quoted.replace('""', '"') or plain for quoted, plain in found]


def identifier(name: str) -> str:
    """``name`` quoted as SQL wants it.

    >>> print(identifier('Größe "x"'))
    "Größe ""x\"""
    """
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    r"""``text`` as a string in SQL, whatever standard_conforming_strings is.

    >>> print(literal("it's"), literal("a\\b"))
    'it''s' E'a\\b'
    """
    quoted = text.replace("'", "''")
    return "E'" + quoted.replace("\\", "\\\\") + "'" if "\\" in text else f"'{quoted}'"


def one_line(text: str) -> str:
    """``text`` for a comment, which ends with its line."""
    return re.sub(r"[\r\n]", " ", text)


def block(body: str, whole: bool = False) -> str:
    """``body`` as an anonymous block, under a quote that is not in it; ``whole``: it has its own BEGIN and END.

    >>> print(block("PERFORM 1;"))
    DO $zero$BEGIN
    PERFORM 1;
    END$zero$;
    """
    mark = "$zero$"
    while mark in body:
        mark = f"{mark[:-1]}o$"
    return f"DO {mark}{body}{mark};" if whole else f"DO {mark}BEGIN\n{body}\nEND{mark};"
