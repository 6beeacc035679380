"""Another image for a client that there is: tried with the old container and a copy of the database kept, so that going back is exact.

The phases of ``trial``, noted before they are begun; ``settle`` ends what a killed run left, by what was noted: an upgrade whose
image had been seen to serve is finished, any other is taken back.
"""

from dataclasses import asdict

from tasks.clients import database_copy, image_choice, images, postgres, provisioning, trial
from tasks.clients.database_copy import Copied
from tasks.clients.trial import COMMIT, COPY, TRY
from tasks.clients.work import Work
from tasks.errors import NotConfigured
from tasks.registry.models import Status
from tasks.registry.names import LABEL_URL
from tasks.registry.spec import SpecChanges, apply_changes

OPERATION = "upgrade"


def check_image(image: str) -> None:
    """Refuse what is no name of an image, before anything is asked.

    Raises:
        InvalidInput: it is not.
    """
    apply_changes({}, SpecChanges(image=image))


def left_alone(work: Work) -> str:
    """Why the client is not upgraded, as a sentence: nobody could see whether the new image serves. Empty: it is upgraded."""
    there = f"it stays at {work.spec.image}"
    if not work.spec.enabled:
        return f"{work.client}: not enabled, so {there}; provision-client with spec.image changes that"
    down = work.container is not None and work.container.state not in trial.ALIVE
    if down and work.stored is not None and work.stored.status == Status.STOPPED:
        return f"{work.client}: stopped, so {there}; start it and run again"
    return ""


def find_image(work: Work, image: str, pinned: str) -> str:
    """The id of ``image`` on the client's engine, pulled when its spec says so; never built, since a mistyped tag would be, too.

    Args:
        pinned: what the name meant for the clients before; kept where the engine has it, so that a tag which moves meanwhile
            does not part the fleet.

    Raises:
        NotFound, Refused, Unreachable: it cannot be had.
    """
    return images.resolve(work.engine_client(), image, work.spec.pull, pinned or None, work.registry_login)


def already(work: Work, image: str, image_id: str, serves: bool) -> str:
    """The sentence for a client that runs the image and serves; empty: there is something to do."""
    same = work.container is not None and work.container.image_id == image_id and work.spec.image == image
    return f"{work.client}: already on {image}, running at {work.url}" if same and serves else ""


def prepare(work: Work, image: str, image_id: str) -> int:
    """Refuse what an upgrade could not begin with; the size of the database in bytes.

    Raises:
        NotConfigured: container or database are not there as they should be.
        Conflict: something has a name that is needed meanwhile.
        FleetError: PostgreSQL or Docker do not answer.
    """
    provisioning.look_at_database(work)
    if work.container is None or work.database is None or not work.database.ready:
        faults = work.database.faults if work.container and work.database else (f"no container {work.names.container}",)
        raise NotConfigured(
            f"{work.client} is not as it should be before an upgrade ({', '.join(faults)})",
            f"run provision-client for {work.client} first",
        )
    trial.refuse_leftover(work)
    trial.refuse_once(work)
    size = database_copy.refuse_existing(work.postgres_server(), work.names.database)
    work.spec = work.spec.model_copy(update={"image": image})
    work.image_id = image_id
    work.baked_url = images.label(work.engine_client(), image_id, LABEL_URL)
    provisioning.settle_container(work)
    return size


def set_aside(work: Work) -> None:
    """Stop the old container and put it aside."""
    trial.begin(work, OPERATION, image=work.spec.image, image_id=work.image_id)
    trial.set_aside(work)


def copy_database(work: Work) -> None:
    """Copy the database while nobody uses it, and note which is which."""
    trial.note(work, COPY)
    copied = database_copy.make(work.postgres_server(), work.names.database, work.owner)
    trial.note(work, TRY, database=asdict(copied))


def start_new(work: Work) -> None:
    """Make the container of the new image and start it; it may migrate the database from now on."""
    trial.make_new(work)


def commit(work: Work) -> str:
    """The new image was seen to serve: it is the client's from now on."""
    old = work.stored.image if work.stored else None
    _keep(work, work.spec_hash)
    new = f"from {old} to {work.spec.image}" if old != work.spec.image else f"to what {old} is now"
    said = f"{work.client}: upgraded {new}, running at {work.url}"
    return "; ".join(filter(None, [said, image_choice.warning(work)]))


def _keep(work: Work, spec_hash: str) -> None:
    row = {
        "spec": work.spec.model_dump(mode="json"),
        "image": work.spec.image,
        "image_id": work.image_id,
        "spec_hash": spec_hash,
        "container_id": work.container.id if work.container else None,
    }
    trial.note(work, COMMIT, row=row)
    _finish(work)


def runs_new(work: Work) -> bool:
    """Whether the image of an upgrade that was cut off while it was tried runs now."""
    pending, seen = trial.under_way(work), work.container
    tried = pending["phase"] == TRY and seen is not None and seen.id != trial.before(work).container_id
    return bool(tried and trial.alive(work) and seen is not None and seen.image_id == pending["image_id"])


def take_back(work: Work) -> str:
    """Undo what was begun: the new container goes, the database is what it was, the old container comes back and is started if it
    ran. Nothing is waited for.

    Returns:
        What could not be put back as it was, in words; empty: everything is.

    Raises:
        FleetError: it could not be done now; what is under way stays noted.
    """
    phase, server, name = trial.under_way(work)["phase"], work.postgres_server(), work.names.database
    trial.remove_new(work)
    left = ""
    if phase == COPY:
        database_copy.drop(server, name, work.owner)
    if phase == TRY:
        left = database_copy.put_back(server, name, _copied(work))
    if phase in (COPY, TRY):
        postgres.ensure(server, name, work.secrets.database_password, work.owner)
    there = trial.bring_back(work)
    provisioning.recall(work)
    gone = "" if there else "its old container is gone: run provision-client, which makes it anew"
    return "; ".join(said for said in (left, gone) if said)


def settle(work: Work, serves: bool) -> str:
    """End an upgrade that a killed run left under way; what was done, in a sentence.

    Args:
        serves: whether its image was seen to pass the gate now.

    Raises:
        FleetError: it could not be done now; what is under way stays noted.
    """
    pending = trial.under_way(work)
    which = f"{work.client}: the upgrade to {pending.get('image')} that was cut off"
    if pending["phase"] == COMMIT:
        _finish(work)
        return f"{which} is finished"
    if serves and work.container is not None:
        work.spec = work.spec.model_copy(update={"image": pending["image"]})
        work.image_id = pending["image_id"]
        _keep(work, work.container.spec_hash)
        return f"{which} is finished: the new image serves"
    left = take_back(work)
    trial.over(work, trial.resting(work))
    return f"{which} was taken back{'; ' + left if left else ''}"


def _finish(work: Work) -> None:
    trial.discard_old(work)
    database_copy.drop(work.postgres_server(), work.names.database, work.owner, _copied(work))
    trial.over(work, Status.RUNNING if trial.alive(work) else trial.resting(work))


def _copied(work: Work) -> Copied:
    return Copied(**trial.under_way(work)["database"])
