"""Settings of the one-machine stack: folders, ports, keys. Made once per state folder, derived ever after."""

import json
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from dotenv import dotenv_values

from deployments.one_machine.flow_process import FOLDER
from tasks.clock import zone
from tasks.errors import Conflict, InvalidInput

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""
PROFILE = "fleet"
DEMO_CLIENT = "acme"
"""The one client that `make demo` makes, and makes again."""
IMAGES = "images"
"""File in the demo's folder: tags of the stand-in's image that this demo built."""
T = TypeVar("T")


@dataclass(frozen=True)
class Stack:
    """Where everything of one stack is.

    Args:
        state: the state folder; git ignores it, and everything secret in it is 0600.
        port: Prefect's; PostgreSQL and the stand-ins of the demo take the ones after it.
        gateway_url: public base URL of the gateway.
        gateway_port: where it listens on this machine.
        time_zone: of schedules and of dates that people read.
        ports: range of clients' host ports.
        refused: a sentence for each variable that cannot be what it is; its default stands here instead.
    """

    state: Path
    port: int
    gateway_url: str
    gateway_port: int
    time_zone: str
    ports: str
    refused: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def api(self) -> str:
        """Prefect's API."""
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def ui(self) -> str:
        """Prefect's UI."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def postgres_port(self) -> int:
        """The embedded PostgreSQL's."""
        return self.port + 1

    @property
    def smtp_port(self) -> int:
        """The demo's SMTP stand-in's."""
        return self.port + 2

    @property
    def google_port(self) -> int:
        """The demo's Google stand-in's; it may use the next two also."""
        return self.port + 3

    @property
    def prefect_home(self) -> Path:
        """PREFECT_HOME: the server's database and the profile."""
        return self.state / "prefect"

    @property
    def logs(self) -> Path:
        """Folder of the logs, one file per process."""
        return self.state / "logs"

    @property
    def run(self) -> Path:
        """Folder of what runs now: a file per process."""
        return self.state / "run"

    @property
    def fleet(self) -> str:
        """The fleet's id, made once."""
        return once(self.state / "fleet", lambda: secrets.token_hex(3))

    def key(self, name: str) -> str:
        """The secret ``name`` of this stack, made once and kept 0600."""
        return once(
            self.state / "keys" / name, _fernet_key if name == "encryption" else lambda: secrets.token_urlsafe(24)
        )

    @property
    def auth(self) -> str:
        """Prefect's API auth string; the UI asks for it."""
        return f"admin:{self.key('api')}"

    def environment(self) -> dict[str, str]:
        """The environment of everything that the stack starts; nothing in it is secret (the profile holds the rest)."""
        from deployments.one_machine.embedded_postgres import client_programs

        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "ZERO_FLEET_"))}
        # Without cached bytecode every flow run would compile Prefect anew (2.4 s instead of 1.2 s to import).
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        return {
            **kept,
            # Prefect keeps a folder of one name in /tmp, which is another user's when two have stacks on one machine.
            "TMPDIR": str(self.state / "tmp"),
            "PREFECT_HOME": str(self.prefect_home),
            "PREFECT_PROFILE": PROFILE,
            "ZERO_FLEET_ROOT": str(ROOT),
            "ZERO_FLEET_STATE": str(self.state),
            "ZERO_FLEET_FLEET": self.fleet,
            "ZERO_FLEET_PORTS": self.ports,
            FOLDER: str(self.run),
            "ZERO_FLEET_PG_BIN": str(client_programs()),
            "TIME_ZONE": self.time_zone,
            "GATEWAY_URL": self.gateway_url,
            "PYTHONUNBUFFERED": "1",
        }

    def server_environment(self) -> dict[str, str]:
        """The environment of the Prefect server: its profile, and the key of its blocks, which Prefect reads from there only."""
        return {
            **self.environment(),
            "PREFECT_PROFILE": "server",
            "PREFECT_SERVER_ENCRYPTION_KEY": self.key("encryption"),
        }

    def write_profile(self) -> None:
        """Prefect's profiles: what the server needs, and what everybody else does. 0600, because they hold the keys."""
        authority = self.prefect_home / "one-authority.pem"
        write_private(authority, _first_certificate())
        shared = {
            "PREFECT_API_URL": self.api,
            # Never used, since the API speaks http on loopback; but each of Prefect's clients reads it (six in a flow's
            # process, 20-40 ms each for all of certifi's authorities).
            "PREFECT_API_SSL_CERT_FILE": str(authority),
            "PREFECT_API_AUTH_STRING": self.auth,
            # Six questions of each run, which a server of this same installation without CSRF tokens always answers alike.
            "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
            "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "false",
            # Nothing is gained by compressing answers on loopback; a deployment's, with its forms, are 30 kB and read four times.
            "PREFECT_CLIENT_CUSTOM_HEADERS": '{"Accept-Encoding": "identity"}',
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
            "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        }
        server = {
            **shared,
            "PREFECT_SERVER_API_AUTH_STRING": self.auth,
            "PREFECT_SERVER_API_HOST": "127.0.0.1",
            "PREFECT_SERVER_API_PORT": str(self.port),
            "PREFECT_UI_API_URL": "/api",
            # So that slots held by a run survive a restart of the server.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        }
        lines = [f'active = "{PROFILE}"', ""]
        for name, values in ((PROFILE, shared), ("server", server)):
            lines += [f"[profiles.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""]
        write_private(self.prefect_home / "profiles.toml", "\n".join(lines))


def _first_certificate() -> str:
    import certifi

    end = "-----END CERTIFICATE-----\n"
    return Path(certifi.where()).read_text().partition(end)[0] + end


def stack() -> Stack:
    """The stack that environment and ``.env`` describe; the environment wins.

    What cannot be is replaced by its default and told in ``refused``: `make up` refuses it, `make down` does without.

    Raises:
        InvalidInput: ``.env`` cannot be read.
    """
    given, refused = _given(), dict[str, str]()

    def read(name: str, default: str, check: Callable[[str, str], T]) -> T:
        try:
            return check(name, given.get(name) or default)
        except InvalidInput as error:
            refused[name] = str(error)
            return check(name, default)

    state = Path(given.get("ZERO_FLEET_STATE") or ROOT / ".state").expanduser()
    gateway_url, local_port = read("GATEWAY_URL", "http://localhost:8000", _base_url)
    return Stack(
        state=(state if state.is_absolute() else ROOT / state),
        port=read("ZERO_FLEET_PORT", "4200", _port),
        gateway_url=gateway_url,
        gateway_port=read("GATEWAY_PORT", str(local_port or 8000), _port),
        time_zone=read("TIME_ZONE", "UTC", lambda _, name: zone(name).key),
        ports=read("ZERO_FLEET_PORTS", "20000-29999", _range),
        refused=refused,
    )


def _given() -> dict[str, str]:
    try:
        file = dotenv_values(ROOT / ".env", interpolate=False, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise InvalidInput(
            f"{ROOT / '.env'} cannot be read as UTF-8 text", "correct its rights or its encoding"
        ) from None
    both = (*file.items(), *os.environ.items())
    return {name: value.strip() for name, value in both if value and value.strip()}


def _base_url(name: str, value: str) -> tuple[str, int | None]:
    """The URL without a slash at its end, and its port when that is one of this machine."""
    url = value.rstrip("/")
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        parts, port, host = urlsplit(""), None, None
    if parts.scheme not in ("http", "https") or not host or parts.username or parts.query:
        raise InvalidInput(f"{name} is {url[:80]!r}, which is no base URL", "write it like https://fleet.example.org")
    return url, port if host in ("localhost", "127.0.0.1") else None


def _port(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 5 and 1024 <= int(value) <= 65000):
        raise InvalidInput(f"{name} is {value[:40]!r}, which is no port from 1024 to 65000", "correct it in .env")
    return int(value)


def _range(name: str, value: str) -> str:
    low, dash, high = value.partition("-")
    ports = [int(part) for part in (low, high) if part.isascii() and part.isdigit() and len(part) <= 5]
    if not dash or len(ports) != 2 or not 1024 <= ports[0] <= ports[1] <= 65535:
        raise InvalidInput(
            f"{name} is {value[:40]!r}, which is no range of ports from 1024 to 65535",
            "write it low-high, like 20000-29999",
        )
    return value


def prepare(place: Stack) -> None:
    """Make the state folder and its keys, when missing."""
    for folder in (place.state, place.prefect_home, place.logs, place.run, place.state / "keys", place.state / "tmp"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    place.write_profile()


def require_free(port: int, name: str, setting: str) -> None:
    """Return if nobody listens on ``port`` of this machine.

    Raises:
        Conflict: somebody does; who, where the system tells.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise Conflict(
                f"port {port} for {name} is taken{_listener(port)}", f"stop that, or set {setting} to another port"
            ) from None


def _listener(port: int) -> str:
    import psutil

    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                if connection.pid is None:
                    continue
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        return ""
    return ""


def once(path: Path, make: Callable[[], str]) -> str:
    """The text of ``path``, made by ``make`` when it is not there yet, 0600; two processes at once agree on one."""
    try:
        return path.read_text()
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    write_private(staging, make())
    try:
        os.link(staging, path)
    except FileExistsError:
        pass
    finally:
        staging.unlink()
    return path.read_text()


def write_private(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` so that nobody else could ever read it."""
    staging = path.with_name(f".{path.name}.{os.getpid()}.new")
    with os.fdopen(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as sink:
        sink.write(text)
    staging.replace(path)


def _fernet_key() -> str:
    from cryptography.fernet import Fernet

    return Fernet.generate_key().decode()
