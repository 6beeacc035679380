"""The clients' steps: blocks become plain values here, and the plain functions run in threads, journaled.

What steps of one operation share (secrets among it) is a ``Work`` that ``operation`` keeps for them; a step's arguments and
results hold no secret.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from prefect import task
from prefect.artifacts import acreate_markdown_artifact
from prefect.blocks.core import Block
from prefect.blocks.fields import SecretDict
from prefect.blocks.system import Secret
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import BlockDocument
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from pydantic import SecretStr, ValidationError

from blocks.clients import PostgresServer, TwilioCredentials, ZeroSecrets
from blocks.docker import BLOCK, TYPE, connect, docker_host, engine_name
from blocks.documents import Registered, as_block, read_documents, registered, save
from blocks.gmail import GoogleOAuthClient
from blocks.installation import installation
from blocks.registry import kinds as registry_kinds
from blocks.registry import registry_in
from tasks.clients import containers, page, postgres, provisioning, readiness
from tasks.clients.engine import answers
from tasks.clients.environment import GoogleClient, TwilioAccount
from tasks.clients.ports import parse_range
from tasks.clients.secrets import Secrets, fill
from tasks.clients.work import House, Work
from tasks.clock import now
from tasks.errors import FleetError, NotConfigured, Refused, needed
from tasks.registry import journal
from tasks.registry.lock import hold
from tasks.registry.names import ClientNames
from tasks.registry.revision import require_head
from tasks.registry.spec import SpecChanges, ZeroSpec

AUTUMN = "autumn-key"
"""Prefect Secret block: the Autumn key that clients share."""
SERVER = "postgres-server"
_open: dict[str, Work] = {}
_early: dict[str, dict[str, BlockDocument]] = {}
"""Documents read to open the registry, kept only if nobody worked on the client since."""
_secrets_type: dict[str, Registered | None] = {}
"""What Prefect calls the type of the client's block, asked for while Docker and PostgreSQL are looked at."""


@dataclass(frozen=True)
class Outlook:
    """What a look found: the steps that are needed (none: ``sentence`` says so) and the differences of the spec."""

    steps: list[str]
    differences: list[str] = field(default_factory=list)
    sentence: str = ""


@asynccontextmanager
async def operation(client: str, name: str) -> AsyncIterator[None]:
    """Hold ``client`` alone for an operation called ``name``; its error is noted as the client's last one.

    Raises:
        Conflict: another run holds the client for 30 s.
        NotConfigured: the registry is of another revision.
    """
    settings = installation()
    asked = now()
    early = await _documents(client, ZeroSpec(), registry_kinds())
    registry = registry_in(early)
    await asyncio.to_thread(require_head, registry)
    run = str(flow_run.id or "none")
    house = House(settings.fleet, settings.network, parse_range(settings.ports), settings.time_zone)
    with ExitStack() as stack:
        holder = hold(
            registry, client, f"run {run[:8]} ({name} {client})", settings.locks, time_zone=settings.time_zone
        )
        await asyncio.to_thread(stack.enter_context, holder)
        work = _open[client] = Work(client, run, name, house, registry)
        if await asyncio.to_thread(_idle_since, work, asked):
            _early[client] = early
        try:
            yield
        except FleetError as error:
            await asyncio.to_thread(provisioning.failed, work, str(error))
            raise
        except Exception as error:
            await asyncio.to_thread(
                provisioning.failed, work, f"unexpected: {type(error).__name__}; see the run's log."
            )
            raise
        finally:
            del _open[client]
            _early.pop(client, None)
            _secrets_type.pop(client, None)
            if work.docker is not None:
                await asyncio.to_thread(work.docker.close)
            await asyncio.to_thread(stack.close)


@asynccontextmanager
async def _journaled(work: Work, step: str) -> AsyncIterator[journal.Entry]:
    """Journal a step; the registry is written in a thread, since it may be busy."""
    context = journal.step(work.registry, work.client, work.run_id, work.operation, step)
    entry = await asyncio.to_thread(context.__enter__)
    try:
        yield entry
    except BaseException as error:
        with suppress(type(error)):
            await asyncio.to_thread(context.__exit__, type(error), error, error.__traceback__)
        raise
    await asyncio.to_thread(context.__exit__, None, None, None)


