"""What a stack runs with: the operator's own settings, or the demo's stand-ins.

The demo uses stand-ins and the embedded server even when ``.env`` is full of real ones, unless DEMO_REAL names them
(``DEMO_REAL=smtp,postgres,google``). A state folder is the demo's or the operator's own for good: ``<state>/demo`` marks it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from deployments.bootstrap.environment import read_values, unreadable
from deployments.one_machine import processes
from deployments.one_machine.certificates import make_authority
from deployments.one_machine.settings import IMAGES, ROOT, Stack, require_free
from deployments.one_machine.stack import Recipe, answers
from tasks.errors import FleetError, InvalidInput

if TYPE_CHECKING:
    from deployments.bootstrap.plan import Wanted

REAL = {
    "smtp": ("EMAIL_", "DEFAULT_FROM_EMAIL"),
    "postgres": ("ZERO_POSTGRES_URL",),
    "google": ("GOOGLE_", "GMAIL_"),
}
"""What DEMO_REAL may name, and the settings that it takes from ``.env``."""
RECIPIENT = "operator@example.org"
EMULATOR = ROOT / ".venv" / "emulator"
"""Installed from a lock file too, and goes with `make clean`."""


def demo_folder(place: Stack) -> Path:
    """Where the stand-ins keep their things; that it exists marks the state folder as the demo's."""
    return place.state / "demo"


def recipe_of(place: Stack, say: Callable[[str], None]) -> Recipe:
    """The recipe of this state folder: the demo's where the demo made it, else that of ``.env``."""
    if demo_folder(place).exists():
        say(
            "this state folder was made by `make demo`: its stand-ins run too (`make clean` first for a fleet of your own)"
        )
        return demo_recipe(place, say)
    values = own_values()
    if set(values) - {"TIME_ZONE", "GATEWAY_URL"}:
        # From now on the demo keeps its hands off this folder.
        place.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        (place.state / "own").touch()
    return Recipe(values=values, refused=tuple(unreadable(ROOT / ".env")))


def own_values() -> Mapping[str, str]:
    """The operator's settings: the environment over ``.env``."""
    return read_values(ROOT / ".env")


def real_parts() -> set[str]:
    """What DEMO_REAL names.

    Raises:
        InvalidInput: something that cannot be real.
    """
    named = {part.strip() for part in os.environ.get("DEMO_REAL", "").split(",") if part.strip()}
    unknown = named - set(REAL)
    if unknown:
        raise InvalidInput(f"DEMO_REAL names {', '.join(sorted(unknown))}", f"it may name {', '.join(REAL)}")
    return named


def demo_recipe(place: Stack, say: Callable[[str], None]) -> Recipe:
    """Stand-ins for whatever DEMO_REAL does not name."""
    real = real_parts()
    mine = own_values()
    values = {name: value for part in real for name, value in mine.items() if name.startswith(REAL[part])}
    folder = demo_folder(place)
    if "smtp" not in real:
        values |= {
            "EMAIL_HOST": "localhost",
            "EMAIL_PORT": str(place.smtp_port),
            "EMAIL_USE_TLS": "True",
            "EMAIL_HOST_USER": "fleet@example.org",
            "EMAIL_HOST_PASSWORD": place.key("demo-smtp"),
            "DEFAULT_FROM_EMAIL": "Zero Fleet <fleet@example.org>",
            "EMAIL_BACKUP_ENABLED": "True",
            "EMAIL_BACKUP_RECIPIENT": RECIPIENT,
        }

    def stand_ins() -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        make_authority(folder, "localhost")
        if "smtp" not in real:
            _start_smtp(place, folder)
            say(f"stand-in for SMTP (aiosmtpd, STARTTLS and login) on port {place.smtp_port}")
        if "google" not in real:
            _start_google(place)
            say(f"stand-in for Google (emulator) on port {place.google_port}")

    def blocks() -> "list[Wanted]":
        return [] if "google" in real else _google_blocks(place)

    worker = {"SSL_CERT_FILE": str(folder / "trusted.pem")}
    return Recipe(values=values, given=blocks, worker=worker, before=stand_ins)


def _start_smtp(place: Stack, folder: Path) -> None:
    if processes.alive("smtp-standin", place.run) is None:
        require_free(place.smtp_port, "the SMTP stand-in", "ZERO_FLEET_PORT (it takes the second after it)")
    place.key("demo-smtp")
    processes.start(
        "smtp-standin",
        [sys.executable, "-m", "tests.standins.smtp", "--port", str(place.smtp_port),
         "--cert", str(folder / "server.pem"), "--key", str(folder / "server-key.pem"), "--user", "fleet@example.org",
         "--password-file", str(place.state / "keys" / "demo-smtp"), "--maildir", str(folder / "mail"), "--outlive-parent"],
        place.run, place.logs, place.environment(), ROOT,
    )  # fmt: skip


def _start_google(place: Stack) -> None:
    if processes.alive("google-standin", place.run) is None:
        require_free(place.google_port, "the Google stand-in", "ZERO_FLEET_PORT (it takes the third after it)")
    processes.start(
        "google-standin",
        [sys.executable, "-m", "tests.standins.google", "--port", str(place.google_port), "--cache", str(EMULATOR),
         "--credentials", str(_credentials(place)), "--redirect-uri", f"{place.gateway_url}/gmail/callback/",
         "--outlive-parent"],
        place.run, place.logs, place.environment(), ROOT,
    )  # fmt: skip


def _credentials(place: Stack) -> Path:
    return place.state / "keys" / "demo-google-credentials.json"


def _google_blocks(place: Stack) -> "list[Wanted]":
    from pydantic import SecretStr

    from blocks.gmail import GoogleOAuthClient
    from deployments.bootstrap.plan import Wanted

    answers(f"http://127.0.0.1:{place.google_port}/health", "the Google stand-in", place, "google-standin")
    web = json.loads(_credentials(place).read_text())["web"]
    base = f"http://127.0.0.1:{place.google_port}"
    client = {"client_id": web["client_id"], "client_secret": SecretStr(web["client_secret"])}
    urls = {
        "auth_uri": web["auth_uri"],
        "token_uri": web["token_uri"],
        "revoke_uri": f"{base}/oauth2/revoke",
        "userinfo_uri": f"{base}/oauth2/v2/userinfo",
        "gmail_api": base,
    }
    scopes = ["openid", "email", "profile", "https://www.googleapis.com/auth/gmail.readonly"]
    return [
        Wanted("google-zero", GoogleOAuthClient, {**client, **urls}),
        Wanted("google-gmail", GoogleOAuthClient, {**client, **urls, "scopes": scopes}),
    ]


def zero_image(place: Stack, say: Callable[[str], None]) -> str:
    """The image that the demo's client runs: ZERO_IMAGE, else the stand-in, built without any registry and noted for `clean`.

    Raises:
        FleetError: it could not be built.
    """
    wanted = os.environ.get("ZERO_IMAGE")
    if wanted:
        return wanted
    done = subprocess.run(
        [sys.executable, "-m", "tests.standins.zero.build"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise FleetError(
            f"the Zero stand-in's image was not built ({last[:200]})", "or name a real one: ZERO_IMAGE=… make demo"
        )
    tag = done.stdout.split()[0]
    with (place.state / "demo" / IMAGES).open("a") as noted:
        noted.write(f"{tag}\n")
    say(f"stand-in for Zero: image {tag}")
    return tag
