"""A look at clients of several Docker hosts: each is judged by the engine that its own block leads to."""

import time

from tasks.errors import Unreachable
from tasks.health.judgement import Policy
from tasks.health.look import Host, Look, World
from tasks.health.samples import Container
from tests.tasks.health.test_judgement import YES, client


def running(slug: str, port: int) -> Container:
    """A container that is well."""
    return Container(f"zero_client_{slug}", "running", uptime=9000.0, published=(("127.0.0.1", port),))


def test_each_client_is_asked_where_its_own_block_leads() -> None:
    here, there = client(), client(client="beta", docker_block="second", docker_host="docker-2.example")
    world = World(
        {
            "": Host("local", {"acme": running("acme", 20000), "beta": running("beta", 1)}),
            "second": Host("docker-2.example", {"beta": running("beta", 20000)}),
        },
        databases={},
    )
    look = Look([here, there], Policy(), world, time.monotonic())
    (shard,) = look.shards()
    assert {slug: (one.host, one.port) for slug, one in shard.endpoints.items()} == {
        "acme": ("127.0.0.1", 20000),
        "beta": ("docker-2.example", 20000),
    }
    assert world.clients() == {"acme", "beta"}


def test_an_engine_that_does_not_answer_leaves_the_clients_of_others_as_they_are() -> None:
    here, there = client(), client(client="beta", docker_block="second", docker_host="docker-2.example")
    trouble = Unreachable("Docker does not answer", "start it")
    world = World({"": Host("local", {"acme": running("acme", 20000)}), "second": Host(trouble=trouble)}, databases={})
    look = Look([here, there], Policy(), world, time.monotonic())
    outcomes, troubles = look.outcomes({"acme": YES})
    assert {one.stored.client: (one.well, one.sample.unreachable) for one in outcomes} == {
        "acme": (True, ""),
        "beta": (False, "Docker does not answer; start it"),
    }
    assert troubles == {"docker-2.example": "Docker does not answer; start it"} and world.trouble is trouble


def test_a_block_that_leads_elsewhere_than_recorded_is_named() -> None:
    there = client(docker_block="second", docker_host="docker-2.example")
    look = Look([there], Policy(), World({"second": Host("local", {})}, databases={}), time.monotonic())
    (outcome,), _ = look.outcomes({})
    assert "correct the block second" in outcome.sample.unreachable
