"""Getting the code of a branch, tag or commit with git, without its history where the server can do that."""

import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from tasks import children
from tasks.errors import FleetError, InvalidInput, NotConfigured, NotFound, Refused, Unreachable

CLONE_SECONDS = 600
STALL_SECONDS = 60
_KEPT = ("PATH", "HOME", "XDG_CONFIG_HOME", "LD_LIBRARY_PATH", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
_HEX = re.compile(r"[0-9a-f]{4,40}", re.IGNORECASE)
_NO_SHALLOW = ("shallow", "not our ref", "unadvertised object", "couldn't find remote ref")
"""What git says where a server gives out whole histories only, or does not give out a commit by its name."""


def check_out(url: str, ref: str, folder: Path, seconds: float = CLONE_SECONDS) -> str:
    """Make ``folder`` hold the files of ``ref``, without git's own; the full name of its commit.

    Formats are the caller's matter (``tasks.registry.source``). Git asks nobody for a password: a private repository is
    reached with the credential helper that the worker's user has set up.

    Raises:
        NotConfigured: there is no git.
        NotFound: no such repository, or nothing called ``ref`` in it.
        Refused, Unreachable: what the server answered.
    """
    program = shutil.which("git")
    if program is None:
        raise NotConfigured("git is not installed on this worker", "install it (`apt-get install git`) and run again")
    deadline = time.monotonic() + seconds
    git = _Git(program, url, ref, folder, deadline)
    git.run("init", "--quiet", str(folder), inside=False)
    commit = _fetch(git)
    git.run("checkout", "--quiet", "--detach", commit)
    shutil.rmtree(folder / ".git")
    return commit


def _fetch(git: "_Git") -> str:
    """Fetch ``git.ref``; the commit that it is."""
    try:
        git.run("fetch", *_QUIETLY, "--depth", "1", "--no-tags", "--", git.url, git.ref)
        return git.run("rev-parse", "--verify", "--end-of-options", "FETCH_HEAD^{commit}").strip()
    except FleetError as error:
        if not any(sign in git.said for sign in _NO_SHALLOW):
            raise
        # Only what the server does not call by this name can still be a commit's.
        if "couldn't find" in git.said and not _HEX.fullmatch(git.ref):
            raise NotFound(f"{git.url} has no branch or tag {git.ref}", "correct the branch and run again") from error
    git.run("fetch", *_QUIETLY, "--", git.url, "+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
    for name in (f"refs/remotes/origin/{git.ref}", f"refs/tags/{git.ref}", git.ref):
        with suppress(FleetError):
            return git.run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}").strip()
    raise NotFound(f"{git.url} has no branch, tag or commit {git.ref}", "correct the branch and run again")


_QUIETLY = ("--quiet", "--force", "--no-recurse-submodules")


class _Git:
    """Git in one folder, with one deadline for everything it does."""

    def __init__(self, program: str, url: str, ref: str, folder: Path, deadline: float) -> None:
        self.program, self.url, self.ref, self.folder, self.deadline = program, url, ref, folder, deadline
        self.said = ""

    def run(self, *arguments: str, inside: bool = True) -> str:
        """Its output; its words on failure are kept in ``said``."""
        where = ["-C", str(self.folder)] if inside else []
        settings = ["-c", "gc.auto=0", "-c", "maintenance.auto=false", "-c", "core.hooksPath=/dev/null"]
        child = children.start(
            [self.program, *where, *settings, *arguments],
            _environment(),
            stdout=subprocess.PIPE,
        )
        try:
            out, err = child.communicate(timeout=max(0.1, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise Unreachable(
                f"getting {self.ref} of {self.url} took too long", "look at the network and run again"
            ) from None
        finally:
            if child.poll() is None:  # git's own children too, which hold its connection
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGTERM)
            children.stop(child)
        if child.returncode:
            self.said = err.decode("utf-8", "replace")
            raise refusal(self.url, self.ref, self.said)
        return out.decode("utf-8", "replace")


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    kept |= {name: value for name, value in os.environ.items() if name.lower() in _PROXIES}
    return kept | {
        "LC_ALL": "C",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",
        "SSH_ASKPASS": "",
        "GIT_ALLOW_PROTOCOL": "http:https",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_HTTP_LOW_SPEED_LIMIT": "100",
        "GIT_HTTP_LOW_SPEED_TIME": str(STALL_SECONDS),
    }


def refusal(url: str, ref: str, text: str) -> FleetError:
    """What git's words ``text`` mean.

    >>> print(refusal("https://example.org/x", "main", "fatal: Could not resolve host: example.org"))
    https://example.org/x does not answer (Could not resolve host: example.org); look at the worker's network, or correct repo_url, and run again.
    """
    lines = [
        line.removeprefix("fatal: ").removeprefix("remote: ").strip() for line in text.splitlines() if line.strip()
    ]
    low, last = text.lower(), " ".join((lines or ["it said nothing"])[-1].split())[:200]
    short = last.rpartition("': ")[2] or last
    if "could not read username" in low or "authentication failed" in low or "error: 403" in low:
        return Refused(
            f"{url} does not let git in without a password ({short})",
            "correct repo_url, or set up git's credential helper for the user that the worker runs as",
        )
    if "not found" in low or "error: 404" in low or "not a git repository" in low:
        return NotFound(f"there is no git repository at {url}", "correct repo_url and run again")
    if "no space left" in low:
        return Refused(f"there is no disk space left to get {url}", "free some and run again")
    signs = (
        "could not resolve",
        "could not connect",
        "failed to connect",
        "timed out",
        "refused",
        "too slow",
        "reset by",
    )
    if any(sign in low for sign in signs):
        return Unreachable(
            f"{url} does not answer ({short})", "look at the worker's network, or correct repo_url, and run again"
        )
    if "protocol" in low and "not allowed" in low:
        return InvalidInput(f"{url} leads git to another protocol than http(s)", "give the address that it leads to")
    return Refused(f"git did not get {ref} of {url} ({last})", "mend what it names and run again")
