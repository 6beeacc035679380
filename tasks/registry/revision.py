"""Which revision of the registry's tables this code speaks; flows check it, set-up alone migrates."""

from sqlalchemy import Engine, inspect, text

from tasks.errors import NotConfigured

HEAD = "0003"
"""The newest migration in ``migrations/versions``; a test compares (reading it here spares flows the import of Alembic)."""


def require_head(engine: Engine) -> None:
    """Return if the registry behind ``engine`` is of revision ``HEAD``.

    Raises:
        NotConfigured: it has no tables yet, or those of another version of Zero Fleet.
    """
    with engine.connect() as connection:
        found = None
        if inspect(connection).has_table("alembic_version"):
            found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if found != HEAD:
        raise NotConfigured(
            f"the registry's tables are of revision {found or 'none'}, this version needs {HEAD}",
            "run `make up` (or `python -m deployments.bootstrap`), which brings them up to date",
        )


def upgrade(url: str) -> None:
    """Bring the registry at the SQLAlchemy ``url`` to ``HEAD``; does nothing when it is there already. Set-up only."""
    from pathlib import Path

    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["url"] = url
    command.upgrade(config, "head")
