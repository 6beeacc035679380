"""Waiting until a container serves: its state, then its answers, with a deadline and back-off, and the reason when it does not."""

import asyncio
import json
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.clients.containers import Seen
from tasks.clients.postgres import ownership_cure
from tasks.errors import FleetError, Unhealthy
from tasks.registry.spec import Probe

if TYPE_CHECKING:
    import httpx

FIRST_PAUSE, LAST_PAUSE = 0.05, 1.0
"""Seconds between two looks: short at first, half as long again each time."""
ANSWER_SECONDS = 5.0
LONGEST_BODY = 65_536
RESTARTS = 2
"""So many restarts while we wait are a crash loop."""


EXIT_CODES = {
    0: "its program came to an end by itself",
    126: "its start command may not be executed",
    127: "its start command is not in the image",
    137: "it was killed",
    139: "its program broke down",
    143: "it was told to stop",
}


@dataclass(frozen=True)
class Answer:
    """What a path answered: a status code and a body, or why there was none."""

    path: str
    code: int | None = None
    body: bytes = b""
    cause: str = ""

    def __str__(self) -> str:
        return f"{self.path} answers {self.code}" if self.code else f"{self.path}: {self.cause}"


def fits(probe: Probe, answer: Answer) -> bool:
    """Whether ``answer`` is what ``probe`` takes for healthy.

    >>> fits(Probe(path="/", json_has={"ok": True}), Answer("/", 200, b'{"ok": true, "more": 1}'))
    True
    """
    if answer.code not in probe.codes:
        return False
    if not probe.json_has:
        return True
    try:
        found = json.loads(answer.body)
    except ValueError:
        return False
    return isinstance(found, dict) and all(found.get(name, _NOTHING) == value for name, value in probe.json_has.items())


_NOTHING = object()


def dead(seen: Seen | None, restarts_before: int) -> str | None:
    """Why ``seen`` will not become ready by waiting, in words; None: it still may.

    >>> dead(None, 0)
    'it is gone'
    """
    if seen is None:
        return "it is gone"
    if seen.oom_killed:
        return "it was killed for want of memory"
    restarts = seen.restart_count - restarts_before
    if restarts >= RESTARTS:
        return looping(seen, restarts)
    if seen.state in ("exited", "dead"):
        known = EXIT_CODES.get(seen.exit_code)
        return f"it ended with exit code {seen.exit_code}{f': {known}' if known else ''}"
    if seen.state == "paused":
        return "it is paused"
    return None


def looping(seen: Seen, restarts: int) -> str:
    """That it crashes in a loop; with its last exit code, unless it was just started again and Docker shows none.

    >>> from tasks.clients.containers import Seen
    >>> looping(Seen("1", "a", "restarting", 1, False, 2, "", "", None, "", ""), 2)
    'it crashes in a loop (2 restarts, last exit code 1)'
    >>> looping(Seen("1", "a", "running", 0, False, 2, "", "", None, "", ""), 2)
    'it crashes in a loop (2 restarts)'
    """
    last = "" if seen.running else f", last exit code {seen.exit_code}"
    return f"it crashes in a loop ({restarts} restarts{last})"


_KINDS = ("schema", "table", "relation", "sequence", "view", "function", "type", "database")
_NOT_ITS_OWN = ("must be owner of", *(f"permission denied for {kind} " for kind in _KINDS))


_SAYINGS = (
    (
        ("too many clients already", "remaining connection slots"),
        "PostgreSQL has no connection left for it",
        "raise max_connections of the server, or end sessions that nobody needs",
    ),
    (("database system is starting up",), "PostgreSQL is still starting", "wait until it answers and run again"),
    (
        ("no space left on device", "could not extend file"),
        "there is no disk space left",
        "free some on the Docker host and on PostgreSQL's, and run again",
    ),
    (("heap out of memory",), "its program ran out of memory", "give it more with spec.memory"),
    (
        ("cannot find module", "err_module_not_found"),
        "its image lacks a part of the program",
        "pull or build the image again, or go back to the one before",
    ),
    (
        ("exec format error",),
        "its image is made for another kind of processor",
        "take or build an image for the Docker host's",
    ),
)
"""Words in a log, in small letters, what they mean, and what to do."""


def reason(lines: Sequence[str], role: str = "zero_client_…") -> tuple[str, str] | None:
    """What Zero's last words mean: the cause and its cure; None: nothing known.

    Args:
        lines: the end of its log, redacted.
        role: the client's in PostgreSQL.

    >>> reason(["Error: connect ECONNREFUSED 172.17.0.1:5432"])[0]
    'it does not reach PostgreSQL at 172.17.0.1:5432 from inside'
    """
    for line in reversed(lines):
        if "ECONNREFUSED" in line or "CONNECT_TIMEOUT" in line or "EHOSTUNREACH" in line:
            return (
                f"it does not reach PostgreSQL at {line.split()[-1]} from inside",
                "let the server listen for the Docker networks (listen_addresses, pg_hba.conf, firewall), or correct db_host "
                "and db_port of the spec",
            )
        if "ENOTFOUND" in line or "EAI_AGAIN" in line or "getaddrinfo" in line:
            return (
                "it cannot resolve the host name of its database",
                "correct db_host of the spec, or the container's host in the block postgres-server",
            )
        if "password authentication failed" in line:
            return (
                "PostgreSQL refuses its password",
                "see that db_host and db_port lead to the server of the block postgres-server, and run again",
            )
        if "no pg_hba.conf entry" in line:
            return (
                "PostgreSQL lets it not in from the container's address",
                "add a line for the Docker networks to the server's pg_hba.conf and reload it",
            )
        if "database" in line and "does not exist" in line:
            return ("PostgreSQL does not have its database", "see that db_host leads to the server of postgres-server")
        if any(sign in line for sign in _NOT_ITS_OWN):
            return (f"role {role} may not make or use its tables", ownership_cure(role))
        if "DATABASE_URL" in line and "not set" in line:
            return ("it got no DATABASE_URL", "run provision-client again")
        low = line.lower()
        for signs, cause, cure in _SAYINGS:
            if any(sign in low for sign in signs):
                return cause, cure
    return None


