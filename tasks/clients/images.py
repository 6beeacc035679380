"""Finding the image to run: on the engine, from its registry, or built from its repository."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tasks.clients.engine import answers, explain
from tasks.errors import FleetError, NotConfigured, NotFound, Refused, Unreachable

if TYPE_CHECKING:
    from docker import DockerClient

PULL_SECONDS = 1800
"""A whole pull may take this long."""
SILENCE_SECONDS = 300
"""So long may the engine say nothing of a pull."""


@dataclass(frozen=True)
class Login:
    """How to log in at a registry."""

    block: str
    """The block's name, for sentences."""
    registry: str
    """As it is written in the block: ``ghcr.io``, or ``https://index.docker.io/v1/``."""
    username: str
    password: str = field(repr=False)

    def for_image(self, image: str) -> dict[str, str]:
        """What the engine is given to pull ``image``; no other registry sees the password.

        Raises:
            NotConfigured: the image is of another registry.
        """
        host = registry_of(image)
        if host != _host(self.registry):
            raise NotConfigured(
                f"the block {self.block} is for the registry {_host(self.registry)}, and {image} comes from {host}",
                "name the block of that registry in registry_credentials, or reset it",
            )
        return {"username": self.username, "password": self.password}


def registry_of(image: str) -> str:
    """The registry that ``image`` comes from.

    >>> registry_of("ghcr.io/mail-0/zero:staging"), registry_of("mail0/zero")
    ('ghcr.io', 'docker.io')
    """
    return _host(image.partition("/")[0]) if has_registry(image) else "docker.io"


def _host(registry: str) -> str:
    """The host of a registry's address, as an image's name begins.

    >>> _host("https://index.docker.io/v1/"), _host("ghcr.io")
    ('docker.io', 'ghcr.io')
    """
    host = registry.partition("://")[2] or registry
    host = host.partition("/")[0].lower()
    return "docker.io" if host in ("index.docker.io", "registry-1.docker.io", "hub.docker.com") else host


def has_registry(image: str) -> bool:
    """Whether ``image`` names a registry, by Docker's rule: the part before the first slash has a dot or colon, or is localhost.

    >>> has_registry("ghcr.io/mail-0/zero:staging"), has_registry("zero-production:latest"), has_registry("mail0/zero")
    (True, False, False)
    """
    first, slash, _ = image.partition("/")
    return bool(slash) and ("." in first or ":" in first or first == "localhost")


def may_pull(image: str, pull: str) -> bool:
    """Whether ``image`` may be asked for at a registry; ``auto`` never asks a public one for a bare name like `zero:latest`.

    >>> may_pull("zero:latest", "auto"), may_pull("mail0/zero", "auto"), may_pull("zero:latest", "always")
    (False, True, True)
    """
    return pull == "always" or (pull == "auto" and "/" in image)


def local_first(image: str, pull: str) -> bool:
    """Whether a local image is taken without asking a registry.

    >>> local_first("zero:latest", "auto"), local_first("ghcr.io/mail-0/zero", "auto")
    (True, False)
    """
    return pull == "never" or (pull == "auto" and not has_registry(image))


def resolve(
    client: "DockerClient",
    image: str,
    pull: str,
    pinned: str | None = None,
    login: Login | None = None,
    build: Callable[[], str] | None = None,
) -> str:
    """The id of the image to run for the name ``image``; pulled when ``pull`` says so, built when it is found nowhere.

    Args:
        pull: auto, always or never. Only auto builds.
        pinned: id that the client already runs under this very name. With ``auto`` it is kept while the engine has it: a
            registry's moving tag upgrades nobody by accident.
        login: at the image's registry.
        build: builds the image under its name and returns its id.

    Raises:
        NotFound: found nowhere.
        NotConfigured: ``login`` is for another registry.
        Refused, Unreachable: what the registry or the engine answered (with ``always``), or what ended the build.
    """
    if pinned and pull == "auto" and has_registry(image) and local(client, pinned):
        return pinned
    found = local(client, image)
    if found and local_first(image, pull):
        return found
    if not may_pull(image, pull):
        nowhere = f"the image {image} is not on the Docker host"
        if pull == "auto":
            return _built(build, f"{nowhere}, and a name without a registry is not pulled", _LOAD)
        raise NotFound(nowhere, _LOAD)
    credentials = login.for_image(image) if login else None
    try:
        _pull(client, image, credentials)
    except FleetError as error:
        if pull == "auto" and found:
            return found
        if pull == "auto":
            why = f"the image {image} is not on the Docker host and could not be pulled ({error.what})"
            return _built(build, why, "correct spec.image, or build or load the image on the Docker host")
        raise
    pulled = local(client, image)
    if pulled is None:
        raise NotFound(f"the image {image} was pulled, but the Docker host does not have it", "run again")
    return pulled


