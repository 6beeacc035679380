"""provision-client: a client's database and Zero container, made or brought to what is wanted."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.outcome import NOWHERE, told
from tasks.clients.provisioning import check_input
from tasks.clients.steps.operation import operation
from tasks.clients.steps.provision import await_ready, claim_and_make_database, look, run_container
from tasks.registry.spec import SpecChanges

NO_CHANGES = SpecChanges()


@flow(name="provision-client", flow_run_name="provision {client}", persist_result=False, result_storage=NOWHERE)
@told
async def provision_client(
    client: Annotated[str, Field(min_length=1, max_length=40)], spec: SpecChanges = NO_CHANGES
) -> str:
    """Provision a client: its database and role, its secrets, its port and its Zero container, up to a service that answers.

    Run it again at any time: it does what is missing, finishes what was cut off, and says when nothing is to change.

    Args:
        client: Slug of the client: small letters, digits and single hyphens, like acme or acme-2.
        spec: Changes to the client's spec. What is left empty keeps its stored value, or takes the default on a first run.
    """
    check_input(client, spec)
    async with operation(client, "provision"):
        outlook = await look(client, spec)
        if outlook.sentence:
            return outlook.sentence
        await claim_and_make_database(client)
        await run_container(client)
        return await await_ready(client)
