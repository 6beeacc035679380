"""Mail one backup under its target's mail lock, with the registry kept true; what the step does in a thread."""

from collections.abc import Callable

from tasks.backups import delivery, history
from tasks.backups.delivery import Delivered, Post
from tasks.backups.keeper import Keeper, opened
from tasks.backups.mail import Account, Step
from tasks.backups.manifest import Made
from tasks.errors import NotFound


def deliver(keeper: Keeper, made: Made, account: Account, post: Post, told: Callable[[Step], None]) -> Delivered:
    """Mail a backup and tell the registry what became of it.

    Raises:
        Conflict: a backup of the same target is just being mailed.
        FleetError: the file is gone.
    """
    with keeper.hold(f"mail-{made.target.key}", f"mail of {made.target.spoken}"):
        with opened(keeper, made.target, made.path) as (file, manifest, _):
            if manifest.sha256 != made.manifest.sha256:
                raise NotFound(
                    f"a newer backup of {made.target.spoken} took the place of this one before it was mailed",
                    "see whether the newer one was mailed",
                )
            came = delivery.deliver(account, post, made.target, manifest, file, made.path, told)
        history.delivered(
            keeper.engine,
            made.row_id,
            came.state,
            came.accepted,
            post.identity,
            str(came.error) if came.error else None,
        )
    return came
