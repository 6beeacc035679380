"""Poll the fleet's health, every minute."""

import asyncio

from prefect import flow
from prefect.runtime import flow_run

from blocks.installation import installation
from flows.outcome import NOWHERE, told
from tasks.clock import now, spoken
from tasks.health.judgement import superseded
from tasks.health.steps import begin_look, probe_shard, settle_poll


@flow(name="poll-fleet-health", flow_run_name="poll the fleet's health", persist_result=False, result_storage=NOWHERE)
@told
async def poll_fleet_health() -> str:
    """Look at every client once: its container, its service and its database.

    A status changes only after as many samples in a row as the block alert-policy says. The table is the artifact
    `fleet`.
    """
    due = flow_run.scheduled_start_time
    too_late = superseded(due, now(), spoken(due, installation().time_zone, seconds=True))
    if too_late:
        return too_late
    look = await begin_look()
    answers = await asyncio.gather(*(probe_shard(shard) for shard in look.shards()))
    return await settle_poll(look, answers)
