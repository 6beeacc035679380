"""What a container that was made by hand says of itself: its spec, its secrets, its database, and what a spec cannot hold. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from tasks.clients.environment import CONTAINER_PORT, OURS, TwilioAccount
from tasks.clients.secrets import Secrets
from tasks.errors import Conflict, InvalidInput, NotFound
from tasks.registry.names import ClientNames
from tasks.registry.spec import ZeroSpec, check

_SECRETISH = re.compile(r"SECRET|TOKEN|PASS|PWD|PIN|KEY|CREDENTIAL|AUTH|PRIVATE|DSN|URL|URI", re.IGNORECASE)
_PLAIN = re.compile(r"true|false|yes|no|on|off|[0-9]{1,6}|[a-z]{1,12}|[A-Z][a-z]+/[A-Z][A-Za-z_]+", re.IGNORECASE)
"""Words, numbers and time zones: nothing that a secret would be."""
_YES = ("1", "true", "yes", "on")


@dataclass(frozen=True)
class DatabaseAddress:
    """Where its DATABASE_URL leads."""

    role: str
    password: str = field(repr=False)
    host: str
    port: int
    database: str


@dataclass(frozen=True)
class Adopted:
    """What was read."""

    spec: ZeroSpec
    secrets: Secrets = field(repr=False)
    twilio: TwilioAccount | None = field(repr=False)
    database: DatabaseAddress
    port: int
    url: str
    """Where it says that a browser finds it."""
    notes: list[str]
    """What will be otherwise once it is made anew."""


def read(found: Mapping[str, Any], image_env: Mapping[str, str], image: str, names: ClientNames, fleet: str) -> Adopted:
    """Read the engine's answer about a container.

    Args:
        image_env: what its image sets by itself.
        image: the name to keep for it.
        fleet: the fleet's network, which every container of ours joins anyway.

    Raises:
        NotFound: it has no DATABASE_URL, or publishes no port.
        InvalidInput: a value that no spec may have.
    """
    environment = dict(entry.partition("=")[::2] for entry in found["Config"].get("Env") or [])
    given = {name: value for name, value in environment.items() if image_env.get(name) != value or name in OURS}
    host_ip, port = _published(found)
    notes = _left_out(found)
    secrets, public = _secrets(given)
    spec = _fitting(
        names,
        image=image,
        host_port=port,
        host_ip=host_ip,
        extra_env=public,
        **_address(given.get("BETTER_AUTH_URL") or given.get("NEXT_PUBLIC_APP_URL") or "", port, notes),
        **_settings(given, notes),
        **_limits(found["HostConfig"], notes),
        networks=[
            name
            for name in (found["NetworkSettings"].get("Networks") or {})
            if name not in ("bridge", "host", "none", fleet)
        ],
    )
    database = _database(given.get("DATABASE_URL", ""), found["Name"].lstrip("/"))
    # As it is written there, whatever the block says to others later.
    spec = spec.model_copy(update={"db_host": database.host, "db_port": database.port})
    check(spec, names.slug)
    if not secrets.better_auth_secret:
        notes.append("it has no BETTER_AUTH_SECRET, so Zero uses one that everybody knows, until it is made anew")
    if given.get("DROP_AGENT_TABLES", "").lower() in _YES:
        notes.append("DROP_AGENT_TABLES is set in it and is not kept: restart-zero with clean=true does that once")
    url = given.get("BETTER_AUTH_URL") or spec.public_url(port)
    if "@" in url:  # with a password, which nobody may read where this goes
        url = spec.public_url(port)
    secrets = replace(secrets, database_password=database.password)
    return Adopted(spec, secrets, _twilio(given, notes), database, port, url.rstrip("/"), notes)


def _fitting(names: ClientNames, **settings: Any) -> ZeroSpec:
    try:
        return ZeroSpec(**settings)
    except ValidationError as error:
        where = ", ".join(sorted({str(one["loc"][0]) for one in error.errors()}))
        raise InvalidInput(
            f"the container {names.container} has settings that no spec may have ({where})",
            "make it anew within the bounds of the spec's form, or let provision-client make the client",
        ) from None


def require_fitting(database: DatabaseAddress, names: ClientNames) -> None:
    """Refuse a database or role that is not called like the container: nothing could find it by the client's name.

    Raises:
        Conflict: with the statements that rename them, or the container's right name.
    """
    if (database.role, database.database) == (names.role, names.database):
        return
    what = f"{names.container} uses role {database.role} and database {database.database}, where {names.role} is needed for both"
    if database.role == database.database:
        cure = f"`docker rename {names.container} {database.role}` and adopt that"
    else:
        cure = (
            f"stop it, run ALTER DATABASE {database.database} RENAME TO {names.database} and ALTER ROLE {database.role} RENAME TO "
            f"{names.role}, make it anew with that DATABASE_URL, and run again"
        )
    raise Conflict(what, cure)


def honour(given: Secrets, seen: Secrets, block: str) -> Secrets:
    """What was ``seen`` in the container, completed by what was ``given`` in the client's block before.

    Raises:
        Conflict: they differ; the sentence has the fields' names, never values.

    >>> honour(Secrets(autumn_key="mine"), Secrets(api_token="t"), "zero-acme").autumn_key
    'mine'
    """
    differing = []
    for one in fields(Secrets):
        before, now = getattr(given, one.name), getattr(seen, one.name)
        if isinstance(before, dict):
            differing += [
                f"{one.name} {name}" for name in sorted(before.keys() & now.keys()) if before[name] != now[name]
            ]
        elif before and now and before != now:
            differing.append(one.name)
    if differing:
        raise Conflict(
            f"the block {block} says otherwise than the container about {', '.join(differing)}",
            "empty those fields in the block, or delete it, and run again",
        )
    merged: dict[str, Any] = {}
    for one in fields(Secrets):
        before, now = getattr(given, one.name), getattr(seen, one.name)
        merged[one.name] = {**before, **now} if isinstance(before, dict) else now or before
    return Secrets(**merged)


def without_google(own: Secrets) -> Secrets:
    """``own`` for a client whose Google client is the fleet's."""
    return replace(own, google_client_id="", google_client_secret="")


