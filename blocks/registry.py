"""Opening the registry: a PostgreSQL database when the block ``registry`` names one, else a SQLite file of the state folder."""

from collections.abc import Mapping
from functools import lru_cache

from prefect.client.schemas.objects import BlockDocument
from sqlalchemy import URL, Engine, create_engine, event, make_url

from blocks.backups import PostgresDatabase
from blocks.documents import as_block, read_documents
from blocks.installation import installation

BLOCK = "registry"


def kinds() -> dict[str, str]:
    """What ``read_documents`` is to be asked for, by one who reads other documents too and calls ``registry_in``."""
    return {BLOCK: PostgresDatabase.get_block_type_slug()}


async def registry_url() -> URL:
    """Where the registry is. The URL holds the password when it is PostgreSQL: open it, do not show it."""
    return _url_in(await read_documents(kinds()))


def _url_in(documents: Mapping[str, BlockDocument]) -> URL:
    block = as_block(PostgresDatabase, documents.get(BLOCK))
    return block.sqlalchemy_url() if block else make_url(f"sqlite:///{installation().registry_file}")


@lru_cache(maxsize=4)
def open_engine(url: URL) -> Engine:
    """An engine on ``url``, one per process; SQLite with WAL, foreign keys and 30 s of patience for another writer."""
    if url.get_backend_name() != "sqlite":
        # Each lock keeps a connection: of a night with 16 databases at once there are twice as many and a few more.
        return create_engine(url, pool_pre_ping=True, pool_size=5, max_overflow=40)
    engine = create_engine(url, connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def settle(connection, record):  # type: ignore[no-untyped-def]
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()

    return engine


async def open_registry() -> Engine:
    """The registry's engine. The caller checks its revision (``tasks.registry.revision.require_head``)."""
    return registry_in(await read_documents(kinds()))


def registry_in(documents: Mapping[str, BlockDocument]) -> Engine:
    """The registry's engine, by the block among ``documents`` that were read."""
    return open_engine(_url_in(documents))
