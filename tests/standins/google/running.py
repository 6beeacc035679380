"""The stand-in as a process of a test or of the demo."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class RunningGoogle:
    """A stand-in that serves."""

    base: str
    client_id: str
    client_secret: str = field(repr=False)

    @property
    def endpoints(self) -> dict[str, str]:
        """The endpoint fields of the block GoogleOAuthClient."""
        return endpoints(self.base)


def endpoints(base: str) -> dict[str, str]:
    """The endpoint fields of the block GoogleOAuthClient for a stand-in at ``base``."""
    return {
        "auth_uri": f"{base}/o/oauth2/v2/auth",
        "token_uri": f"{base}/oauth2/token",
        "revoke_uri": f"{base}/oauth2/revoke",
        "userinfo_uri": f"{base}/oauth2/v2/userinfo",
        "gmail_api": base,
    }


@contextmanager
def running(port: int, cache: Path, credentials: Path, redirect: str) -> Iterator[RunningGoogle]:
    """Start the stand-in, wait until it serves, stop it afterwards."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.standins.google"),
            *("--port", str(port), "--cache", str(cache)),
            *("--credentials", str(credentials), "--redirect-uri", redirect),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("ready "), f"the stand-in for Google did not start: {line!r}"
        client = json.loads(credentials.read_text())["web"]
        yield RunningGoogle(line.split()[1], client["client_id"], client["client_secret"])
    finally:
        process.terminate()
        process.wait(timeout=15)
