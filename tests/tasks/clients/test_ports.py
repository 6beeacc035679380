"""Ports: chosen, seen free on the real host, reserved once."""

import multiprocessing
import socket
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.clients.ports import (
    allocate,
    bindable,
    claim,
    first_free,
    parse_range,
    published,
    refuse_silent_change,
    refuse_taken,
    require_address,
    reserved,
)
from tasks.errors import Conflict, InvalidInput
from tasks.registry import queries


@given(st.sets(st.integers(20000, 20030)), st.sets(st.integers(20000, 20030)))
def test_the_lowest_port_that_nobody_has_is_chosen(taken, busy):
    ports = range(20000, 20030)
    left = [port for port in ports if port not in taken | busy]
    if left:
        assert first_free(ports, taken, lambda port: port not in busy) == left[0]
    else:
        with pytest.raises(Conflict, match="every port from 20000 to 20029 is taken"):
            first_free(ports, taken, lambda port: port not in busy)


@pytest.mark.parametrize("text", ["", "1-", "0-5", "5-4", "1-70000", "a-b", "20000", "²-5"])
def test_a_setting_that_is_no_range_is_refused(text):
    with pytest.raises(InvalidInput):
        parse_range(text)


def test_a_port_that_a_program_has_is_seen_and_refused():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        assert not bindable("127.0.0.1", port)
        with pytest.raises(Conflict, match=f"port {port} on 127.0.0.1 is taken by a program"):
            refuse_taken(port, "127.0.0.1", "local", {}, "zero_client_acme")
    assert bindable("127.0.0.1", port)


def test_an_address_that_this_host_has_not_is_refused():
    with pytest.raises(InvalidInput, match=r"203\.0\.113\.1"):
        bindable("203.0.113.1", 20000)


def test_the_container_that_has_the_port_is_named(docker_client, zero_image, fleet):
    from tasks.registry.names import LABEL_FLEET

    holder = docker_client.containers.run(
        zero_image,
        ["/bin/sleep", "60"],
        detach=True,
        init=True,
        ports={"9/tcp": ("127.0.0.1", 29871)},
        labels={LABEL_FLEET: fleet},
    )
    try:
        held = published(docker_client)
        assert held[29871] == holder.name
        with pytest.raises(Conflict, match=f"taken by the container {holder.name}"):
            refuse_taken(29871, "127.0.0.1", "local", held, "zero_client_acme")
        refuse_taken(29871, "127.0.0.1", "local", held, holder.name)
    finally:
        holder.remove(force=True)


def test_a_port_that_was_given_out_changes_only_with_leave():
    refuse_silent_change(20000, 20000, "http://localhost:20000/x", False, "acme")
    refuse_silent_change(20000, None, "http://localhost:20000/x", False, "acme")
    refuse_silent_change(20000, 20001, None, False, "acme")
    refuse_silent_change(20000, 20001, "http://localhost:20000/x", True, "acme")
    with pytest.raises(Conflict, match="allow_new_port=true"):
        refuse_silent_change(20000, 20001, "http://localhost:20000/x", False, "acme")


def test_an_address_that_this_machine_does_not_have_is_refused():
    require_address("127.0.0.1", "local")
    require_address("8.8.8.8", "another-host")
    with pytest.raises(InvalidInput, match=r"host_ip 8\.8\.8\.8 is no address of the Docker host"):
        require_address("8.8.8.8", "local")


def test_an_explicit_port_of_another_client_is_refused_by_name(registry):
    for slug in ("acme", "beta"):
        queries.register_client(registry, slug)
    assert claim(registry, "acme", "local", 20007) == 20007
    with pytest.raises(Conflict, match="port 20007 belongs to client acme"):
        claim(registry, "beta", "local", 20007)
    assert claim(registry, "beta", "other-host", 20007) == 20007
    assert queries.get_instance(registry, "acme").host_port == 20007


def _allocate(url: str, slug: str) -> int:
    from sqlalchemy import make_url

    from blocks.registry import open_engine

    engine = open_engine(make_url(url))
    queries.register_client(engine, slug)
    return allocate(engine, slug, "local", range(21000, 21040), lambda port: True)


def test_clients_that_allocate_at_once_get_ports_of_their_own(registry, soak):
    count = 20 if soak else 6
    url = registry.url.render_as_string(hide_password=False)
    context = multiprocessing.get_context("spawn" if sys.platform == "darwin" else "forkserver")
    with context.Pool(4) as pool:
        ports = pool.starmap(_allocate, [(url, f"client{number}") for number in range(count)])
    assert sorted(ports) == list(range(21000, 21000 + count))
    assert len(reserved(registry, "local")) == count
