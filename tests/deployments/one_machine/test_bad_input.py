"""Bad input and broken surroundings on the whole stack, over the API: one sentence, and nothing half made."""

import asyncio
import re
import socket
import subprocess
import sys
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from deployments.one_machine.runs import Ended
from deployments.one_machine.settings import ROOT
from tasks.errors import FleetError
from tests.deployments.one_machine.gmail import connecting
from tests.deployments.one_machine.running import RunningStack

WORDS_FOR_US = ("Traceback", "unexpected:", "Error(", "Exception", "\n")


def told(ended: Ended, *words: str) -> None:
    """See that a run failed with one sentence that says what failed and what to do, with these ``words`` in it."""
    assert ended.state == "FAILED", f"it ended {ended.state}: {ended.message}"
    assert re.fullmatch(r"[^\n]+; [^\n]+\.", ended.message), ended.message
    for word in WORDS_FOR_US:
        assert word not in ended.message
    for word in words:
        assert word in ended.message, ended.message


SLUGS = ["acme'", "acme x", "../x", "acmé", "acme\n"]


async def test_a_slug_of_the_wrong_form_is_refused_in_words(stack: RunningStack):
    before = len(stack.rows("SELECT slug FROM client"))
    for ended in await asyncio.gather(*(stack.provision(slug) for slug in SLUGS)):
        told(ended, "is no slug; use small letters")
    assert len(stack.rows("SELECT slug FROM client")) == before
    assert not {name for name in stack.blocks() if name.startswith("zero-acm")}


@pytest.mark.parametrize(
    ("deployment", "parameters"),
    [
        ("provision-client", {"client": "a" * 200}),
        ("provision-client", {"client": ""}),
        ("provision-client", {"client": 7}),
        ("provision-client", {}),
        ("provision-client", {"client": "acme", "spec": {"imagee": "x"}}),
        ("provision-client", {"client": "acme", "spec": {"pull": "sometimes"}}),
        ("provision-client", {"client": "acme", "spec": {"host_port": 70000}}),
        ("provision-client", {"client": "acme", "spec": {"probe": [{"path": "/", "method": "GET"}]}}),
        ("provision-client", {"client": "acme", "specs": {}}),
        ("poll-fleet-health", {"clients": "all"}),
        ("check-zero-health", {"clients": []}),
        ("connect-gmail", {"user": "u" * 201}),
        ("connect-gmail", {"user": "42", "wait_minutes": 61}),
        ("backup-database", {"client": "a" * 201}),
        ("send-test-email", {"recipient": "a" * 255}),
    ],
)
async def test_what_the_schema_forbids_is_refused_before_a_run_exists(stack: RunningStack, deployment, parameters):
    with pytest.raises(FleetError, match="answered 409"):
        await stack.run(deployment, **parameters)


async def test_what_a_client_cannot_have_is_refused_and_leaves_nothing(stack: RunningStack, client, slugs):
    (row,) = stack.rows("SELECT host_port FROM zero_instance WHERE client = ?", client)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        cases = {
            slugs(): ({"host_port": port}, f"port {port} on 127.0.0.1 is taken"),
            slugs(): ({"host_port": row["host_port"]}, f"port {row['host_port']} belongs to client {client}"),
            slugs(): ({"image": "zero-nowhere:1", "pull": "never"}, "the image zero-nowhere:1 is not on the Docker host"),
            slugs(): ({"image": "zero-nowhere:1", "pull": "auto", "repo_url": ""}, "the image zero-nowhere:1 "),
            slugs(): ({"image": "zero-nowhere:1", "repo_url": "http://127.0.0.1:1/x"}, "building it failed: http://127.0.0.1:1/x does"),
            slugs(): ({"image": "registry.invalid/zero:1", "repo_url": ""}, "registry.invalid/zero:1"),
            slugs(): ({"repo_url": "file:///etc"}, "is no http(s) address of a repository"),
            slugs(): ({"build_args": {"NPM_TOKEN": "x"}}, "build_args has NPM_TOKEN, which looks like a secret"),
        }  # fmt: skip
        ended = await asyncio.gather(*(stack.provision(slug, **changes) for slug, (changes, _) in cases.items()))
    for (slug, (_, words)), one in zip(cases.items(), ended, strict=True):
        told(one, words)
        stack.nothing_of(slug)


async def test_who_is_not_known_is_said_by_name(stack: RunningStack, client, slug):
    checked, backed_up, verified, refreshed = await asyncio.gather(
        stack.run("check-zero-health", clients=[client, slug]),
        stack.run("backup-database", client=slug),
        stack.run("verify-backup", client=slug),
        stack.run("refresh-gmail-profile", user="nobody"),
    )
    for ended in (checked, backed_up, verified):
        told(ended, slug)
    told(refreshed, "nobody", "connect-gmail")


