"""The backups' trade's steps: what flows call; the only place here that knows Prefect and blocks."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from prefect import task
from prefect.artifacts import acreate_markdown_artifact, acreate_progress_artifact, aupdate_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from pydantic import SecretStr

from blocks.backups import BackupPolicy, PostgresDatabase, smtp_account
from blocks.clients import PostgresServer, ZeroSecrets
from blocks.documents import DoesNotFit, find, types_of
from blocks.installation import installation
from blocks.registry import open_registry
from tasks.backups import delivery, history, message, report
from tasks.backups.delivery import Delivered, Post
from tasks.backups.mail import Account, Step
from tasks.backups.manifest import Made
from tasks.backups.source import Database, Target, place, target
from tasks.clock import now
from tasks.errors import FleetError, NotConfigured, needed, of_another_type
from tasks.registry.models import Delivery
from tasks.registry.names import ClientNames
from tasks.registry.queries import find_instance, get_instance, unknown_client
from tasks.registry.revision import require_head

if TYPE_CHECKING:  # they bring psycopg, which a flow's cold start can do without
    from tasks.backups.dump import Job
    from tasks.backups.trade import Keeper

PROGRESS_SECONDS = 3.0
"""A dump that is shorter shows no progress; a longer one that often."""
SMTP = "smtp"
SERVER = "postgres-server"


@dataclass(frozen=True)
class Verdict:
    """What a trial restore of one target said."""

    target: Target
    good: bool
    sentence: str


@task(name="dump the database", cache_policy=NO_CACHE, persist_result=False)
async def dump_database(client: str | None, database: str | None) -> Made:
    """Make a proven backup of a client's database or of the one that a block names.

    Args:
        client: a client's slug.
        database: a PostgresDatabase block's name.

    Raises:
        FleetError: what is missing, refused or failed; the previous backup then stands.
    """
    from tasks.backups.dump import Job

    whose = target(client, database)
    keeper = await _keeper()
    source, restorer = await _database(keeper, whose)
    policy = await _policy()
    mailed = bool(message.require_recipients(policy.mail_enabled, policy.recipients))
    settings = installation()
    directory = Path(policy.directory) if policy.directory else settings.backups
    job = Job(
        whose,
        source,
        place(whose, directory, policy.filename),
        keeper.run_id,
        policy.timeout_seconds,
        policy.stall_seconds,
        settings.pg_bin,
        restorer,
    )
    return await _shown(keeper, job, mailed)


async def _shown(keeper: "Keeper", job: "Job", mailed: bool) -> Made:
    """Dump in a thread beside a progress artifact; a cancelled run ends its dump as well."""
    from tasks.backups import trade

    whose, progress = job.target, job.progress
    work = asyncio.create_task(asyncio.to_thread(trade.back_up, keeper, job, mailed))
    shown = None
    try:
        while not (await asyncio.wait({work}, timeout=PROGRESS_SECONDS))[0]:
            shown = await _show(shown, progress.percent, whose)
        if shown is not None and work.exception() is None:
            await _show(shown, 100.0, whose)
    finally:
        job.cancelled.set()
    return await work


async def _show(shown: UUID | None, percent: float, whose: Target) -> UUID | None:
    """Make or move the progress artifact; a Prefect server that does not answer now must not end a dump."""
    try:
        if shown is not None:
            await aupdate_progress_artifact(shown, percent)
            return shown
        words = f"dumping {whose.spoken}, against the database's size"
        return await acreate_progress_artifact(percent, key=f"{whose.artifact}-progress", description=words)
    except Exception as error:
        get_run_logger().warning("the progress could not be shown: %s", type(error).__name__)
        return shown


@task(name="mail the backup", cache_policy=NO_CACHE, persist_result=False)
async def deliver_backup(made: Made) -> Delivered | None:
    """Mail a backup as the policy says; None when mailing is off. A delivery that fails leaves the backup valid."""
    from tasks.backups import trade

    policy = await _policy()
    keeper = await _keeper()
    try:
        recipients = message.require_recipients(policy.mail_enabled, policy.recipients)
        if not recipients:
            return None
        account = await _account()
        sender = message.sender_of(policy.sender, account.username)
        identity = message.message_id(f"backup.{made.row_id}.{made.manifest.sha256[:16]}", sender.domain)
        post = Post(sender, recipients, policy.subject_prefix, keeper.time_zone, identity, made.role)
        return await asyncio.to_thread(trade.deliver, keeper, made, account, post, _teller())
    except FleetError as error:
        failed = delivery.Delivered(Delivery.FAILED, [], f"it was not delivered: {error}", error)
        await asyncio.to_thread(history.delivered, keeper.engine, made.row_id, failed.state, [], None, str(error))
        return failed


@task(name="write the backup's page", cache_policy=NO_CACHE, persist_result=False)
async def publish_backup(made: Made, delivered: Delivered | None) -> None:
    """Show the backup's facts as a page among the artifacts."""
    page = report.page(made, delivered, installation().time_zone)
    await acreate_markdown_artifact(
        page, key=made.target.artifact, description=f"Latest backup of {made.target.spoken}"
    )


