"""Deliver a backup: the file when the server takes it, else the report without it, and the truth about who got it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from email.headerregistry import Address
from pathlib import Path

from tasks.backups import mail, message, replies
from tasks.backups.archive import OpenFile
from tasks.backups.mail import Account, Sent, Step
from tasks.backups.manifest import Manifest
from tasks.backups.source import Target, mib
from tasks.errors import FleetError, Refused
from tasks.registry.models import Delivery


@dataclass(frozen=True)
class Post:
    """Whom a backup is mailed to, from whom, and what the mail is called."""

    sender: Address
    recipients: list[str]
    prefix: str
    time_zone: str
    identity: str
    """Message-ID; the same for each attempt."""
    role: str
    """Of one who may make databases on the backup's server, for the commands in the text."""
    wait: float = 5.0
    """Seconds before the second attempt."""


@dataclass(frozen=True)
class Delivered:
    """What became of the mail."""

    state: Delivery
    accepted: list[str]
    sentence: str
    error: FleetError | None = None


def deliver(
    account: Account,
    post: Post,
    target: Target,
    made: Manifest,
    file: OpenFile,
    path: Path,
    told: Callable[[Step], None] = lambda step: None,
) -> Delivered:
    """Mail the backup ``file``; never raises for what a mail server does, because the backup stands whatever it says.

    Args:
        account: the SMTP account.
        post: whom to, and how.
        target: whose database.
        made: the backup's facts.
        file: the open backup.
        path: where it lies.
        told: is called with each step that worked.
    """

    def attempt(left_out: str) -> Sent:
        text = message.body(target, made, str(path), path.name, post.time_zone, post.role, left_out)
        title = message.subject(post.prefix, target, made.taken_at, post.time_zone)
        attachment = None if left_out else (path.name, made.file_bytes)
        letter = message.letter(
            post.sender, post.recipients, title, text, post.identity, made.taken_at, post.time_zone, attachment
        )
        return mail.send_patiently(
            lambda: mail.send(
                account, post.sender.addr_spec, post.recipients, letter, file if attachment else None, told=told
            ),
            wait=post.wait,
        )

    left_out = ""
    try:
        try:
            sent = attempt("")
        except replies.TooBig as error:
            left_out = f"with {mib(made.file_bytes)} it is too big to mail ({error.what})"
            sent = attempt(left_out)
    except FleetError as error:
        return Delivered(Delivery.FAILED, [], f"it was not delivered: {error}", error)
    if sent.refused:
        reasons = "; ".join(error.what for error in sent.refused.values())
        partial = Refused(
            f"only {', '.join(sent.accepted)} got it: {reasons}",
            next(iter(sent.refused.values())).cure,
        )
        return Delivered(Delivery.FAILED, sent.accepted, f"it was not delivered to everybody: {partial}", partial)
    whom = ", ".join(sent.accepted)
    if left_out:
        return Delivered(
            Delivery.SENT_WITHOUT_FILE, sent.accepted, f"the report was mailed to {whom} WITHOUT the file: {left_out}"
        )
    return Delivered(Delivery.SENT, sent.accepted, f"mailed to {whom}")


STEPS = ("resolve", "connect", "tls", "login", "sender", "recipient", "message")


def check(
    account: Account,
    sender: Address,
    recipient: str,
    identity: str,
    moment: datetime,
    time_zone: str,
    told: Callable[[Step], None],
    prefix: str = "Zero Fleet",
) -> str:
    """Send a test mail, one step after the other; what the server said at its end.

    Args:
        account: what is tried.
        sender: From.
        recipient: To.
        identity: Message-ID.
        moment: Date.
        time_zone: of the moment in the mail.
        told: is called with each step that worked.
        prefix: how the subject begins.

    Raises:
        FleetError: of the failure's own class, naming the step that failed.
    """
    seen: list[Step] = []

    def note(step: Step) -> None:
        seen.append(step)
        told(step)

    text = (
        "This is the test mail of Zero Fleet's send-test-email.\n\n"
        f"Server: {account.where.server} ({account.security}), user: {account.username or 'none'}\n"
    )
    letter = message.letter(sender, [recipient], f"{prefix} - test", text, identity, moment, time_zone)
    try:
        return mail.send(account, sender.addr_spec, [recipient], letter, told=note).reply
    except FleetError as error:
        failed = STEPS[len(seen)]
        raise type(error)(
            f"the step {failed} failed (step {len(seen) + 1} of {len(STEPS)}): {error.what}",
            error.cure.replace(replies.RECIPIENTS, "the recipient given"),
        ) from None
