"""Names: what may be called how. Pure; formats are checked here and nowhere else."""

import hashlib
import re
from dataclasses import dataclass

from tasks.errors import InvalidInput

SLUG_LENGTH = 40
"""Characters; with the prefix ``zero_client_`` it stays under PostgreSQL's 63 bytes (longer ones are cut silently)."""
_SLUG = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_BLOCK = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_NUMBERED = re.compile(r"client-[0-9]")
PREFIX = "zero_client_"
"""Of a client's container, database and role."""
_EMAIL = re.compile(r"[^@\s\"'<>(),;:\\\[\]]+@[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")
LABEL_FLEET = "zero-fleet.fleet"
LABEL_CLIENT = "zero-fleet.client"
LABEL_SPEC = "zero-fleet.spec"
LABEL_VERSION = "zero-fleet.version"
LABEL_REPO, LABEL_COMMIT, LABEL_URL = "zero-fleet.repo", "zero-fleet.commit", "zero-fleet.url"
"""On an image that we built; the last one only where its browser code has that public URL baked in."""
LABEL_ONCE = "zero-fleet.once"
"""On a container that is made for one start only."""


def require_slug(value: str) -> str:
    """``value`` if it is a client's slug.

    Raises:
        InvalidInput: it is not, with the rule in words.

    >>> require_slug("acme-2")
    'acme-2'
    >>> require_slug("all")
    Traceback (most recent call last):
    tasks.errors.InvalidInput: no client can be called 'all', which means every client; choose another slug.
    >>> require_slug("acme\\n")
    Traceback (most recent call last):
    tasks.errors.InvalidInput: client 'acme\\n' is no slug; use small letters, digits and single hyphens, starting with a letter, at most 40 characters, like acme or acme-2.
    """
    if value == "all":
        raise InvalidInput("no client can be called 'all', which means every client", "choose another slug")
    if len(value) > SLUG_LENGTH or not _SLUG.fullmatch(value):
        shown = value if len(value) <= 60 else value[:57] + "..."
        raise InvalidInput(
            f"client {shown!r} is no slug",
            "use small letters, digits and single hyphens, starting with a letter, at most 40 characters, like acme or acme-2",
        )
    return value


def require_block_name(value: str) -> str:
    """``value`` if Prefect takes it as a block document's name (small letters, digits, hyphens).

    >>> require_block_name("app-database")
    'app-database'
    """
    if len(value) > 100 or not _BLOCK.fullmatch(value):
        raise InvalidInput(
            f"block name {value[:60]!r} is not one that Prefect takes",
            "use small letters, digits and single hyphens",
        )
    return value


def require_email(value: str) -> str:
    """``value`` if it looks like one e-mail address; whether it exists only delivery can tell.

    >>> require_email("ops@example.org")
    'ops@example.org'
    """
    if len(value) > 254 or not _EMAIL.fullmatch(value) or not value.isprintable():
        raise InvalidInput(f"{value[:80]!r} is no e-mail address", "write it like ops@example.org")
    return value


def require_subject(value: str) -> str:
    """``value`` if it can be a mail's subject: one line of printable signs (RFC 5322, 2.1.1: a line break would begin a header).

    >>> require_subject("Grüße")
    'Grüße'
    >>> require_subject("Hi\\r\\nBcc: a@b.example")
    Traceback (most recent call last):
    tasks.errors.InvalidInput: subject 'Hi\\r\\nBcc: a@b.example' has a line break or another control character; write it in one line.
    """
    if not value.isprintable():
        raise InvalidInput(
            f"subject {value[:80]!r} has a line break or another control character", "write it in one line"
        )
    return value


@dataclass(frozen=True)
class ClientNames:
    """What everything of one client is called; ``docker ps | grep zero`` and psql still find it."""

    slug: str

    @property
    def container(self) -> str:
        """Docker container, PostgreSQL database and role share this name.

        A slug starts with a letter, so a client that was only ever a number has ``client-`` before it, and the names it had.

        >>> ClientNames("acme-2").container, ClientNames("client-7").container
        ('zero_client_acme_2', 'zero_client_7')
        """
        slug = self.slug.removeprefix("client-") if _NUMBERED.match(self.slug) else self.slug
        return PREFIX + slug.replace("-", "_")

    database = container
    role = container

    @property
    def secrets_block(self) -> str:
        """The ZeroSecrets block of the client.

        >>> ClientNames("acme-2").secrets_block
        'zero-acme-2'
        """
        return f"zero-{self.slug}"


def slug_of(container: str) -> str:
    """The slug of the client whose container is called ``container``; ``ClientNames`` leads back to the very name.

    Raises:
        InvalidInput: no client's container can be called so.

    >>> slug_of("zero_client_acme_2"), slug_of("zero_client_7")
    ('acme-2', 'client-7')
    >>> slug_of("postgres")
    Traceback (most recent call last):
    tasks.errors.InvalidInput: container 'postgres' is not called like a client's; rename it (`docker rename`, which does not restart it) to zero_client_ and small letters, digits and single underscores, like zero_client_acme or zero_client_7.
    """
    rest = container.removeprefix(PREFIX).replace("_", "-")
    slug = f"client-{rest}" if rest[:1].isdigit() else rest
    if len(slug) > SLUG_LENGTH or not _SLUG.fullmatch(slug) or ClientNames(slug).container != container:
        raise InvalidInput(
            f"container {container[:60]!r} is not called like a client's",
            "rename it (`docker rename`, which does not restart it) to zero_client_ and small letters, digits and single "
            "underscores, like zero_client_acme or zero_client_7",
        )
    return slug


def require_user(value: str) -> str:
    """``value`` if it can be the opaque key of a site's user: printable, no white space at the ends, 1 to 200 characters.

    >>> require_user("42")
    '42'
    """
    if not 1 <= len(value) <= 200 or not value.isprintable() or value != value.strip():
        raise InvalidInput(
            f"user {value[:60]!r} is no key of a user",
            "give 1 to 200 printable characters without spaces at the ends",
        )
    return value


def user_id(user: str) -> str:
    """The short id that a user's blocks are named after (a key may hold what a block's name may not).

    >>> user_id("42")
    '73475cb40a56'
    """
    return hashlib.sha256(user.encode()).hexdigest()[:12]


def gmail_block(user: str) -> str:
    """The GmailToken block of ``user``.

    >>> gmail_block("42")
    'gmail-73475cb40a56'
    """
    return f"gmail-{user_id(user)}"
