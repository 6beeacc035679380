"""Looking at the published port: is it the registered one, and who else has it?"""

from typing import TYPE_CHECKING, Any

from tasks.clients import ports
from tasks.clients.containers import Seen
from tasks.clients.diagnosis import Check, Line, bad, good, unknown
from tasks.clients.environment import CONTAINER_PORT
from tasks.errors import InvalidInput

if TYPE_CHECKING:
    from docker import DockerClient


def port_line(
    client: "DockerClient",
    seen: Seen | None,
    found: dict[str, Any] | None,
    *,
    port: int | None,
    host_ip: str,
    engine: str,
    slug: str,
    name: str,
) -> Line:
    """Published as registered while it runs; free for it while it does not."""
    if port is None:
        return unknown(Check.PORT, "no port is registered yet", f"run provision-client for {slug}")
    if seen is not None and seen.host_port not in (None, port):
        return bad(
            Check.PORT,
            f"the container publishes {seen.host_port}, registered is {port}",
            f"run provision-client for {slug}",
        )
    if seen is not None and found is not None and seen.running:
        bound = bindings(found)
        if (host_ip, port) in bound or ("0.0.0.0", port) in bound:  # noqa: S104
            return good(Check.PORT, f"{host_ip}:{port} is published")
        shown = ", ".join(f"{address}:{number}" for address, number in bound) or "none"
        return bad(
            Check.PORT, f"{host_ip}:{port} is not published (published: {shown})", f"run provision-client for {slug}"
        )
    holder = ports.published(client).get(port)
    if holder is not None and holder != name:
        return bad(
            Check.PORT,
            f"port {port} is taken by the container {holder}",
            f"stop it (docker stop {holder}), or give {slug} another host_port",
        )
    if engine != "local":
        return good(Check.PORT, f"no container has {port}; what else has it cannot be seen from here")
    try:
        free = ports.bindable(host_ip, port)
    except InvalidInput as error:
        return bad(Check.PORT, error.what, error.cure)
    if not free:
        return bad(
            Check.PORT,
            f"port {port} on {host_ip} is taken by {process_on(port)}",
            f"stop it (ss -ltnp 'sport = :{port}' shows it too), or give {slug} another host_port",
        )
    return good(Check.PORT, f"{host_ip}:{port} is free for it")


def bindings(found: dict[str, Any]) -> list[tuple[str, int]]:
    """Where a running container is published, by the engine's long answer."""
    rows = ((found.get("NetworkSettings") or {}).get("Ports") or {}).get(f"{CONTAINER_PORT}/tcp") or []
    return [(row.get("HostIp") or "0.0.0.0", int(row["HostPort"])) for row in rows]  # noqa: S104


def process_on(port: int) -> str:
    """The program that listens on ``port`` of this machine, as far as we may see it."""
    import psutil

    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                if connection.pid is None:
                    break
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    except (psutil.Error, OSError):
        return "a program that is no container"
    return "a program that is no container, of another user"
