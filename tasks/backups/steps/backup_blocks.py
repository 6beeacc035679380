"""What the blocks say of backups, in plain values: the registry, the policy, databases and the mail account."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from pydantic import SecretStr

from blocks.backups import BackupPolicy, PostgresDatabase, smtp_account
from blocks.clients import PostgresServer, ZeroSecrets
from blocks.documents import DoesNotFit, find, types_of
from blocks.installation import installation
from blocks.registry import open_registry
from tasks.backups.mail import Account, Step
from tasks.backups.source import Database, Target, place
from tasks.errors import NotConfigured, needed, of_another_type
from tasks.registry.names import ClientNames
from tasks.registry.queries import get_instance
from tasks.registry.revision import require_head

if TYPE_CHECKING:  # brings psycopg, which a flow's cold start can do without
    from tasks.backups.keeper import Keeper

SMTP = "smtp"
SERVER = "postgres-server"


async def keeper_of_run() -> "Keeper":
    """The registry, the locks and the run that asks.

    Raises:
        NotConfigured: the registry is of another revision.
    """
    from tasks.backups.keeper import Keeper

    settings, engine = installation(), await open_registry()
    await asyncio.to_thread(require_head, engine)
    return Keeper(engine, settings.locks, str(flow_run.id or "none"), settings.time_zone)


async def policy() -> BackupPolicy:
    """The block `backup-policy`, or what it says when nobody made it."""
    return await find(BackupPolicy, "backup-policy") or BackupPolicy()


def folder_of(given: BackupPolicy) -> Path:
    """The folder of all backups."""
    return Path(given.directory) if given.directory else installation().backups


def latest_of(whose: Target, given: BackupPolicy) -> Path:
    """Where the latest backup of ``whose`` lies, or will lie.

    Raises:
        InvalidInput: the policy's folder or file name is none.
    """
    return place(whose, folder_of(given), given.filename)


async def database_of(keeper: "Keeper", whose: Target) -> tuple[Database, str]:
    """The target's database as the role that dumps it, and the role that may make databases beside it."""
    if whose.database:
        block = await find(PostgresDatabase, whose.database)
        others = [] if block else await types_of(whose.database)
        if others:
            cure = "give the name of a Zero Fleet PostgreSQL Database block, like app-database"
            raise of_another_type("PostgreSQL Database", whose.database, others, cure)
        block = needed(block, whose.database)
        return _as_database(block, whose.database, block.database, block.username, block.password), block.username
    names = ClientNames(whose.client or "")
    await asyncio.to_thread(get_instance, keeper.engine, names.slug)
    server = needed(await find(PostgresServer, SERVER), SERVER)
    cure = f"run provision-client for {names.slug}, which makes it"
    secrets = needed(await find(ZeroSecrets, names.secrets_block), names.secrets_block, cure)
    if not secrets.database_password.get_secret_value():
        raise NotConfigured(f"the block {names.secrets_block} has no database password yet", cure)
    return _as_database(server, SERVER, names.database, names.role, secrets.database_password), server.username


async def require_known(keeper: "Keeper", whose: Target) -> None:
    """See that ``whose`` is there, or is gone and left a backup.

    Raises:
        NotFound: no such client, and no backup of one.
        NotConfigured: no such block, and no backup of its database.
    """
    from tasks.backups import history

    if await asyncio.to_thread(history.latest_good, keeper.engine, whose):
        return
    if whose.client:
        await asyncio.to_thread(get_instance, keeper.engine, whose.client)
    else:
        await database_of(keeper, whose)


async def server() -> Database:
    """The clients' server as the provisioner: where scratch databases are made.

    Raises:
        NotConfigured: there is no block `postgres-server`.
    """
    block = needed(await find(PostgresServer, SERVER), SERVER)
    return _as_database(block, SERVER, block.maintenance_database, block.username, block.password)


def _as_database(
    where: PostgresServer | PostgresDatabase, block: str, name: str, user: str, password: SecretStr
) -> Database:
    return Database(where.host, where.port, name, user, password.get_secret_value(), where.sslmode, block)


async def account() -> Account:
    """The mail account of the block `smtp`.

    Raises:
        NotConfigured: there is none, or it does not check certificates.
    """
    try:
        block = needed(await smtp_account(SMTP), SMTP)
    except DoesNotFit as error:
        raise NotConfigured(error.what, error.cure) from None
    if not block.verify:
        raise NotConfigured(
            "the block smtp has verify off, and certificates are always verified here",
            "switch it on; a CA of your own is trusted through SSL_CERT_FILE",
        )
    if block.security == "PLAIN":
        get_run_logger().warning("the block smtp says INSECURE: password and mail go to %s in the clear", block.host)
    return Account(block.host, block.port, block.security, block.username, block.password.get_secret_value())


def teller() -> Callable[[Step], None]:
    """What writes each step of talking to a mail server into the run's log."""
    logger = get_run_logger()
    return lambda step: logger.info("mail: %s: %s", step.name, step.seen)
