"""The containers that bear a fleet's label, whatever they are called: a client's own, what was kept aside, orphans."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.clients.engine import answers
from tasks.registry.names import LABEL_CLIENT, LABEL_FLEET

if TYPE_CHECKING:
    from docker import DockerClient


@dataclass(frozen=True)
class Labelled:
    """A container of the fleet, by its labels."""

    id: str
    name: str
    client: str


def containers_of(client: "DockerClient", fleet: str, slug: str = "") -> list[Labelled]:
    """Every container of ``fleet`` (of its client ``slug``, where one is given) on the engine, running or not; one call."""
    label = [f"{LABEL_FLEET}={fleet}", *([f"{LABEL_CLIENT}={slug}"] if slug else [])]
    with answers("list its containers"):
        rows = client.api.containers(all=True, filters={"label": label})
    return sorted(
        (
            Labelled(
                row["Id"], (row.get("Names") or [row["Id"][:12]])[0].lstrip("/"), row["Labels"].get(LABEL_CLIENT, "")
            )
            for row in rows
        ),
        key=lambda one: one.name,
    )


def orphans(found: Collection[Labelled], known: Collection[str]) -> list[Labelled]:
    """Those of ``found`` whose client is none of ``known``. They are said, and never removed unasked.

    >>> orphans([Labelled("1", "zero_client_acme", "acme"), Labelled("2", "zero_client_old", "old")], ["acme"])
    [Labelled(id='2', name='zero_client_old', client='old')]
    """
    return [one for one in found if one.client not in known]


def orphan_words(one: Labelled) -> str:
    """What an operator reads of an orphan.

    >>> orphan_words(Labelled("2", "zero_client_old", "old"))
    "the container zero_client_old bears this fleet's label, and the registry knows no client old: run provision-client for old to take it up, or deprovision-client to remove it"
    """
    return (
        f"the container {one.name} bears this fleet's label, and the registry knows no client {one.client or 'of it'}: "
        + (
            f"run provision-client for {one.client} to take it up, or deprovision-client to remove it"
            if one.client
            else f"remove it by hand (`docker rm -f {one.name}`) if nobody needs it"
        )
    )
