"""Deliver a backup: the file when the server takes it, else in parts or the report without it, and the truth about who got it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from email.headerregistry import Address
from pathlib import Path
from typing import Literal

from tasks.backups import archive, encryption, mail, message, parts, posted, providers, recompression, replies
from tasks.backups import manifest as manifests
from tasks.backups.archive import OpenFile
from tasks.backups.mail import SOCKET_SECONDS, Account, Step
from tasks.backups.manifest import Manifest
from tasks.backups.message import Letter, Load
from tasks.backups.parts import Piece
from tasks.backups.posted import WHOLE, Book
from tasks.backups.source import Target, many, mib
from tasks.errors import FleetError, Unreachable
from tasks.registry.models import Delivery

_SPARE = 4096
"""Bytes left free in each part, for what servers on the way write above a mail."""
_BESIDE = 8
"""A manifest that would take more than this share of a mail is left out of it."""


@dataclass(frozen=True)
class Post:
    """Whom a backup is mailed to, from whom, and what the mail is called."""

    sender: Address
    recipients: list[str]
    prefix: str
    time_zone: str
    mark: str
    """Of the Message-IDs; the same for each attempt at a mail, so that a mailbox can tell a repetition."""
    role: str
    """Of one who may make databases on the backup's server, for the commands in the text."""
    age: tuple[str, ...] = ()
    """Public keys that the file is encrypted for."""
    too_big: Literal["report", "parts"] = "report"
    again: bool = False
    """Mail it also to those who have it, and say so."""
    wait: float = 5.0
    """Seconds before the second attempt."""
    seconds: float = SOCKET_SECONDS
    """Each answer of the server may take so long."""


@dataclass(frozen=True)
class Delivered:
    """What became of the mail."""

    state: Delivery
    accepted: list[str]
    sentence: str
    error: FleetError | None = None
    attempts: int = 1
    """Runs that tried it so far."""
    next_try: datetime | None = None
    """When it is tried again by itself, by the clock of TIME_ZONE; None: not."""


def deliver(
    account: Account,
    post: Post,
    book: Book,
    target: Target,
    made: Manifest,
    file: OpenFile,
    path: Path,
    told: Callable[[Step], None] = lambda step: None,
) -> Delivered:
    """Mail the backup ``file`` to those who lack it; never raises for what a mail server does, the backup stands whatever it says.

    Args:
        account: the SMTP account.
        post: whom to, and how.
        book: where each mail is noted before it is sent; what killed runs left there is settled.
        target: whose database.
        made: the backup's facts.
        file: the open backup.
        path: where it lies.
        told: is called with each step that worked.
    """
    return _Postman(account, post, book, target, made, file, path, told).deliver()


