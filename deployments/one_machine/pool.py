"""The work pool, its queues, and the deployments of prefect.yaml; may run any number of times."""

import hashlib
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC
from pathlib import Path

from tasks.errors import FleetError

POOL = "fleet"
QUEUES = {"health": 1, "work": 6}
"""Name to limit: two queues, so that a waiting or long run never starves the poll. Few, because of Prefect on SQLite."""
COMMAND = shlex.join([sys.executable, "-I", "-S", str(Path(__file__).with_name("flow_process.py"))])
"""Of a flow's process; without site-packages, which it needs only where it imports Prefect itself."""


async def ensure_pool() -> None:
    """Make the process pool and its queues, or put their limits and command right."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    template["variables"]["properties"]["command"]["default"] = COMMAND
    async with get_client() as client:
        try:
            found = await client.read_work_pool(POOL)
        except ObjectNotFound:
            await client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
        else:
            if found.base_job_template != template:
                await client.update_work_pool(POOL, WorkPoolUpdate(base_job_template=template))
        for name, limit in QUEUES.items():
            try:
                queue = await client.read_work_queue_by_name(name, work_pool_name=POOL)
            except ObjectNotFound:
                queue = await client.create_work_queue(name=name, work_pool_name=POOL)
            if queue.concurrency_limit != limit:
                await client.update_work_queue(queue.id, concurrency_limit=limit)


async def heartbeats() -> dict[str, float]:
    """Each worker of the pool by name, with the moment of its last heartbeat in seconds since the epoch."""
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        workers = await client.read_workers_for_work_pool(POOL)
    return {worker.name: worker.last_heartbeat_time.timestamp() for worker in workers if worker.last_heartbeat_time}


def fingerprint(root: Path, environment: Mapping[str, str]) -> str:
    """A hash of everything that a deployment is made from: prefect.yaml, the flows, what their schemas take from tasks, a setting."""
    digest = hashlib.sha256()
    ours = [root / "prefect.yaml", root / "deployments/one_machine/pool.py"]
    sources = [*ours, *sorted((root / "flows").rglob("*.py")), *sorted((root / "tasks").rglob("*.py"))]
    for path in sources:
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    digest.update(environment["TIME_ZONE"].encode())
    return digest.hexdigest()


def deploy(root: Path, environment: Mapping[str, str], log: Path) -> None:
    """Run ``prefect deploy --all``; the checkout's folder is left for each worker's own environment to say.

    Raises:
        FleetError: it failed; its last line, and where the rest is.
    """
    environment = {name: value for name, value in environment.items() if name != "ZERO_FLEET_ROOT"}
    with log.open("w") as sink:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
            cwd=root, env=environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    if done.returncode:
        last = ([line for line in log.read_text().splitlines() if line.strip()] or ["no output"])[-1]
        raise FleetError(f"`prefect deploy --all` failed ({last.strip()[:200]})", f"read {log}")


async def refuse_unknown_parameters() -> None:
    """Let the server refuse a parameter that a flow does not have (409), as it refuses a bad value of one.

    Prefect leaves its parameter schemas open: such a run would be made, and crash without a sentence.
    """
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        for deployment in await client.read_deployments():
            schema = {**deployment.parameter_openapi_schema, "additionalProperties": False}  # type: ignore[dict-item]
            await client.request(
                "PATCH",
                "/deployments/{id}",
                path_params={"id": deployment.id},
                json={"parameter_openapi_schema": schema},
            )


async def crash_orphans(queues: list[str]) -> int:
    """Mark runs of ``queues`` as crashed: called when their workers are gone, and flows die with their worker.

    Without this a killed poll would stand as Running and keep the only slot of its queue.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
        WorkQueueFilter,
        WorkQueueFilterName,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    lost = FlowRunFilter(
        state=FlowRunFilterState(
            type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
        )
    )
    async with get_client() as client:
        runs = await client.read_flow_runs(
            flow_run_filter=lost, work_queue_filter=WorkQueueFilter(name=WorkQueueFilterName(any_=queues)), limit=200
        )
        for run in runs:
            await client.set_flow_run_state(
                run.id,
                Crashed(message="its worker ended before it; run it again, it goes on where it was cut off"),
                force=True,
            )
    return len(runs)


async def forget_missed_polls() -> int:
    """Delete scheduled runs of the queue health whose minute is past; how many there were.

    Prefect plans an hour of polls ahead. After a night they would all start, one after the other, only to say that they
    are superseded, and the first poll that sees anything would wait behind them.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterExpectedStartTime,
        FlowRunFilterState,
        FlowRunFilterStateType,
        WorkQueueFilter,
        WorkQueueFilterName,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.types import DateTime

    missed = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        expected_start_time=FlowRunFilterExpectedStartTime(before_=DateTime.fromtimestamp(time.time() - 60, UTC)),
    )
    async with get_client() as client:
        runs = await client.read_flow_runs(
            flow_run_filter=missed,
            work_queue_filter=WorkQueueFilter(name=WorkQueueFilterName(any_=["health"])),
            limit=200,
        )
        planned = [run for run in runs if run.auto_scheduled]
        for run in planned:
            await client.delete_flow_run(run.id)
    return len(planned)
