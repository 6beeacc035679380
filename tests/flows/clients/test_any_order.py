"""Whatever is done to a client in whatever order, and cut off wherever: what there is stays one, whole and true."""

import asyncio
import contextlib
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from typing import Any

import docker.errors
import psycopg
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from prefect.settings import get_current_settings

from blocks.clients import ZeroSecrets
from blocks.documents import find
from tasks.registry import queries
from tasks.registry.models import Status
from tasks.registry.names import ClientNames
from tests.flows.clients.conftest import forget
from tests.flows.clients.cut_off import operations

KILLABLE = ["provision", "provision smaller", "provision bigger", "start", "stop", "restart", "rotate", "deprovision"]
TRUE = {
    "running": {Status.RUNNING},
    "exited": {Status.STOPPED, Status.DISABLED},
    "paused": {Status.RUNNING},
}
"""What the registry may say of a container that Docker shows so, after an operation that ended well."""


def life(house, docker_client, postgres_server, image: str) -> type[RuleBasedStateMachine]:
    """The machine, on the test session's engine, server and registry."""

    class Life(RuleBasedStateMachine):
        @initialize()
        def a_new_client(self) -> None:
            self.slug = f"l{secrets.token_hex(4)}"
            self.names = ClientNames(self.slug)
            self.session_key = ""
            """Its Better Auth secret since it was provisioned first: changed, everybody is logged out."""
            self.provisioned = self.cut = False

        def run(self, operation: str) -> Any:
            return asyncio.run(operations(self.slug, image)[operation]())

        def block(self) -> ZeroSecrets | None:
            return asyncio.run(find(ZeroSecrets, self.names.secrets_block))

        def container(self) -> dict[str, Any] | None:
            try:
                return docker_client.api.inspect_container(self.names.container)
            except docker.errors.NotFound:
                return None

        @rule(operation=st.sampled_from(["provision", "provision smaller", "provision bigger"]))
        def provisioning_ends_with_a_client_that_serves(self, operation: str) -> None:
            state = self.run(operation)
            if state.is_failed() and "deprovision-client" in state.message:
                assert self.cut, state.message
                state = self.run("deprovision")
                assert state.is_completed(), state.message
                self.nothing()
                state = self.run(operation)
            assert state.is_completed(), state.message
            self.provisioned, self.cut = True, False
            seen = self.container()
            assert seen is not None and seen["State"]["Status"] == "running"
            self.whole()

        @precondition(lambda self: self.provisioned and not self.cut)
        @rule(operation=st.sampled_from(["start", "stop", "restart", "rotate"]))
        def what_is_asked_of_it_is_done_or_refused_in_a_sentence(self, operation: str) -> None:
            state = self.run(operation)
            seen = self.container()
            if state.is_failed():
                assert "unexpected" not in state.message, state.message
                assert seen is None or operation == "rotate", state.message
                return
            assert seen is not None
            assert (seen["State"]["Status"] == "running") is (operation != "stop"), state.message
            if operation != "rotate" or seen["State"]["Status"] == "running":
                self.whole()

        @precondition(lambda self: self.provisioned and not self.cut)
        @rule()
        def deprovisioning_leaves_nothing(self) -> None:
            state = self.run("deprovision")
            assert state.is_completed(), state.message
            self.provisioned = False
            self.session_key = ""
            self.nothing()

        @precondition(lambda self: self.provisioned)
        @rule(harm=st.sampled_from(["remove", "stop", "pause", "rights", "password"]))
        def somebody_harms_it(self, harm: str) -> None:
            with contextlib.suppress(docker.errors.NotFound, docker.errors.APIError):
                if harm == "remove":
                    docker_client.api.remove_container(self.names.container, force=True)
                elif harm == "stop":
                    docker_client.api.stop(self.names.container, timeout=1)
                elif harm == "pause":
                    docker_client.api.pause(self.names.container)
            with contextlib.suppress(psycopg.Error), postgres_server.connect() as connection:
                if harm == "rights":
                    connection.execute(f"REVOKE ALL ON DATABASE {self.names.database} FROM {self.names.role}")
                elif harm == "password":
                    connection.execute(f"ALTER ROLE {self.names.role} PASSWORD 'harmed'")
            # What is asked of a harmed client may be refused; only provisioning has to put it right.
            self.cut = True

        @rule(operation=st.sampled_from(KILLABLE), after=st.floats(0, 1))
        def it_is_killed(self, operation: str, after: float) -> None:
            environment = {**os.environ, **get_current_settings().to_environment_variables(exclude_unset=True)}
            running = subprocess.Popen(
                [sys.executable, "-m", "tests.flows.clients.cut_off", operation, self.slug, image],
                env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
            assert running.stdout is not None
            assert running.stdout.readline().strip() == "begun"
            time.sleep(after * 2.0)
            with contextlib.suppress(ProcessLookupError):
                running.send_signal(signal.SIGKILL)
            running.wait()
            self.provisioned = self.provisioned or operation.startswith("provision")
            self.cut = True
            if operation == "deprovision":
                self.session_key = ""

        @invariant()
        def there_is_never_more_than_one(self) -> None:
            if not hasattr(self, "slug"):
                return
            found = docker_client.api.containers(all=True, filters={"label": f"zero-fleet.client={self.slug}"})
            assert sum(row["State"] == "running" for row in found) <= 1, found
            row = queries.find_instance(house, self.slug)
            if row is not None and row.host_port:
                others = [one.client for one in queries.instances(house) if one.host_port == row.host_port]
                assert others == [self.slug]

        def whole(self) -> None:
            """One container with the registry's port and status, and a password that lets its role in."""
            row = queries.get_instance(house, self.slug)
            found = docker_client.api.containers(all=True, filters={"label": f"zero-fleet.client={self.slug}"})
            seen = self.container()
            assert seen is not None and [one["Id"] for one in found] == [seen["Id"]] == [row.container_id]
            assert row.status in TRUE[seen["State"]["Status"]], (row.status, seen["State"]["Status"])
            assert row.pending is None
            assert seen["HostConfig"]["PortBindings"]["3000/tcp"][0]["HostPort"] == str(row.host_port)
            block = self.block()
            assert block is not None
            key, password = block.better_auth_secret.get_secret_value(), block.database_password.get_secret_value()
            assert key and self.session_key in ("", key)
            self.session_key = key
            with postgres_server.connect(self.names.database, user=self.names.role, password=password) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
            with postgres_server.connect() as connection:
                rows = connection.execute(
                    "SELECT datname FROM pg_database WHERE datname ~ %s", (f"^{self.names.database}(_|$)",)
                ).fetchall()
            assert rows == [(self.names.database,)]

        def nothing(self) -> None:
            """No container, database, role, row or block."""
            assert self.container() is None and queries.find_instance(house, self.slug) is None
            assert self.block() is None
            with postgres_server.connect() as connection:
                for query in (
                    "SELECT count(*) FROM pg_roles WHERE rolname = %s",
                    "SELECT count(*) FROM pg_database WHERE datname = %s",
                ):
                    assert connection.execute(query, (self.names.role,)).fetchone() == (0,)

        def teardown(self) -> None:
            """However it was left, one provisioning makes it whole, and one deprovisioning leaves nothing."""
            if not hasattr(self, "slug"):
                return
            try:
                self.provisioning_ends_with_a_client_that_serves("provision")
                self.deprovisioning_leaves_nothing()
            finally:
                forget(docker_client, postgres_server, self.slug)

    return Life


def test_any_order_of_operations_and_kills_leaves_one_whole_client(
    house, zero_image, docker_client, postgres_server, soak
):
    random.seed()
    run_state_machine_as_test(
        life(house, docker_client, postgres_server, zero_image),
        settings=settings(
            max_examples=200 if soak else 3,
            stateful_step_count=6 if soak else 4,
            derandomize=not soak,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # a sequence takes seconds: the one that failed is told as it is
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
