"""The registry's row of a user's Gmail account. Every write is bound to the grant that it is about.

A grant has a number, the generation. A run that still works with an older grant writes nothing: so a late
``invalid_grant`` cannot mark a newer grant as gone.
"""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col

from tasks.gmail.profile import Profile
from tasks.registry.models import GmailProfile, GmailStatus


def find_row(engine: Engine, user: str) -> GmailProfile | None:
    """The row of ``user``, or None."""
    with Session(engine) as session:
        return session.get(GmailProfile, user)


def ensure_row(engine: Engine, user: str, generation: int) -> GmailProfile:
    """The row of ``user``, made when missing, and raised to ``generation`` when a kill left it behind the token's block."""
    with Session(engine, expire_on_commit=False) as session:
        row = session.get(GmailProfile, user)
        if row is None:
            session.add(GmailProfile(user=user, generation=generation))
            try:
                session.commit()
            except IntegrityError:  # another process was faster
                session.rollback()
    if row is None or row.generation < generation:
        _write(engine, user, GmailProfile.generation < generation, generation=generation, status=GmailStatus.CONNECTED)
    found = find_row(engine, user)
    assert found is not None
    return found


def record_grant(
    engine: Engine, user: str, generation: int, login_email: str, scopes: Iterable[str], moment: datetime
) -> None:
    """A new grant: connected, no error. ``sub`` is empty until Google is asked; an empty ``login_email`` keeps the known one."""
    row = ensure_row(engine, user, 0)
    _write(
        engine,
        user,
        col(GmailProfile.generation) <= generation,
        generation=generation,
        login_email=login_email or row.login_email,
        sub=None,
        granted_scopes=" ".join(sorted(scopes)),
        status=GmailStatus.CONNECTED,
        last_error=None,
        connected_at=moment,
    )


def record_profile(
    engine: Engine, user: str, generation: int, profile: Profile, scopes: Iterable[str], moment: datetime
) -> bool:
    """What Google said under grant ``generation``, and the scopes that it has now (a kill may have lost them).

    Returns:
        False, and nothing written, when there is a newer grant.
    """
    return _write(
        engine,
        user,
        col(GmailProfile.generation) == generation,
        **asdict(profile),
        granted_scopes=" ".join(sorted(scopes)),
        status=GmailStatus.CONNECTED,
        last_error=None,
        refreshed_at=moment,
    )


def record_reconnect(engine: Engine, user: str, generation: int, sentence: str) -> bool:
    """Grant ``generation`` is gone. False, and nothing written, when there is a newer grant."""
    return _write(
        engine,
        user,
        col(GmailProfile.generation) == generation,
        status=GmailStatus.RECONNECT,
        last_error=sentence,
    )


def record_failure(engine: Engine, user: str, generation: int, sentence: str) -> bool:
    """A refresh under grant ``generation`` failed for another reason; the status stays."""
    return _write(engine, user, col(GmailProfile.generation) == generation, last_error=sentence)


def _write(engine: Engine, user: str, condition: Any, **values: Any) -> bool:
    with Session(engine) as session:
        result = session.connection().execute(
            update(GmailProfile).where(col(GmailProfile.user) == user, condition).values(**values)
        )
        session.commit()
        return bool(result.rowcount)