@task(name="choose the backups", cache_policy=NO_CACHE, persist_result=False)
async def targets_to_verify(client: str | None, database: str | None) -> list[Target]:
    """The target named, or all that have a good backup.

    Raises:
        InvalidInput: both are given, or one is malformed.
        NotFound: no such client, or nothing was ever backed up.
    """
    keeper = await _keeper()
    if client is None and database is None:
        return await asyncio.to_thread(history.targets, keeper.engine)
    whose = target(client, database)
    if whose.client and not await asyncio.to_thread(_known, keeper, whose):
        raise await asyncio.to_thread(unknown_client, keeper.engine, whose.client)
    return [whose]


def _known(keeper: "Keeper", whose: Target) -> bool:
    """Whether a client is there, or is gone and left a backup."""
    return bool(find_instance(keeper.engine, whose.client or "") or history.latest_good(keeper.engine, whose))


@task(name="restore into a scratch database", cache_policy=NO_CACHE, persist_result=False)
async def verify_targets(targets: list[Target]) -> list[Verdict]:
    """Restore each target's latest backup into a scratch database, one after the other, and compare.

    Raises:
        NotConfigured: there is no server for scratch databases.
    """
    from tasks.backups import trade
    from tasks.backups.restore import Trial

    keeper = await _keeper()
    policy, settings = await _policy(), installation()
    server = needed(await find(PostgresServer, SERVER), SERVER)
    trial = Trial(
        Database(
            server.host,
            server.port,
            server.maintenance_database,
            server.username,
            server.password.get_secret_value(),
            server.sslmode,
            SERVER,
        ),
        settings.fleet,
        policy.restore_seconds,
        settings.pg_bin,
    )
    verdicts = []
    try:
        for whose in targets:
            try:
                found = await asyncio.to_thread(trade.verify, keeper, whose, trial)
                verdicts.append(Verdict(whose, True, found.sentence))
                get_run_logger().info("%s: %s", whose.spoken, found.room)
            except FleetError as error:
                verdicts.append(Verdict(whose, False, str(error)))
            get_run_logger().info("%s: %s", whose.spoken, verdicts[-1].sentence)
    finally:
        trial.cancelled.set()
    return verdicts


@task(name="send the test mail", cache_policy=NO_CACHE, persist_result=False)
async def try_mail(recipient: str) -> str:
    """Talk to the mail server of the block `smtp` step by step and send a mail; what it said at the end.

    Raises:
        FleetError: names the step that failed.
    """
    policy = await _policy()
    account = await _account()
    sender = message.sender_of(policy.sender, account.username)
    moment, settings = now(), installation()
    identity = message.message_id(f"test.{str(flow_run.id or 'none')[:8]}.{int(moment.timestamp())}", sender.domain)
    reply = await asyncio.to_thread(
        delivery.check, account, sender, recipient, identity, moment, settings.time_zone, _teller()
    )
    how = {"SSL": "SSL", "STARTTLS": "STARTTLS", "PLAIN": "no TLS, everything in the clear"}[account.security]
    return f"{account.where.server} took the test mail to {recipient} from {sender.addr_spec} ({how}): {reply}."


async def _keeper() -> "Keeper":
    from tasks.backups.trade import Keeper

    settings, engine = installation(), await open_registry()
    await asyncio.to_thread(require_head, engine)
    return Keeper(engine, settings.locks, str(flow_run.id or "none"), settings.time_zone)


async def _policy() -> BackupPolicy:
    return await find(BackupPolicy, "backup-policy") or BackupPolicy()


async def _database(keeper: "Keeper", whose: Target) -> tuple[Database, str]:
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


def _as_database(
    where: PostgresServer | PostgresDatabase, block: str, name: str, user: str, password: SecretStr
) -> Database:
    return Database(where.host, where.port, name, user, password.get_secret_value(), where.sslmode, block)


async def _account() -> Account:
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


def _teller() -> Callable[[Step], None]:
    logger = get_run_logger()
    return lambda step: logger.info("mail: %s: %s", step.name, step.seen)