async def test_docker_not_running_is_said_and_leaves_nothing(stack: RunningStack, slug):
    code = (
        "import asyncio, sys\n"
        "from flows.clients.provision import provision_client as run\n"
        "from tasks.registry.spec import SpecChanges as Spec\n"
        "state = asyncio.run(run(sys.argv[1], Spec(image=sys.argv[2]), return_state=True))\n"
        "print('STATE', state.type.value, state.message)"
    )
    environment = stack.place.environment() | {"DOCKER_HOST": "unix:///nowhere/docker.sock"}
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code, slug, stack.image],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("STATE")]
    _, state, message = line.split(" ", 2)
    told(Ended("", state, message, 0), "Docker does not answer", "start it")
    stack.nothing_of(slug)


async def test_postgres_down_is_said_and_everything_goes_on_afterwards(stack: RunningStack, client, slug):
    server = stack.postgres
    await asyncio.to_thread(server.stop)
    try:
        made, changed, backed_up, checked = await asyncio.gather(
            stack.provision(slug),
            stack.provision(client),
            stack.run("backup-database", client=client),
            stack.run("check-zero-health", clients=[client]),
        )
    finally:
        await asyncio.to_thread(server.start)
    for ended in (made, changed, backed_up):
        told(ended, "does not answer", str(stack.place.postgres_port))
    assert checked.state == "FAILED" and f"{client}: degraded, PostgreSQL at 127.0.0.1" in checked.message
    stack.nothing_of(slug)
    good, again = await asyncio.gather(stack.provision(slug), stack.provision(client))
    assert good.state == "COMPLETED", good.message
    stack.one_of_each(slug)
    assert again.state == "COMPLETED", again.message
    stack.one_of_each(client)


async def test_a_wrong_admin_password_and_a_missing_google_client_are_said_and_leave_nothing(
    stack: RunningStack, slugs
):
    first, second = slugs(), slugs()
    with stack.edited("postgres-server", password="wrong-hunter22"):
        ended = await stack.provision(first)
    told(ended, "refused the password of role zero_provisioner")
    assert "hunter22" not in ended.message
    with stack.without("google-zero"):
        missing = await stack.provision(second)
    told(missing, "the block google-zero does not exist", "make it in the Prefect UI")
    for slug in (first, second):
        stack.nothing_of(slug)
    good = await stack.provision(first)
    assert good.state == "COMPLETED", good.message
    stack.one_of_each(first)


async def test_smtp_refusing_the_login_is_said_and_the_backup_stands(stack: RunningStack, client):
    mails = stack.place.state / "demo" / "mail"
    before = len(list(mails.glob("*.eml")))
    with stack.edited("smtp", password="wrong-hunter22"):
        tested, backed_up = await asyncio.gather(
            stack.run("send-test-email", recipient="operator@example.org"),
            stack.run("backup-database", client=client),
        )
    told(tested, "SMTP authentication failed", "correct user and password in the block smtp")
    assert backed_up.state == "FAILED" and "SMTP authentication failed" in backed_up.message
    row = stack.rows("SELECT * FROM backup_run WHERE target = ? ORDER BY id DESC LIMIT 1", f"client:{client}")[0]
    assert (row["status"], row["delivery"]) == ("good", "failed")
    assert "hunter22" not in tested.message + backed_up.message + str(row)
    assert len(list(mails.glob("*.eml"))) == before
    told(await stack.run("send-test-email", recipient="nobody"), "'nobody'")


async def test_google_refusing_the_code_is_said_and_saves_nothing(stack: RunningStack):
    async with connecting(stack, "refused") as (link, ended):
        asked = await asyncio.to_thread(httpx.get, link, timeout=20, trust_env=False)
        state = parse_qs(urlsplit(asked.headers["location"]).query)["state"][0]
        callback = f"{stack.place.gateway_url}/gmail/callback/"
        given = {"state": state, "code": "a-code-that-google-never-gave"}
        page = await asyncio.to_thread(httpx.get, callback, params=given, timeout=20, trust_env=False)
        assert page.status_code == 200
    told(ended[0], "Google", "run connect-gmail again")
    assert "a-code-that-google-never-gave" not in ended[0].message
    assert not stack.rows('SELECT 1 FROM gmail_profile WHERE "user" = ?', "refused")
    assert not {name for name in stack.blocks() if name.startswith("gmail-")}
