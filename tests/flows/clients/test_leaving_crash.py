"""deprovision-client killed at any point: nobody works on the client meanwhile, and the next run ends where one run would have."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.settings import get_current_settings

from blocks.clients import ZeroSecrets
from blocks.documents import find
from tasks.registry import queries
from tasks.registry.names import ClientNames
from tests.flows.clients.test_deprovision import backups, deprovision, gone
from tests.flows.clients.test_provision import run, wanted

__all__ = ["backups"]
POINTS = ["database_removal._close", "-deprovision.forget"]
MORE = ["deprovision.begin", "-deprovision.begin", "containers.remove", "database_removal._drop_database", "-database_removal._drop_role",
        "deprovision.remove_database"]  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every point with --soak."""
    if "point" in metafunc.fixturenames:
        metafunc.parametrize("point", POINTS + MORE if metafunc.config.getoption("--soak") else POINTS)


async def killed(point: str, verb: str, name: str, pg_bin: Path) -> None:
    """A run in a process of its own, which dies."""
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.flows.clients.crash_leaving", point, verb, name, str(pg_bin)],
        env={**os.environ, **settings}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    said, _ = await asyncio.to_thread(process.communicate, timeout=90)
    assert process.returncode == -signal.SIGKILL, said


async def test_a_deprovisioning_that_was_killed_is_finished_by_the_next_run(
    house, zero_image, slug, docker_client, postgres_server, backups, pg_bin, point
):
    assert (await run(slug, wanted(zero_image, enabled=False))).is_completed()
    await killed(point, "deprovision", slug, pg_bin)
    row = queries.get_instance(house, slug)
    if point != "-deprovision.begin":
        refused = await run(slug)
        assert refused.is_failed() and f"run deprovision-client for {slug} again to finish it" in refused.message
        assert row.pending["operation"] == "deprovision"
        if point != "-deprovision.forget":
            assert await find(ZeroSecrets, ClientNames(slug).secrets_block), "a server may still know the password"
    state = await deprovision(slug)
    assert state.is_completed(), state.message
    file = backups / slug / "latest_backup.sql.gz"
    assert f"its final backup, proven by a trial restore, stays at {file}" in state.message and file.exists()
    assert await gone(house, docker_client, postgres_server, slug)
    anew = await run(slug, wanted(zero_image, enabled=False))
    assert anew.is_completed(), anew.message


async def test_a_backup_that_is_wanted_after_all_is_made_when_a_run_without_one_was_cut_off(
    house, zero_image, slug, docker_client, postgres_server, backups, pg_bin
):
    assert (await run(slug, wanted(zero_image, enabled=False))).is_completed()
    await killed("database_removal._close", "deprovision-without", slug, pg_bin)
    state = await deprovision(slug)
    assert state.is_completed() and "its final backup, proven by a trial restore" in state.message, state.message
    assert await gone(house, docker_client, postgres_server, slug)
