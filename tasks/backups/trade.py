"""Back up, open and verify one target under its locks, with the registry kept true; what the steps do in a thread."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from tasks.backups import delivery, history, restore, scratch, survey
from tasks.backups import manifest as manifests
from tasks.backups.archive import OpenFile, disk_error
from tasks.backups.delivery import Delivered, Post
from tasks.backups.dump import Job, dump
from tasks.backups.mail import Account, Step
from tasks.backups.manifest import Made, Manifest
from tasks.backups.restore import Trial, Verified
from tasks.backups.source import Target
from tasks.errors import Conflict, Damaged, FleetError, NotFound
from tasks.registry.lock import hold
from tasks.registry.models import Delivery
from tasks.sqlstate import NotLetIn


@dataclass(frozen=True)
class Keeper:
    """What the locks and the registry need to know of the run that asks."""

    engine: Engine
    locks: Path
    run_id: str
    time_zone: str

    def hold(self, name: str, what: str, wait: float = 30.0) -> AbstractContextManager[None]:
        """The lock ``name``, held for ``what``."""
        holder = f"run {self.run_id[:8]} ({what})"
        return hold(self.engine, name, holder, self.locks, wait, self.time_zone)


def back_up(keeper: Keeper, job: Job, mailed: bool) -> Made:
    """Dump under the target's lock and tell the registry how it ended.

    Args:
        keeper: who asks.
        job: what to dump.
        mailed: whether a mail will follow.

    Raises:
        Conflict: another run backs the same target up.
        FleetError: the dump's own.
    """
    with suppress(Conflict), keeper.hold(f"mail-{job.target.key}", "look at the last mail", wait=0):
        history.settle_delivery(keeper.engine, job.target)
    with keeper.hold(job.target.lock, f"backup of {job.target.spoken}"):
        row_id = history.begin(keeper.engine, job.target, keeper.run_id, job.path)
        try:
            made = dump(job)
        except NotLetIn as error:
            mended = error if not job.target.client else NotLetIn(error.what, _by_provisioning(job.target.client))
            history.failed(keeper.engine, row_id, str(mended))
            raise mended from None
        except FleetError as error:
            history.failed(keeper.engine, row_id, str(error))
            raise
        except BaseException as error:
            history.failed(keeper.engine, row_id, f"unexpected: {type(error).__name__}; see the run's log.")
            raise
        history.good(keeper.engine, row_id, made, job.path, Delivery.PENDING if mailed else Delivery.OFF)
    return Made(row_id, job.target, job.path, made, job.restorer)


def _by_provisioning(slug: str) -> str:
    """A client's role, password and database are provision-client's, never the operator's to correct."""
    return f"run provision-client for {slug}, which puts its role, password and database right, and run again"


@contextmanager
def opened(keeper: Keeper, target: Target, path: Path) -> Iterator[tuple[OpenFile, Manifest, int]]:
    """The latest backup of ``target``, open, with its manifest and the id of its row.

    The lock is held for the opening only: a newer backup may take the name meanwhile, the open file stays what it was.

    Raises:
        NotFound: there is none.
        Damaged: its manifest is missing or cannot be read, or it is not what the registry knows.
    """
    with ExitStack() as stack:
        with keeper.hold(target.lock, f"look at the backup of {target.spoken}"):
            history.settle(keeper.engine, target, path)
            row = history.latest_good(keeper.engine, target)
            try:
                file = stack.enter_context(path.open("rb"))
            except FileNotFoundError:
                raise NotFound(
                    f"there is no backup of {target.spoken} at {path}", f"run backup-database for {target.spoken} first"
                ) from None
            except OSError as error:
                raise disk_error(error, path) from None
            manifest = manifests.read(path)
        if manifest is None:
            raise Damaged(f"the backup {path} has no manifest beside it", "make a new backup")
        if row is None or row.id is None or row.sha256 != manifest.sha256:
            raise Damaged(
                f"{path} is not the backup that the registry knows (another SHA-256)",
                "see who wrote there, then make a new backup",
            )
        yield file, manifest, row.id


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


def verify(keeper: Keeper, target: Target, trial: Trial) -> Verified:
    """Restore the latest backup of ``target`` into a scratch database, compare, and tell the registry what was found.

    Raises:
        NotFound: there is no backup.
        Damaged: the backup is not good.
        FleetError: the trial could not be made.
    """
    with keeper.hold(f"verify-{target.key}", f"trial restore of {target.spoken}"):
        known = history.latest_good(keeper.engine, target)
        if known is None or known.id is None:
            raise NotFound(
                f"there is no good backup of {target.spoken}", f"run backup-database for {target.spoken} first"
            )
        row_id = known.id
        try:
            sweep(keeper, trial, target)
            with opened(keeper, target, Path(known.path or "")) as (file, manifest, current):
                row_id = current
                found = restore.verify(file, Path(known.path or ""), manifest, trial)
        except Damaged as error:
            history.verified(keeper.engine, row_id, False, str(error))
            raise
        except FleetError as error:
            history.unproven(keeper.engine, row_id, str(error))
            raise
        history.verified(keeper.engine, row_id, True, found.sentence)
        return found


def sweep(keeper: Keeper, trial: Trial, own: Target) -> list[str]:
    """Drop the scratch databases that killed trials of this fleet left; their names.

    Args:
        keeper: who asks.
        trial: on which server, of which fleet.
        own: the target whose verify lock the caller holds; another's is left alone while its lock is held.
    """
    gone = []
    with survey.connected(trial.server, 60) as connection:
        for name, label in scratch.labels(connection).items():
            key = scratch.target_in(label, trial.fleet)
            if key is None:
                continue
            try:
                with nullcontext() if key == own.key else keeper.hold(f"verify-{key}", "sweep", wait=0):
                    scratch.drop(connection, scratch.Scratch(name, label))
            except Conflict:
                continue
            gone.append(name)
    return gone
