"""diagnose-client: why a client's Zero does not do what it should."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.outcome import NOWHERE, told
from tasks.clients.steps.diagnose import examine, tell
from tasks.registry.names import require_slug


@flow(name="diagnose-client", flow_run_name="diagnose {client}", persist_result=False, result_storage=NOWHERE)
@told
async def diagnose_client(client: Annotated[str, Field(min_length=1, max_length=40)]) -> str:
    """Look at everything of a client that can go wrong, from its blocks to its browser code, and say of each what was seen and
    what to do; fails with the finding that lies deepest. Changes nothing and waits for nobody.

    Args:
        client: Slug of the client, like acme. What was seen is the artifact diagnosis-SLUG.
    """
    require_slug(client)
    return await tell(client, await examine(client))
