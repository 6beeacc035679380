"""Restore a backup: into a new database, or over the old one."""

from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from flows.outcome import NOWHERE, told
from tasks.backups.chosen import LATEST, Restoration, restoration
from tasks.backups.restored import into_new, over
from tasks.backups.steps.restore import (
    back_up_before,
    choose_backup,
    end_cut_off,
    give_name,
    load_backup,
    restoring,
    take_its_place,
)
from tasks.clients.steps.operation import operation
from tasks.clients.steps.restore import (
    back_to_the_old_database_if_it_fails,
    keep_restored,
    look_before_restore,
    make_beside,
    put_in_place,
    start_on_restored,
    stop_container,
)

Client = Annotated[str, Field(max_length=200)]
Block = Annotated[str, Field(max_length=200)]
Backup = Annotated[str, Field(min_length=1, max_length=4096)]
Name = Annotated[str, Field(max_length=100)]
Confirm = Annotated[str, Field(max_length=200)]


def run_name() -> str:
    """`restore acme from latest`, with the new database behind it where there is one."""
    given = flow_run.parameters
    whose = given.get("client") or given.get("database") or "nothing"
    into = f" into {given['into']}" if given.get("into") else ""
    return f"restore {whose} from {given.get('backup') or LATEST}{into}"


@flow(name="restore-database", flow_run_name=run_name, persist_result=False, result_storage=NOWHERE)
@told
async def restore_database(
    client: Client | None = None,
    database: Block | None = None,
    backup: Backup = LATEST,
    into: Name = "",
    confirm: Confirm = "",
    safety_backup: bool = True,
) -> str:
    """Restore a proven backup into a new database, or over the old one after a safety backup of what is there.

    The file is proven before anything is touched, loaded beside, and compared with its manifest. Over a client's database: its
    container stands still only for the safety backup and the swap, and when it does not serve afterwards the old database comes
    back. Over a block's database: the sessions on it are ended. Run it again after it was cut off: what was left is ended first
    (provision-client and start-zero do that for a client, too).

    Args:
        client: A client's slug: its Zero database. Give exactly one of client and database.
        database: The name of a PostgreSQL database block: `app-database` is your own application's.
        backup: `latest`; a date like 2026-11-20 (the newest of that day) or 2026-11-20 02:00 (the newest until then); a file's absolute path, or the name of a dated file.
        into: Name of a new database on the same server. Empty: over the old one.
        confirm: The slug or the block's name again, when it goes over the old one.
        safety_backup: false: what is there now is not saved first, and lost. For a database that is damaged, so that it can not be dumped any more.
    """
    wanted = restoration(client, database, backup, into, confirm, safety_backup)
    if wanted.into:
        return await _into_new(wanted)
    return await (_over_client(wanted, wanted.whose.client) if wanted.whose.client else _over_block(wanted))


async def _into_new(wanted: Restoration) -> str:
    async with restoring(wanted):
        await end_cut_off(wanted)
        backup = await choose_backup(wanted)
        loaded = await load_backup(wanted)
        server = await give_name(wanted, backup)
    return into_new(wanted.whose, backup, wanted.into, server, loaded)


async def _over_client(wanted: Restoration, client: str) -> str:
    async with operation(client, "restore"), restoring(wanted):
        await look_before_restore(client)
        backup = await choose_backup(wanted)
        async with back_to_the_old_database_if_it_fails(client, backup):
            beside = await make_beside(client, backup)
            loaded = await load_backup(wanted, beside)
            await stop_container(client)
            safety = await back_up_before(wanted)
            await put_in_place(client)
            await start_on_restored(client)
        served = await keep_restored(client)
    return over(wanted.whose, backup, loaded, safety, served)


async def _over_block(wanted: Restoration) -> str:
    async with restoring(wanted):
        await end_cut_off(wanted)
        backup = await choose_backup(wanted)
        loaded = await load_backup(wanted)
        safety = await back_up_before(wanted)
        kept = await take_its_place(wanted, safety)
    return over(
        wanted.whose, backup, loaded, kept, "its sessions were ended, and what uses it connects to the restored one"
    )
