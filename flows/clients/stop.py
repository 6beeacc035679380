"""stop-zero: stop clients' containers."""

from prefect import flow
from prefect.runtime import flow_run

from flows.outcome import NOWHERE, told
from tasks.clients.lifecycle import Clients
from tasks.clients.outcomes import few, summary
from tasks.clients.steps.lifecycle import stop_container
from tasks.clients.steps.operation import operation
from tasks.clients.steps.several import choose, each


def run_name() -> str:
    """`stop acme, beta`: Prefect's own template would show a Python list."""
    return f"stop {few(flow_run.parameters.get('clients', ()))}"


@flow(name="stop-zero", flow_run_name=run_name, persist_result=False, result_storage=NOWHERE)
@told
async def stop_zero(clients: Clients) -> str:
    """Stop clients' Zero containers and see them ended; they stay stopped, and no alert speaks of them, until they are started.

    Container, database and port are kept. One client's failure hides no other's.

    Args:
        clients: One slug, several, or `all`.
    """
    chosen = await choose(clients)
    return summary(await each(chosen, _stop), "stopped")


async def _stop(client: str) -> str:
    async with operation(client, "stop"):
        return await stop_container(client)
