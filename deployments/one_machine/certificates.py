"""A certificate authority of the demo's own, so that TLS is never switched off: its worker alone trusts it."""

import datetime
import ipaddress
from pathlib import Path

from deployments.one_machine.settings import write_private

DAYS = 825
RENEW_DAYS = 30


def make_authority(folder: Path, host: str) -> None:
    """Make ``ca.pem``, ``server.pem``, ``server-key.pem`` for ``host`` and 127.0.0.1, and ``trusted.pem`` (certifi's plus this CA).

    What is there and still good for a month is kept. The CA's key is thrown away: it signs once.
    """
    import certifi
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    now = datetime.datetime.now(datetime.UTC)
    if (folder / "trusted.pem").exists():
        found = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
        if found.not_valid_after_utc - now > datetime.timedelta(days=RENEW_DAYS):
            return
    key, ca_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Zero Fleet demo CA")])
    until = now + datetime.timedelta(days=DAYS)

    def draft(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(ca_name).public_key(public)
        return (
            builder.serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(until)
        )

    usage = {
        "digital_signature": True, "content_commitment": False, "key_encipherment": False, "data_encipherment": False,
        "key_agreement": False, "encipher_only": False, "decipher_only": False,
    }  # fmt: skip
    authority = (
        draft(ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(**usage, key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    names: list[x509.GeneralName] = [x509.DNSName(host), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    server = (
        draft(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)]), key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage, key_cert_sign=False, crl_sign=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = authority.public_bytes(serialization.Encoding.PEM).decode()
    write_private(
        folder / "server-key.pem",
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
    )
    write_private(folder / "server.pem", server.public_bytes(serialization.Encoding.PEM).decode())
    write_private(folder / "ca.pem", pem)
    write_private(folder / "trusted.pem", Path(certifi.where()).read_text() + "\n" + pem)
