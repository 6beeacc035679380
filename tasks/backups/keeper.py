"""What holds a target's locks and opens its backup, with the registry beside it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from tasks.backups import archive, history
from tasks.backups import manifest as manifests
from tasks.backups.archive import OpenFile, disk_error
from tasks.backups.manifest import Manifest
from tasks.backups.source import Target
from tasks.errors import Damaged, NotFound
from tasks.registry.lock import hold


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
                file = stack.enter_context(archive.opened(path))
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
