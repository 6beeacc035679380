"""Settings of the one-machine stack that are refused before anything starts, and what does without them."""

import secrets
import sqlite3
import subprocess
import sys

import pytest

from deployments.bootstrap.refusals import BadSettings
from deployments.one_machine import ports, processes
from deployments.one_machine.clean import clean, clients_at_stake
from deployments.one_machine.settings import ROOT, Stack, stack
from deployments.one_machine.stack import Recipe, require_right, status, up
from tasks.errors import Conflict
from tests.deployments.one_machine.running import bare_environment
from tests.standins.zero.build import TAG, build


@pytest.mark.parametrize("given", ["9-1", "20000", "80-90", "20000-70000", "2e4-3e4", "29999-20000", "-"])
def test_a_range_of_ports_that_is_none_is_refused_by_name(monkeypatch, given):
    monkeypatch.setenv("ZERO_FLEET_PORTS", given)
    with pytest.raises(BadSettings, match=f"ZERO_FLEET_PORTS is '{given}'.*low-high"):
        require_right(stack(), Recipe({}))


@pytest.mark.parametrize("given", ["20000-29999", "24100-24100"])
def test_a_range_of_ports_is_taken(monkeypatch, given):
    monkeypatch.setenv("ZERO_FLEET_PORTS", given)
    assert stack().ports == given


WRONG = {"TIME_ZONE": "Mars/Base", "ZERO_FLEET_PORT": "²", "GATEWAY_URL": "http://localhost:x", "ZERO_FLEET_PORTS": "9"}


def test_everything_wrong_is_named_at_once_and_once(monkeypatch):
    for name, value in WRONG.items():
        monkeypatch.setenv(name, value)
    values = {name: value for name, value in WRONG.items() if name in ("TIME_ZONE", "GATEWAY_URL")}
    with pytest.raises(BadSettings) as refused:
        require_right(stack(), Recipe({**values, "EMAIL_PORT": "smtp"}, refused=(".env, line 3, cannot be read.",)))
    first = sorted(sentence.partition(" is ")[0] for sentence in refused.value.sentences)
    assert first == [".env, line 3, cannot be read.", "EMAIL_PORT", *sorted(WRONG)]


@pytest.mark.parametrize("what", ["down", "status", "logs", "password", "clean"])
def test_what_stops_and_shows_does_without_settings_that_are_wrong(docker_client, tmp_path, what):
    state = tmp_path / "state"
    (state / "run").mkdir(parents=True)
    (state / "keys").mkdir()
    (state / "keys" / "api").write_text("hush")
    done = subprocess.run(
        [sys.executable, "-m", "deployments.one_machine", what],
        cwd=ROOT, env=bare_environment() | WRONG | {"ZERO_FLEET_STATE": str(state)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert state.exists() is (what != "clean")


def place(folder, port: int = 4200, gateway: int = 8000) -> Stack:
    return Stack(folder / "state", port, f"http://localhost:{gateway}", gateway, "UTC", "20000-29999")


@pytest.mark.parametrize(
    ("port", "gateway", "demo", "words"),
    [
        (4200, 4200, False, "GATEWAY_PORT: port 4200 for the gateway is taken by Prefect already"),
        (4200, 4201, False, "GATEWAY_PORT: port 4201 for the gateway is taken by the embedded PostgreSQL already"),
        (4200, 4202, True, "port 4202 for the gateway is taken by the SMTP stand-in already"),
        (4200, 4205, True, "port 4205 for the gateway is taken by the Google stand-in already"),
        (4200, 4202, False, None),
        (4200, 4206, True, None),
    ],
)
def test_two_of_the_stacks_own_on_one_port_are_refused_before_anything_starts(tmp_path, port, gateway, demo, words):
    if demo:
        (tmp_path / "state" / "demo").mkdir(parents=True)
    if words is None:
        require_right(place(tmp_path, port, gateway), Recipe({}))
        return
    with pytest.raises(BadSettings, match=words):
        require_right(place(tmp_path, port, gateway), Recipe({}))
    assert not (tmp_path / "state" / "run").exists()


@pytest.mark.parametrize(("demo", "asked_of"), [(True, ["bakery"]), (False, ["acme", "bakery"])])
def test_clean_asks_before_it_deletes_clients_of_the_operators_own(docker_client, tmp_path, demo, asked_of):
    mine = with_clients(tmp_path, "acme", "bakery", demo=demo)
    assert clients_at_stake(mine) == asked_of
    named = rf"{len(asked_of)} client\(s\) \({', '.join(asked_of)}\).*CONFIRM={mine.fleet}"
    for confirmed in (None, "another"):
        with pytest.raises(Conflict, match=named):
            clean(mine, print, confirmed)
    assert mine.run.exists()
    if not demo:  # a demo's takes every unused stand-in's image along, those of other tests too
        clean(mine, print, mine.fleet)
        assert not mine.state.exists()


def test_clean_takes_a_container_that_was_adopted_too(docker_client, tmp_path):
    build(TAG, docker_client)
    mine = with_clients(tmp_path, "bakery", demo=False)
    name = f"zero_by_hand_{secrets.token_hex(4)}"
    adopted = docker_client.api.create_container(TAG, name=name)["Id"]
    with sqlite3.connect(mine.state / "registry.sqlite") as registry:
        registry.execute("CREATE TABLE zero_instance (client TEXT, container_id TEXT)")
        registry.execute("INSERT INTO zero_instance VALUES ('bakery', ?), ('acme', NULL), ('gone', 'f00')", (adopted,))
    said = list[str]()
    clean(mine, said.append, mine.fleet)
    assert not docker_client.api.containers(all=True, filters={"id": adopted})
    assert f"removed {name}" in said


def test_clean_does_not_ask_about_the_demos_own_client(docker_client, tmp_path):
    assert clients_at_stake(with_clients(tmp_path, "acme", demo=True)) == []


def with_clients(folder, *slugs: str, demo: bool) -> Stack:
    """A state folder whose registry knows ``slugs``."""
    mine = place(folder)
    for made in (mine.run, *([mine.state / "demo"] if demo else [])):
        made.mkdir(parents=True)
    with sqlite3.connect(mine.state / "registry.sqlite") as registry:
        registry.execute("CREATE TABLE client (slug TEXT)")
        registry.executemany("INSERT INTO client VALUES (?)", [(slug,) for slug in slugs])
    return mine


def test_a_stack_that_runs_is_not_moved_and_says_where_it_is(tmp_path):
    mine = place(tmp_path)
    mine.run.mkdir(parents=True)
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)", "17300"]
    processes.start("server", sleeper, mine.run, mine.run, bare_environment(), mine.run)
    try:
        with pytest.raises(
            Conflict, match=r"runs on port 17300, and ZERO_FLEET_PORT is 4200.*set ZERO_FLEET_PORT=17300"
        ):
            up(mine, Recipe({}), print)
        assert not mine.prefect_home.exists(), "the address that its workers read was overwritten"
        assert ("server", "http://127.0.0.1:17300") in [(row[0], row[2]) for row in status(mine)]
    finally:
        processes.stop("server", mine.run)
    ports.require_unmoved(mine)
