"""What tests of image builds share: a git repository, the address that serves it, and a name for the image."""

import contextlib
import secrets

import docker.errors
import pytest

from tests.standins.git_server import Repository, served


@pytest.fixture
def repository(tmp_path) -> Repository:
    return Repository(tmp_path / "repository")


@pytest.fixture
def url(repository):
    """Where the repository is served as GitHub would."""
    with served(repository) as address:
        yield address


@pytest.fixture
def tag(docker_client):
    """A name for an image, gone afterwards."""
    name = f"zero-built-{secrets.token_hex(3)}:test"
    yield name
    with contextlib.suppress(docker.errors.ImageNotFound):
        docker_client.images.remove(name, force=True)