class _Postman:
    """One delivery under way: who has what, and what was refused."""

    def __init__(
        self,
        account: Account,
        post: Post,
        book: Book,
        target: Target,
        made: Manifest,
        file: OpenFile,
        path: Path,
        told: Callable[[Step], None],
    ) -> None:
        self.account, self.post, self.book, self.target = account, post, book, target
        self.made, self.file, self.path, self.told = made, file, path, told
        earlier = book.mails()
        self.before = posted.standing(earlier)
        lacking = self.before.lacking(post.recipients)
        self.whom = lacking or (post.recipients if post.again else [])
        self.again = bool(self.whom) and not lacking
        # A mail on demand to one who has it is a new one: under its old Message-ID a mailbox would hide it.
        self.mark = f"{post.mark}.again{len(earlier)}" if self.again else post.mark
        self.now = posted.Standing({} if self.again else dict(self.before.has), {})
        self.refused = dict[str, FleetError]()
        self.state, self.how = Delivery.SENT, ""
        self.keys: list[encryption.Key] = []

    def deliver(self) -> Delivered:
        """Send what is to be sent; what came of it."""
        if not self.whom:
            has = ", ".join(self.post.recipients)
            state = posted.concluded(self.book.mails()) or Delivery.SENT
            return Delivered(state, self.post.recipients, f"it was mailed to {has} before")
        error: FleetError | None = None
        try:
            self.keys = encryption.keys(self.post.age)
            most = mail.send_patiently(
                lambda: mail.limit(self.account, self.post.seconds, self.told), wait=self.post.wait
            )
            try:
                self._file(most)
            except replies.TooBig as refusal:
                self._report(f"with {mib(self.made.file_bytes)} it is too big to mail ({refusal.what})")
        except FleetError as failure:
            error = failure
        return self._came(error)

    def _came(self, error: FleetError | None) -> Delivered:
        lacking = self.now.lacking(self.whom)
        had = [one for one in self.post.recipients if one not in lacking]
        if lacking:
            error = error or self._refusals()
            some = sorted(part for part, of in self.now.has if of and of == self.now.parts)
            got = f"only {', '.join(had)} got it" if had else ""
            if some and not had:
                which = "part" if len(some) == 1 else "parts"
                got = f"{which} {_and(some)} of {self.now.parts} came through, the rest not"
            if got:
                error = _reworded(error, f"{got}: {error.what}")
            verb = "sent again" if self.again else "delivered"
            everybody = " to everybody" if had and not self.again else ""
            return Delivered(Delivery.FAILED, had, f"it was not {verb}{everybody}: {error}", error)
        whom = ", ".join(self.whom)
        if self.state == Delivery.SENT_WITHOUT_FILE:
            return Delivered(self.state, had, f"the report was mailed to {whom} WITHOUT the file: {self.how}")
        verb = "mailed again to" if self.again else "mailed to"
        sealed = f", encrypted for {many(len(self.keys), 'key')}" if self.keys else ""
        return Delivered(self.state, had, f"{verb} {whom}{self.how}{sealed}")

    def _refusals(self) -> FleetError:
        """Why those lack it whom the server refused."""
        first = replies.foremost(self.refused.values())
        return _reworded(first, "; ".join(dict.fromkeys(error.what for error in self.refused.values())))

    # What is sent

    def _file(self, most: int) -> None:
        """The file, in the way in which it fits.

        Raises:
            TooBig: the server takes less than it said.
            FleetError: nobody gets it now.
        """
        made, size = self.made, self._size(self.made.file_bytes)
        if not most or size <= most:
            return self._whole(self.file, made, None)
        why = (
            f"with {mib(made.file_bytes)} it is too big to mail "
            f"({self.account.where.server} takes mails up to {mib(most)})"
        )
        if size <= most * recompression.CLOSE:
            with archive.passing(self.path, ".gz") as into:
                smaller = recompression.recompress(self.file, self.path, into, made)
                if self._size(smaller.file_bytes) <= most:
                    return self._whole(into, smaller, smaller)
                why += ", also when it is compressed harder"
        if self.post.too_big == "parts":
            count = self._parts(most)
            if 0 < count <= parts.MOST:
                return self._in_parts(count)
            why += f", and it would take more than {parts.MOST} mails"
        return self._report(why)

    def _whole(self, file: OpenFile, brought: Manifest, smaller: Manifest | None) -> None:
        beside = self._beside(brought)
        load = Load(
            self._sealed_name(self.path.name),
            keys=len(self.keys),
            smaller=smaller,
            beside=self._beside_name if beside else "",
        )
        self.how = ", compressed harder to fit" if smaller else ""
        if not self.keys:
            return self._mail(WHOLE, load, file, brought.file_bytes, 0, beside)
        file.seek(0)
        with self._sealed(file) as (sealed, size):
            return self._mail(WHOLE, load, sealed, size, 0, beside)

    def _in_parts(self, count: int) -> None:
        self.state, self.how = Delivery.SENT_IN_PARTS, f" in {many(count, 'part')}"
        for part in parts.cut(self.made.file_bytes, count):
            key = (part.number, count)
            if not self._without(key):
                continue
            beside = self._beside(self.made) if part.number == 1 else b""
            load = Load(
                self._sealed_name(parts.name(self.path.name, part.number, count)),
                part=part.number,
                parts=count,
                keys=len(self.keys),
                beside=self._beside_name if beside else "",
            )
            if not self.keys:
                self._mail(key, load, self.file, part.length, part.offset, beside)
                continue
            # Each by itself, not a piece of one encrypted file: that would be another one at the next attempt.
            with self._sealed(Piece(self.file, part)) as (sealed, size):
                self._mail(key, load, sealed, size, 0, beside)

    def _report(self, why: str) -> None:
        self.state, self.how = Delivery.SENT_WITHOUT_FILE, why
        self.refused = {who: error for who, error in self.refused.items() if not isinstance(error, replies.TooBig)}
        self._mail(WHOLE, Load(left_out=why), None, 0, 0, b"")

    # How it is sent

    def _without(self, key: posted.Mail) -> list[str]:
        """Who lacks the mail ``key`` and was not refused yet."""
        lacking = self.now.lacking(self.whom)
        return [one for one in lacking if one not in self.now.has.get(key, ()) and one not in self.refused]

    def _mail(self, key: posted.Mail, load: Load, file: OpenFile | None, size: int, offset: int, beside: bytes) -> None:
        """One mail to all who lack it; tried again soon where that may help.

        Raises:
            TooBig: somebody's server does not take it.
            FleetError: nobody gets it.
        """

        def attempt() -> None:
            whom = self._without(key)
            if not whom:
                return
            letter, identity = self._letter(key, load, whom, size, offset, beside)
            refused = self._sent(key, letter, identity, whom, file)
            again = [error for error in refused.values() if replies.worth_again(error)]
            if again:
                raise _Later(refused, again[0])
            self.refused |= refused

        try:
            mail.send_patiently(attempt, wait=self.post.wait)
        except _Later as late:
            self.refused |= late.refused
        big = [error for error in self.refused.values() if isinstance(error, replies.TooBig)]
        if big:
            raise big[0]
        if self.refused and not [one for one in self.now.lacking(self.whom) if one not in self.refused]:
            raise self._refusals()

    def _sent(
        self, key: posted.Mail, letter: Letter, identity: str, whom: list[str], file: OpenFile | None
    ) -> dict[str, FleetError]:
        """Send one mail once, noted before and after; who was refused."""
        row = self.book.begin(identity, key)
        try:
            sent = mail.offer(
                self.account,
                self.post.sender.addr_spec,
                whom,
                letter,
                file,
                self.post.seconds,
                told=self.told,
                handing_over=lambda accepted: self.book.handing_over(row, accepted),
            )
        except replies.Undecided as error:
            self.book.undecided(row, str(error))
            raise
        except FleetError as error:
            self.book.failed(row, str(error))
            raise
        reasons = "; ".join(str(error) for error in sent.refused.values())
        if not sent.accepted:
            self.book.failed(row, reasons)
            return sent.refused
        self.book.sent(row, sent.accepted, reasons or None)
        self.now.has[key] = self.now.has.get(key, frozenset()) | frozenset(sent.accepted)
        return sent.refused

    def _letter(
        self, key: posted.Mail, load: Load, whom: list[str], size: int, offset: int, beside: bytes
    ) -> tuple[Letter, str]:
        """The mail to ``whom`` and its Message-ID."""
        post, made = self.post, self.made
        load = replace(load, surely=self.before.repeats(key, whom), perhaps=self.before.doubtful(key, whom))
        which = f".part{key[0]}of{key[1]}" if key[1] else ("" if load.name else f".{posted.REPORT}")
        identity = message.message_id(f"{self.mark}{which}", post.sender.domain)
        text = message.body(self.target, made, str(self.path), self.path.name, post.time_zone, post.role, load)
        title = message.subject(post.prefix, self.target, made.taken_at, post.time_zone, load)
        attachment = (load.name, size) if load.name else None
        extra = (load.beside, beside) if load.beside else None
        letter = message.letter(
            post.sender, whom, title, text, identity, made.taken_at, post.time_zone, attachment, offset, extra
        )
        return letter, identity

    # How large it is, and what it is wrapped in

    def _size(self, count: int) -> int:
        """Bytes at most on the wire of a mail with ``count`` bytes of the backup."""
        beside = self._beside(self.made)
        most = Load(
            self._sealed_name(parts.name(self.path.name, parts.MOST, parts.MOST)),
            part=parts.MOST,
            parts=parts.MOST,
            keys=len(self.keys),
            smaller=self.made,
            beside=self._beside_name if beside else "",
        )
        sealed = encryption.most(count, len(self.keys)) if self.keys else count
        return self._letter((parts.MOST, parts.MOST), most, self.whom, sealed, 0, beside)[0].size + 200

    def _parts(self, most: int) -> int:
        """In how many parts it fits; as many as before when those still fit. 0: in none."""
        room = (most - self._size(0) - _SPARE) // 78 * message.LINE
        if self.keys:
            room = encryption.fits(room, len(self.keys))
        count = parts.needed(self.made.file_bytes, room)
        return self.now.parts if count and self.now.parts >= count else count

    @property
    def _beside_name(self) -> str:
        return self._sealed_name(manifests.beside(self.path).name)

    def _beside(self, brought: Manifest) -> bytes:
        """The manifest as it is attached; nothing when it is so large that the backup itself should have the room."""
        text = brought.to_json().encode()
        if len(text) * _BESIDE > max(brought.file_bytes, 2**20):
            return b""
        return encryption.encrypted(text, self.keys) if self.keys else text

    def _sealed_name(self, name: str) -> str:
        return name + encryption.SUFFIX if self.keys else name

    @contextmanager
    def _sealed(self, source: encryption.Reads) -> Iterator[tuple[OpenFile, int]]:
        """``source``, from where it stands, encrypted, and its size then."""
        with archive.passing(self.path, encryption.SUFFIX) as into:
            try:
                encryption.encrypt(source, into, self.keys)
            except OSError as error:
                raise archive.disk_error(error, self.path.parent) from None
            yield into, os.fstat(into.fileno()).st_size


