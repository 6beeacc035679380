"""This fleet's containers and networks, seen by the stack: stopped and started as a whole, removed by `make clean`."""

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tasks.registry.names import LABEL_CLIENT, LABEL_FLEET

LABEL_DEMO = "zero-fleet.demo"
"""On a demo's network: its state folder."""
LABEL_STANDIN = "zero-fleet.standin"
"""On the images that tests/standins/zero makes."""


def _client(seconds: int = 60) -> Any:
    import docker

    return docker.from_env(timeout=seconds)


def ours(fleet: str) -> list[dict[str, Any]]:
    """The fleet's containers as the engine lists them, stopped ones too."""
    client = _client()
    try:
        return list(client.api.containers(all=True, filters={"label": f"{LABEL_FLEET}={fleet}"}))
    finally:
        client.close()


def name(container: dict[str, Any]) -> str:
    """The container's name."""
    return str(container["Names"][0]).lstrip("/")


def client_of(container: dict[str, Any]) -> str:
    """The client's slug, from the label."""
    return str(container["Labels"].get(LABEL_CLIENT, "?"))


def stop_all(fleet: str, memory: Path) -> list[str]:
    """Stop the fleet's running containers and remember them in the file ``memory``; their names."""
    running = [found for found in ours(fleet) if found["State"] in ("running", "restarting", "paused")]
    if running or not memory.exists():
        memory.write_text(json.dumps([name(found) for found in running]))
    client = _client()
    try:
        for found in running:
            client.api.stop(found["Id"], timeout=10)
    finally:
        client.close()
    return [name(found) for found in running]


def start_remembered(fleet: str, memory: Path) -> tuple[list[str], list[str]]:
    """Start what ``stop_all`` stopped.

    Returns:
        The names of those that were started, and a line for each that was not; they are tried again the next time.
    """
    from docker.errors import APIError

    if not memory.exists():
        return [], []
    wanted = set(json.loads(memory.read_text()))
    started, failed = [], {}
    client = _client()
    try:
        for found in ours(fleet):
            if name(found) not in wanted or found["State"] not in ("exited", "created"):
                continue
            try:
                client.api.start(found["Id"])
                started.append(name(found))
            except APIError as error:
                failed[name(found)] = (
                    f"{name(found)} was not started again ({str(error.explanation).rsplit(': ', 1)[-1][:120]})"
                )
    finally:
        client.close()
    if failed:
        memory.write_text(json.dumps(sorted(failed)))
    else:
        memory.unlink()
    return started, list(failed.values())


def owner_of(container: str) -> str | None:
    """The fleet that the container called so belongs to; empty when it has no label, None when there is none."""
    from docker.errors import NotFound

    client = _client()
    try:
        labels = client.api.inspect_container(container)["Config"]["Labels"] or {}
        return str(labels.get(LABEL_FLEET, ""))
    except NotFound:
        return None
    finally:
        client.close()


def demo_home(fleet: str) -> Path | None:
    """The state folder of the demo that is ``fleet``, from its network's labels; None when it is no demo."""
    client = _client()
    try:
        found = client.api.networks(filters={"label": f"{LABEL_FLEET}={fleet}"}) if fleet else []
    finally:
        client.close()
    homes = [(network.get("Labels") or {}).get(LABEL_DEMO) for network in found]
    return next((Path(home) for home in homes if home), None)


def ensure_network(fleet: str, network: str, demo: Path | None = None) -> str:
    """Make the fleet's bridge when it is missing; its subnet, for pg_hba.conf.

    Args:
        demo: the state folder, when it is the demo's; kept in a label, so that a lost demo can be told.
    """
    client = _client()
    try:
        found = client.networks.list(names=[network])
        exact = [candidate for candidate in found if candidate.name == network]
        if not exact:
            exact = [
                client.networks.create(
                    network,
                    driver="bridge",
                    labels={LABEL_FLEET: fleet, **({LABEL_DEMO: str(demo)} if demo else {})},
                    options={"com.docker.network.bridge.enable_icc": "false"},
                )
            ]
        exact[0].reload()
        return str(exact[0].attrs["IPAM"]["Config"][0]["Subnet"])
    finally:
        client.close()


def remove_all(fleet: str, adopted: Iterable[str] = ()) -> list[str]:
    """Remove the fleet's containers and networks for good; the containers' names.

    Args:
        adopted: ids of containers that were made by hand and taken over, which have no label of ours.
    """
    from docker.errors import APIError

    names = []
    client = _client()
    try:
        for found in ours(fleet):
            with contextlib.suppress(APIError):
                client.api.remove_container(found["Id"], force=True, v=True)
            names.append(name(found))
        for one in adopted:
            with contextlib.suppress(APIError):  # gone, or removed by its label
                called = client.api.inspect_container(one)["Name"].lstrip("/")
                client.api.remove_container(one, force=True, v=True)
                names.append(called)
        for network in client.api.networks(filters={"label": f"{LABEL_FLEET}={fleet}"}):
            with contextlib.suppress(APIError):
                client.api.remove_network(network["Id"])
    finally:
        client.close()
    return names


def remove_stand_ins(tags: Iterable[str]) -> list[str]:
    """Remove those images of the Zero stand-in among ``tags`` that no container uses; their names.

    Others are another checkout's, or a test's that has no container of it yet.
    """
    from docker.errors import APIError

    names, wanted = [], set(tags)
    client = _client()
    try:
        for image in client.images.list(filters={"label": LABEL_STANDIN}, all=False):
            for tag in sorted(set(image.tags) & wanted):
                with contextlib.suppress(APIError):  # another checkout's container uses it
                    client.images.remove(tag)
                    names.append(tag)
    finally:
        client.close()
    return names
