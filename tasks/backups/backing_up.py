"""Back one target up under its lock, with the registry kept true; what the step does in a thread."""

from contextlib import suppress

from tasks.backups import dated, history, posted
from tasks.backups.dump import Job, dump
from tasks.backups.keeper import Keeper
from tasks.backups.manifest import Made
from tasks.errors import Conflict, FleetError, Refused
from tasks.registry.models import BackupKind, Delivery
from tasks.sqlstate import NotLetIn


def back_up(keeper: Keeper, job: Job, mailed: bool, keep_dated: bool = False) -> Made:
    """Dump under the target's lock, keep it under its date too, and tell the registry how it ended.

    A dated file that cannot be made leaves the backup good; ``Made.undated`` says why. A safety backup is a dated file alone.

    Args:
        keeper: who asks.
        job: what to dump.
        mailed: whether a mail will follow.
        keep_dated: whether the policy keeps dated files, or the latest only.

    Raises:
        Conflict: another run backs the same target up.
        FleetError: the dump's own.
    """
    with suppress(Conflict), keeper.hold(f"mail-{job.target.key}", "look at the last mail", wait=0):
        posted.settle(keeper.engine, job.target)
    with keeper.hold(job.target.lock, f"backup of {job.target.spoken}"):
        apart = job.taken_for == dated.SAFETY
        kind = BackupKind.SAFETY if apart else BackupKind.REGULAR
        row_id = history.begin(keeper.engine, job.target, keeper.run_id, job.path, kind)
        undated = _date_previous(keeper, job) if keep_dated else None
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
        path = dated.dated_path(job.path, job.target, made) if apart else job.path
        twin = path if apart else None
        if keep_dated and not apart:
            try:
                twin = dated.ensure(job.path, job.target)
            except FleetError as error:
                undated = _undated(str(job.path), error)
        history.good(keeper.engine, row_id, made, path, Delivery.PENDING if mailed else Delivery.OFF, twin)
    return Made(row_id, job.target, path, made, job.restorer, undated)


def _date_previous(keeper: Keeper, job: Job) -> FleetError | None:
    """Before the latest backup is replaced: give it the dated file that a killed run, or another policy, did not make.

    An error is told and does not hinder the new backup, which matters more.
    """
    try:
        twin = dated.settle(job.path, job.target)
    except FleetError as error:
        return _undated(f"the backup that was the latest before ({job.path})", error)
    if twin is not None:
        history.note_twin(keeper.engine, job.target, twin)
    return None


def _undated(which: str, error: FleetError) -> Refused:
    what = error.what.replace(", the previous backup is untouched", "")
    return Refused(f"the dated file of {which} could not be made: {what}", error.cure)


def _by_provisioning(slug: str) -> str:
    """A client's role, password and database are provision-client's, never the operator's to correct."""
    return f"run provision-client for {slug}, which puts its role, password and database right, and run again"
