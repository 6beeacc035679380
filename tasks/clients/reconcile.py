"""What has to be done so that what is becomes what is wanted. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from tasks.clients.containers import Seen
from tasks.clients.postgres import DatabaseState


class Step(StrEnum):
    """One thing to do, as the operator reads it in the log."""

    DATABASE = "make or mend the database"
    STOP = "stop the container"
    REMOVE = "remove the container"
    CREATE = "create the container"
    START = "start the container"
    WAIT = "wait until Zero serves"


@dataclass(frozen=True)
class Wanted:
    """What is wanted of a client, as far as it decides about steps."""

    enabled: bool
    spec_hash: str
    image_id: str


def steps_needed(database: DatabaseState, container: Seen | None, serves: bool, wanted: Wanted) -> list[Step]:
    """The steps from what is to what is wanted, in order; none: nothing to change.

    Args:
        database: as PostgreSQL shows it.
        container: as Docker shows it; None: there is none.
        serves: whether the service answers as wanted right now.

    >>> steps_needed(DatabaseState(False, False, ("there is no role",)), None, False, Wanted(False, "h", "i"))
    [<Step.DATABASE: 'make or mend the database'>, <Step.CREATE: 'create the container'>]
    """
    changed = container is not None and bool(why_anew(container, wanted))
    alive = container is not None and not changed and container.state in ("running", "restarting", "paused")
    steps = [] if database.ready else [Step.DATABASE]
    if wanted.enabled and alive and not database.database:
        # Zero migrates only when it starts. Stopped before the database is made, so that a run cut off between the two leaves
        # a container that the next one starts.
        return [Step.STOP, Step.DATABASE, Step.START, Step.WAIT]
    if container is not None and changed:
        steps.append(Step.REMOVE)
    if container is None or changed:
        steps.append(Step.CREATE)
    if not wanted.enabled:
        return [*steps, Step.STOP] if alive else steps
    if not alive or (container is not None and container.state == "paused"):
        return [*steps, Step.START, Step.WAIT]
    return steps if serves else [*steps, Step.WAIT]


def why_anew(container: Seen, wanted: Wanted) -> str:
    """Why ``container`` has to be made anew, in words; empty: it has not.

    A container that Docker left half made (its start failed before it ever ran) is used as it is.
    """
    if container.spec_hash != wanted.spec_hash:
        return "its spec or a secret changed"
    if container.image_id != wanted.image_id:
        return "its image changed"
    if container.state in ("dead", "removing"):
        return f"it is {container.state}"
    return ""
