"""Building an image from a git repository: the code, the recipe, the engine's own build, and a log that is kept."""

import fcntl
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import IO, TYPE_CHECKING, Any

from tasks.clients import checkout, recipe
from tasks.clients.engine import answers, explain, said
from tasks.clock import now
from tasks.errors import FleetError, NotFound, Refused, Unreachable
from tasks.registry.names import LABEL_COMMIT, LABEL_REPO, LABEL_URL
from tasks.registry.source import BAKED, Source

if TYPE_CHECKING:
    from docker import DockerClient

BUILD_SECONDS = 3600
"""A whole build may take this long."""
SILENCE_SECONDS = 900
"""So long may one of its steps say nothing."""
TELL_SECONDS = 5.0
KEPT_LOGS = 20
_WORK, _JUST_NOW = "work-", 5.0
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class Built:
    """An image that was built just now."""

    tag: str
    image_id: str
    source: Source
    commit: str
    url: str
    """The public URL in its browser code; empty: none was baked in."""
    log: Path
    seconds: float

    def __str__(self) -> str:
        """As a person reads it."""
        short = self.image_id.removeprefix("sha256:")[:12]
        baked = f", for {self.url}" if self.url else ""
        return f"{self.tag} ({short}) was built from {self.source}, commit {self.commit[:12]}{baked}, in {self.seconds:.0f} s"


def build(
    client: "DockerClient",
    source: Source,
    tag: str,
    folder: Path,
    tell: Callable[[str], object],
    url: str = "",
) -> Built:
    """Build ``source`` and call the image ``tag``.

    Args:
        folder: where logs are kept, and where the code lies while it is built.
        tell: told in a line how far it is, every few seconds.
        url: public URL of the one client that the image is for; it is baked in where the Dockerfile takes it and the
            build arguments do not say otherwise.

    Raises:
        NotFound: no repository, branch or Dockerfile; the sentence says where it was looked for.
        Refused: a step of the build failed; the sentence has its last lines and the log's path.
        Unreachable, NotConfigured, InvalidInput: git, the repository or the engine.
    """
    began = time.monotonic()
    with _workspace(folder) as work:
        tell(f"getting {source}")
        commit = checkout.check_out(source.repo_url, source.branch, work / "code")
        found = recipe.find(work / "code", source)
        taken = [name for name in BAKED if url and found.takes(name)]
        arguments = {**dict.fromkeys(taken, url), **source.build_args}
        baked = next((arguments[name] for name in BAKED if name in arguments and found.takes(name)), "")
        labels = {LABEL_REPO: source.repo_url, LABEL_COMMIT: commit} | ({LABEL_URL: baked} if baked else {})
        log = _log_file(folder, tag)
        with open(work / "context.tar", "w+b") as tar, open(log, "w", encoding="utf-8") as lines:
            lines.write(f"# {tag} from {source}, commit {commit}, {found.shown}\n")
            found.pack(tar)
            tell(f"building {tag} with {found.shown} of commit {commit[:12]}; log: {log}")
            asked = {"dockerfile": found.dockerfile, "buildargs": arguments, "labels": labels}
            image_id = _run(client, tar, tag, asked, _Telling(tell, tag, lines, log))
    return Built(tag, image_id, source, commit, baked, log, time.monotonic() - began)


