"""The steps of diagnose-client: look at everything at once, and tell. No lock is taken, and only the last look is noted."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from prefect import task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from blocks.docker import connect, engine_name
from blocks.installation import installation
from tasks.clients import containers, diagnosis, provisioning
from tasks.clients.diagnosis import Check, Line, Verdict, attempt, bad, failure, good, unknown
from tasks.clients.engine import answers
from tasks.clients.inspections import container, house, settings
from tasks.clients.inspections.client import (
    View,
    answer_look,
    browser_look,
    container_and_log,
    database_looks,
    docker_looks,
    google_look,
    inspected,
    operation_look,
    redirect_look,
    registered,
)
from tasks.clients.steps import client_blocks
from tasks.clients.steps.operation import glance
from tasks.clients.steps.threads import in_thread
from tasks.clock import now
from tasks.errors import Conflict, FleetError, NotConfigured

T = TypeVar("T")
BY_DOCKER = (
    Check.FROM_INSIDE, Check.IMAGE, Check.CONTAINER, Check.PORT, Check.NETWORKS, Check.DATABASE_URL, Check.SECRETS,
    Check.ENVIRONMENT, Check.LOG, Check.RESOURCES,
)  # fmt: skip


@dataclass(frozen=True)
class Findings:
    """What was seen, without secrets: the lines from the ground up, and what is registered."""

    lines: list[Line]
    registered: dict[str, str]

    def __str__(self) -> str:
        return diagnosis.counts(self.lines)


@task(name="look at everything", cache_policy=NO_CACHE, persist_result=False)
async def examine(client: str) -> Findings:
    """Look at everything, much of it at the same time; a line for each check, also where another one failed.

    Raises:
        NotFound: no such client was provisioned.
        NotConfigured: the registry is of another revision.
    """
    async with glance(client, "diagnose") as work:
        await in_thread(provisioning.recall, work)
        view = View(work)
        block = await _through(view, Check.BLOCKS, _blocks(view))
        if work.server is None and block is None and work.spec.docker_host and view.other_engine is None:
            view.other_engine = NotConfigured(
                f"the block {work.spec.docker_host} could not be read",
                "see that Prefect's server answers, and run again",
            )
        await asyncio.gather(
            _through(view, Check.ENGINE, _docker_and_service(view, block)),
            _through(view, Check.FROM_HERE, in_thread(database_looks, view)),
            _through(view, Check.GOOGLE, google_look(view)),
            _through(view, Check.OPERATION, in_thread(operation_look, view, installation().locks)),
        )
        view.lines.append(attempt(Check.DISK, lambda: house.disk_line(_places(view))))
        view.lines.append(attempt(Check.CLOCK, lambda: house.clock_line(view.drifts)))
        told = {line.check for line in view.lines}
        view.lines += [unknown(check, "it was not come to") for check in Check if check not in told]
        return Findings(diagnosis.in_order(diagnosis.cleaned(view.lines, view.redact)), registered(view))


@task(name="tell what was found", cache_policy=NO_CACHE, persist_result=False)
async def tell(client: str, findings: Findings) -> str:
    """Write the page and say it in a sentence.

    Raises:
        Unhealthy: something is bad.
    """
    for line in findings.lines:
        log = get_run_logger().info if line.verdict is Verdict.GOOD else get_run_logger().warning
        log("%s: %s: %s%s", line.verdict, line.check, line.seen, f" -> {line.cure}" if line.cure else "")
    await acreate_markdown_artifact(
        diagnosis.markdown(client, findings.lines, findings.registered, now(), installation().time_zone),
        key=f"diagnosis-{client}",
        description=f"{client}: {diagnosis.counts(findings.lines)}",
    )
    return diagnosis.summary(client, findings.lines)


async def _through(view: View, check: Check, looks: Awaitable[T]) -> T | None:
    """Await ``looks`` to their end; what they raise becomes a line of ``check``, and the others go on."""
    try:
        return await looks
    except Exception as error:
        view.lines.append(failure(check, error))
        return None


async def _blocks(view: View) -> Any | None:
    """Take every block for itself; the Docker host's is handed back."""
    work, troubles, host = view.work, [], None
    try:
        found = await client_blocks.documents(work.client, work.spec)
    except FleetError as error:  # the Docker host's block that the spec names
        troubles.append(error)
        view.other_engine = error
        found = await client_blocks.documents(work.client, work.spec.model_copy(update={"docker_host": ""}))
    for take in (
        client_blocks.take_secrets,
        client_blocks.take_server,
        client_blocks.take_google,
        client_blocks.take_twilio,
        client_blocks.take_registry_login,
    ):
        try:
            take(work, found)
        except FleetError as error:
            troubles.append(error)
    try:
        host = client_blocks.take_engine(found)
    except FleetError as error:
        troubles.append(error)
        view.other_engine = error
    view.lines.append(
        bad(Check.BLOCKS, "; ".join(error.what for error in troubles), troubles[0].cure)
        if troubles
        else good(Check.BLOCKS, f"{', '.join(sorted(found))} can be read")
    )
    return host


async def _docker_and_service(view: View, block: Any | None) -> None:
    await in_thread(_open_engine, view, block)
    work, looks = view.work, docker_looks(view)
    # An engine that answers nothing has been told once; its checks name it.
    seen = asyncio.gather(*(in_thread(attempt, check, look) for check, look in looks.items()))
    reached, served = await asyncio.gather(answer_look(view), browser_look(view))
    view.lines += [*await seen, reached, served]
    if work.docker is not None:
        view.lines += await in_thread(container_and_log, view)


def _open_engine(view: View, block: Any | None) -> None:
    """Open the engine and look the container up."""
    work = view.work
    work.engine = work.stored.docker_host if work.stored else work.engine
    try:
        if view.other_engine is not None:
            raise view.other_engine
        with answers("answer"):
            opened = connect(block)
            version, asked, info = opened.api.version(), now(), opened.api.info()
    except FleetError as error:
        line = unknown if error is view.other_engine else bad
        view.lines.append(line(Check.ENGINE, error.what, error.cure))
        view.lines += [unknown(check, "Docker does not answer") for check in BY_DOCKER]
        view.lines.append(redirect_look(view))
        return
    work.docker, work.engine, view.root = opened, engine_name(opened), info.get("DockerRootDir", "")
    if info.get("SystemTime"):
        view.drifts["the Docker host"] = house.ahead(container.moment(info["SystemTime"]), asked)
    try:
        provisioning.require_same_engine(work)
        view.lines.append(container.engine_line(version, info))
    except Conflict as error:
        view.lines.append(bad(Check.ENGINE, error.what, error.cure))
    try:
        view.found = inspected(work)
    except FleetError as error:
        view.lines.append(unknown(Check.CONTAINER, error.what, error.cure))
        return
    seen = containers.read(view.found) if view.found else None
    work.container = containers.recognised(seen, work.house.fleet, work.stored)
    view.adopted = seen is not None and not seen.fleet
    try:
        containers.refuse_foreign(work.container, work.house.fleet, work.client)
    except Conflict as error:
        work.container = view.found = None
        view.lines.append(bad(Check.CONTAINER, error.what, error.cure))
    view.inside = settings.environment_of(view.found)


def _places(view: View) -> dict[str, Path]:
    """The folders of this machine that fill up."""
    places = {"state folder": installation().state.resolve()}
    if view.work.engine == "local" and view.root and Path(view.root).exists():
        places["Docker"] = Path(view.root)
    return places