async def _outside(entry: journal.Entry, act: Callable[..., Any], *arguments: Any) -> None:
    """Run what waits for Docker or PostgreSQL in a thread, and count its time as theirs."""
    with entry.outside():
        await asyncio.to_thread(act, *arguments)


async def _together(*acts: Awaitable[Any]) -> None:
    """Await all of ``acts`` to their end, so that none outlives its step, then raise the first error."""
    for outcome in await asyncio.gather(*acts, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


@task(name="look at what there is", cache_policy=NO_CACHE, persist_result=False)
async def look(client: str, changes: SpecChanges) -> Outlook:
    """See spec, blocks, Docker and PostgreSQL, refuse what cannot be, and say which steps are needed. Changes nothing,
    except that an image may be pulled.
    """
    work = _open[client]
    async with _journaled(work, "look") as entry:
        await asyncio.to_thread(provisioning.settle_spec, work, changes)
        engine = await _read_blocks(work)
        for line in work.differences:
            get_run_logger().info("spec of %s: %s", client, line)
        with entry.outside():
            await _together(
                asyncio.to_thread(_look_at_docker, work, engine),
                asyncio.to_thread(provisioning.look_at_database, work),
                _learn_type(work),
            )
            serving = (
                work.container is not None
                and work.container.running
                and work.port is not None
                and await readiness.serves(work.base, work.spec.probe)
            )
        provisioning.decide(work, serving)
        if not work.steps and work.given == work.secrets:
            return Outlook([], work.differences, await asyncio.to_thread(provisioning.nothing_to_do, work))
        for step in work.steps:
            get_run_logger().info("%s: %s", client, step)
    return Outlook([str(step) for step in work.steps], work.differences)


def _text(block: Secret[Any]) -> str:
    """The secret as it was typed: ``get()`` reads it as JSON, so that digits become a number and 1e5 100000.0."""
    value = block.value
    return str(value.get_secret_value())


def _look_at_docker(work: Work, block: Any | None) -> None:
    # Importing the SDK (0.1 s) happens in here, beside the look at PostgreSQL, and counts as Docker's time.
    with answers("answer"):
        work.docker = connect(block)
    work.engine = engine_name(work.docker)
    provisioning.look_at_docker(work)


async def _learn_type(work: Work) -> None:
    if work.given != work.secrets:
        _secrets_type[work.client] = await registered(ZeroSecrets)


async def _documents(client: str, spec: ZeroSpec, others: Mapping[str, str] | None = None) -> dict[str, BlockDocument]:
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
    return await read_documents({**own, BLOCK: TYPE, **(others or {})})


def _idle_since(work: Work, asked: datetime) -> bool:
    """Whether no operation touched the client since ``asked``, so that its secrets read then are those of now.

    Every operation journals under the client's lock; a minute is allowed for clocks of other hosts.
    """
    last = journal.latest(work.registry, work.client, 1)
    return not last or (last[0].ended_at or last[0].started_at) < asked - timedelta(minutes=1)


async def _read_blocks(work: Work) -> Any | None:
    """Every block of the client, at once; the Docker host's is handed back, since opening it is Docker's time."""
    own_name, spec = work.names.secrets_block, work.spec
    found = _early.pop(work.client, None)
    if found is None or spec.twilio or spec.google_client != ZeroSpec().google_client:
        found = await _documents(work.client, spec)
    try:
        server = as_block(PostgresServer, found.get(SERVER))
        own = as_block(ZeroSecrets, found.get(own_name))
        google = as_block(GoogleOAuthClient, found.get(spec.google_client))
        twilio = as_block(TwilioCredentials, found.get(spec.twilio))
        autumn = as_block(Secret, found.get(AUTUMN))
        engine = docker_host(found.get(BLOCK))
    except ValidationError as error:
        raise NotConfigured(
            f"a block of type {error.title} does not fit this version", "open it in the Prefect UI, fill it and save it"
        ) from None
    server = needed(server, SERVER)
    work.given = _plain(own)
    work.secrets = fill(work.given, _text(autumn) if autumn else "")
    provisioning.settle_google(
        work, GoogleClient(google.client_id, google.client_secret.get_secret_value()) if google else None
    )
    if spec.twilio:
        account = needed(twilio, spec.twilio)
        token = account.auth_token.get_secret_value()
        work.twilio = TwilioAccount(account.account_sid, token, account.phone_number)
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
        spec.db_host or server.container_host,
        spec.db_port or server.container_port or server.port,
    )
    return engine


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
    )


