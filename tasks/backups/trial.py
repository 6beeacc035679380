"""Prove the latest backup of one target by a trial restore, with the registry kept true; what the step does in a thread."""

from contextlib import nullcontext
from pathlib import Path

from tasks.backups import history, mounts, restore, scratch, survey
from tasks.backups.keeper import Keeper, opened
from tasks.backups.restore import Trial, Verified
from tasks.backups.source import Target
from tasks.errors import Conflict, Damaged, FleetError, NotFound


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
            mounts.require(Path(known.path or "").parent, must_be_mounted=False)
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
