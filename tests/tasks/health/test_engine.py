"""What a real engine tells of a fleet's containers in one look."""

import time
from datetime import timedelta
from typing import Any

import pytest

from tasks.clock import now
from tasks.errors import Unreachable
from tasks.health import engine
from tasks.health.samples import Container


def look(containers: Any, **seen: Any) -> dict[str, Container]:
    return engine.look(containers.client, containers.fleet, seen)


def test_one_look_tells_the_state_of_every_container_of_the_fleet_and_of_no_other(containers: Any) -> None:
    well = containers.run(ports={"3000/tcp": ("127.0.0.1", None)})
    ended = containers.run("raise SystemExit(3)")
    never_started = containers.run(None)
    foreign = containers.run(None, fleet="another")
    containers.wait(ended, lambda told: told["State"]["Status"] == "exited")
    found = look(containers)
    assert foreign not in found
    assert found[well].state == "running" and found[well].restarts == 0
    assert [ip for ip, _ in found[well].published] == ["127.0.0.1"]
    assert (found[ended].state, found[ended].exit_code) == ("exited", 3)
    assert found[never_started].state == "created"


def test_a_container_without_labels_is_found_by_the_id_that_the_registry_has(containers: Any) -> None:
    slug = containers.run(fleet="another")  # as good as none of ours
    own = containers.of(slug).id
    found = engine.look(containers.client, containers.fleet, {}, None, {slug: own, "gone": "0" * 64})
    assert found[slug].state == "running" and "gone" not in found
    assert slug not in engine.look(containers.client, containers.fleet, {}, None, {"other": own})


def test_only_the_odd_are_inspected(containers: Any) -> None:
    slug = containers.run()
    time.sleep(1.1)
    assert look(containers)[slug].restarts == 0, "young, and never seen before"
    # Docker's own words say "Up About a minute" only later, so the clock is moved instead.
    long_ago = now() + timedelta(seconds=60)
    assert look(containers, **{slug: long_ago})[slug].restarts is None


def test_a_container_that_keeps_ending_is_seen_by_its_restarts(containers: Any) -> None:
    slug = containers.run("raise SystemExit(1)", restart_policy={"Name": "always"})
    containers.wait(slug, lambda told: told["RestartCount"] >= 2)
    found = look(containers)[slug]
    assert found.restarts is not None and found.restarts >= 2
    assert found.state in ("restarting", "running")


def test_running_out_of_memory_is_told(containers: Any) -> None:
    slug = containers.run("x = b'x' * (400 << 20)", mem_limit="48m", memswap_limit="48m")
    containers.wait(slug, lambda told: told["State"]["Status"] == "exited")
    assert look(containers)[slug].out_of_memory


def test_an_engine_that_does_not_answer_is_unreachable_in_words(docker_client: Any) -> None:
    import docker

    gone = docker.DockerClient(base_url="tcp://127.0.0.1:1", version="1.41", timeout=2)
    with pytest.raises(Unreachable, match=r"the Docker engine does not answer .* start it"):
        engine.look(gone, "any", {})
