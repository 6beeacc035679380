"""A run that was cancelled between its worker's taking it and its beginning is cancelled, and not Cancelling for ever."""

import os
import subprocess
import sys
import time

import psutil
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


ELSEWHERE = "import platform, runpy, sys; platform.system = lambda: 'Darwin'; sys.argv = ['x']; "
"""Begins a program that takes this machine for one without Linux's parent-death signal."""


def test_on_another_system_the_engine_is_started_too(prefect_api):
    # -I -S as the pool's command has it: neither our tree nor the site-packages are on the path of flow_process itself.
    code = ELSEWHERE + "runpy.run_path('deployments/one_machine/flow_process.py', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code],
        env=os.environ | {"PREFECT__FLOW_RUN_ID": "none"}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0 and "prefect" in done.stderr and "No module named" not in done.stderr


def test_on_another_system_the_engine_ends_with_its_worker():
    engine = "import runpy, time; runpy.run_module = lambda *a, **k: time.sleep(60); from deployments.one_machine import flow_engine; flow_engine.main()"
    worker = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {ELSEWHERE + engine!r}]).pid, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", worker], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        time.sleep(1)
        assert child.is_running()
        parent.kill()
    child.wait(30)
