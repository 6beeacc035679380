"""The steps of deprovision-client."""

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from blocks.clients import TwilioCredentials, ZeroSecrets
from blocks.docker import connect, engine_name
from blocks.documents import delete
from tasks.clients import deprovision, provisioning
from tasks.clients.engine import answers
from tasks.clients.steps import client_blocks
from tasks.clients.steps.operation import journaled, outside, work_on
from tasks.clients.steps.threads import in_thread
from tasks.clients.work import Work
from tasks.registry.spec import ZeroSpec


@task(name="see what there is of the client", cache_policy=NO_CACHE, persist_result=False)
async def take_stock(client: str, final_backup: bool) -> deprovision.Stock:
    """See what is on Docker and PostgreSQL, refuse what could not be finished, say whether a backup is to be made."""
    work = work_on(client)
    gone = await in_thread(deprovision.recall, work)
    if gone:
        return deprovision.Stock(False, gone=gone)
    async with journaled(work, "look") as entry:
        found = await client_blocks.documents(client, ZeroSpec(docker_host=_docker_host(work)))
        client_blocks.take_secrets(work, found)
        client_blocks.take_server(work, found)
        engine = client_blocks.take_engine(found)
        with entry.outside():
            return await in_thread(_look, work, engine, final_backup)


def _docker_host(work: Work) -> str:
    """The block that the client's engine is named by, without minding what else its spec says."""
    return str(work.stored.spec.get("docker_host", "")) if work.stored else ""


def _look(work: Work, block: Any | None, final_backup: bool) -> deprovision.Stock:
    with answers("answer"):
        work.docker = connect(block)
    work.engine = engine_name(work.docker)
    provisioning.require_same_engine(work)
    return deprovision.look(work, final_backup)


@task(name="remove the container", cache_policy=NO_CACHE, persist_result=False)
async def remove_container(client: str, proven: str, words: str) -> None:
    """Note that the client goes, with what is said of its ``proven`` backup or of there being none; then remove its containers."""
    work = work_on(client)
    async with journaled(work, "remove container") as entry:
        await in_thread(deprovision.begin, work, proven, words)
        await outside(entry, deprovision.remove_containers, work)
    get_run_logger().info("%s: its container is gone", client)


@task(name="drop database and role", cache_policy=NO_CACHE, persist_result=False)
async def drop_database(client: str) -> None:
    """Drop the client's database and role, its open sessions with them."""
    work = work_on(client)
    async with journaled(work, "drop database") as entry:
        await outside(entry, deprovision.remove_database, work)
    get_run_logger().info("%s: its database and role are gone", client)


@task(name="forget secrets, port and rows", cache_policy=NO_CACHE, persist_result=False)
async def forget(client: str) -> str:
    """Delete the client's secrets, which nothing uses any more, then its rows; what was done in one sentence."""
    work = work_on(client)
    async with journaled(work, deprovision.FORGET):
        twilio = deprovision.own_twilio(work)
        if twilio:
            await delete(TwilioCredentials, twilio)
        await delete(ZeroSecrets, work.names.secrets_block)
        return await in_thread(deprovision.forget, work)
