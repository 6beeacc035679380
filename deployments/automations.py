"""Automations of the Prefect server; upserted, because `prefect automation create` makes a second one each time."""

from datetime import timedelta

ZOMBIES = "zero-fleet: runs whose process is gone"
HEARTBEAT_SECONDS = 30
"""Prefect's smallest; set as PREFECT_FLOWS_HEARTBEAT_FREQUENCY for the workers."""
SILENT_SECONDS = 100


async def ensure_automations() -> None:
    """Crash runs that have stopped to send heartbeats, so that a killed run does not stand as Running for ever.

    Source of the trigger: https://docs.prefect.io/v3/advanced/detect-zombie-flows
    """

    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    ended = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    wanted = AutomationCore(
        name=ZOMBIES,
        description="A run that sends no heartbeat any more has lost its process; it is marked as crashed.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *ended},
            match={"prefect.resource.id": ["prefect.flow-run.*"]},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENT_SECONDS),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message="its process ended before it; run it again, it goes on where it was cut off",
            )
        ],
    )
    async with get_client() as client:
        found = await client.read_automations_by_name(ZOMBIES)
        if not found:
            await client.create_automation(wanted)
            return
        first, *more = found
        if first.model_dump(exclude={"id", "trigger"}) != wanted.model_dump(exclude={"id", "trigger"}) or (
            first.trigger.model_dump(exclude={"id"}) != wanted.trigger.model_dump(exclude={"id"})
        ):
            await client.update_automation(first.id, wanted)
        for double in more:
            await client.delete_automation(double.id)
