"""A backup goes back by hand, with the commands of the mail and of the README, typed into a real shell."""

import os
import secrets
import subprocess
from pathlib import Path

import pytest
from pydantic import SecretStr

from blocks.backups import BackupPolicy
from blocks.installation import installation
from flows.backups.backup import backup_database
from flows.clients.provision import provision_client
from tasks.registry.names import ClientNames
from tasks.registry.spec import SpecChanges
from tests.flows.clients.conftest import forget, save_blocks
from tests.flows.clients.test_provision import page_of, secrets_of, wanted

README = Path(__file__).parents[3] / "README.md"


@pytest.fixture
async def provisioner(house, postgres_server):
    """The block postgres-server with a role that is no superuser, as installed."""
    name, password = f"prov_{secrets.token_hex(4)}", secrets.token_hex(8)
    with postgres_server.connect() as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN CREATEROLE CREATEDB PASSWORD '{password}'")
        admin.execute(f"GRANT CONNECT ON DATABASE postgres TO {name}")
    await save_blocks(postgres_server, username=name, password=SecretStr(password), harden=False)
    yield name, password
    await save_blocks(postgres_server)
    with postgres_server.connect() as admin:
        for (database,) in admin.execute(
            "SELECT datname FROM pg_database WHERE pg_get_userbyid(datdba) = %s", (name,)
        ).fetchall():
            admin.execute(f"DROP DATABASE {database} WITH (FORCE)")
        admin.execute(f"DROP OWNED BY {name}")
        admin.execute(f"DROP ROLE {name}")


def typed(commands: str, password: str, pg_bin: Path) -> str:
    """What a shell says to ``commands``; the programs are on its PATH, the password in PGPASSWORD."""
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", commands],
        env={"PATH": f"{pg_bin}:{os.environ['PATH']}", "PGPASSWORD": password},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


async def provisioned(slug: str, spec: SpecChanges) -> str:
    """The sentence of a provision run that completed."""
    state = await provision_client(slug, spec, return_state=True)
    assert state.is_completed(), state.message
    return str(state.message)


def from_readme(start: str) -> str:
    """The command of the README that begins with ``start``."""
    (line,) = [line.strip() for line in README.read_text().splitlines() if line.startswith(f"    {start}")]
    return line


async def test_a_backup_goes_back_into_a_new_database_and_over_the_clients_own(
    provisioner, zero_image, slug, postgres_server, docker_client, pg_bin, tmp_path, monkeypatch
):
    monkeypatch.setattr(installation(), "pg_bin", pg_bin)
    await BackupPolicy(directory=str(tmp_path), mail_enabled=False).save("backup-policy", overwrite=True)
    admin, password = provisioner
    names = ClientNames(slug)
    try:
        await provisioned(slug, wanted(zero_image))
        own = (await secrets_of(slug)).database_password.get_secret_value()
        with postgres_server.connect(names.database, user=names.role, password=own) as client:
            client.execute("CREATE TABLE kept (note text); INSERT INTO kept VALUES ('Grüße')")
        assert (await backup_database(slug, return_state=True)).is_completed()

        # The commands of the page: into a new database, as the client's role.
        page = await page_of(slug, "backup")
        *made, loaded = page.split("```")[1].strip().splitlines()
        typed("\n".join(made), password, pg_bin)
        typed(loaded, own, pg_bin)
        with postgres_server.connect("restored", user=names.role, password=own) as seen:
            assert seen.execute("SELECT note FROM kept").fetchone() == ("Grüße",)
            owners = seen.execute("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'").fetchall()
            assert owners == [(names.role,)]
        drop = (
            from_readme("dropdb -h HOST")
            .replace("HOST", postgres_server.host)
            .replace("PORT", str(postgres_server.port))
        )
        typed(drop.replace("zero_provisioner", admin).replace("before_acme", "restored"), password, pg_bin)

        # The README's: over the client's own, after something was lost.
        with postgres_server.connect(names.database, user=names.role, password=own) as client:
            client.execute("DROP TABLE kept")
        file = tmp_path / slug / "latest_backup.sql.gz"

        def filled(command: str) -> str:
            given = {
                "HOST": postgres_server.host, "PORT": str(postgres_server.port), "zero_provisioner": admin,
                "zero_client_acme": names.role, "before_acme": f"before_{names.role}", "FILE": str(file),
            }  # fmt: skip
            for word, value in given.items():
                command = command.replace(word, value)
            return command

        assert "not started" in await provisioned(slug, SpecChanges(enabled=False))
        typed(filled(from_readme("psql -h HOST -p PORT -U zero_provisioner -d postgres -c 'ALTER")), password, pg_bin)
        await provisioned(slug, SpecChanges())
        typed(filled(from_readme("gunzip -c FILE | psql -X -1")), own, pg_bin)
        assert "running at" in await provisioned(slug, SpecChanges(enabled=True))
        with postgres_server.connect(names.database, user=names.role, password=own) as client:
            assert client.execute("SELECT note FROM kept").fetchone() == ("Grüße",)
            owners = client.execute("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'").fetchall()
            assert owners == [(names.role,)]
        assert "nothing to change, running at" in await provisioned(slug, SpecChanges())
        typed(filled(from_readme("dropdb -h HOST")), password, pg_bin)
    finally:
        forget(docker_client, postgres_server, slug)
