"""provision-client on the real engine, a real PostgreSQL and a real Prefect server."""

import time

import httpx

from flows.clients.provision import provision_client
from tasks.registry import journal, queries
from tasks.registry.models import Status
from tasks.registry.spec import SpecChanges


def wanted(image: str, **changes) -> SpecChanges:
    """Changes that suit the stand-in."""
    return SpecChanges(image=image, memory=256, ready_within=30, **changes)


async def run(client: str, spec: SpecChanges | None = None):
    """The flow's final state."""
    return await provision_client(client, spec or SpecChanges(), return_state=True)


async def test_it_brings_a_client_up_and_says_where(house, zero_image, slug, docker_client):
    began = time.monotonic()
    state = await run(slug, wanted(zero_image))
    took = time.monotonic() - began
    assert state.is_completed(), state.message
    row = queries.get_instance(house, slug)
    assert state.message == f"{slug}: running at http://localhost:{row.host_port}"
    assert row.status == Status.RUNNING
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"http://127.0.0.1:{row.host_port}/api/auth/ok")
    assert answer.json() == {"ok": True}
    outside = 0.0
    for step in journal.latest(house, slug)[::-1]:
        print(step.step, (step.ended_at - step.started_at).total_seconds(), step.outside_seconds)
        outside += step.outside_seconds or 0
    print("took", took, "outside", outside, "own", (took - outside) / took)
    again = await run(slug)
    assert again.message == f"{slug}: nothing to change, running at http://localhost:{row.host_port}"