class _Telling:
    """The build's log: every line into the file, one every few seconds to whoever waits, the last ones for a failure."""

    def __init__(self, tell: Callable[[str], object], tag: str, file: IO[str], path: Path) -> None:
        self.tell, self.tag, self.file, self.path = tell, tag, file, path
        self.began = self.told = time.monotonic()
        self.last: list[str] = []

    def hear(self, text: str) -> None:
        """A piece of the engine's output."""
        for raw in text.splitlines():
            line = _COLOURS.sub("", raw).rstrip()
            if not line:
                continue
            self.file.write(line + "\n")
            self.last = [*self.last[-9:], line]
        self.file.flush()
        if self.last and time.monotonic() - self.told >= TELL_SECONDS:
            self.told = time.monotonic()
            self.tell(f"building {self.tag}: {self.last[-1][:200]} ({self.told - self.began:.0f} s)")

    def failure(self, words: str) -> FleetError:
        """The error of a step that failed with ``words``."""
        words = " ".join(_COLOURS.sub("", words).split())[:300]
        self.hear(f"ERROR: {words}")
        before = [line[:200] for line in self.last[:-1] if not line.startswith(("--->", " --->", "Removing interm"))]
        heard = " | ".join(before[-3:])
        cure = "mend it in the repository, or choose another branch"
        if "buildkit" in words.lower():
            cure = f"build it on the Docker host (`DOCKER_BUILDKIT=1 docker build -t {self.tag} …`)"
        elif "no space left" in words.lower():
            cure = "free disk space on the Docker host (`docker system df`)"
        elif any(
            sign in words.lower() for sign in ("pull access", "manifest", "no such host", "i/o timeout", "lookup ")
        ):
            cure = "let the Docker host reach the registry of its base image, or load that image there"
        return Refused(
            f"building {self.tag} failed: {words}" + (f" (before that: {heard})" if heard else ""),
            f"{cure}, and run again; the whole log is {self.path}",
        )


def _run(client: "DockerClient", tar: IO[bytes], tag: str, asked: dict[str, Any], telling: _Telling) -> str:
    """The engine's build, read to its end; the image's id."""
    import docker.errors
    import requests.exceptions
    import urllib3.exceptions

    deadline = time.monotonic() + BUILD_SECONDS
    image_id = ""
    try:
        stream = client.api.build(
            fileobj=tar,
            custom_context=True,
            tag=tag,
            rm=True,
            forcerm=True,
            decode=True,
            timeout=SILENCE_SECONDS,
            **asked,
        )
        for event in stream:
            telling.hear(str(event.get("stream") or event.get("status") or ""))
            if "error" in event:
                raise telling.failure(str((event.get("errorDetail") or {}).get("message") or event["error"]))
            image_id = str((event.get("aux") or {}).get("ID") or image_id)
            if time.monotonic() > deadline:
                raise Unreachable(
                    f"building {tag} took over {BUILD_SECONDS} s", f"look at its log, {telling.path}, and run again"
                )
    except FleetError:
        raise
    except docker.errors.APIError as error:
        raise telling.failure(said(error)) from None
    except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError):
        raise Unreachable(
            f"building {tag} said nothing for {SILENCE_SECONDS} s, and was ended",
            f"see what it waits for in its log, {telling.path}, and run again",
        ) from None
    except Exception as error:
        raise explain(error, f"build {tag}") or error from None
    with answers(f"look up image {tag}"):
        try:
            return str(client.api.inspect_image(image_id or tag)["Id"])
        except docker.errors.NotFound:
            raise NotFound(f"{tag} was built, but the Docker host does not have it", "run again") from None


def _log_file(folder: Path, tag: str) -> Path:
    """A new log for the build of ``tag``, readable by its owner only; of the older ones the newest are kept."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", tag)[:100]
    path = folder / f"{name}-{now():%Y%m%dT%H%M%S.%fZ}.log"
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    logs = sorted(folder.glob("*.log"), key=lambda one: one.stat().st_mtime_ns, reverse=True)
    for old in logs[KEPT_LOGS:]:
        old.unlink(missing_ok=True)
    return path


@contextmanager
def _workspace(folder: Path) -> Iterator[Path]:
    """A folder for one build, gone afterwards; one that a killed build left behind goes when the next one begins."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in folder.glob(f"{_WORK}*"):
        with suppress(FileNotFoundError), _alone(left) as unused:
            # One that was made just now may not be locked yet.
            if unused and time.time() - left.stat().st_mtime > _JUST_NOW:
                rmtree(left, ignore_errors=True)
    made = tempfile.TemporaryDirectory(prefix=_WORK, dir=folder, ignore_cleanup_errors=True)
    with made as name, _alone(Path(name)):
        yield Path(name)


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Lock ``folder``, which falls with this process; False: somebody has it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(handle)
