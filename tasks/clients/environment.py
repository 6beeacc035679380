"""The environment of a client's container, and the hash that says when the container has to be made anew. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from tasks.clients.secrets import Secrets, fingerprint
from tasks.errors import InvalidInput, NotConfigured
from tasks.registry.names import ClientNames
from tasks.registry.readable import refuse_nul
from tasks.registry.spec import ZeroSpec, spec_hash

CONTAINER_PORT = 3000
"""Where Zero listens inside its container."""
GOOGLE_TOKEN_URI = "https://oauth2.googleapis.com/token"  # noqa: S105
CALLBACK = "/api/auth/callback/google"
OURS = frozenset({
    "DATABASE_URL", "PORT", "NODE_ENV", "BETTER_AUTH_SECRET", "BETTER_AUTH_URL", "BETTER_AUTH_TRUSTED_ORIGINS",
    "GOOGLE_CLIENT_ID", "GOOGLE_CLIENT_SECRET", "AUTUMN_SECRET_KEY", "REDIS_URL", "REDIS_TOKEN", "THREAD_SYNC_MAX_COUNT",
    "THREAD_SYNC_LOOP", "DROP_AGENT_TABLES", "TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_PHONE_NUMBER",
    "ZERO_API_TOKEN", "NEXT_PUBLIC_APP_URL", "NEXT_PUBLIC_BACKEND_URL",
})  # fmt: skip
"""Variables that only Zero Fleet sets."""


@dataclass(frozen=True)
class GoogleClient:
    """The OAuth client that a Zero logs people in with."""

    client_id: str
    client_secret: str = field(repr=False)
    token_uri: str = GOOGLE_TOKEN_URI


@dataclass(frozen=True)
class TwilioAccount:
    """The account that a Zero sends text messages through."""

    account_sid: str
    auth_token: str = field(repr=False)
    phone_number: str


def refuse_clashes(names: Iterable[str], where: str) -> None:
    """Refuse variables that Zero Fleet sets itself.

    Args:
        where: ``extra_env``, or ``secret_env of the block zero-acme``.

    Raises:
        InvalidInput: naming the first that clashes.
    """
    for name in sorted(names):
        if name in OURS:
            raise InvalidInput(
                f"{where} has {name}, which Zero Fleet sets itself",
                "take it out, and use the spec's field or the block for it",
            )


def redirect_uri(public_url: str) -> str:
    """The exact URI to register with Google; ``localhost`` and ``127.0.0.1`` are different ones to it.

    >>> redirect_uri("http://localhost:20000")
    'http://localhost:20000/api/auth/callback/google'
    """
    return public_url + CALLBACK


def database_url(names: ClientNames, password: str, host: str, port: int) -> str:
    """The URL by which the container reaches its database; the password is percent-encoded.

    >>> database_url(ClientNames("acme"), "p@/:", "db", 5432)
    'postgresql://zero_client_acme:p%40%2F%3A@db:5432/zero_client_acme'
    """
    host = f"[{host}]" if ":" in host else host
    return f"postgresql://{names.role}:{quote(password, safe='')}@{host}:{port}/{names.database}"


def choose_google(own: Secrets, fleet: GoogleClient | None, block: str, names: ClientNames) -> GoogleClient:
    """The client's own Google client when its block has one, else the fleet's.

    Raises:
        NotConfigured: neither is complete; without it every page of Zero answers 500.
    """
    if own.google_client_id and own.google_client_secret:
        where = fleet.token_uri if fleet else GOOGLE_TOKEN_URI
        return GoogleClient(own.google_client_id, own.google_client_secret, where)
    if own.google_client_id or own.google_client_secret:
        raise NotConfigured(
            f"the block {names.secrets_block} has only one of Google client ID and secret", "fill both, or neither"
        )
    if fleet is None:
        raise NotConfigured(
            f"the block {block} does not exist, and Zero logs nobody in without a Google client",
            "make it in the Prefect UI under Blocks (Zero Fleet Google OAuth Client), or fill GOOGLE_CLIENT_ID and "
            "GOOGLE_CLIENT_SECRET in .env and run `make up`",
        )
    if not (fleet.client_id and fleet.client_secret):
        raise NotConfigured(f"the block {block} lacks the client ID or the secret", "fill both")
    return fleet


def build(
    spec: ZeroSpec,
    names: ClientNames,
    host_port: int,
    own: Secrets,
    google: GoogleClient,
    twilio: TwilioAccount | None,
    db_host: str,
    db_port: int,
    drop_agent_tables: bool = False,
) -> dict[str, str]:
    """Every variable of the container.

    Args:
        drop_agent_tables: for the one start of a clean restart.

    Raises:
        InvalidInput: extra_env or secret_env clash with what is set here.
    """
    refuse_clashes(spec.extra_env, "extra_env")
    refuse_clashes(own.secret_env, f"secret_env of the block {names.secrets_block}")
    for name, value in own.secret_env.items():
        refuse_nul(f"secret_env of the block {names.secrets_block}", name, value)
    url = spec.public_url(host_port)
    local = f"http://localhost:{host_port}"
    environment = {
        **spec.extra_env,
        **own.secret_env,
        "NODE_ENV": "production",
        "PORT": str(CONTAINER_PORT),
        "DATABASE_URL": database_url(names, own.database_password, db_host, db_port),
        "BETTER_AUTH_SECRET": own.better_auth_secret,
        "BETTER_AUTH_URL": url,
        "BETTER_AUTH_TRUSTED_ORIGINS": ",".join(dict.fromkeys((url, local))),
        "NEXT_PUBLIC_APP_URL": url,
        "NEXT_PUBLIC_BACKEND_URL": url,
        "GOOGLE_CLIENT_ID": google.client_id,
        "GOOGLE_CLIENT_SECRET": google.client_secret,
        "AUTUMN_SECRET_KEY": own.autumn_key,
        "ZERO_API_TOKEN": own.api_token,
        "THREAD_SYNC_MAX_COUNT": str(spec.thread_sync_max_count),
        "THREAD_SYNC_LOOP": "true" if spec.thread_sync_loop else "false",
    }
    if spec.redis_url:
        environment |= {"REDIS_URL": spec.redis_url, "REDIS_TOKEN": own.redis_token}
    if twilio is not None:
        environment |= {
            "TWILIO_ACCOUNT_SID": twilio.account_sid,
            "TWILIO_AUTH_TOKEN": twilio.auth_token,
            "TWILIO_PHONE_NUMBER": twilio.phone_number,
        }
    if drop_agent_tables:
        environment["DROP_AGENT_TABLES"] = "true"
    return environment


def proxy_labels(spec: ZeroSpec, router: str, network: str) -> dict[str, str]:
    """The container's labels for Traefik; none without a domain.

    Traefik reaches the container on the first of the spec's own ``networks``. Without those it is the fleet's, on which
    containers cannot talk to each other: there Traefik has to run on the host itself (or with the host's network).

    Args:
        router: what router and service are called.

    >>> proxy_labels(ZeroSpec(subdomain="mail", domain="acme.example"), "zero-acme", "net")["traefik.http.routers.zero-acme.rule"]
    'Host(`mail.acme.example`)'
    """
    if not spec.domain:
        return {}
    at = f"traefik.http.routers.{router}"
    return {
        "traefik.enable": "true",
        "traefik.docker.network": next(iter(spec.networks), network),
        f"{at}.rule": f"Host(`{spec.public_url(0).removeprefix('https://').lower()}`)",
        f"{at}.entrypoints": "websecure",
        f"{at}.tls": "true",
        f"{at}.service": router,
        f"traefik.http.services.{router}.loadbalancer.server.port": str(CONTAINER_PORT),
    }


_PUBLIC = frozenset(
    {"NODE_ENV", "PORT", "BETTER_AUTH_URL", "BETTER_AUTH_TRUSTED_ORIGINS", "NEXT_PUBLIC_APP_URL",
     "NEXT_PUBLIC_BACKEND_URL", "THREAD_SYNC_MAX_COUNT", "THREAD_SYNC_LOOP", "REDIS_URL"}
)  # fmt: skip


def container_hash(
    spec: ZeroSpec, environment: dict[str, str], host_port: int, network: str, key: str, layout: str
) -> str:
    """The hash of everything that the container is made from, except the image; another hash means: make it anew.

    Args:
        key: the client's Better Auth secret; values that may be secret enter as hashes keyed with it.
        layout: version of how we make containers.
    """
    public = {*_PUBLIC, *spec.extra_env}
    shown = {name: value if name in public else fingerprint(value, key) for name, value in environment.items()}
    made_from: dict[str, Any] = {
        "environment": shown,
        "port": [spec.host_ip, host_port],
        "networks": [network, *spec.networks],
        "limits": [spec.memory, spec.cpus, spec.pids],
        "restart": spec.restart,
        "layout": layout,
    }
    labels = proxy_labels(spec, "router", network)
    if labels:  # so that a client without a domain keeps the hash that it had before there were any
        made_from["labels"] = labels
    return spec_hash(made_from)
