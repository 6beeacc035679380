"""Containers that are well, and ill in several ways, on the real engine."""

import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tasks.registry.names import LABEL_CLIENT, LABEL_FLEET, ClientNames

SERVICE = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
        self.wfile.write(b'{"status":"healthy"}')
    def log_message(self, *given): pass
http.server.ThreadingHTTPServer(("", 3000), Handler).serve_forever()
"""


class Containers:
    """Makes containers as a client's Zero would be made."""

    def __init__(self, client: Any, fleet: str, image: str) -> None:
        self.client, self.fleet, self.image = client, fleet, image
        self.python = client.images.get(image).attrs["Config"]["Cmd"][0]
        self.made: list[Any] = []

    def run(self, program: str | None = SERVICE, slug: str = "", fleet: str = "", **other: Any) -> str:
        """A container that runs the Python ``program`` (None: made, not started); its client's slug."""
        slug = slug or f"h{secrets.token_hex(4)}"
        container = self.client.containers.create(
            self.image,
            [self.python, "-s", "-c", program or ""],
            name=ClientNames(slug).container,
            labels={LABEL_FLEET: fleet or self.fleet, LABEL_CLIENT: slug},
            init=True,
            **other,
        )
        self.made.append(container)
        if program is not None:
            container.start()
        return slug

    def of(self, slug: str) -> Any:
        """The SDK's object for the client's container."""
        return self.client.containers.get(ClientNames(slug).container)

    def wait(self, slug: str, what: Callable[[dict[str, Any]], bool], seconds: float = 20) -> None:
        """Until the inspection of the client's container shows ``what``."""
        until = time.monotonic() + seconds
        while not what(self.of(slug).attrs):
            assert time.monotonic() < until, self.of(slug).attrs["State"]
            time.sleep(0.1)


@pytest.fixture
def containers(docker_client: Any, fleet: str) -> Iterator[Containers]:
    """Containers of this session's fleet, gone afterwards."""
    from tests.standins.zero.build import TAG, build

    build(TAG, docker_client)
    made = Containers(docker_client, fleet, TAG)
    yield made
    for container in made.made:
        container.remove(force=True)
