"""The steps of provision-client."""

from dataclasses import dataclass, field
from typing import Any

from prefect import task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from blocks.docker import connect, engine_name
from tasks.clients import image_choice, labelled, page, provisioning, readiness
from tasks.clients.engine import answers
from tasks.clients.steps import client_blocks
from tasks.clients.steps.existing import settle
from tasks.clients.steps.gate import until_ready
from tasks.clients.steps.operation import journaled, outside, together, work_on
from tasks.clients.steps.threads import in_thread
from tasks.clients.work import Work
from tasks.clock import now
from tasks.registry import journal, queries
from tasks.registry.spec import SpecChanges


@dataclass(frozen=True)
class Outlook:
    """What a look found: the steps that are needed (none: ``sentence`` says so) and the differences of the spec."""

    steps: list[str]
    differences: list[str] = field(default_factory=list)
    sentence: str = ""


@task(name="look at what there is", cache_policy=NO_CACHE, persist_result=False)
async def look(client: str, changes: SpecChanges) -> Outlook:
    """See spec, blocks, Docker and PostgreSQL, refuse what cannot be, and say which steps are needed. Changes nothing,
    except that an image may be pulled or built.
    """
    work = work_on(client)
    async with journaled(work, "look") as entry:
        await settle(work)
        await in_thread(provisioning.settle_spec, work, changes)
        engine = await client_blocks.read(work)
        for line in work.differences:
            get_run_logger().info("spec of %s: %s", client, line)
        with entry.outside():
            try:
                await together(
                    in_thread(_look_at_docker, work, engine),
                    in_thread(provisioning.look_at_database, work),
                    client_blocks.learn_type(work),
                )
                serving = (
                    work.container is not None
                    and work.container.running
                    and work.port is not None
                    and await readiness.serves(work.base, work.spec.probe)
                )
                provisioning.decide(work, serving)
            except BaseException:  # a cancelled run, too
                await in_thread(image_choice.let_go, work)
                raise
        if not work.steps and work.given == work.secrets:
            return Outlook([], work.differences, await in_thread(provisioning.nothing_to_do, work))
        for step in work.steps:
            get_run_logger().info("%s: %s", client, step)
    return Outlook([str(step) for step in work.steps], work.differences)


def _look_at_docker(work: Work, block: Any | None) -> None:
    # Importing the SDK (0.1 s) happens in here, beside the look at PostgreSQL, and counts as Docker's time.
    with answers("answer"):
        work.docker = connect(block)
    work.engine = engine_name(work.docker)
    provisioning.look_at_docker(work)
    found = labelled.containers_of(work.docker, work.house.fleet)
    known = [work.client, *(row.client for row in queries.instances(work.registry))] if found else []
    for orphan in labelled.orphans(found, known):
        get_run_logger().warning("%s", labelled.orphan_words(orphan))


async def _claim(work: Work) -> None:
    """Reserve the port, save new secrets before anything uses them, and give out the redirect URI."""
    async with journaled(work, "claim"):
        await together(in_thread(provisioning.claim, work), client_blocks.save_secrets(work))
        await _announce(work)


async def _announce(work: Work) -> None:
    before = work.stored.redirect_uri if work.stored else None
    uri = await in_thread(provisioning.announce, work)
    if before != uri:
        get_run_logger().info("%s: register this redirect URI with Google: %s", work.client, uri)


@task(name="claim port and secrets, make the database", cache_policy=NO_CACHE, persist_result=False)
async def claim_and_make_database(client: str) -> None:
    """Reserve the port and save new secrets, then make or mend the client's role and database, and see that nobody else gets in.
    Meanwhile the client's page is written, so that the redirect URI can be read there before the container starts.
    """
    work = work_on(client)
    await _claim(work)
    async with journaled(work, "database") as entry:
        await together(outside(entry, provisioning.make_database, work), write_page(work))


@task(name="run the container", cache_policy=NO_CACHE, persist_result=False)
async def run_container(client: str) -> None:
    """Make the container anew where it is not as wanted, and start it (or stop it, when the client is not enabled)."""
    work = work_on(client)
    async with journaled(work, "container") as entry:
        if not work.spec.enabled:
            await outside(entry, provisioning.stop, work)
        for _ in range(provisioning.PORT_ATTEMPTS):
            await outside(entry, provisioning.make_container, work)
            if not work.spec.enabled:
                return
            with entry.outside():
                started = await in_thread(provisioning.start, work)
            if started:
                return
            get_run_logger().warning("%s: its port was taken meanwhile; it has %s now", client, work.port)
            await _announce(work)
            await write_page(work)
        raise provisioning.no_port(work)


@task(name="wait until Zero serves", cache_policy=NO_CACHE, persist_result=False)
async def await_ready(client: str) -> str:
    """Wait until the service answers and its database lets it in, at most ``ready_within`` seconds, and say it in a sentence. Its
    page is written meanwhile: it says what there is, not how it fares.
    """
    work = work_on(client)
    async with journaled(work, "ready") as entry:
        await together(until_ready(work, entry), write_page(work))
    return await in_thread(provisioning.finish, work)


async def write_page(work: Work) -> None:
    """Write the client's page among the artifacts."""
    steps = await in_thread(journal.latest, work.registry, work.client, 10)
    await acreate_markdown_artifact(
        page.markdown(provisioning.facts(work), steps[::-1], now(), work.house.time_zone),
        key=f"client-{work.client}",
        description=f"Zero of {work.client}: {work.url}",
    )
