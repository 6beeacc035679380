"""Which image a client runs: found on the engine or at its registry, or built for it, once for all who ask at the same time."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from sqlalchemy import Engine

from tasks.clients import images
from tasks.clients.work import Work
from tasks.registry import lock, queries
from tasks.registry.names import LABEL_URL
from tasks.registry.source import check_tag


def settle_image(work: Work, reserve: Callable[[Work], None]) -> None:
    """Choose the image, which may pull it, or build it with the client's public URL; see whose URL is baked into it.

    Args:
        reserve: reserves the client's port, which the URL may need; called only before a build.

    Raises:
        NotFound, Refused, Unreachable, NotConfigured, InvalidInput: it is nowhere and cannot be built.
    """
    same_name = work.stored is not None and work.stored.image == work.spec.image
    pinned = work.stored.image_id if work.stored and same_name else None
    build = (lambda: _build(work, reserve)) if work.spec.repo_url else None
    client, spec = work.engine_client(), work.spec
    work.image_id = images.resolve(client, spec.image, spec.pull, pinned, work.registry_login, build)
    work.baked_url = images.label(client, work.image_id, LABEL_URL)


def _build(work: Work, reserve: Callable[[Work], None]) -> str:
    from tasks.clients import builds  # what it needs is imported only by a run that builds

    tag, client = work.spec.image, work.engine_client()
    check_tag(tag)
    if not work.port and not work.spec.domain:
        work.registered_early = queries.register_client(work.registry, work.client)
        reserve(work)
    work.tell(f"{tag} is found nowhere: building it, or waiting for the run that does")
    holder = f"run {work.run_id[:8]} ({work.operation} {work.client}, which builds it)"
    with alone(work.registry, work.engine, tag, holder, work.locks, work.house.time_zone):
        found = images.local(client, tag)
        if found:
            work.tell(f"{tag} was built by another client's run meanwhile")
            return found
        built = builds.build(client, work.spec.source, tag, work.builds, work.tell, work.url)
    work.tell(f"{built}; log: {built.log}")
    return built.image_id


def alone(
    registry: Engine, engine: str, tag: str, holder: str, locks: Path, time_zone: str
) -> AbstractContextManager[None]:
    """Hold the right to build ``tag`` on the engine called ``engine``; waits as long as a build may take."""
    from tasks.clients.builds import BUILD_SECONDS
    from tasks.clients.checkout import CLONE_SECONDS

    name = "image-" + re.sub(r"[^A-Za-z0-9.]+", "-", f"{engine}-{tag}")[:100]
    return lock.hold(registry, name, holder, locks, CLONE_SECONDS + BUILD_SECONDS, time_zone)


def let_go(work: Work) -> None:
    """Take out the rows that were made for a build, when the look that it was part of failed."""
    if work.registered_early:
        queries.forget_client(work.registry, work.client)
        work.registered_early = False


def warning(work: Work) -> str:
    """What is wrong with the browser code of the image; empty: nothing that is known."""
    if not work.baked_url or work.baked_url == work.url:
        return ""
    return (
        f"the image {work.spec.image} was built for {work.baked_url}, so browsers are sent there: give spec.image a name of its "
        "own, and it is built for this client"
    )
