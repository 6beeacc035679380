"""SIGKILL in the middle of a run of the real stack, and running it again."""

import asyncio
import random
import time

import psutil
import pytest

from deployments.one_machine.runs import Api
from tests.deployments.one_machine.running import RunningStack, survivors

KILLS = ["the worker", "the worker and the flow", "the worker and the flow, and the server is restarted"]
STEPS = ["look", "claim", "database", "container", "ready"]
AGAIN_SECONDS = 60


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each kill at a moment of its own; with --soak each kill at each step, and at some random moments."""
    if "moment" not in metafunc.fixturenames:
        return
    if metafunc.config.getoption("--soak"):
        moments = [*STEPS, *(random.uniform(0.0, 3.0) for _ in range(5))]
        cases = [(kill, moment) for kill in KILLS for moment in moments]
    else:
        cases = list(zip(KILLS, ["database", "container", "ready"], strict=True))
    metafunc.parametrize(("kill", "moment"), cases)


def strike(stack: RunningStack, kill: str) -> None:
    """Kill what ``kill`` names; a flow process dies with its worker."""
    flows, worker = stack.flows_of("work"), stack.process("worker-work")
    if kill == "the worker":
        stack.kill(worker)
        assert not survivors(flows), "a flow process outlived its worker"
        return
    stack.kill(*flows, worker)
    if kill != "the worker and the flow":
        stack.kill(stack.process("server"))


@pytest.mark.soak
async def test_a_run_that_was_killed_is_finished_by_the_next(stack: RunningStack, slug, kill, moment):
    api = Api(stack.place)
    try:
        killed = await api.start("provision-client/default", {"client": slug, "spec": stack.spec()})
        if isinstance(moment, str):
            await stack.step_begun(slug, moment)
        else:
            while not stack.flows_of("work"):
                await asyncio.sleep(0.02)
            await asyncio.sleep(moment)
        strike(stack, kill)
        stack.up()
        if isinstance(moment, str):
            assert stack.state_of(killed) == "CRASHED"
        else:  # one that no worker had begun yet is begun by the new one, and one that was quick was done
            assert (await api.wait(killed, AGAIN_SECONDS)).state in ("CRASHED", "COMPLETED")
    finally:
        await api.close()
    began = time.monotonic()
    again = await stack.provision(slug)
    assert again.state == "COMPLETED", again.message
    stack.one_of_each(slug)
    assert time.monotonic() - began < AGAIN_SECONDS
    once_more = await stack.provision(slug)
    assert "nothing to change" in once_more.message


@pytest.mark.soak
async def test_a_killed_poll_does_not_block_the_next(stack: RunningStack, client, soak):
    for _ in range(5 if soak else 1):
        killed = await _kill_a_poll(stack)
        stack.up()
        assert stack.state_of(killed) == "CRASHED"
        ended = await _poll_that_was_not_in_the_way(stack)
        assert "healthy" in ended


async def _kill_a_poll(stack: RunningStack) -> str:
    """Freeze a poll in the middle and kill its worker; the poll's id."""
    api = Api(stack.place)
    try:
        for _ in range(10):
            run = await api.start("poll-fleet-health/default", {})
            while (state := await asyncio.to_thread(stack.state_of, run)) in ("SCHEDULED", "PENDING"):
                await asyncio.sleep(0.02)
            flows = stack.flows_of("health")
            for flow in flows:
                try:
                    flow.suspend()
                except psutil.NoSuchProcess:
                    continue
            if state == "RUNNING" and flows and await asyncio.to_thread(stack.state_of, run) == "RUNNING":
                stack.kill(stack.process("worker-health"))
                assert not survivors(flows), "a poll outlived its worker"
                return run
            for flow in flows:
                if flow.is_running():
                    flow.resume()
    finally:
        await api.close()
    raise AssertionError("no poll was caught in the middle")


async def _poll_that_was_not_in_the_way(stack: RunningStack) -> str:
    """A poll by hand; one that meets the minute's own is cancelled as it should be, and tried again."""
    for _ in range(5):
        ended = await stack.run("poll-fleet-health")
        if ended.state == "COMPLETED":
            return ended.message
        assert ended.state == "CANCELLED", ended.message
        await asyncio.sleep(1)
    raise AssertionError("every poll was cancelled: a killed one keeps the slot")
