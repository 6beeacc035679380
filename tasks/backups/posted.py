"""What the registry knows of a backup's mails: each attempt noted before it is made, so that nobody is mailed twice unsaid.

A mail counts as handed over from the moment before its last dot: without that dot a mail server throws away what it got.
So of a run that was killed it is known whether its mail cannot have arrived or may have.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine, func, update
from sqlmodel import Session, col, select

from tasks.backups.source import Target, target_of
from tasks.clock import now
from tasks.errors import Conflict, Damaged, FleetError, Unreachable
from tasks.registry.models import BackupKind, BackupMail, BackupRun, Delivery, MailState

CUT_OFF = "the run was killed before the whole mail was sent"
"""Stands in a row from its beginning until its mail is handed over."""
NOT_MAILED = "not mailed: the run was killed before it mailed"
UNKNOWN = "the run was killed while it mailed, so the mail may or may not have been delivered"
DONE = (Delivery.SENT, Delivery.SENT_IN_PARTS, Delivery.SENT_WITHOUT_FILE)
_CLOSED = (*DONE, Delivery.SUPERSEDED)
REPORT = "report"
"""In the Message-ID of a mail without the file."""
WAITS = (timedelta(minutes=15), timedelta(hours=1), timedelta(hours=4), timedelta(hours=12))
"""After the first failed run, the second, …; after these only a person or the next night's backup helps."""
_SLOT = timedelta(minutes=5)

Mail = tuple[int, int]
"""Which mail of a backup: number of the part and of how many; (0, 0): the whole file, or the report without it."""
WHOLE: Mail = (0, 0)


@dataclass(frozen=True)
class Standing:
    """Who surely has which mails of a backup, and whom one may have reached."""

    has: dict[Mail, frozenset[str]]
    may_have: dict[Mail, frozenset[str]]

    def reached(self, recipient: str) -> bool:
        """Whether ``recipient`` has the whole of it, in one mail or in all parts."""
        if recipient in self.has.get(WHOLE, ()):
            return True
        return any(
            all(recipient in self.has.get((part, parts), ()) for part in range(1, parts + 1))
            for parts in {parts for _, parts in self.has if parts}
        )

    def lacking(self, recipients: Iterable[str]) -> list[str]:
        """Those of ``recipients`` who have not the whole of it."""
        return [one for one in recipients if not self.reached(one)]

    @property
    def parts(self) -> int:
        """How many parts somebody has some of; 0: nobody has."""
        return max((parts for _, parts in self.has), default=0)

    def repeats(self, mail: Mail, recipients: Iterable[str]) -> list[str]:
        """Those of ``recipients`` who surely had something that ``mail`` brings again."""
        return [one for one in recipients if any(one in who and _overlap(mail, had) for had, who in self.has.items())]

    def doubtful(self, mail: Mail, recipients: Iterable[str]) -> list[str]:
        """Those of ``recipients`` who perhaps, but not surely, had something that ``mail`` brings again."""
        sure = self.repeats(mail, recipients)
        perhaps = [who for had, who in self.may_have.items() if _overlap(mail, had)]
        return [one for one in recipients if one not in sure and any(one in who for who in perhaps)]


def _overlap(one: Mail, other: Mail) -> bool:
    """Whether two mails bring some of the same: all but two different parts of one cutting do."""
    return one == other or one[1] != other[1]


def standing(mails: Iterable[BackupMail]) -> Standing:
    """What ``mails``, settled and oldest first, brought to whom.

    >>> first = BackupMail(backup_id=1, message_id="x", started_at=now(), state=MailState.SENDING, accepted=["a@b.c"])
    >>> found = standing([first])
    >>> found.lacking(["a@b.c"]), found.doubtful(WHOLE, ["a@b.c"]), found.doubtful((1, 2), ["d@b.c"])
    (['a@b.c'], ['a@b.c'], [])
    """
    has, may_have = dict[Mail, frozenset[str]](), dict[Mail, frozenset[str]]()
    for one in mails:
        if one.state == MailState.FAILED:
            continue
        known = has if one.state == MailState.SENT else may_have
        key = (one.part, one.parts)
        known[key] = known.get(key, frozenset()) | frozenset(one.accepted)
    return Standing(has, may_have)


