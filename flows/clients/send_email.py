"""send-zero-email: a mail through a client's Zero."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.outcome import NOWHERE, told
from tasks.clients.steps.mailbox import send
from tasks.registry.names import require_email, require_slug, require_subject


@flow(name="send-zero-email", flow_run_name="send through {client}", persist_result=False, result_storage=NOWHERE)
@told
async def send_zero_email(
    client: Annotated[str, Field(min_length=1, max_length=40)],
    to: Annotated[str, Field(min_length=3, max_length=254)],
    subject: Annotated[str, Field(min_length=1, max_length=500)],
    body: Annotated[str, Field(max_length=100_000)] = "",
) -> str:
    """Send one mail through the e-mail API of a client's Zero. A Zero without that API says so.

    Not repeated by itself: when it is not known whether the mail left, the sentence says that.

    Args:
        client: Slug of the client, like acme.
        to: Recipient's address, like ada@example.org.
        subject: Subject. It is stored with the run, and whoever may read runs can read it.
        body: The mail's text. It is stored with the run, and whoever may read runs can read it; send nothing secret this way.
    """
    require_slug(client)
    require_email(to)
    require_subject(subject)
    return await send(client, to, subject, body)
