"""The steps of backup-fleet: what a night has to do, doing it with a few databases at once, and telling how it went."""

import asyncio
import os
import shutil
import time
from collections.abc import Awaitable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from prefect import task
from prefect.artifacts import acreate_progress_artifact, acreate_table_artifact, aupdate_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from blocks.backups import BackupPolicy, PostgresDatabase
from blocks.documents import DoesNotFit, of_type
from tasks.backups import alerts, disk_outlook, fleet, message, records, summary
from tasks.backups.archive import existing
from tasks.backups.delivery import Delivered
from tasks.backups.disk_outlook import Disk
from tasks.backups.fleet import Client, Night, Plan, Room
from tasks.backups.manifest import Made
from tasks.backups.source import Target, many
from tasks.backups.steps.announce import tell_alert, tell_webhook
from tasks.backups.steps.backup_blocks import account, database_of, folder_of, keeper_of_run, policy, server, teller
from tasks.backups.steps.deliver import mail_backup, not_mailed
from tasks.backups.steps.dump import back_up, show_page
from tasks.backups.summary import Summary
from tasks.clock import now
from tasks.errors import Conflict, FleetError, Refused, Unreachable
from tasks.registry.models import Delivery
from tasks.registry.names import ClientNames

if TYPE_CHECKING:  # they bring psycopg, which a flow's cold start can do without
    from tasks.backups.keeper import Keeper
    from tasks.backups.source import Database

T = TypeVar("T")
CLIENTS = "the clients' server"
"""What the plan calls it; another server is ``host:port``."""
ASK_SECONDS = 10.0
"""For what a server says of its room."""
PROGRESS_SECONDS = 3.0
"""Between two moves of the night's progress artifact."""
TELLING = 4
"""Webhook calls at once."""
EVENT = "zero-fleet.backup.alert"
MOST_EVENTS = 50
"""Events of a run; the last one says how many alerts have none."""


@dataclass
class Apart:
    """What follows the dumps, one thing not hindering the next: what each came to, in sentences."""

    notes: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    @contextmanager
    def so(self, what: str) -> Iterator[None]:
        """Do what stands inside; an error is noted with ``what`` before it, and ends nothing else."""
        try:
            yield
        except Exception as failed:
            self.troubles.append(f"{what}: {_said(failed)}")


@task(name="plan the night", cache_policy=NO_CACHE, persist_result=False)
async def plan_night() -> Plan:
    """Whose databases are to be backed up, in which order, and how many at once.

    Raises:
        NotConfigured: the registry is of another revision.
    """
    keeper, given = await keeper_of_run(), await policy()
    known = await asyncio.to_thread(records.provisioned, keeper.engine)
    clients = [Client(slug, ClientNames(slug).database, made) for slug, made in known]
    blocks = {
        one.name: f"{one.data.get('host')}:{one.data.get('port', 5432)}"
        for one in await of_type(PostgresDatabase)
        if one.name
    }
    clients_room = await _ask(server()) if clients else None
    targets, left_out = fleet.chosen(clients, blocks, clients_room.databases if clients_room else None)
    rooms: dict[str, Room | None] = {CLIENTS: clients_room}
    where = (await server()).server if clients_room else ""
    server_of = {}
    for one in targets:
        named = CLIENTS if one.client or blocks[str(one.database)] == where else blocks[str(one.database)]
        if named not in rooms:
            rooms[named] = await _ask(_reached(keeper, one))
        server_of[one.key] = named
    # One that does not say gets one dump at a time, which then says why.
    servers = {name: fleet.bearable(room.free) if room else 1 for name, room in rooms.items()}
    plan = Plan(targets, servers, server_of, fleet.at_once(given.parallel, os.cpu_count() or 1), left_out)
    bears = ", ".join(f"{name} bears {count}" for name, count in servers.items() if name in server_of.values())
    get_run_logger().info(
        "%s to back up, %d at once (%s)", many(len(targets), "database"), plan.at_once, bears or "none"
    )
    return plan


async def _reached(keeper: "Keeper", whose: Target) -> "Database":
    return (await database_of(keeper, whose))[0]


async def _ask(reached: Awaitable["Database"]) -> Room | None:
    """What the server of a database says of its room; None: it does not say, and its dumps will tell why."""
    from tasks.backups import survey

    def look(database: "Database") -> Room:
        with survey.connected(database, ASK_SECONDS) as connection:
            return fleet.room(connection)

    try:
        return await asyncio.to_thread(look, await reached)
    except (FleetError, DoesNotFit) as error:
        get_run_logger().warning("how much a server bears is not known: %s", error)
        return None


