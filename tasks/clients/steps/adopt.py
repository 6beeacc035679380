"""The steps of adopt-zero."""

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from pydantic import SecretStr

from blocks.clients import TwilioCredentials
from blocks.docker import connect, engine_name
from blocks.documents import registered, save
from tasks.clients import adoption, readiness
from tasks.clients.adopted_spec import Adopted
from tasks.clients.engine import answers
from tasks.clients.environment import GoogleClient
from tasks.clients.steps import client_blocks
from tasks.clients.steps.operation import journaled, outside, work_on
from tasks.clients.steps.provision import write_page
from tasks.clients.steps.threads import in_thread
from tasks.clients.work import Work
from tasks.registry.spec import ZeroSpec


@task(name="adopt the container", cache_policy=NO_CACHE, persist_result=False)
async def adopt(client: str) -> str:
    """Read the container, refuse what cannot be adopted, then save its secrets and note it in the registry. One step, since what
    was read holds secrets.
    """
    work = work_on(client)
    async with journaled(work, "look") as entry:
        found = await client_blocks.documents(client, ZeroSpec())
        client_blocks.take_secrets(work, found)
        client_blocks.take_server(work, found)
        engine, google = client_blocks.take_engine(found), client_blocks.fleet_google(found)
        with entry.outside():
            adopted = await in_thread(_look, work, engine, google)
        if adopted is None:
            return f"{client}: nothing to change, {work.names.container} is adopted already"
        serves = await readiness.serves(work.base, work.spec.probe)
    async with journaled(work, "take") as entry:
        await _save_blocks(work, adopted)
        await outside(entry, adoption.take, work, adopted, serves)
    for note in adopted.notes:
        get_run_logger().warning("%s: %s", client, note)
    await write_page(work)
    return adoption.told(work, adopted, serves)


def _look(work: Work, block: Any | None, google: GoogleClient | None) -> Adopted | None:
    with answers("answer"):
        work.docker = connect(block)
    work.engine = engine_name(work.docker)
    return adoption.look(work, google)


async def _save_blocks(work: Work, adopted: Adopted) -> None:
    """Its secrets, before the registry says that they are there."""
    if adopted.twilio is not None:
        account = adopted.twilio
        block = TwilioCredentials(
            account_sid=account.account_sid, auth_token=SecretStr(account.auth_token), phone_number=account.phone_number
        )
        await save(block, adoption.twilio_block(work.client), await registered(TwilioCredentials))
    await client_blocks.learn_type(work)
    await client_blocks.save_secrets(work)
