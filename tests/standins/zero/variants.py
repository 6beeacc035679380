"""Other images of the Zero stand-in: one that misbehaves, one that migrates more, made from its image without a build."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.standins.zero.build import TAG

MIGRATING = (
    "import os, runpy, psycopg; "
    "connection = psycopg.connect(os.environ['DATABASE_URL'], autocommit=True); "
    "connection.execute({sql!r}); connection.close(); "
    "runpy.run_path('/app/server.py', run_name='__main__')"
)


@contextmanager
def kept(client: Any, name: str, fault: str = "", sql: str = "") -> Iterator[str]:
    """A variant that no sweep takes away meanwhile: a container that never starts holds it."""
    tag = variant(client, name, fault, sql)
    holder = client.api.create_container(tag, labels={})["Id"]
    try:
        yield tag
    finally:
        client.api.remove_container(holder, force=True, v=True)


def variant(client: Any, name: str, fault: str = "", sql: str = "") -> str:
    """The stand-in's image once more, under a tag of its own; its tag.

    Args:
        client: a docker.DockerClient; the stand-in is built there.
        fault: what ``STANDIN_FAULT`` is in it.
        sql: what it does to its database before its migrations.
    """
    repository, _, version = TAG.rpartition(":")
    tag = f"{version}-{name}"
    made = client.api.create_container(TAG, labels={})["Id"]
    try:
        changes = [f"ENV STANDIN_FAULT={fault}", f"LABEL zero-fleet.variant={name}"]
        if sql:
            python = client.api.inspect_image(TAG)["Config"]["Cmd"][0]
            quoted = MIGRATING.format(sql=sql).replace("\\", "\\\\").replace('"', '\\"')
            changes.append(f'CMD ["{python}", "-s", "-c", "{quoted}"]')
        client.api.commit(made, repository=repository, tag=tag, changes=changes)
    finally:
        client.api.remove_container(made, force=True, v=True)
    return f"{repository}:{tag}"
