"""Images, networks and containers on the real engine."""

import contextlib
import secrets
import socket
import time

import docker.errors
import pytest

from tasks.clients import containers, images
from tasks.clients.engine import answers
from tasks.errors import Conflict, FleetError, NotFound, Unreachable
from tasks.registry.names import LABEL_FLEET
from tasks.registry.spec import ZeroSpec


@pytest.fixture
def wanted(docker_client, zero_image, fleet):
    """A container that only sleeps for its database, not made yet; gone afterwards."""
    slug = f"c{secrets.token_hex(3)}"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    made = containers.Wanted(
        name=f"zero_client_{slug}",
        client=slug,
        fleet=fleet,
        image=zero_image,
        image_id=images.local(docker_client, zero_image) or "",
        spec=ZeroSpec(memory=128, restart="no"),
        spec_hash="hash",
        host_port=port,
        network=f"zero-fleet-{fleet}",
        environment={"DATABASE_URL": "postgresql://u:p%40ss-secret@127.0.0.1:1/x"},
    )
    containers.ensure_network(docker_client, made.network, fleet)
    yield made
    with contextlib.suppress(docker.errors.NotFound):
        docker_client.api.remove_container(made.name, force=True, v=True)


def test_a_container_is_made_as_wanted(docker_client, wanted):
    seen = containers.create(docker_client, wanted)
    assert (seen.state, seen.host_port, seen.client, seen.spec_hash) == (
        "created",
        wanted.host_port,
        wanted.client,
        "hash",
    )
    host = docker_client.api.inspect_container(seen.id)["HostConfig"]
    assert host["Init"] and host["PidsLimit"] == 512 and host["Memory"] == 128 << 20
    assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}
    assert host["ExtraHosts"] == ["host.docker.internal:host-gateway"]
    assert host["PortBindings"] == {"3000/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(wanted.host_port)}]}


@pytest.mark.parametrize("act", ["start", "stop", "remove"])
def test_a_paused_container_goes_on_or_stops_or_goes(docker_client, wanted, act):
    containers.create(docker_client, wanted)
    docker_client.api.start(wanted.name)
    docker_client.api.pause(wanted.name)
    seen = containers.inspect(docker_client, wanted.name)
    assert seen is not None and seen.state == "paused"
    if act == "start":
        containers.start(docker_client, seen, "127.0.0.1")
    elif act == "stop":
        containers.stop(docker_client, seen)
    else:
        containers.remove(docker_client, seen)
    after = containers.inspect(docker_client, wanted.name)
    assert (after.state if after else None) == {"start": "running", "stop": "exited", "remove": None}[act]


def test_making_it_again_takes_the_one_that_is_there(docker_client, wanted):
    assert containers.create(docker_client, wanted).id == containers.create(docker_client, wanted).id


def test_the_network_keeps_containers_apart_and_is_made_once(docker_client, wanted, fleet):
    containers.ensure_network(docker_client, wanted.network, fleet)
    found = docker_client.api.networks(names=[wanted.network])
    assert len(found) == 1
    assert found[0]["Options"]["com.docker.network.bridge.enable_icc"] == "false"
    with pytest.raises(Conflict, match="not this fleet's"):
        containers.require_networks(docker_client, [], wanted.network, "another")


def test_a_missing_network_is_refused_before_anything_is_made(docker_client, wanted, fleet):
    with pytest.raises(NotFound, match="no-such-net does not exist"):
        containers.require_networks(docker_client, ["no-such-net"], wanted.network, fleet)


def test_a_foreign_container_of_the_name_is_refused_in_words(docker_client, wanted, zero_image, fleet):
    docker_client.api.create_container(zero_image, name=wanted.name, labels={})
    with pytest.raises(Conflict, match="exists and belongs to nobody we know"):
        containers.create(docker_client, wanted)
    with pytest.raises(Conflict):
        containers.refuse_foreign(containers.inspect(docker_client, wanted.name), fleet, wanted.client)


def test_a_port_taken_at_start_is_known_as_such(docker_client, wanted):
    seen = containers.create(docker_client, wanted)
    with socket.socket() as held:
        held.bind(("127.0.0.1", wanted.host_port))
        held.listen()
        with pytest.raises(containers.PortTaken, match=f"port {wanted.host_port} on 127.0.0.1 was taken"):
            containers.start(docker_client, seen, "127.0.0.1")
    containers.start(docker_client, seen, "127.0.0.1")


def test_a_port_taken_by_another_container_is_known_as_such(docker_client, wanted, zero_image, fleet):
    other = docker_client.containers.run(
        zero_image,
        ["/bin/sleep", "60"],
        detach=True,
        init=True,
        ports={"9/tcp": ("127.0.0.1", wanted.host_port)},
        labels={LABEL_FLEET: fleet},
    )
    try:
        with pytest.raises(containers.PortTaken):
            containers.start(docker_client, containers.create(docker_client, wanted), "127.0.0.1")
    finally:
        other.remove(force=True)


def test_log_lines_hold_no_secret(docker_client, wanted, zero_image):
    made = docker_client.containers.run(
        zero_image,
        ["/bin/sh", "-c", "echo start; echo token=hunter22; echo url postgres://u:p%40ss-secret@h/x"],
        name=wanted.name,
        detach=True,
    )
    made.wait()
    lines = containers.last_lines(
        docker_client, containers.inspect(docker_client, wanted.name), ["hunter22", "p@ss-secret"]
    )
    assert lines == ["start", "token=***", "url postgres://u:***@h/x"]


def test_the_last_words_of_one_that_is_started_again_and_again_are_those_before_its_end(
    docker_client, wanted, zero_image
):
    made = docker_client.containers.run(
        zero_image,
        ["/bin/sh", "-c", "echo begins; if [ -e ended ]; then sleep 60; fi; > ended; echo why; exit 1"],
        name=wanted.name,
        working_dir="/tmp",
        restart_policy={"Name": "unless-stopped"},
        detach=True,
    )
    deadline = time.monotonic() + 20
    while made.logs().count(b"begins") < 2:
        assert time.monotonic() < deadline, made.logs()
        time.sleep(0.05)
    seen = containers.inspect(docker_client, wanted.name)
    assert containers.last_lines(docker_client, seen, []) == ["begins", "why", "begins"]
    assert containers.last_words(docker_client, seen, []) == ["begins", "why"]


def test_a_local_image_is_found_and_a_bare_name_is_never_pulled(docker_client, zero_image):
    assert images.resolve(docker_client, zero_image, "auto").startswith("sha256:")
    with pytest.raises(
        NotFound, match="zero-production:latest is not on the Docker host, and a name without a registry"
    ):
        images.resolve(docker_client, "zero-production:latest", "auto")
    with pytest.raises(NotFound, match="not on the Docker host;"):
        images.resolve(docker_client, "ghcr.io/none/none:none", "never")


def test_an_image_that_cannot_be_pulled_is_one_sentence(docker_client):
    with pytest.raises(NotFound, match="could not be pulled") as caught:
        images.resolve(docker_client, "registry.invalid/none/none:none", "auto")
    assert "\n" not in str(caught.value)
    with pytest.raises(FleetError):
        images.resolve(docker_client, "registry.invalid/none/none:none", "always")


def test_with_auto_an_image_that_cannot_be_pulled_is_taken_from_the_host(docker_client, zero_image):
    name = "registry.invalid/zero:test"
    found = docker_client.images.get(zero_image)
    found.tag("registry.invalid/zero", "test")
    try:
        assert images.resolve(docker_client, name, "auto") == found.id
        assert images.resolve(docker_client, name, "auto", pinned=found.id) == found.id
    finally:
        docker_client.images.remove(name, noprune=True)


def test_an_engine_that_is_not_there_is_said_to_be():
    with pytest.raises(Unreachable, match=r"Docker does not answer .there is no socket"), answers("answer"):
        docker.DockerClient(base_url="unix:///nowhere/docker.sock", version="auto")
    with pytest.raises(Unreachable, match=r"Docker does not answer .connection refused"), answers("answer"):
        docker.DockerClient(base_url="tcp://127.0.0.1:1", version="auto", timeout=5)
