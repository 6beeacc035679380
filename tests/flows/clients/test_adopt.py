"""adopt-zero: a container made by hand, as OPERATORS do it, becomes a client without a restart, and is then like any other."""

import secrets
from collections.abc import Callable, Iterator

import pytest
from pydantic import SecretStr

from blocks.clients import TwilioCredentials, ZeroSecrets
from blocks.documents import find
from flows.clients.adopt import adopt_zero
from flows.clients.deprovision import deprovision_client
from tasks.registry import queries
from tasks.registry.models import Status
from tasks.registry.names import LABEL_CLIENT, slug_of
from tasks.registry.spec import SpecChanges
from tests.conftest import free_port
from tests.flows.clients.conftest import forget
from tests.flows.clients.test_leaving_crash import killed
from tests.flows.clients.test_provision import run

SECRETS = {
    "BETTER_AUTH_SECRET": "better-auth-of-hand", "AUTUMN_SECRET_KEY": "autumn-of-hand", "TWILIO_ACCOUNT_SID": "AC1",
    "TWILIO_AUTH_TOKEN": "twilio-of-hand", "TWILIO_PHONE_NUMBER": "+431", "RESEND_API_KEY": "re_of-hand",
    "GOOGLE_CLIENT_ID": "own.apps.example", "GOOGLE_CLIENT_SECRET": "google-of-hand",
}  # fmt: skip


POINTS = ["ports.claim"]
MORE = ["steps.client_blocks.save_secrets", "-adoption.take", "adoption.take"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every point with --soak."""
    if "point" in metafunc.fixturenames:
        metafunc.parametrize("point", POINTS + MORE if metafunc.config.getoption("--soak") else POINTS)


@pytest.fixture
def by_hand(house, docker_client, postgres_server, zero_image) -> Iterator[Callable[..., str]]:
    """Makes a container, a role and a database as an operator would; the container's name."""
    made: list[str] = []

    def make(name: str = "", password: str = "p@/of-hand", public: bool = True, **environment: str) -> str:
        name = name or f"zero_client_{secrets.randbelow(10**9)}"
        made.append(slug_of(name))
        with postgres_server.connect() as admin:
            admin.execute(f"CREATE DATABASE {name}")
            admin.execute(f"CREATE USER {name} PASSWORD '{password}'")
            admin.execute(f"GRANT ALL ON DATABASE {name} TO {name}")
            if not public:
                admin.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
        with postgres_server.connect(name) as inside:
            inside.execute(f"GRANT ALL ON SCHEMA public TO {name}")
        port = free_port()
        quoted = password.replace("@", "%40").replace("/", "%2F")
        url = f"postgresql://{name}:{quoted}@host.docker.internal:{postgres_server.port}/{name}"
        given = {"DATABASE_URL": url, "BETTER_AUTH_URL": f"http://localhost:{port}", "LOG_LEVEL": "debug", **SECRETS}
        docker_client.containers.run(
            zero_image, name=name, detach=True, environment={**given, **environment}, ports={"3000/tcp": ("127.0.0.1", port)},
            mem_limit="300m", restart_policy={"Name": "always"}, extra_hosts={"host.docker.internal": "host-gateway"},
        )  # fmt: skip
        return name

    yield make
    for slug in made:
        forget(docker_client, postgres_server, slug)
        queries.forget_client(house, slug)


async def adopt(container: str):
    """The flow's final state."""
    return await adopt_zero(container, return_state=True)


def life(docker_client, name: str) -> tuple[str, str, int]:
    """What a restart or a new making would change."""
    found = docker_client.api.inspect_container(name)
    return found["Id"], found["State"]["StartedAt"], found["RestartCount"]


async def test_a_container_made_by_hand_becomes_a_client_without_a_restart(
    house, docker_client, postgres_server, by_hand
):
    name = by_hand()
    slug, before = slug_of(name), life(docker_client, name)
    assert slug == f"client-{name.removeprefix('zero_client_')}"
    state = await adopt(name)
    assert state.is_completed(), state.message
    assert state.message.startswith(f"{slug}: adopted {name} as it is, without a restart; it ")
    assert "of its database: PUBLIC may connect to it" in state.message
    row = queries.get_instance(house, slug)
    port = row.spec["host_port"]
    assert (row.container_id, row.host_port, row.redirect_uri) == (
        before[0], port, f"http://localhost:{port}/api/auth/callback/google"
    )  # fmt: skip
    assert (row.spec["memory"], row.spec["restart"], row.spec["twilio"]) == (300, "always", f"twilio-{slug}")
    assert row.spec["extra_env"] == {"LOG_LEVEL": "debug"}
    block = await find(ZeroSecrets, f"zero-{slug}")
    assert block.database_password.get_secret_value() == "p@/of-hand"
    assert block.better_auth_secret.get_secret_value() == SECRETS["BETTER_AUTH_SECRET"]
    assert block.autumn_key.get_secret_value() == SECRETS["AUTUMN_SECRET_KEY"]
    assert block.google_client_id == SECRETS["GOOGLE_CLIENT_ID"]
    assert block.secret_env.get_secret_value() == {"RESEND_API_KEY": SECRETS["RESEND_API_KEY"]}
    twilio = await find(TwilioCredentials, f"twilio-{slug}")
    assert twilio.auth_token.get_secret_value() == SECRETS["TWILIO_AUTH_TOKEN"]
    kept_secret = [value for name, value in SECRETS.items() if name.endswith(("SECRET", "KEY", "TOKEN"))]
    assert not [value for value in [*kept_secret, "p@/of-hand"] if value in f"{row.spec} {state.message}"]

    again = await adopt(name)
    assert again.message == f"{slug}: nothing to change, {name} is adopted already"
    mended = await run(slug)
    assert mended.message == f"{slug}: running at http://localhost:{port}"
    settled = await run(slug)
    assert settled.message == f"{slug}: nothing to change, running at http://localhost:{port}"
    assert life(docker_client, name) == before, "neither adopting nor provisioning without a change restarts it"

    changed = await run(slug, SpecChanges(memory=256))
    assert changed.is_completed(), changed.message
    found = docker_client.api.inspect_container(name)
    assert found["Id"] != before[0] and found["Config"]["Labels"][LABEL_CLIENT] == slug
    assert (
        "RESEND_API_KEY=re_of-hand" in found["Config"]["Env"]
        and "TWILIO_AUTH_TOKEN=twilio-of-hand" in found["Config"]["Env"]
    )
    gone = await deprovision_client(slug, slug, False, return_state=True)
    assert gone.is_completed(), gone.message
    assert await find(TwilioCredentials, f"twilio-{slug}") is None
    with postgres_server.connect() as connection:
        assert not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,)).fetchone()


