"""The steps of send-zero-email and list-zero-emails. They change nothing of the client, so they take no lock."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prefect import task
from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE

from tasks.clients import mailbox
from tasks.clients.mailbox import Mailbox
from tasks.clients.steps import client_blocks
from tasks.clients.steps.existing import take_up_container
from tasks.clients.steps.operation import glance
from tasks.errors import NotConfigured, Unhealthy


@task(name="send the mail", cache_policy=NO_CACHE, persist_result=False)
async def send(client: str, to: str, subject: str, body: str) -> str:
    """Hand one mail to the client's Zero, and say so.

    Raises:
        NotFound: no such client, or its Zero has no e-mail API.
        NotConfigured: it has no token.
        Unhealthy: it does not run.
        Unreachable, Refused: what it answered.
    """
    async with _opened(client) as box:
        number = await box.send(to, subject, body)
    return f"{client}: Zero took the mail to {to}{f' (its id there: {number})' if number else ''}"


@task(name="list the mails", cache_policy=NO_CACHE, persist_result=False)
async def latest(client: str, limit: int) -> str:
    """Read what the client's Zero lists into the table ``emails-SLUG``, and say how many.

    Raises:
        NotFound, NotConfigured, Unhealthy, Unreachable, Refused: as for ``send``.
    """
    async with _opened(client) as box:
        mails = await box.latest(limit)
    names = ("id", "to", "subject", "text", "at")
    said = mailbox.sentence(client, mails, limit)
    await acreate_table_artifact(
        [{name: getattr(mail, name) for name in names} for mail in mails],
        key=f"emails-{client}",
        description=said,
    )
    return said


@asynccontextmanager
async def _opened(client: str) -> AsyncIterator[Mailbox]:
    """The client's e-mail API, when its container runs and there is a token."""
    async with glance(client, "mail") as work:
        client_blocks.take_secrets(work, await take_up_container(work))
        block = work.names.secrets_block
        if not work.given.api_token:
            raise NotConfigured(
                f"the block {block} has no token of the e-mail API",
                f"run provision-client for {client}, which makes one",
            )
        if work.container is None or not work.container.running:
            state = work.container.state if work.container else "not there"
            raise Unhealthy(
                f"the Zero of {client} does not run (its container is {state})", f"run start-zero for {client}"
            )
        yield Mailbox(client, work.base, work.given.api_token, block, work.secret_values)
