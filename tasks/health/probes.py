"""Asking many services whether they are well: HTTP/1.1 on plain asyncio streams, 0.2 ms of CPU a probe.

httpx needs 1 ms and rescans its pool quadratically with thousands of origins (encode/httpx#3215). We need no more of
HTTP than one GET on a connection of its own, so the little that is needed stands here, each part of it bounded.
"""

import asyncio
import errno
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from tasks.registry.spec import Probe

HEAD_LIMIT = 16 * 1024
"""Bytes of status line and headers."""
BODY_LIMIT = 64 * 1024
"""Bytes of a body; only read when the probe expects members in it."""
DEADLINE = 5.0
"""Seconds for one client, all its paths together."""
AT_ONCE = 256
"""Connections at once in one poll, so that a process with the usual 1024 files has room to spare."""
_INTERIM_ANSWERS = 5
_OUR_OWN = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}


class Failure(StrEnum):
    """How a probe failed."""

    REFUSED = "refused"
    TIMEOUT = "timeout"
    CLOSED = "closed"
    WRONG_CODE = "wrong code"
    WRONG_JSON = "wrong JSON"
    NOT_HTTP = "not HTTP"
    OURS = "ours"
    """This machine had no file or port left to ask with: says nothing about the client."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A service: where it listens, the name to call it by, and what to ask, in order."""

    host: str
    port: int
    name: str
    """The ``Host`` header. An unconfigured Zero takes its OAuth callback base from the first request's."""
    probes: tuple[Probe, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of asking one endpoint."""

    failure: Failure | None
    words: str
    """For people: ``/health answered 404``."""
    path: str = ""
    """The path that decided."""
    code: int | None = None
    latency_ms: float | None = None
    """Of the request that decided, with its connection."""

    @property
    def well(self) -> bool:
        """Whether one of the paths answered as a healthy service does."""
        return self.failure is None


class _Bad(Exception):
    """An answer that decides against its path, but leaves the next one a chance."""

    def __init__(self, failure: Failure, words: str, code: int | None = None) -> None:
        super().__init__(words)
        self.failure, self.words, self.code = failure, words, code


async def ask_all(
    endpoints: Mapping[str, Endpoint], slots: asyncio.Semaphore, deadline: float = DEADLINE
) -> dict[str, Answer]:
    """Ask every endpoint, as many at once as there are ``slots``.

    Args:
        endpoints: by client.
        slots: shared by everybody who asks at the same time.
        deadline: seconds for each endpoint, counted from when it has its slot.

    Returns:
        An answer for each; nothing is raised for what an endpoint does.
    """

    async def one(endpoint: Endpoint) -> Answer:
        async with slots:
            return await ask(endpoint, deadline)

    answers = await asyncio.gather(*map(one, endpoints.values()))
    return dict(zip(endpoints, answers, strict=True))


async def ask(endpoint: Endpoint, deadline: float = DEADLINE) -> Answer:
    """Ask one endpoint path by path until one answers as it should.

    Args:
        endpoint: whom.
        deadline: seconds for all paths together.
    """
    said: list[str] = []
    last: _Bad | None = None
    probe = endpoint.probes[0]
    started = time.perf_counter()
    try:
        async with asyncio.timeout(deadline):
            for probe in endpoint.probes:
                started = time.perf_counter()
                try:
                    code = await _exchange(endpoint, probe)
                except _Bad as bad:
                    said.append(bad.words)
                    last = bad
                    continue
                return Answer(None, f"{probe.path} answered {code}", probe.path, code, _since(started))
    except TimeoutError:
        said.append(f"{probe.path} did not answer within {deadline:g} s")
        return Answer(Failure.TIMEOUT, ", ".join(said), probe.path)
    except ConnectionRefusedError:
        return Answer(Failure.REFUSED, f"port {endpoint.port} on {endpoint.host} refuses connections", probe.path)
    except OSError as error:
        if error.errno in _OUR_OWN:
            return Answer(Failure.OURS, f"this machine could not ask ({error.strerror})", probe.path)
        words = f"{endpoint.host} cannot be reached ({error.strerror or type(error).__name__})"
        return Answer(Failure.REFUSED, words, probe.path)
    if last is None:
        raise ValueError("an endpoint without probes")
    return Answer(last.failure, ", ".join(said), probe.path, last.code, _since(started))


def _since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 2)


async def _exchange(endpoint: Endpoint, probe: Probe) -> int:
    """One GET on a connection of its own; the accepted code, or _Bad."""
    reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port, limit=HEAD_LIMIT)
    try:
        writer.write(
            f"GET {probe.path} HTTP/1.1\r\nHost: {endpoint.name}\r\nUser-Agent: zero-fleet-health\r\n"
            "Accept: application/json, */*\r\nConnection: close\r\n\r\n".encode("ascii")
        )
        code, headers = await _head(reader)
        if code not in probe.codes:
            raise _Bad(Failure.WRONG_CODE, f"{probe.path} answered {code}", code)
        if probe.json_has:
            _compare(probe, code, await _body(reader, headers))
        return code
    except asyncio.IncompleteReadError:
        raise _Bad(Failure.CLOSED, f"{probe.path} closed the connection in the middle of its answer") from None
    except (ConnectionResetError, BrokenPipeError):
        raise _Bad(Failure.CLOSED, f"{probe.path} closed the connection") from None
    except (asyncio.LimitOverrunError, ValueError):
        raise _Bad(Failure.NOT_HTTP, f"{probe.path} answered something that is not HTTP") from None
    finally:
        writer.close()


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    for _ in range(_INTERIM_ANSWERS):
        head = await reader.readuntil(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        version, _, rest = status.partition(" ")
        number = rest[:3]
        if not version.startswith("HTTP/1.") or not (number.isascii() and number.isdigit() and len(number) == 3):
            raise ValueError("no status line")
        code = int(number)
        if not 100 <= code < 200:
            pairs = (line.partition(":") for line in lines if line)
            return code, {name.strip().lower(): value.strip() for name, _, value in pairs}
    raise ValueError("nothing but interim answers")


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    """The body, at most BODY_LIMIT bytes of it (a longer one is no health answer and will not parse)."""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = bytearray()
        while len(body) <= BODY_LIMIT:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0].strip(), 16)
            if size <= 0:
                break
            body += await reader.readexactly(min(size, BODY_LIMIT + 1))
            if size <= BODY_LIMIT:
                await reader.readexactly(2)
        return bytes(body[:BODY_LIMIT])
    if "content-length" in headers:
        return await reader.readexactly(min(max(int(headers["content-length"]), 0), BODY_LIMIT))
    body = bytearray()
    while len(body) < BODY_LIMIT and (piece := await reader.read(BODY_LIMIT - len(body))):
        body += piece
    return bytes(body)


def _compare(probe: Probe, code: int, body: bytes) -> None:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _Bad(Failure.WRONG_JSON, f"{probe.path} answered {code} without a JSON object", code)
    for name, wanted in probe.json_has.items():
        value = found.get(name)
        # 1 == True in Python, not in JSON.
        if type(value) is not type(wanted) or value != wanted:
            raise _Bad(Failure.WRONG_JSON, f"{probe.path} answered {code} with another {name} than expected", code)