def _published(found: Mapping[str, Any]) -> tuple[str, int]:
    bindings = (found["HostConfig"].get("PortBindings") or {}).get(f"{CONTAINER_PORT}/tcp") or []
    if not bindings or not bindings[0].get("HostPort") or bindings[0]["HostPort"] == "0":
        raise NotFound(
            f"the container {found['Name'].lstrip('/')} publishes no fixed port for its {CONTAINER_PORT}",
            f"make it anew with `-p 127.0.0.1:PORT:{CONTAINER_PORT}`, or let provision-client make the client",
        )
    return bindings[0].get("HostIp") or "0.0.0.0", int(bindings[0]["HostPort"])  # noqa: S104


def _database(url: str, container: str) -> DatabaseAddress:
    try:
        parts = urlsplit(url)
        address = DatabaseAddress(
            unquote(parts.username or ""), unquote(parts.password or ""), parts.hostname or "", parts.port or 5432,
            unquote(parts.path.strip("/")),
        )  # fmt: skip
    except ValueError:
        address = DatabaseAddress("", "", "", 0, "")
    if not (address.role and address.password and address.host and address.database):
        raise NotFound(
            f"the container {container} has no DATABASE_URL with role, password, host and database",
            "see `docker inspect`; a container without a database of its own is no client's Zero",
        )
    return address


