"""The steps of rotate-client-secrets."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.clients import rotation, trial
from tasks.clients.steps import client_blocks
from tasks.clients.steps.existing import take_rotation_back, take_up
from tasks.clients.steps.gate import until_ready
from tasks.clients.steps.operation import journaled, outside, work_on
from tasks.clients.steps.provision import write_page
from tasks.clients.steps.threads import in_thread
from tasks.clients.steps.trial import back_if_it_fails, old_again


@task(name="look at the client", cache_policy=NO_CACHE, persist_result=False)
async def look(client: str) -> None:
    """Take the client up, and refuse what a rotation could not begin with. Nothing of it is changed, except that what a killed run
    left under way is ended.
    """
    work = work_on(client)
    await take_up(work)
    async with journaled(work, "look") as entry:
        await outside(entry, rotation.prepare, work)


@asynccontextmanager
async def back_to_the_old_secrets_if_it_fails(client: str) -> AsyncIterator[None]:
    """Until the service was seen to serve with the new secrets, whatever fails brings back the old ones and the old container."""
    again = partial(old_again, old="the old container with the old secrets", back=take_rotation_back)
    async with back_if_it_fails(client, "rotation of its secrets", again):
        yield


@task(name="save the new secrets beside the old ones", cache_policy=NO_CACHE, persist_result=False)
async def save_next(client: str, which: Sequence[str]) -> None:
    """Make the values that are to come, or take those that the block has as its next values, and save them there before anything
    uses them.
    """
    work = work_on(client)
    async with journaled(work, "pending"):
        values = rotation.next_values(work.given, which, work.names.secrets_block, work.fleet_autumn)
        await in_thread(rotation.begin, work, which)
        await client_blocks.replace_secrets(work, replace(work.given, pending=values))


@task(name="try the new secrets", cache_policy=NO_CACHE, persist_result=False)
async def try_new(client: str) -> None:
    """Give PostgreSQL the new password, make the container anew with the new secrets, and wait until it serves, if it ran before.

    Raises:
        Unhealthy: why it does not.
    """
    work = work_on(client)
    async with journaled(work, "try") as entry:
        await outside(entry, rotation.apply, work)
        if trial.before(work).running:
            await until_ready(work, entry)


@task(name="keep the new secrets", cache_policy=NO_CACHE, persist_result=False)
async def commit(client: str) -> str:
    """Put the new values in the place of the old ones in the client's block, and remove the old container."""
    work = work_on(client)
    async with journaled(work, "commit") as entry:
        own = await in_thread(rotation.commit, work)
        await client_blocks.replace_secrets(work, own)
        with entry.outside():
            said = await in_thread(rotation.finish, work)
    await write_page(work)
    return said
