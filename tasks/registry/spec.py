"""What a Zero instance is to be: the stored spec, the changes that a run brings, and the difference between the two.

A spec is public: run parameters and the registry are readable. What looks like a secret is refused here.
"""

import hashlib
import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tasks.errors import InvalidInput
from tasks.registry.readable import into_secret_env, refuse_secrets, refuse_userinfo
from tasks.registry.source import BRANCH, IMAGE_NAME, REPO_URL, Source, check_source

Port = Annotated[int, Field(ge=1, le=65535)]
_HOSTNAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)


JsonText = Annotated[str, Field(max_length=200)]
JsonNumber = Annotated[int, Field(ge=-(2**53), le=2**53)]


class Probe(BaseModel):
    """One path to ask, and what a healthy service answers."""

    model_config = ConfigDict(extra="forbid", title="Probe")

    path: str = Field(max_length=200, description="Path on the published port, like /health.")
    codes: list[Annotated[int, Field(ge=100, le=599)]] = Field(
        default=[200], min_length=1, max_length=20, description="Accepted status codes."
    )
    json_has: dict[Annotated[str, Field(max_length=100)], JsonText | JsonNumber | bool] = Field(
        default_factory=dict,
        max_length=10,
        description="Members that the JSON answer must have with these values.",
    )


Enabled = Annotated[bool, Field(description="false: provisioned but not started; silent in alerts.")]
Image = Annotated[str, Field(min_length=1, max_length=300, description="Image and tag to run.")]
Pull = Annotated[
    Literal["auto", "always", "never"],
    Field(
        description=(
            "When to pull: auto takes a local image first when the name has no registry in it, and builds the image from "
            "repo_url when it is found nowhere; always pulls; never neither pulls nor builds."
        )
    ),
]
RegistryCredentials = Annotated[
    str,
    Field(max_length=100, description="DockerRegistryCredentials block to pull the image with. Empty: none."),
]
RepoUrl = Annotated[
    str,
    Field(
        max_length=300,
        description="Repository (http or https) that the image is built from when it is found nowhere. Empty: never built.",
    ),
]
RepoBranch = Annotated[
    str, Field(min_length=1, max_length=200, description="Branch, tag or commit of the repository to build.")
]
BuildArgs = Annotated[
    dict[str, Annotated[str, Field(max_length=2000)]],
    Field(
        max_length=100,
        description=(
            "Build arguments; an image shows them, so no secrets. NEXT_PUBLIC_APP_URL and NEXT_PUBLIC_BACKEND_URL are the "
            "client's public URL unless given; an image built with them serves that one client, so give it a name of its own."
        ),
    ),
]
Dockerfile = Annotated[
    str,
    Field(
        max_length=300,
        description="Path of the Dockerfile in the repository. Empty: the root's, or docker/app/Dockerfile.",
    ),
]
Context = Annotated[str, Field(max_length=300, description="Folder of the repository to build in. Empty: its root.")]
DockerHostBlock = Annotated[
    str,
    Field(
        max_length=100,
        description=(
            "DockerHost block of the engine to run on; a client that has a container stays where it is. Empty: the block "
            "docker-host where there is one, else the worker's own engine."
        ),
    ),
]
HostName = Annotated[str, Field(max_length=253, description="Part of the public URL https://subdomain.domain.")]
HostPort = Annotated[
    int,
    Field(
        ge=1,
        le=65535,
        description="Port on the Docker host. Empty: allocated from the fleet's range and kept.",
    ),
]
HostIp = Annotated[str, Field(max_length=45, description="Address of the Docker host that the port is published on.")]
Networks = Annotated[
    list[Annotated[str, Field(max_length=100)]],
    Field(max_length=5, description="Further Docker networks to join, besides the fleet's; they must exist."),
]
DbHost = Annotated[
    str,
    Field(max_length=253, description="PostgreSQL host as the container sees it. Empty: the server block's."),
]
DbPort = Annotated[
    int,
    Field(ge=1, le=65535, description="PostgreSQL port as the container sees it. Empty: the server block's."),
]
BlockName = Annotated[str, Field(max_length=100)]
GoogleClient = Annotated[BlockName, Field(description="GoogleOAuthClient block that Zero logs people in with.")]
Twilio = Annotated[BlockName, Field(description="TwilioCredentials block. Empty: no text messages.")]
SyncCount = Annotated[int, Field(ge=1, le=100_000, description="THREAD_SYNC_MAX_COUNT.")]
SyncLoop = Annotated[bool, Field(description="THREAD_SYNC_LOOP.")]
RedisUrl = Annotated[
    str,
    Field(
        max_length=300,
        description="Upstash-style REST endpoint (https://…); its token is redis_token in zero-SLUG.",
    ),
]
Probes = Annotated[
    list[Probe], Field(min_length=1, max_length=5, description="Tried in order; the first that fits decides.")
]
Deadline = Annotated[int, Field(ge=5, le=1800, description="Seconds until the service must be ready.")]
Memory = Annotated[int, Field(ge=64, le=1_048_576, description="Memory limit in MiB. The real Zero needs 1024.")]
Cpus = Annotated[float, Field(gt=0, le=256, description="CPU limit in cores. Empty: none.")]
Pids = Annotated[int, Field(ge=16, le=1_000_000, description="Limit of processes.")]
Restart = Annotated[
    Literal["no", "on-failure", "unless-stopped", "always"], Field(description="Docker's restart policy.")
]
ExtraEnv = Annotated[
    dict[str, Annotated[str, Field(max_length=10_000)]],
    Field(
        max_length=100,
        description="Further environment that is not secret; secrets go to secret_env in zero-SLUG.",
    ),
]


