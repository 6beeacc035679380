"""Taking over the grant of a token.json: once, as the block ``gmail-<id>`` and its row in the registry."""

import asyncio
from contextlib import suppress

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import VariableCreate
from prefect.exceptions import ObjectAlreadyExists
from sqlalchemy import Engine

from blocks.documents import find
from blocks.gmail import GmailToken
from blocks.registry import open_registry
from deployments.bootstrap.google_files import Grant
from tasks.clock import now
from tasks.gmail.rows import find_row, record_grant
from tasks.registry.names import gmail_block, user_id

FIRST_GRANT = 1
"""The generation of an imported grant; a later consent of the user is a later one."""


async def import_grant(
    client: PrefectClient, grant: Grant | None, *, again: bool = False, dry_run: bool = False
) -> list[str]:
    """Save ``grant`` unless that was done before; a later grant of the user is never replaced by the file's.

    A Prefect variable remembers the import: a user who disconnected afterwards does not come back with the next
    bootstrap. ``again`` forgets about that variable; a block that is there is kept even then.

    Returns:
        A sentence for the report, or nothing when there is nothing to import.
    """
    if grant is None:
        return []
    marker, name = f"gmail_token_imported_{user_id(grant.user)}", gmail_block(grant.user)
    done = await client.read_variable_by_name(marker) is not None
    if done and not again:
        return [f"GMAIL_TOKEN_FILE was imported for user {grant.user} before and is not read again."]
    if await find(GmailToken, name) is None:
        if dry_run:
            return [f"GMAIL_TOKEN_FILE would be imported for user {grant.user}."]
        await _block(grant).asave(name, client=client)
    elif done:
        return [f"GMAIL_TOKEN_FILE is not imported again: the block {name} is there and may hold newer tokens."]
    elif dry_run:
        return []
    # The row and the mark are also made for a block that is there: an import may have been cut off before them.
    await asyncio.to_thread(_register, await open_registry(), grant)
    if not done:
        with suppress(ObjectAlreadyExists):  # another bootstrap was faster; the outcome is the same
            await client.create_variable(VariableCreate(name=marker, value=now().isoformat(timespec="seconds")))
    return [f"GMAIL_TOKEN_FILE is imported for user {grant.user}; run refresh-gmail-profile to read the profile."]


def _block(grant: Grant) -> GmailToken:
    tokens = grant.tokens
    return GmailToken(
        user=grant.user,
        access_token=tokens.access_token,
        refresh_token=tokens.refresh_token,
        expires_at=tokens.expires_at,
        scopes=list(tokens.scopes),
        generation=FIRST_GRANT,
    )


def _register(engine: Engine, grant: Grant) -> None:
    """The user's row, unless there is one."""
    if find_row(engine, grant.user) is None:
        record_grant(engine, grant.user, FIRST_GRANT, "", grant.tokens.scopes, now())