async def _claim(work: Work) -> None:
    """Reserve the port, save new secrets before anything uses them, and give out the redirect URI."""
    async with _journaled(work, "claim"):
        await _together(asyncio.to_thread(provisioning.claim, work), _save_secrets(work))
        await _announce(work)


async def _save_secrets(work: Work) -> None:
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
    )
    try:
        await save(block, work.names.secrets_block, _secrets_type.get(work.client))
    except PrefectHTTPStatusError as error:  # its text may hold the whole request
        raise Refused(
            f"Prefect's server did not save the block {work.names.secrets_block} (HTTP {error.response.status_code})",
            "look at the server's log and run again",
        ) from None
    work.given = own


async def _announce(work: Work) -> None:
    before = work.stored.redirect_uri if work.stored else None
    uri = await asyncio.to_thread(provisioning.announce, work)
    if before != uri:
        get_run_logger().info("%s: register this redirect URI with Google: %s", work.client, uri)


@task(name="claim port and secrets, make the database", cache_policy=NO_CACHE, persist_result=False)
async def claim_and_make_database(client: str) -> None:
    """Reserve the port and save new secrets, then make or mend the client's role and database, and see that nobody else gets in.
    Meanwhile the client's page is written, so that the redirect URI can be read there before the container starts.
    """
    work = _open[client]
    await _claim(work)
    async with _journaled(work, "database") as entry:
        await _together(_outside(entry, provisioning.make_database, work), _write_page(work))


@task(name="run the container", cache_policy=NO_CACHE, persist_result=False)
async def run_container(client: str) -> None:
    """Make the container anew where it is not as wanted, and start it (or stop it, when the client is not enabled)."""
    work = _open[client]
    async with _journaled(work, "container") as entry:
        if not work.spec.enabled:
            await _outside(entry, provisioning.stop, work)
        for _ in range(provisioning.PORT_ATTEMPTS):
            await _outside(entry, provisioning.make_container, work)
            if not work.spec.enabled:
                return
            with entry.outside():
                started = await asyncio.to_thread(provisioning.start, work)
            if started:
                return
            get_run_logger().warning("%s: its port was taken meanwhile; it has %s now", client, work.port)
            await _announce(work)
            await _write_page(work)
        raise provisioning.no_port(work)


@task(name="wait until Zero serves", cache_policy=NO_CACHE, persist_result=False)
async def await_ready(client: str) -> str:
    """Wait until the service answers and its database lets it in, at most ``ready_within`` seconds, and say it in a sentence. Its
    page is written meanwhile: it says what there is, not how it fares.
    """
    work = _open[client]
    async with _journaled(work, "ready") as entry:
        await _together(_until_ready(work, entry), _write_page(work))
    return await asyncio.to_thread(provisioning.finish, work)


async def _until_ready(work: Work, entry: journal.Entry) -> None:
    if not work.spec.enabled:
        return
    with entry.outside():
        await readiness.until_ready(
            lambda: containers.inspect(work.engine_client(), work.names.container),
            work.base,
            work.spec.probe,
            work.spec.ready_within,
            lambda: provisioning.log_lines(work),
            work.names.container,
            work.spec.memory,
            lambda: postgres.check_client(work.postgres_server(), work.names.database, work.secrets.database_password),
        )


async def _write_page(work: Work) -> None:
    steps = await asyncio.to_thread(journal.latest, work.registry, work.client, 10)
    await acreate_markdown_artifact(
        page.markdown(provisioning.facts(work), steps[::-1], now(), work.house.time_zone),
        key=f"client-{work.client}",
        description=f"Zero of {work.client}: {work.url}",
    )
