"""What diagnose-client's looks make of what they see; the shells among them against real sockets and the real engine."""

import http.server
import secrets
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from tasks.clients import containers, diagnosis
from tasks.clients.diagnosis import Check, Verdict, bad, good, unknown
from tasks.clients.environment import GoogleClient
from tasks.clients.inspections import container, database, google, house, inside, port, settings, web
from tasks.clock import now
from tasks.errors import Unhealthy
from tasks.registry.models import Status, StepJournal
from tasks.registry.names import LABEL_FLEET
from tests.conftest import free_port

URL = "postgresql://zero_client_acme:right@db:5432/zero_client_acme"


@pytest.fixture
def sleeper(docker_client, zero_image, fleet):
    """A container of the stand-in's image that only sleeps, with no interpreter in its command; its name."""
    name = f"zero_sleeper_{secrets.token_hex(3)}"
    made = docker_client.api.create_container(
        zero_image, ["/bin/sleep", "60"], name=name, labels={LABEL_FLEET: fleet}, entrypoint=[]
    )
    docker_client.api.start(made["Id"])
    yield name
    docker_client.api.remove_container(made["Id"], force=True)


def seen(**changes) -> containers.Seen:
    """A container that ended."""
    given = {"id": "i", "name": "zero_client_acme", "state": "exited", "exit_code": 1, "oom_killed": False}
    given |= {"restart_count": 0, "image_id": "sha256:a", "spec_hash": "h", "host_port": 20000}
    return containers.Seen(**{**given, "fleet": "f", "client": "acme", **changes})


def line_of(one: containers.Seen | None, lines=(), enabled: bool = True, started: str = "") -> diagnosis.Line:
    """The container's line."""
    state = {"Running": one is not None and one.running, "StartedAt": started}
    return container.container_line(
        one,
        {"State": state} if one else None,
        lines,
        slug="acme",
        name="zero_client_acme",
        enabled=enabled,
        status=Status.RUNNING,
        memory=256,
    )


def test_a_container_that_ended_is_explained_by_its_last_words_or_its_memory():
    refused = line_of(seen(), ["Error: connect ECONNREFUSED 10.0.0.1:5432"])
    assert "it does not reach PostgreSQL at 10.0.0.1:5432" in refused.seen and "db_host" in refused.cure
    eaten = line_of(seen(oom_killed=True))
    assert "want of memory (256 MiB)" in eaten.seen and "spec.memory" in eaten.cure
    looping = line_of(seen(state="running", restart_count=9), started=now().isoformat())
    assert looping.verdict is Verdict.BAD and "crashes in a loop (9 restarts" in looping.seen
    settled = line_of(seen(state="running", restart_count=9), started=(now() - timedelta(hours=5)).isoformat())
    assert settled.verdict is Verdict.GOOD and "restarted 9 times before" in settled.seen
    assert line_of(None).cure == "run provision-client for acme"
    assert line_of(seen(state="created"), enabled=False).verdict is Verdict.GOOD


def test_errors_in_the_log_are_explained_while_they_are_recent():
    told = "PostgresError: password authentication failed for user"
    recent, old = now() - timedelta(seconds=5), now() - timedelta(hours=2)
    explained = container.log_line([(recent, "fine"), (recent, told)], True, "zero_client_acme", "acme")
    assert explained.verdict is Verdict.BAD and "PostgreSQL refuses its password" in explained.seen
    assert container.log_line([(old, told)], True, "r", "acme").verdict is Verdict.GOOD
    assert container.log_line([(old, told)], False, "r", "acme").verdict is Verdict.BAD
    odd = container.log_line([(recent, "TypeError: x is not a function")], True, "r", "acme")
    assert odd.verdict is Verdict.UNKNOWN and "x is not a function" in odd.seen