async def test_an_adoption_that_was_killed_is_finished_and_an_adopted_container_is_deprovisioned(
    house, docker_client, by_hand, pg_bin, point
):
    name = by_hand(public=False)
    slug, before = slug_of(name), life(docker_client, name)
    await killed(point, "adopt", name, pg_bin)
    state = await adopt(name)
    assert state.is_completed(), state.message
    assert queries.get_instance(house, slug).container_id == before[0] and life(docker_client, name) == before
    gone = await deprovision_client(slug, slug, False, return_state=True)
    assert gone.is_completed(), gone.message
    assert not docker_client.api.containers(all=True, filters={"id": before[0]})


async def test_what_does_not_fit_is_refused_with_what_to_do_and_nothing_is_made(
    house, docker_client, postgres_server, by_hand
):
    name = by_hand()
    slug = slug_of(name)

    async def refused(container: str = name) -> str:
        state = await adopt(container)
        assert state.is_failed() and queries.find_instance(house, slug) is None
        return str(state.message)

    assert "is not called like a client's; rename it (`docker rename`" in await refused("postgres")
    assert "there is no container zero_client_nowhere on the Docker host" in await refused("zero_client_nowhere")
    await ZeroSecrets(autumn_key=SecretStr("another-autumn")).save(f"zero-{slug}")
    message = await refused()
    assert f"the block zero-{slug} says otherwise than the container about autumn_key" in message
    assert "another-autumn" not in message and SECRETS["AUTUMN_SECRET_KEY"] not in message
    await ZeroSecrets.adelete(f"zero-{slug}")
    with postgres_server.connect() as admin:
        admin.execute(f"COMMENT ON DATABASE {name} IS 'of the shop'")
        assert "is not ours (its comment says: of the shop)" in await refused()
        admin.execute(f"COMMENT ON DATABASE {name} IS NULL")
        admin.execute(f"ALTER ROLE {name} PASSWORD 'another'")
        assert f"refused the password of role {name}" in await refused()
        admin.execute(f"ALTER DATABASE {name} OWNER TO {name}")
        admin.execute(f"ALTER ROLE {name} PASSWORD 'p@/of-hand'")
        assert f"ALTER DATABASE {name} OWNER TO postgres" in await refused()
    assert await find(ZeroSecrets, f"zero-{slug}") is None
    docker_client.api.rename(name, f"{name}7")
    assert f"`docker rename {name}7 {name}` and adopt that" in await refused(f"{name}7")
    docker_client.api.rename(f"{name}7", name)
    assert docker_client.api.inspect_container(name)["State"]["Running"]


async def test_a_stopped_container_is_adopted_as_stopped(house, docker_client, by_hand):
    name = by_hand()
    docker_client.api.kill(name)
    docker_client.api.stop(name)
    state = await adopt(name)
    assert state.is_completed() and "is exited, and did not answer" in state.message
    assert queries.get_instance(house, slug_of(name)).status is Status.STOPPED
