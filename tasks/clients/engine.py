"""What the Docker engine's refusals mean, in an operator's words."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tasks.errors import Conflict, FleetError, Refused, Unreachable
from tasks.registry.host_ip import on_every_machine

START = "start it (`systemctl start docker`), or correct DOCKER_HOST or the block docker-host, and run again"


@contextmanager
def answers(doing: str) -> Iterator[None]:
    """Turn what the engine or the way to it throws inside the block into a FleetError.

    Args:
        doing: what was asked for, as in "Docker did not <doing>": ``start container zero_client_acme``.
    """
    try:
        yield
    except FleetError:
        raise
    except Exception as error:
        found = explain(error, doing)
        if found is None:
            raise
        raise found from None


def explain(error: Exception, doing: str) -> FleetError | None:
    """The error to raise for ``error``; None when it is not Docker's."""
    import docker.errors
    import requests.exceptions
    import urllib3.exceptions

    if isinstance(error, docker.errors.APIError):
        return refusal(said(error), doing)
    # What fails while a stream is read comes from urllib3 itself.
    if isinstance(error, requests.exceptions.Timeout | urllib3.exceptions.TimeoutError):
        return Unreachable(f"Docker did not {doing} in time", "look at its load (`docker info`) and run again")
    ways = docker.errors.DockerException | requests.exceptions.RequestException | urllib3.exceptions.HTTPError
    if isinstance(error, ways):
        return unreachable(str(error))
    return None


def unreachable(text: str) -> Unreachable:
    """Why no engine answers.

    >>> print(unreachable("('Connection aborted.', PermissionError(13, 'Permission denied'))"))
    Docker does not let this user in (permission denied on its socket); add the user to the group docker, log in again and run again.
    """
    low = text.lower()
    if "permission denied" in low:
        return Unreachable(
            "Docker does not let this user in (permission denied on its socket)",
            "add the user to the group docker, log in again and run again",
        )
    for sign, cause in (
        ("no such file", "there is no socket"),
        ("filenotfound", "there is no socket"),
        ("refused", "connection refused"),
        ("timed out", "timed out"),
        ("resolve", "no such host name"),
        ("certificate", "its certificate was not accepted"),
    ):
        if sign in low:
            return Unreachable(f"Docker does not answer ({cause})", START)
    return Unreachable("Docker does not answer", START)


def said(error: Any) -> str:
    """The engine's own words in an APIError, one line."""
    return " ".join(str(error.explanation or error).split())[:300]


def refusal(text: str, doing: str) -> FleetError:
    """What the engine's answer ``text`` means.

    >>> print(refusal("No space left on device", "create container x"))
    Docker has no disk space left (it did not create container x); free some (`docker system df`) and run again.
    """
    low = text.lower()
    if "no space left" in low:
        return Refused(
            f"Docker has no disk space left (it did not {doing})", "free some (`docker system df`) and run again"
        )
    if "address pool" in low:
        return Refused(
            f"Docker has no address range left for another network (it did not {doing})",
            "remove networks that nobody uses (`docker network prune`), or widen default-address-pools",
        )
    if port_taken(text):
        return Conflict(f"Docker did not {doing}: {text}", "free the port or choose another host_port")
    # Container ids say nothing to a person.
    return Refused(f"Docker did not {doing}: {re.sub(r'[0-9a-f]{64}', '…', text)}", "mend what it names and run again")


def port_taken(text: str) -> bool:
    """Whether the engine says that the host port is in use; both of its texts.

    >>> port_taken("Bind for 127.0.0.1:20000 failed: port is already allocated")
    True
    >>> port_taken("listen tcp4 127.0.0.1:20000: bind: address already in use")
    True
    """
    low = text.lower()
    return "port is already allocated" in low or "address already in use" in low


def address(host_ip: str, engine: str) -> str:
    """Where a port that is published on ``host_ip`` of the engine called ``engine`` is asked from here.

    >>> address("0.0.0.0", "docker-2.example"), address("10.0.0.5", "docker-2.example"), address("::1", "local")
    ('docker-2.example', '10.0.0.5', '[::1]')
    """
    return engine if on_every_machine(host_ip) and engine != "local" else usable(host_ip)


def usable(host_ip: str) -> str:
    """``host_ip`` as an address to connect to.

    >>> usable("0.0.0.0"), usable("::"), usable("127.0.0.1")
    ('127.0.0.1', '[::1]', '127.0.0.1')
    """
    if host_ip in ("", "0.0.0.0"):  # noqa: S104
        return "127.0.0.1"
    if host_ip == "::":
        return "[::1]"
    return f"[{host_ip}]" if ":" in host_ip else host_ip
