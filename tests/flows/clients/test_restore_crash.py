"""Restores over a client's database that were killed: the next run ends with one database, whole, and a service that answers."""

import asyncio
import gzip
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from prefect.settings import get_current_settings

from flows.backups.backup import backup_database
from flows.clients.restart import restart_zero
from flows.clients.start import start_zero
from tests.flows.clients.test_provision import run
from tests.flows.clients.test_restore import backups, kept, restored, settled, steady, write

__all__ = ["backups"]
OLD, NEW = ["after", "before"], ["before"]
# Where it dies, and what the database holds after the next run. Until the container runs on the restored database it is taken back.
POINTS = [
    ("database_swap.make", OLD),
    ("database_swap.swap", OLD),
    ("-database_swap.drop_old", NEW),
]
MORE = [
    ("-database_swap.make", OLD),
    ("database_swap.open_public_schema", OLD),
    ("backups/loading.load", OLD),
    ("trial.hold_still", OLD),
    ("backups/safety.dump", OLD),
    ("backups/safety.back_up", OLD),
    ("-database_swap.swap", OLD),
    ("-trial.bring_back", OLD),
    ("trial.bring_back", NEW),
    ("readiness.until_ready", NEW),
    ("restore._keep", NEW),
    ("-trial.over", NEW),
]


async def killed(point: str, client: str, pg_bin: Path, seconds: float = 0) -> str:
    """A run in a process of its own that dies at ``point``, or ``seconds`` after it began (or is through by then); what it said."""
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.flows.clients.crash_restore", point, client, "latest", str(pg_bin)],
        env={**os.environ, **settings}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    timer = threading.Timer(seconds, process.kill)
    if seconds:
        assert process.stdout is not None
        while (line := await asyncio.to_thread(process.stdout.readline)) and line != "begun\n":
            pass
        timer.start()
    said, _ = await asyncio.to_thread(process.communicate, timeout=120)
    timer.cancel()
    assert process.returncode == -signal.SIGKILL or (seconds and process.returncode == 0), (point, said[-2000:])
    return said[-3000:]


@pytest.fixture
async def client(house, zero_image, slug, postgres_server, backups) -> str:
    """A client whose latest backup has one row, and its database two."""
    assert (await run(slug, steady(zero_image))).is_completed()
    await write(postgres_server, slug, "before")
    assert (await backup_database(slug, return_state=True)).is_completed()
    await write(postgres_server, slug, "after")
    return slug


async def next_run(count: int, slug: str) -> None:
    """One of the flows that end what was cut off."""
    runs = [lambda: run(slug), lambda: start_zero([slug], return_state=True)]
    runs += [lambda: restart_zero([slug], return_state=True)]
    state = await runs[count % len(runs)]()
    assert state.is_completed(), state.message


def saved(folder: Path, slug: str) -> list[bytes]:
    """What the safety backups hold."""
    return [gzip.decompress(one.read_bytes()) for one in (folder / slug / "dated_backups").glob("before-*.sql.gz")]


async def test_a_restore_that_was_killed_is_taken_back_or_finished_by_the_next_run(
    house, client, docker_client, postgres_server, backups, pg_bin, soak
):
    for count, (point, held) in enumerate(POINTS + (MORE if soak else [])):
        said = await killed(point, client, pg_bin)
        await next_run(count, client)
        await settled(house, docker_client, postgres_server, client)
        assert await kept(postgres_server, client) == held, (point, said)
        if held == NEW:
            assert any(b"\nafter\n" in text for text in saved(backups, client)), point
            await write(postgres_server, client, "after")


async def test_a_restore_that_was_killed_at_any_moment_loses_nothing_and_leaves_nothing(
    house, client, docker_client, postgres_server, backups, pg_bin, soak
):
    dice = random.Random(7)
    for count in range(25 if soak else 2):
        await killed("none", client, pg_bin, dice.uniform(0.3, 7))
        if count % 2:
            await next_run(count, client)
        else:
            state = await restored(client)
            assert state.is_completed(), state.message
        await settled(house, docker_client, postgres_server, client)
        held = await kept(postgres_server, client)
        assert held in (OLD, NEW), count
        if held == NEW:
            assert any(b"\nafter\n" in text for text in saved(backups, client)), count
            await write(postgres_server, client, "after")
    assert (await restored(client)).is_completed()
    assert [one.name for one in backups.rglob("*.part")] == []
    assert await kept(postgres_server, client) == NEW
