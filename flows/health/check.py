"""Check clients' health now, by hand."""

import asyncio
from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from flows.outcome import NOWHERE, told
from tasks.health.report import named
from tasks.health.steps import begin_look, probe_shard, tell_check

Clients = Annotated[list[Annotated[str, Field(max_length=200)]], Field(min_length=1, max_length=20_000)]


def run_name() -> str:
    """`check acme, beta`: Prefect's own template would show a Python list."""
    return f"check {named(flow_run.parameters.get('clients', ()))}"


@flow(name="check-zero-health", flow_run_name=run_name, persist_result=False, result_storage=NOWHERE)
@told
async def check_zero_health(clients: Clients) -> str:
    """Look at clients now and say of each how it is; fails when one that is meant to run is not healthy.

    Nothing is changed, not even the stored status: that is the poll's, which wants more than one sample.

    Args:
        clients: One slug, several, or `all`.
    """
    look = await begin_look(clients)
    answers = await asyncio.gather(*(probe_shard(shard) for shard in look.shards()))
    return await tell_check(look, answers)