def concluded(mails: Iterable[BackupMail]) -> Delivery | None:
    """How a delivery ended whose run was killed before it told, by the last round of its ``mails``; None: it did not end well.

    Each mail goes to all who lack it, and its row has an error when one of them was refused: so a last one without brought
    it to everybody.
    """
    last = dict[Mail, BackupMail]()
    for one in mails:
        last[(one.part, one.parts)] = one
    newest = max(last.values(), key=lambda one: one.id or 0, default=None)
    if newest is None:
        return None
    needed = [(part, newest.parts) for part in range(1, newest.parts + 1)] or [WHOLE]
    if not all(one in last and last[one].state == MailState.SENT and not last[one].error for one in needed):
        return None
    if newest.parts:
        return Delivery.SENT_IN_PARTS
    return Delivery.SENT_WITHOUT_FILE if f".{REPORT}@" in newest.message_id else Delivery.SENT


def waiting_helps(error: FleetError | None) -> bool:
    """Whether a later attempt may go well without anybody mending anything.

    >>> waiting_helps(Unreachable("a", "b")), waiting_helps(FleetError("a", "b"))
    (True, False)
    """
    return isinstance(error, Unreachable | Conflict)


def next_try(attempts: int, error: FleetError | None, moment: datetime) -> datetime | None:
    """When a delivery that failed is tried again by itself; None: not.

    Args:
        attempts: runs that tried it so far.
        error: why the last one failed.
        moment: of its end.

    >>> start = datetime(2026, 1, 2, 3, 4)
    >>> next_try(1, Unreachable("a", "b"), start), next_try(5, Unreachable("a", "b"), start)
    (datetime.datetime(2026, 1, 2, 3, 20), None)
    """
    if not waiting_helps(error) or not 1 <= attempts <= len(WAITS):
        return None
    return slot(moment + WAITS[attempts - 1])


def slot(moment: datetime) -> datetime:
    """The next full five minutes from ``moment`` on: so one run serves all that failed together.

    >>> slot(datetime(2026, 1, 2, 3, 19, 30)), slot(datetime(2026, 1, 2, 3, 20))
    (datetime.datetime(2026, 1, 2, 3, 20), datetime.datetime(2026, 1, 2, 3, 20))
    """
    over = timedelta(minutes=moment.minute % 5, seconds=moment.second, microseconds=moment.microsecond)
    return moment if not over else moment - over + _SLOT


@dataclass(frozen=True)
class Book:
    """The pages of one backup: its mails."""

    engine: Engine
    backup_id: int

    def mails(self) -> list[BackupMail]:
        """All of them, oldest first.

        Older than the backup itself are those of one that was forgotten, whose number SQLite gave away again.
        """
        with Session(self.engine) as session:
            ours = session.get_one(BackupRun, self.backup_id)
            found = select(BackupMail).where(
                BackupMail.backup_id == self.backup_id, col(BackupMail.started_at) >= ours.started_at
            )
            return list(session.exec(found.order_by(col(BackupMail.id))).all())

    def begin(self, message_id: str, mail: Mail) -> int:
        """A mail is about to be sent; the id of its row."""
        begun = BackupMail(
            backup_id=self.backup_id,
            message_id=message_id,
            part=mail[0],
            parts=mail[1],
            started_at=now(),
            error=CUT_OFF,
        )
        with Session(self.engine) as session:
            session.add(begun)
            session.commit()
            assert begun.id is not None
            return begun.id

    def handing_over(self, row_id: int, accepted: list[str]) -> None:
        """From here on it may arrive at those whom the server ``accepted``."""
        self._set(row_id, accepted=accepted, error=None)

    def sent(self, row_id: int, accepted: list[str], error: str | None) -> None:
        """The server took it for ``accepted``; ``error`` says why not for others."""
        self._set(row_id, state=MailState.SENT, accepted=accepted, error=error, ended_at=now())

    def failed(self, row_id: int, error: str) -> None:
        """The server did not take it."""
        self._set(row_id, state=MailState.FAILED, accepted=[], error=error, ended_at=now())

    def undecided(self, row_id: int, error: str) -> None:
        """The server had all of it and went away: it may have arrived at those whom it accepted."""
        self._set(row_id, error=error, ended_at=now())

    def _set(self, row_id: int, **changes: object) -> None:
        with Session(self.engine) as session:
            row = session.get_one(BackupMail, row_id)
            for name, value in changes.items():
                setattr(row, name, value)
            session.add(row)
            session.commit()


