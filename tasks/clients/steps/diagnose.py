"""The steps of diagnose-client: look at everything at once, and tell. No lock is taken, and only the last look is noted."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from blocks.docker import connect, engine_name
from blocks.installation import installation
from tasks.clients import containers, diagnosis, environment, provisioning
from tasks.clients.diagnosis import Check, Line, Verdict, attempt, bad, failure, good, unknown
from tasks.clients.engine import answers
from tasks.clients.inspections import container, database, google, house, inside, port, settings, web
from tasks.clients.secrets import redact
from tasks.clients.steps import client_blocks
from tasks.clients.steps.operation import glance
from tasks.clients.work import Work
from tasks.clock import now
from tasks.errors import Conflict, FleetError
from tasks.registry import journal, queries
from tasks.registry.lock import holder_now

REQUIRED = ("database_password", "better_auth_secret", "autumn_key", "api_token")
"""Fields of the client's block that provisioning fills."""
BY_DOCKER = (
    Check.FROM_INSIDE, Check.IMAGE, Check.CONTAINER, Check.PORT, Check.NETWORKS, Check.DATABASE_URL, Check.SECRETS,
    Check.ENVIRONMENT, Check.LOG, Check.RESOURCES,
)  # fmt: skip


@dataclass
class View:
    """What the looks share; it holds secrets and never leaves its step."""

    work: Work
    lines: list[Line] = field(default_factory=list)
    found: dict[str, Any] | None = None
    """The engine's long answer about the container."""
    inside: dict[str, str] | None = None
    """The container's environment."""
    root: str = ""
    """Where the engine keeps its data."""
    drifts: dict[str, float | None] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The client."""
        return self.work.client

    @property
    def asked(self) -> bool:
        """Whether the service is worth asking: its container runs, or Docker does not say."""
        return self.work.docker is None or (self.work.container is not None and self.work.container.running)

    def redact(self, text: str) -> str:
        """``text`` without any secret of the blocks or of the container."""
        return redact(text, self.secrets)

    @property
    def secrets(self) -> list[str]:
        """What no line may show."""
        return [*self.work.secret_values, *settings.secret_values(self.inside)]


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
        await asyncio.to_thread(provisioning.recall, work)
        view = View(work)
        block = await _blocks(view)
        await asyncio.gather(
            _docker_and_service(view, block),
            asyncio.to_thread(_database, view),
            _google(view),
            asyncio.to_thread(_operation, view),
        )
        view.lines.append(attempt(Check.DISK, lambda: house.disk_line(_places(view))))
        view.lines.append(attempt(Check.CLOCK, lambda: house.clock_line(view.drifts)))
        return Findings(diagnosis.in_order(diagnosis.cleaned(view.lines, view.redact)), _registered(view))


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


async def _blocks(view: View) -> Any | None:
    """Take every block for itself; the Docker host's is handed back."""
    work = view.work
    try:
        found = await client_blocks.documents(work.client, work.spec)
    except Exception as error:
        view.lines.append(failure(Check.BLOCKS, error))
        return None
    troubles, host = [], None
    for take in (
        client_blocks.take_secrets,
        client_blocks.take_server,
        client_blocks.take_google,
        client_blocks.take_twilio,
    ):
        try:
            take(work, found)
        except FleetError as error:
            troubles.append(error)
    try:
        host = client_blocks.take_engine(found)
    except FleetError as error:
        troubles.append(error)
    view.lines.append(
        bad(Check.BLOCKS, "; ".join(error.what for error in troubles), troubles[0].cure)
        if troubles
        else good(Check.BLOCKS, f"{', '.join(sorted(found))} can be read")
    )
    return host


async def _docker_and_service(view: View, block: Any | None) -> None:
    await asyncio.to_thread(_open_engine, view, block)
    work, looks = view.work, _looks_by_docker(view)
    # An engine that answers nothing has been told once; its checks name it.
    seen = asyncio.gather(*(asyncio.to_thread(attempt, check, look) for check, look in looks.items()))
    reached, served = await asyncio.gather(_answer(view), _browser(view))
    view.lines += [*await seen, reached, served]
    if work.docker is not None:
        view.lines += await asyncio.to_thread(_container_and_log, view)


