"""Host ports: chosen from the fleet's range, seen to be free, and reserved in the registry before a container is made."""

import errno
import socket
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING

from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from tasks.clients.engine import answers
from tasks.clock import now
from tasks.errors import Conflict, InvalidInput, NotFound
from tasks.registry.models import ZeroInstance

if TYPE_CHECKING:
    from docker import DockerClient

HERE = frozenset({"local", "localhost", "127.0.0.1", "::1"})
"""Names of engines whose ports are asked for on this machine, so that no two clients on them may share one: its own engine,
another way to it, or a tunnel."""


def parse_range(text: str) -> range:
    """The ports of a setting like ``20000-29999``.

    Raises:
        InvalidInput: it is empty, or leaves 1 to 65535.

    >>> parse_range("20000-20009")
    range(20000, 20010)
    """
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last) <= 65535):
        raise InvalidInput(f"ZERO_FLEET_PORTS is {text!r}, which is no range of ports", "write it like 20000-29999")
    return range(int(first), int(last) + 1)


def first_free(ports: range, taken: Collection[int], free: Callable[[int], bool]) -> int:
    """The lowest port of ``ports`` that is not ``taken`` and that ``free`` finds free.

    Raises:
        Conflict: there is none.

    >>> first_free(range(20000, 20010), {20000, 20001}, lambda port: port != 20002)
    20003
    """
    for port in ports:
        if port not in taken and free(port):
            return port
    raise Conflict(
        f"every port from {ports[0]} to {ports[-1]} is taken",
        "widen ZERO_FLEET_PORTS, or give a host_port",
    )


def refuse_silent_change(
    stored: int | None, wanted: int | None, published: str | None, allowed: bool, slug: str
) -> None:
    """Refuse another ``wanted`` port once a redirect URI with the ``stored`` one was ``published``, unless ``allowed``.

    Args:
        wanted: 0 for one of the fleet's range; None: it stays.

    Raises:
        Conflict: with both ports and what the change costs.
    """
    if published and stored and wanted is not None and wanted != stored and not allowed:
        raise Conflict(
            f"host_port of {slug} would change from {stored} to {wanted or 'one of the range'}, and the redirect URI {published} was already given "
            "out for Google",
            "run again with allow_new_port=true and register the new URI with Google, or leave the port",
        )


def published(client: "DockerClient") -> dict[int, str]:
    """Every port that a running container publishes on the engine's host, and the container's name."""
    with answers("list its containers"):
        rows = client.api.containers()
    return {
        port["PublicPort"]: row["Names"][0].lstrip("/")
        for row in rows
        for port in row.get("Ports") or []
        if port.get("PublicPort") and port.get("Type", "tcp") == "tcp" and row.get("Names")
    }


def require_address(host_ip: str, engine: str) -> None:
    """See that ports can be published on ``host_ip`` of this machine, before a container that works is taken away for it.

    Raises:
        InvalidInput: this machine has no such address.
    """
    if engine == "local":
        bindable(host_ip, 0)


def bindable(host_ip: str, port: int) -> bool:
    """Whether ``port`` can be listened on at ``host_ip`` of this machine just now.

    Raises:
        InvalidInput: this machine has no address ``host_ip``.
    """
    family = socket.AF_INET6 if ":" in host_ip else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As Docker's own proxy does: a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host_ip, port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise InvalidInput(
                    f"host_ip {host_ip} is no address of the Docker host", "use 127.0.0.1, 0.0.0.0 or one it has"
                ) from None
            # Low ports need root, which the engine has.
            return error.errno in (errno.EACCES, errno.EPERM)
    return True


def free_on(host_ip: str, engine: str, held: Collection[int]) -> Callable[[int], bool]:
    """A test for ports: not ``held`` by a container and, where the engine is this machine's, bindable."""
    return lambda port: port not in held and (engine != "local" or bindable(host_ip, port))


def refuse_taken(port: int, host_ip: str, engine: str, held: dict[int, str], own: str) -> None:
    """Refuse an explicit ``port`` that somebody other than the container ``own`` has.

    Raises:
        Conflict: naming who has it, when Docker knows.
    """
    holder = held.get(port)
    if holder == own:
        return
    if holder is not None:
        raise Conflict(f"port {port} is taken by the container {holder}", "choose another host_port, or stop it")
    if engine == "local" and not bindable(host_ip, port):
        raise Conflict(
            f"port {port} on {host_ip} is taken by a program that is no container",
            f"find it with `ss -ltnp 'sport = :{port}'` and stop it, or choose another host_port",
        )


def reserved(engine: Engine, docker_host: str) -> dict[int, str]:
    """The ports reserved on ``docker_host`` or under another name of it, and whose they are."""
    with Session(engine) as session:
        rows = session.exec(select(ZeroInstance).where(col(ZeroInstance.docker_host).in_(_names(docker_host))))
        return {row.host_port: row.client for row in rows if row.host_port}


def _names(docker_host: str) -> frozenset[str]:
    return HERE if docker_host in HERE else frozenset({docker_host})


def reserve(engine: Engine, slug: str, docker_host: str, port: int) -> bool:
    """Reserve ``port`` for ``slug``, instead of the one it has. False: another client was faster.

    Raises:
        NotFound: no such client.
    """
    with Session(engine) as session:
        row = session.get(ZeroInstance, slug)
        if row is None:
            raise NotFound(f"there is no client {slug!r}", "run provision-client for it first")
        others = _names(docker_host) - {docker_host}  # its own name is the database's matter
        same = select(ZeroInstance).where(
            col(ZeroInstance.docker_host).in_(others), ZeroInstance.host_port == port, ZeroInstance.client != slug
        )
        if others and session.exec(same).first() is not None:
            return False
        row.docker_host, row.host_port, row.updated_at = docker_host, port, now()
        session.add(row)
        try:
            session.commit()
        except IntegrityError:
            session.rollback()
            return False
    return True


def claim(
    engine: Engine, slug: str, docker_host: str, explicit: int, owner_cure: str = "choose another host_port"
) -> int:
    """Reserve the ``explicit`` port.

    Raises:
        Conflict: another client has it.
    """
    if not reserve(engine, slug, docker_host, explicit):
        holder = reserved(engine, docker_host).get(explicit, "another client")
        raise Conflict(f"port {explicit} belongs to client {holder}", owner_cure)
    return explicit


def allocate(
    engine: Engine, slug: str, docker_host: str, ports: range, free: Callable[[int], bool], avoid: Iterable[int] = ()
) -> int:
    """Reserve the lowest free port of ``ports``; safe among any number of clients at once.

    Args:
        free: whether the host has the port free.
        avoid: ports that turned out to be taken just now.

    Raises:
        Conflict: none is left.
    """
    avoided = set(avoid)
    while True:
        port = first_free(ports, avoided | set(reserved(engine, docker_host)), free)
        if reserve(engine, slug, docker_host, port):
            return port