def verdict(name: str, why: str, lines: Sequence[str], memory: int) -> Unhealthy:
    """The error for a container that did not become ready; it carries ``lines`` besides its sentence.

    Args:
        why: from ``dead``, or what was last answered.
        lines: the end of its log, redacted.
        memory: its limit in MiB.
    """
    error = _verdict(name, why, lines, memory)
    error.last_lines = tuple(lines)
    return error


def _verdict(name: str, why: str, lines: Sequence[str], memory: int) -> Unhealthy:
    if "want of memory" in why:
        return Unhealthy(f"{name} did not become ready: {why} ({memory} MiB)", "give it more with spec.memory")
    known = reason(lines, name)  # role and container share the client's name
    if known is not None:
        return Unhealthy(f"{name} did not become ready: {known[0]} ({why})", known[1])
    last = f"; it last said: {lines[-1]}" if lines else ""
    return Unhealthy(f"{name} did not become ready: {why}{last}", f"read its log (`docker logs {name}`) and run again")


async def ask(client: "httpx.AsyncClient", base: str, path: str) -> Answer:
    """One GET with a deadline over all of it; redirects are answers, not followed."""
    import httpx

    try:
        async with asyncio.timeout(ANSWER_SECONDS), client.stream("GET", base + path) as response:
            body = b""
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > LONGEST_BODY:
                    break
            return Answer(path, response.status_code, body[:LONGEST_BODY])
    except TimeoutError:
        return Answer(path, cause=f"no answer in {ANSWER_SECONDS:.0f} s")
    except httpx.ConnectError:
        return Answer(path, cause="connection refused")
    except httpx.HTTPError as error:
        return Answer(path, cause=f"no proper answer ({type(error).__name__})")


async def first_good(
    client: "httpx.AsyncClient", base: str, probes: Sequence[Probe]
) -> tuple[Probe | None, list[Answer]]:
    """The first of ``probes`` that the service fits, and every answer until then."""
    answers: list[Answer] = []
    for probe in probes:
        answers.append(await ask(client, base, probe.path))
        if fits(probe, answers[-1]):
            return probe, answers
        if answers[-1].code is None:
            break  # nobody answers; other paths would not either
    return None, answers


def http_client() -> Any:
    """A client for plain HTTP on published ports, without a connection kept from one look to the next."""
    import httpx

    # Plain HTTP only: loading the certificates that nobody asks for would take 30 ms. This context trusts nobody.
    return httpx.AsyncClient(
        verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        trust_env=False,
        limits=httpx.Limits(max_keepalive_connections=0),
        timeout=ANSWER_SECONDS,
    )


async def serves(base: str, probes: Sequence[Probe]) -> bool:
    """Whether the service answers one of ``probes`` right now."""
    async with http_client() as client:
        return (await first_good(client, base, probes))[0] is not None


async def until_ready(
    inspect: Callable[[], Seen | None],
    base: str,
    probes: Sequence[Probe],
    deadline: float,
    lines: Callable[[bool], list[str]],
    name: str,
    memory: int,
    database: Callable[[], None] | None = None,
) -> str:
    """Wait until the container serves and its database lets it in; the path that said so.

    Args:
        inspect: looks at the container; blocking, called in a thread.
        base: ``http://127.0.0.1:20000``.
        deadline: seconds from now.
        lines: reads the end of the container's log, redacted; blocking. True: of one that died, only what it said until then.
        name: the container's.
        memory: its limit in MiB, for the sentence.
        database: raises a FleetError when the client's role does not get into its database; blocking.

    Raises:
        Unhealthy: it ended, loops, ran out of memory, or the deadline passed; with the reason and its last words.
        FleetError: from ``database``.
    """
    end = time.monotonic() + deadline
    pause, answers = FIRST_PAUSE, [Answer(probes[0].path, cause="not asked yet")]
    restarts_before: int | None = None
    async with http_client() as client:
        while True:
            seen = await asyncio.to_thread(inspect)
            if restarts_before is None:
                restarts_before = seen.restart_count if seen else 0
            why = dead(seen, restarts_before)
            died = why is not None
            if why is None and seen is not None and seen.running:
                good, answers = await first_good(client, base, probes)
                if good is not None:
                    if database is not None:
                        await asyncio.to_thread(database)
                    return good.path
            if why is None and time.monotonic() >= end:
                why = f"not within {deadline:.0f} s, " + ", ".join(str(answer) for answer in answers)
            if why is not None:
                raise verdict(name, why, await _last_words(lines, died), memory)
            await asyncio.sleep(min(pause, max(0.0, end - time.monotonic())))
            pause = min(pause * 1.5, LAST_PAUSE)


async def _last_words(lines: Callable[[bool], list[str]], died: bool) -> list[str]:
    try:
        return await asyncio.to_thread(lines, died)
    except FleetError:
        return []  # the reason we have is worth more than the log we do not
