"""What trades ask the registry; each function is one short transaction."""

from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from tasks.clock import now
from tasks.errors import InvalidInput, NotFound
from tasks.registry.models import Client, ZeroInstance
from tasks.registry.names import require_slug


def find_instance(engine: Engine, slug: str) -> ZeroInstance | None:
    """The Zero instance of client ``slug``, or None."""
    with Session(engine) as session:
        return session.get(ZeroInstance, slug)


def get_instance(engine: Engine, slug: str) -> ZeroInstance:
    """The Zero instance of client ``slug``.

    Raises:
        NotFound: no such client was provisioned.
    """
    found = find_instance(engine, slug)
    if found is None:
        raise unknown_client(engine, slug)
    return found


def unknown_client(engine: Engine, slug: str) -> NotFound:
    """The error that names the clients there are."""
    known = ", ".join(row.client for row in instances(engine)[:20]) or "none yet"
    return NotFound(
        f"there is no client {slug!r} (known: {known})",
        f"correct the slug, or run provision-client for {slug} first",
    )


def instances(engine: Engine) -> list[ZeroInstance]:
    """All Zero instances, by client."""
    with Session(engine) as session:
        return list(session.exec(select(ZeroInstance).order_by(col(ZeroInstance.client))))


def resolve_clients(engine: Engine, clients: list[str]) -> list[str]:
    """The slugs meant by the parameter ``clients``: one slug, several, or ``all``.

    Raises:
        InvalidInput: nothing named, a value that is no slug, or ``all`` beside others.
        NotFound: a client that was never provisioned.
    """
    if not clients:
        raise InvalidInput("clients is empty", "name at least one client, or write all")
    known = [row.client for row in instances(engine)]
    if "all" in clients:
        if len(clients) > 1:
            raise InvalidInput("clients has all beside other names", "write all alone, or name the clients")
        return known
    for slug in clients:
        if require_slug(slug) not in known:
            raise unknown_client(engine, slug)
    return list(dict.fromkeys(clients))


def register_client(engine: Engine, slug: str) -> bool:
    """Make the client's rows when missing. True if they were made now."""
    with Session(engine) as session:
        if session.get(ZeroInstance, slug) is not None:
            return False
        try:
            session.merge(Client(slug=slug))
            session.flush()
            session.add(ZeroInstance(client=slug))
            session.commit()
        except IntegrityError:  # another process was faster, or what a killed one sent is written only now: look again
            session.rollback()
            return register_client(engine, slug)
        return True


def forget_client(engine: Engine, slug: str) -> None:
    """Take the client's rows out again (a first provision that was refused before anything was made)."""
    with Session(engine) as session:
        for row in (session.get(ZeroInstance, slug), session.get(Client, slug)):
            if row is not None:
                session.delete(row)
                session.flush()
        session.commit()


def update_instance(engine: Engine, slug: str, **changes: Any) -> None:
    """Set columns of the client's instance; ``updated_at`` follows.

    Raises:
        NotFound: no such client.
    """
    with Session(engine) as session:
        row = session.get(ZeroInstance, slug)
        if row is None:
            raise NotFound(f"there is no client {slug!r}", "run provision-client for it first")
        for name, value in changes.items():
            setattr(row, name, value)
        row.updated_at = now()
        session.add(row)
        session.commit()


def note_looked(engine: Engine, slug: str, looked: dict[str, Any]) -> None:
    """Remember what diagnose-client saw of a client; ``updated_at``, which says when its status began, stays."""
    with Session(engine) as session:
        row = session.get(ZeroInstance, slug)
        if row is not None:
            row.looked = looked
            session.add(row)
            session.commit()
