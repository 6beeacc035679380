"""rotate-client-secrets: new values for a client's secrets, with a way back."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.outcome import NOWHERE, told
from tasks.clients.rotation import Secret
from tasks.clients.steps.operation import operation
from tasks.clients.steps.rotate import back_to_the_old_secrets_if_it_fails, commit, look, save_next, try_new
from tasks.registry.names import require_slug

Which = Annotated[list[Secret], Field(min_length=1, max_length=4)]


@flow(
    name="rotate-client-secrets",
    flow_run_name="rotate secrets of {client}",
    persist_result=False,
    result_storage=NOWHERE,
)
@told
async def rotate_client_secrets(client: Annotated[str, Field(min_length=1, max_length=40)], which: Which) -> str:
    """Give a client new secrets: saved in its block first, then tried with a container made anew; when that does not serve in time,
    the old ones come back.

    The values are made here and never shown; to give one yourself, save it in the client's block under Next values (`pending`)
    first. What a killed or cancelled run left is finished or taken back by the next run on the client.

    Args:
        client: Slug of the client.
        which: Secrets to change. A new better_auth_secret logs everybody out; a new api_token has to be given to whoever calls the e-mail API.
    """
    require_slug(client)
    which = list(dict.fromkeys(which))
    async with operation(client, "rotate"):
        await look(client)
        async with back_to_the_old_secrets_if_it_fails(client):
            await save_next(client, which)
            await try_new(client)
        return await commit(client)