class ZeroSpec(BaseModel):
    """What is stored: every field with its value."""

    model_config = ConfigDict(extra="forbid")

    enabled: Enabled = True
    image: Image = "ghcr.io/mail-0/zero:staging"
    pull: Pull = "auto"
    registry_credentials: RegistryCredentials = ""
    repo_url: RepoUrl = REPO_URL
    repo_branch: RepoBranch = BRANCH
    build_args: BuildArgs = {}
    dockerfile: Dockerfile = ""
    context: Context = ""
    docker_host: DockerHostBlock = ""
    subdomain: HostName = ""
    domain: HostName = ""
    host_port: HostPort | None = None
    host_ip: HostIp = "127.0.0.1"
    networks: Networks = []
    db_host: DbHost | None = None
    db_port: DbPort | None = None
    google_client: GoogleClient = "google-zero"
    twilio: Twilio = ""
    thread_sync_max_count: SyncCount = 500
    thread_sync_loop: SyncLoop = True
    redis_url: RedisUrl = ""
    probe: Probes = [
        Probe(path="/health"),
        Probe(path="/api/auth/ok", json_has={"ok": True}),
    ]
    ready_within: Deadline = 180
    memory: Memory = 1536
    cpus: Cpus | None = None
    pids: Pids = 512
    restart: Restart = "unless-stopped"
    extra_env: ExtraEnv = {}

    def public_url(self, host_port: int) -> str:
        """Where a browser finds this Zero: its domain over TLS, else localhost with its port.

        >>> ZeroSpec(subdomain="mail", domain="acme.example").public_url(20000)
        'https://mail.acme.example'
        >>> ZeroSpec().public_url(20000)
        'http://localhost:20000'
        """
        if self.domain:
            return "https://" + ".".join(part for part in (self.subdomain, self.domain) if part)
        return f"http://localhost:{host_port}"

    @property
    def source(self) -> Source:
        """What its image is built from when it is found nowhere."""
        return Source(self.repo_url, self.repo_branch, self.build_args, self.dockerfile, self.context)


def _lift(schema: dict[str, Any]) -> None:
    """Descriptions up to where Prefect's form looks for them: pydantic leaves them inside ``anyOf``."""
    for field in schema.get("properties", {}).values():
        for branch in field.get("anyOf", []):
            if "description" in branch:
                field.setdefault("description", branch["description"])