def test_a_log_is_read_with_its_moments_and_without_secrets(docker_client, zero_image, fleet):
    made = docker_client.api.create_container(
        zero_image, ["/bin/sh", "-c", "echo Error: token hunter22 refused"], labels={LABEL_FLEET: fleet}, entrypoint=[]
    )
    try:
        docker_client.api.start(made["Id"])
        docker_client.api.wait(made["Id"], timeout=20)
        ended = containers.inspect(docker_client, made["Id"])
        assert ended is not None
        [(at, said)] = container.log_tail(docker_client, ended, ["hunter22"])
    finally:
        docker_client.api.remove_container(made["Id"], force=True)
    assert said == "Error: token *** refused" and abs((now() - at).total_seconds()) < 60


def test_a_different_database_url_is_told_by_its_parts_and_never_shown():
    def line(url: str) -> diagnosis.Line:
        return settings.database_url_line({"DATABASE_URL": url}, URL, "acme")

    assert line(URL).verdict is Verdict.GOOD and "right" not in line(URL).seen
    wrong = line(URL.replace("right", "hunter22").replace("5432", "5433"))
    assert wrong.seen == "the password differs; its port is 5433, not 5432"
    assert line(URL.replace("right", "r%69ght")).verdict is Verdict.GOOD
    assert line("postgresql://[").seen == "it is no URL"


def test_variables_that_differ_are_named_without_their_values():
    there = dict.fromkeys(settings.NEEDED, "x") | {
        "DROP_AGENT_TABLES": "true",
        "THREAD_SYNC_LOOP": "false",
        "PATH": "/bin",
    }
    expected = dict.fromkeys(settings.NEEDED, "x") | {"THREAD_SYNC_LOOP": "true"}

    def other(adopted: bool = False, same_hash: bool = True) -> diagnosis.Line:
        return settings.environment_line(there, expected, same_hash=same_hash, adopted=adopted, slug="acme")

    def lacking(unfilled=(), adopted: bool = False) -> diagnosis.Line:
        return settings.secrets_line(there, unfilled, [], block="zero-acme", adopted=adopted, slug="acme")

    assert other().seen == "different: THREAD_SYNC_LOOP; set and not wanted: DROP_AGENT_TABLES"
    assert other(adopted=True).verdict is Verdict.UNKNOWN
    del there["DROP_AGENT_TABLES"]
    there["THREAD_SYNC_LOOP"] = "true"
    assert other().verdict is Verdict.GOOD and "labels are not" in other(same_hash=False).seen
    assert "better_auth_secret" in lacking(["better_auth_secret"]).seen
    del there["AUTUMN_SECRET_KEY"]
    assert lacking().seen == "the container lacks AUTUMN_SECRET_KEY"
    assert lacking(adopted=True).verdict is Verdict.UNKNOWN
    del there["BETTER_AUTH_SECRET"]
    assert lacking(adopted=True).verdict is Verdict.BAD
    assert settings.secret_values({"A_TOKEN": "t", "DATABASE_URL": "p://u:a%40b@h/d", "PORT": "1"}) == [
        "t",
        "a%40b",
        "a@b",
    ]


def test_a_redirect_uri_that_is_in_use_and_not_given_out_is_told_with_both():
    callback = "/api/auth/callback/google"
    used = settings.redirect_line(
        {"BETTER_AUTH_URL": "http://localhost:3000"},
        f"http://localhost:20000{callback}",
        f"http://localhost:20000{callback}",
        "acme",
    )
    assert used.verdict is Verdict.BAD and "localhost:3000" in used.seen and "localhost:20000" in used.seen
    by_hand = settings.redirect_line(
        {"BETTER_AUTH_URL": "http://localhost:3000/"},
        f"http://localhost:20000{callback}",
        f"http://localhost:3000{callback}",
        "acme",
        adopted=True,
    )
    assert by_hand.verdict is Verdict.GOOD and "register both" in by_hand.cure
    moved = settings.redirect_line({}, f"https://a.example{callback}", f"http://localhost:20000{callback}", "acme")
    assert "register https://a.example" in moved.cure