def settle(engine: Engine, target: Target) -> None:
    """End what killed deliveries left. The caller holds the target's mail lock, so none is under way."""
    ours = select(BackupRun.id).where(BackupRun.target == target.key)
    with Session(engine) as session:
        left = select(BackupMail).where(
            col(BackupMail.backup_id).in_(ours),
            BackupMail.state == MailState.SENDING,
            col(BackupMail.ended_at).is_(None),
        )
        for mail in session.exec(left).all():
            mail.ended_at = now()
            if mail.error:  # its last dot was never sent
                mail.state = MailState.FAILED
            session.add(mail)
        session.commit()
        pending = select(BackupRun).where(BackupRun.target == target.key, BackupRun.delivery == Delivery.PENDING)
        for row in session.exec(pending).all():
            assert row.id is not None
            mails = Book(engine, row.id).mails()
            ended = concluded(mails)
            known = standing(mails)
            row.deliver_after = None
            row.delivery = ended or Delivery.FAILED
            row.recipients = ", ".join(_everybody(known))
            row.delivery_error = None if ended else (UNKNOWN if known.may_have else NOT_MAILED)
            session.add(row)
        session.commit()


def _everybody(known: Standing) -> list[str]:
    """Who has the whole of it."""
    return sorted(one for one in frozenset[str]().union(*known.has.values()) if known.reached(one))


def begun(engine: Engine, row_id: int) -> None:
    """A run is at the mails of a backup that was not delivered yet: until it tells how that ended, they are pending."""
    with Session(engine) as session:
        row = session.get_one(BackupRun, row_id)
        if row.delivery not in _CLOSED:
            row.delivery, row.deliver_after = Delivery.PENDING, None
            session.add(row)
            session.commit()


@dataclass(frozen=True)
class Tally:
    """What a backup's row says after an attempt."""

    attempts: int
    next_try: datetime | None


def delivered(engine: Engine, row_id: int, state: Delivery, recipients: list[str], message_id: str | None) -> Tally:
    """The mail was taken for ``recipients``; older backups of the same database that were not delivered need not be any more."""
    with Session(engine) as session:
        row = session.get_one(BackupRun, row_id)
        row.delivery, row.recipients = state, ", ".join(recipients)
        row.message_id = message_id or row.message_id
        row.delivery_error = row.deliver_after = None
        row.delivery_attempts += 1
        session.add(row)
        older = (
            update(BackupRun)
            .where(
                col(BackupRun.target) == row.target,
                col(BackupRun.id) < row_id,
                col(BackupRun.delivery).in_((Delivery.FAILED, Delivery.PENDING)),
            )
            .values(delivery=Delivery.SUPERSEDED, deliver_after=None)
        )
        session.connection().execute(older)
        session.commit()
        return Tally(row.delivery_attempts, None)


def failed(
    engine: Engine, row_id: int, error: FleetError, recipients: Iterable[str] = (), message_id: str | None = None
) -> Tally:
    """A run could not deliver; when it is tried again. What was delivered in the meantime, or before, stays so.

    Args:
        row_id: the backup's.
        error: why.
        recipients: who got it nevertheless.
        message_id: of its mails.
    """
    with Session(engine) as session:
        row = session.get_one(BackupRun, row_id)
        row.delivery_attempts += 1
        if row.delivery not in _CLOSED:
            row.delivery, row.delivery_error = Delivery.FAILED, str(error)
            row.recipients, row.message_id = ", ".join(recipients), message_id or row.message_id
            row.deliver_after = next_try(row.delivery_attempts, error, now())
        session.add(row)
        session.commit()
        return Tally(row.delivery_attempts, row.deliver_after)


def not_planned(engine: Engine, row_id: int) -> None:
    """Nobody will try again by itself, since no run could be planned."""
    with Session(engine) as session:
        row = session.get_one(BackupRun, row_id)
        row.deliver_after = None
        session.add(row)
        session.commit()


def undelivered(engine: Engine) -> list[tuple[Target, BackupRun]]:
    """The newest good backup of each database, where it was to be mailed and was not delivered."""
    regular = (col(BackupRun.status) == "good", col(BackupRun.kind) == BackupKind.REGULAR)
    newest = select(func.max(col(BackupRun.id))).where(*regular).group_by(col(BackupRun.target))
    waiting = select(BackupRun).where(
        col(BackupRun.id).in_(newest), col(BackupRun.delivery).in_((Delivery.FAILED, Delivery.PENDING))
    )
    with Session(engine) as session:
        rows = session.exec(waiting.order_by(col(BackupRun.target))).all()
    return [(target_of(row.target), row) for row in rows]


def require_not_found_bad(engine: Engine, row_id: int, target: Target) -> None:
    """Return unless a trial restore found the backup not good.

    Raises:
        Damaged: it did.
    """
    with Session(engine) as session:
        row = session.get_one(BackupRun, row_id)
    if row.verified is False:
        raise Damaged(
            f"the last trial restore of the backup of {target.spoken} found it not good ({row.verify_note})",
            f"run backup-database for {target.spoken}, which mails the new one",
        )
