"""A run that was cancelled between its worker's taking it and its beginning is cancelled, and not Cancelling for ever."""

import os
import subprocess
import sys

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings
from prefect.states import Cancelling, Completed, Running, State

from deployments.one_machine import flow_engine


@flow
def nothing() -> None:
    """A flow to make runs of."""


async def made(state: State) -> str:
    async with get_client() as client:
        run = await client.create_flow_run(nothing)
        await client.set_flow_run_state(run.id, state, force=True)
    return str(run.id)


async def state_of(run: str) -> str:
    async with get_client() as client:
        state = (await client.read_flow_run(run)).state
    assert state is not None
    return state.type.value


@pytest.mark.parametrize(
    ("state", "after"), [(Cancelling(), "CANCELLED"), (Completed(), "COMPLETED"), (Running(), "RUNNING")]
)
async def test_only_a_run_that_is_cancelling_is_settled(prefect_api, state, after):
    run = await made(state)
    assert flow_engine.settle(run) is (after == "CANCELLED")
    assert await state_of(run) == after


async def test_the_engine_of_such_a_run_ends_it(prefect_api):
    run = await made(Cancelling())
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    done = subprocess.run(
        [sys.executable, "-m", "deployments.one_machine.flow_engine"],
        env={**os.environ, **settings, "PREFECT__FLOW_RUN_ID": run}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert await state_of(run) == "CANCELLED"


def test_an_engine_without_a_run_says_so_and_settles_nothing():
    assert flow_engine.settle("none") is False
