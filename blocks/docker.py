"""Opening the Docker engine: the one that the block ``docker-host`` names, else the environment's (DOCKER_HOST, or the socket)."""

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from prefect.client.schemas.objects import BlockDocument

from blocks.documents import as_block

if TYPE_CHECKING:
    from docker import DockerClient

BLOCK = "docker-host"
TYPE = "docker-host"
"""Slug of the block's type; its class is imported only where such a block is found."""
TIMEOUT = 30
"""Seconds that one answer of the engine may take, unless the block says otherwise."""


def docker_host(document: BlockDocument | None) -> Any | None:
    """The DockerHost block that ``document`` holds."""
    if document is None:
        return None
    from prefect_docker import DockerHost

    return as_block(DockerHost, document)


def connect(block: Any | None) -> "DockerClient":
    """A client of the engine of ``block``, or of the environment's; blocks until it answers, at most ``TIMEOUT`` seconds.

    Raises:
        docker.errors.DockerException: it does not answer.
    """
    import docker

    if block is None:
        return docker.from_env(timeout=TIMEOUT)
    given = {"version": block.version, "timeout": block.timeout or TIMEOUT, **block.client_kwargs}
    if block.max_pool_size:
        given["max_pool_size"] = block.max_pool_size
    if block.base_url is None:
        return docker.from_env(**given)
    return docker.DockerClient(base_url=block.base_url, **given)


def engine_name(client: "DockerClient") -> str:
    """What the registry calls the engine: ``local`` for one behind a socket of this machine, else its host's name.

    Ports are unique per name. A published port is asked for on 127.0.0.1 when it is ``local``, else on that host.
    """
    url = urlsplit(client.api.base_url)
    return "local" if url.scheme == "http+docker" else (url.hostname or "local")[:100]
