"""What the clients' tests share."""

import pytest

from tests.standins.zero.build import TAG, build
from tests.tasks.clients.repositories import repository, tag, url

__all__ = ["repository", "tag", "url"]


@pytest.fixture(scope="session")
def zero_image(docker_client) -> str:
    """The stand-in's image on the real engine."""
    build(TAG, docker_client)
    return TAG
