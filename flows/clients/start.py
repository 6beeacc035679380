"""start-zero: start clients' containers, up to services that answer."""

from prefect import flow
from prefect.runtime import flow_run

from flows.outcome import NOWHERE, told
from tasks.clients.lifecycle import Clients
from tasks.clients.outcomes import few, summary
from tasks.clients.steps.lifecycle import await_serving, choose_enabled, start_container
from tasks.clients.steps.operation import operation
from tasks.clients.steps.several import each


def run_name() -> str:
    """`start acme, beta`: Prefect's own template would show a Python list."""
    return f"start {few(flow_run.parameters.get('clients', ()))}"


@flow(name="start-zero", flow_run_name=run_name, persist_result=False, result_storage=NOWHERE)
@told
async def start_zero(clients: Clients) -> str:
    """Start clients' Zero containers and wait until each serves; one that runs and serves is left as it is.

    Nothing is made: a container that is missing is provision-client's. One client's failure hides no other's.

    Args:
        clients: One slug, several, or `all` (those that are enabled).
    """
    chosen = await choose_enabled(clients)
    return summary(await each(chosen, _start), "started")


async def _start(client: str) -> str:
    async with operation(client, "start"):
        done = await start_container(client)
        return await await_serving(client, done)