@contextmanager
def serving(pages: dict[str, str]):
    """A web service of these pages; its base URL."""

    class Pages(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = pages.get(self.path)
            self.send_response(200 if found is not None else 307 if self.path == "/" else 404)
            if found is None and self.path == "/":
                self.send_header("location", "/login")
            self.end_headers()
            self.wfile.write((found or "").encode())

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


async def test_an_address_that_was_built_into_the_browsers_code_is_found_behind_a_redirect_and_in_a_script():
    page = '<script src="/_next/app.js"></script><a href="https://github.com/Mail-0/Zero">'
    with serving({"/login": page, "/_next/app.js": 'let u="http://localhost:3000/api"'}) as base:
        wrong = await web.browser_line(base, "https://mail.acme.example", True, "acme")
    assert wrong.verdict is Verdict.BAD and "http://localhost:3000" in wrong.seen
    assert "NEXT_PUBLIC_APP_URL=https://mail.acme.example" in wrong.cure
    with serving({"/login": page, "/_next/app.js": 'NEXT_PUBLIC_APP_URL:"https://mail.acme.example"'}) as base:
        assert (await web.browser_line(base, "https://mail.acme.example", True, "acme")).verdict is Verdict.GOOD
    nobody = await web.browser_line(f"http://127.0.0.1:{free_port()}", "https://x.example", True, "acme")
    assert nobody.verdict is Verdict.UNKNOWN


async def test_a_secret_goes_to_google_or_this_machine_only_and_offline_is_not_known():
    evil = await google.google_line(
        GoogleClient("i", "s", "https://evil.example/token"), "http://localhost", "acme", "google-zero"
    )
    assert evil.verdict is Verdict.BAD and "was not sent" in evil.seen
    offline = GoogleClient("i", "s", f"http://127.0.0.1:{free_port()}/token")
    assert (await google.google_line(offline, "http://localhost", "acme", "google-zero")).verdict is Verdict.UNKNOWN
    refused = google.meaning(401, "invalid_client", "g", "zero-acme")
    assert refused.verdict is Verdict.BAD and "into the block zero-acme" in refused.cure
    assert google.meaning(503, "", "g", "google-zero").verdict is Verdict.UNKNOWN


def _word(way: inside.Way) -> str | None:
    return inside.read(subprocess.run(way.command, capture_output=True, text=True, check=False, timeout=20).stdout)


def test_every_program_that_may_be_in_an_image_tells_postgresql_from_nothing_and_from_something_else(postgres_server):
    closed = free_port()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()

        def answer() -> None:
            while True:
                try:
                    with other.accept()[0] as one:
                        one.recv(8)
                        one.sendall(b"HTTP")
                except OSError:
                    return

        threading.Thread(target=answer, daemon=True).start()
        kinds = {"POSTGRES": postgres_server.port, "ECONNREFUSED": closed, "OTHER": other.getsockname()[1]}
        tried = set()
        for wanted, number in kinds.items():
            for way in inside.ways("127.0.0.1", number, [sys.executable]):
                if way.program != "sh" and shutil.which(way.program):
                    assert (_word(way), way.program) == (wanted, way.program)
                    tried.add(way.program)
        other.shutdown(socket.SHUT_RDWR)
    assert {sys.executable, "bash"} <= tried
    name = inside.ways("no-such-host.invalid", 5432, [sys.executable])[0]
    assert _word(name) in ("ENOTFOUND", "EAI_AGAIN")


def test_an_image_without_any_such_program_leaves_it_unknown(docker_client, sleeper):
    one, found = containers.inspect(docker_client, sleeper), docker_client.api.inspect_container(sleeper)
    line = inside.inside_line(
        docker_client, one, found, host="db", port=5432, image_id="", network="bridge", others=[], labels={}
    )
    assert line.verdict is Verdict.UNKNOWN and "no node, bun, python, bash or nc" in line.seen


def test_an_image_whose_name_moved_or_that_is_gone_is_told(docker_client, sleeper, zero_image):
    one = containers.inspect(docker_client, sleeper)
    assert one is not None
    there = container.image_line(docker_client, zero_image, one.image_id, one, "acme")
    assert there.verdict is Verdict.GOOD and "as recorded" in there.seen
    untagged = container.image_line(docker_client, "zero-nobody:1", one.image_id, one, "acme")
    assert "docker tag" in untagged.cure
    other = container.image_line(docker_client, zero_image, "sha256:" + "0" * 64, one, "acme")
    assert other.verdict is Verdict.BAD and "the container runs" in other.seen
    gone = container.image_line(docker_client, zero_image, "sha256:" + "0" * 64, None, "acme")
    assert "is not on the Docker host any more" in gone.seen


def test_a_port_that_another_container_has_is_named(docker_client, zero_image, fleet):
    number = free_port()
    made = docker_client.api.create_container(
        zero_image,
        ["/bin/sleep", "60"],
        name=f"zero_squatter_{secrets.token_hex(3)}",
        ports=[3000],
        labels={LABEL_FLEET: fleet},
        host_config=docker_client.api.create_host_config(port_bindings={3000: ("127.0.0.1", number)}),
    )
    try:
        docker_client.api.start(made["Id"])
        given = {"port": number, "host_ip": "127.0.0.1", "engine": "local", "slug": "acme", "name": "zero_client_acme"}
        line = port.port_line(docker_client, None, None, **given)
        assert line.verdict is Verdict.BAD and "taken by the container zero_squatter_" in line.seen
    finally:
        docker_client.api.remove_container(made["Id"], force=True)


def test_growth_is_told_by_table_and_a_table_that_went_is_bad():
    at = now()
    looked = {"at": (at - timedelta(hours=3)).isoformat(), "rows": {"mail0_user": 1, "mail0_note": 5}}
    grown = database.tables_line({"mail0_user": 3, "mail0_note": 5}, looked, at, "acme")
    assert grown.seen == "2 tables, 8 rows; +2 since the last look 3 h ago: user 3 (+2), note 5"
    gone = database.tables_line({"mail0_user": 1}, looked, at, "acme")
    assert gone.verdict is Verdict.BAD and "mail0_note is gone" in gone.seen
    assert database.tables_line({}, None, at, "acme").verdict is Verdict.BAD


def test_an_operation_under_way_cut_off_or_pending_is_told():
    step = StepJournal(client="acme", run_id="r", operation="provision", step="container", started_at=now())
    cut = house.operation_line(None, None, [step], "acme", "UTC")
    assert cut.verdict is Verdict.BAD and "run provision-client for acme again" in cut.cure
    assert house.operation_line("run 1 (x)", None, [step], "acme", "UTC").verdict is Verdict.UNKNOWN
    pending = house.operation_line(None, {"operation": "upgrade", "phase": "gate"}, [], "acme", "UTC")
    assert "upgrade was cut off in its phase gate" in pending.seen and "run upgrade-zero" in pending.cure
    step.ended_at, step.outcome = now(), "done"
    assert house.operation_line(None, None, [step], "acme", "UTC").verdict is Verdict.GOOD


def test_disks_and_clocks(tmp_path: Path):
    assert house.disk_line({"state folder": tmp_path / "not" / "made"}).verdict is Verdict.GOOD
    off = house.clock_line({"the Docker host": -90.0, "PostgreSQL": 0.1})
    assert off.seen == "that of the Docker host is 90 s behind ours"
    assert house.clock_line({"PostgreSQL": None}).verdict is Verdict.UNKNOWN


def test_the_page_has_what_is_bad_on_top_and_the_sentence_names_what_lies_deepest():
    lines = [
        bad(Check.ANSWER, "a|b", "c1"),
        good(Check.LOG, "<b>"),
        bad(Check.FROM_HERE, "refused", "c2"),
        unknown(Check.CLOCK, ""),
    ]
    page = diagnosis.markdown("acme", lines, {"URL": "http://x"}, now(), "UTC")
    assert page.index("**Database from here**: refused. To do: c2.") < page.index("| verdict |")
    assert "a\\|b" in page and "&lt;b&gt;" in page and "| URL | http://x |" in page
    with pytest.raises(Unhealthy, match=r"^acme: Database from here: refused \(1 good, 2 bad, 1 unknown\); c2\.$"):
        diagnosis.summary("acme", lines)
