"""What the clients' tests share."""

import pytest

from tests.standins.zero.build import TAG, build


@pytest.fixture(scope="session")
def zero_image(docker_client) -> str:
    """The stand-in's image on the real engine."""
    build(TAG, docker_client)
    return TAG
