"""Bootstrap itself: the settings become blocks, the registry gets its tables. Run it any number of times."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.exceptions import ObjectAlreadyExists, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL
from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError

from blocks.installation import installation
from blocks.registry import registry_url
from deployments.bootstrap.difference import BlockDifference, Outcome, compare, merged
from deployments.bootstrap.environment import misspelt, read_environment
from deployments.bootstrap.gmail_import import import_grant
from deployments.bootstrap.google_files import read_google_files
from deployments.bootstrap.kinds import ALL, register_all
from deployments.bootstrap.plan import WITHOUT, Wanted, make_plan
from deployments.bootstrap.refusals import BadSettings
from deployments.bootstrap.report import Report
from tasks.errors import Conflict, NotConfigured, Unreachable
from tasks.registry import revision

Existing = Mapping[str, Mapping[str, Any]]


async def bootstrap(
    values: Mapping[str, str], *, overwrite: bool = False, dry_run: bool = False, given: Iterable[Wanted] = ()
) -> Report:
    """Register the block types, save the blocks that ``values`` call for, and bring the registry's tables up to date.

    Everything is read and judged before anything is written. Blocks that are there already are kept, whoever made them;
    what differs is shown. Needs Prefect's address (PREFECT_API_URL, PREFECT_API_AUTH_STRING, or a profile).

    Args:
        values: environment variable to text (``environment.read_values``).
        overwrite: put the settings into blocks that differ from them.
        dry_run: look only.
        given: blocks of the stack itself, for names that ``values`` say nothing about.

    Returns:
        What was done.

    Raises:
        BadSettings: settings are refused, all of them named at once; nothing was touched.
        Damaged: a block that is there does not fit its type.
        NotConfigured: Prefect's address is not set.
        Unreachable: Prefect or the registry's database does not answer.
    """
    started = time.monotonic()
    try:
        environment = read_environment(values)
        files = await asyncio.to_thread(read_google_files, environment)
        plan = make_plan(environment, files, given)
    except BadSettings as refused:  # a misspelt name is often why another one is missing
        raise BadSettings([*refused.sentences, *misspelt(values)]) from None
    if not PREFECT_API_URL.value():  # Prefect would start a server of its own and keep the secrets there
        raise NotConfigured("PREFECT_API_URL is not set", "set it to the API of your Prefect server, or run `make up`")
    try:
        async with get_client() as client:
            existing = await _existing(client, plan.wanted)
            blocks = [compare(wanted, existing.get(wanted.name), overwrite=overwrite) for wanted in plan.wanted]
            count, registry = await asyncio.gather(_register(client, dry_run), _registry(dry_run))
            if not dry_run:
                await _save(client, plan.wanted, blocks, existing)
            imported = await import_grant(client, files.grant, again=overwrite, dry_run=dry_run)
    except httpx.TransportError:
        raise Unreachable(
            "Prefect's API does not answer", "start the stack with `make up`, or set PREFECT_API_URL"
        ) from None
    except PrefectHTTPStatusError as answer:
        code = answer.response.status_code
        cure = "set PREFECT_API_AUTH_STRING" if code in (401, 403) else "see the Prefect server's log"
        raise Unreachable(f"Prefect's API answers {code} to {answer.request.url.path}", cure) from None
    notes = [*plan.warnings, *misspelt(values), *imported, *plan.without(existing)]
    return Report(count, tuple(blocks), registry, tuple(notes), dry_run, time.monotonic() - started)


async def _existing(client: PrefectClient, wanted: Iterable[Wanted]) -> Existing:
    """The data (with secrets) of the blocks that are there, by name; one call for all of them."""
    kinds = {block.name: block.kind.get_block_type_slug() for block in wanted}
    names = sorted({*kinds, *WITHOUT})
    asked = {"include_secrets": True, "limit": 200, "block_documents": {"name": {"any_": names}}}
    answer = await client.request("POST", "/block_documents/filter", json=asked)
    found = answer.json()
    # A name is free again for each type: another type's block of the same name is not ours.
    return {
        document["name"]: document["data"]
        for document in found
        if kinds.get(document["name"], document["block_type"]["slug"]) == document["block_type"]["slug"]
    }


async def _register(client: PrefectClient, dry_run: bool) -> int:
    return len(ALL) if dry_run else await register_all(client)


async def _save(
    client: PrefectClient, wanted: Iterable[Wanted], blocks: Iterable[BlockDifference], existing: Existing
) -> None:
    """Write what is new or to be overwritten; one after the other, since SQLite has one writer."""
    for block, difference in zip(wanted, blocks, strict=True):
        if difference.outcome not in (Outcome.CREATED, Outcome.OVERWRITTEN):
            continue
        overwrite = difference.outcome is Outcome.OVERWRITTEN
        try:
            await merged(block, existing.get(block.name)).asave(block.name, overwrite=overwrite, client=client)
        except ValueError as failed:
            if not isinstance(failed.__cause__, ObjectAlreadyExists):
                raise
            raise Conflict(
                f"the block {block.name} was made by somebody else just now", "run again to compare"
            ) from None


async def _registry(dry_run: bool) -> str:
    """Migrate the registry; what it is now, in words."""
    url = make_url(await registry_url())
    where = "SQLite" if url.get_backend_name() == "sqlite" else f"PostgreSQL on {url.host}"
    if not dry_run:
        try:
            if where == "SQLite":
                installation().registry_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            await asyncio.to_thread(revision.upgrade, url.render_as_string(hide_password=False))
        except (OperationalError, OSError):
            raise Unreachable(
                f"the registry ({where}) cannot be opened",
                "see that the state folder can be written, or that the block registry is right and its server is up",
            ) from None
    return f"{where} at revision {revision.HEAD}" if not dry_run else where
