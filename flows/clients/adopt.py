"""adopt-zero: a container that was made by hand becomes a client's, as it runs."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.outcome import NOWHERE, told
from tasks.clients.steps.adopt import adopt
from tasks.clients.steps.operation import operation
from tasks.registry.names import slug_of


@flow(name="adopt-zero", flow_run_name="adopt {container}", persist_result=False, result_storage=NOWHERE)
@told
async def adopt_zero(container: Annotated[str, Field(min_length=1, max_length=100)]) -> str:
    """Adopt a Zero container that was made by hand, without restarting it: its settings go into the registry, its secrets into the
    client's block, and from then on it is a client like any other.

    Its database and role must be called like the container, on the server of the block postgres-server. It is made anew, with our
    labels and limits, the first time that something of its spec changes.

    Args:
        container: Name of the container: zero_client_acme becomes client acme, zero_client_7 becomes client-7.
    """
    client = slug_of(container)
    async with operation(client, "adopt"):
        return await adopt(client)
