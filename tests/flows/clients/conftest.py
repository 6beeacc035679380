"""A fleet's installation for the provision flow: blocks that point at the real test server and engine."""

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import Callable, Iterator

import pytest

from tests.standins.zero.build import TAG, build
from tests.standins.zero.variants import kept
from tests.tasks.clients.repositories import repository, tag, url

__all__ = ["repository", "tag", "url"]

_COUNT = itertools.count()


@pytest.fixture(scope="session")
def zero_image(docker_client) -> str:
    """The stand-in's image on the real engine."""
    build(TAG, docker_client)
    return TAG


@pytest.fixture(scope="session")
def next_image(docker_client, zero_image) -> Iterator[str]:
    """A newer image that works, and migrates the database."""
    with kept(docker_client, "next", sql="CREATE TABLE IF NOT EXISTS added (id int)") as tag:
        yield tag


@pytest.fixture(scope="session")
def bad_image(docker_client, zero_image) -> Iterator[str]:
    """A newer image that migrates the database, losing what it held, and then crashes."""
    sql = "CREATE TABLE IF NOT EXISTS added (id int); DROP TABLE IF EXISTS kept; INSERT INTO added VALUES (1)"
    with kept(docker_client, "bad", fault="crash", sql=sql) as tag:
        yield tag


@pytest.fixture(scope="session")
def house(prefect_api, installed_registry, postgres_server, docker_client, zero_image):
    """Blocks saved, image built, registry migrated; the registry's engine."""
    asyncio.run(save_blocks(postgres_server))
    return installed_registry


async def save_blocks(server, **changes) -> None:
    """The blocks that provisioning needs."""
    from pydantic import SecretStr

    from blocks.clients import PostgresServer
    from blocks.gmail import GoogleOAuthClient

    given = {
        "host": server.host,
        "port": server.port,
        "username": server.username,
        "password": SecretStr(server.password),
        "harden": True,
        **changes,
    }
    await PostgresServer(**given).asave("postgres-server", overwrite=True)
    await GoogleOAuthClient(client_id="zero.apps.example", client_secret=SecretStr("google-secret-of-tests")).asave(
        "google-zero", overwrite=True
    )


@pytest.fixture
def slug(docker_client, postgres_server) -> Iterator[str]:
    """A client of this test alone."""
    name = f"t{secrets.token_hex(3)}-{next(_COUNT)}"
    yield name
    forget(docker_client, postgres_server, name)


@pytest.fixture
def slugs(docker_client, postgres_server) -> Iterator[Callable[[], str]]:
    """Makes as many as a test needs."""
    made: list[str] = []

    def another() -> str:
        made.append(f"t{secrets.token_hex(3)}-{next(_COUNT)}")
        return made[-1]

    yield another
    for name in made:
        forget(docker_client, postgres_server, name)


def forget(docker_client, postgres_server, slug: str) -> None:
    """Remove what a test provisioned."""
    import docker.errors

    from tasks.registry.names import ClientNames

    names = ClientNames(slug)
    with contextlib.suppress(docker.errors.NotFound):
        docker_client.api.remove_container(names.container, force=True, v=True)
    with postgres_server.connect() as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {names.database} WITH (FORCE)")
        if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (names.role,)).fetchone():
            connection.execute(f"DROP ROLE {names.role}")