def _open_engine(view: View, block: Any | None) -> None:
    """Open the engine and look the container up."""
    work = view.work
    work.engine = work.stored.docker_host if work.stored else work.engine
    try:
        with answers("answer"):
            opened = connect(block)
            version, asked, info = opened.api.version(), now(), opened.api.info()
    except FleetError as error:
        view.lines.append(bad(Check.ENGINE, error.what, error.cure))
        view.lines += [unknown(check, "Docker does not answer") for check in BY_DOCKER]
        view.lines.append(_redirect(view))
        return
    work.docker, work.engine, view.root = opened, engine_name(opened), info.get("DockerRootDir", "")
    if info.get("SystemTime"):
        view.drifts["the Docker host"] = house.ahead(container.moment(info["SystemTime"]), asked)
    view.lines.append(container.engine_line(version, info))
    try:
        view.found = _inspect(work)
    except FleetError as error:
        view.lines.append(unknown(Check.CONTAINER, error.what, error.cure))
        return
    seen = containers.read(view.found) if view.found else None
    try:
        if seen is not None and not (work.stored and seen.id == work.stored.container_id):
            containers.refuse_foreign(seen, work.house.fleet, work.client)
        work.container = seen
    except Conflict as error:
        view.found = None
        view.lines.append(bad(Check.CONTAINER, error.what, error.cure))
    view.inside = settings.environment_of(view.found)


def _inspect(work: Work) -> dict[str, Any] | None:
    import docker.errors

    with answers(f"inspect container {work.names.container}"):
        try:
            found: dict[str, Any] = work.engine_client().api.inspect_container(work.names.container)
        except docker.errors.NotFound:
            return None
    return found


def _looks_by_docker(view: View) -> Mapping[Check, Callable[[], Line]]:
    """What is asked of the engine and the container, each look for itself."""
    work, slug, names = view.work, view.slug, view.work.names
    if work.docker is None:
        return {}
    client, seen, found, spec = work.docker, work.container, view.found, work.spec
    given, recorded = work.given, work.stored
    host, db_port = work.db_address
    expected_url = (
        environment.database_url(names, given.database_password, host, db_port)
        if given.database_password and host
        else ""
    )
    further = [*(["REDIS_TOKEN"] if spec.redis_url else []), *(["TWILIO_AUTH_TOKEN"] if spec.twilio else [])]
    return {
        Check.IMAGE: lambda: container.image_line(
            client, (recorded.image if recorded else None) or spec.image, work.image_id, seen, slug
        ),
        Check.PORT: lambda: port.port_line(
            client,
            seen,
            found,
            port=work.port,
            host_ip=spec.host_ip,
            engine=work.engine,
            slug=slug,
            name=names.container,
        ),
        Check.NETWORKS: lambda: container.networks_line(found, [work.house.network, *spec.networks], names.container),
        Check.RESOURCES: lambda: container.resources_line(client, seen),
        Check.FROM_INSIDE: lambda: inside.inside_line(
            client,
            seen,
            found,
            host=host,
            port=db_port,
            image_id=work.image_id,
            network=work.house.network,
            others=spec.networks,
            fleet=work.house.fleet,
        ),
        Check.DATABASE_URL: lambda: settings.database_url_line(view.inside, expected_url, slug),
        Check.SECRETS: lambda: settings.secrets_line(
            view.inside, [name for name in REQUIRED if not getattr(given, name)], further, names.secrets_block, slug
        ),
        Check.ENVIRONMENT: lambda: settings.environment_line(
            view.inside, _expected(work), bool(seen and not seen.spec_hash), slug
        ),
        Check.REDIRECT: lambda: _redirect(view),
    }


def _expected(work: Work) -> dict[str, str] | None:
    """The environment that the container would be given today."""
    if work.google is None or work.server is None or not work.port:
        return None
    if work.spec.twilio and work.twilio is None:
        return None
    return environment.build(work.spec, work.names, work.port, work.given, work.google, work.twilio, *work.db_address)


