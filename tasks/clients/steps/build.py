"""The step of build-zero-image."""

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from blocks.docker import BLOCK, TYPE, connect, docker_host, engine_name
from blocks.documents import read_documents
from blocks.installation import installation
from blocks.registry import kinds, registry_in
from tasks.clients import builds, image_choice
from tasks.clients.engine import answers
from tasks.clients.steps.threads import in_thread
from tasks.registry.revision import require_head
from tasks.registry.source import Source


@task(name="build the image", cache_policy=NO_CACHE, persist_result=False)
async def build_image(source: Source, tag: str) -> str:
    """Build ``source`` on the fleet's Docker host, call the image ``tag``, and say it in a sentence. How far it is stands in the
    run's log; the engine's whole output in a file of the state folder.

    Raises:
        NotFound, Refused, Unreachable, NotConfigured, InvalidInput: what ended it.
        Conflict: another run builds the same image all the time.
    """
    found = await read_documents({**kinds(), BLOCK: TYPE})
    settings, registry = installation(), registry_in(found)
    await in_thread(require_head, registry)
    holder = f"run {str(flow_run.id or 'none')[:8]} (build {tag})"
    tell = get_run_logger().info

    def work() -> builds.Built:
        with answers("answer"):
            client = connect(docker_host(found.get(BLOCK)))
        try:
            with image_choice.alone(registry, engine_name(client), tag, holder, settings.locks, settings.time_zone):
                return builds.build(client, source, tag, settings.builds, lambda line: tell("%s", line))
        finally:
            client.close()

    built = await in_thread(work)
    tell("log: %s", built.log)
    return f"{built}; a client takes it up when provision-client or upgrade-zero is run with this image"
