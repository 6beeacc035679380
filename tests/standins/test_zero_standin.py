"""The Zero stand-in keeps Zero's contract; run as its image on the real engine."""

import secrets
import time

import httpx
import pytest

from tests.standins.zero import build


@pytest.fixture(scope="module")
def image(docker_client) -> str:
    """Its image."""
    build.build(build.TAG, docker_client)
    return build.TAG


@pytest.fixture(scope="module")
def database(postgres_server):
    """A database with a role as provisioned: URL inside containers, and the server."""
    name, password = f"standin_{secrets.token_hex(3)}", secrets.token_hex(8)
    with postgres_server.connect() as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
        connection.execute(f"CREATE DATABASE {name} OWNER {name}")
    yield name, f"postgresql://{name}:{password}@host.docker.internal:{postgres_server.port}/{name}"
    with postgres_server.connect() as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        connection.execute(f"DROP ROLE {name}")


@pytest.fixture
def start(docker_client, image, fleet):
    """Starts one with the given environment; gone afterwards."""
    from tasks.registry.names import LABEL_FLEET

    made = []

    def run(**environment: str):
        container = docker_client.containers.run(
            image,
            detach=True,
            init=True,
            environment=environment,
            ports={"3000/tcp": ("127.0.0.1", None)},
            extra_hosts={"host.docker.internal": "host-gateway"},
            labels={LABEL_FLEET: fleet},
        )
        made.append(container)
        return container

    yield run
    for container in made:
        container.remove(force=True)


def address(container) -> str:
    container.reload()
    return f"http://127.0.0.1:{container.ports['3000/tcp'][0]['HostPort']}"


def ask(container, path: str, **other) -> httpx.Response:
    """GET, tried until it listens."""
    base = address(container)
    deadline = time.monotonic() + 20
    while True:
        try:
            return httpx.get(base + path, trust_env=False, **other)
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


FULL = {
    "GOOGLE_CLIENT_ID": "id",
    "GOOGLE_CLIENT_SECRET": "secret",
    "BETTER_AUTH_SECRET": "x",
    "BETTER_AUTH_URL": "http://localhost:3000",
    "ZERO_API_TOKEN": "token-of-tests",
}


def test_it_serves_what_zero_serves_and_migrates_its_tables(start, database, postgres_server):
    name, url = database
    zero = start(DATABASE_URL=url, **FULL)
    assert ask(zero, "/health").json() == {"message": "Zero Server is Up!"}
    assert ask(zero, "/api/auth/ok").json() == {"ok": True}
    assert ask(zero, "/api/auth/callback/google").status_code == 400
    with postgres_server.connect(name) as connection:
        tables = connection.execute("SELECT count(*) FROM pg_tables WHERE tablename LIKE 'mail0\\_%'").fetchone()
        schema = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'drizzle'").fetchone()
    assert tables == (11,) and schema == (1,)
    zero.restart(timeout=5)
    assert ask(zero, "/api/auth/ok").status_code == 200


def test_the_mail_api_wants_its_token_and_keeps_mails_in_the_database(start, database):
    zero = start(DATABASE_URL=database[1], **FULL)
    assert ask(zero, "/api/emails").status_code == 401
    bearer = {"authorization": "Bearer token-of-tests"}
    sent = httpx.post(
        address(zero) + "/api/emails/send",
        json={"to": "a@example.org", "subject": "Hello"},
        headers=bearer,
        trust_env=False,
    )
    assert sent.json()["success"]
    listed = ask(zero, "/api/emails", headers=bearer).json()["emails"]
    assert listed[0]["to"] == "a@example.org"
    assert (
        httpx.post(address(zero) + "/api/emails/send", content=b"{", headers=bearer, trust_env=False).status_code == 400
    )


def test_without_google_it_runs_and_every_page_answers_500(start, database):
    zero = start(DATABASE_URL=database[1], GOOGLE_CLIENT_ID="id")
    assert ask(zero, "/api/auth/ok").status_code == 500
    zero.reload()
    assert zero.status == "running"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda url: "", "DATABASE_URL environment variable is not set"),
        (lambda url: "postgresql://a:b@host.docker.internal:1/x", "Error: connect ECONNREFUSED host.docker.internal:1"),
        (
            lambda url: url.replace(":" + url.split(":")[2].split("@")[0] + "@", ":wrong@"),
            "password authentication failed for user",
        ),
        (lambda url: url.rsplit("/", 1)[0] + "/nothing_here", 'database "nothing_here" does not exist'),
    ],
)
def test_a_bad_database_url_ends_it_with_1_and_zeros_words(start, database, change, says):
    url = change(database[1])
    zero = start(**({"DATABASE_URL": url} if url else {}), **FULL)
    began = time.monotonic()
    assert zero.wait(timeout=20)["StatusCode"] == 1
    assert time.monotonic() - began < 5
    assert says in zero.logs().decode()


def test_a_missing_right_ends_it_with_zeros_words(start, database, postgres_server):
    name, url = database
    with postgres_server.connect(name) as connection:
        connection.execute("DROP SCHEMA IF EXISTS public CASCADE")
        connection.execute("CREATE SCHEMA public AUTHORIZATION postgres")
        connection.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")
    zero = start(DATABASE_URL=url, **FULL)
    assert zero.wait(timeout=20)["StatusCode"] == 1
    assert "permission denied for schema public" in zero.logs().decode()


def test_an_image_of_the_same_content_is_kept(docker_client, image):
    before = docker_client.images.get(image).attrs["Created"]
    build.build(image, docker_client)
    assert docker_client.images.get(image).attrs["Created"] == before
