"""Asking a Docker engine about all containers of the fleet in one call.

``containers.list()`` of the SDK inspects each one (60 containers: 200 ms); the low-level list takes 15 ms for all and
tells state, health and a rough uptime. RestartCount, exit code and OOMKilled stand only in an inspection, so only
those that look odd are inspected.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from tasks.clock import now
from tasks.errors import Refused, Unreachable
from tasks.health.samples import Container
from tasks.registry.names import LABEL_CLIENT, LABEL_FLEET, ClientNames

YOUNG = 300.0
"""Seconds; a container that has run for longer since its last start is in no crash loop."""
MOST_INSPECTED = 300
"""Containers in one poll; after a reboot of the host all of them are young."""
INSPECT_SECONDS = 10.0
"""For all inspections of one poll together."""

_UNITS = {
    "second": 1,
    "minute": 60,
    "hour": 3600,
    "day": 86_400,
    "week": 604_800,
    "month": 2_592_000,
    "year": 31_536_000,
}
_UP = re.compile(r"Up (?:(Less than a)|(About an?)|(\d+)) (\w+?)s?(?: \(.*\))?$")
_HEALTH = re.compile(r"\((healthy|unhealthy|health: starting)\)")


def uptime(status: str) -> float | None:
    """The least number of seconds that Docker's ``Status`` text stands for (go-units ``HumanDuration``).

    >>> uptime("Up 5 seconds"), uptime("Up About a minute (unhealthy)"), uptime("Up 3 hours"), uptime("Up Less than a second")
    (5.0, 60.0, 9000.0, 0.0)
    >>> uptime("Exited (1) 4 seconds ago") is None
    True
    """
    found = _UP.match(status)
    if found is None:
        return None
    less, about, number, unit = found.groups()
    if less:
        return 0.0
    size = float(_UNITS.get(unit, 1))
    if about:
        return size
    # Hours are rounded to the nearest, smaller units are cut.
    return int(number) * size - (size / 2 if unit == "hour" else 0)


def health_word(status: str) -> str:
    """The verdict of the image's own HEALTHCHECK in Docker's ``Status`` text.

    >>> health_word("Up 2 minutes (health: starting)"), health_word("Up 2 minutes")
    ('starting', '')
    """
    found = _HEALTH.search(status)
    return found.group(1).removeprefix("health: ") if found else ""


def look(
    client: Any,
    fleet: str,
    last_seen: Mapping[str, datetime | None],
    only: frozenset[str] | None = None,
    recorded: Mapping[str, str] | None = None,
) -> dict[str, Container]:
    """Every container of ``fleet`` on the engine, by client.

    Args:
        client: an open ``docker.DockerClient``; its timeout is the deadline of each call.
        fleet: the fleet's id, kept in the label.
        last_seen: when each client was checked last; a container that was started since is inspected.
        only: the clients that matter, or None for all.
        recorded: the id of each client's container as the registry has it; one that was adopted bears no label and is found by
            that, with a second call.

    Raises:
        Unreachable: the engine does not answer.
        Refused: the engine answers with an error.
    """
    listed = _call(lambda: client.api.containers(all=True, filters={"label": [f"{LABEL_FLEET}={fleet}"]}))
    found: dict[str, Container] = {}
    for entry in listed:
        slug = (entry.get("Labels") or {}).get(LABEL_CLIENT, "")
        # Beside the real one there may be a renamed one for a moment, while it is made anew.
        if f"/{ClientNames(slug).container}" in (entry.get("Names") or ()) and (only is None or slug in only):
            found[slug] = _listed(entry)
    absent = {known: slug for slug, known in (recorded or {}).items() if slug not in found}
    if absent:
        for entry in _call(lambda: client.api.containers(all=True, filters={"id": list(absent)[:MOST_INSPECTED]})):
            slug = absent.get(entry["Id"], "")
            if slug and f"/{ClientNames(slug).container}" in (entry.get("Names") or ()):
                found[slug] = _listed(entry)
    _inspect(client, found, _odd(found, last_seen))
    return found


def _listed(entry: dict[str, Any]) -> Container:
    status = entry.get("Status", "")
    return Container(
        name=entry["Names"][0].lstrip("/"),
        state=entry.get("State", ""),
        health=health_word(status),
        uptime=uptime(status),
        published=tuple(
            (port.get("IP", ""), port["PublicPort"]) for port in entry.get("Ports") or () if port.get("PublicPort")
        ),
    )


def _odd(found: Mapping[str, Container], last_seen: Mapping[str, datetime | None]) -> list[str]:
    """Those worth an inspection, the oddest first."""
    at = now()

    def young(slug: str) -> bool:
        since = last_seen.get(slug)
        window = min((at - since).total_seconds() + 5, YOUNG) if since else YOUNG
        up = found[slug].uptime
        return up is not None and up < window

    down = [slug for slug, container in found.items() if container.state != "running"]
    return [*down, *(slug for slug in found if found[slug].state == "running" and young(slug))][:MOST_INSPECTED]


def _inspect(client: Any, found: dict[str, Container], slugs: list[str]) -> None:
    from docker.errors import NotFound

    until = time.monotonic() + INSPECT_SECONDS
    for slug in slugs:
        if time.monotonic() > until:
            return
        try:
            told = _call(lambda name=found[slug].name: client.api.inspect_container(name))
        except NotFound:  # gone since the list was made
            del found[slug]
            continue
        except Refused:  # one that the engine is busy with; what the list said of it stands
            continue
        state = told.get("State") or {}
        found[slug] = replace(
            found[slug],
            state=state.get("Status") or found[slug].state,
            uptime=_seconds_since(state.get("StartedAt", "")) if state.get("Running") else None,
            restarts=int(told.get("RestartCount") or 0),
            exit_code=state.get("ExitCode"),
            out_of_memory=bool(state.get("OOMKilled")),
            error=str(state.get("Error") or "")[:200],
        )


def _seconds_since(started: str) -> float | None:
    if not started or started.startswith("0001"):  # Docker's zero: never started
        return None
    # Docker writes nanoseconds, Python reads microseconds.
    moment = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", started))
    return max((now() - moment).total_seconds(), 0.0)


def _call(ask: Any) -> Any:
    import requests
    from docker.errors import APIError, DockerException, NotFound

    try:
        return ask()
    except NotFound:
        raise
    except APIError as error:
        raise Refused(
            f"the Docker engine answered with an error ({str(error.explanation or error)[:150]})",
            "read the engine's log (journalctl -u docker)",
        ) from None
    except (DockerException, requests.exceptions.RequestException, OSError) as error:
        raise no_answer(error) from None


def no_answer(error: Exception, block: str = "docker-host") -> Unreachable:
    """The error for an engine that does not answer at all; ``block`` is the one that leads there.

    >>> print(no_answer(ConnectionRefusedError()))
    the Docker engine does not answer (ConnectionRefusedError); start it (systemctl start docker, or make up), or correct the block docker-host.
    """
    return Unreachable(
        f"the Docker engine{'' if block == 'docker-host' else f' of the block {block}'} does not answer ({type(error).__name__})",
        f"start it (systemctl start docker, or make up), or correct the block {block}",
    )
