"""Probes against real servers on sockets that misbehave as servers do."""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from tasks.health import probes
from tasks.health.probes import Answer, Endpoint, Failure
from tasks.registry.spec import Probe, ZeroSpec

Handler = Callable[[str, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = Probe(path="/api/auth/ok", json_has={"ok": True})
HEALTH = Probe(path="/health")


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[int]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            await handler(head.decode(), reader, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def saying(*pieces: bytes, pause: float = 0.0) -> Handler:
    async def handler(head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    return handler


def answer(body: bytes, code: str = "200 OK", extra: str = "") -> bytes:
    return f"HTTP/1.1 {code}\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body


async def asked(handler: Handler, *what: Probe, deadline: float = 2.0) -> Answer:
    async with serving(handler) as port:
        return await probes.ask(Endpoint("127.0.0.1", port, f"localhost:{port}", what or (OK,)), deadline)


async def test_a_healthy_service_is_well_with_its_latency() -> None:
    found = await asked(saying(answer(b'{"ok":true}')))
    assert found.well and found.code == 200 and found.path == "/api/auth/ok"
    assert found.latency_ms is not None and 0 < found.latency_ms < 2000


async def test_the_second_path_decides_when_the_first_does_not_exist() -> None:
    async def handler(head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b'{"ok":true}') if head.startswith("GET /api/auth/ok ") else answer(b"", "404 Not Found"))

    found = await asked(handler, *ZeroSpec().probe)
    assert found.well and found.path == "/api/auth/ok"


async def test_it_sends_the_public_name_as_host() -> None:
    heads: list[str] = []

    async def handler(head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        writer.write(answer(b""))

    async with serving(handler) as port:
        await probes.ask(Endpoint("127.0.0.1", port, "mail.acme.example", (HEALTH,)))
    assert "\r\nHost: mail.acme.example\r\n" in heads[0]


async def test_all_paths_are_named_when_none_fits() -> None:
    found = await asked(saying(answer(b"", "500 Internal Server Error")), HEALTH, OK)
    assert found.failure is Failure.WRONG_CODE and found.code == 500
    assert found.words == "/health answered 500, /api/auth/ok answered 500"


@pytest.mark.parametrize(
    "pieces",
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b'5\r\n{"ok"\r\n', b"6;x=y\r\n:true}\r\n0\r\n\r\n"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", answer(b'{"ok":true,"more":1}')),
        (b"HTTP/1.0 200 OK\r\n\r\n", b'{"ok":', b"true}"),
    ],
    ids=["chunked", "after an interim answer", "until the end of the connection"],
)
async def test_it_reads_a_body_however_it_comes(pieces: tuple[bytes, ...]) -> None:
    assert (await asked(saying(*pieces, pause=0.01))).well


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"ok":false}', "another ok"),
        (b'{"ok":1}', "another ok"),
        (b'{"ok":"true"}', "another ok"),
        (b"{}", "another ok"),
        (b"[true]", "without a JSON object"),
        (b"<html>", "without a JSON object"),
        (b"[" * 50_000, "without a JSON object"),
        (b'{"ok":true,"x":"' + b"x" * 300_000 + b'"}', "without a JSON object"),
    ],
    ids=["false", "one", "text", "lacking", "a list", "no JSON", "very deep", "huge"],
)
async def test_a_wrong_body_is_told_from_a_wrong_code(body: bytes, words: str) -> None:
    found = await asked(saying(answer(body)))
    assert found.failure is Failure.WRONG_JSON and found.code == 200 and words in found.words


async def test_an_endless_body_is_not_read_where_nothing_is_expected_in_it() -> None:
    started = time.monotonic()
    assert (await asked(saying(b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 1000] * 50, pause=0.05), HEALTH)).well
    assert time.monotonic() - started < 1


async def test_a_drip_of_bytes_ends_at_the_deadline() -> None:
    started = time.monotonic()
    found = await asked(saying(*[b"H"] * 100, pause=0.05), deadline=0.4)
    assert found.failure is Failure.TIMEOUT and found.words == "/api/auth/ok did not answer within 0.4 s"
    assert time.monotonic() - started < 1.5


async def test_all_paths_together_have_one_deadline() -> None:
    started = time.monotonic()
    found = await asked(saying(b"", pause=30), HEALTH, OK, deadline=0.3)
    assert found.failure is Failure.TIMEOUT and time.monotonic() - started < 1.5


async def test_a_port_where_nobody_listens_refuses() -> None:
    with socket.socket() as held:  # bound but not listening
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        found = await probes.ask(Endpoint("127.0.0.1", port, "x", (OK,)))
    assert found.failure is Failure.REFUSED and str(port) in found.words


async def test_a_reset_and_a_cut_answer_are_closed_connections() -> None:
    async def reset(head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    for handler in (reset, saying(), saying(b"HTTP/1.1 200"), saying(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")):
        assert (await asked(handler)).failure is Failure.CLOSED


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 40_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20,
    ],
    ids=["ssh", "no code", "huge head", "no length", "no chunk size", "only interim"],
)
async def test_what_is_not_http_is_said_to_be(said: bytes) -> None:
    assert (await asked(saying(said, pause=0.05))).failure is Failure.NOT_HTTP


async def test_a_name_that_does_not_resolve_cannot_be_reached() -> None:
    found = await probes.ask(Endpoint("no-such-host.invalid", 80, "x", (OK,)))
    assert found.failure is Failure.REFUSED and "cannot be reached" in found.words


async def test_no_more_are_asked_at_once_than_there_are_slots_and_one_that_hangs_holds_up_nobody() -> None:
    at_once = most = 0

    async def handler(head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(30 if "GET /hang" in head else 0.01)
        writer.write(answer(b"{}"))
        at_once -= 1

    async with serving(handler) as port:
        endpoints = {
            f"c{number}": Endpoint("127.0.0.1", port, "x", (Probe(path="/hang" if number == 0 else "/health"),))
            for number in range(60)
        }
        started = time.monotonic()
        answers = await probes.ask_all(endpoints, asyncio.Semaphore(8), deadline=0.8)
    assert time.monotonic() - started < 2
    assert most <= 8
    assert [slug for slug, found in answers.items() if not found.well] == ["c0"]
