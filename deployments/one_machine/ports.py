"""The stack's ports: which it takes by its settings, which ones its processes really listen on, and what stands in the way."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from deployments.one_machine import processes
from deployments.one_machine.embedded_postgres import EmbeddedPostgres, home_of
from deployments.one_machine.settings import Stack, require_free
from tasks.errors import Conflict

POSTGRES = "postgres"


@dataclass(frozen=True)
class Port:
    """A port that the stack takes.

    Args:
        process: who listens there, by its name in `make status`.
        spoken: the same in words.
        setting: the variable that decides it.
    """

    number: int
    process: str
    spoken: str
    setting: str


def wanted(place: Stack, *, embedded: bool, demo: bool) -> list[Port]:
    """The ports that the settings call for.

    Args:
        place: the settings.
        embedded: whether the embedded PostgreSQL is used.
        demo: whether the demo's stand-ins run too.
    """
    after = "ZERO_FLEET_PORT (it takes the {} after it)"
    ports = [
        Port(place.port, "server", "Prefect", "ZERO_FLEET_PORT"),
        Port(place.gateway_port, "gateway", "the gateway", "GATEWAY_PORT (and GATEWAY_URL)"),
    ]
    if embedded:
        ports.append(Port(place.postgres_port, POSTGRES, "the embedded PostgreSQL", after.format("one")))
    if demo:
        ports.append(Port(place.smtp_port, "smtp-standin", "the SMTP stand-in", after.format("second")))
        google = "google-standin", "the Google stand-in", after.format("third to fifth")
        ports += [Port(place.google_port + more, *google) for more in range(3)]
    return ports


def clashes(ports: Iterable[Port]) -> list[str]:
    """A sentence for each two of ``ports`` that are one.

    >>> clashes([Port(4200, "server", "Prefect", "ZERO_FLEET_PORT"), Port(4200, "gateway", "the gateway", "GATEWAY_PORT")])
    ['GATEWAY_PORT: port 4200 for the gateway is taken by Prefect already (ZERO_FLEET_PORT); set another one.']
    """
    first: dict[int, Port] = {}
    found = []
    # The gateway's last, since that one can be moved by itself.
    for port in sorted(ports, key=lambda one: one.process == "gateway"):
        there = first.setdefault(port.number, port)
        if there is not port:
            name = port.setting.partition(" ")[0]
            found.append(
                f"{name}: port {port.number} for {port.spoken} is taken by {there.spoken} already "
                f"({there.setting.partition(' ')[0]}); set another one."
            )
    return found


def listening(place: Stack, name: str) -> int | None:
    """The port that the stack's process ``name`` was started on; None when it does not run."""
    if name == POSTGRES:
        home = home_of(place.fleet, place.state)
        return EmbeddedPostgres(home, place.postgres_port, "").port_now() if home.exists() else None
    process = processes.alive(name, place.run)
    try:
        return port_in(process.cmdline()) if process else None
    except psutil.Error:
        return None


def port_in(command: list[str]) -> int | None:
    """The port in a command line of ours: after ``--port``, else the last word.

    >>> port_in(["python", "-m", "x", "--port", "8000", "--y", "z"]), port_in(["python", "-m", "x", "4200"])
    (8000, 4200)
    """
    word = command[command.index("--port") + 1] if "--port" in command[:-1] else command[-1] if command else ""
    return int(word) if re.fullmatch(r"[0-9]+", word) else None


def moved(place: Stack) -> tuple[str, int] | None:
    """What runs on other ports than ZERO_FLEET_PORT says, in words, and the ZERO_FLEET_PORT of those; None: nothing does."""
    if not place.run.exists():
        return None
    for name, offset, spoken in (("server", 0, "stack"), (POSTGRES, 1, "stack's embedded PostgreSQL")):
        real = listening(place, name)
        if real is not None and real != place.port + offset:
            return f"this {spoken} runs on port {real}, and ZERO_FLEET_PORT is {place.port}", real - offset
    return None


def require_unmoved(place: Stack) -> None:
    """Return if what runs of this stack runs where the settings say.

    Containers hold the database's port and callers hold Prefect's, so nothing is moved while it runs.

    Raises:
        Conflict: it runs on other ports.
    """
    found = moved(place)
    if found:
        raise Conflict(found[0], f"type `make down` first, or set ZERO_FLEET_PORT={found[1]}")


def require_all_free(place: Stack, ports: Iterable[Port]) -> None:
    """Return if nobody but the stack itself listens on ``ports``.

    Raises:
        Conflict: somebody does; who, where the system tells.
    """
    for port in ports:
        if port.process.endswith("-standin"):  # asked for when it is started, since it may be a real part
            continue
        if listening(place, port.process) != port.number:
            require_free(port.number, port.spoken, port.setting)
