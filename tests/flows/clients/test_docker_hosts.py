"""Several Docker hosts: a client's own DockerHost block, its ports, and that it stays where its container is."""

import secrets
import socket
import threading

import pytest

from flows.health.check import check_zero_health
from tasks.clients import ports
from tasks.registry import queries
from tasks.registry.names import ClientNames
from tasks.registry.spec import SpecChanges
from tests.flows.clients.test_provision import run, wanted

SOCKET = "/var/run/docker.sock"


class Way:
    """Another way to the machine's engine: TCP on 127.0.0.1, passed on to its socket."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port, self.passed = self.listener.getsockname()[1], 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            self.passed += 1
            far = socket.socket(socket.AF_UNIX)
            far.connect(SOCKET)
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return


@pytest.fixture
async def second(house):
    """The name of a DockerHost block that leads to the engine by another way, and that way."""
    from prefect_docker import DockerHost

    way, name = Way(), f"host-{secrets.token_hex(3)}"
    await DockerHost(base_url=f"tcp://127.0.0.1:{way.port}").asave(name)
    yield name, way
    way.listener.close()


async def test_a_client_runs_where_its_block_leads_and_stays_there(house, zero_image, slugs, docker_client, second):
    name, way = second
    first, other = slugs(), slugs()
    assert (await run(first, wanted(zero_image))).is_completed()
    here = queries.get_instance(house, first)
    taken = await run(other, wanted(zero_image, docker_host=name, host_port=here.host_port))
    assert taken.is_failed() and f"port {here.host_port} belongs to client {first}" in taken.message
    before = way.passed
    state = await run(other, wanted(zero_image, docker_host=name))
    assert state.is_completed(), state.message
    there = queries.get_instance(house, other)
    assert (here.docker_host, there.docker_host) == ("local", "127.0.0.1")
    assert there.host_port != here.host_port and way.passed > before
    assert "nothing to change" in (await run(other)).message
    before = way.passed
    checked = await check_zero_health([first, other], return_state=True)
    assert checked.is_completed() and checked.message.startswith("2 of 2 healthy"), checked.message
    assert way.passed > before

    for slug, changes in ((first, SpecChanges(docker_host=name)), (other, SpecChanges(reset=["docker_host"]))):
        moved = await run(slug, changes)
        assert moved.is_failed()
        assert f"{slug} has its container on the Docker host" in moved.message and "put docker_host" in moved.message
        assert docker_client.containers.get(ClientNames(slug).container).status == "running"
    assert queries.get_instance(house, other).spec["docker_host"] == name


async def test_a_block_that_is_missing_or_leads_nowhere_is_said_and_leaves_nothing(house, zero_image, slug, second):
    from prefect_docker import DockerHost

    missing = await run(slug, wanted(zero_image, docker_host="no-such-host"))
    assert missing.is_failed() and "the block no-such-host does not exist" in missing.message
    await DockerHost(base_url="tcp://127.0.0.1:1", timeout=5).asave(second[0], overwrite=True)
    nowhere = await run(slug, wanted(zero_image, docker_host=second[0]))
    assert nowhere.is_failed() and "Docker does not answer" in nowhere.message
    assert queries.find_instance(house, slug) is None


def test_a_port_is_anothers_on_a_host_of_its_own_and_not_under_another_name_of_this_one(house, slugs):
    one, two, three = slugs(), slugs(), slugs()
    for slug in (one, two, three):
        queries.register_client(house, slug)
    try:
        assert ports.reserve(house, one, "local", 19_999)
        assert not ports.reserve(house, two, "127.0.0.1", 19_999)
        assert ports.reserve(house, two, "docker-2.example", 19_999)
        assert not ports.reserve(house, three, "docker-2.example", 19_999)
        assert ports.allocate(house, three, "localhost", range(19_999, 20_500), lambda port: True) > 19_999
        assert ports.reserved(house, "127.0.0.1")[19_999] == one
    finally:
        for slug in (one, two, three):
            queries.forget_client(house, slug)
