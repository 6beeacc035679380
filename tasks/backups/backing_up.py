"""Back one target up under its lock, with the registry kept true; what the step does in a thread."""

from contextlib import suppress

from tasks.backups import history
from tasks.backups.dump import Job, dump
from tasks.backups.keeper import Keeper
from tasks.backups.manifest import Made
from tasks.errors import Conflict, FleetError
from tasks.registry.models import Delivery
from tasks.sqlstate import NotLetIn


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
