"""One whole stack for all tests here, with one client on it."""

import asyncio
import itertools
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.deployments.one_machine.running import PREFIX, RunningStack, remove, start, sweep
from tests.standins.zero.build import TAG, build

_COUNT = itertools.count()


@pytest.fixture(scope="session")
def stack(docker_client) -> Iterator[RunningStack]:
    """A stack in demo mode, with state, ports and fleet of its own; gone afterwards."""
    sweep()
    # A tag of its own: another checkout's demo may move the common one, and a moved local tag is a change to its clients.
    image = TAG
    build(image, docker_client)
    folder = Path("/tmp") / f"{PREFIX}{os.getpid()}"
    folder.mkdir(mode=0o700)
    try:
        yield start(folder, image)
    finally:
        remove(folder)


@pytest.fixture(scope="session")
def client(stack: RunningStack) -> str:
    """A client that serves."""
    slug = f"s{secrets.token_hex(3)}"
    ended = asyncio.run(stack.provision(slug))
    assert ended.state == "COMPLETED", ended.message
    return slug


@pytest.fixture
def slug() -> str:
    """A client that nobody has heard of."""
    return new_slug()


@pytest.fixture
def slugs() -> Callable[[], str]:
    """Makes as many as a test needs; the stack's end removes what becomes of them."""
    return new_slug


def new_slug() -> str:
    """A slug of this test alone."""
    return f"s{secrets.token_hex(3)}-{next(_COUNT)}"
