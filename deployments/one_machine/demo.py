"""The main job on this machine, end to end: each step a deployment run on the workers, each seen to hold from outside."""

import asyncio
import hashlib
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from deployments.one_machine import stack as one
from deployments.one_machine.clean import clients_of
from deployments.one_machine.leftovers import sweep
from deployments.one_machine.recipes import RECIPIENT, demo_folder, demo_recipe, own_values, real_parts, zero_image
from deployments.one_machine.runs import Api, Ended
from deployments.one_machine.settings import DEMO_CLIENT, ROOT, Stack, prepare
from tasks.errors import Conflict, Damaged, FleetError
from tasks.registry.names import ClientNames, gmail_block

CLIENT = DEMO_CLIENT
USER = "ada"
LOGIN = "ada@example.org"
RUN_SECONDS = 240
SCHEDULE_SECONDS = 150


@dataclass
class Seen:
    """What the demo saw with its own eyes, for the table at the end."""

    rows: list[tuple[str, str]] = field(default_factory=list)

    def add(self, what: str, value: str) -> None:
        """Note one fact."""
        self.rows.append((what, value))


def demo(place: Stack, console: Console, say: Callable[[str], None]) -> int:
    """Set everything up and run the main job; 0 only if every step was seen to hold."""
    started = time.monotonic()
    _claim(place)
    image = ""
    recipe = demo_recipe(place, say)

    def before() -> None:
        nonlocal image
        sweep(place, ClientNames(CLIENT).container, say)
        recipe.before()
        image = zero_image(place, say)

    log = place.logs / "server.log"
    logged = log.stat().st_size if log.exists() else 0
    one.up(place, one.Recipe(recipe.values, recipe.given, recipe.worker, before), say)
    console.print()
    seen = Seen()
    try:
        asyncio.run(_Demo(place, console, image, seen, logged).run())
    except FleetError as error:
        console.print(f"\n[red]The demo did not hold:[/] {error}")
        console.print(f"The stack is still up: {place.ui} (`make password`), logs in {place.logs}.")
        return 1
    table = Table(box=None, show_header=False, title="\nWhat exists now", title_justify="left", title_style="bold")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for row in seen.rows:
        table.add_row(*row)
    console.print(table)
    stand_ins = [name for name in ("Zero", "Google", "SMTP") if name.lower() not in real_parts()]
    console.print(
        f"\nStand-ins were used for: {', '.join(stand_ins)} (tests/standins/; see the README for the real ones)."
    )
    console.print(f"Prefect UI: [bold]{place.ui}[/]   (`make password` prints the auth string that it asks for)")
    console.print(f"The stack is up; `make down` stops it. The demo held in {time.monotonic() - started:.0f} s.")
    return 0


def _claim(place: Stack) -> None:
    """Make the state folder the demo's, unless it is the operator's own already.

    Raises:
        Conflict: it holds a fleet of the operator's own.
    """
    if demo_folder(place).exists():
        return
    clients = clients_of(place)
    if clients or (place.state / "own").exists():
        raise Conflict(
            f"the state folder {place.state} holds a fleet of your own",
            "run the demo beside it: ZERO_FLEET_STATE=.state-demo ZERO_FLEET_PORT=4300 GATEWAY_URL=http://localhost:8100 make demo",
        )
    prepare(place)
    demo_folder(place).mkdir(mode=0o700)


