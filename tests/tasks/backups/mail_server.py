"""The SMTP stand-in in a thread of the test's own, and the certificates that tests make for it."""

import asyncio
import datetime
import ipaddress
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.standins.smtp.server import Post, serve

USER, PASSWORD = "fleet@example.org", "abcdefghijklmnop"


def certificates(folder: Path, days: int = 2, host: str = "localhost") -> tuple[Path, Path, Path]:
    """A CA, and a certificate for ``host`` by it that is good for ``days`` (negative: expired); CA, certificate, key."""
    now = datetime.datetime.now(datetime.UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"test CA {folder.name}")])

    def draft(name: x509.Name, public: ec.EllipticCurvePublicKey, until: datetime.datetime) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=9)).not_valid_after(until)
        )  # fmt: skip

    authority = (
        draft(issuer, ca_key.public_key(), now + datetime.timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    names: list[x509.GeneralName] = [x509.DNSName(host)]
    if host == "localhost":
        names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    server = (
        draft(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)]), key.public_key(),
              now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(ca_key, hashes.SHA256())
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    pem = serialization.Encoding.PEM
    paths = folder / "ca.pem", folder / "server.pem", folder / "key.pem"
    paths[0].write_bytes(authority.public_bytes(pem))
    paths[1].write_bytes(server.public_bytes(pem))
    paths[2].write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return paths


@contextmanager
def running(maildir: Path, cert: Path | None, key: Path | None, **other: object) -> Iterator[tuple[Post, int]]:
    """The stand-in on a free port; what it knows, and the port."""
    post = Post(USER, PASSWORD, maildir)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        server = asyncio.run_coroutine_threadsafe(serve(post, 0, cert, key, **other), loop).result(10)
        yield post, server.sockets[0].getsockname()[1]
        loop.call_soon_threadsafe(server.close)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def mails(folder: Path) -> list[EmailMessage]:
    """What arrived, oldest first."""
    return [message_from_bytes(path.read_bytes(), policy=policy.default) for path in sorted(folder.glob("*.eml"))]
