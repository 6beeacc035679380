"""list-zero-emails: what a client's Zero lists as its mails."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.outcome import NOWHERE, told
from tasks.clients.steps.mailbox import latest
from tasks.registry.names import require_slug


@flow(name="list-zero-emails", flow_run_name="list mails of {client}", persist_result=False, result_storage=NOWHERE)
@told
async def list_zero_emails(
    client: Annotated[str, Field(min_length=1, max_length=40)], limit: Annotated[int, Field(ge=1, le=100)] = 20
) -> str:
    """List mails of a client's Zero through its e-mail API, into the artifact emails-SLUG. A Zero without that API says so.

    Args:
        client: Slug of the client, like acme.
        limit: How many at most. Addresses, subjects and the beginning of each text are stored in the artifact, and whoever may
            read artifacts can read them.
    """
    require_slug(client)
    return await latest(client, limit)
