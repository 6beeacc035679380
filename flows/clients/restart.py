"""restart-zero: stop clients' containers and start them, up to services that answer."""

from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from flows.outcome import NOWHERE, told
from tasks.backups.steps.dump import dump_database
from tasks.clients.lifecycle import Clients, check_clean, untouched
from tasks.clients.outcomes import few, summary
from tasks.clients.steps.lifecycle import (
    await_serving,
    choose_enabled,
    look_before_clean,
    restart_container,
    start_clean,
)
from tasks.clients.steps.operation import operation
from tasks.clients.steps.several import each


def run_name() -> str:
    """`restart acme, beta`: Prefect's own template would show a Python list."""
    return f"restart {few(flow_run.parameters.get('clients', ()))}"


@flow(name="restart-zero", flow_run_name=run_name, persist_result=False, result_storage=NOWHERE)
@told
async def restart_zero(
    clients: Clients, clean: bool = False, confirm: Annotated[str, Field(max_length=40)] = ""
) -> str:
    """Stop clients' Zero containers, start them and wait until each serves; made anew where one is not made from its spec any more.

    One client's failure hides no other's.

    Args:
        clients: One slug, several, or `all` (those that are enabled). One slug when `clean` is set.
        clean: For this one start, let Zero drop its agent tables (DROP_AGENT_TABLES). A verified backup is made first.
        confirm: The slug once more, when `clean` is set.
    """
    if clean:
        check_clean(clients, confirm)
    chosen = await choose_enabled(clients)
    return summary(await each(chosen, _restart_clean if clean else _restart), "restarted")


async def _restart(client: str) -> str:
    async with operation(client, "restart"):
        done = await restart_container(client)
        return await await_serving(client, done)


async def _restart_clean(client: str) -> str:
    async with operation(client, "clean restart"):
        await look_before_clean(client)
        with untouched(f"the clean restart of {client}"):
            await dump_database(client, None)
        done = await start_clean(client)
        return await await_serving(client, done)
