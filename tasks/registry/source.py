"""Where an image is built from: a repository, what of it, and how. Formats are checked here, before git sees any of it. Pure."""

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tasks.errors import InvalidInput
from tasks.registry.readable import refuse_secrets, refuse_userinfo

REPO_URL = "https://github.com/Mail-0/Zero"
BRANCH = "staging"
BAKED = ("NEXT_PUBLIC_APP_URL", "NEXT_PUBLIC_BACKEND_URL")
"""Build arguments that put the public URL into the code which browsers run."""
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
IMAGE_NAME = re.compile(
    r"(?:(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9.-]+:[0-9]+)/)?"
    rf"{_PART}(?:/{_PART})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?|sha256:[0-9a-f]{{64}}"
)
"""A reference to an image as Docker takes it (github.com/distribution/reference), or an image's id."""
_TAG = re.compile(rf"{_PART}(?::[0-9]+)?(?:/{_PART})*(?::[A-Za-z0-9_][A-Za-z0-9._-]{{0,127}})?")
"""The Docker SDK's own rule for what a built image may be called."""
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/@#+-]*")
_PATH = re.compile(r"[A-Za-z0-9._@+ /-]+")
_NO_SECRET = "leave it out (an image shows its build arguments), delete this run and rotate the value"  # noqa: S105
_NO_USER = (
    "give it without them (git on the worker asks its own credential helper for a private repository), delete this run and "
    "rotate the value"
)


@dataclass(frozen=True)
class Source:
    """What an image is built from."""

    repo_url: str = REPO_URL
    branch: str = BRANCH
    build_args: dict[str, str] = field(default_factory=dict)
    dockerfile: str = ""
    context: str = ""

    def __str__(self) -> str:
        """As a person calls it.

        >>> str(Source())
        'https://github.com/Mail-0/Zero at staging'
        """
        return f"{self.repo_url} at {self.branch}"


def check_source(source: Source, readable: str = "a spec", branch_field: str = "repo_branch") -> None:
    """Refuse what is no repository that git may be given, no branch, no path inside it, or looks like a secret.

    Args:
        readable: what everybody may read, for the sentences.
        branch_field: what the branch's field is called there.

    Raises:
        InvalidInput: with the field and its value, unless that may be secret.

    >>> check_source(Source("ext::sh -c id"))
    Traceback (most recent call last):
    tasks.errors.InvalidInput: repo_url 'ext::sh -c id' is no http(s) address of a repository; write it like https://github.com/Mail-0/Zero.
    """
    refuse_userinfo("repo_url", source.repo_url, _NO_USER, readable)
    if source.repo_url and not _is_web_address(source.repo_url):
        raise InvalidInput(
            f"repo_url {source.repo_url[:80]!r} is no http(s) address of a repository", f"write it like {REPO_URL}"
        )
    if not _is_ref(source.branch):
        raise InvalidInput(
            f"{branch_field} {source.branch[:80]!r} is no branch, tag or commit",
            "write it like staging, v1.2 or 1a2b3c4d",
        )
    for name in ("dockerfile", "context"):
        value = getattr(source, name)
        if value and not _is_inside(value):
            raise InvalidInput(
                f"{name} {value[:80]!r} is no path inside the repository",
                "write it from the repository's root, like docker/app"
                + ("/Dockerfile" if name == "dockerfile" else ""),
            )
    refuse_secrets("build_args", source.build_args, _NO_SECRET, readable)


def check_tag(tag: str) -> None:
    """Refuse what an image cannot be called when it is built.

    Raises:
        InvalidInput: with the value.

    >>> check_tag("zero-production:latest")
    """
    if not _TAG.fullmatch(tag):
        raise InvalidInput(
            f"{tag[:80]!r} is no name that a built image may have",
            "write it in small letters, like zero-production:latest",
        )


def _is_web_address(url: str) -> bool:
    if not re.fullmatch(r"[\x21-\x7e]+", url) or any(letter in url for letter in "\"'<>\\^`{|}?#"):
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _is_ref(ref: str) -> bool:
    odd = (".." in ref, "@{" in ref, "//" in ref, "/." in ref, ref.endswith(("/", ".", ".lock")))
    return bool(_REF.fullmatch(ref)) and not any(odd)


def _is_inside(path: str) -> bool:
    return bool(_PATH.fullmatch(path)) and path[0] not in "/- " and ".." not in path.split("/")