class _Demo:
    def __init__(self, place: Stack, console: Console, image: str, seen: Seen, logged: int) -> None:
        self.place, self.console, self.image, self.seen, self.logged = place, console, image, seen, logged
        self.api = Api(place)
        self.names = ClientNames(CLIENT)
        self.real = real_parts()
        self.mail = demo_folder(place) / "mail"

    async def run(self) -> None:
        try:
            await self._provision()
            provisioned = time.time()
            await self._poll()
            await self._connect()
            await self._refresh()
            await self._test_email()
            await self._backup()
            await self._verify()
            await self._scheduled_poll(provisioned)
            self._server_log()
        finally:
            await self.api.close()

    async def step(
        self, deployment: str, parameters: dict[str, Any], meanwhile: Callable[[str], Awaitable[None]] | None = None
    ) -> Ended:
        """One deployment run, shown with its time.

        Raises:
            FleetError: it did not complete; its own sentence.
        """
        with self.console.status(f"{deployment} …"):
            ended = await self.api.wait(
                await self.api.start(f"{deployment}/default", parameters), RUN_SECONDS, meanwhile
            )
        good = ended.state == "COMPLETED"
        sign = "[green]✓[/]" if good else "[red]✗[/]"
        self.console.print(f"{sign} {ended.seconds:5.1f} s  [bold]{deployment}[/]  {ended.message}")
        if not good:
            raise FleetError(
                f"{deployment} ended {ended.state}: {ended.message}", f"see {self.place.ui}/runs/flow-run/{ended.id}"
            )
        return ended

    async def _provision(self) -> None:
        await self.step("provision-client", {"client": CLIENT, "spec": {"image": self.image}})
        container = await asyncio.to_thread(self._container)
        ports = container.attrs["NetworkSettings"]["Ports"].get("3000/tcp") or []
        if container.status != "running" or not ports:
            raise Damaged(f"container {self.names.container} is {container.status}", "read its logs")
        self.url = f"http://localhost:{ports[0]['HostPort']}"
        async with httpx.AsyncClient(timeout=10) as http:
            answer = await http.get(f"{self.url}/api/auth/ok")
        if answer.status_code != 200:
            raise Damaged(f"{self.url}/api/auth/ok answered {answer.status_code}", "read the container's logs")
        self.seen.add(f"Zero of client {CLIENT}", f"{self.url}  (container {self.names.container}, {container.status})")
        self.seen.add("Database", f"{self.names.database}, {await asyncio.to_thread(self._tables)} tables")

    def _container(self) -> Any:
        import docker

        return docker.from_env(timeout=30).containers.get(self.names.container)

    def _tables(self) -> int:
        import psycopg

        if "postgres" in self.real:
            url = own_values()["ZERO_POSTGRES_URL"]
            with psycopg.connect(url, connect_timeout=10, autocommit=True) as connection:
                found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (self.names.database,))
                return int(found.fetchone() is not None)
        with psycopg.connect(
            host="127.0.0.1", port=self.place.postgres_port, user="postgres", dbname=self.names.database,
            password=self.place.key("postgres-superuser"), connect_timeout=10, autocommit=True,
        ) as connection:  # fmt: skip
            row = connection.execute("SELECT count(*) FROM pg_tables WHERE tablename LIKE 'mail0%'").fetchone()
            if not row or not row[0]:
                raise Damaged(f"the database {self.names.database} has no tables of Zero", "read the container's logs")
            return int(row[0])

    async def _poll(self) -> None:
        ended = await self.step("poll-fleet-health", {})
        rows = await self.api.get("/artifacts/fleet/latest")
        line = next((row for row in _table(rows) if CLIENT in str(row)), None)
        if line is None or "running" not in str(line):
            raise Damaged(f"the fleet table says of acme: {line}", f"read {self.place.logs / 'worker-health.log'}")
        self.seen.add("Status", f"running ({ended.message})")

    async def _connect(self) -> None:
        state = {"done": False}
        real = "google" in self.real

        async def consent(run: str) -> None:
            if state["done"]:
                return
            found = await self.api.get(f"/artifacts/{gmail_block(USER)}/latest")
            if found is None or found["flow_run_id"] != run:
                return
            link = re.search(rf"{re.escape(self.place.gateway_url)}/gmail/connect/[0-9a-f]+", str(found["data"]))
            if link is None:
                return
            state["done"] = True
            if real:
                self.console.print(f"open this in a browser and consent: [bold]{link.group()}[/]")
                return
            await asyncio.to_thread(_consent, link.group())

        await self.step("connect-gmail", {"user": USER, "login_email": LOGIN}, consent)
        profile = await asyncio.to_thread(self._profile)
        self.seen.add("Gmail profile", f"{profile['name']} <{profile['email']}>")

    async def _refresh(self) -> None:
        before = await asyncio.to_thread(self._profile)
        await self.step("refresh-gmail-profile", {"user": USER})
        after = await asyncio.to_thread(self._profile)
        if after["refreshed_at"] == before["refreshed_at"]:
            raise Damaged("the profile was not refreshed", f"read {self.place.logs / 'worker-work.log'}")

    def _registry(self, query: str, *values: object) -> dict[str, Any]:
        import sqlite3

        with sqlite3.connect(f"file:{self.place.state / 'registry.sqlite'}?mode=ro", uri=True) as connection:
            connection.row_factory = sqlite3.Row
            row = connection.execute(query, values).fetchone()
        if row is None:
            raise Damaged("the registry has no such row", "look at the run in the UI")
        return dict(row)

    def _profile(self) -> dict[str, Any]:
        found = self._registry('SELECT * FROM gmail_profile WHERE "user" = ?', USER)
        if not found["name"] or not found["email"]:
            raise Damaged("the Gmail profile has no name", f"read {self.place.logs / 'worker-work.log'}")
        return found

    def _mails(self) -> set[Path]:
        return set(self.mail.glob("*.eml"))

    async def _new_mail(self, before: set[Path], attachment: str | None) -> str:
        """The subject of the mail that arrived since, seen in the stand-in's folder."""
        if "smtp" in self.real:
            return "sent through the real SMTP server; look into the mailbox"
        new = sorted(self._mails() - before)
        if not new:
            raise Damaged("no mail arrived at the SMTP stand-in", f"read {self.place.logs / 'worker-work.log'}")
        message = message_from_bytes(new[-1].read_bytes(), policy=policy.default)
        names = [part.get_filename() for part in message.iter_attachments()]
        if attachment and attachment not in names:
            raise Damaged(f"the mail carries {names}, not {attachment}", f"read {new[-1]}")
        return str(message["subject"])

    async def _test_email(self) -> None:
        before = self._mails()
        recipient = (
            RECIPIENT if "smtp" not in self.real else own_values()["EMAIL_BACKUP_RECIPIENT"].split(",")[0].strip()
        )
        await self.step("send-test-email", {"recipient": recipient})
        await self._new_mail(before, None)

    async def _backup(self) -> None:
        before = self._mails()
        await self.step("backup-database", {"client": CLIENT})
        run = await asyncio.to_thread(self._last_backup)
        file = Path(run["path"])
        size = await asyncio.to_thread(_size_of_proven, file, run["sha256"])
        subject = await self._new_mail(before, file.name)
        self.seen.add("Backup file", f"{file}  ({size:,} bytes)")
        self.seen.add("Mail delivered", subject)

    def _last_backup(self) -> dict[str, Any]:
        return self._registry("SELECT * FROM backup_run WHERE target = ? ORDER BY id DESC LIMIT 1", f"client:{CLIENT}")

    async def _verify(self) -> None:
        await self.step("verify-backup", {"client": CLIENT})
        run = await asyncio.to_thread(self._last_backup)
        if not run["verified"]:
            raise Damaged(f"the backup is not verified ({run['verify_note']})", "look at the run in the UI")
        self.seen.add("Restore proven", str(run["verify_note"] or "compared equal"))

    async def _scheduled_poll(self, since: float) -> None:
        deployment = await self.api.get("/deployments/name/poll-fleet-health/default")
        started = time.monotonic()
        with self.console.status("waiting for a health poll that the schedule starts …"):
            while time.monotonic() - started < SCHEDULE_SECONDS:
                runs = await self.api.post(
                    "/flow_runs/filter",
                    {
                        "flow_runs": {
                            "deployment_id": {"any_": [deployment["id"]]},
                            "state": {"type": {"any_": ["COMPLETED"]}},
                            "start_time": {"after_": _iso(since)},
                        },
                        "sort": "START_TIME_DESC",
                        "limit": 20,
                    },
                )
                polled = [run for run in runs if run["auto_scheduled"] and "superseded" not in run["state"]["message"]]
                if polled:
                    message = polled[0]["state"]["message"]
                    self.console.print(
                        f"[green]✓[/] {time.monotonic() - started:5.1f} s  [bold]poll-fleet-health[/] (by its schedule)  {message}"
                    )
                    self.seen.add("Watched", f"every minute; {message}")
                    return
                await asyncio.sleep(0.5)
        raise Damaged(
            f"no scheduled health poll completed within {SCHEDULE_SECONDS} s",
            f"read {self.place.logs / 'worker-health.log'}",
        )

    def _server_log(self) -> None:
        """No ERROR since this demo began (what was logged before is another's)."""
        log = self.place.logs / "server.log"
        start = self.logged if log.stat().st_size >= self.logged else 0
        with log.open("rb") as source:
            source.seek(start)
            bad = [line for line in source.read().decode(errors="replace").splitlines() if "ERROR" in line]
        if bad:
            raise Damaged(f"the Prefect server's log has {len(bad)} errors ({bad[-1][:160]})", "read it: `make logs`")


def _table(artifact: dict[str, Any] | None) -> list[Any]:
    import json

    if artifact is None:
        return []
    data = artifact["data"]
    rows = json.loads(data) if isinstance(data, str) else data
    return list(rows)


def _consent(link: str) -> None:
    """The user's browser, played by the stand-in: opens the link, consents, comes back to the gateway."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.standins.google.consent", link, "--email", LOGIN],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if done.returncode:
        raise Damaged(
            f"the consent page did not lead back to the gateway ({done.stdout.strip()[:100]})", "run the demo again"
        )


def _size_of_proven(file: Path, sha256: str) -> int:
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise Damaged(f"{file} has not the checksum that the registry says", "run backup-database again")
    return len(content)


def _iso(moment: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(moment, UTC).isoformat()
