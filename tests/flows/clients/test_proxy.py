"""A reverse proxy before a client with a domain: what Traefik reads off the container, and that it gets there."""

import contextlib
import secrets

import docker.errors
import httpx
import pytest

from tasks.clients.environment import GoogleClient, build, container_hash
from tasks.clients.secrets import Secrets
from tasks.registry.names import LABEL_FLEET, ClientNames
from tasks.registry.spec import ZeroSpec
from tests.flows.clients.test_provision import run, wanted

REACH = "import urllib.request as r; print(r.urlopen('http://{}:3000/api/auth/ok', timeout=3).status)"


@pytest.mark.parametrize(
    ("spec", "before"), [(ZeroSpec(), "ef7f58f7f55c5647"), (ZeroSpec(networks=["n"]), "a4b6b022b952f0af")]
)
def test_a_client_without_a_domain_keeps_the_hash_that_it_had_before_there_were_labels(spec, before):
    own = Secrets(database_password="d", better_auth_secret="b", autumn_key="a", api_token="t")
    environment = build(spec, ClientNames("acme"), 20000, own, GoogleClient("i", "s"), None, "h", 5432)
    assert container_hash(spec, environment, 20000, "net", "b", "1") == before


async def test_without_a_domain_nothing_is_for_a_proxy(house, zero_image, slug, docker_client):
    assert (await run(slug, wanted(zero_image))).is_completed()
    labels = docker_client.containers.get(ClientNames(slug).container).labels
    assert not any(name.startswith("traefik") for name in labels)


async def test_a_domain_is_told_to_traefik_which_gets_there_from_the_host_or_on_a_network_of_its_own(
    house, zero_image, slug, docker_client, fleet
):
    names, own = ClientNames(slug), f"proxy-{secrets.token_hex(3)}"
    network = docker_client.networks.create(own, labels={LABEL_FLEET: fleet})
    try:
        assert (await run(slug, wanted(zero_image, subdomain="Mail", domain="acme.example"))).is_completed()
        found = docker_client.containers.get(names.container)
        router = f"zero-{fleet}-{slug}"
        proxied = {name: value for name, value in found.labels.items() if name.startswith("traefik")}
        assert proxied == {
            "traefik.enable": "true",
            "traefik.docker.network": f"zero-fleet-{fleet}",
            f"traefik.http.routers.{router}.rule": "Host(`mail.acme.example`)",
            f"traefik.http.routers.{router}.entrypoints": "websecure",
            f"traefik.http.routers.{router}.tls": "true",
            f"traefik.http.routers.{router}.service": router,
            f"traefik.http.services.{router}.loadbalancer.server.port": "3000",
        }
        address = found.attrs["NetworkSettings"]["Networks"][f"zero-fleet-{fleet}"]["IPAddress"]
        async with httpx.AsyncClient(trust_env=False) as http:  # as a proxy on the host asks
            assert (await http.get(f"http://{address}:3000/api/auth/ok")).status_code == 200
        assert "200" not in from_container(docker_client, zero_image, f"zero-fleet-{fleet}", address, fleet)

        assert (await run(slug, wanted(zero_image, networks=[own]))).is_completed()
        found = docker_client.containers.get(names.container)
        assert found.labels["traefik.docker.network"] == own
        address = found.attrs["NetworkSettings"]["Networks"][own]["IPAddress"]
        assert "200" in from_container(docker_client, zero_image, own, address, fleet)
    finally:
        with contextlib.suppress(docker.errors.NotFound):
            docker_client.api.remove_container(names.container, force=True, v=True)
        network.remove()


def from_container(docker_client, image: str, network: str, address: str, fleet: str) -> str:
    """What a container on ``network`` hears when it asks the client's."""
    program = docker_client.images.get(image).attrs["Config"]["Cmd"][0]
    made = docker_client.containers.run(
        image, [program, "-c", REACH.format(address)], network=network, detach=True, labels={LABEL_FLEET: fleet}
    )
    try:
        made.wait(timeout=30)
        return made.logs().decode()
    finally:
        made.remove(force=True)