class _Later(Unreachable):
    """Somebody was refused for now, who may be accepted soon."""

    def __init__(self, refused: dict[str, FleetError], first: FleetError) -> None:
        super().__init__(first.what, first.cure)
        self.refused = refused


def _reworded(error: FleetError, what: str) -> FleetError:
    """``error`` of its own class, with its cure, saying ``what``."""
    return type(error)(what, error.cure)


def _and(numbers: list[int]) -> str:
    """Numbers as a person lists them.

    >>> _and([1]), _and([1, 2, 3])
    ('1', '1, 2 and 3')
    """
    *most, last = map(str, numbers)
    return f"{', '.join(most)} and {last}" if most else last


STEPS = ("resolve", "connect", "tls", "login", "sender", "recipient", "message")


@dataclass(frozen=True)
class Tried:
    """What a mail server said to a test mail."""

    reply: str
    limit: int
    """Bytes of the largest mail that it takes, by its word or its provider's; 0: not known."""

    @property
    def room(self) -> str:
        """What that means for a backup, in words.

        >>> Tried("250 ok", 35_882_577).room
        'it takes mails up to 34.2 MiB, so files up to about 25.0 MiB'
        """
        if not self.limit:
            return "it does not say how large a mail may be"
        most = max(0, (self.limit - 16_384) // 78 * message.LINE)
        return f"it takes mails up to {mib(self.limit)}, so files up to about {mib(most)}"


def check(
    account: Account,
    sender: Address,
    recipient: str,
    identity: str,
    moment: datetime,
    time_zone: str,
    told: Callable[[Step], None],
    prefix: str = "Zero Fleet",
) -> Tried:
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
    providers.require_passwords(account.host, account.username)
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
        sent = mail.send(account, sender.addr_spec, [recipient], letter, told=note)
    except FleetError as error:
        failed = STEPS[len(seen)]
        raise type(error)(
            f"the step {failed} failed (step {len(seen) + 1} of {len(STEPS)}): {error.what}",
            error.cure.replace(replies.RECIPIENTS, "the recipient given"),
        ) from None
    return Tried(sent.reply, sent.limit)
