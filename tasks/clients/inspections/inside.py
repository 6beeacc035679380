"""Asking from inside the client's network whether PostgreSQL answers, with whatever the image has to open a socket with.

A PostgreSQL server answers eight bytes (an SSLRequest) with S or N before any login, so that no credentials are needed and
nothing else is taken for it.
"""

import json
import secrets as randomness
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from tasks.clients.containers import Seen
from tasks.clients.diagnosis import Check, Line, bad, good, unknown
from tasks.clients.engine import answers
from tasks.registry.names import LABEL_CLIENT, LABEL_FLEET

if TYPE_CHECKING:
    from docker import DockerClient

SECONDS = 5
"""Until a host that does not answer is given up."""
DEADLINE = 20.0
"""Seconds for a program that does not give up by itself."""
_PYTHON = """\
import errno, socket
def ask():
    try:
        s = socket.create_connection((%(host)s, %(port)d), %(seconds)d)
        s.sendall(bytes([0, 0, 0, 8, 4, 210, 22, 47]))
        return 'POSTGRES' if s.recv(1) in (b'S', b'N') else 'OTHER'
    except socket.gaierror: return 'ENOTFOUND'
    except socket.timeout: return 'ETIMEDOUT'
    except OSError as e: return errno.errorcode.get(e.errno, 'ERROR')
print('seen=' + ask())
"""
_NODE = (
    "const s=require('net').connect({host:%(host)s,port:%(port)d});"
    "const d=w=>{console.log('seen='+w);process.exit(0)};setTimeout(()=>d('ETIMEDOUT'),%(seconds)d*1000);"
    "s.on('error',e=>d(e.code||'ERROR'));s.on('connect',()=>s.write(Buffer.from([0,0,0,8,4,210,22,47])));"
    "s.on('data',b=>d('SN'.includes(String.fromCharCode(b[0]))?'POSTGRES':'OTHER'));s.on('end',()=>d('OTHER'));"
)
_BASH = (
    "if ! (exec 3<>/dev/tcp/$0/$1) 2>/dev/null; then echo seen=ECONNREFUSED; exit; fi; exec 3<>/dev/tcp/$0/$1; "
    "printf '\\0\\0\\0\\10\\4\\322\\26\\57' >&3; IFS= read -r -n1 -t%(seconds)d -u3 c; "
    "case $c in S|N) echo seen=POSTGRES;; *) echo seen=OTHER;; esac"
)
_NC = 'if nc -z -w %(seconds)d "$0" "$1"; then echo seen=OPEN; else echo seen=ECONNREFUSED; fi'
_NO_NC = "command -v nc >/dev/null 2>&1 || exit 127; "


@dataclass(frozen=True)
class Way:
    """A program of the image that can open a socket, and how it is told to."""

    program: str
    arguments: tuple[str, ...]

    @property
    def command(self) -> list[str]:
        """As the engine takes it."""
        return [self.program, *self.arguments]


def ways(host: str, port: int, main: Sequence[str] = ()) -> list[Way]:
    """The ways to try, the likeliest first.

    Args:
        main: the words that the container's own program is started with; one of them may be an interpreter at an
            unusual place.

    >>> [way.program for way in ways("db", 5432, ["/opt/bin/python3.11", "-s", "server.py"])]
    ['/opt/bin/python3.11', 'node', 'bun', 'python3', 'python', 'bash', 'sh']
    """
    values = {"host": json.dumps(host), "port": port, "seconds": SECONDS}
    node, python = ("-e", _NODE % values), ("-c", _PYTHON % values)
    found = []
    for word in main:
        name = word.rpartition("/")[2]
        if word.startswith("/") and name.startswith("python"):
            found.append(Way(word, python))
        if word.startswith("/") and name in ("node", "bun"):
            found.append(Way(word, node))
    return [
        *found,
        Way("node", node),
        Way("bun", node),
        Way("python3", python),
        Way("python", python),
        Way("bash", ("-c", _BASH % values, host, str(port))),
        Way("sh", ("-c", _NO_NC + _NC % values, host, str(port))),
    ]


def read(output: str) -> str | None:
    """The word that a way said; None: it said none, so the image does not have the program.

    >>> read("seen=POSTGRES"), read("exec: node: not found")
    ('POSTGRES', None)
    """
    for line in output.splitlines():
        if line.startswith("seen="):
            return line.removeprefix("seen=").strip()
    return None


