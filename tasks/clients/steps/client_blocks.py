"""The blocks that an operation on a client needs, read in one call, and the client's own, saved before its secrets are used."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prefect.blocks.core import Block
from prefect.blocks.fields import SecretDict
from prefect.blocks.system import Secret
from prefect.client.schemas.objects import BlockDocument
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging import get_run_logger
from pydantic import SecretStr

from blocks.clients import PostgresServer, TwilioCredentials, ZeroSecrets
from blocks.docker import BLOCK, TYPE, docker_host
from blocks.documents import DoesNotFit, Registered, as_block, read_documents, registered, save, types_of
from blocks.gmail import GoogleOAuthClient
from blocks.installation import installation
from tasks.clients import postgres, provisioning
from tasks.clients.environment import GoogleClient, TwilioAccount
from tasks.clients.images import Login
from tasks.clients.secrets import Secrets, fill
from tasks.clients.work import Work
from tasks.errors import NotConfigured, Refused, needed, of_another_type
from tasks.registry.names import ClientNames
from tasks.registry.spec import ZeroSpec

AUTUMN = "autumn-key"
"""Prefect Secret block: the Autumn key that clients share."""
SERVER = "postgres-server"
CREDENTIALS = "registry credentials"
"""What the registry's login that a spec names is kept as among the documents; no block can be called so."""
CREDENTIALS_TYPE = "docker-registry-credentials"
_MAKE_IT = "make it in the Prefect UI under Blocks (its type is {}), or correct the spec"
_early: dict[str, dict[str, BlockDocument]] = {}
"""Documents read to open the registry, kept only if nobody worked on the client since."""
_secrets_type: dict[str, Registered | None] = {}
"""What Prefect calls the type of the client's block, asked for while Docker and PostgreSQL are looked at."""


def keep(client: str, early: dict[str, BlockDocument]) -> None:
    """Let ``read`` take the documents that were read ``early``."""
    _early[client] = early


def forget(client: str) -> None:
    """Drop what is kept for the operation on ``client``: it ends."""
    _early.pop(client, None)
    _secrets_type.pop(client, None)


async def documents(client: str, spec: ZeroSpec, others: Mapping[str, str] | None = None) -> dict[str, BlockDocument]:
    """The documents of every block that the client with this ``spec`` needs, and of ``others``, in one call."""
    kinds: dict[str, type[Block]] = {
        SERVER: PostgresServer,
        ClientNames(client).secrets_block: ZeroSecrets,
        spec.google_client: GoogleOAuthClient,
        AUTUMN: Secret,
    }
    if spec.twilio:
        kinds[spec.twilio] = TwilioCredentials
    own = {name: kind.get_block_type_slug() for name, kind in kinds.items()}
    found = await read_documents({**own, BLOCK: TYPE, **(others or {})})
    # By themselves, since blocks of two types may bear one name.
    if spec.docker_host:
        there = await read_documents({spec.docker_host: TYPE})
        found[BLOCK] = needed(there.get(spec.docker_host), spec.docker_host, _MAKE_IT.format("Docker Host"))
    if spec.registry_credentials:
        there = await read_documents({spec.registry_credentials: CREDENTIALS_TYPE})
        if there:
            found[CREDENTIALS] = there[spec.registry_credentials]
    return found


async def read(work: Work) -> Any | None:
    """Every block of the client, at once; the Docker host's is handed back, since opening it is Docker's time."""
    spec = work.spec
    found = _early.pop(work.client, None)
    more = spec.twilio or spec.docker_host or spec.registry_credentials
    if found is None or more or spec.google_client != ZeroSpec().google_client:
        found = await documents(work.client, spec)
    await _refuse_other_types(found, spec)
    engine = take_engine(found)
    take_secrets(work, found)
    take_server(work, found)
    take_google(work, found)
    take_twilio(work, found)
    take_registry_login(work, found)
    settings, say = installation(), get_run_logger().info
    work.locks, work.builds = settings.locks, settings.builds
    work.tell = lambda line: say("%s: %s", work.client, line)
    return engine


async def _refuse_other_types(found: Mapping[str, BlockDocument], spec: ZeroSpec) -> None:
    """Say so where a name in the ``spec`` is that of a block of another type: it exists, and is not what is needed."""
    for name, kind in ((spec.google_client, GoogleOAuthClient), (spec.twilio, TwilioCredentials)):
        others = await types_of(name) if name and name not in found else []
        if others:
            cure = "name a block of that type in the spec, or make one"
            raise of_another_type(kind.get_block_type_name(), name, others, cure)


def take_engine(found: Mapping[str, BlockDocument]) -> Any | None:
    """The Docker host's block among the documents ``found``; None: the environment's engine.

    Raises:
        NotConfigured: it does not fit this version. As for all of these.
    """
    with _fitting():
        return docker_host(found.get(BLOCK))


def take_secrets(work: Work, found: Mapping[str, BlockDocument]) -> None:
    """Take the client's own secrets, as they are saved and with what is empty filled."""
    with _fitting():
        own = as_block(ZeroSecrets, found.get(work.names.secrets_block))
        autumn = as_block(Secret, found.get(AUTUMN))
    work.given = _plain(own)
    work.fleet_autumn = _text(autumn) if autumn else ""
    work.secrets = fill(work.given, work.fleet_autumn)


