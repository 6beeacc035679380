"""Mailing an 18 MiB file by the product's own sender: its time beside a plain TLS send of the same bytes, and its memory.

The server is a sink in a process of its own, which reads both alike and keeps nothing (see ``sink``). Plain is the whole mail
as it goes over the wire, from memory, over TLS with the same checks.
"""

import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tasks.backups.mail import Account
from tasks.backups.message import Letter, encoded
from tests.bench.backups.letters import mail_file, ours
from tests.bench.figures import Figure, Measure, in_turns

SIZE = 18 << 20


@dataclass(frozen=True)
class Place:
    """The sink's ports, the certificate to trust, and the file to mail."""

    smtp: int
    plain: int
    ca: str
    path: Path


@contextmanager
def _sink() -> Iterator[Place]:
    from tests.tasks.backups.mail_server import certificates

    with tempfile.TemporaryDirectory(prefix="zero-fleet-bench-") as name:
        folder = Path(name)
        ca, cert, key = certificates(folder)
        path = folder / "latest_backup.sql.gz"
        path.write_bytes(os.urandom(SIZE))
        command = [sys.executable, "-m", "tests.bench.backups.sink", str(cert), str(key)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sink:
            assert sink.stdin is not None and sink.stdout is not None
            try:
                smtp, plain = json.loads(sink.stdout.readline())
                yield Place(smtp, plain, str(ca), path)
            finally:
                sink.stdin.close()


@contextmanager
def _time() -> Iterator[Measure]:
    with _sink() as place:
        account, letter = ours(place.smtp, place.ca, place.path)
        with in_turns(
            partial(_mailed, account, letter, place.path), partial(_sent, place, _wire(letter, place.path))
        ) as one:
            yield one


def _wire(letter: Letter, path: Path) -> bytes:
    """What the mail is between DATA and its answer."""
    return b"".join((letter.head, encoded(path.read_bytes()), letter.tail, b".\r\n"))


def _mailed(account: Account, letter: Letter, path: Path) -> float:
    started = time.perf_counter()
    mail_file(account, letter, path)
    return time.perf_counter() - started


def _sent(place: Place, wire: bytes) -> float:
    started = time.perf_counter()
    context = ssl.create_default_context(cafile=place.ca)
    with (
        socket.create_connection(("localhost", place.plain), timeout=60) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as sock,
    ):
        sock.sendall(wire)
        if not sock.recv(100).startswith(b"250"):
            raise RuntimeError("the sink did not take it all")
    return time.perf_counter() - started


@contextmanager
def _memory() -> Iterator[Measure]:
    from tests.bench.backups.memory import alone

    with _sink() as place:
        given = {"port": place.smtp, "ca": place.ca, "path": str(place.path)}
        yield lambda number: alone("mail", given)


FIGURES = [
    Figure(
        "mail-beside-tls",
        "wall time of mailing an 18 MiB file (connect, TLS, login, envelope, mail) / of connecting and sending the same bytes over TLS",
        2.5,
        _time,
        rounds=11,
    ),
    Figure(
        "mail-memory",
        "MiB of resident memory at most while an 18 MiB file is mailed, less those of the same process idle before",
        12,
        _memory,
        rounds=3,
        unit="MiB",
        warm_up=False,
    ),
]
