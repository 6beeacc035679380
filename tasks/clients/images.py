"""Finding the image to run: on the engine, or from its registry."""

import time
from typing import TYPE_CHECKING, Any

from tasks.clients.engine import answers, explain
from tasks.errors import FleetError, NotFound, Refused, Unreachable

if TYPE_CHECKING:
    from docker import DockerClient

PULL_SECONDS = 1800
"""A whole pull may take this long; the engine's silence is ended earlier, by the client's own timeout."""


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


def resolve(client: "DockerClient", image: str, pull: str, pinned: str | None = None) -> str:
    """The id of the image to run for the name ``image``, pulled when ``pull`` says so.

    Args:
        pull: auto, always or never.
        pinned: id that the client already runs under this very name. With ``auto`` it is kept while the engine has it: a
            registry's moving tag upgrades nobody by accident.

    Raises:
        NotFound: found nowhere.
        Refused, Unreachable: what the registry or the engine answered (with ``always``).
    """
    if pinned and pull == "auto" and has_registry(image) and local(client, pinned):
        return pinned
    found = local(client, image)
    if found and local_first(image, pull):
        return found
    if not may_pull(image, pull):
        raise NotFound(
            f"the image {image} is not on the Docker host"
            + ("" if pull == "never" else ", and a name without a registry is not pulled"),
            "build or load it there, or give spec.image a name with its registry, like ghcr.io/mail-0/zero:staging",
        )
    try:
        _pull(client, image)
    except FleetError as error:
        if pull == "auto" and found:
            return found
        if pull == "auto":
            raise NotFound(
                f"the image {image} is not on the Docker host and could not be pulled ({error.what})",
                "correct spec.image, or build or load the image on the Docker host",
            ) from None
        raise
    pulled = local(client, image)
    if pulled is None:
        raise NotFound(f"the image {image} was pulled, but the Docker host does not have it", "run again")
    return pulled


def local(client: "DockerClient", image: str) -> str | None:
    """The id of ``image`` (a name, or an id) on the engine, or None."""
    import docker.errors

    with answers(f"look up image {image}"):
        try:
            return str(client.api.inspect_image(image)["Id"])
        except docker.errors.NotFound:
            return None


def _pull(client: "DockerClient", image: str) -> None:
    """Pull and read the stream to its end: the SDK's own pull overlooks errors in it (docker-py#2286)."""
    deadline = time.monotonic() + PULL_SECONDS
    try:
        for event in client.api.pull(image, stream=True, decode=True):
            if "error" in event:
                raise refusal(image, str(event["error"]))
            if time.monotonic() > deadline:
                raise Unreachable(f"pulling {image} took over {PULL_SECONDS} s", "look at the network and run again")
    except FleetError:
        raise
    except Exception as error:
        raise _cause(image, error) from None


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
            f"the registry does not give out {image}", "log the Docker host in (`docker login`), or correct the name"
        )
    if any(sign in low for sign in ("no such host", "timeout", "connection refused", "unreachable", "lookup")):
        return Unreachable(f"the registry of {image} does not answer", "look at the host's network and run again")
    return Refused(f"pulling {image} failed: {' '.join(text.split())[:200]}", "mend what it names and run again")