@dataclass
class _Work:
    """What the targets of one night share."""

    slots: asyncio.Semaphore
    servers: dict[str, asyncio.Semaphore]
    mails: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One mail at a time, beside the dumps: a mail server takes many at once for an attack."""
    telling: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(TELLING))
    mail_failures: list[FleetError | None] = field(default_factory=list)
    done: int = 0


@task(name="back the fleet up", cache_policy=NO_CACHE, persist_result=False)
async def back_up_all(plan: Plan) -> tuple[list[Night], float]:
    """Dump, mail, show and tell every target of ``plan``; what came of each, in its order, and the seconds that all took.

    One target's failure is another's nothing. A cancelled run ends its dumps.

    Raises:
        Conflict: another run is at it.
    """
    keeper, started = await keeper_of_run(), time.monotonic()
    # Each dump and mail keeps a thread; asyncio's own pool may have fewer.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2 * plan.at_once + 8))
    work = _Work(
        asyncio.Semaphore(plan.at_once),
        {name: asyncio.Semaphore(count) for name, count in plan.servers.items()},
    )
    with ExitStack() as alone:
        await asyncio.to_thread(alone.enter_context, keeper.hold(fleet.LOCK, "backup of the fleet", wait=0))
        async with asyncio.TaskGroup() as group:
            moving = group.create_task(_progress(work, len(plan.targets)))
            nights = [group.create_task(_night(keeper, work, plan, one)) for one in plan.targets]
            await asyncio.wait(nights)
            moving.cancel()
    return [one.result() for one in nights], time.monotonic() - started


async def _night(keeper: "Keeper", work: _Work, plan: Plan, whose: Target) -> Night:
    """Everything about one target; raises nothing but its cancelling."""
    made, error, held = None, "", False
    try:
        # The server's slot first, so that whoever waits for a full server keeps nobody from another.
        async with work.servers[plan.server_of[whose.key]], work.slots:
            made = await back_up(whose)
    except Exception as failed:
        error, held = _said(failed), isinstance(failed, Conflict)
        get_run_logger().error("%s: NOT backed up: %s", whose.spoken, error)
    delivered = await _mailed(keeper, work, made) if made else None
    asides: list[str] = []
    async with work.telling:
        told = await _aside("the webhook was not told", asides, tell_webhook(whose, made, delivered, error)) or ""
    if told.startswith("NOT"):
        asides.append(f"the webhook was {told}")
    if made:
        await _aside("its page was not written", asides, show_page(made, delivered, told))
        sentence = delivered.sentence if delivered else "mailing is off"
        get_run_logger().info("%s: backed up in %.1f s; %s", whose.spoken, made.manifest.seconds, sentence)
    work.done += 1
    undated = str(made.undated) if made and made.undated else ""
    return Night(whose, made.row_id if made else None, error, held, undated, asides)


async def _mailed(keeper: "Keeper", work: _Work, made: Made) -> Delivered | None:
    """Mail the backup, unless so many mails before failed that this one would too; raises nothing but its cancelling."""
    async with work.mails:
        if fleet.gives_up(work.mail_failures):
            return await _left_for_later(keeper, made)
        try:
            delivered = await mail_backup(made)
        except Exception as failed:
            error = failed if isinstance(failed, FleetError) else Unreachable(*_said(failed).rsplit("; ", 1))
            delivered = await not_mailed(keeper, made.row_id, error)
        if delivered is not None:
            lost = delivered.state == Delivery.FAILED and not delivered.accepted
            work.mail_failures.append(delivered.error if lost else None)
        return delivered


async def _left_for_later(keeper: "Keeper", made: Made) -> Delivered:
    error = Unreachable(
        f"it was not tried, because {fleet.MAIL_FAILURES} mails of this night failed in a row before it",
        "mend what those name; it is mailed then by the next backup-fleet or by resend-backup",
    )
    return await not_mailed(keeper, made.row_id, error)


async def _aside(what: str, asides: list[str], work: Awaitable[T]) -> T | None:
    """What ``work`` returns; what it raises is noted among ``asides``, since backup and mail stand without it."""
    try:
        return await work
    except Exception as failed:
        asides.append(f"{what}: {_said(failed)}")
        return None


def _said(error: Exception) -> str:
    """What of an exception may be read: ours in full, another's type only, because its text may hold anything."""
    if isinstance(error, FleetError | DoesNotFit):
        return str(error)
    get_run_logger().error("unexpected %s at %s", type(error).__name__, _where(error))
    return f"unexpected: {type(error).__name__}; see the run's log."


def _where(error: BaseException) -> str:
    trace, frames = error.__traceback__, []
    while trace is not None:
        frames.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " > ".join(frames[-4:])


async def _progress(work: _Work, total: int) -> None:
    """Move a progress artifact until cancelled; a Prefect server that does not answer now must not end the night."""
    shown: UUID | None = None
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        with suppress(Exception):
            percent = 100 * work.done / max(1, total)
            if shown is None:
                words = f"backing up {many(total, 'database')}"
                shown = await acreate_progress_artifact(percent, key=f"{summary.ARTIFACT}-progress", description=words)
            else:
                await aupdate_progress_artifact(shown, percent)


