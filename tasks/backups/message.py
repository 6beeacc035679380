"""The mail about a backup: subject, text, and the bytes around the attached file. Pure."""

import base64
import re
import shlex
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage, MIMEPart
from email.policy import SMTP
from email.utils import format_datetime, parseaddr

from tasks.backups import encryption, parts
from tasks.backups.manifest import Manifest
from tasks.backups.replies import RECIPIENTS
from tasks.backups.source import Target, many, mib
from tasks.clock import spoken, zone
from tasks.errors import InvalidInput, NotConfigured
from tasks.registry.names import ClientNames, require_email

LINE = 57
"""Raw bytes in one base64 line of 76 characters and CR LF: 78 bytes on the wire."""
CHUNK = LINE * 420
"""Read and sent at once: on the wire it fills two TLS records, and it stays in the processor's cache on its way there."""
_FULL = struct.Struct("76s" * (CHUNK // LINE))
_BOUNDARY = "=_zero_fleet_{mark}"


@dataclass(frozen=True)
class Letter:
    """A mail, but for the file in its middle: ``head``, then the file in base64, then ``tail``. Without a file ``tail`` is empty."""

    head: bytes
    tail: bytes
    file_bytes: int = 0
    offset: int = 0
    """Where in the file its bytes begin."""

    @property
    def size(self) -> int:
        """Bytes on the wire, for SIZE= in MAIL FROM."""
        return len(self.head) + encoded_size(self.file_bytes) + len(self.tail)


def encoded_size(count: int) -> int:
    """Bytes that ``count`` raw bytes take in base64 with its line ends.

    >>> encoded_size(57), encoded_size(58), encoded_size(0)
    (78, 84, 0)
    """
    lines, rest = divmod(count, LINE)
    return lines * 78 + ((rest + 2) // 3 * 4 + 2 if rest else 0)


def encoded(chunk: bytes) -> bytes:
    """``chunk`` in base64 lines; all but the last chunk of a file must be a multiple of 57 bytes.

    >>> encoded(b"ab"), encoded(b"")
    (b'YWI=\\r\\n', b'')
    >>> encoded(bytes(CHUNK)) == base64.encodebytes(bytes(CHUNK)).replace(b"\\n", b"\\r\\n")
    True
    """
    text = base64.b64encode(chunk)
    lines: Sequence[bytes] = ()
    if len(text) == _FULL.size:  # cut in one call: line by line took longer than all the rest of a mail
        lines = _FULL.unpack(text)
    else:
        lines = [text[start : start + 76] for start in range(0, len(text), 76)]
    return b"\r\n".join((*lines, b""))


@dataclass(frozen=True)
class Load:
    """What one mail brings of a backup, and what is to be said of it.

    Args:
        name: the attached file's; empty: none is attached.
        left_out: why none is.
        part: its number from 1 on; 0: the file is whole.
        parts: of how many.
        keys: how many can decrypt it; 0: it is not encrypted.
        smaller: the manifest of the file that was compressed harder; None: it is the backup's own.
        beside: the attached manifest's name; empty: it is not attached.
        surely: who had this backup mailed before.
        perhaps: whom an earlier mail of this one may have reached.
    """

    name: str = ""
    left_out: str = ""
    part: int = 0
    parts: int = 0
    keys: int = 0
    smaller: Manifest | None = None
    beside: str = ""
    surely: Sequence[str] = ()
    perhaps: Sequence[str] = ()


def subject(prefix: str, target: Target, moment: datetime, time_zone: str, load: Load | None = None) -> str:
    """The mail's subject: ``<prefix> - <when>``, for a client ``<prefix> <client> - <when>``, and what is to be said of ``load``.

    >>> from datetime import UTC
    >>> when = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    >>> subject("[AgentAssistant] Backup", Target(database="app-database"), when, "UTC")
    '[AgentAssistant] Backup - 2026-01-02 03:04'
    >>> subject("[AgentAssistant] Backup", Target(client="acme"), when, "Europe/Vienna")
    '[AgentAssistant] Backup acme - 2026-01-02 04:04'
    >>> subject("Backup", Target(client="acme"), when, "UTC", Load(part=1, parts=4, perhaps=["a@example.org"]))
    'Backup acme - 2026-01-02 03:04 (part 1 of 4) (an earlier one may have arrived)'
    """
    whose = f" {target.client}" if target.client else ""
    words = f"{' '.join(prefix.split())}{whose} - {spoken(moment, time_zone)}"
    if load is not None and load.parts:
        words += f" (part {load.part} of {load.parts})"
    if load is not None and load.surely:
        return f"{words} (sent again)"
    return f"{words} (an earlier one may have arrived)" if load is not None and load.perhaps else words


def facts(manifest: Manifest, path: str, time_zone: str) -> list[tuple[str, str]]:
    """What is to be known of a backup, name and value, for the mail and for the page in the UI."""
    return [
        ("Database", f"{manifest.database} at {manifest.server}"),
        ("Taken at", f"{spoken(manifest.taken_at, time_zone, seconds=True)} {time_zone}"),
        ("Took", f"{manifest.seconds:.1f} s"),
        ("File", path),
        ("Size", f"{mib(manifest.file_bytes)} ({mib(manifest.raw_bytes)} before compression)"),
        ("SHA-256", manifest.sha256),
        ("Tables", f"{len(manifest.rows)} with {many(sum(manifest.rows.values()), 'row')}"),
        ("Server", f"PostgreSQL {manifest.server_version}, dumped with pg_dump {manifest.pg_dump_version}"),
    ]


def restore_hint(filename: str, target: Target, server: str, role: str, encrypted: bool = False) -> str:
    """The commands that bring a backup back by hand, into a new database that only its own client's role can enter.

    What a dump holds runs as whoever loads it, so a client's is loaded as the client's role, which has no rights beyond that.

    Args:
        filename: of the backup, as the shell where they are typed finds it.
        target: whose it is.
        server: ``host:port`` of the database.
        role: of one who may make databases there; the new one is theirs.
        encrypted: whether it is an age file.

    >>> print(restore_hint("b.gz", Target(database="app-database"), "db:5432", "ops"))
    psql -h db -p 5432 -U ops -d postgres -c 'CREATE DATABASE restored TEMPLATE template0' -c 'REVOKE ALL ON DATABASE restored FROM PUBLIC'
    gunzip -c b.gz | psql -X -v ON_ERROR_STOP=1 -h db -p 5432 -U ops -d restored
    >>> made, granted, loaded = restore_hint("b.gz.age", Target(client="acme"), "db:5432", "ops", encrypted=True).splitlines()
    >>> granted
    "psql -h db -p 5432 -U ops -d restored -c 'GRANT CONNECT, CREATE, TEMPORARY ON DATABASE restored TO zero_client_acme' -c 'GRANT USAGE, CREATE ON SCHEMA public TO zero_client_acme'"
    >>> loaded
    'age -d -i KEY b.gz.age | gunzip | psql -X -v ON_ERROR_STOP=1 -h db -p 5432 -U zero_client_acme -d restored'
    """
    host, _, port = server.rpartition(":")
    where = shlex.join(["-h", host, "-p", port])
    file = shlex.quote(filename)
    reading = f"age -d -i KEY {file} | gunzip" if encrypted else f"gunzip -c {file}"
    ops = shlex.quote(role)
    lines = [
        f"psql {where} -U {ops} -d postgres -c 'CREATE DATABASE restored TEMPLATE template0'"
        " -c 'REVOKE ALL ON DATABASE restored FROM PUBLIC'"
    ]
    loader = ops
    if target.client:
        loader = ClientNames(target.client).role
        lines += [
            f"psql {where} -U {ops} -d restored -c 'GRANT CONNECT, CREATE, TEMPORARY ON DATABASE restored TO {loader}'"
            f" -c 'GRANT USAGE, CREATE ON SCHEMA public TO {loader}'"
        ]
    return "\n".join([*lines, f"{reading} | psql -X -v ON_ERROR_STOP=1 {where} -U {loader} -d restored"])


def restore_advice(target: Target) -> str:
    """What else is to be known before restoring by hand.

    >>> restore_advice(Target(client="acme"))
    "The last line asks for zero_client_acme's password, which is in the block zero-acme. Where psql is, the other password, and how to put it back over client acme's own database: README.md, Restoring by hand."
    """
    if not target.client:
        return "Where psql is, and which password it asks for: README.md, Restoring by hand."
    names = ClientNames(target.client)
    return (
        f"The last line asks for {names.role}'s password, which is in the block {names.secrets_block}. Where psql is, the other "
        f"password, and how to put it back over {target.spoken}'s own database: README.md, Restoring by hand."
    )


def body(
    target: Target,
    manifest: Manifest,
    path: str,
    filename: str,
    time_zone: str,
    role: str,
    load: Load | None = None,
) -> str:
    """The mail's text.

    Args:
        target: whose database.
        manifest: what was backed up.
        path: where the file lies on this machine.
        filename: its name there.
        time_zone: of the moments.
        role: of one who may make databases on its server.
        load: what the mail brings; None: the whole file, as it lies there.
    """
    load = load or Load(filename)
    brought = load.smaller or manifest
    whole = (filename if load.parts else load.name) or path
    lines = [
        f"The database of {target.spoken} was backed up.",
        "",
        *_before(load),
        *_how_it_comes(load, path, filename),
    ]
    lines += [f"{name + ':':<10} {value}" for name, value in facts(manifest, path, time_zone)]
    if load.smaller:
        lines += [
            f"{'Attached:':<10} compressed harder, so that it fits: {mib(brought.file_bytes)}, SHA-256 {brought.sha256}"
        ]
    hint = restore_hint(whole, target, manifest.server, role, bool(load.keys) and not load.parts)
    lines += ["", "To restore it into a new database:", "", *hint.splitlines()]
    lines += ["", restore_advice(target)]
    lines += ["", *_whether_whole(load, filename, brought.sha256), ""]
    if load.beside:
        lines += [f"{load.beside} is its manifest: what must be found in the file.", ""]
    return "\n".join(lines)


def _before(load: Load) -> list[str]:
    """What is said of earlier mails of the same backup."""
    lines = []
    if load.surely:
        lines += [f"SENT AGAIN: {', '.join(load.surely)} had this backup mailed before.", ""]
    if load.perhaps:
        who = ", ".join(load.perhaps)
        lines += [f"AN EARLIER MAIL of this backup may have arrived at {who}; if it did, this one brings the same.", ""]
    return lines


def _how_it_comes(load: Load, path: str, filename: str) -> list[str]:
    """What is said of the attached file before anything else."""
    if not load.name:
        return [f"The file is NOT attached: {load.left_out}.", f"It lies on the machine at {path}.", ""]
    who = "the one who has its key" if load.keys == 1 else f"any of {load.keys} keys"
    lines = []
    if load.parts:
        lines += [
            f"The file comes in {load.parts} mails, and this is part {load.part} of {load.parts}. Save them all in one "
            "folder and join them there:",
            "",
            parts.join(filename, load.parts, bool(load.keys)),
            "",
        ]
    if load.keys:
        lines += [
            f"It is encrypted with age (https://age-encryption.org) for {who}. KEY is the file of that key, or the private "
            "SSH key.",
            "",
        ]
        if not load.parts:
            lines += [
                "To decrypt it:",
                "",
                f"age -d -i KEY {shlex.quote(load.name)} > {shlex.quote(load.name.removesuffix(encryption.SUFFIX))}",
                "",
            ]
    return lines


def _whether_whole(load: Load, filename: str, digest: str) -> list[str]:
    """How to see that what arrived is what was sent."""
    plain = shlex.quote(load.name.removesuffix(encryption.SUFFIX) if load.name and not load.parts else filename)
    when = " when it is joined" if load.parts else (" when it is decrypted" if load.keys else "")
    return [f"To see whether the file is whole{when}:", "", f"echo '{digest}  '{plain} | sha256sum -c"]


def address(value: str, what: str) -> Address:
    """The mailbox in ``value``, like ``Backups <ops@example.org>``.

    Raises:
        InvalidInput: it is none, or has letters outside ASCII in its address (most servers refuse those).

    >>> str(address("Backups <ops@example.org>", "sender"))
    'Backups <ops@example.org>'
    >>> address("not an address", "recipient")
    Traceback (most recent call last):
    tasks.errors.InvalidInput: recipient 'not an address' is no e-mail address; write it like ops@example.org.
    """
    if (
        not value.isprintable()
        or "," in parseaddr(value)[0]
        or (value.count("@") > 1 and "<" not in value)
        or (value.count("<") != value.count(">"))
    ):
        raise InvalidInput(f"{what} {value[:80]!r} is no e-mail address", "write it like ops@example.org")
    name, plain = parseaddr(value)
    try:
        require_email(plain if plain in value else "")  # parseaddr joins what spaces part
    except InvalidInput as error:
        raise InvalidInput(f"{what} {value[:80]!r} is no e-mail address", error.cure) from None
    if not plain.isascii():
        raise InvalidInput(f"{what} {value[:80]!r} has letters that mail servers do not take", "use an ASCII address")
    return Address(display_name=name, addr_spec=plain)


def sender_of(configured: str, username: str) -> Address:
    """Who the mail is from: DEFAULT_FROM_EMAIL, else the account's own address.

    Raises:
        NotConfigured: neither is an address.
    """
    chosen = configured.strip() or username
    if "@" not in chosen:
        raise NotConfigured(
            f"there is no address to send from ({chosen[:80]!r} is none)"
            if chosen
            else "there is no address to send from",
            "fill DEFAULT_FROM_EMAIL (From in the block backup-policy)",
        )
    return address(chosen, "sender")


def require_recipients(enabled: bool, recipients: list[str]) -> list[str]:
    """Whom to mail to; empty when mailing is off.

    Raises:
        NotConfigured: mailing is on without a recipient.
        InvalidInput: a recipient is no address.

    >>> require_recipients(True, ["ops.example.org"])
    Traceback (most recent call last):
    tasks.errors.InvalidInput: recipient 'ops.example.org' is no e-mail address; write it like ops@example.org in EMAIL_BACKUP_RECIPIENT (Recipients in the block backup-policy).
    >>> require_recipients(True, [])
    Traceback (most recent call last):
    tasks.errors.NotConfigured: EMAIL_BACKUP_ENABLED is on without a recipient; fill EMAIL_BACKUP_RECIPIENT (Recipients in the block backup-policy), or switch EMAIL_BACKUP_ENABLED (Mail the backup) off.
    """
    if not enabled:
        return []
    try:
        plain = [address(value.strip(), "recipient").addr_spec for value in recipients if value.strip()]
    except InvalidInput as error:
        raise InvalidInput(error.what, f"{error.cure} in {RECIPIENTS}") from None
    if not plain:
        raise NotConfigured(
            "EMAIL_BACKUP_ENABLED is on without a recipient",
            f"fill {RECIPIENTS}, or switch EMAIL_BACKUP_ENABLED (Mail the backup) off",
        )
    return list(dict.fromkeys(plain))


def message_id(mark: str, domain: str) -> str:
    """A Message-ID that is the same for each attempt at the same mail, so that a mailbox can tell a repetition.

    >>> message_id("backup.7.ab12", "example.org")
    '<zero-fleet.backup.7.ab12@example.org>'
    """
    return f"<zero-fleet.{mark}@{domain}>"


def letter(
    sender: Address,
    recipients: list[str],
    title: str,
    text: str,
    identity: str,
    moment: datetime,
    time_zone: str,
    attachment: tuple[str, int] | None = None,
    offset: int = 0,
    beside: tuple[str, bytes] | None = None,
) -> Letter:
    """Put a mail together.

    Args:
        sender: From.
        recipients: To; all see each other.
        title: the subject.
        text: the text.
        identity: the Message-ID with its angle brackets.
        moment: Date.
        time_zone: of Date.
        attachment: name and size in bytes of the file to be streamed between head and tail.
        offset: where in that file its bytes begin.
        beside: name and bytes of a small file that is attached besides.
    """
    outer = EmailMessage(policy=SMTP)
    outer["From"] = sender
    outer["To"] = ", ".join(recipients)
    outer["Subject"] = title
    outer["Date"] = format_datetime(moment.astimezone(zone(time_zone)))
    outer["Message-ID"] = identity
    outer["Auto-Submitted"] = "auto-generated"
    if attachment is None:
        outer.set_content(text, cte="quoted-printable")
        return Letter(dot_stuffed(outer.as_bytes()), b"")
    filename, size = attachment
    boundary = _BOUNDARY.format(mark=re.sub(r"[^A-Za-z0-9]", "", identity)[-40:])
    outer["MIME-Version"] = "1.0"
    outer["Content-Type"] = f'multipart/mixed; boundary="{boundary}"'
    words = MIMEPart(policy=SMTP)
    words.set_content(text, cte="quoted-printable")
    # Folded by hand: the generator would close a multipart that has no parts yet.
    headers = "".join(SMTP.fold(name, value) for name, value in outer.items()).encode() + b"\r\n"
    mark = b"--" + boundary.encode()
    head = b"".join((headers, mark, b"\r\n", words.as_bytes(), b"\r\n", mark, b"\r\n", _attached(filename)))
    tail = mark + b"--\r\n"
    if beside is not None:
        tail = b"".join((mark, b"\r\n", _attached(beside[0]), encoded(beside[1]), tail))
    return Letter(dot_stuffed(head), tail, size, offset)


def _attached(filename: str) -> bytes:
    """The headers of an attached file, with the empty line after them."""
    part = MIMEPart(policy=SMTP)
    kinds = {".gz": "application/gzip", ".json": "application/json"}
    part["Content-Type"] = kinds.get(filename[filename.rfind(".") :], "application/octet-stream")
    part["Content-Transfer-Encoding"] = "base64"
    part.add_header("Content-Disposition", "attachment", filename=filename)  # RFC 2231 where the name needs it
    return part.as_bytes()


def dot_stuffed(text: bytes) -> bytes:
    r"""``text`` as DATA wants it: a line that begins with a dot gets another (RFC 5321, 4.5.2).

    >>> dot_stuffed(b"a\r\n.b\r\n")
    b'a\r\n..b\r\n'
    """
    return re.sub(rb"(?m)^\.", b"..", text)