def take_server(work: Work, found: Mapping[str, BlockDocument]) -> None:
    """Take the PostgreSQL server, and where the container finds it.

    Raises:
        NotConfigured: there is no such block.
    """
    with _fitting():
        server = needed(as_block(PostgresServer, found.get(SERVER)), SERVER)
    work.server = postgres.Server(
        server.host,
        server.port,
        server.username,
        server.password.get_secret_value(),
        server.maintenance_database,
        server.sslmode,
        server.harden,
    )
    work.db_address = (
        work.spec.db_host or server.container_host,
        work.spec.db_port or server.container_port or server.port,
    )


def take_google(work: Work, found: Mapping[str, BlockDocument]) -> None:
    """Take the client's Google client, its own or the fleet's; its secrets were taken before.

    Raises:
        NotConfigured: there is none.
    """
    provisioning.settle_google(work, fleet_google(found, work.spec.google_client))


def fleet_google(found: Mapping[str, BlockDocument], name: str = ZeroSpec().google_client) -> GoogleClient | None:
    """The Google client of the block ``name`` among the documents ``found``."""
    with _fitting():
        fleet = as_block(GoogleOAuthClient, found.get(name))
    return GoogleClient(fleet.client_id, fleet.client_secret.get_secret_value(), fleet.token_uri) if fleet else None


def take_twilio(work: Work, found: Mapping[str, BlockDocument]) -> None:
    """Take the Twilio account where the spec names one.

    Raises:
        NotConfigured: there is no such block.
    """
    if not work.spec.twilio:
        return
    with _fitting():
        account = needed(as_block(TwilioCredentials, found.get(work.spec.twilio)), work.spec.twilio)
    token = account.auth_token.get_secret_value()
    work.twilio = TwilioAccount(account.account_sid, token, account.phone_number)


def take_registry_login(work: Work, found: Mapping[str, BlockDocument]) -> None:
    """Take the login at the image's registry where the spec names one.

    Raises:
        NotConfigured: there is no such block.
    """
    name = work.spec.registry_credentials
    if not name:
        return
    from prefect_docker import DockerRegistryCredentials

    with _fitting():
        block = as_block(DockerRegistryCredentials, found.get(CREDENTIALS))
    block = needed(block, name, _MAKE_IT.format("Docker Registry Credentials"))
    work.registry_login = Login(name, block.registry_url, block.username, block.password.get_secret_value())


@contextmanager
def _fitting() -> Iterator[None]:
    try:
        yield
    except DoesNotFit as error:
        raise NotConfigured(error.what, error.cure) from None


def _plain(block: ZeroSecrets | None) -> Secrets:
    if block is None:
        return Secrets()
    return Secrets(
        database_password=block.database_password.get_secret_value(),
        better_auth_secret=block.better_auth_secret.get_secret_value(),
        autumn_key=block.autumn_key.get_secret_value(),
        api_token=block.api_token.get_secret_value(),
        google_client_id=block.google_client_id,
        google_client_secret=block.google_client_secret.get_secret_value(),
        redis_token=block.redis_token.get_secret_value(),
        secret_env={name: str(value) for name, value in block.secret_env.get_secret_value().items()},
        pending={name: str(value) for name, value in block.pending.get_secret_value().items()},
    )


def _text(block: Secret[Any]) -> str:
    """The secret as it was typed: ``get()`` reads it as JSON, so that digits become a number and 1e5 100000.0."""
    value = block.value
    return str(value.get_secret_value())


async def learn_type(work: Work) -> None:
    """Ask what Prefect calls the type of the client's block, where it will be saved."""
    if work.given != work.secrets:
        _secrets_type[work.client] = await registered(ZeroSecrets)


async def replace_secrets(work: Work, own: Secrets) -> None:
    """Save ``own`` as the client's secrets from now on.

    Raises:
        Refused: Prefect's server did not take it.
    """
    work.secrets = own
    await save_secrets(work)


async def save_secrets(work: Work) -> None:
    """Save what was generated, before anything uses it.

    Raises:
        Refused: Prefect's server did not take it.
    """
    if work.given == work.secrets:
        return
    own = work.secrets
    block = ZeroSecrets(
        database_password=SecretStr(own.database_password),
        better_auth_secret=SecretStr(own.better_auth_secret),
        autumn_key=SecretStr(own.autumn_key),
        api_token=SecretStr(own.api_token),
        google_client_id=own.google_client_id,
        google_client_secret=SecretStr(own.google_client_secret),
        redis_token=SecretStr(own.redis_token),
        secret_env=SecretDict(own.secret_env),
        pending=SecretDict(own.pending),
    )
    try:
        await save(block, work.names.secrets_block, _secrets_type.get(work.client))
    except PrefectHTTPStatusError as error:  # its text may hold the whole request
        raise Refused(
            f"Prefect's server did not save the block {work.names.secrets_block} (HTTP {error.response.status_code})",
            "look at the server's log and run again",
        ) from None
    work.given = own