def _secrets(given: Mapping[str, str]) -> tuple[Secrets, dict[str, str]]:
    """Its secrets, and what of its further environment everybody may read."""
    further = {name: value for name, value in given.items() if name not in OURS}
    public = {
        name: value
        for name, value in further.items()
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) and not _SECRETISH.search(name) and _PLAIN.fullmatch(value)
    }
    secrets = Secrets(
        better_auth_secret=given.get("BETTER_AUTH_SECRET", ""),
        autumn_key=given.get("AUTUMN_SECRET_KEY", ""),
        api_token=given.get("ZERO_API_TOKEN", ""),
        google_client_id=given.get("GOOGLE_CLIENT_ID", ""),
        google_client_secret=given.get("GOOGLE_CLIENT_SECRET", ""),
        redis_token=given.get("REDIS_TOKEN", ""),
        secret_env={name: value for name, value in further.items() if name not in public},
    )
    return secrets, public


def _address(url: str, port: int, notes: list[str]) -> dict[str, str]:
    """Its public URL as subdomain and domain."""
    url = url.rstrip("/")
    if url in ("", f"http://localhost:{port}"):
        return {}
    host = url.removeprefix("https://")
    if host != url and re.fullmatch(r"[A-Za-z0-9.-]+", host) and "." in host:
        first, _, rest = host.partition(".")
        return {"subdomain": first, "domain": rest} if "." in rest else {"domain": host}
    shown = url if "@" not in url else "one with a password"
    notes.append(
        f"its BETTER_AUTH_URL is {shown}, which no spec says: give subdomain and domain before it is made anew"
    )
    return {}


def _settings(given: Mapping[str, str], notes: list[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    count = given.get("THREAD_SYNC_MAX_COUNT", "")
    if count.isdecimal() and 1 <= int(count) <= 100_000:
        settings["thread_sync_max_count"] = int(count)
    elif count:
        notes.append(f"its THREAD_SYNC_MAX_COUNT is {count[:20]!r}, which is no number from 1 to 100000")
    if given.get("THREAD_SYNC_LOOP"):
        settings["thread_sync_loop"] = given["THREAD_SYNC_LOOP"].lower() in _YES
    redis = given.get("REDIS_URL", "")
    if redis.startswith(("http://", "https://")) and "@" not in redis and given.get("REDIS_TOKEN"):
        settings["redis_url"] = redis
    elif redis:
        notes.append("its REDIS_URL is no Upstash-style REST endpoint with a REDIS_TOKEN, and is not kept")
    return settings


def _limits(host: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    memory, pids = int(host.get("Memory") or 0) >> 20, int(host.get("PidsLimit") or 0)
    if memory >= 64:
        limits["memory"] = memory
    else:
        notes.append(f"it has no memory limit, and gets {ZeroSpec().memory} MiB when it is made anew")
    if pids >= 16:
        limits["pids"] = pids
    period = int(host.get("CpuPeriod") or 100_000)
    cpus = int(host.get("NanoCpus") or 0) / 1e9 or max(int(host.get("CpuQuota") or 0), 0) / period
    if cpus:
        limits["cpus"] = cpus
    policy = (host.get("RestartPolicy") or {}).get("Name") or "no"
    return {**limits, "restart": policy}


def _left_out(found: Mapping[str, Any]) -> list[str]:
    mounts = [str(mount.get("Destination")) for mount in found.get("Mounts") or []]
    ports = [name for name, bound in (found["HostConfig"].get("PortBindings") or {}).items() if bound]
    notes = [f"what is mounted at {', '.join(mounts)} is not kept"] if mounts else []
    others = [name for name in ports if name != f"{CONTAINER_PORT}/tcp"]
    return [*notes, f"its further ports {', '.join(others)} are not kept"] if others else notes


def _twilio(given: Mapping[str, str], notes: list[str]) -> TwilioAccount | None:
    found = [given.get(f"TWILIO_{name}", "") for name in ("ACCOUNT_SID", "AUTH_TOKEN", "PHONE_NUMBER")]
    if all(found):
        return TwilioAccount(*found)
    if any(found):
        notes.append("its Twilio settings are not complete, and are not kept")
    return None
