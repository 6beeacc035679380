"""The client's steps of restore-database over its database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.clients import restore
from tasks.clients.steps.existing import take_up
from tasks.clients.steps.gate import until_ready
from tasks.clients.steps.operation import journaled, outside, work_on
from tasks.clients.steps.threads import in_thread
from tasks.clients.steps.trial import back_if_it_fails, old_again
from tasks.clients.work import Work
from tasks.registry import journal
from tasks.registry.models import Status


@task(name="look at the client before a restore", cache_policy=NO_CACHE, persist_result=False)
async def look_before_restore(client: str) -> None:
    """Take the client up and refuse what a restore could not begin with. Nothing of it is changed, except that what a killed run left
    under way is ended.
    """
    work = work_on(client)
    async with journaled(work, "look") as entry:
        await take_up(work)
        await outside(entry, restore.prepare, work)


@asynccontextmanager
async def back_to_the_old_database_if_it_fails(client: str, backup: str) -> AsyncIterator[None]:
    """Until the restored database was seen to serve, whatever fails brings back the old one, and the container if it ran."""
    async with back_if_it_fails(client, f"restore of {backup}", _as_before):
        yield


async def _as_before(work: Work, entry: journal.Entry) -> tuple[str, Status]:
    if restore.stopped(work):
        return await old_again(work, entry, "the old database", _back)
    status = work.stored.status if work.stored else Status.UNKNOWN
    left = await _back(work, entry)
    return "; ".join(filter(None, ["its database and its container are as before", left])), status


async def _back(work: Work, entry: journal.Entry) -> str:
    with entry.outside():
        return await in_thread(restore.take_back, work)


@task(name="make an empty database beside", cache_policy=NO_CACHE, persist_result=False)
async def make_beside(client: str, backup: str) -> str:
    """Make the database that the backup ``backup`` goes into, with the client's rights; its name. The service goes on meanwhile."""
    work = work_on(client)
    async with journaled(work, "beside") as entry:
        with entry.outside():
            return await in_thread(restore.make_beside, work, backup)


@task(name="stop the container for a restore", cache_policy=NO_CACHE, persist_result=False)
async def stop_container(client: str) -> None:
    """Stop the container if it runs, so that nothing is written any more."""
    work = work_on(client)
    async with journaled(work, "stop") as entry:
        await outside(entry, restore.stop, work)


@task(name="put the restored database in its place", cache_policy=NO_CACHE, persist_result=False)
async def put_in_place(client: str) -> None:
    """Swap the restored database in; the old one is kept."""
    work = work_on(client)
    async with journaled(work, "swap") as entry:
        await outside(entry, restore.put_in_place, work)


@task(name="start the container on the restored database", cache_policy=NO_CACHE, persist_result=False)
async def start_on_restored(client: str) -> None:
    """Start the container if it ran before, and wait until it serves and its database lets it in.

    Raises:
        Unhealthy: why it does not.
    """
    work = work_on(client)
    async with journaled(work, "start") as entry:
        with entry.outside():
            started = await in_thread(restore.start, work)
        if started:
            await until_ready(work, entry)


@task(name="keep the restored database", cache_policy=NO_CACHE, persist_result=False)
async def keep_restored(client: str) -> str:
    """Drop the old database, whose place the restored one has; how the service fares, in words."""
    work = work_on(client)
    async with journaled(work, "commit") as entry:
        with entry.outside():
            said = await in_thread(restore.commit, work)
    get_run_logger().info("%s: the old database is dropped", client)
    return said
