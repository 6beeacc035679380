"""All looks at one client, put together: what they share, and what each is asked with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.clients import environment, provisioning
from tasks.clients.diagnosis import Check, Line, attempt, failure, unknown
from tasks.clients.engine import answers
from tasks.clients.inspections import container, database, google, house, inside, port, settings, web
from tasks.clients.secrets import redact
from tasks.clients.work import Work
from tasks.clock import now
from tasks.errors import FleetError
from tasks.registry import journal, queries
from tasks.registry.lock import holder_now

REQUIRED = ("database_password", "better_auth_secret", "autumn_key", "api_token")
"""Fields of the client's block that provisioning fills."""


@dataclass
class View:
    """What the looks share; it holds secrets and never leaves its step."""

    work: Work
    lines: list[Line] = field(default_factory=list)
    found: dict[str, Any] | None = None
    """The engine's long answer about the container."""
    inside: dict[str, str] | None = None
    """The container's environment."""
    adopted: bool = False
    """The container was made by hand and has been adopted since."""
    other_engine: FleetError | None = None
    """Why the engine that the client is on is not known."""
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


def inspected(work: Work) -> dict[str, Any] | None:
    """The engine's long answer about the client's container; None: there is none."""
    import docker.errors

    with answers(f"inspect container {work.names.container}"):
        try:
            found: dict[str, Any] = work.engine_client().api.inspect_container(work.names.container)
        except docker.errors.NotFound:
            return None
    return found


def docker_looks(view: View) -> Mapping[Check, Callable[[], Line]]:
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
    unfilled = [name for name in REQUIRED if not getattr(given, name)]
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
        Check.NETWORKS: lambda: container.networks_line(
            found, [work.house.network, *spec.networks], names.container, view.adopted
        ),
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
            labels=inside.labels_of(work.house.fleet, slug),
        ),
        Check.DATABASE_URL: lambda: settings.database_url_line(view.inside, expected_url, slug),
        Check.SECRETS: lambda: settings.secrets_line(
            view.inside,
            unfilled,
            further,
            block=names.secrets_block,
            adopted=view.adopted,
            slug=slug,
        ),
        Check.ENVIRONMENT: lambda: settings.environment_line(
            view.inside,
            None if unfilled else _expected(work),
            same_hash=bool(seen and seen.spec_hash == work.spec_hash),
            adopted=view.adopted,
            slug=slug,
        ),
        Check.REDIRECT: lambda: redirect_look(view),
    }


def _expected(work: Work) -> dict[str, str] | None:
    """The environment that the container would be given today, and with it the hash of all that it would be made from."""
    if work.google is None or work.server is None or not work.port or (work.spec.twilio and work.twilio is None):
        return None
    work.clean = work.container is not None and work.container.once
    provisioning.settle_container(work)
    return work.environment


def redirect_look(view: View) -> Line:
    """The redirect URI by spec, registry and container."""
    work = view.work
    if not work.port and not work.spec.domain:
        return unknown(Check.REDIRECT, "no port is registered yet", f"run provision-client for {view.slug}")
    published = work.stored.redirect_uri if work.stored else None
    return settings.redirect_line(view.inside, environment.redirect_uri(work.url), published, view.slug, view.adopted)


def container_and_log(view: View) -> list[Line]:
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


async def answer_look(view: View) -> Line:
    """Whether the service answers."""
    work = view.work
    try:
        return await web.answer_line(work.base, work.spec.probe, view.asked, view.slug)
    except Exception as error:
        return failure(Check.ANSWER, error)


async def browser_look(view: View) -> Line:
    """Whether the browser's code speaks to the public URL."""
    # One made by hand still has the URL that it was given.
    public = (view.inside or {}).get("BETTER_AUTH_URL", "").rstrip("/") if view.adopted else ""
    try:
        return await web.browser_line(view.work.base, public or view.work.url, view.asked, view.slug)
    except Exception as error:
        return failure(Check.BROWSER, error)


async def google_look(view: View) -> None:
    """Whether Google takes id and secret."""
    try:
        work = view.work
        block = work.names.secrets_block if work.given.google_client_id else work.spec.google_client
        line = await google.google_line(work.google, environment.redirect_uri(work.url), view.slug, block)
    except Exception as error:
        line = failure(Check.GOOGLE, error)
    view.lines.append(line)


def database_looks(view: View) -> None:
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


def operation_look(view: View, locks: Path) -> None:
    """Whether an operation is under way or was cut off."""
    work, zone = view.work, view.work.house.time_zone

    def look() -> Line:
        return house.operation_line(
            holder_now(work.registry, work.client, locks, zone),
            work.stored.pending if work.stored else None,
            journal.latest(work.registry, work.client, 1),
            view.slug,
            zone,
        )

    view.lines.append(attempt(Check.OPERATION, look))


def registered(view: View) -> dict[str, str]:
    """What the registry says, for the page."""
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
