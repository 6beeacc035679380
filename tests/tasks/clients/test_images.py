"""Finding an image: what is asked at a registry, with whose login, and when it is built."""

import json
import secrets
import threading
from base64 import urlsafe_b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tasks.clients import images
from tasks.errors import FleetError, NotConfigured, NotFound, Refused, Unreachable

NOWHERE = "zero-nowhere:1"


def test_an_image_found_nowhere_is_built_and_one_that_is_there_is_not(docker_client, zero_image):
    def never() -> str:
        raise AssertionError("it was built")

    found = images.local(docker_client, zero_image)
    assert images.resolve(docker_client, zero_image, "auto", build=never) == found
    assert images.resolve(docker_client, NOWHERE, "auto", build=lambda: "sha256:built") == "sha256:built"
    assert (
        images.resolve(docker_client, "registry.invalid/a/b:c", "auto", build=lambda: "sha256:built") == "sha256:built"
    )
    for pull in ("never", "always"):
        with pytest.raises(FleetError):
            images.resolve(docker_client, "registry.invalid/a/b:c", pull, build=never)


def test_a_build_that_fails_says_too_why_there_was_one(docker_client):
    def fails() -> str:
        raise Refused("a step failed", "mend it")

    with pytest.raises(
        Refused,
        match=r"zero-nowhere:1 is not on the Docker host, and .* and building it failed: a step failed; mend it\.",
    ):
        images.resolve(docker_client, NOWHERE, "auto", build=fails)


def test_a_label_is_read_and_a_missing_image_has_none(docker_client, zero_image):
    from tests.standins.zero.build import LABEL

    assert images.label(docker_client, zero_image, LABEL)
    assert images.label(docker_client, zero_image, "no-such") == images.label(docker_client, NOWHERE, LABEL) == ""


class _Registry(BaseHTTPRequestHandler):
    """Refuses everybody, and remembers the logins that were tried."""

    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.headers.get("Authorization", ""))
        body = json.dumps({"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}).encode()
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="tests"')
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def registry():
    """A registry on 127.0.0.1 (which the engine asks without TLS) that refuses everybody: its address, and what it saw."""
    seen: list[str] = []
    handler = type("Handler", (_Registry,), {"seen": seen})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}", seen
        server.shutdown()
        thread.join()


def test_the_login_reaches_its_registry_and_no_sentence(docker_client, registry):
    address, seen = registry
    password = "pw-" + secrets.token_hex(8)
    login = images.Login("ours", f"http://{address}", "robot", password)
    with pytest.raises(Refused, match=r"the registry does not give out .* registry_credentials") as caught:
        images.resolve(docker_client, f"{address}/zero:1", "always", login=login)
    tried = [urlsafe_b64decode(one.removeprefix("Basic ")).decode() for one in seen if one.startswith("Basic ")]
    assert tried and set(tried) == {f"robot:{password}"}
    assert password not in str(caught.value) and password not in repr(login)


def test_no_other_registry_sees_the_login(docker_client, registry):
    address, seen = registry
    login = images.Login("ours", "ghcr.io", "robot", "hunter22")
    with pytest.raises(
        NotConfigured, match=f"the block ours is for the registry ghcr.io, and {address}/zero:1 comes from"
    ):
        images.resolve(docker_client, f"{address}/zero:1", "auto", login=login, build=lambda: "x")
    assert not seen


@pytest.mark.parametrize(
    ("image", "registry_url"),
    [
        ("ghcr.io/a/b", "ghcr.io"), ("ghcr.io/a/b", "https://GHCR.io/"), ("a/b", "index.docker.io"),
        ("docker.io/a/b", "https://index.docker.io/v1/"), ("localhost:5000/a", "http://localhost:5000"),
    ],
)  # fmt: skip
def test_a_registry_is_known_under_each_of_its_names(image, registry_url):
    assert images.Login("x", registry_url, "u", "p").for_image(image) == {"username": "u", "password": "p"}


def test_a_registry_that_does_not_answer_is_said_to(docker_client):
    with pytest.raises((Unreachable, NotFound)):
        images.resolve(docker_client, "127.0.0.1:1/zero:1", "always")