def inside_line(
    client: "DockerClient",
    seen: Seen | None,
    found: dict[str, Any] | None,
    *,
    host: str,
    port: int,
    image_id: str,
    network: str,
    others: Sequence[str],
    labels: dict[str, str],
) -> Line:
    """Whether PostgreSQL at ``host`` and ``port`` answers from inside: by the container where it runs, else by another one of
    the same image in the same network, for a moment.

    Args:
        labels: of that other one, from ``labels_of``.
    """
    check = Check.FROM_INSIDE
    config = (found or _image(client, image_id)).get("Config") or {}
    main = [*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())]
    if seen is not None and seen.state == "running":
        for way in ways(host, port, main):
            word = read(within(DEADLINE, partial(_in_container, client, seen, way)))
            if word is not None:
                return meaning(word, host, port, f"{way.program.rpartition('/')[2]} in the container")
        return unknown(
            check,
            "the image has no node, bun, python, bash or nc to try it with",
            f"try it from another container in the network {network}",
        )
    if not image_id:
        return unknown(check, "there is no image to try it with")
    if not client.api.networks(names=[network]):
        return unknown(check, f"there is no network {network} yet to try it from")
    for way in ways(host, port, main):
        name = f"zero_look_{randomness.token_hex(4)}"
        with _removed(client, name):
            word = read(within(DEADLINE, partial(_beside, client, name, way, image_id, network, others, labels)))
        if word is not None:
            return meaning(word, host, port, f"{way.program.rpartition('/')[2]} in another container of its image")
    return unknown(check, "the image has no node, bun, python, bash or nc to try it with")


def within(seconds: float, ask: Callable[[], str]) -> str:
    """What ``ask`` gives, in a thread that is left alone after ``seconds``; that a host did not answer is then said for it.

    A shell has no deadline of its own for a connection, and the engine waits for a program as long as it runs.

    >>> within(0.01, lambda: str(threading.Event().wait(0.2)))
    'seen=ETIMEDOUT'
    """
    said: Future[str] = Future()

    def work() -> None:
        try:
            said.set_result(ask())
        except BaseException as error:
            said.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return said.result(seconds)
    except FutureTimeout:
        return "seen=ETIMEDOUT"


def meaning(word: str, host: str, port: int, how: str) -> Line:
    """The line for what a way said.

    >>> meaning("ENOTFOUND", "db", 5432, "node").seen
    'the host name db is not known there (asked by node)'
    """
    check, where, asked = Check.FROM_INSIDE, f"{host}:{port}", f"(asked by {how})"
    correct = "correct db_host or db_port of the spec, or the container's host in the block postgres-server"
    if word == "POSTGRES":
        return good(check, f"PostgreSQL answers at {where} {asked}")
    if word == "OPEN":
        return good(check, f"{where} takes connections {asked}")
    if word == "OTHER":
        return bad(check, f"something answers at {where} that is no PostgreSQL {asked}", correct)
    if word in ("ENOTFOUND", "EAI_AGAIN"):
        return bad(check, f"the host name {host} is not known there {asked}", correct)
    if word in ("ETIMEDOUT", "EHOSTUNREACH", "ENETUNREACH"):
        return bad(
            check,
            f"{where} does not answer ({word}) {asked}",
            "let the Docker networks through the firewall of the server, or " + correct,
        )
    return bad(
        check,
        f"{where} refuses the connection ({word}) {asked}",
        "let the server listen for the Docker networks (listen_addresses, firewall), or " + correct,
    )


def labels_of(fleet: str, slug: str) -> dict[str, str]:
    """So that a container that outlives its moment is found as the client's."""
    return {LABEL_FLEET: fleet, LABEL_CLIENT: slug}


def _image(client: "DockerClient", image_id: str) -> dict[str, Any]:
    import docker.errors

    try:
        return dict(client.api.inspect_image(image_id)) if image_id else {}
    except docker.errors.APIError:
        return {}


def _in_container(client: "DockerClient", seen: Seen, way: Way) -> str:
    import docker.errors

    with answers(f"run {way.program} in {seen.name}"):
        made = client.api.exec_create(seen.id, way.command)
        try:
            raw: bytes = client.api.exec_start(made["Id"])
        except docker.errors.APIError:  # the program is not there, as some engines say it
            return ""
    return raw.decode("utf-8", "replace")


@contextmanager
def _removed(client: "DockerClient", name: str) -> Iterator[None]:
    import docker.errors

    try:
        yield
    finally:
        with suppress(docker.errors.APIError):  # gone, or going
            client.api.remove_container(name, force=True, v=True)


def _beside(
    client: "DockerClient",
    name: str,
    way: Way,
    image_id: str,
    network: str,
    others: Sequence[str],
    labels: dict[str, str],
) -> str:
    import docker.errors

    api = client.api
    with answers("start a container to look from"):
        made = api.create_container(
            image_id,
            entrypoint=[way.program],
            command=list(way.arguments),
            name=name,
            labels=labels,
            host_config=api.create_host_config(
                network_mode=network,
                extra_hosts={"host.docker.internal": "host-gateway"},
                mem_limit=256 << 20,
                pids_limit=64,
                init=True,
                auto_remove=True,  # it goes also when we are killed
            ),
        )
        try:
            for other in others:
                api.connect_container_to_network(made["Id"], other)
            # Attached before it starts: afterwards its log may be gone with it.
            output = api.attach(made["Id"], stdout=True, stderr=False, stream=True)
            api.start(made["Id"])
            return b"".join(output).decode("utf-8", "replace")
        except docker.errors.APIError as error:
            if "executable file not found" in str(error.explanation) or "no such file" in str(error.explanation):
                return ""
            raise
