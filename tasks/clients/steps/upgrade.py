"""The steps of upgrade-zero."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.clients import readiness, upgrade
from tasks.clients.steps.existing import take_up
from tasks.clients.steps.gate import until_ready
from tasks.clients.steps.operation import journaled, outside, work_on
from tasks.clients.steps.provision import write_page
from tasks.clients.steps.threads import in_thread
from tasks.clients.steps.trial import back_if_it_fails, old_again
from tasks.clients.work import Work
from tasks.registry import journal


@dataclass(frozen=True)
class Outlook:
    """What a look found: the id of the image to try, or why nothing is to be done."""

    image_id: str = ""
    sentence: str = ""


@task(name="look at client and image", cache_policy=NO_CACHE, persist_result=False)
async def look(client: str, image: str, pinned: str) -> Outlook:
    """Take the client up, find the image on its engine (pulled if need be), and refuse what an upgrade could not begin with. Nothing
    of the client is changed, except that what a killed run left under way is ended.

    Args:
        pinned: the image's id that clients before this one got, or empty.
    """
    work = work_on(client)
    await take_up(work)
    async with journaled(work, "look") as entry:
        alone = await in_thread(upgrade.left_alone, work)
        if alone:
            return Outlook(sentence=alone)
        with entry.outside():
            image_id = await in_thread(upgrade.find_image, work, image, pinned)
            running = work.container is not None and work.container.running
            serves = running and await readiness.serves(work.base, work.spec.probe)
            said = upgrade.already(work, image, image_id, serves)
            if said:
                return Outlook(image_id, said)
            size = await in_thread(upgrade.prepare, work, image, image_id)
    get_run_logger().info(
        "%s: %s -> %s; its database is copied meanwhile, which takes %d MB on the server",
        client, work.stored.image if work.stored else None, image, size >> 20,
    )  # fmt: skip
    return Outlook(image_id)


@asynccontextmanager
async def back_to_the_old_image_if_it_fails(client: str, image: str) -> AsyncIterator[None]:
    """Until the new image was seen to serve, whatever fails brings back the old container with its database as it was."""
    async with back_if_it_fails(client, f"upgrade to {image}", partial(old_again, old="the old image", back=_back)):
        yield


async def _back(work: Work, entry: journal.Entry) -> str:
    with entry.outside():
        return await in_thread(upgrade.take_back, work)


@task(name="put the old container aside, copy the database", cache_policy=NO_CACHE, persist_result=False)
async def set_aside(client: str) -> None:
    """Stop the old container, which waits under another name, and copy the database while nobody uses it."""
    work = work_on(client)
    async with journaled(work, "aside") as entry:
        await outside(entry, upgrade.set_aside, work)
    async with journaled(work, "copy") as entry:
        await outside(entry, upgrade.copy_database, work)


@task(name="try the new image", cache_policy=NO_CACHE, persist_result=False)
async def try_new(client: str) -> None:
    """Start the new image on the client's port, and wait until it serves and its database lets it in.

    Raises:
        Unhealthy: why it does not.
    """
    work = work_on(client)
    async with journaled(work, "try") as entry:
        await outside(entry, upgrade.start_new, work)
        await until_ready(work, entry)


@task(name="keep the new image", cache_policy=NO_CACHE, persist_result=False)
async def commit(client: str) -> str:
    """Write the new image down as the client's, and remove the old container and the copy of the database."""
    work = work_on(client)
    async with journaled(work, "commit") as entry:
        with entry.outside():
            said = await in_thread(upgrade.commit, work)
    await write_page(work)
    return said
