"""A mail server to send to without the internet: aiosmtpd with STARTTLS required, a login, a size limit, and faults on request.

What it takes is stored as ``.eml`` files, each there in one step and in the order of their names. Faults are asked for by the
recipient's name before the @ (see ``FAULTS``).
"""

import asyncio
import itertools
import os
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session, syntax

FAULTS = {
    "refused": "550 5.1.1 no such user here",
    "full": "552 5.2.2 mailbox full",
    "ratelimit": "450 4.2.1 rate limit exceeded",
}
"""Recipients that are refused at RCPT. Besides: greylist (451 the first time), cut (the connection is cut inside DATA, the
first time), silent (nothing is said to DATA), vanish (it is cut when the whole mail is there, the first time), keepvanish (the same, but the
mail was stored), toobig (552 after DATA), bigfile (552 after DATA when a file is attached)."""


@dataclass
class Post:
    """What the server knows and has seen."""

    user: str
    password: str = field(repr=False)
    maildir: Path
    greylisted: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)
    vanished: set[str] = field(default_factory=set)
    connections: int = 0
    _count: Any = field(default_factory=itertools.count)

    def store(self, content: bytes) -> Path:
        """Put a mail into the folder in one step."""
        name = f"{time.time_ns():020d}-{os.getpid()}-{next(self._count):04d}"
        part = self.maildir / f".{name}.part"
        part.write_bytes(content)
        path = self.maildir / f"{name}.eml"
        part.rename(path)
        return path

    def authenticate(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        """aiosmtpd's authenticator: one user."""
        good = isinstance(data, LoginPassword) and (data.login, data.password) == (
            self.user.encode(),
            self.password.encode(),
        )
        return AuthResult(success=good, handled=False)

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Take a recipient, or commit the fault that it asks for."""
        name = address.partition("@")[0]
        if name in FAULTS:
            return FAULTS[name]
        if name == "greylist" and address not in self.greylisted:
            self.greylisted.add(address)
            return "451 4.7.1 greylisted, try again later"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Store a mail, or commit the fault that a recipient asks for."""
        names = {address.partition("@")[0] for address in envelope.rcpt_tos}
        content = envelope.content
        assert isinstance(content, bytes)
        vanishing = names & {"vanish", "keepvanish"} - self.vanished
        if vanishing:
            self.vanished |= vanishing
            if "keepvanish" in vanishing:
                self.store(content)
            assert server.transport is not None
            server.transport.abort()
            return "421 gone"
        if "toobig" in names or ("bigfile" in names and b"Content-Disposition: attachment" in content):
            return "552 5.3.4 message too big"
        return f"250 2.0.0 stored as {self.store(content).name}"


class Server(SMTP):
    """aiosmtpd's protocol, which can cut a connection inside DATA."""

    event_handler: Post

    @syntax("DATA")
    async def smtp_DATA(self, arg: str) -> None:
        """As aiosmtpd's, unless a recipient asks for the cut and did not get it yet."""
        assert self.envelope is not None
        if any(address.startswith("silent@") for address in self.envelope.rcpt_tos):
            await asyncio.Event().wait()  # until aiosmtpd cancels us
        asked = [address for address in self.envelope.rcpt_tos if address.startswith("cut@")]
        if asked and asked[0] not in self.event_handler.cut:
            self.event_handler.cut.add(asked[0])
            await self.push("354 go on")
            await asyncio.sleep(0.05)
            assert self.transport is not None
            self.transport.abort()
            await asyncio.Event().wait()  # until aiosmtpd cancels us; what is in its buffer are no commands
        await super().smtp_DATA(arg)


async def serve(
    post: Post, port: int, cert: Path | None, key: Path | None, size: int = 35_882_577, implicit: bool = False
) -> asyncio.Server:
    """Listen on 127.0.0.1.

    Args:
        post: the one user, and where mails go.
        port: 0 for any.
        cert: PEM certificate; None for a server without TLS.
        key: its key.
        size: limit announced and kept, in bytes; Gmail's by default; 0: none, and nothing announced.
        implicit: TLS from the first byte (as on 465) instead of STARTTLS.
    """
    post.maildir.mkdir(parents=True, exist_ok=True)
    context = None
    if cert is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(cert, key)

    def protocol() -> Server:
        post.connections += 1
        return Server(
            post,
            hostname="standin.example.org",
            ident="ESMTP stand-in",
            data_size_limit=size or None,
            tls_context=None if implicit else context,
            require_starttls=context is not None and not implicit,
            auth_required=bool(post.user),
            auth_require_tls=context is not None and not implicit,
            authenticator=post.authenticate,
            timeout=120,
        )

    loop = asyncio.get_running_loop()
    return await loop.create_server(protocol, "127.0.0.1", port, ssl=context if implicit else None)
