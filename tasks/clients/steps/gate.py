"""The gate that a started container has to pass: its service answers, and its database lets it in."""

from tasks.clients import containers, postgres, provisioning, readiness
from tasks.clients.work import Work
from tasks.registry import journal


async def until_ready(work: Work, entry: journal.Entry) -> None:
    """Wait until the client's service answers and its database lets it in; a client that is not enabled is not waited for.

    Raises:
        Unhealthy: why it does not, and its last words.
    """
    if not work.spec.enabled:
        return
    with entry.outside():
        await readiness.until_ready(
            lambda: containers.inspect(work.engine_client(), work.names.container),
            work.base,
            work.spec.probe,
            work.spec.ready_within,
            lambda died: provisioning.log_lines(work, died),
            work.names.container,
            work.spec.memory,
            lambda: postgres.check_client(work.postgres_server(), work.names.database, work.secrets.database_password),
        )
