"""send-zero-email and list-zero-emails through a real container."""

import json

from pydantic import SecretStr

from flows.clients.list_emails import list_zero_emails
from flows.clients.send_email import send_zero_email
from tasks.registry.names import ClientNames
from tests.flows.clients.test_provision import page_of, run, secrets_of, wanted


async def send(client: str, to: str = "ada@example.org", body: str = "x" * 500):
    """The flow's final state."""
    return await send_zero_email(client, to, "Hello, Ada", body, return_state=True)


async def test_a_mail_is_sent_and_listed_cut_and_a_wrong_token_or_a_stopped_zero_has_its_sentence(
    house, zero_image, slug, docker_client
):
    assert (await run(slug, wanted(zero_image))).is_completed()
    assert (await list_zero_emails(slug, return_state=True)).message == f"{slug}: no e-mails"
    sent = await send(slug)
    assert sent.message == f"{slug}: Zero took the mail to ada@example.org (its id there: 1)"
    listed = await list_zero_emails(slug, return_state=True)
    assert listed.message == f"{slug}: 1 e-mail"
    row = json.loads(await page_of(slug, "emails"))[0]
    assert (row["to"], row["subject"], len(row["text"])) == ("ada@example.org", "Hello, Ada", 121)

    right = await secrets_of(slug)
    await right.model_copy(update={"api_token": SecretStr("another")}).asave(
        ClientNames(slug).secrets_block, overwrite=True
    )
    refused = await send(slug)
    assert refused.is_failed() and "does not take the token in the block" in refused.message
    await right.asave(ClientNames(slug).secrets_block, overwrite=True)

    docker_client.api.stop(ClientNames(slug).container, timeout=10)
    stopped = await send(slug)
    assert f"the Zero of {slug} does not run (its container is exited); run start-zero for {slug}." == stopped.message


async def test_a_wrong_address_is_refused_before_anything_is_asked(house):
    state = await send("nobody", to="ada@@example")
    assert state.is_failed() and "is no e-mail address" in state.message
