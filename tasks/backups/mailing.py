"""Mail one backup under its target's mail lock, with the registry kept true; what the step does in a thread."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from tasks.backups import delivery, posted
from tasks.backups import manifest as manifests
from tasks.backups.delivery import Delivered, Post
from tasks.backups.keeper import Keeper, opened
from tasks.backups.mail import Account, Step
from tasks.backups.manifest import Made
from tasks.backups.posted import Book, Tally
from tasks.clock import zone
from tasks.errors import FleetError, NotFound
from tasks.registry.models import Delivery


def deliver(
    keeper: Keeper, made: Made, account: Account, post: Post, told: Callable[[Step], None], wait: float = 30.0
) -> Delivered:
    """Mail a backup and tell the registry what became of it; the same backup may be given any number of times.

    Args:
        keeper: who asks.
        made: the backup.
        account: the SMTP account.
        post: whom to, and how.
        told: is called with each step that worked.
        wait: seconds to wait for another run that mails the same target.

    What is mailed was read and is what the manifest says; a file that a trial restore found bad is not mailed.

    Raises:
        Conflict: a backup of the same target is just being mailed.
    """
    with keeper.hold(f"mail-{made.target.key}", f"mail of {made.target.spoken}", wait):
        posted.settle(keeper.engine, made.target)
        posted.begun(keeper.engine, made.row_id)
        book = Book(keeper.engine, made.row_id)
        try:
            with opened(keeper, made.target, made.path) as (file, manifest, _):
                if manifest.sha256 != made.manifest.sha256:
                    raise NotFound(
                        f"a newer backup of {made.target.spoken} took the place of this one before it was mailed",
                        "see whether the newer one was mailed",
                    )
                manifests.require_same(file, manifest, made.path)
                posted.require_not_found_bad(keeper.engine, made.row_id, made.target)
                came = delivery.deliver(account, post, book, made.target, manifest, file, made.path, told)
        except FleetError as error:
            return undelivered(keeper, made.row_id, error)
        mails = book.mails()
        last = mails[-1].message_id if mails else None
        if came.error is None:
            tally = posted.delivered(keeper.engine, made.row_id, came.state, came.accepted, last)
        else:
            tally = posted.failed(keeper.engine, made.row_id, came.error, came.accepted, last)
    return replace(came, attempts=tally.attempts, next_try=_as_read(tally, keeper))


def undelivered(keeper: Keeper, row_id: int, error: FleetError) -> Delivered:
    """Tell the registry that a run could not even begin to mail a backup."""
    tally = posted.failed(keeper.engine, row_id, error)
    sentence = f"it was not delivered: {error}"
    return Delivered(Delivery.FAILED, [], sentence, error, tally.attempts, _as_read(tally, keeper))


def _as_read(tally: Tally, keeper: Keeper) -> datetime | None:
    """The next try by the clock of those who read of it."""
    return tally.next_try.astimezone(zone(keeper.time_zone)) if tally.next_try else None