@task(name="sum the night up", cache_policy=NO_CACHE, persist_result=False)
async def sum_up(plan: Plan, nights: list[Night], seconds: float, after: Apart) -> Summary:
    """Judge the night by what the registry knows after it: what was lost, what needs somebody, the table's lines."""
    keeper, given, at = await keeper_of_run(), await policy(), now()
    limits = alerts.Limits(given.max_age_hours, given.max_unverified_days, given.shrink_percent, given.disk_days)
    known = await asyncio.to_thread(records.read, keeper.engine, plan.targets)
    lines = [
        summary.line(
            night, record, alerts.about(record, limits, at, keeper.time_zone), given.mail_enabled, keeper.time_zone
        )
        for night, record in zip(nights, known, strict=True)
    ]
    since = at - disk_outlook.PACE_DAYS * disk_outlook.DAY
    kept_out = [*plan.targets, *(Target(client=slug) for slug in plan.left_out)]
    gone = await asyncio.to_thread(records.no_longer, keeper.engine, kept_out, since)
    disk: list[alerts.Alert] = []
    with after.so("the disk was not looked at"):
        disk = await asyncio.to_thread(_disk, keeper, given, plan, known, since, at)
    return Summary(
        at,
        keeper.time_zone,
        seconds,
        summary.ordered(lines),
        given.mail_enabled,
        disk,
        plan.left_out,
        [one.spoken for one in gone],
        after.notes,
        after.troubles,
    )


def _disk(
    keeper: "Keeper",
    given: BackupPolicy,
    plan: Plan,
    known: Iterable[records.Record],
    since: datetime,
    at: datetime,
) -> list[alerts.Alert]:
    folder = folder_of(given)
    disk = Disk(str(folder), shutil.disk_usage(existing(folder)).free)
    pace = disk_outlook.pace(records.lying(keeper.engine, folder, since), at)
    newest = [one.newest for one in known if one.newest]
    needed = disk_outlook.next_night(newest, given.keep == "dated", plan.at_once)
    return alerts.disk(disk_outlook.outlook(disk, needed, pace, given.disk_days))


@task(name="write the night's table", cache_policy=NO_CACHE, persist_result=False)
async def show_summary(night: Summary) -> None:
    """The night's table among the artifacts."""
    said = "; ".join(
        [summary.headline(night), *(one.what for one in night.disk), *night.troubles, *summary.asides(night)]
    )
    rows: list[dict[str, Any]] = list(summary.artifact_rows(summary.table(night)))
    await acreate_table_artifact(rows, summary.ARTIFACT, f"{said}.")


@task(name="raise the alarm", cache_policy=NO_CACHE, persist_result=False)
async def raise_alarm(night: Summary) -> None:
    """Tell the webhook of the night's alerts, and Prefect, so that automations can act: an event ``zero-fleet.backup.alert`` each."""
    for alert in night.alerts[:MOST_EVENTS]:
        about = alert.target.key if alert.target else "disk"
        emit_event(
            EVENT,
            {"prefect.resource.id": f"zero-fleet.backup.{about}", "prefect.resource.name": about},
            payload={"kind": alert.kind.value, "sentence": alert.sentence, "flow_run": str(flow_run.id or "")},
        )
    left = len(night.alerts) - MOST_EVENTS
    if left > 0:
        emit_event(EVENT, {"prefect.resource.id": "zero-fleet.backup.more"}, payload={"kind": "more", "count": left})
    for alert in night.alerts:
        get_run_logger().warning(alert.sentence)
    await tell_alert([alert.sentence for alert in night.alerts])


@task(name="mail the summary", cache_policy=NO_CACHE, persist_result=False)
async def mail_summary(night: Summary) -> str:
    """Mail the summary to the policy's recipients; whom it was mailed to, or nothing when mailing is off.

    Raises:
        FleetError: why it was not sent, or not to everybody.
    """
    from tasks.backups import mail

    given = await policy()
    recipients = message.require_recipients(given.mail_enabled, given.recipients)
    if not recipients:
        return ""
    through = await account()
    sender = message.sender_of(given.sender, through.username)
    identity = message.message_id(f"fleet.{str(flow_run.id or 'none')[:8]}.{int(night.at.timestamp())}", sender.domain)
    title = summary.title(given.subject_prefix, night.at, night.time_zone)
    letter = message.letter(sender, recipients, title, summary.text(night), identity, night.at, night.time_zone)
    told = teller()
    sent = await asyncio.to_thread(
        mail.send_patiently, lambda: mail.send(through, sender.addr_spec, recipients, letter, told=told)
    )
    if sent.refused:
        first = next(iter(sent.refused.values()))
        reasons = "; ".join(error.what for error in sent.refused.values())
        raise Refused(f"only {', '.join(sent.accepted)} got it: {reasons}", first.cure)
    return ", ".join(sent.accepted)