def _redirect(view: View) -> Line:
    work = view.work
    if not work.port and not work.spec.domain:
        return unknown(Check.REDIRECT, "no port is registered yet", f"run provision-client for {view.slug}")
    published = work.stored.redirect_uri if work.stored else None
    return settings.redirect_line(view.inside, environment.redirect_uri(work.url), published, view.slug)


def _container_and_log(view: View) -> list[Line]:
    """The log first: it says why a container ended."""
    work, seen, name = view.work, view.work.container, view.work.names.container
    tail: list[Any] = []
    if seen is None:
        lines = [unknown(Check.LOG, "there is no container")]
    else:
        try:
            tail = container.log_tail(work.engine_client(), seen, view.secrets)
            lines = [container.log_line(tail, seen.running, name, view.slug)]
        except Exception as error:
            lines = [failure(Check.LOG, error)]
    if any(line.check is Check.CONTAINER for line in view.lines):
        return lines  # it is somebody else's, or could not be looked at
    status = work.stored.status if work.stored else None

    def look() -> Line:
        return container.container_line(
            seen,
            view.found,
            [said for _, said in tail],
            slug=view.slug,
            name=name,
            enabled=work.spec.enabled,
            status=status,
            memory=work.spec.memory,
        )

    return [*lines, attempt(Check.CONTAINER, look)]


async def _answer(view: View) -> Line:
    work = view.work
    try:
        return await web.answer_line(work.base, work.spec.probe, view.asked, view.slug)
    except Exception as error:
        return failure(Check.ANSWER, error)


async def _browser(view: View) -> Line:
    try:
        return await web.browser_line(view.work.base, view.work.url, view.asked, view.slug)
    except Exception as error:
        return failure(Check.BROWSER, error)


async def _google(view: View) -> None:
    try:
        line = await google.google_line(view.work.google, environment.redirect_uri(view.work.url), view.slug)
    except Exception as error:
        line = failure(Check.GOOGLE, error)
    view.lines.append(line)


def _database(view: View) -> None:
    """The database as the client and as the provisioner sees it, and how it grew since the last look."""
    work, name = view.work, view.work.names.database
    server = work.server
    if server is None:
        checks = (Check.FROM_HERE, Check.RIGHTS, Check.TABLES, Check.ACCOUNTS, Check.SIZE, Check.ISOLATION)
        view.lines += [unknown(check, "the block postgres-server could not be read") for check in checks]
        return
    looked = work.stored.looked if work.stored else None
    found = database.inside(server, name, work.given.database_password, looked, view.slug, work.spec.enabled)
    view.lines += found.lines
    view.lines.append(attempt(Check.ISOLATION, lambda: database.isolation_line(server, name, work.owner, view.slug)))
    view.drifts["PostgreSQL"] = found.drift
    if found.rows is not None:
        queries.note_looked(work.registry, work.client, {"at": now().isoformat(), "rows": found.rows})


def _operation(view: View) -> None:
    work, zone = view.work, view.work.house.time_zone

    def look() -> Line:
        return house.operation_line(
            holder_now(work.registry, work.client, installation().locks, zone),
            work.stored.pending if work.stored else None,
            journal.latest(work.registry, work.client, 1),
            view.slug,
            zone,
        )

    view.lines.append(attempt(Check.OPERATION, look))


def _places(view: View) -> dict[str, Path]:
    """The folders of this machine that fill up."""
    places = {"state folder": installation().state.resolve()}
    if view.work.engine == "local" and view.root and Path(view.root).exists():
        places["Docker"] = Path(view.root)
    return places


def _registered(view: View) -> dict[str, str]:
    work, row = view.work, view.work.stored
    if row is None:
        return {}
    return {
        "Status": row.status.value,
        "Last error": view.redact((row.last_error or "").partition("\n")[0]),
        "URL": work.url,
        "Published on": f"{work.spec.host_ip}:{work.port}" if work.port else "",
        "Docker host": row.docker_host,
        "Image": f"{row.image or work.spec.image} {(row.image_id or '').removeprefix('sha256:')[:12]}",
        "Container": f"{work.names.container} {(row.container_id or '')[:12]}",
        "Database and role": work.names.database,
    }
