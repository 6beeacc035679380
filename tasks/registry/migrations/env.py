"""Alembic's way in; the URL comes from ``revision.upgrade`` and is written nowhere."""

from alembic import context
from sqlalchemy import create_engine, pool
from sqlmodel import SQLModel

import tasks.registry.models  # noqa: F401  fills the metadata

engine = create_engine(context.config.attributes["url"], poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=SQLModel.metadata,
        render_as_batch=True,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