class SpecChanges(BaseModel):
    """Changes to what is stored: null keeps the stored value (or takes the default on a first run)."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_lift)

    enabled: Enabled | None = None
    image: Image | None = None
    pull: Pull | None = None
    registry_credentials: RegistryCredentials | None = None
    repo_url: RepoUrl | None = None
    repo_branch: RepoBranch | None = None
    build_args: BuildArgs | None = None
    dockerfile: Dockerfile | None = None
    context: Context | None = None
    docker_host: DockerHostBlock | None = None
    subdomain: HostName | None = None
    domain: HostName | None = None
    host_port: HostPort | None = None
    host_ip: HostIp | None = None
    networks: Networks | None = None
    db_host: DbHost | None = None
    db_port: DbPort | None = None
    google_client: GoogleClient | None = None
    twilio: Twilio | None = None
    thread_sync_max_count: SyncCount | None = None
    thread_sync_loop: SyncLoop | None = None
    redis_url: RedisUrl | None = None
    probe: Probes | None = None
    ready_within: Deadline | None = None
    memory: Memory | None = None
    cpus: Cpus | None = None
    pids: Pids | None = None
    restart: Restart | None = None
    extra_env: ExtraEnv | None = None
    reset: list[Annotated[str, Field(max_length=40)]] = Field(
        default=[], max_length=40, description="Fields to put back to their defaults."
    )
    allow_new_port: bool = Field(
        default=False, description="A changed host_port needs true once an OAuth redirect was published."
    )


def apply_changes(stored: dict[str, Any], changes: SpecChanges, client: str = "") -> ZeroSpec:
    """The spec that ``changes`` make of what is ``stored`` (a dump of ZeroSpec, {} on a first run).

    Args:
        client: its slug where it is known, for the sentences.

    Raises:
        InvalidInput: a field in ``reset`` that there is not, or that is also set; a value in a wrong format; what looks
            like a secret.

    >>> apply_changes({}, SpecChanges(memory=2048)).memory
    2048
    >>> apply_changes({"memory": 2048}, SpecChanges(reset=["memory"])).memory
    1536
    """
    wanted = dict(stored)
    given = changes.model_dump(exclude_none=True, exclude={"reset", "allow_new_port"})
    for name in changes.reset:
        if name not in ZeroSpec.model_fields:
            raise InvalidInput(
                f"reset names {name!r}, which is no field of the spec",
                "name one of " + ", ".join(ZeroSpec.model_fields),
            )
        if name in given:
            raise InvalidInput(f"{name} is both set and reset", "do one of the two")
        wanted.pop(name, None)
    spec = ZeroSpec.model_validate({**wanted, **given})
    check(spec, client)
    return spec


def check(spec: ZeroSpec, client: str = "") -> None:
    """Refuse wrong formats and what looks like a secret.

    Args:
        client: its slug where it is known, for the sentences.

    Raises:
        InvalidInput: with the field and its value, unless that may be secret.
    """
    if not IMAGE_NAME.fullmatch(spec.image):
        raise InvalidInput(f"image {spec.image[:80]!r} is no image name", "write it like ghcr.io/mail-0/zero:staging")
    check_source(spec.source)
    for name in ("subdomain", "domain", "db_host"):
        value = getattr(spec, name)
        if value and not _HOSTNAME.fullmatch(value):
            raise InvalidInput(f"{name} {value[:80]!r} is no host name", "write it like mail or example.org")
    if spec.subdomain and not spec.domain:
        raise InvalidInput(f"subdomain {spec.subdomain!r} is given without domain", "give both, or neither")
    import ipaddress

    try:
        ipaddress.ip_address(spec.host_ip)
    except ValueError:
        raise InvalidInput(f"host_ip {spec.host_ip!r} is no IP address", "write it like 127.0.0.1 or 0.0.0.0") from None
    for probe in spec.probe:
        if not re.fullmatch(r"/[\x21-\x7e]*", probe.path):
            raise InvalidInput(f"probe path {probe.path[:80]!r} is no path", "start it with a slash, like /health")
    if spec.redis_url:
        refuse_userinfo("redis_url", spec.redis_url, into_secret_env(client))
        if not spec.redis_url.startswith(("http://", "https://")):
            raise InvalidInput(
                "redis_url is no http(s) address",
                "give the Upstash-style REST endpoint; Zero does not speak redis://",
            )
    refuse_secrets("extra_env", spec.extra_env, into_secret_env(client))


def difference(stored: dict[str, Any], wanted: ZeroSpec) -> list[str]:
    """What ``wanted`` changes in ``stored``, a line per field, for people.

    >>> difference(ZeroSpec().model_dump(mode="json"), ZeroSpec(memory=2048))
    ['memory: 1536 -> 2048']
    """
    before = ZeroSpec.model_validate(stored).model_dump(mode="json") if stored else {}
    after = wanted.model_dump(mode="json")
    defaults = ZeroSpec().model_dump(mode="json")
    if not before:
        return [f"{name}: {_shown(value)}" for name, value in after.items() if value != defaults[name]]
    return [
        f"{name}: {_shown(before[name])} -> {_shown(value)}" for name, value in after.items() if value != before[name]
    ]


def _shown(value: Any) -> str:
    return "empty" if value in (None, "", [], {}) else value if isinstance(value, str) else json.dumps(value)


def spec_hash(container: dict[str, Any]) -> str:
    """A short hash of everything that a container is created from; a changed hash means: recreate.

    Secrets are given as hashes of their own by the caller, never plain.
    """
    return hashlib.sha256(json.dumps(container, sort_keys=True, default=str).encode()).hexdigest()[:16]
