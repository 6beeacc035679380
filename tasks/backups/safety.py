"""The backup that is made before a restore goes over a database: a dated file of its own, which is never the latest one."""

from tasks.backups import dated, history
from tasks.backups.dump import Job, dump
from tasks.backups.keeper import Keeper
from tasks.backups.manifest import Made
from tasks.errors import FleetError
from tasks.registry.models import BackupKind, Delivery


def back_up(keeper: Keeper, job: Job) -> Made:
    """Dump under the target's lock and tell the registry how it ended; the latest backup stays what it is.

    Args:
        keeper: who asks.
        job: what to dump, with ``taken_for`` safety; its path is the latest backup's.

    Raises:
        Conflict: another run backs the same target up.
        FleetError: the dump's own.
    """
    with keeper.hold(job.target.lock, f"backup of {job.target.spoken} before a restore"):
        row_id = history.begin(keeper.engine, job.target, keeper.run_id, job.path, BackupKind.SAFETY)
        try:
            dated.sweep(job.path)
            made = dump(job)
        except FleetError as error:
            history.failed(keeper.engine, row_id, str(error))
            raise
        except BaseException as error:
            history.failed(keeper.engine, row_id, f"unexpected: {type(error).__name__}; see the run's log.")
            raise
        path = dated.dated_path(job.path, job.target, made)
        history.good(keeper.engine, row_id, made, path, Delivery.OFF, path)
    return Made(row_id, job.target, path, made, job.restorer)
