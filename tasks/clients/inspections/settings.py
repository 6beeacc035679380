"""Comparing the container's environment with what it would be given today. Pure; values are compared and never shown."""

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from tasks.clients.diagnosis import Check, Line, bad, good, unknown
from tasks.clients.environment import CALLBACK, OURS

VITAL = ("DATABASE_URL", "BETTER_AUTH_SECRET", "BETTER_AUTH_URL", "GOOGLE_CLIENT_ID", "GOOGLE_CLIENT_SECRET")
"""Without these Zero does not start, answers 500, or is open to everybody."""
NEEDED = (*VITAL, "AUTUMN_SECRET_KEY", "ZERO_API_TOKEN")
"""Without the rest it does less than it should."""
UNTIL_ANEW = "nothing; that is so until it is made anew, by an upgrade or a change of its spec"
_SECRETIVE = ("SECRET", "TOKEN", "PASSWORD", "KEY", "_URL", "DSN")


def environment_of(found: dict[str, Any] | None) -> dict[str, str] | None:
    """The container's environment by the engine's long answer; None: there is no container."""
    if found is None:
        return None
    return dict(text.partition("=")[::2] for text in found["Config"].get("Env") or ())


def secret_values(environment: Mapping[str, str] | None) -> list[str]:
    """What of a container's environment may be secret, for redaction: it may hold other values than the blocks."""
    values = []
    for name, value in (environment or {}).items():
        if name.upper().endswith(_SECRETIVE) and not name.startswith(("NEXT_PUBLIC_", "BETTER_AUTH_URL")):
            password = _password(value)
            values += [password, unquote(password)] if "://" in value else [value]
    return [value for value in values if value]


def _password(url: str) -> str:
    try:
        return urlsplit(url).password or ""
    except ValueError:
        return ""


def database_url_line(environment: Mapping[str, str] | None, expected: str, slug: str) -> Line:
    """Whether DATABASE_URL is the one we would give; which parts differ, without the password.

    Args:
        expected: empty when no password is saved.
    """
    check = Check.DATABASE_URL
    if environment is None:
        return unknown(check, "there is no container")
    if not expected:
        return unknown(check, "there is nothing to compare it with: no password or no server is saved")
    found = environment.get("DATABASE_URL", "")
    if not found:
        return bad(check, "it is not set", f"run provision-client for {slug}")
    if found == expected:
        return good(check, f"as registered: {_shown(expected)}")
    try:
        parts = _parts(found)
    except ValueError:
        return bad(check, "it is no URL", f"run provision-client for {slug}")
    wanted = _parts(expected)
    differing = [name for name in wanted if parts[name] != wanted[name]]
    if not differing:
        return good(check, f"as registered: {_shown(expected)}")
    said = [
        "the password differs" if name == "password" else f"its {name} is {parts[name] or 'empty'}, not {wanted[name]}"
        for name in differing
    ]
    return bad(check, "; ".join(said), f"run provision-client for {slug}")


def _parts(url: str) -> dict[str, str]:
    split = urlsplit(url)
    return {
        "role": unquote(split.username or ""),
        "password": unquote(split.password or ""),
        "host": split.hostname or "",
        "port": str(split.port or 5432),
        "database": split.path.lstrip("/"),
    }


def _shown(url: str) -> str:
    parts = _parts(url)
    return f"{parts['role']} at {parts['host']}:{parts['port']}/{parts['database']}"


def secrets_line(
    environment: Mapping[str, str] | None,
    unfilled: Iterable[str],
    wanted: Iterable[str],
    *,
    block: str,
    adopted: bool,
    slug: str,
) -> Line:
    """Whether what is required is there, in the block and inside the container; by name only.

    Args:
        unfilled: required fields of the client's block that are empty.
        wanted: further required variables that the spec asks for.
        adopted: it was made by hand, so that it may lack what is not vital until it is made anew.
    """
    check, again = Check.SECRETS, f"run provision-client for {slug}"
    empty = list(unfilled)
    if empty:
        return bad(check, f"the block {block} lacks {', '.join(empty)}", f"{again}, which makes what is missing")
    if environment is None:
        return unknown(check, f"the block {block} has all; there is no container to compare")
    names = (*NEEDED, *wanted)
    missing = [name for name in names if not environment.get(name)]
    if adopted and missing and not set(missing) & set(VITAL):
        return unknown(check, f"made by hand, without {', '.join(missing)}", UNTIL_ANEW)
    if missing:
        return bad(check, f"the container lacks {', '.join(missing)}", again)
    return good(check, f"all there: {', '.join(names)}")


def environment_line(
    environment: Mapping[str, str] | None,
    expected: Mapping[str, str] | None,
    *,
    same_hash: bool,
    adopted: bool,
    slug: str,
) -> Line:
    """Whether every other variable is as we would give it, by name only, and whether the container was made from what is
    registered.

    Args:
        expected: None when it cannot be known, because a block is missing.
        same_hash: whether the hash of what it was made from is that of what is registered.
        adopted: it was made by hand, so that it may differ until it is made anew.
    """
    check = Check.ENVIRONMENT
    if environment is None:
        return unknown(check, "there is no container")
    if expected is None:
        return unknown(check, "there is nothing to compare it with: a block or a port is missing")
    lacking = {name for name in NEEDED if not environment.get(name)}  # another line says so
    names = set(expected) - {"DATABASE_URL"} - lacking
    other = sorted(name for name in names if environment.get(name) != expected[name])
    ours = sorted(name for name in OURS & set(environment) if environment[name] and name not in expected)
    said = [f"different: {', '.join(other)}"] if other else []
    said += [f"set and not wanted: {', '.join(ours)}"] if ours else []
    if adopted and said:
        return unknown(check, f"made by hand; {'; '.join(said)}", UNTIL_ANEW)
    if said:
        return bad(
            check,
            "; ".join(said),
            f"run provision-client for {slug}, which makes the container anew with the registered values",
        )
    as_url = environment.get("DATABASE_URL") == expected.get("DATABASE_URL")
    if not same_hash and as_url and not lacking:
        return bad(
            check,
            "the variables are as registered, and limits, networks, restart policy or labels are not",
            f"run provision-client for {slug}, which makes the container anew from what is registered",
        )
    return good(check, f"{len(names)} variables as registered")


def redirect_line(
    environment: Mapping[str, str] | None, expected: str, published: str | None, slug: str, adopted: bool = False
) -> Line:
    """The redirect URI to register with Google, beside the one that Zero uses and the one that was given out.

    Args:
        expected: by the spec.
        published: what an earlier run gave out.
        adopted: it was made by hand and uses what it was given then.
    """
    check, again = Check.REDIRECT, f"run provision-client for {slug}"
    base = (environment or {}).get("BETTER_AUTH_URL", "").rstrip("/")
    if adopted and published == base + CALLBACK != expected:
        return good(
            check,
            f"{published}, in use and given out; from its next making on it is {expected}",
            f"register both in the Google client: {published} and {expected}",
        )
    if published is None:
        return bad(check, f"{expected} was never given out", again)
    if published != expected:
        return bad(
            check,
            f"given out was {published}, and by its spec it is {expected}",
            f"{again}, and register {expected} with Google",
        )
    register = f"register exactly this one in the Google client: {expected}"
    if environment is None:
        return unknown(check, f"{expected}; there is no container that uses it", register)
    if not base:
        return bad(check, "BETTER_AUTH_URL is not set, so that Zero takes it from the first request", again)
    if base + CALLBACK != expected:
        return bad(check, f"Zero uses {base + CALLBACK}, given out was {expected}", again)
    return good(check, f"{expected}, in use and given out", register)
