"""What a database's schema is, object by object, out of what pg_dump writes. Pure.

PostgreSQL stores an expression parsed and writes it back in its own words, which are not always the same after one more round:
``x IN ('a', 'b')`` on a varchar gains and loses casts and parentheses. So digests are of a text without them and without white
space: they tell what is missing, too much or another thing, and are silent where only the wording differs.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tasks.backups.source import many

_HEADER = re.compile(r"^--\n-- Name: (.*); Type: ([A-Z][A-Z ]*); Schema: (.*); Owner: ?.*\n--\n", re.MULTILINE)
_END = "\n--\n-- PostgreSQL database dump complete\n--\n"
# Stands before the object that it is for, so behind the text of another one.
_SETTING = re.compile(r"^SET (default_[a-z_]+) = (.*);\n?", re.MULTILINE)
_SETTING_OF = {
    "TABLE": ("default_tablespace", "default_table_access_method"),
    "MATERIALIZED VIEW": ("default_tablespace", "default_table_access_method"),
    "INDEX": ("default_tablespace",),
    "CONSTRAINT": ("default_tablespace",),
}
_DATA = ("TABLE DATA", "SEQUENCE SET", "MATERIALIZED VIEW DATA", "STATISTICS DATA", "BLOB", "BLOBS", "BLOB METADATA")
_NO_TEXT = "-- *not* creating schema, since initdb creates it"
_NAME = r'(?:"(?:[^"]|"")+"|[A-Za-z_][\w$]*)'
_CAST = re.compile(
    rf"::{_NAME}(?:\.{_NAME})?(?: varying| precision)?(?:\(\d+(?:,\s*-?\d+)?\))?(?: with(?:out)? time zone)?(?:\[\])*"
)
_LAYOUT = re.compile(r"[\s()]+")


@dataclass(frozen=True)
class Entry:
    """One object of a schema dump: what it is, and the statements that make it."""

    kind: str
    """As pg_dump calls it: ``TABLE``, ``FK CONSTRAINT``, ``ACL``."""
    schema: str
    """``-``: it lies in none."""
    name: str
    text: str

    @property
    def key(self) -> str:
        """As the manifest names it.

        >>> Entry("TABLE", "public", "users", "").key, Entry("SCHEMA", "-", "drizzle", "").key
        ('TABLE public.users', 'SCHEMA drizzle')
        """
        return f"{self.kind} {self.name}" if self.schema == "-" else f"{self.kind} {self.schema}.{self.name}"

    @property
    def is_data(self) -> bool:
        """Whether a dump of the schema alone leaves it out."""
        return self.kind in _DATA or (self.schema == "-" and self.name.startswith("LARGE OBJECT "))


def entries(dump: str) -> Iterator[Entry]:
    """The objects in a dump without rows, in its order; what stands before the first and behind the last is left out."""
    end = dump.rfind(_END)
    whole = dump if end < 0 else dump[: end + 1]
    headers = list(_HEADER.finditer(whole))
    ends = [header.start() for header in headers[1:]] + [len(whole)]
    for header, until in zip(headers, ends, strict=False):
        yield Entry(header[2], header[3], header[1], whole[header.end() : until].strip("\n"))


def digests(dump: str) -> dict[str, str]:
    """A short SHA-256 of each object of the schema in a dump without rows.

    >>> head = "-- Dumped by pg_dump\\n\\nSET default_tablespace = '';\\n\\n"
    >>> table = "--\\n-- Name: t; Type: TABLE; Schema: public; Owner: -\\n--\\n\\nCREATE TABLE public.t (\\n    a integer\\n);\\n\\n\\n"
    >>> digests(head + table)
    {'TABLE public.t': '70047b5ac0a26756'}
    """
    held: dict[str, list[str]] = {}
    first = _HEADER.search(dump)
    settings = dict(_SETTING.findall(dump[: first.start()] if first else ""))
    for entry in entries(dump):
        text = "" if entry.is_data else normalised(entry.text, entry.kind)
        if text:
            own = "".join(f"{name}={settings.get(name, '')}\n" for name in _SETTING_OF.get(entry.kind, ()))
            held.setdefault(entry.key, []).append(own + text)
        settings |= dict(_SETTING.findall(entry.text))
    # Several may share a key, as casts of one pair of names do; their order is nobody's promise.
    return {key: hashlib.sha256("\0".join(sorted(texts)).encode()).hexdigest()[:16] for key, texts in held.items()}


def normalised(text: str, kind: str) -> str:
    """The text of an object of ``kind`` without what may differ between a database and its restored copy.

    >>> before = "CHECK (((x)::text = ANY ((ARRAY['a'::character varying, 'b'::character varying])::text[])))"
    >>> after = "CHECK (((x)::text = ANY (ARRAY[('a'::character varying)::text, ('b'::character varying)::text])))"
    >>> normalised(before, "CHECK CONSTRAINT") == normalised(after, "CHECK CONSTRAINT")
    True
    >>> normalised("a numeric(10,2) DEFAULT '1'::numeric(10,2)", "TABLE")
    "anumeric10,2DEFAULT'1'"
    """
    text = _CAST.sub("", _SETTING.sub("", text).replace(_NO_TEXT, ""))
    if kind == "TABLE" and "\nINHERITS (" in text:  # an heir's own columns stand behind the inherited ones afterwards
        text = "\n".join(sorted(line.rstrip(",") for line in text.splitlines()))
    return _LAYOUT.sub("", text)


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """What differs between two schemas, one phrase each; empty when they are equal.

    >>> differences({"TABLE public.a": "1", "INDEX public.b": "2"}, {"TABLE public.a": "3", "VIEW public.c": "4"})
    ['index public.b is missing', 'view public.c is too much', 'table public.a differs']
    """
    gone = [f"{_spoken(key)} is missing" for key in expected if key not in found]
    more = [f"{_spoken(key)} is too much" for key in found if key not in expected]
    other = [f"{_spoken(key)} differs" for key, digest in expected.items() if found.get(key, digest) != digest]
    return gone + more + other


def _spoken(key: str) -> str:
    kind = re.match(r"[A-Z ]+(?= )", key)
    return key if kind is None else kind[0].lower() + key[kind.end() :]


def why_not_compared(expected: dict[str, str], source: tuple[int, int], trial: tuple[int, int]) -> str:
    """Why two schemas cannot be compared, or nothing when they can.

    Args:
        expected: the manifest's digests.
        source: major versions of the server that was dumped and of its pg_dump.
        trial: of the server that it was restored on, and of the pg_dump there.

    >>> why_not_compared({"TABLE a": "1"}, (16, 16), (16, 16)), why_not_compared({}, (16, 16), (16, 16))
    ('', 'its manifest has none, it was made by an older version')
    >>> why_not_compared({"TABLE a": "1"}, (15, 16), (16, 16))
    'PostgreSQL 15 and the trial server 16 do not write it alike'
    >>> why_not_compared({"TABLE a": "1"}, (15, 15), (15, 16))
    'pg_dump 15 and the pg_dump 16 of the trial do not write it alike'
    """
    if not expected:
        return "its manifest has none, it was made by an older version"
    if source[0] != trial[0]:
        return f"PostgreSQL {source[0]} and the trial server {trial[0]} do not write it alike"
    if source[1] != trial[1]:
        return f"pg_dump {source[1]} and the pg_dump {trial[1]} of the trial do not write it alike"
    return ""


def spoken(count: int) -> str:
    """So many objects of a schema, as a person reads it.

    >>> spoken(1), spoken(12)
    ("the schema's 1 object", "the schema's 12 objects")
    """
    return f"the schema's {many(count, 'object')}"
