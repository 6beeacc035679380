"""New values for a client's secrets: saved as its block's next values first, then tried, then in the place of the old ones.

The phases of ``trial``, noted before they are begun. The block keeps both values until the end, so that after a kill it is known which
password PostgreSQL is to have: the new one when the service had been seen to serve with it, else the old one. Saving the block is
the steps' affair.
"""

import secrets as randomness
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from tasks.clients import postgres, provisioning, trial
from tasks.clients.secrets import Secrets
from tasks.clients.trial import COMMIT, TRY
from tasks.clients.work import Work
from tasks.errors import Conflict, InvalidInput, NotConfigured
from tasks.registry.models import Status

OPERATION = "rotate"
Secret = Literal["database_password", "better_auth_secret", "autumn_key", "api_token"]
SECRETS: tuple[str, ...] = get_args(Secret)
SPOKEN = {
    "database_password": "database password",
    "better_auth_secret": "Better Auth secret (everybody is logged out)",
    "autumn_key": "Autumn key",
    "api_token": "bearer token of the e-mail API (its callers need the new one)",
}


def next_values(own: Secrets, which: Sequence[str], block: str, fleet_autumn: str) -> dict[str, str]:
    """The values that are to come, by field: those of the block's ``pending``, else new ones.

    Args:
        own: the client's, as saved.
        block: its name, for the sentences.
        fleet_autumn: the key that clients share, or empty; a key of Autumn cannot be made up where there is one.

    Raises:
        InvalidInput: ``pending`` has a field that is not rotated now, or the value that there is.
        Conflict: the client has the fleet's Autumn key.

    >>> next_values(Secrets(api_token="old", pending={"api_token": "new"}), ["api_token"], "zero-acme", "")
    {'api_token': 'new'}
    """
    for name, value in own.pending.items():
        if name not in which:
            raise InvalidInput(
                f"the block {block} has {name} among its next values (pending), which is not to be rotated now",
                f"add it to which if it is one of {', '.join(SECRETS)}, or take it out of the block",
            )
        if not value or value == getattr(own, name):
            raise InvalidInput(
                f"the next value of {name} in the block {block} (pending) is empty or the one that there is",
                "take it out, so that one is made, or give another",
            )
    if "autumn_key" in which and "autumn_key" not in own.pending and fleet_autumn and fleet_autumn == own.autumn_key:
        raise Conflict(
            "the client uses the Autumn key that the fleet shares",
            f"save the new key in the block autumn-key first, or as autumn_key in pending of the block {block}",
        )
    made = {
        "database_password": randomness.token_urlsafe(24),
        "better_auth_secret": randomness.token_hex(32),
        "autumn_key": fleet_autumn or randomness.token_urlsafe(32),
        "api_token": randomness.token_urlsafe(32),
    }
    return {name: own.pending.get(name) or made[name] for name in SECRETS if name in which}


def prepare(work: Work) -> None:
    """Refuse what a rotation could not begin with.

    Raises:
        NotConfigured: container, database or block are not there as they should be.
        Conflict: something has a name that is needed meanwhile.
    """
    provisioning.look_at_database(work)
    faults = list(work.database.faults) if work.database else []
    if work.container is None:
        faults.append(f"no container {work.names.container}")
    if any(not getattr(work.given, name) for name in SECRETS):
        faults.append(f"its block {work.names.secrets_block} lacks a secret")
    if faults:
        raise NotConfigured(
            f"{work.client} is not as it should be before a rotation ({', '.join(faults)})",
            f"run provision-client for {work.client} first",
        )
    trial.refuse_leftover(work)
    trial.refuse_once(work)
    if work.container is not None:
        work.image_id = work.container.image_id


def begin(work: Work, which: Sequence[str]) -> None:
    """Note what is under way; nothing is saved or changed yet."""
    trial.begin(work, OPERATION, which=list(which), made=[name for name in which if name not in work.given.pending])


def apply(work: Work) -> None:
    """Put the old container aside, give PostgreSQL the new password, make the container with the new secrets and start it, if the
    old one ran. The block has the next values already.
    """
    trial.set_aside(work)
    trial.note(work, TRY)
    old = work.given
    work.secrets = with_new(old)
    if "database_password" in old.pending:
        _set_password(work, work.secrets)
    provisioning.settle_container(work)
    trial.make_new(work, start=trial.before(work).running)
    if not trial.before(work).running:
        postgres.check_client(work.postgres_server(), work.names.database, work.secrets.database_password)


def commit(work: Work) -> Secrets:
    """The service was seen to serve with the new secrets: note it, and say what the block is to hold."""
    row = {"spec_hash": work.spec_hash, "container_id": work.container.id if work.container else None}
    trial.note(work, COMMIT, row=row)
    return with_new(work.given)


def with_new(own: Secrets) -> Secrets:
    """The next values in their places."""
    values: dict[str, Any] = {name: value for name, value in own.pending.items() if name in SECRETS}
    return replace(own, **values, pending={})


def made_here(work: Work) -> list[str]:
    """The secrets under way whose next values were made here, and not given by somebody."""
    return list(trial.under_way(work).get("made") or ())


def with_old(own: Secrets, made: Collection[str]) -> Secrets:
    """The next values dropped that were ``made`` here; what somebody gave stays for another try."""
    return replace(own, pending={name: value for name, value in own.pending.items() if name not in made})


def finish(work: Work) -> str:
    """The block holds the new values: remove the old container."""
    which = trial.under_way(work)["which"]
    if "database_password" in which:  # a kill may lie between, or somebody's hand
        _set_password(work, work.secrets)
    trial.discard_old(work)
    trial.over(work, Status.RUNNING if trial.alive(work) else trial.resting(work))
    what = ", ".join(SPOKEN[name] for name in which)
    return f"{work.client}: new {what}; {_how_it_is(work)}"


def take_back(work: Work) -> str:
    """Give PostgreSQL the old password again and bring the old container back, started if it ran; nothing is waited for.

    Returns:
        What could not be put back as it was, in words; empty: everything is.
    """
    trial.remove_new(work)
    work.secrets = with_old(work.given, made_here(work))
    if "database_password" in trial.under_way(work)["which"]:
        _set_password(work, work.secrets)
    there = trial.bring_back(work)
    return "" if there else "its old container is gone: run provision-client, which makes it anew"


def taken_back(work: Work) -> None:
    """The block holds the old values alone: nothing is under way any more."""
    trial.over(work, trial.resting(work))


def committed(work: Work) -> bool:
    """Whether the service had been seen to serve with the new secrets."""
    return bool(trial.under_way(work)["phase"] == COMMIT)


def _set_password(work: Work, own: Secrets) -> None:
    if not own.database_password:  # somebody deleted the block meanwhile; provision-client makes both anew
        return
    postgres.ensure(work.postgres_server(), work.names.database, own.database_password, work.owner)


def _how_it_is(work: Work) -> str:
    return f"running at {work.url}" if trial.alive(work) else "not running, as before"
