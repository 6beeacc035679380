"""The mail of the benchmark, as the product writes and sends it."""

from datetime import UTC, datetime
from email.headerregistry import Address
from pathlib import Path

from tasks.backups import mail, message
from tasks.backups.mail import Account
from tasks.backups.message import Letter

SENDER = Address("Backups", addr_spec="backups@example.org")
RECIPIENT = "ops@example.org"


def ours(port: int, ca: str, path: Path) -> tuple[Account, Letter]:
    """The account at the sink, and the letter around the file at ``path``."""
    account = Account("localhost", port, "SSL", SENDER.addr_spec, "abcdefghijklmnop", ca)
    title, text = "[AgentAssistant] Backup - 2026-01-02 03:04", "The database was backed up.\n" * 20
    identity = message.message_id("bench", SENDER.domain)
    moment = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    attachment = (path.name, path.stat().st_size)
    return account, message.letter(SENDER, [RECIPIENT], title, text, identity, moment, "UTC", attachment)


def mail_file(account: Account, letter: Letter, path: Path) -> None:
    """Send it once, streamed from the disk."""
    with path.open("rb") as file:
        mail.send(account, SENDER.addr_spec, [RECIPIENT], letter, file)