_LOAD = "build or load it there, or give spec.image a name with its registry, like ghcr.io/mail-0/zero:staging"


def _built(build: Callable[[], str] | None, nowhere: str, cure: str) -> str:
    """The id of the image that ``build`` makes, since it was found ``nowhere``."""
    if build is None:
        raise NotFound(nowhere, cure)
    try:
        return build()
    except FleetError as error:
        raise type(error)(f"{nowhere}, and building it failed: {error.what}", error.cure) from None


def label(client: "DockerClient", image: str, name: str) -> str:
    """The label ``name`` of ``image`` on the engine; empty when it has none."""
    import docker.errors

    with answers(f"look up image {image}"):
        try:
            return str((client.api.inspect_image(image)["Config"].get("Labels") or {}).get(name, ""))
        except docker.errors.NotFound:
            return ""


def local(client: "DockerClient", image: str) -> str | None:
    """The id of ``image`` (a name, or an id) on the engine, or None."""
    import docker.errors

    with answers(f"look up image {image}"):
        try:
            return str(client.api.inspect_image(image)["Id"])
        except docker.errors.NotFound:
            return None


def _pull(client: "DockerClient", image: str, credentials: dict[str, str] | None) -> None:
    """Pull and read the stream to its end: the SDK's own pull overlooks errors in it (docker-py#2286)."""
    deadline = time.monotonic() + PULL_SECONDS
    try:
        for event in _events(client, image, credentials):
            if "error" in event:
                raise refusal(image, str(event["error"]))
            if time.monotonic() > deadline:
                raise Unreachable(f"pulling {image} took over {PULL_SECONDS} s", "look at the network and run again")
    except FleetError:
        raise
    except Exception as error:
        raise _cause(image, error) from None


def _events(client: "DockerClient", image: str, credentials: dict[str, str] | None) -> Iterator[dict[str, Any]]:
    """The stream of a pull, as the SDK asks for it; but the SDK sets no timeout here, so that a silent engine would hold us for ever."""
    from docker import auth
    from docker.utils import parse_repository_tag

    api = client.api
    repository, tag = parse_repository_tag(image)
    registry, _ = auth.resolve_repository_name(repository)
    header = auth.encode_header(credentials) if credentials else auth.get_config_header(api, registry)
    response = api._post(
        api._url("/images/create"),
        params={"fromImage": repository, "tag": tag or "latest"},
        headers={"X-Registry-Auth": header} if header else {},
        stream=True,
        timeout=SILENCE_SECONDS,
    )
    api._raise_for_status(response)
    yield from api._stream_helper(response, decode=True)


def _cause(image: str, error: Exception) -> Exception:
    text: Any = getattr(error, "explanation", None)
    return refusal(image, str(text)) if text else explain(error, f"pull {image}") or error


def refusal(image: str, text: str) -> FleetError:
    """What a registry's answer ``text`` means.

    >>> print(refusal("ghcr.io/a/b:c", "manifest unknown"))
    the registry has no image ghcr.io/a/b:c; correct the name or the tag and run again.
    """
    low = text.lower()
    if "manifest unknown" in low or "not found" in low or "does not exist" in low:
        return NotFound(f"the registry has no image {image}", "correct the name or the tag and run again")
    if "unauthorized" in low or "denied" in low or "authentication" in low:
        return Refused(
            f"the registry does not give out {image}",
            "name a DockerRegistryCredentials block in registry_credentials, or correct the image's name",
        )
    if any(sign in low for sign in ("no such host", "timeout", "connection refused", "unreachable", "lookup")):
        return Unreachable(f"the registry of {image} does not answer", "look at the host's network and run again")
    return Refused(f"pulling {image} failed: {' '.join(text.split())[:200]}", "mend what it names and run again")
