"""``python -m tests.standins.google``: serve the stand-in for Google on loopback until TERM, or until the parent is gone."""

import argparse
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import uvicorn

from tests.standins.google.install import install, node
from tests.standins.google.server import DECOY, build


def main() -> None:
    """Install what is missing, start the emulator and the server before it, print ``ready URL``, serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.standins.google")
    parser.add_argument("--port", type=int, required=True, help="port on 127.0.0.1")
    parser.add_argument("--cache", type=Path, required=True, help="folder that the emulator is installed into")
    parser.add_argument(
        "--credentials",
        type=Path,
        required=True,
        help="credentials.json of the OAuth client, in Google's form; made (0600) when missing, else kept",
    )
    parser.add_argument("--redirect-uri", default="http://localhost:8000/gmail/callback/")
    parser.add_argument("--email", default="ada@example.org", help="the user's address")
    parser.add_argument("--given-name", default="Ada")
    parser.add_argument("--family-name", default="Lovelace")
    parser.add_argument("--outlive-parent", action="store_true", help="stay when the starting process ends")
    given = parser.parse_args()

    client = _client(given.credentials, f"http://127.0.0.1:{given.port}", given.redirect_uri)
    emulator, port = _start_emulator(install(given.cache), given, client)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", given.port))
    listener.listen(64)
    threading.Thread(
        target=_watch, args=(emulator, None if given.outlive_parent else os.getppid()), daemon=True
    ).start()
    app = build(
        f"http://127.0.0.1:{port}", given.email, lambda: print(f"ready http://127.0.0.1:{given.port}", flush=True)
    )
    try:
        uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="warning")).run(sockets=[listener])
    finally:
        assert emulator.stdin is not None
        emulator.stdin.close()
        emulator.wait(timeout=10)


def _client(path: Path, base: str, redirect: str) -> dict[str, object]:
    """The OAuth client in ``path``, with fresh addresses; its secret is made once."""
    old = json.loads(path.read_text())["web"] if path.exists() else {}
    client: dict[str, object] = {
        "client_id": old.get("client_id", f"{secrets.token_hex(6)}.apps.googleusercontent.com"),
        "client_secret": old.get("client_secret", f"GOCSPX-{secrets.token_urlsafe(21)}"),
        "auth_uri": f"{base}/o/oauth2/v2/auth",
        "token_uri": f"{base}/oauth2/token",
        "redirect_uris": [redirect],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path.with_suffix(".new"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        json.dump({"web": client}, file)
    path.with_suffix(".new").replace(path)
    return client


def _start_emulator(
    script: Path, given: argparse.Namespace, client: dict[str, object]
) -> tuple[subprocess.Popen[str], int]:
    seed = {
        "tokens": {},
        "google": {
            "users": [
                {"email": DECOY, "name": "Nobody"},
                {
                    "email": given.email,
                    "name": f"{given.given_name} {given.family_name}",
                    "given_name": given.given_name,
                    "family_name": given.family_name,
                    "picture": "https://lh3.googleusercontent.com/a/stand-in",
                    "locale": "en",
                },
            ],
            "oauth_clients": [
                {
                    "client_id": client["client_id"],
                    "client_secret": client["client_secret"],
                    "name": "Zero Fleet",
                    "redirect_uris": client["redirect_uris"],
                }
            ],
        },
    }
    emulator = subprocess.Popen(
        [str(node()), str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=script.parent
    )
    assert emulator.stdin is not None and emulator.stdout is not None
    emulator.stdin.write(json.dumps(seed) + "\n")
    emulator.stdin.flush()
    word, _, port = emulator.stdout.readline().partition(" ")
    if word != "listening":
        sys.exit(f"the Google emulator did not start (exit code {emulator.wait(timeout=5)})")
    return emulator, int(port)


def _watch(emulator: subprocess.Popen[str], parent: int | None) -> None:
    """End with the parent, and when the emulator ends."""
    while emulator.poll() is None and (parent is None or os.getppid() == parent):
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
