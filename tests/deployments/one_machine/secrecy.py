"""Where secrets are, and whether they are anywhere else: every value in every form, over everything that the stack leaves behind."""

import base64
import contextlib
import email
import email.policy
import gzip
import json
import sqlite3
import stat
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from deployments.one_machine.settings import ROOT
from tests.deployments.one_machine.running import RunningStack

SHORTEST = 8
"""Characters; anything shorter would be found by chance, and is no secret."""


def forms(value: str) -> set[bytes]:
    """``value`` as it may stand somewhere: plain, in base64 at each of three alignments, percent-encoded, in hex, in JSON.

    >>> b"aHVudGVyMjIyMj" in forms("hunter22222")
    True
    """
    plain = value.encode()
    found = {plain, quote(value, safe="").encode(), quote(value).encode(), json.dumps(value)[1:-1].encode()}
    found |= {plain.hex().encode(), plain.hex().upper().encode()}
    for shift in range(3):
        text = base64.b64encode(b"\0" * shift + plain)
        # What depends on the neighbours is cut off at both ends.
        text = text[(0, 2, 3)[shift] : (shift + len(plain)) * 8 // 6]
        found |= {text, text.replace(b"+", b"-").replace(b"/", b"_")}
    return found


def secrets_of(stack: RunningStack) -> dict[str, str]:
    """Every secret value of the stack, by where it lives: its keys, and every secret field of every block."""
    found: dict[str, str] = {}
    for file in (stack.place.state / "keys").iterdir():
        text = file.read_text().strip()
        found[f"keys/{file.name}"] = json.loads(text)["web"]["client_secret"] if file.suffix == ".json" else text
    for name, document in stack.blocks().items():
        for field in document["block_schema"]["fields"].get("secret_fields", []):
            found |= dict(_values(document["data"], field.split("."), name))
    return {where: value for where, value in found.items() if value}


def _values(data: Any, path: list[str], where: str) -> Iterator[tuple[str, str]]:
    if not path:
        for leaf in data.values() if isinstance(data, dict) else [data]:
            if leaf is not None:
                yield where, str(leaf)
        return
    for name in data if path[0] == "*" and isinstance(data, dict) else [path[0]]:
        if isinstance(data, dict) and data.get(name) is not None:
            yield from _values(data[name], path[1:], f"{where}.{name}")


class Search:
    """A grep for secrets that remembers where it found which."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        short = {where for where, value in secrets.items() if len(value) < SHORTEST}
        assert not short, f"too short for a secret: {short}"
        self._forms = [(where, form) for where, value in secrets.items() for form in forms(value)]
        self.found: set[tuple[str, str]] = set()
        self.looked: dict[str, int] = {}

    def look(self, place: str, content: bytes) -> None:
        """Search ``content``, which stands at ``place``."""
        self.looked[place] = self.looked.get(place, 0) + len(content)
        for where, form in self._forms:
            if form in content:
                self.found.add((where, place))

    def look_in_file(self, file: Path, place: str) -> None:
        """Search a file as it is, and what is packed in it."""
        try:
            content = file.read_bytes()
        except FileNotFoundError:  # a log that was rotated, a journal that ended
            return
        self.look(place, content)
        if file.suffix == ".gz":
            self.look(f"{place} (unpacked)", gzip.decompress(content))
        if file.suffix == ".eml":
            for part in email.message_from_bytes(content, policy=email.policy.default).walk():
                body = part.get_payload(decode=True)
                if isinstance(body, bytes):
                    self.look(f"{place} (part)", body)
                    if body[:2] == b"\x1f\x8b":
                        self.look(f"{place} (part, unpacked)", gzip.decompress(body))

    def look_in_sqlite(self, file: Path, place: str) -> None:
        """Search every value of every table: in the file's bytes a long one is cut into pages."""
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10)) as connection:
            connection.text_factory = bytes
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for (table,) in tables:
                rows = connection.execute(f'SELECT * FROM "{table.decode()}"')
                values = (value if isinstance(value, bytes) else str(value).encode() for row in rows for value in row)
                self.look(f"{place}: {table.decode()}", b"\n".join(values))


def may_hold_secrets(file: Path, state: Path) -> bool:
    """Whether ``file`` is one of those that are there to hold secrets."""
    inside = file.relative_to(state)
    return (
        inside.parts[0] == "keys"
        or str(inside) == "prefect/profiles.toml"
        or (inside.parts[0] == "demo" and len(inside.parts) == 2 and inside.name.endswith("key.pem"))
    )


def open_to_others(state: Path) -> list[str]:
    """The files that may hold secrets and are readable by more than their owner."""
    files = [file for file in state.rglob("*") if file.is_file() and may_hold_secrets(file, state)]
    assert len(files) > 5
    return [str(file) for file in files if stat.S_IMODE(file.stat().st_mode) != 0o600]


def search_everywhere(stack: RunningStack, secrets: Mapping[str, str], command_lines: set[str]) -> Search:
    """Search state folder, databases, server logs, containers' logs, command lines, mails, backups and git."""
    search, state = Search(secrets), stack.place.state
    for file in sorted(state.rglob("*")):
        if file.is_file() and not may_hold_secrets(file, state):
            search.look_in_file(file, str(file.relative_to(state)))
    for database in (state / "prefect" / "prefect.db", state / "registry.sqlite"):
        search.look_in_sqlite(database, str(database.relative_to(state)))
    home = stack.postgres.home
    if not home.is_relative_to(state):
        for file in sorted(home.rglob("*")):
            if file.is_file() and "data/base" not in str(file):
                search.look_in_file(file, f"postgres/{file.relative_to(home)}")
    search.look("command lines", "\n".join(command_lines).encode())
    listed = subprocess.run(["ps", "-ef"], capture_output=True, check=False)
    search.look("ps -ef", listed.stdout)
    for name, text in _container_logs(stack):
        search.look(f"docker logs {name}", text)
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in tracked.decode().split("\0"):
        if name and (ROOT / name).is_file():
            search.look_in_file(ROOT / name, f"git {name}")
    return search


def _container_logs(stack: RunningStack) -> list[tuple[str, bytes]]:
    import docker

    engine = docker.from_env(timeout=30)
    try:
        label = f"zero-fleet.fleet={stack.place.fleet}"
        found = engine.containers.list(all=True, filters={"label": label})
        return [(one.name, one.logs()) for one in found]
    finally:
        engine.close()


@contextlib.contextmanager
def watched_command_lines() -> Iterator[set[str]]:
    """Every command line on this machine that is seen during the ``with`` block."""
    seen: set[str] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.15):
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.Error):
                    seen.add(" ".join(process.cmdline()))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        ended.set()
        watcher.join(timeout=5)
